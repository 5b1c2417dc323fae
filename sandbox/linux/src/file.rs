//! Files: open, read, write, create.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use core::ffi::CStr;

use crate::arch::call;
use crate::{Errno, Fd, Result};

/// Stands for the working directory where a directory descriptor is asked for.
pub const CWD: i32 = libc::AT_FDCWD;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Never leaves the directory: absolute links and `..` stay inside, and no magic link of procfs is followed.
pub(crate) const RESOLVE_IN_ROOT: u64 = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
/// Follows no link of any kind.
pub const RESOLVE_NO_SYMLINKS: u64 = libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH;

/// `openat`, close-on-exec.
pub fn open(dir: i32, path: &CStr, flags: i32, mode: u32) -> Result<Fd> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_openat, dir, path, flags | libc::O_CLOEXEC, mode) }.map(Fd::new)
}

/// `openat2`, close-on-exec. A rename that raced (`EAGAIN`) is tried again 128 times.
pub fn open_resolve(dir: i32, path: &CStr, flags: i32, resolve: u64) -> Result<Fd> {
    let how = OpenHow { flags: u64::from((flags | libc::O_CLOEXEC).cast_unsigned()), mode: 0, resolve };
    let mut last = Errno::AGAIN;
    for _ in 0..128 {
        // SAFETY: `path` ends in NUL, `how` has the size that is given.
        match unsafe { call!(SYS_openat2, dir, path, &raw const how, size_of::<OpenHow>()) } {
            Ok(raw) => return Ok(Fd::new(raw)),
            Err(Errno::AGAIN | Errno::INTR) => last = Errno::AGAIN,
            Err(errno) => return Err(errno),
        }
    }
    Err(last)
}

/// `read`. 0 is the end.
pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most the length of `buffer`.
    unsafe { call!(SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) }
}

/// `pread`: at `offset`, without moving the file's position.
pub fn read_at(fd: i32, buffer: &mut [u8], offset: u64) -> Result<usize> {
    // SAFETY: as `read`.
    unsafe { call!(SYS_pread64, fd, buffer.as_mut_ptr(), buffer.len(), offset) }
}

/// `write`.
pub fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    // SAFETY: the kernel reads `bytes` only.
    unsafe { call!(SYS_write, fd, bytes.as_ptr(), bytes.len()) }
}

/// `pwrite`: at `offset`.
pub fn write_at(fd: i32, bytes: &[u8], offset: u64) -> Result<usize> {
    // SAFETY: as `write`.
    unsafe { call!(SYS_pwrite64, fd, bytes.as_ptr(), bytes.len(), offset) }
}

/// Opens `path`, writes `bytes` in one call, closes: what files of procfs and cgroupfs want.
pub fn write_to(dir: i32, path: &CStr, bytes: &[u8]) -> Result<()> {
    let file = open(dir, path, libc::O_WRONLY, 0)?;
    write(file.raw(), bytes).map(drop)
}

/// `mkdirat`.
pub fn mkdir(dir: i32, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_mkdirat, dir, path, mode) }.map(drop)
}

/// `mknodat`; `device` as [`device`] makes it, 0 for a regular file.
pub fn mknod(dir: i32, path: &CStr, mode: u32, device: u64) -> Result<()> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_mknodat, dir, path, mode, device) }.map(drop)
}

/// The number of the device `major:minor`.
pub fn device(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// `symlinkat`.
pub fn symlink(target: &CStr, dir: i32, path: &CStr) -> Result<()> {
    // SAFETY: both end in NUL.
    unsafe { call!(SYS_symlinkat, target, dir, path) }.map(drop)
}

/// `fchmodat`, following links.
pub fn chmod(dir: i32, path: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_fchmodat, dir, path, mode) }.map(drop)
}

/// The mode of what `fd` refers to (`O_PATH` is enough).
pub fn mode(fd: i32) -> Result<u32> {
    // SAFETY: `statx` is plain data, for which zeroes are valid; the kernel fills it.
    unsafe {
        let mut stat: libc::statx = core::mem::zeroed();
        call!(SYS_statx, fd, c"", libc::AT_EMPTY_PATH, libc::STATX_TYPE | libc::STATX_MODE, &raw mut stat)?;
        Ok(u32::from(stat.stx_mode))
    }
}

/// Whether a mode is a directory's.
pub fn is_dir(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR
}

/// `pipe2`, close-on-exec: the end to read, the end to write.
pub fn pipe(flags: i32) -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    // SAFETY: the kernel writes two numbers.
    unsafe { call!(SYS_pipe2, ends.as_mut_ptr(), flags | libc::O_CLOEXEC) }?;
    Ok((Fd::inherited(ends[0]), Fd::inherited(ends[1])))
}

/// `dup3` onto a number that is known, without close-on-exec: for 0, 1 and 2.
pub fn dup_onto(fd: i32, number: i32) -> Result<()> {
    if fd == number {
        // SAFETY: no pointers.
        return unsafe { call!(SYS_fcntl, fd, libc::F_SETFD, 0) }.map(drop);
    }
    // SAFETY: no pointers.
    unsafe { call!(SYS_dup3, fd, number, 0) }.map(drop)
}

/// A copy of `fd` that is closed on exec and has a number of at least `least`.
pub fn duplicate(fd: i32, least: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, least) }.map(Fd::new)
}

/// Sets `O_NONBLOCK`.
pub fn set_nonblocking(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe {
        let flags = call!(SYS_fcntl, fd, libc::F_GETFL)?;
        call!(SYS_fcntl, fd, libc::F_SETFL, flags | libc::O_NONBLOCK.cast_unsigned() as usize).map(drop)
    }
}

/// Marks all descriptors from `first` on close-on-exec, but closes none.
pub fn cloexec_from(first: u32) -> Result<()> {
    // SAFETY: no pointers; nothing is closed before an exec.
    unsafe { call!(SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }.map(drop)
}

/// The size of a file in bytes.
pub fn size(fd: i32) -> Result<u64> {
    // SAFETY: as `mode`.
    unsafe {
        let mut stat: libc::statx = core::mem::zeroed();
        call!(SYS_statx, fd, c"", libc::AT_EMPTY_PATH, libc::STATX_SIZE, &raw mut stat)?;
        Ok(stat.stx_size)
    }
}

/// `fchown`, by descriptor.
pub fn chown(fd: i32, user: u32, group: u32) -> Result<()> {
    // SAFETY: the path is empty and ends in NUL.
    unsafe { call!(SYS_fchownat, fd, c"", user, group, libc::AT_EMPTY_PATH) }.map(drop)
}
