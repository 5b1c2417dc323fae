//! A blob on its way: what has come of it, and the digest of that.

use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::digest::{Digest, Hasher};
use super::registry::Progress;

/// A blob that may be whole or not.
pub(super) struct Download {
    place: Place,
    hasher: Hasher,
}

enum Place {
    Memory(Vec<u8>),
    /// Gone with the value.
    File(NamedTempFile, Arc<Progress>),
}

impl Download {
    /// For a small blob.
    pub(super) fn to_memory() -> Self {
        Download { place: Place::Memory(Vec::new()), hasher: Hasher::new() }
    }

    /// Into a file below `temp`, its bytes counted as progress.
    pub(super) fn to_file(temp: &Path, progress: Arc<Progress>) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix("blob-").tempfile_in(temp)?;
        Ok(Download { place: Place::File(file, progress), hasher: Hasher::new() })
    }

    /// How much has come.
    pub(super) fn bytes(&self) -> u64 {
        self.hasher.bytes()
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, chunk: &[u8]) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(bytes) => bytes.extend_from_slice(chunk),
            Place::File(file, progress) => {
                file.write_all(chunk)?;
                progress.add(chunk.len() as u64);
            }
        }
        self.hasher.update(chunk);
        Ok(())
    }

    /// Forgets what has come.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(bytes) => bytes.clear(),
            Place::File(file, progress) => {
                progress.take_back(self.hasher.bytes());
                file.as_file().set_len(0)?;
                file.rewind()?;
            }
        }
        self.hasher = Hasher::new();
        Ok(())
    }

    /// The digest of what has come.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Where it is; nowhere if it is in memory.
    pub(super) fn path(&self) -> &Path {
        match &self.place {
            Place::Memory(_) => Path::new(""),
            Place::File(file, _) => file.path(),
        }
    }

    /// What has come into memory.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self.place {
            Place::Memory(bytes) => bytes,
            Place::File(..) => Vec::new(),
        }
    }
}
