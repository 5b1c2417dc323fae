//! What the kernel answers when it refuses.

/// An error number of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a system call returns.
pub type Result<T> = core::result::Result<T, Errno>;

impl Errno {
    /// No such file or directory.
    pub const NOENT: Self = Self(libc::ENOENT);
    /// Interrupted by a signal: try again.
    pub const INTR: Self = Self(libc::EINTR);
    /// Nothing to read, or no room to write, right now.
    pub const AGAIN: Self = Self(libc::EAGAIN);
    /// In use.
    pub const BUSY: Self = Self(libc::EBUSY);
    /// It exists already.
    pub const EXIST: Self = Self(libc::EEXIST);
    /// The kernel does not know this, or not so.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// Not permitted.
    pub const PERM: Self = Self(libc::EPERM);
    /// Permission denied.
    pub const ACCES: Self = Self(libc::EACCES);
    /// No such process.
    pub const SRCH: Self = Self(libc::ESRCH);
    /// A protocol was not kept.
    pub const PROTO: Self = Self(libc::EPROTO);
    /// Nobody reads.
    pub const PIPE: Self = Self(libc::EPIPE);
    /// Too large.
    pub const TOOBIG: Self = Self(libc::E2BIG);
    /// Not a directory.
    pub const NOTDIR: Self = Self(libc::ENOTDIR);
    /// No room in a table.
    pub const NOSPC: Self = Self(libc::ENOSPC);
    /// The other side did not answer in time.
    pub const TIMEDOUT: Self = Self(libc::ETIMEDOUT);
}

#[cfg(feature = "std")]
impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}
