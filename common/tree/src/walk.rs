//! Measuring.

use std::collections::{HashSet, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::open_directory;

/// Directories that are kept open, the one that is read and those that it lies in.
const OPEN_MAX: usize = 64;
/// The tree's own place.
const TOP: usize = 0;

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    /// Of disk, and not of length.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// A walk through a tree that may change meanwhile: what vanishes is not counted, nor what cannot be read.
#[derive(Debug)]
pub struct Walk {
    top: OwnedFd,
    /// Device and inode of files with more than one name: they count once.
    linked: HashSet<(u64, u64)>,
    /// Directories to come and those that they lie in. Names and not paths, which would be long in a deep tree.
    places: Vec<Place>,
    to_come: Vec<usize>,
    /// Some of those that the last one lies in, and it.
    open: VecDeque<(usize, OwnedFd)>,
    holding: Holding,
}

#[derive(Debug)]
struct Place {
    parent: usize,
    name: CString,
}

impl Walk {
    /// A walk through the directory at `top`.
    pub fn new(top: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            top: rustix::fs::open(top, flags, Mode::empty())?,
            linked: HashSet::new(),
            places: vec![Place { parent: TOP, name: CString::from(c".") }],
            to_come: vec![TOP],
            open: VecDeque::new(),
            holding: Holding::default(),
        })
    }

    /// What was counted so far.
    pub fn holding(&self) -> Holding {
        self.holding
    }

    /// Walks on until all is counted, or `entries` more are; whether all is.
    pub fn advance(&mut self, entries: u64) -> bool {
        let until = self.holding.inodes.saturating_add(entries);
        while let Some(at) = self.to_come.pop() {
            self.places.truncate(at + 1); // those after it lay in what was walked since
            let _ = self.enter(at).and_then(|()| self.add(at)); // it vanished
            if self.holding.inodes >= until && !self.to_come.is_empty() {
                return false;
            }
        }
        true
    }

    fn enter(&mut self, at: usize) -> Result<(), Errno> {
        let parent = self.places[at].parent;
        while self.open.back().is_some_and(|(place, _)| *place != parent) {
            self.open.pop_back();
        }
        let directory = match self.open.back() {
            Some((_, parent)) if at != TOP => open_directory(parent.as_fd(), &self.places[at].name)?,
            _ => self.reopen(at)?,
        };
        if self.open.len() == OPEN_MAX {
            self.open.pop_front();
        }
        self.open.push_back((at, directory));
        Ok(())
    }

    /// Opens a directory from the top, name by name: the path may be too long for the kernel.
    fn reopen(&self, at: usize) -> Result<OwnedFd, Errno> {
        let mut names = Vec::new();
        let mut place = at;
        while place != TOP {
            names.push(&self.places[place].name);
            place = self.places[place].parent;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(&self.top, c".", flags, Mode::empty())?;
        names.into_iter().rev().try_fold(top, |directory, name| open_directory(directory.as_fd(), name))
    }

    fn add(&mut self, at: usize) -> Result<(), Errno> {
        let Some((_, directory)) = self.open.back() else { return Ok(()) };
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_nlink > 1 && !is_directory && !self.linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            self.holding.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            self.holding.inodes += 1;
            if is_directory {
                self.to_come.push(self.places.len());
                self.places.push(Place { parent: at, name: name.to_owned() });
            }
        }
        Ok(())
    }
}
