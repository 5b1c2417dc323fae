//! The state directory: who this node is, and that only one agent is it.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// The layout of the directory. A newer one is refused: this version might destroy what it does not know.
const VERSION: u32 = 1;

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    node_id: String,
    _lock: File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    #[error("another node agent uses the state directory {}: a node has one agent; stop it, or give this one its own --state-dir", path.display())]
    Locked { path: PathBuf },
    #[error("the state directory {} was written by a newer podbus (layout {found}, this one knows {VERSION}): use that version", path.display())]
    Newer { path: PathBuf, found: String },
    #[error("cannot use the state directory {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl StateDir {
    /// Opens or makes the directory, takes its lock and reads or makes the node's identity.
    pub(crate) fn open(path: &Path) -> Result<Self, StateDirError> {
        let failed = |source| StateDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = lock(path)?;
        check_version(path)?;
        let node_id = node_id(path).map_err(failed)?;
        fs::create_dir_all(path.join("pods")).map_err(failed)?;
        // Below it anybody may write to a volume: only through a container.
        fs::set_permissions(path.join("pods"), std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        Ok(Self { path, node_id, _lock: lock })
    }

    /// Absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Random, made once: who may be this node.
    pub(crate) fn node_id(&self) -> &str {
        &self.node_id
    }

    /// The log of the desired set.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("desired.log")
    }

    /// What belongs to one pod: logs, volumes, its hosts file.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The directories of pods, named by UID.
    pub(crate) fn pods(&self) -> PathBuf {
        self.path.join("pods")
    }

    /// The UIDs that have a directory.
    pub(crate) fn pod_dirs(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in fs::read_dir(self.pods())? {
            uids.extend(entry?.file_name().into_string());
        }
        Ok(uids)
    }
}

fn lock(path: &Path) -> Result<File, StateDirError> {
    let failed = |source| StateDirError::Io { path: path.to_owned(), source };
    let file =
        File::options().create(true).truncate(false).write(true).open(path.join("agent.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StateDirError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn check_version(path: &Path) -> Result<(), StateDirError> {
    let failed = |source| StateDirError::Io { path: path.to_owned(), source };
    let file = path.join("agent.version");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return fs::write(&file, format!("{VERSION}\n")).map_err(failed);
        }
        Err(error) => return Err(failed(error)),
    };
    match text.trim().parse::<u32>() {
        Ok(found) if found <= VERSION => Ok(()),
        _ => Err(StateDirError::Newer { path: path.to_owned(), found: text.trim().to_owned() }),
    }
}

fn node_id(path: &Path) -> io::Result<String> {
    let file = path.join("node-id");
    match fs::read_to_string(&file) {
        // An empty one was torn by a power cut before its first use.
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let id = uuid::Uuid::new_v4().to_string();
    let mut out = fs::File::create(&file)?;
    writeln!(out, "{id}")?;
    out.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_with_the_same_directory_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateDirError::Locked { .. })));
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }

    #[test]
    fn the_node_stays_the_same_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap().node_id().to_owned();
        assert_eq!(StateDir::open(dir.path()).unwrap().node_id(), first);
    }

    #[test]
    fn a_newer_layout_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.version"), "2\n").unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateDirError::Newer { .. })));
    }
}
