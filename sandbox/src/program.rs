//! The two tiny programs, as sealed files: nobody can change what is about to run.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// The shim (and the spawner).
pub(crate) const SHIM: &[u8] = include_bytes!(env!("PODBUS_SHIM"));
/// Pause.
pub(crate) const PAUSE: &[u8] = include_bytes!(env!("PODBUS_PAUSE"));

/// A file in memory that holds `bytes` and can never change.
pub(crate) fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(file.into())
}
