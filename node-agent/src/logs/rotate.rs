//! Rotation: a file that has grown is renamed, the runtime opens a new one, the oldest goes.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::{files, remove_if_there};

/// A log file is rotated beyond this size.
const BYTES_MAX: u64 = 10 << 20;
/// Files of one run that are kept, with the one that is written.
const FILES_MAX: usize = 5;

/// A file that was renamed: the runtime must reopen its log now, or the renaming be undone.
#[derive(Debug)]
#[must_use = "the runtime still writes to the renamed file"]
pub(crate) struct Rotated {
    log: PathBuf,
    renamed: PathBuf,
}

impl Rotated {
    /// The runtime could not reopen: the file gets its name back, so that the next look tries again.
    pub(crate) fn undo(self) -> io::Result<()> {
        match fs::exists(&self.log)? {
            // It was reopened after all.
            true => Ok(()),
            false => fs::rename(&self.renamed, &self.log),
        }
    }
}

/// Renames the log when it has grown beyond [`BYTES_MAX`] and removes what is too old.
pub(crate) fn rotate_if_large(log: &Path, now: jiff::Timestamp) -> io::Result<Option<Rotated>> {
    rotate_above(log, BYTES_MAX, FILES_MAX, now)
}

pub(super) fn rotate_above(
    log: &Path,
    bytes_max: u64,
    files_max: usize,
    now: jiff::Timestamp,
) -> io::Result<Option<Rotated>> {
    let size = match fs::metadata(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?.len(),
    };
    if size <= bytes_max {
        return Ok(None);
    }
    let files = files(log)?; // the last is the one that is written, and becomes one of the kept
    for old in &files[..files.len().saturating_sub(files_max.max(2) - 1)] {
        if old != log {
            remove_if_there(old)?;
        }
    }
    let renamed = PathBuf::from(format!("{}.{}", log.display(), now.strftime("%Y%m%d-%H%M%S%3f")));
    fs::rename(log, &renamed)?;
    Ok(Some(Rotated { log: log.to_owned(), renamed }))
}
