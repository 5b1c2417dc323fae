//! Writing below one directory, whatever an archive says: every path is resolved by the kernel with that directory as
//! the root, so neither `..` nor a link that the archive made leads out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A parent that an archive does not mention: as every unpacker makes it.
const PARENT_MODE: u32 = 0o755;
/// The kernel asks to try again when a rename elsewhere races with its check of `..`.
const RESOLVE_TRIES_MAX: usize = 100;

/// The directory, and the directory that was used last: archives list files of one directory together.
pub(super) struct Root {
    dir: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl Root {
    /// Opens `path`, which only we can write to.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let dir = rustix::fs::openat(CWD, path, directory_flags(), Mode::empty())?;
        Ok(Root { dir, last: None })
    }

    /// The root directory itself.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens the directory at `path`, and makes it and its parents where they are missing. Links are followed inside
    /// the root.
    pub(super) fn directory(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.dir.as_fd());
        }
        let is_last = self.last.as_ref().is_some_and(|(last, _)| last == path);
        let fd = match self.last.take() {
            Some((_, fd)) if is_last => fd,
            _ => match self.resolve(path) {
                Err(Errno::NOENT) => self.make_directories(path)?,
                other => other?,
            },
        };
        Ok(self.last.insert((path.to_vec(), fd)).1.as_fd())
    }

    /// Opens the directory at `path` if it is there.
    pub(super) fn existing_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.resolve(if path.is_empty() { b"." } else { path })?)
    }

    /// The type of what `name` in the directory at `path` is, without following a link.
    pub(super) fn kind(&mut self, path: &[u8], name: &[u8]) -> io::Result<Option<FileType>> {
        match rustix::fs::statat(self.directory(path)?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes `name` in the directory at `path`, with all below it.
    pub(super) fn remove(&mut self, path: &[u8], name: &[u8]) -> io::Result<()> {
        podbus_common_tree::remove_at(self.directory(path)?, name)?;
        self.last = None; // it may have been below what is gone
        Ok(())
    }

    fn resolve(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        for _ in 0..RESOLVE_TRIES_MAX {
            match rustix::fs::openat2(&self.dir, path, directory_flags(), Mode::empty(), inside) {
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    fn make_directories(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut parent = self.dir.try_clone()?;
        let mut end = 0;
        for component in path.split(|&byte| byte == b'/') {
            end += component.len();
            parent = match self.resolve(&path[..end]) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&parent, component, Mode::from(PARENT_MODE))?;
                    let made = self.resolve(&path[..end])?;
                    rustix::fs::fchmod(&made, Mode::from(PARENT_MODE))?; // whatever the umask
                    made
                }
                other => other?,
            };
            end += 1;
        }
        Ok(parent)
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}
