//! Trees of files that strangers wrote: measured and removed by descriptor.
//!
//! No link is followed and no mount is crossed. A tree may be deeper than a path can say, and a directory may have any
//! number of names: neither costs more than a bounded number of descriptors and a bounded part of the stack.

mod remove;
mod walk;

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

pub use remove::{remove, remove_at};
pub use walk::{Holding, Walk};

/// Fails at a link (`ELOOP`) and at a mount (`EXDEV`).
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests;
