//! Descriptors that the async runtime watches.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes `fd` non-blocking and watches it.
#[expect(deprecated, reason = "an OwnedFd stays open for as long as it lives, which is all that `register` asks for")]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    AsyncFd::new(fd)
}
