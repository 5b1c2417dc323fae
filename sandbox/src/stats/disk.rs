//! How much a writable layer holds. Walking it takes as long as there are files: a large one is walked in the
//! background, and a request gets what the last walk found.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::runtime::lock;

/// How old a figure may be before it is measured again: as containerd has it.
const AGE_MAX: Duration = Duration::from_secs(10);
/// What a request walks itself: some milliseconds. An image's writable layer is seldom larger.
const ENTRIES_AT_ONCE: u64 = 2000;
/// Walks in the background at a time, of all containers: they take the disk from the containers themselves.
static WALKS: Semaphore = Semaphore::const_new(2);

/// What a directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The last figure of one directory.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    holding: Option<Holding>,
    at: Option<Instant>,
    is_walking: bool,
}

impl Meter {
    /// What `dir` held at the last walk; `None` until the first one of a large directory has ended.
    pub(crate) fn read(self: &Arc<Self>, dir: &Path) -> Option<Holding> {
        {
            let mut last = lock(&self.last);
            let is_fresh = last.at.is_some_and(|at| at.elapsed() < AGE_MAX);
            if is_fresh || last.is_walking {
                return last.holding;
            }
            last.is_walking = true;
        }
        let mut walk = Walk::new(dir);
        if walk.advance(ENTRIES_AT_ONCE) {
            self.ended(walk.holding);
        } else {
            self.walk_on(walk);
        }
        lock(&self.last).holding
    }

    /// Without a free turn the figure stays as it was, and the next request tries again.
    fn walk_on(self: &Arc<Self>, mut walk: Walk) {
        let Ok(turn) = WALKS.try_acquire() else {
            lock(&self.last).is_walking = false;
            return;
        };
        let meter = Arc::clone(self);
        std::thread::spawn(move || {
            let _turn = turn;
            walk.advance(u64::MAX);
            meter.ended(walk.holding);
        });
    }

    fn ended(&self, holding: Holding) {
        *lock(&self.last) = Last { holding: Some(holding), at: Some(Instant::now()), is_walking: false };
    }
}

/// A walk that follows no link and leaves no file system: what is walked is written by a container meanwhile.
struct Walk {
    root: Option<rustix::fd::OwnedFd>,
    /// Device and inode of files with more than one name: they count once.
    linked: HashSet<(u64, u64)>,
    directories: Vec<PathBuf>,
    holding: Holding,
}

impl Walk {
    fn new(root: &Path) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).ok(); // one that is not there holds nothing
        Self { root, linked: HashSet::new(), directories: vec![PathBuf::from(".")], holding: Holding::default() }
    }

    /// Walks on until all is counted, or `entries` more are; whether all is.
    fn advance(&mut self, entries: u64) -> bool {
        let until = self.holding.inodes.saturating_add(entries);
        let Some(root) = self.root.take() else { return true };
        while let Some(directory) = self.directories.pop() {
            // What vanished, or lies deeper than a path can tell, is not counted.
            let _ = self.add(root.as_fd(), &directory);
            if self.holding.inodes >= until && !self.directories.is_empty() {
                self.root = Some(root);
                return false;
            }
        }
        true
    }

    fn add(&mut self, root: BorrowedFd<'_>, path: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = openat2(root, path, flags, Mode::empty(), resolve)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_nlink > 1 && !is_directory && !self.linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            self.holding.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            self.holding.inodes += 1;
            if is_directory {
                use std::os::unix::ffi::OsStrExt as _;
                self.directories.push(path.join(std::ffi::OsStr::from_bytes(name.to_bytes())));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1; 64 << 10]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let held = Arc::new(Meter::default()).read(dir.path()).unwrap();
        assert_eq!(held.inodes, 3);
        assert!((64 << 10..128 << 10).contains(&held.bytes), "{held:?}");
        assert_eq!(Arc::new(Meter::default()).read(&dir.path().join("none")), Some(Holding::default()));
    }

    #[test]
    fn a_walk_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..10 {
            std::fs::create_dir(dir.path().join(n.to_string())).unwrap();
            std::fs::write(dir.path().join(n.to_string()).join("f"), "x").unwrap();
        }
        let mut walk = Walk::new(dir.path());
        assert!(!walk.advance(5));
        assert!(walk.advance(u64::MAX));
        assert_eq!(walk.holding.inodes, 20);
    }
}
