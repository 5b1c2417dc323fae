//! Processes: make, wait, signal, become another program.
#![expect(unsafe_code, reason = "system calls with checked pointers")]

use core::ffi::CStr;
use core::marker::PhantomData;

use crate::arch::call;
use crate::memory::Pages;
use crate::{Errno, Fd, Result};

/// Says that this process has one thread and no C library, so that a copy of it may run on.
#[derive(Clone, Copy, Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// Vouches for it.
    ///
    /// # Safety
    /// The process has one thread, and nothing in it (such as a C library) keeps state about processes.
    pub unsafe fn assume() -> Self {
        Self(())
    }
}

/// Which of the two a copy is.
#[derive(Debug)]
pub enum Copy {
    /// The new process.
    Child,
    /// The one that asked, with the child's process id in its own PID namespace.
    Parent(i32),
}

/// How [`copy`] makes a child.
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyOptions<'a> {
    /// Namespaces that the child gets new.
    pub namespaces: i32,
    /// The child is born in this cgroup (v2).
    pub cgroup: Option<&'a Fd>,
    /// The child's parent is the caller's parent.
    pub sibling: bool,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3` as a fork: the child goes on from here with a copy of memory and descriptors.
pub fn copy(_: SingleThread, options: CopyOptions<'_>) -> Result<Copy> {
    let mut args = CloneArgs {
        flags: u64::from(options.namespaces.cast_unsigned()),
        exit_signal: if options.sibling { 0 } else { u64::from(libc::SIGCHLD.cast_unsigned()) },
        ..CloneArgs::default()
    };
    if options.sibling {
        // The signal at the exit is then that of the caller's own.
        args.flags |= u64::from(libc::CLONE_PARENT.cast_unsigned());
    }
    if let Some(cgroup) = options.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.raw().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has its own copy of the stack; the token says that nothing else runs.
    let pid = unsafe { call!(SYS_clone3, &raw const args, size_of::<CloneArgs>()) }?;
    Ok(if pid == 0 { Copy::Child } else { Copy::Parent(i32::try_from(pid).unwrap_or(-1)) })
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: no pointers; it does not return.
        let _ = unsafe { call!(SYS_exit_group, code) };
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its process id.
    pub pid: i32,
    /// Its exit code; 128 + the signal where one ended it.
    pub code: i32,
    /// The signal, or 0.
    pub signal: i32,
}

/// Reaps a child that has ended, without waiting; `Ok(None)` when there is none. `ECHILD` without children.
pub fn reap_any() -> Result<Option<Ended>> {
    wait4(-1, libc::WNOHANG)
}

/// Waits for the end of the child `pid`.
pub fn wait(pid: i32) -> Result<Ended> {
    loop {
        match wait4(pid, 0) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn wait4(pid: i32, flags: i32) -> Result<Option<Ended>> {
    let mut status = 0_i32;
    // SAFETY: the kernel writes one number.
    let pid = unsafe { call!(SYS_wait4, pid, &raw mut status, flags, 0_usize) }?;
    let pid = i32::try_from(pid).unwrap_or(-1);
    let signal = status & 0x7f;
    let code = if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
    Ok((pid > 0).then_some(Ended { pid, code, signal }))
}

/// Whether `pid` is a child that is not reaped yet.
pub fn is_child(pid: i32) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let null = core::ptr::null_mut::<u8>();
    // SAFETY: neither details nor usage are asked for.
    unsafe { call!(SYS_waitid, libc::P_PID, pid, null, flags, null) }.is_ok()
}

/// `kill`. Only for a child that is not reaped yet: nobody else can then have its process id.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_kill, pid, signal) }.map(drop)
}

/// `pidfd_open`.
pub fn open(pid: i32) -> Result<Fd> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_pidfd_open, pid, 0_i32) }.map(Fd::new)
}

/// A session, and so a process group, of its own.
pub fn new_session() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_setsid) }.map(drop)
}

/// What `ps` shows; at most 15 bytes.
pub fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: `name` ends in NUL.
    unsafe { call!(SYS_prctl, libc::PR_SET_NAME, name) }.map(drop)
}

/// Orphans among the descendants become children of this process.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1_i32, 0_i32, 0_i32, 0_i32) }.map(drop)
}

/// Nobody may trace this process or read its memory, and its files in procfs belong to root.
pub fn set_undumpable() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_prctl, libc::PR_SET_DUMPABLE, 0_i32, 0_i32, 0_i32, 0_i32) }.map(drop)
}

/// The kernel kills this process when its parent dies. A change of user or group clears it.
pub fn die_with_parent() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0_i32, 0_i32, 0_i32) }.map(drop)
}

/// The file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: no pointers; it cannot fail.
    let _ = unsafe { call!(SYS_umask, mask) };
}

const SIGSET_BYTES: usize = 8;

/// Blocks all signals, or none.
pub fn block_signals(all: bool) -> Result<()> {
    let set: u64 = if all { u64::MAX } else { 0 };
    // SAFETY: a set of the kernel has 64 bits.
    unsafe { call!(SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set, core::ptr::null_mut::<u64>(), SIGSET_BYTES) }
        .map(drop)
}

/// A descriptor that is readable when one of `signals` (which are blocked) waits; non-blocking.
pub fn signal_fd(signals: &[i32]) -> Result<Fd> {
    let set = signals.iter().fold(0_u64, |set, signal| set | 1 << (signal - 1));
    // SAFETY: a set of the kernel has 64 bits.
    unsafe { call!(SYS_signalfd4, -1_i32, &raw const set, SIGSET_BYTES, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }
        .map(Fd::new)
}

/// Waits for one of all blocked signals and takes it.
pub fn take_signal() -> Result<i32> {
    let set = u64::MAX;
    let null = core::ptr::null::<u8>();
    // SAFETY: a set of the kernel has 64 bits; neither details nor a timeout.
    unsafe { call!(SYS_rt_sigtimedwait, &raw const set, null, null, SIGSET_BYTES) }
        .map(|signal| i32::try_from(signal).unwrap_or(0))
}

/// Ignores `signal`, or gives it back its default. Ignoring SIGCHLD reaps children by itself.
pub fn ignore_signal(signal: i32, ignore: bool) -> Result<()> {
    // handler, flags, restorer, mask: SIG_DFL and SIG_IGN need no restorer.
    let action = [if ignore { libc::SIG_IGN } else { libc::SIG_DFL }, 0, 0, 0_usize];
    // SAFETY: `action` is as large as the kernel's struct.
    unsafe { call!(SYS_rt_sigaction, signal, action.as_ptr(), core::ptr::null_mut::<usize>(), SIGSET_BYTES) }.map(drop)
}

/// A list of strings as exec wants it: pointers and a null at the end.
#[derive(Debug)]
pub struct Strings<'a> {
    pages: Pages,
    length: usize,
    texts: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// Room for `count` strings.
    pub fn with_capacity(count: usize) -> Result<Self> {
        Ok(Self { pages: Pages::new((count + 1) * size_of::<usize>())?, length: 0, texts: PhantomData })
    }

    /// Adds one.
    pub fn push(&mut self, text: &'a CStr) -> Result<()> {
        let start = self.length * size_of::<usize>();
        let place = self.pages.get_mut(start..start + size_of::<usize>()).ok_or(Errno::TOOBIG)?;
        place.copy_from_slice(&(text.as_ptr() as usize).to_ne_bytes());
        self.length += 1;
        Ok(())
    }

    fn as_ptr(&self) -> *const u8 {
        self.pages.as_ptr()
    }
}

/// Becomes the program at `path`, or the one that `dir` is where `path` is empty. Returns only on errors.
///
/// A path goes through `execve`, which every seccomp profile that lets programs run knows.
pub fn exec(dir: i32, path: &CStr, arguments: &Strings<'_>, environment: &Strings<'_>) -> Errno {
    let (arguments, environment) = (arguments.as_ptr(), environment.as_ptr());
    let refused = if path.is_empty() {
        // SAFETY: both lists end in null and hold strings that end in NUL.
        unsafe { call!(SYS_execveat, dir, path, arguments, environment, libc::AT_EMPTY_PATH) }
    } else {
        // SAFETY: as above.
        unsafe { call!(SYS_execve, path, arguments, environment) }
    };
    refused.err().unwrap_or(Errno::PROTO)
}
