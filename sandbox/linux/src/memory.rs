//! Memory straight from the kernel, for programs without a heap.
#![expect(unsafe_code, reason = "maps and unmaps what it owns")]

use core::ops::{Deref, DerefMut};

use crate::arch::call;
use crate::{Fd, Result};

/// Zeroed pages that go back to the kernel when they go out of scope.
#[derive(Debug)]
pub struct Pages {
    start: *mut u8,
    length: usize,
}

impl Pages {
    /// At least `length` bytes; touched pages only cost memory.
    pub fn new(length: usize) -> Result<Self> {
        let length = length.next_multiple_of(4096);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new private mapping, at an address that the kernel picks.
        let start =
            unsafe { call!(SYS_mmap, 0_usize, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1_i32, 0_u64) }?;
        Ok(Self { start: start as *mut u8, length })
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is ours, readable, initialised, and lives as long as `self`.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `deref`, and borrowed alone.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, nobody borrows it any more.
        let _ = unsafe { call!(SYS_munmap, self.start, self.length) };
    }
}

/// A sealed file that is no longer than this is copied, to the stack: to map it and to unmap it takes longer.
const COPIED_BYTES_MAX: usize = 2048;

/// What a sealed file holds.
#[derive(Debug)]
pub struct Sealed(Held);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there may be no heap to keep the bytes on")]
enum Held {
    Copied([u8; COPIED_BYTES_MAX], usize),
    /// For reading, from here on, so many bytes.
    Mapped(*const u8, usize),
}

impl Sealed {
    /// Opens `file`, whose seals have to forbid writing and shrinking: else its bytes could change beneath us.
    pub fn open(file: &Fd) -> Result<Self> {
        const NEEDED: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: no pointers.
        let seals = unsafe { call!(SYS_fcntl, file.raw(), libc::F_GET_SEALS) }?;
        if i32::try_from(seals).unwrap_or(0) & NEEDED != NEEDED {
            return Err(crate::Errno::PERM);
        }
        let length = usize::try_from(crate::file::size(file.raw())?).unwrap_or(0);
        if length <= COPIED_BYTES_MAX {
            let mut bytes = [0; COPIED_BYTES_MAX];
            let length = crate::file::read_at(file.raw(), &mut bytes[..length], 0)?;
            return Ok(Self(Held::Copied(bytes, length)));
        }
        // SAFETY: a new read-only mapping of a file that can neither change nor shrink.
        let start = unsafe { call!(SYS_mmap, 0_usize, length, libc::PROT_READ, libc::MAP_PRIVATE, file.raw(), 0_u64) }?;
        Ok(Self(Held::Mapped(start as *const u8, length)))
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Copied(bytes, length) => &bytes[..*length],
            // SAFETY: sealed, mapped for reading, and lives as long as `self`.
            Held::Mapped(start, length) => unsafe { core::slice::from_raw_parts(*start, *length) },
        }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if let Held::Mapped(start, length) = self.0 {
            // SAFETY: the mapping is ours, nobody borrows it any more.
            let _ = unsafe { call!(SYS_munmap, start, length) };
        }
    }
}

/// Takes the program's code out of the memory of this process: what goes on running comes back from the page cache, and
/// what only the start needed does not.
#[cfg(feature = "std")]
pub fn forget_code() -> std::io::Result<()> {
    for (start, end) in std::fs::read_to_string("/proc/self/maps")?.lines().filter_map(code) {
        // SAFETY: pages of a file that nobody may write to here are as the file has them, and are read from it again.
        unsafe { call!(SYS_madvise, start, end - start, libc::MADV_DONTNEED) }.map_err(std::io::Error::from)?;
    }
    Ok(())
}

/// From where to where a line of `/proc/self/maps` maps code of a file.
#[cfg(feature = "std")]
fn code(line: &str) -> Option<(usize, usize)> {
    // start-end permissions offset device inode path
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(2)? != "0";
    let address = |hex: &str| usize::from_str_radix(hex, 16).ok();
    is_code.then_some((address(start)?, address(end)?))
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_forgotten_and_runs_on() {
        let maps = "\
55d0c0000000-55d0c0001000 r--p 00000000 08:01 77 /usr/bin/podbus
55d0c0001000-55d0c0003000 r-xp 00001000 08:01 77 /usr/bin/podbus
55d0c0003000-55d0c0004000 rw-p 00003000 08:01 77 /usr/bin/podbus
7ffe1d5f1000-7ffe1d5f3000 r-xp 00000000 00:00 0 [vdso]
7ffe1d5f4000-7ffe1d5f5000 rwxp 00000000 08:01 78 /tmp/writable";
        let found: std::vec::Vec<_> = maps.lines().filter_map(code).collect();
        assert_eq!(found, [(0x55d0_c000_1000, 0x55d0_c000_3000)]);
        forget_code().unwrap();
    }
}
