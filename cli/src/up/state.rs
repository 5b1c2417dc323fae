//! The state directory: whose it is, which version wrote it, and what is settled for the cluster's whole life.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use fs_err as fs;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::failure::{Failure, Outcome};

/// The version of the state directory's shape that this podbus reads and writes.
const STATE_VERSION: u32 = 1;
/// What the bus, logs and a small image on each of a few nodes take.
const FREE_MIB_MIN: u64 = 64;
/// Members may read the token.
const GROUP: &str = "podbus";

/// What is kept between two runs of `podbus up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    /// How many nodes there are.
    pub(crate) nodes: u16,
    /// How many schedulers there are.
    #[serde(default = "one")]
    pub(crate) schedulers: u16,
    /// The range of all pods.
    pub(crate) pod_cidr: Ipv4Net,
    /// The bus's port, when it is ours.
    pub(crate) port: Option<u16>,
}

/// What a podbus before them had.
fn one() -> u16 {
    1
}

/// Refuses a directory that is not ours, or that a newer podbus wrote. Changes nothing.
pub(crate) fn check(layout: &Layout) -> Outcome {
    let dir = &layout.state_dir;
    match fs::read_to_string(layout.file("version")) {
        Ok(text) => check_version(&text, dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let empty = std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
            if empty {
                return Ok(());
            }
            Err(Failure::local(format!("{} is not empty and no state directory of podbus", dir.display()))
                .because("podbus removes its state directory on `podbus down`")
                .hint("give a directory of its own with --state-dir"))
        }
        Err(error) => Err(Failure::local("cannot read the state directory").because(error)),
    }
}

fn check_version(text: &str, dir: &Path) -> Outcome {
    match text.trim().parse::<u32>() {
        Ok(version) if version <= STATE_VERSION => Ok(()),
        Ok(version) => Err(Failure::local(format!(
            "{} has version {version}, written by a newer podbus; this one knows up to {STATE_VERSION}",
            dir.display()
        ))
        .hint("use the newer podbus, or another --state-dir")),
        Err(_) => Err(Failure::local(format!(
            "{} says {:?}, which is no version",
            dir.join("version").display(),
            text.trim()
        ))
        .hint("give another directory with --state-dir")),
    }
}

/// Refuses a disk on which not even a small image would find room: half a start is worse than none.
pub(crate) fn check_space(layout: &Layout) -> Outcome {
    let existing = layout.state_dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let free_mib = free_mib(existing)?;
    if free_mib >= FREE_MIB_MIN {
        return Ok(());
    }
    Err(Failure::local(format!("{} has {free_mib} MiB left, and a cluster needs {FREE_MIB_MIN}", existing.display()))
        .hint("free some space, or keep the state elsewhere with --state-dir"))
}

/// What the file system of `path` has left, in MiB.
pub(crate) fn free_mib(path: &Path) -> io::Result<u64> {
    let space = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
    Ok(space.blocks_available().saturating_mul(space.fragment_size()) >> 20)
}

/// Whether there is state of podbus.
pub(crate) fn exists(layout: &Layout) -> bool {
    layout.file("version").exists()
}

/// Makes the directory and writes its version.
pub(crate) fn create(layout: &Layout) -> io::Result<()> {
    fs::create_dir_all(&layout.state_dir)?;
    // Others may pass through, as the token's file has a group of its own; nothing else in it is for them.
    fs::set_permissions(&layout.state_dir, Permissions::from_mode(0o711))?;
    replace(&layout.file("version"), format!("{STATE_VERSION}\n").as_bytes(), 0o644)
}

