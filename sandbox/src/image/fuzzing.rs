//! What fuzz targets call: everything here that reads what a stranger wrote. Each function takes any bytes, ends, and
//! panics only where a rule of ours is broken.

use std::io::Read as _;
use std::path::Path;

use super::challenge;
use super::digest::Digest;
use super::layer::decompress;
use super::limits::Limits;
use super::manifest::{Config, Document, Platform, choose, parse_docker};
use super::reference::Reference;
use super::root::Root;
use super::tar::Reader;
use super::unpack::unpack;

/// What one input may unpack to: enough to find faults, and not to fill a disk.
const UNPACKED_BYTES_MAX: u64 = 1 << 20;
const ENTRIES_MAX: u64 = 1000;

/// Reads a tar archive, packed or not. No more comes out of it than is in it.
pub fn archive(bytes: &[u8]) {
    let Ok(content) = decompress(bytes) else { return };
    let mut plain = Vec::new();
    if content.take(UNPACKED_BYTES_MAX).read_to_end(&mut plain).is_err() {
        return;
    }
    let mut reader = Reader::new(plain.as_slice(), Limits::default().extension_bytes);
    let mut read = 0;
    while let Ok(Some(entry)) = reader.next() {
        let mut data = Vec::new();
        if reader.read_to_end(&mut data).is_err() {
            return;
        }
        assert_eq!(data.len() as u64, entry.size, "an entry has another size than it says");
        read += data.len() + 512;
        assert!(read <= plain.len(), "more was read than the archive holds");
    }
}

/// Unpacks a layer into `dir`, an empty directory; nothing may appear beside it.
pub fn layer(bytes: &[u8], dir: &Path) {
    let Ok(content) = decompress(bytes) else { return };
    let mut reader = Reader::new(content.take(UNPACKED_BYTES_MAX), Limits::default().extension_bytes);
    if let Ok(root) = Root::open(dir)
        && let Ok(usage) = unpack(&mut reader, root, ENTRIES_MAX)
    {
        assert!(usage.inodes <= 64 * ENTRIES_MAX, "more was made than there are entries");
    }
}

/// Reads an index or a manifest, and chooses from it.
pub fn document(bytes: &[u8]) {
    if let Ok(Document::Index(entries)) = Document::parse(bytes, &Limits::default())
        && let Ok(chosen) = choose(&entries, &Platform::here())
    {
        let name = chosen.digest.to_string();
        assert_eq!(name.parse::<Digest>().ok(), Some(chosen.digest), "a digest is not read as it is written");
    }
    let _ = parse_docker(bytes, &Limits::default());
}

/// Reads an image's config.
pub fn config(bytes: &[u8]) {
    let limits = Limits::default();
    if let Ok(config) = Config::parse(bytes, &limits) {
        assert!(config.diff_ids.len() <= limits.layers, "more layers than there may be");
    }
}

/// Reads an image's name: what is read is written as it is read.
pub fn reference(text: &str) {
    if let Ok(reference) = text.parse::<Reference>() {
        let name = reference.to_string();
        assert_eq!(name.parse::<Reference>().as_ref(), Ok(&reference), "a complete name is read otherwise");
        assert!(!name.contains("/../") && !name.contains(['\0', '\n', ' ']), "a name that could be something else");
    }
}

/// Reads a registry's challenge.
pub fn challenge(header: &str) {
    let found = challenge::parse(header);
    assert!(found.len() <= header.len(), "more challenges than characters");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that is nearly JSON of an image's documents.
    fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
        let words = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "2",
            "-1",
            "1e400",
            "null",
            "\"schemaVersion\"",
            "\"manifests\"",
            "\"layers\"",
            "\"config\"",
            "\"digest\"",
            "\"size\"",
            "\"platform\"",
            "\"rootfs\"",
            "\"diff_ids\"",
            "\"sha256:00\"",
        ];
        proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40)
            .prop_map(|it| it.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            archive(&bytes);
            document(&bytes);
            config(&bytes);
            reference(&String::from_utf8_lossy(&bytes));
            challenge(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn nearly_a_document_is_read_or_refused(bytes in nearly_json()) {
            document(&bytes);
            config(&bytes);
        }

        #[test]
        fn nearly_a_layer_writes_nothing_beside_its_directory(
            changes in proptest::collection::vec((0_usize..3072, any::<u8>()), 0..6),
            names in proptest::collection::vec("[a./]{0,6}|\\.wh\\.[a.]{0,3}", 6),
        ) {
            let place = tempfile::tempdir().unwrap();
            let dir = place.path().join("layer");
            std::fs::create_dir(&dir).unwrap();
            let mut bytes = Vec::new();
            for (name, kind) in names.iter().zip(*b"021536") {
                bytes.extend(block(name, kind, &names[0]));
            }
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            layer(&bytes, &dir);
            prop_assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
        }
    }

    /// A header of tar without data.
    fn block(name: &str, kind: u8, link: &str) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000755");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}
