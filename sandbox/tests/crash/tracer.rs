//! Kills a process just before its nth system call that changes anything outside of it.
//!
//! So each gap between two effects is a point of death by itself: no list of points to keep, and none to forget. After
//! a message there is a second one: what the receiver makes of it takes its time.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use podbus_test_support::wait::{PATIENCE, retry_blocking};

use crate::runtime::host::is_alive;

/// `PTRACE_SYSCALL_INFO_ENTRY`.
const ENTRY: u8 = 1;

/// Whom to follow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// The threads of the process.
    Threads,
    /// Its children as well; each of them counts, and may be the one that dies.
    Children,
}

/// A death that is to come.
pub(crate) struct Doom {
    state: Arc<Mutex<State>>,
}

enum State {
    Pending,
    Struck { pid: Pid, point: String },
    CalledOff,
}

impl Doom {
    /// Lets `pid` pass so many points from now on, and kills it at the next.
    pub(crate) fn on(pid: i32, points: usize, follow: Follow) -> Self {
        let state = Arc::new(Mutex::new(State::Pending));
        let (sender, ready) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        // What a thread traces is its own: the kernel lets go of it when the thread ends.
        std::thread::spawn(move || {
            let mut tracer = Tracer::attach(pid, follow);
            sender.send(()).unwrap();
            tracer.run(points, &shared);
        });
        ready.recv().unwrap();
        Self { state }
    }

    /// Kills nobody any more. Where one died, if one did: it is dead by now.
    pub(crate) fn call_off(self) -> Option<String> {
        let before = std::mem::replace(&mut *self.state.lock().unwrap(), State::CalledOff);
        let State::Struck { pid, point } = before else { return None };
        let is_dead = || (!is_alive(pid.as_raw())).then_some(()).ok_or("killed and not dead");
        retry_blocking(PATIENCE, is_dead).unwrap();
        Some(point)
    }
}

struct Tracer {
    follow: Follow,
    /// Threads that are sending, and what.
    sending: HashMap<Pid, String>,
    /// Children that have become another program, whose steps are its own.
    programs: HashSet<Pid>,
}

impl Tracer {
    fn attach(pid: i32, follow: Follow) -> Self {
        let mut options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
        if follow == Follow::Children {
            options |= Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        }
        let mut known = Vec::new();
        // A thread that was born before its maker was seized is found at the next look.
        loop {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let new: Vec<i32> = threads
                .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
                .filter(|thread| !known.contains(thread))
                .collect();
            if new.is_empty() {
                return Self { follow, sending: HashMap::new(), programs: HashSet::new() };
            }
            for thread in new {
                known.push(thread);
                let thread = Pid::from_raw(thread);
                // A thread that ends meanwhile, or that its maker's seizure brought along.
                if ptrace::seize(thread, options).is_ok() {
                    let _ = ptrace::interrupt(thread);
                }
            }
        }
    }

    /// Runs until the death, until it is called off, or until all have ended.
    fn run(&mut self, points: usize, state: &Mutex<State>) {
        let mut passed = 0;
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            let Some(thread) = status.pid() else { continue };
            let mut signal = None;
            match status {
                WaitStatus::PtraceSyscall(_) => {
                    if let Some(point) = self.point(thread) {
                        let mut state = state.lock().unwrap();
                        if matches!(*state, State::CalledOff) {
                            return;
                        }
                        if passed == points {
                            let pid = if self.follow == Follow::Threads { thread_group(thread) } else { thread };
                            kill(pid, Signal::SIGKILL).unwrap();
                            *state = State::Struck { pid, point };
                            return;
                        }
                        passed += 1;
                    }
                }
                WaitStatus::Stopped(_, delivered) => signal = Some(delivered),
                _ => {}
            }
            let _ = ptrace::syscall(thread, signal); // fails for what has ended
        }
    }

    /// Where a thread stands, if that is a point to die at.
    fn point(&mut self, thread: Pid) -> Option<String> {
        let is_entry = ptrace::syscall_info(thread).ok()?.op == ENTRY;
        if !is_entry {
            return self.sending.remove(&thread).map(|sent| format!("after {sent}"));
        }
        let effect = Call::of(thread).filter(|_| !self.programs.contains(&thread))?.effect()?;
        if effect.starts_with("execve") {
            self.programs.insert(thread);
        }
        if effect.contains("socket:") {
            self.sending.insert(thread, effect.clone());
        }
        Some(format!("before {effect}"))
    }
}

fn thread_group(thread: Pid) -> Pid {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:")).unwrap();
    Pid::from_raw(line.trim().parse().unwrap())
}

/// A system call that is about to be made.
struct Call {
    thread: Pid,
    number: i64,
    arguments: [u64; 3],
}

