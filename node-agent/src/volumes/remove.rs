//! The end of a pod's directory: unmounted, then deleted by descriptor.
//!
//! What lies there was written by users. No link is followed, no mount is crossed, and neither a tree of any depth
//! nor a directory of any size costs more than a bounded number of descriptors and bytes.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, renameat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::mount_table;

/// Directories below this depth are moved up and deleted in a later round.
const DEPTH_MAX: usize = 32;
/// Names read from a directory at a time.
const NAMES_MAX: usize = 4096;

/// Unmounts and deletes the pod's directory. That it is gone already is fine.
///
/// Nothing of the pod may run any more.
pub(crate) fn teardown(pod_dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (pod_dir.parent(), pod_dir.file_name()) else {
        return Err(io::Error::other(format!("{} is no pod directory", pod_dir.display())));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent_fd = match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    let directory = match open_directory(parent_fd.as_fd(), &c_string(name)?) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    for point in mount_table::beneath(&fs_err::canonicalize(pod_dir)?)? {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    let mut removal = Removal { top: directory.as_fd(), moved: 0 };
    loop {
        let moved_before = removal.moved;
        removal.empty(directory.as_fd(), 0)?;
        if removal.moved == moved_before {
            break;
        }
    }
    unlinkat(&parent_fd, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

struct Removal<'a> {
    /// The pod's directory, where deep directories are moved to.
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
}

impl Removal<'_> {
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

/// Fails at a link (`ELOOP`) and at a mount (`EXDEV`).
fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), resolve)
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

fn is_directory(parent: BorrowedFd<'_>, name: &std::ffi::CStr, file_type: FileType) -> io::Result<bool> {
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

fn c_string(name: &std::ffi::OsStr) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt as _;
    Ok(CString::new(name.as_bytes())?)
}
