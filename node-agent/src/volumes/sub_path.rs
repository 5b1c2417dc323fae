//! subPath: resolved beneath its volume by the kernel, and pinned by a bind mount.
//!
//! A container can change its volume at any time. What was resolved is therefore held as a descriptor and mounted from
//! that, at a place that no container can reach; the runtime gets this place and has nothing left to resolve.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chmodat, fstat, mkdirat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};

use super::mount_table;

/// Where a resolved subPath is mounted.
pub(super) struct Target<'a> {
    pub(super) pod_dir: &'a Path,
    pub(super) volume: &'a str,
    pub(super) container: &'a str,
    /// Of the mount among the container's.
    pub(super) index: usize,
}

/// Resolves `path` inside the volume at `root`, making directories that are missing, and mounts it at the target.
pub(super) fn bind(root: &Path, path: &str, target: &Target<'_>) -> io::Result<PathBuf> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let source = open_or_make(root.as_fd(), Path::new(path))
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let place = target.path();
    if mount_table::is_mount_point(&place)? {
        if same_file(source.as_fd(), &place)? {
            return Ok(place);
        }
        // Somebody replaced what was there; containers that run keep what they have.
        unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    make_place(source.as_fd(), &place)?;
    mount_bind_recursive(format!("/proc/self/fd/{}", source.as_raw_fd()), &place)?;
    Ok(place)
}

impl Target<'_> {
    fn path(&self) -> PathBuf {
        let name = format!("{}-{}", self.container, self.index);
        self.pod_dir.join("volume-subpaths").join(self.volume).join(name)
    }
}

/// Links are followed as long as they stay inside the volume.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

fn open_or_make(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let open = |path: &Path| openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH);
    match open(path) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let mode = Mode::from_raw_mode(fstat(root)?.st_mode) & Mode::from_raw_mode(0o777);
    let mut reached = PathBuf::from(".");
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => return Err(io::Error::other("it must be relative and without ..")),
        };
        let parent = open(&reached)?;
        match mkdirat(&parent, name, mode) {
            // The umask took some; without following a link, should it have been replaced already.
            Ok(()) => restore_mode(parent.as_fd(), Path::new(name), mode)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        reached.push(name);
    }
    Ok(open(path)?)
}

fn restore_mode(parent: BorrowedFd<'_>, name: &Path, mode: Mode) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat2(parent, name, flags, Mode::empty(), BENEATH | ResolveFlags::NO_SYMLINKS)?;
    rustix::fs::fchmod(made, mode)?;
    Ok(())
}

fn same_file(source: BorrowedFd<'_>, place: &Path) -> io::Result<bool> {
    let (a, b) = (fstat(source)?, statat(CWD, place, AtFlags::SYMLINK_NOFOLLOW)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// A directory is mounted on a directory, anything else on a file.
fn make_place(source: BorrowedFd<'_>, place: &Path) -> io::Result<()> {
    let subpaths = place.ancestors().nth(2).unwrap_or(place);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    chmodat(CWD, subpaths, Mode::RWXU, AtFlags::empty())?;
    let wants_directory = FileType::from_raw_mode(fstat(source)?.st_mode) == FileType::Directory;
    let is_directory = fs::symlink_metadata(place).map(|m| m.is_dir()).ok();
    match (is_directory, wants_directory) {
        (Some(true), false) => fs::remove_dir(place)?,
        (Some(false), true) => fs::remove_file(place)?,
        _ => {}
    }
    match wants_directory {
        true => fs::create_dir_all(place),
        false => fs::OpenOptions::new().create(true).append(true).open(place).map(drop),
    }
}
