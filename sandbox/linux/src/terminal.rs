//! Pseudo terminals.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use crate::arch::call;
use crate::{Fd, Result};

/// Unlocks the other side of the terminal `master` and opens it, without any name being resolved.
pub fn open_peer(master: i32) -> Result<Fd> {
    let locked = 0_i32;
    // SAFETY: the first reads a number, the second takes flags.
    unsafe {
        call!(SYS_ioctl, master, libc::TIOCSPTLCK, &raw const locked)?;
        call!(SYS_ioctl, master, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC).map(Fd::new)
    }
}

/// Makes `terminal` the controlling terminal of this session.
pub fn take_control(terminal: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_ioctl, terminal, libc::TIOCSCTTY, 0_i32) }.map(drop)
}

/// Sets the size in characters.
pub fn resize(terminal: i32, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one struct.
    unsafe { call!(SYS_ioctl, terminal, libc::TIOCSWINSZ, &raw const size) }.map(drop)
}
