//! Namespaces: leave, join, name the host.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use core::ffi::CStr;

use crate::Result;
use crate::arch::call;

/// Users, groups and capabilities.
pub const USER: i32 = libc::CLONE_NEWUSER;
/// A mount namespace.
pub const MOUNT: i32 = libc::CLONE_NEWNS;
/// A PID namespace, for children.
pub const PID: i32 = libc::CLONE_NEWPID;
/// A network namespace.
pub const NET: i32 = libc::CLONE_NEWNET;
/// System V IPC and POSIX message queues.
pub const IPC: i32 = libc::CLONE_NEWIPC;
/// The host's name.
pub const UTS: i32 = libc::CLONE_NEWUTS;
/// The view of the cgroup tree.
pub const CGROUP: i32 = libc::CLONE_NEWCGROUP;

/// `unshare`.
pub fn unshare(kinds: i32) -> Result<()> {
    // SAFETY: no pointers; a process of one thread, or one that does not share what is unshared.
    unsafe { call!(SYS_unshare, kinds) }.map(drop)
}

/// `setns`: joins `kinds` of the namespace, or of the process (a pidfd), that `fd` refers to.
pub fn join(fd: i32, kinds: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_setns, fd, kinds) }.map(drop)
}

/// `sethostname`.
pub fn set_hostname(name: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `name` only.
    unsafe { call!(SYS_sethostname, name.as_ptr(), name.len()) }.map(drop)
}

/// `chdir`.
pub fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_chdir, path) }.map(drop)
}

/// `fchdir`.
pub fn chdir_to(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_fchdir, fd) }.map(drop)
}

/// Makes the working directory the root of the process.
pub fn chroot_here() -> Result<()> {
    // SAFETY: the path ends in NUL.
    unsafe { call!(SYS_chroot, c".") }.map(drop)
}

/// Whether the working directory lies within the root, and not outside of it: the kernel answers a path that does
/// not begin with `/` otherwise.
pub fn cwd_is_inside() -> Result<bool> {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the kernel writes at most the length of `buffer`.
    unsafe { call!(SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }?;
    Ok(buffer[0] == b'/')
}
