//! A volume in memory.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount as mount_syscall};

/// Mounts a tmpfs of at most `size_bytes` (0: the kernel's default, half of the memory) that anybody may write to.
pub(super) fn mount(path: &Path, size_bytes: u64) -> io::Result<()> {
    let size = if size_bytes == 0 { String::new() } else { format!(",size={size_bytes}") };
    let options = CString::new(format!("mode=0777{size}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount_syscall("tmpfs", path, "tmpfs", flags, options.as_c_str())?;
    Ok(())
}
