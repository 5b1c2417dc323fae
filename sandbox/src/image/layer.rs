//! The unpacked layers: `layers/<diff id>`, each made once however many images share it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::digest::{Digest, HashingReader};
use super::limits::{Budget, Limits};
use super::root::Root;
use super::tar::{Reader, TarError};
use super::unpack::{UnpackError, Usage, unpack};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: [u8; 4] = [0xfd, b'7', b'z', b'X'];
const BZIP2_MAGIC: [u8; 3] = *b"BZh";
/// 128 MiB of window: what zstd itself asks no more than without `--ultra`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why a layer is not there.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It could not be unpacked.
    #[error("cannot unpack the layer {diff_id}")]
    Unpack {
        /// The layer's digest, as the image's config names it.
        diff_id: String,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// It is not what the image's config names.
    #[error("the layer {expected} is corrupt: its digest is {found}")]
    Digest {
        /// The digest in the config.
        expected: String,
        /// The digest of what was unpacked.
        found: String,
    },
    /// The store's own directory failed.
    #[error("cannot store the layer {diff_id}")]
    Store {
        /// The layer's digest.
        diff_id: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// All layers of one store.
pub(super) struct Layers {
    dir: PathBuf,
    temp: PathBuf,
    limits: Limits,
    state: Arc<Mutex<State>>,
    unpacked: Condvar,
}

#[derive(Default)]
struct State {
    /// How many images, containers and running pulls need a layer.
    holds: HashMap<Digest, usize>,
    /// Layers that are being unpacked.
    busy: HashSet<Digest>,
    usage: HashMap<Digest, Usage>,
}

/// Keeps layers on the disk for as long as it lives.
pub struct Hold {
    layers: Vec<Digest>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("layers", &self.layers).finish()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        for layer in &self.layers {
            if let Some(count) = state.holds.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.holds.remove(layer);
                }
            }
        }
    }
}

impl Layers {
    /// The layers below `dir`; unfinished ones are made below `temp`, on the same file system.
    pub(super) fn new(dir: PathBuf, temp: PathBuf, limits: Limits) -> Self {
        Layers { dir, temp, limits, state: Arc::default(), unpacked: Condvar::new() }
    }

