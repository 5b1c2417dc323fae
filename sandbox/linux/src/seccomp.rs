//! Filters of system calls.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;
use crate::{Errno, Result};

/// The bytes of one instruction.
const INSTRUCTION_BYTES: usize = 8;
const SET_MODE_FILTER: u32 = 1;

#[repr(C)]
struct Program {
    count: u16,
    instructions: *const u8,
}

/// From now on, also after an exec, the kernel asks `program` (instructions of 8 bytes) about each call. The process
/// needs no_new_privs or CAP_SYS_ADMIN.
pub fn load(program: &[u8], flags: u32) -> Result<()> {
    let count = u16::try_from(program.len() / INSTRUCTION_BYTES).map_err(|_| Errno::TOOBIG)?;
    let program = Program { count, instructions: program.as_ptr() };
    // SAFETY: the kernel reads `count` instructions, which lie within the slice, and wants no alignment.
    unsafe { call!(SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) }.map(drop)
}
