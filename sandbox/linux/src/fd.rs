//! A descriptor that is closed when it goes out of scope.
#![expect(unsafe_code, reason = "closes a descriptor that it owns")]

use crate::arch::call;

/// An owned descriptor.
#[derive(Debug)]
pub struct Fd(i32);

impl Fd {
    /// Takes the ownership of `raw`, which the kernel has just handed out.
    pub(crate) fn new(raw: usize) -> Self {
        Self(i32::try_from(raw).unwrap_or(-1))
    }

    /// Takes the ownership of a descriptor that this process was started with, such as 0.
    pub fn inherited(raw: i32) -> Self {
        Self(raw)
    }

    /// Its number, for a call.
    pub fn raw(&self) -> i32 {
        self.0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours alone, nobody uses it afterwards.
        let _ = unsafe { call!(SYS_close, self.0) };
    }
}

#[cfg(feature = "std")]
impl From<Fd> for std::os::fd::OwnedFd {
    fn from(fd: Fd) -> Self {
        use std::os::fd::FromRawFd as _;
        let fd = core::mem::ManuallyDrop::new(fd);
        // SAFETY: `fd` no longer closes it: the ownership goes over.
        unsafe { Self::from_raw_fd(fd.0) }
    }
}
