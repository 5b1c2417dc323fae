//! The system call instruction, for each processor that podbus runs on.
#![expect(unsafe_code, reason = "the instruction itself")]
#![expect(clippy::cast_possible_truncation, reason = "podbus runs on 64-bit processors only")]

use crate::{Errno, Result};

/// Issues the call `number`. Unused arguments are 0.
///
/// # Safety
/// The arguments have to be what the call `number` expects: pointers valid for what the kernel reads and writes.
#[inline]
pub(crate) unsafe fn syscall(number: libc::c_long, args: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller vouches for the arguments; the registers are those of the kernel's convention.
    let value = unsafe { raw(number, args) };
    if (-4095..0).contains(&value) {
        return Err(Errno(i32::try_from(-value).unwrap_or(libc::EIO)));
    }
    Ok(value.cast_unsigned())
}

#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn raw(number: libc::c_long, a: [usize; 6]) -> isize {
    let value: isize;
    // SAFETY: as above; the kernel clobbers rcx and r11 only.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => value,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    value
}

#[cfg(target_arch = "aarch64")]
#[inline]
unsafe fn raw(number: libc::c_long, a: [usize; 6]) -> isize {
    let value: isize;
    // SAFETY: as above; the kernel preserves all registers but x0.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number as isize,
            inlateout("x0") a[0] => value,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack),
        );
    }
    value
}

/// `call!(SYS_x, a, b)` issues a system call; each argument is converted with [`Arg`].
macro_rules! call {
    ($number:ident $(, $arg:expr)* $(,)?) => {{
        let args = [$($crate::arch::Arg::arg($arg)),*];
        let mut all = [0_usize; 6];
        all[..args.len()].copy_from_slice(&args);
        $crate::arch::syscall(libc::$number, all)
    }};
}
pub(crate) use call;

/// What fits into a register.
pub(crate) trait Arg {
    fn arg(self) -> usize;
}

impl Arg for usize {
    fn arg(self) -> usize {
        self
    }
}
impl Arg for i32 {
    fn arg(self) -> usize {
        (self as isize).cast_unsigned()
    }
}
impl Arg for u32 {
    fn arg(self) -> usize {
        self as usize
    }
}
impl Arg for u64 {
    fn arg(self) -> usize {
        self as usize
    }
}
impl Arg for i64 {
    fn arg(self) -> usize {
        self.cast_unsigned() as usize
    }
}
impl<T> Arg for *const T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl<T> Arg for *mut T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl Arg for &core::ffi::CStr {
    fn arg(self) -> usize {
        self.as_ptr() as usize
    }
}

/// Defines `_start` for a program without start files: it calls `extern "C" fn enter(stack: *const usize) -> !` with
/// the stack as the kernel left it (argument count, arguments, null, environment), aligned as functions expect.
#[macro_export]
macro_rules! entry_point {
    () => {
        #[cfg(target_arch = "x86_64")]
        core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "xor ebp, ebp",
            "mov rdi, rsp",
            "and rsp, -16",
            "call {enter}",
            "ud2",
            enter = sym enter,
        );
        #[cfg(target_arch = "aarch64")]
        core::arch::global_asm!(
            ".globl _start",
            "_start:",
            "mov x29, xzr",
            "mov x0, sp",
            "and sp, x0, #-16",
            "bl {enter}",
            "brk #0",
            enter = sym enter,
        );
    };
}