/// Takes the state directory for this process; `None` when another holds it.
pub(crate) fn lock(layout: &Layout) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(layout.file("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a process holds the state directory.
pub(crate) fn is_held(layout: &Layout) -> bool {
    File::open(layout.file("lock")).is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
}

/// What a run before settled, if there was one.
pub(crate) fn read_settings(layout: &Layout) -> Outcome<Option<Settings>> {
    let path = layout.file("cluster.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Failure::local(format!("{} is damaged", path.display())).because(error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Keeps `settings` for the next run.
pub(crate) fn write_settings(layout: &Layout, settings: &Settings) -> io::Result<()> {
    replace(&layout.file("cluster.json"), &serde_json::to_vec_pretty(settings)?, 0o644)
}

/// The token of the cluster's own bus: made once, then kept.
pub(crate) fn ensure_token(layout: &Layout) -> io::Result<String> {
    let path = layout.file("token");
    let token = match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => new_token(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_token(),
        Err(error) => return Err(error),
    };
    write_secret(&path, format!("{token}\n").as_bytes())?;
    Ok(token)
}

fn new_token() -> String {
    rand::random::<[u8; 24]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes what only root and the group `podbus`, where there is one, may read.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    let group = fs::read_to_string("/etc/group").ok().and_then(|text| group_id(&text, GROUP));
    replace(path, content, 0o600)?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))?;
        fs::set_permissions(path, Permissions::from_mode(0o640))?;
    }
    Ok(())
}

/// Read from the file itself: the C library would load plugins for it, which a static program cannot.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Writes a file whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let _ = fs::remove_file(&new); // of a run that was killed here
    let write = || {
        File::options().create_new(true).write(true).mode(mode).open(&new)?.write_all(content)?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error: io::Error| {
        let _ = fs::remove_file(&new);
        io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> (tempfile::TempDir, Layout) {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("state")).unwrap();
        (directory, layout)
    }

    #[test]
    fn an_older_or_equal_version_is_taken_and_a_newer_is_refused() {
        let (_directory, layout) = layout();
        assert!(check(&layout).is_ok(), "nothing there yet");
        create(&layout).unwrap();
        assert!(check(&layout).is_ok());
        fs::write(layout.file("version"), "999\n").unwrap();
        let text = check(&layout).unwrap_err().text();
        assert!(text.contains("999") && text.contains("newer"), "{text}");
    }

    #[test]
    fn a_directory_with_files_of_others_is_refused() {
        let (_directory, layout) = layout();
        fs::create_dir(&layout.state_dir).unwrap();
        fs::write(layout.file("letter.txt"), "dear").unwrap();
        assert!(check(&layout).is_err());
    }

    #[test]
    fn the_token_is_made_once_and_others_cannot_read_it() {
        let (_directory, layout) = layout();
        create(&layout).unwrap();
        let token = ensure_token(&layout).unwrap();
        assert_eq!(token.len(), 48);
        assert_eq!(ensure_token(&layout).unwrap(), token);
        assert_eq!(fs::metadata(layout.file("token")).unwrap().permissions().mode() & 0o007, 0);
    }

    #[test]
    fn settings_read_back_as_they_were_written() {
        let (_directory, layout) = layout();
        create(&layout).unwrap();
        assert_eq!(read_settings(&layout).unwrap(), None);
        let settings =
            Settings { nodes: 3, schedulers: 2, pod_cidr: "10.71.0.0/16".parse().unwrap(), port: Some(4222) };
        write_settings(&layout, &settings).unwrap();
        assert_eq!(read_settings(&layout).unwrap(), Some(settings));
    }

    #[test]
    fn a_directory_has_one_holder() {
        let (_directory, layout) = layout();
        create(&layout).unwrap();
        let held = lock(&layout).unwrap();
        assert!(held.is_some() && is_held(&layout));
        assert!(lock(&layout).unwrap().is_none());
        drop(held);
        assert!(!is_held(&layout));
    }

    #[test]
    fn a_groups_number_is_read_by_its_whole_name() {
        let groups = "root:x:0:\npodbusx:x:7:\npodbus:x:990:ann,bob\n";
        assert_eq!(group_id(groups, "podbus"), Some(990));
        assert_eq!(group_id(groups, "pod"), None);
    }
}
