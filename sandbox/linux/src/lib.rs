//! Linux for podbus: the one crate with unsafe code, one concern a file, usable without the standard library.
//!
//! Daemon and shim share it: the system calls (straight to the kernel, no C library), and what the two tell each
//! other, the [`plan`], the [`message`]s and the [`slot`]s of a record. Each function is one system call, takes what
//! the kernel takes in safe types, and returns the kernel's [`Errno`].

#![no_std]

#[cfg(feature = "std")]
extern crate std;

mod arch;
#[cfg(feature = "builtins")]
mod builtins;
pub mod credential;
#[cfg(feature = "std")]
pub mod device;
mod errno;
mod fd;
pub mod file;
pub mod memory;
pub mod message;
pub mod mount;
pub mod namespace;
pub mod path;
pub mod plan;
pub mod poll;
pub mod process;
pub mod seccomp;
pub mod slot;
pub mod socket;
pub mod terminal;
pub mod time;

pub use errno::{Errno, Result};
pub use fd::Fd;
