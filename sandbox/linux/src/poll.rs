//! Waiting for descriptors.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;
use crate::{Errno, Fd, Result};

/// An epoll instance; each descriptor carries a key.
#[derive(Debug)]
pub struct Poll(Fd);

/// A descriptor that is ready: its key, and whether the other side has hung up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// What it was added with.
    pub key: u64,
}

impl Poll {
    /// A new one.
    pub fn new() -> Result<Self> {
        // SAFETY: no pointers.
        unsafe { call!(SYS_epoll_create1, libc::EPOLL_CLOEXEC) }.map(|raw| Self(Fd::new(raw)))
    }

    /// Reports `key` when `fd` is readable, or was hung up.
    pub fn add(&self, fd: i32, key: u64) -> Result<()> {
        let event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: key };
        // SAFETY: the kernel reads one event.
        unsafe { call!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_ADD, fd, &raw const event) }.map(drop)
    }

    /// Reports `key` when the other side of `fd`, which is written to, has hung up.
    pub fn add_writer(&self, fd: i32, key: u64) -> Result<()> {
        let event = libc::epoll_event { events: 0, u64: key };
        // SAFETY: the kernel reads one event.
        unsafe { call!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_ADD, fd, &raw const event) }.map(drop)
    }

    /// Reports `key` also when `fd`, of [`Poll::add_writer`], can be written to; or no longer.
    pub fn want_room(&self, fd: i32, key: u64, wanted: bool) -> Result<()> {
        let events = if wanted { libc::EPOLLOUT.cast_unsigned() } else { 0 };
        let event = libc::epoll_event { events, u64: key };
        // SAFETY: the kernel reads one event.
        unsafe { call!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_MOD, fd, &raw const event) }.map(drop)
    }

    /// Reports no more of `fd`.
    pub fn remove(&self, fd: i32) {
        // SAFETY: a deletion reads no event. A descriptor that was closed is gone already.
        let _ = unsafe { call!(SYS_epoll_ctl, self.0.raw(), libc::EPOLL_CTL_DEL, fd, core::ptr::null::<u8>()) };
    }

    /// Waits at most `timeout_ms` (-1: for ever) and returns how many of `ready` were filled.
    pub fn wait(&self, ready: &mut [Ready], timeout_ms: i32) -> Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        let most = ready.len().min(events.len());
        let null = core::ptr::null::<u8>();
        // SAFETY: the kernel writes at most `most` events.
        match unsafe { call!(SYS_epoll_pwait, self.0.raw(), events.as_mut_ptr(), most, timeout_ms, null, 8_usize) } {
            Ok(count) => {
                for (place, event) in ready.iter_mut().zip(&events[..count]) {
                    *place = Ready { key: event.u64 };
                }
                Ok(count)
            }
            Err(Errno::INTR) => Ok(0),
            Err(errno) => Err(errno),
        }
    }
}

/// Waits until `fd` is readable or hung up, at most `timeout_ms`; whether it is.
pub fn readable(fd: i32, timeout_ms: u32) -> Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let timeout = [i64::from(timeout_ms / 1000), i64::from(timeout_ms % 1000) * 1_000_000];
    loop {
        let null = core::ptr::null::<u8>();
        // SAFETY: one pollfd, one timespec.
        match unsafe { call!(SYS_ppoll, &raw mut poll, 1_usize, timeout.as_ptr(), null, 8_usize) } {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
