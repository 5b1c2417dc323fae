//! Pause: process 1 of a pod. It holds the pod's namespaces, reaps orphans, and ends when it is told to.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the entry point")]

use podbus_sandbox_linux::{Errno, process};

podbus_sandbox_linux::entry_point!();

const SIGNALS_THAT_END_IT: [i32; 2] = [2, 15]; // SIGINT, SIGTERM

/// Where the kernel enters, by way of `_start`.
#[unsafe(no_mangle)]
extern "C" fn enter(_stack: *const usize) -> ! {
    let _ = process::block_signals(true);
    let _ = process::set_name(c"pause");
    let _ = process::set_undumpable();
    loop {
        match process::take_signal() {
            Ok(signal) if SIGNALS_THAT_END_IT.contains(&signal) => process::exit(0),
            Ok(_) | Err(Errno::INTR) => while matches!(process::reap_any(), Ok(Some(_))) {},
            Err(_) => process::exit(1),
        }
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    process::exit(134)
}
