//! Container logs: where they lie, reading them, and keeping them small.
//!
//! `<pod>/logs/<container>/<attempt>.log` is what the runtime writes, one CRI line a write. The agent renames a file
//! that has grown to `<attempt>.log.<time>` and asks the runtime to open a new one. A reader sees the files of one
//! attempt as one log.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use fs_err as fs;

pub mod fuzzing;
mod line;
mod read;
mod rotate;
mod tail;

pub(crate) use read::{LogOptions, LogReader};
pub(crate) use rotate::rotate_if_large;

/// The directory of all logs of a pod: CRI's `log_directory`.
pub(crate) fn directory(pod_dir: &Path) -> PathBuf {
    pod_dir.join("logs")
}

/// The directory of all logs of a container.
pub(crate) fn of_container(pod_dir: &Path, container: &str) -> PathBuf {
    directory(pod_dir).join(container)
}

/// The log of one run within [`directory`]: CRI's `log_path`.
pub(crate) fn relative_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// The log of one run.
pub(crate) fn path(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    directory(pod_dir).join(relative_path(container, attempt))
}

/// The runs of a container that have a log, oldest first.
pub(crate) fn attempts(pod_dir: &Path, container: &str) -> io::Result<Vec<u32>> {
    let mut attempts: Vec<u32> = names(&of_container(pod_dir, container))?
        .iter()
        .filter_map(|name| name.to_str()?.split_once(".log")?.0.parse().ok())
        .collect();
    attempts.sort_unstable();
    attempts.dedup();
    Ok(attempts)
}

/// Removes the logs of all runs of a container but the newest `keep`.
pub(crate) fn prune(pod_dir: &Path, container: &str, keep: usize) -> io::Result<()> {
    let attempts = attempts(pod_dir, container)?;
    let old = &attempts[..attempts.len().saturating_sub(keep)];
    for attempt in old {
        for file in files(&path(pod_dir, container, *attempt))? {
            remove_if_there(&file)?;
        }
    }
    Ok(())
}

/// The files of one run's log, oldest first: the rotated ones, and the one that is written, whether it exists or not.
fn files(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(OsStr::to_str)) else {
        return Ok(vec![log.to_owned()]);
    };
    let prefix = format!("{name}.");
    let names = names(directory)?;
    let mut rotated: Vec<_> = names.iter().filter_map(|n| n.to_str()).filter(|n| n.starts_with(&prefix)).collect();
    rotated.sort_unstable(); // the times have one width
    let rotated = rotated.into_iter().map(|name| directory.join(name));
    Ok(rotated.chain([log.to_owned()]).collect())
}

fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Opens a file of a log. Only a regular file with this one name is a log: what a link leads to is another's, and a pipe
/// or a device would block or never end.
fn open(path: &Path) -> io::Result<std::fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    // One that was removed since has no name.
    match metadata.is_file() && metadata.nlink() <= 1 {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is no log file", path.display()))),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
