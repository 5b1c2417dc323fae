//! Unix sockets that carry whole messages and descriptors.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;
use crate::{Errno, Fd, Result};

/// How many descriptors a message carries at most: the kernel's own limit is 253.
pub const FDS_MAX: usize = 192;

/// Descriptors that came with a message; those that nobody takes are closed.
#[derive(Debug)]
pub struct Fds {
    fds: [Option<Fd>; FDS_MAX],
    count: usize,
}

impl Fds {
    /// None.
    pub fn none() -> Self {
        Self { fds: [const { None }; FDS_MAX], count: 0 }
    }

    /// How many came.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the one at `index`; a second time it is gone.
    pub fn take(&mut self, index: usize) -> Result<Fd> {
        self.fds.get_mut(index).and_then(Option::take).ok_or(Errno::PROTO)
    }

    /// Looks at the one at `index`.
    pub fn get(&self, index: usize) -> Result<&Fd> {
        self.fds.get(index).and_then(Option::as_ref).ok_or(Errno::PROTO)
    }
}

const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + FDS_MAX * 4).div_ceil(8);

/// Receives one message into `buffer` with its descriptors; an empty message is the end of the connection.
/// `EMSGSIZE` where it was longer than `buffer` or carried more descriptors than [`FDS_MAX`].
pub fn receive(socket: i32, buffer: &mut [u8], fds: &mut Fds) -> Result<usize> {
    *fds = Fds::none();
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: plain data, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let length = loop {
        // SAFETY: the header points to buffers of the lengths that it says.
        match unsafe { call!(SYS_recvmsg, socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) } {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    collect(&control, message.msg_controllen as usize, fds);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        *fds = Fds::none();
        return Err(Errno(libc::EMSGSIZE));
    }
    Ok(length)
}

/// Reads the one control message that we ask for: descriptors.
fn collect(control: &[u64], length: usize, fds: &mut Fds) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    if length < HEADER {
        return;
    }
    // cmsghdr on 64-bit Linux: length (8), level (4), type (4), data.
    let message_length = usize::try_from(control[0]).unwrap_or(0).min(length);
    let kind = control[1];
    let wanted = u64::from(libc::SOL_SOCKET.cast_unsigned()) | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
    if kind != wanted || cfg!(target_endian = "big") {
        return;
    }
    let count = message_length.saturating_sub(HEADER) / 4;
    for at in 0..count.min(FDS_MAX) {
        let word = control[HEADER / 8 + at / 2];
        let raw = if at % 2 == 0 { word } else { word >> 32 } & 0xffff_ffff;
        fds.fds[at] = i32::try_from(raw).ok().map(Fd::inherited);
    }
    fds.count = count.min(FDS_MAX);
}

/// Sends one message with copies of `fds`. Never raises SIGPIPE, never waits where `wait` is false.
pub fn send(socket: i32, bytes: &[u8], fds: &[i32], wait: bool) -> Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Errno::TOOBIG);
    }
    let mut control = [0_u64; CONTROL_WORDS];
    let control_length = size_of::<libc::cmsghdr>() + fds.len() * 4;
    control[0] = control_length as u64;
    control[1] = u64::from(libc::SOL_SOCKET.cast_unsigned()) | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32;
    for (at, fd) in fds.iter().enumerate() {
        let shift = if at % 2 == 0 { 0 } else { 32 };
        control[2 + at / 2] |= u64::from(fd.cast_unsigned()) << shift;
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: plain data, for which zeroes are valid.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = control_length.next_multiple_of(8) as _;
    }
    let flags = libc::MSG_NOSIGNAL | if wait { 0 } else { libc::MSG_DONTWAIT };
    loop {
        // SAFETY: the kernel only reads what the header points to.
        match unsafe { call!(SYS_sendmsg, socket, &raw const message, flags) } {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(()),
        }
    }
}

/// Two ends that are connected and carry whole messages.
pub fn pair() -> Result<(Fd, Fd)> {
    let mut ends = [0_i32; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the kernel writes two numbers.
    unsafe { call!(SYS_socketpair, libc::AF_UNIX, kind, 0_i32, ends.as_mut_ptr()) }?;
    Ok((Fd::inherited(ends[0]), Fd::inherited(ends[1])))
}

/// A stream socket of an address family, non-blocking, in the network of the caller.
pub fn stream(family: i32) -> Result<Fd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers.
    unsafe { call!(SYS_socket, family, kind, 0_i32) }.map(Fd::new)
}

/// `accept4`, close-on-exec.
pub fn accept(listener: i32) -> Result<Fd> {
    let null = core::ptr::null_mut::<u8>();
    // SAFETY: the address of the peer is not asked for.
    unsafe { call!(SYS_accept4, listener, null, null, libc::SOCK_CLOEXEC) }.map(Fd::new)
}
