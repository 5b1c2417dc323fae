//! Removing.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, renameat, unlinkat};
use rustix::io::Errno;

use crate::open_directory;

/// Directories below this depth are moved up and deleted in a later round.
const DEPTH_MAX: usize = 32;
/// Names read from a directory at a time.
const NAMES_MAX: usize = 4096;

/// Removes `path` with all that lies beneath it. That it is gone already is fine.
///
/// Nothing may write there any more.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other(format!("{} lies in no directory", path.display())));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        parent => remove_at(parent?.as_fd(), name.as_bytes()),
    }
}

/// As [`remove`], of a name in an open directory.
pub fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    match unlinkat(parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = open_directory(parent, &name)?;
    let mut removal = Removal { top: directory.as_fd(), moved: 0 };
    loop {
        let moved_before = removal.moved;
        removal.empty(directory.as_fd(), 0)?;
        if removal.moved == moved_before {
            break;
        }
    }
    unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    Ok(())
}

struct Removal<'a> {
    /// What is removed. Deep directories are moved up to here.
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        loop {
            let names = names(directory)?;
            if names.is_empty() {
                return Ok(());
            }
            let moved_before = self.moved;
            for (name, is_directory) in &names {
                self.remove(directory, name, *is_directory, depth)?;
            }
            // What was moved here in this round is for the next one.
            if depth == 0 && self.moved != moved_before {
                return Ok(());
            }
        }
    }

    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CString, is_directory: bool, depth: usize) -> io::Result<()> {
        if !is_directory {
            match unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if depth >= DEPTH_MAX {
            return self.move_up(parent, name);
        }
        let child = open_directory(parent, name)?;
        self.empty(child.as_fd(), depth + 1)?;
        unlinkat(parent, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        loop {
            self.moved += 1;
            match renameat(parent, name, self.top, format!(".podbus-removing-{}", self.moved)) {
                Ok(()) => return Ok(()),
                // Left by a removal that was cut short.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Some of the names in a directory, and which are directories for certain.
fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)?.take(NAMES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), is_directory(directory, name, entry.file_type())?));
        }
    }
    Ok(names)
}

fn is_directory(parent: BorrowedFd<'_>, name: &CStr, file_type: FileType) -> io::Result<bool> {
    match file_type {
        // Some file systems do not say.
        FileType::Unknown => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let stat = fstat(rustix::fs::openat(parent, name, flags, Mode::empty())?)?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        }
        known => Ok(known == FileType::Directory),
    }
}
