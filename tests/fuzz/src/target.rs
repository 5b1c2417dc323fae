//! The targets: who reads strangers' bytes, what these look like, and what must hold for any bytes.

use std::fs;

use podbus_common::image_name::ImageName;
use podbus_common_spdy as spdy;
use podbus_sandbox::image::fuzzing as image;
use podbus_sandbox_linux::message::{self, Message};
use podbus_sandbox_linux::plan::Plan;
use podbus_sandbox_linux::slot::{SLOT_BYTES, Slot, crc32};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::{mutate, sample};

/// One reader under test.
pub struct Target {
    /// By which it is chosen.
    pub name: &'static str,
    samples: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
    /// Renews checksums, behind which nothing would be reached otherwise.
    mend: fn(&mut [u8]),
    /// Says whether the reader took it.
    check: fn(&[u8]) -> bool,
}

impl Target {
    /// The input of a seed.
    pub fn input(&self, seed: u64) -> Vec<u8> {
        let mut input = mutate::input(&mut StdRng::seed_from_u64(seed), &self.samples, self.words);
        (self.mend)(&mut input);
        input
    }

    /// Feeds the input of a seed to the reader; says whether it was taken.
    ///
    /// # Panics
    /// When a rule of the reader's is broken.
    pub fn feed(&self, seed: u64) -> bool {
        (self.check)(&self.input(seed))
    }
}

/// All of them.
pub fn all() -> Vec<Target> {
    let target = |name, samples, words, check| Target { name, samples, words, mend: |_| (), check };
    vec![
        Target { mend: mend_headers, ..target("archive", sample::archives(), sample::ARCHIVE_WORDS, image::archive) },
        Target { mend: mend_headers, ..target("layer", sample::archives(), sample::ARCHIVE_WORDS, layer) },
        target("document", sample::documents(), sample::IMAGE_WORDS, image::document),
        target("config", sample::configs(), sample::IMAGE_WORDS, image::config),
        target("reference", sample::references(), sample::REFERENCE_WORDS, reference),
        target("challenge", sample::challenges(), sample::CHALLENGE_WORDS, |bytes| {
            image::challenge(&String::from_utf8_lossy(bytes))
        }),
        target("spdy", sample::spdy_frames(), sample::SPDY_WORDS, spdy::fuzz),
        target("log", sample::logs(), sample::LOG_WORDS, log),
        target("message", sample::messages(), &[], message),
        target("plan", sample::plans(), &[], plan),
        Target { mend: mend_slot, ..target("slot", sample::slots(), &[], slot) },
        target("manifest", sample::manifests(), sample::MANIFEST_WORDS, manifest),
    ]
}

/// A layer of an image: nothing appears beside its directory.
fn layer(bytes: &[u8]) -> bool {
    let place = tempfile::tempdir().expect("a directory for the layer");
    let dir = place.path().join("layer");
    fs::create_dir(&dir).expect("a directory in a new directory");
    let taken = image::layer(bytes, &dir);
    let beside = fs::read_dir(place.path()).expect("the directory is there still").count();
    assert_eq!(beside, 1, "something was written beside the layer");
    taken
}

/// The name of an image, as the sandbox reads it and as manifests do.
fn reference(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = ImageName::parse(&text) {
        assert_eq!(ImageName::parse(&name.to_string()), Ok(name), "a complete name is read otherwise");
    }
    image::reference(&text)
}

/// A container's log.
fn log(bytes: &[u8]) -> bool {
    let file = tempfile::NamedTempFile::new().expect("a file for the log");
    fs::write(&file, bytes).expect("the log can be written");
    podbus_node_agent::fuzzing::log(file.path()).expect("a log that is there can be read")
}

/// A message between daemon and shim: what was read is written as it was.
fn message(packet: &[u8]) -> bool {
    let packet = &packet[..packet.len().min(message::BYTES_MAX)];
    let Some(message) = Message::decode(packet) else { return false };
    let mut buffer = [0; message::BYTES_MAX];
    let length = message.encode(&mut buffer);
    assert_eq!(buffer[..28], packet[..28], "another header");
    assert_eq!(buffer[32..length], packet[32..length], "another text");
    true
}

/// A plan for the shim, in all ways in which its fields are read.
fn plan(bytes: &[u8]) -> bool {
    let mut read = 0;
    for field in Plan::new(bytes) {
        read += 8 + field.bytes().len() + 1;
        assert!(read <= bytes.len(), "more fields than bytes");
        let text_bytes = field.cstr().map(|text| text.to_bytes().len());
        assert!(text_bytes.is_err() || text_bytes == Ok(field.bytes().len()), "a text that ends early");
        for skipped in [0, 1, 8, usize::MAX] {
            assert!(field.cstr_after(skipped).map_or(0, |text| text.to_bytes().len()) <= field.bytes().len());
        }
        assert_eq!(field.small().ok().map(u64::from), field.number().ok().filter(|it| *it <= u32::MAX.into()));
        let _ = (field.index(), field.device(), field.mount());
    }
    read > 0
}

/// A slot of a record: what was read is written as it was.
fn slot(bytes: &[u8]) -> bool {
    let Some(slot) = Slot::decode(bytes) else { return false };
    assert_eq!(Slot::decode(&slot.encode()), Some(slot), "another slot");
    true
}

/// A manifest.
fn manifest(bytes: &[u8]) -> bool {
    match podbus_common::manifest::parse_bytes("pod.yaml", bytes) {
        Ok(_) => true,
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            false
        }
    }
}

/// The checksum of each header of tar: the sum of its bytes, its own place taken for blanks.
fn mend_headers(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn mend_slot(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.get_mut(..SLOT_BYTES).and_then(|slot| slot.split_last_chunk_mut::<4>()) {
        *crc = crc32(body).to_le_bytes();
    }
}
