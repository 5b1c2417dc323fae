//! The shim: the parent of pause, of every container and of every exec of one pod. It outlives the daemon, keeps the
//! logs, and writes each exit into its record before anyone is told.
//!
//! The program runs once, as the spawner; each pod's shim is a fork of it, without an exec.
//!
//! ```text
//! daemon ──spawn──> spawner ──fork──> shim (a pod) ──clone──> pause
//!    └────────── the pod's socket ─────┘     └────────clone──> containers, execs
//! ```

#![no_std]
#![no_main]
#![allow(clippy::result_large_err, reason = "there is no heap to box into, and failures are rare")]

mod child;
mod console;
mod container;
mod failure;
mod handler;
mod log;
mod pod;
mod rootfs;
mod spawner;
mod tap;
mod userns;
mod views;

use core::ffi::CStr;

use podbus_sandbox_linux::process::{self, SingleThread};

podbus_sandbox_linux::entry_point!();

/// Where the kernel enters, by way of `_start`: the state directory is the only argument, the socket is descriptor 0.
#[expect(unsafe_code, reason = "the entry point: it reads the stack as the kernel left it")]
#[unsafe(no_mangle)]
extern "C" fn enter(stack: *const usize) -> ! {
    // SAFETY: the kernel leaves the count, then as many pointers to text that ends in NUL and is never freed.
    let state_dir: Option<&'static CStr> =
        unsafe { if *stack == 2 { Some(CStr::from_ptr(*stack.add(2) as *const _)) } else { None } };
    // SAFETY: this program has no C library and starts no thread.
    let single = unsafe { SingleThread::assume() };
    let code = match state_dir {
        Some(state_dir) => spawner::run(single, state_dir),
        None => 2,
    };
    process::exit(code)
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    process::exit(134)
}
