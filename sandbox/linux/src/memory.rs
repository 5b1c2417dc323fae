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

/// What a sealed file holds, mapped for reading.
#[derive(Debug)]
pub struct Sealed {
    start: *const u8,
    length: usize,
}

impl Sealed {
    /// Maps `file`, whose seals have to forbid writing and shrinking: else its bytes could change beneath us.
    pub fn map(file: &Fd) -> Result<Self> {
        const NEEDED: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: no pointers.
        let seals = unsafe { call!(SYS_fcntl, file.raw(), libc::F_GET_SEALS) }?;
        if i32::try_from(seals).unwrap_or(0) & NEEDED != NEEDED {
            return Err(crate::Errno::PERM);
        }
        let length = usize::try_from(crate::file::size(file.raw())?).unwrap_or(0);
        // SAFETY: a new read-only mapping of a file that can neither change nor shrink.
        let start = unsafe { call!(SYS_mmap, 0_usize, length, libc::PROT_READ, libc::MAP_PRIVATE, file.raw(), 0_u64) }?;
        Ok(Self { start: start as *const u8, length })
    }
}

impl Deref for Sealed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: sealed, mapped for reading, and lives as long as `self`.
        unsafe { core::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, nobody borrows it any more.
        let _ = unsafe { call!(SYS_munmap, self.start, self.length) };
    }
}
