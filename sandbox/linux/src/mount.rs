//! Mounts: by descriptor where the kernel can, so that no name is resolved twice.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use core::ffi::CStr;

use crate::arch::call;
use crate::{Errno, Fd, Result};

/// Refuses to write.
pub const RDONLY: u64 = 0x1;
/// Ignores set-user-id bits and file capabilities.
pub const NOSUID: u64 = 0x2;
/// Opens no device file.
pub const NODEV: u64 = 0x4;
/// Runs no program.
pub const NOEXEC: u64 = 0x8;
/// Updates access times always.
pub const STRICTATIME: u64 = 0x20;

/// How a mount passes on what is mounted beneath it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the host into the container.
    Slave,
    /// Both ways.
    Shared,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// `mount(2)`, with what it takes as data.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> Result<()> {
    // SAFETY: all end in NUL.
    unsafe { call!(SYS_mount, source, target, kind, flags, data) }.map(drop)
}

/// Makes `/` and all beneath it private: nothing propagates to the namespace that this one was copied from.
pub fn make_all_private() -> Result<()> {
    mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// A new file system of `kind` with `options` (an empty value is a flag), as a mount that is attached nowhere.
pub fn new(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> Result<Fd> {
    let context = context(kind)?;
    for (key, value) in options {
        configure(&context, key, value)?;
    }
    create(&context, attributes)
}

/// `fsopen`.
pub fn context(kind: &CStr) -> Result<Fd> {
    // SAFETY: `kind` ends in NUL.
    unsafe { call!(SYS_fsopen, kind, FSOPEN_CLOEXEC) }.map(Fd::new)
}

/// `fsconfig` of one option; an empty value makes it a flag.
pub fn configure(context: &Fd, key: &CStr, value: &CStr) -> Result<()> {
    let null = core::ptr::null::<u8>();
    // SAFETY: both end in NUL.
    unsafe {
        if value.is_empty() {
            call!(SYS_fsconfig, context.raw(), FSCONFIG_SET_FLAG, key, null, 0_i32)
        } else {
            call!(SYS_fsconfig, context.raw(), FSCONFIG_SET_STRING, key, value, 0_i32)
        }
    }
    .map(drop)
}

/// Makes the file system that `context` describes, attached nowhere.
pub fn create(context: &Fd, attributes: u64) -> Result<Fd> {
    let null = core::ptr::null::<u8>();
    // SAFETY: no pointers but null.
    unsafe {
        call!(SYS_fsconfig, context.raw(), FSCONFIG_CMD_CREATE, null, null, 0_i32)?;
        call!(SYS_fsmount, context.raw(), FSMOUNT_CLOEXEC, attributes).map(Fd::new)
    }
}

/// An overlay of `layers`, the upper-most first, below the `writable` one with its work directory, attached nowhere.
/// `None` on a kernel that takes no layer by itself (before Linux 6.5).
pub fn overlay<'a>(
    layers: impl Iterator<Item = Result<&'a CStr>>,
    writable: Option<(&CStr, &CStr)>,
    attributes: u64,
) -> Result<Option<Fd>> {
    let context = context(c"overlay")?;
    // Any option at all is taken, and refused at the end with a line in the kernel's log: one of those kernels.
    if configure(&context, c"podbus", c"").is_ok() {
        return Ok(None);
    }
    for (at, layer) in layers.enumerate() {
        match configure(&context, c"lowerdir+", layer?) {
            Err(Errno::INVAL) if at == 0 => return Ok(None),
            other => other?,
        }
    }
    if let Some((upper, work)) = writable {
        configure(&context, c"upperdir", upper)?;
        configure(&context, c"workdir", work)?;
        // The writable layer does not outlive a power cut: nothing need wait for the disk.
        configure(&context, c"volatile", c"")?;
    }
    create(&context, attributes).map(Some)
}

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const OPEN_TREE_CLONE: u32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// A copy of the mount at `path` (all beneath it as well where `recursive`), attached nowhere. Follows links.
pub fn copy(dir: i32, path: &CStr, recursive: bool) -> Result<Fd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH.cast_unsigned();
    }
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_open_tree, dir, path, flags) }.map(Fd::new)
}

/// Attaches `mount`, which is attached nowhere, on what `target` refers to.
pub fn attach(mount: &Fd, target: &Fd) -> Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty.
    unsafe { call!(SYS_move_mount, mount.raw(), c"", target.raw(), c"", flags) }.map(drop)
}

const AT_RECURSIVE: u32 = 0x8000;
const ATTR_IDMAP: u64 = 0x10_0000;

/// Sets attributes (and the propagation) of the mount that `fd` refers to; of all beneath it where `recursive`.
pub fn set(fd: i32, attributes: u64, propagation: Option<Propagation>, recursive: bool) -> Result<()> {
    let propagation = match propagation {
        None => 0,
        Some(Propagation::Private) => libc::MS_PRIVATE,
        Some(Propagation::Slave) => libc::MS_SLAVE,
        Some(Propagation::Shared) => libc::MS_SHARED,
    };
    let attr = MountAttr { set: attributes, clear: 0, propagation, userns: 0 };
    let flags = libc::AT_EMPTY_PATH.cast_unsigned() | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` has the size that is given.
    unsafe { call!(SYS_mount_setattr, fd, c"", flags, &raw const attr, size_of::<MountAttr>()) }.map(drop)
}

/// Lets ids of the files beneath `fd`, a mount that is attached nowhere, count as those of the user namespace `user`: what
/// belongs to 0 on the disk belongs to its 0.
pub fn map_ids(fd: i32, user: i32) -> Result<()> {
    let user = u64::try_from(user).map_err(|_| Errno::INVAL)?;
    let attr = MountAttr { set: ATTR_IDMAP, clear: 0, propagation: 0, userns: user };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: `attr` has the size that is given.
    unsafe { call!(SYS_mount_setattr, fd, c"", flags, &raw const attr, size_of::<MountAttr>()) }.map(drop)
}

/// Makes the working directory, which has to be a mount, the root, and drops the old one with all its mounts.
pub fn pivot_here() -> Result<()> {
    // SAFETY: the paths end in NUL.
    unsafe {
        call!(SYS_pivot_root, c".", c".")?;
        call!(SYS_umount2, c".", libc::MNT_DETACH)?;
        call!(SYS_chdir, c"/").map(drop)
    }
}

/// `umount2` with `MNT_DETACH`.
pub fn detach(path: &CStr) -> Result<()> {
    // SAFETY: `path` ends in NUL.
    unsafe { call!(SYS_umount2, path, libc::MNT_DETACH) }.map(drop)
}
