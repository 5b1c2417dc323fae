//! Who a process is: users, groups, capabilities, limits.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;
use crate::{Errno, Result};

/// The highest capability that a set of 64 bits may name.
pub(crate) const CAPABILITIES_MAX: u32 = 63;

/// The number of CAP_SYS_ADMIN.
pub const SYS_ADMIN: u32 = 21;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Sets the permitted and effective set, and the inheritable one.
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a set")]
pub fn set_capabilities(permitted: u64, inheritable: u64) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Data {
        effective: (permitted >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two halves.
    unsafe { call!(SYS_capset, &raw const header, data.as_ptr()) }.map(drop)
}

/// Drops every capability from the bounding set that is not in `keep`.
pub fn bound_capabilities(keep: u64) -> Result<()> {
    for capability in (0..=CAPABILITIES_MAX).filter(|bit| keep & (1 << bit) == 0) {
        // SAFETY: no pointers.
        match unsafe { call!(SYS_prctl, libc::PR_CAPBSET_DROP, capability) } {
            Ok(_) => {}
            Err(Errno::INVAL) => break, // beyond the last one that this kernel knows
            Err(errno) => {
                // SAFETY: no pointers.
                let held = unsafe { call!(SYS_prctl, libc::PR_CAPBSET_READ, capability) };
                if held == Ok(1) {
                    return Err(errno);
                }
            }
        }
    }
    Ok(())
}

/// Adds each of `set` to the ambient set; it has to be permitted and inheritable.
pub fn raise_ambient(set: u64) -> Result<()> {
    for capability in (0..=CAPABILITIES_MAX).filter(|bit| set & (1 << bit) != 0) {
        // SAFETY: no pointers.
        unsafe { call!(SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0_i32, 0_i32) }?;
    }
    Ok(())
}

/// Keeps permitted capabilities when the user changes, until the next exec.
pub fn keep_capabilities(keep: bool) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_prctl, libc::PR_SET_KEEPCAPS, i32::from(keep)) }.map(drop)
}

/// `setgroups`.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `groups` only.
    unsafe { call!(SYS_setgroups, groups.len(), groups.as_ptr()) }.map(drop)
}

/// Real, effective and saved group.
pub fn set_group(group: u32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_setresgid, group, group, group) }.map(drop)
}

/// Real, effective and saved user.
pub fn set_user(user: u32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_setresuid, user, user, user) }.map(drop)
}

/// From now on no exec gives more privileges than the process has.
pub fn set_no_new_privileges() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1_i32, 0_i32, 0_i32, 0_i32) }.map(drop)
}

/// A session keyring of its own, so that the one of the host is not inherited. A kernel without keys has none to hide.
pub fn new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: u32 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let _ = unsafe { call!(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, core::ptr::null::<u8>()) };
}

/// Sets a resource limit of this process: soft and hard.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: the kernel reads two numbers, and writes none.
    unsafe { call!(SYS_prlimit64, 0_i32, resource, limit.as_ptr(), core::ptr::null_mut::<u64>()) }.map(drop)
}
