//! Bounds on what an image may ask of the node.

use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of one store. Each is far above what real images need and far below what hurts a node.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Bytes of a manifest, an index or a config: registries take 4 MiB too.
    pub(super) document_bytes: u64,
    /// Layers of an image: as many as overlayfs stacks.
    pub(super) layers: usize,
    /// Indexes inside indexes.
    pub(super) index_depth: usize,
    /// Entries of a layer.
    pub(super) entries: u64,
    /// Bytes of one extended header of an archive.
    pub(super) extension_bytes: u64,
    /// A layer may unpack to so many times its size...
    pub(super) expansion: u64,
    /// ...plus these bytes, so that small layers of zeros pass.
    pub(super) expansion_bytes: u64,
    /// Bytes that all layers of an image, or all files of an archive of images, may take.
    pub(super) image_bytes: u64,
    /// Files in an archive of images.
    pub(super) archive_files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            document_bytes: 4 << 20,
            layers: 500,
            index_depth: 2,
            entries: 1_000_000,
            extension_bytes: 1 << 20,
            expansion: 100,
            expansion_bytes: 64 << 20,
            image_bytes: 64 << 30,
            archive_files: 10_000,
        }
    }
}

impl Limits {
    /// The bytes that a layer of `compressed` bytes may unpack to.
    pub(super) fn unpacked_bytes(&self, compressed: u64) -> u64 {
        compressed.saturating_mul(self.expansion).saturating_add(self.expansion_bytes)
    }
}

/// The bytes that the layers of one image may still take, while they are unpacked side by side.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
    /// What there was at first.
    pub(super) whole: u64,
}

impl Budget {
    /// A budget of `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        Budget { left: AtomicU64::new(bytes), whole: bytes }
    }

    /// Takes `bytes` of it; false if there are not so many left.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.is_ok()
    }
}
