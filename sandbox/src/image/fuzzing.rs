//! What fuzz targets (`tests/fuzz`) call: everything here that reads what a stranger wrote. Each function takes any
//! bytes, ends, says whether they were taken, and panics only where a rule of ours is broken.

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
pub fn archive(bytes: &[u8]) -> bool {
    let Ok(content) = decompress(bytes) else { return false };
    let mut plain = Vec::new();
    if content.take(UNPACKED_BYTES_MAX).read_to_end(&mut plain).is_err() {
        return false;
    }
    let mut reader = Reader::new(plain.as_slice(), Limits::default().extension_bytes);
    let mut read = 0;
    while let Ok(Some(entry)) = reader.next() {
        let mut data = Vec::new();
        if reader.read_to_end(&mut data).is_err() {
            return false;
        }
        assert_eq!(data.len() as u64, entry.size, "an entry has another size than it says");
        read += data.len() + 512;
        assert!(read <= plain.len(), "more was read than the archive holds");
    }
    read > 0
}

/// Unpacks a layer into `dir`, an empty directory; nothing may appear beside it.
pub fn layer(bytes: &[u8], dir: &Path) -> bool {
    let Ok(content) = decompress(bytes) else { return false };
    let mut reader = Reader::new(content.take(UNPACKED_BYTES_MAX), Limits::default().extension_bytes);
    let usage = Root::open(dir).ok().and_then(|root| unpack(&mut reader, root, ENTRIES_MAX).ok());
    let inodes = usage.map_or(0, |usage| usage.inodes);
    assert!(inodes <= 64 * ENTRIES_MAX, "more was made than there are entries");
    inodes > 0
}

/// Reads an index or a manifest, and chooses from it.
pub fn document(bytes: &[u8]) -> bool {
    let parsed = Document::parse(bytes, &Limits::default());
    if let Ok(Document::Index(entries)) = &parsed
        && let Ok(chosen) = choose(entries, &Platform::here())
    {
        let name = chosen.digest.to_string();
        assert_eq!(name.parse::<Digest>().ok(), Some(chosen.digest), "a digest is not read as it is written");
    }
    parsed.is_ok() || parse_docker(bytes, &Limits::default()).is_ok()
}

/// Reads an image's config.
pub fn config(bytes: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok(config) = Config::parse(bytes, &limits) else { return false };
    assert!(config.diff_ids.len() <= limits.layers, "more layers than there may be");
    true
}

/// Reads an image's name: what is read is written as it is read.
pub fn reference(text: &str) -> bool {
    let Ok(reference) = text.parse::<Reference>() else { return false };
    let name = reference.to_string();
    assert_eq!(name.parse::<Reference>().as_ref(), Ok(&reference), "a complete name is read otherwise");
    assert!(!name.contains("/../") && !name.contains(['\0', '\n', ' ']), "a name that could be something else");
    true
}

/// Reads a registry's challenge.
pub fn challenge(header: &str) -> bool {
    let found = challenge::parse(header);
    assert!(found.len() <= header.len(), "more challenges than characters");
    !found.is_empty()
}