    /// The directory of a layer.
    pub(super) fn path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join(diff_id.hex())
    }

    /// True if the layer is there, whole.
    pub(super) fn contains(&self, diff_id: &Digest) -> bool {
        self.path(diff_id).is_dir()
    }

    /// Keeps `layers` from being removed until the answer is dropped.
    pub(super) fn hold(&self, layers: impl IntoIterator<Item = Digest>) -> Hold {
        let layers: Vec<Digest> = layers.into_iter().collect();
        let mut state = self.state();
        for layer in &layers {
            *state.holds.entry(*layer).or_default() += 1;
        }
        Hold { layers, state: Arc::clone(&self.state) }
    }

    /// The layers that something holds.
    pub(super) fn held(&self) -> HashSet<Digest> {
        self.state().holds.keys().copied().collect()
    }

    /// What a layer takes, measured when it was unpacked.
    pub(super) fn usage(&self, diff_id: &Digest) -> Usage {
        self.state().usage.get(diff_id).copied().unwrap_or_default()
    }

    /// Notes what the index says of a layer.
    pub(super) fn note_usage(&self, diff_id: Digest, usage: Usage) {
        self.state().usage.insert(diff_id, usage);
    }

    /// Unpacks `blob` as the layer `diff_id`, unless it is there; waits while someone else does so.
    ///
    /// `budget` is that of the layer's image. The caller holds the layer. After a failure nothing of it is left.
    pub(super) fn ensure(&self, diff_id: &Digest, blob: &Path, budget: &Budget) -> Result<(), LayerError> {
        let _turn = self.wait_for_turn(diff_id);
        if self.contains(diff_id) {
            return Ok(());
        }
        let store = |source| LayerError::Store { diff_id: diff_id.to_string(), source };
        let scratch = Scratch::new(&self.temp, "layer-").map_err(store)?;
        let root = scratch.0.join("root");
        std::fs::DirBuilder::new().mode(0o755).create(&root).map_err(store)?;
        let usage = self.unpack_into(diff_id, blob, &root, budget)?;
        std::fs::rename(&root, self.path(diff_id)).map_err(store)?;
        self.note_usage(*diff_id, usage);
        Ok(())
    }

    /// Takes the layers that nobody holds and that are not in `needed` out of the store.
    pub(super) fn set_aside_unneeded(&self, needed: &HashSet<Digest>) -> io::Result<Trash> {
        let mut trash = Trash { dir: Scratch::new(&self.temp, "trash-")?, layers: 0 };
        let mut state = self.state(); // nobody may take a hold between the look and the move
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some(layer) = name.to_str().and_then(Digest::from_hex) else { continue };
            if !needed.contains(&layer) && !state.holds.contains_key(&layer) {
                std::fs::rename(self.dir.join(&name), trash.dir.0.join(&name))?;
                state.usage.remove(&layer);
                trash.layers += 1;
            }
        }
        Ok(trash)
    }

    fn unpack_into(&self, diff_id: &Digest, blob: &Path, root: &Path, budget: &Budget) -> Result<Usage, LayerError> {
        let unpack_error = |source| LayerError::Unpack { diff_id: diff_id.to_string(), source };
        let read_error = |error: io::Error| unpack_error(UnpackError::Tar(TarError::Read(error)));
        let file = File::open(blob).map_err(read_error)?;
        let size = file.metadata().map_err(read_error)?.len();
        let content = decompress(file).map_err(read_error)?;
        let hashing = HashingReader::new(content, self.limits.unpacked_bytes(size), budget);
        let mut archive = Reader::new(hashing, self.limits.extension_bytes);
        let root = Root::open(root).map_err(read_error)?;
        let usage = unpack(&mut archive, root, self.limits.entries).map_err(unpack_error)?;
        let (found, _) = archive.into_inner().finish().map_err(read_error)?;
        if found == *diff_id {
            Ok(usage)
        } else {
            Err(LayerError::Digest { expected: diff_id.to_string(), found: found.to_string() })
        }
    }

    fn wait_for_turn(&self, diff_id: &Digest) -> Turn<'_> {
        let mut state = self.state();
        while state.busy.contains(diff_id) {
            state = self.unpacked.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy.insert(*diff_id);
        Turn { layers: self, diff_id: *diff_id }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Layers that are no longer in the store, but still on the disk.
pub(super) struct Trash {
    dir: Scratch,
    layers: usize,
}

/// A directory for what an archive says. Dropped, it goes with all in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?.keep()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = podbus_common_tree::remove(&self.0); // else the next start does
    }
}

impl Trash {
    /// Removes them for good. Returns how many.
    pub(super) fn remove(self) -> io::Result<usize> {
        podbus_common_tree::remove(&self.dir.0)?;
        Ok(self.layers)
    }
}

/// The right to unpack one layer.
struct Turn<'a> {
    layers: &'a Layers,
    diff_id: Digest,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.layers.state().busy.remove(&self.diff_id);
        self.layers.unpacked.notify_all();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner) // counts and sets: complete after each statement
}

/// Reads `input` decompressed, by what its first bytes are and not by what someone calls it.
pub(super) fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = input;
    let mut magic = Vec::with_capacity(4);
    (&mut input).take(4).read_to_end(&mut magic)?;
    let is = |known: &[u8]| magic.starts_with(known);
    let unknown = |name: &str| {
        let text = format!("it is compressed with {name}, which podbus does not read: use gzip or zstd");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if is(&XZ_MAGIC) {
        return unknown("xz");
    }
    if is(&BZIP2_MAGIC) {
        return unknown("bzip2");
    }
    let (is_gzip, is_zstd) = (is(&GZIP_MAGIC), is(&ZSTD_MAGIC));
    let whole = io::Cursor::new(magic).chain(input);
    if is_gzip {
        return Ok(Box::new(flate2::read::MultiGzDecoder::new(whole)));
    }
    if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(BufReader::with_capacity(64 << 10, whole)))
}