/// How a call is looked at: what tells which effect it has.
#[derive(Clone, Copy)]
enum Kind {
    /// Has one, whatever it is called with; the argument that is a path, if one is.
    Always(Option<usize>),
    /// Opens a path, which may make a file.
    Open,
    /// Writes to a descriptor.
    Write,
}

/// The calls that change something outside of the process.
fn calls() -> HashMap<i64, (&'static str, Kind)> {
    use Kind::{Always, Open, Write};
    macro_rules! table {
        ($($name:ident $kind:expr),* $(,)?) => {
            [$((nix::libc::$name, (stringify!($name).trim_start_matches("SYS_"), $kind))),*]
        };
    }
    let common = table![
        SYS_openat Open,
        SYS_mkdirat Always(Some(1)),
        SYS_mknodat Always(Some(1)),
        SYS_unlinkat Always(Some(1)),
        SYS_renameat2 Always(Some(1)),
        SYS_linkat Always(Some(1)),
        SYS_symlinkat Always(Some(0)),
        SYS_fchmodat Always(Some(1)),
        SYS_fchownat Always(Some(1)),
        SYS_ftruncate Always(None),
        SYS_write Write,
        SYS_writev Write,
        SYS_pwrite64 Write,
        SYS_sendto Write,
        SYS_sendmsg Write,
        SYS_bind Always(None),
        SYS_mount Always(Some(1)),
        SYS_umount2 Always(Some(0)),
        SYS_move_mount Always(None),
        SYS_fsmount Always(None),
        SYS_open_tree Always(Some(1)),
        SYS_mount_setattr Always(None),
        SYS_pivot_root Always(None),
        SYS_unshare Always(None),
        SYS_setns Always(None),
        SYS_clone3 Always(None),
        SYS_clone Always(None),
        SYS_kill Always(None),
        SYS_pidfd_send_signal Always(None),
        SYS_execveat Always(None),
        SYS_execve Always(None),
    ];
    #[cfg(target_arch = "x86_64")]
    let old = table![
        SYS_open Open,
        SYS_mkdir Always(Some(0)),
        SYS_rmdir Always(Some(0)),
        SYS_unlink Always(Some(0)),
        SYS_rename Always(Some(0)),
        SYS_symlink Always(Some(0)),
        SYS_chmod Always(Some(0)),
        SYS_vfork Always(None),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let old = [];
    common.into_iter().chain(old).collect()
}

impl Call {
    /// What a stopped thread asks the kernel for.
    fn of(thread: Pid) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        Some(Self { thread, number, arguments: [argument()?, argument()?, argument()?] })
    }

    /// What it changes, in words; `None` where that is nothing.
    fn effect(&self) -> Option<String> {
        thread_local! {
            static CALLS: HashMap<i64, (&'static str, Kind)> = calls();
        }
        let (name, kind) = CALLS.with(|calls| calls.get(&self.number).copied())?;
        match kind {
            Kind::Always(path) => {
                Some(path.map_or_else(|| name.to_owned(), |at| format!("{name} {}", self.text(self.arguments[at]))))
            }
            Kind::Open => {
                let (path, flags) = if name == "open" { (0, 1) } else { (1, 2) };
                let creates = i32::try_from(self.arguments[flags]).is_ok_and(|flags| flags & nix::libc::O_CREAT != 0);
                let path = self.text(self.arguments[path]);
                // There only the kernel makes files.
                let is_kernels = path.starts_with("/sys/") || path.starts_with("/proc/");
                (creates && !is_kernels).then(|| format!("{name} {path}"))
            }
            Kind::Write => {
                let target = self.descriptor(self.arguments[0])?;
                // Its own wakeups, what it has not handed on yet, and what it says in its log.
                let is_own = ["anon_inode:", "/memfd:"].iter().any(|own| target.starts_with(own));
                let is_own = is_own || matches!(self.arguments[0], 1 | 2);
                (!is_own).then(|| format!("{name} to {target}"))
            }
        }
    }

    fn descriptor(&self, number: u64) -> Option<String> {
        let link: PathBuf = std::fs::read_link(format!("/proc/{}/fd/{number}", self.thread)).ok()?;
        let target = link.display().to_string();
        // The kernel answers within the call: what comes after the message is the next point.
        Some(if self.is_netlink(&target) { "netlink".to_owned() } else { target })
    }

    fn is_netlink(&self, target: &str) -> bool {
        let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) else { return false };
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/netlink", self.thread)).unwrap_or_default();
        sockets.lines().any(|line| line.split_whitespace().last() == Some(inode))
    }

    /// The beginning of a text in the memory of the thread.
    fn text(&self, address: u64) -> String {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = [0; 256];
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.thread));
        let length = memory.and_then(|memory| memory.read_at(&mut bytes, address)).unwrap_or(0);
        let text = bytes[..length].split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}
