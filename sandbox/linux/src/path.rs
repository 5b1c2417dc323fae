//! Paths inside a root that nobody trusts: resolved by the kernel, beneath the root, made where missing.

use core::ffi::CStr;

use crate::file::{self, RESOLVE_IN_ROOT};
use crate::{Errno, Fd, Result};

/// The longest path that the kernel takes, with its NUL.
pub const PATH_BYTES_MAX: usize = 4096;

/// What to make at the end of a path that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A directory, 0755.
    Directory,
    /// An empty file, 0644.
    File,
}

/// A path in a buffer of its own, cut anywhere.
struct Buffer {
    bytes: [u8; PATH_BYTES_MAX],
}

impl Buffer {
    fn cstr(&mut self, text: &[u8]) -> Result<&CStr> {
        let place = self.bytes.get_mut(..text.len()).ok_or(Errno::TOOBIG)?;
        place.copy_from_slice(text);
        *self.bytes.get_mut(text.len()).ok_or(Errno::TOOBIG)? = 0;
        CStr::from_bytes_with_nul(&self.bytes[..=text.len()]).map_err(|_| Errno::INVAL)
    }
}

/// Opens `path` beneath `root` as `O_PATH`; links and `..` stay inside.
pub fn open_in(root: &Fd, path: &[u8]) -> Result<Fd> {
    let mut buffer = Buffer { bytes: [0; PATH_BYTES_MAX] };
    let relative = trim(path);
    let text = if relative.is_empty() { b"." } else { relative };
    file::open_resolve(root.raw(), buffer.cstr(text)?, libc::O_PATH, RESOLVE_IN_ROOT)
}

/// Opens `name` in `root`, which has to be a directory there and no link, and is made where nothing is.
pub fn open_or_make_real_directory(root: &Fd, name: &CStr) -> Result<Fd> {
    let open = || {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        file::open_resolve(root.raw(), name, flags, file::RESOLVE_NO_SYMLINKS)
    };
    match open() {
        Err(Errno::NOENT) => {
            file::mkdir(root.raw(), name, 0o755)?;
            open()
        }
        opened => opened,
    }
}

/// As [`open_in`], and makes what is missing: directories on the way, `leaf` at the end.
pub fn open_or_make_in(root: &Fd, path: &[u8], leaf: Leaf) -> Result<Fd> {
    match open_in(root, path) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let path = trim(path);
    let mut buffer = Buffer { bytes: [0; PATH_BYTES_MAX] };
    let mut here = open_in(root, b"")?;
    let mut start = 0;
    loop {
        let end = path[start..].iter().position(|byte| *byte == b'/').map_or(path.len(), |at| start + at);
        let name = &path[start..end];
        let last = end == path.len();
        if !name.is_empty() && name != b"." {
            here = match open_in(root, &path[..end]) {
                Err(Errno::NOENT) => make(&here, buffer.cstr(name)?, if last { leaf } else { Leaf::Directory })?,
                other => other?,
            };
        }
        if last {
            return Ok(here);
        }
        start = end + 1;
    }
}

/// Makes the device file (or other node) `path` beneath `root`, with the directories on its way; `EEXIST` where there is
/// something of its name.
pub fn make_node_in(root: &Fd, path: &[u8], mode: u32, device: u64) -> Result<Fd> {
    let path = trim(path);
    let split = path.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = split.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]));
    let parent = open_or_make_in(root, directory, Leaf::Directory)?;
    let mut buffer = Buffer { bytes: [0; PATH_BYTES_MAX] };
    let name = buffer.cstr(name)?;
    file::mknod(parent.raw(), name, mode, device)?;
    file::open(parent.raw(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// Makes `name` in `parent` and opens it; a dangling link of that name is refused, not followed.
pub fn make(parent: &Fd, name: &CStr, leaf: Leaf) -> Result<Fd> {
    if name == c".." {
        return Err(Errno::NOENT);
    }
    match leaf {
        Leaf::Directory => file::mkdir(parent.raw(), name, 0o755)?,
        Leaf::File => file::mknod(parent.raw(), name, libc::S_IFREG | 0o644, 0)?,
    }
    file::open(parent.raw(), name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

fn trim(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(start, |at| at + 1);
    &path[start..end]
}
