//! The spawner: forks a shim for each pod that the daemon asks for, and leaves when the daemon does.
//!
//! It lives in a mount namespace that holds the state directory and little else, so that each new mount namespace is
//! cheap to copy and sees nothing of the host.

use core::ffi::CStr;

use podbus_sandbox_linux::message::{BYTES_MAX, COOKIE_BYTES, ID_BYTES, Message};
use podbus_sandbox_linux::process::{self, Copy, CopyOptions, SingleThread};
use podbus_sandbox_linux::socket::{self, Fds};
use podbus_sandbox_linux::{Fd, Result, file, mount, namespace};

use crate::{pod, rootfs};

const SOCKET: i32 = 0;

/// Serves until the daemon closes its end. Returns the exit code.
pub(crate) fn run(single: SingleThread, state_dir: &CStr) -> i32 {
    let Ok(heritage) = prepare(state_dir).and_then(|()| Heritage::make(single)) else { return 3 };
    if socket::send(SOCKET, &[0], &[], true).is_err() {
        return 0;
    }
    let mut packet = [0; BYTES_MAX];
    let mut fds = Fds::none();
    loop {
        match socket::receive(SOCKET, &mut packet, &mut fds) {
            Ok(0) | Err(_) => return 0,
            Ok(length) => {
                let Some(message) = Message::decode(&packet[..length]) else { continue };
                let Ok(listener) = fds.take(0) else { continue };
                // A fork that fails closes the listener, which the daemon sees at its end.
                if let Ok(Copy::Child) = process::copy(single, CopyOptions::default()) {
                    process::exit(become_shim(single, message.text, listener, heritage));
                }
            }
        }
    }
}

/// Leaves the host's mounts behind; what a shim needs of them is in `mnt/` of the state directory.
fn prepare(state_dir: &CStr) -> Result<()> {
    process::set_name(c"podbus-spawner")?;
    process::set_undumpable()?;
    process::new_session()?;
    process::block_signals(false)?;
    process::set_umask(0);
    // Shims that have ended are nobody's business: their connection tells.
    process::ignore_signal(libc::SIGCHLD, true)?;
    namespace::unshare(namespace::MOUNT)?;
    mount::make_all_private()?;
    let state = mount::copy(file::CWD, state_dir, false)?;
    mount::set(state.raw(), 0, Some(mount::Propagation::Private), true)?;
    let target = file::open(file::CWD, state_dir, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(&state, &target)?;
    namespace::chdir(state_dir)?;
    mount::pivot_here()?;
    attach(c"/mnt/proc", &mount::new(c"proc", &[], mount::NOSUID | mount::NODEV | mount::NOEXEC)?)?;
    attach(c"/mnt/dev", &mount::new(c"tmpfs", &[(c"mode", c"755")], mount::NOSUID | mount::NOEXEC)?)?;
    for (path, _, major, minor) in DEVICES {
        file::mknod(file::CWD, path, libc::S_IFCHR | 0o666, file::device(major, minor))?;
    }
    let null = file::open(file::CWD, c"/mnt/dev/null", libc::O_RDWR, 0)?;
    file::dup_onto(null.raw(), 1)?;
    file::dup_onto(null.raw(), 2)
}

/// What all shims inherit.
pub(crate) struct Heritage {
    /// The mount namespace of every pause: an empty root, and nothing of the host. One for all, since it cannot be changed
    /// from within. Containers begin with a copy of it: to leave an old root costs each of them a wait for RCU.
    pub(crate) empty: Fd,
    /// Their PID namespace, which is the node's.
    pub(crate) pids: Fd,
}

impl Heritage {
    fn make(single: SingleThread) -> Result<Self> {
        let pids = file::open(file::CWD, c"/mnt/proc/self/ns/pid", libc::O_RDONLY, 0)?;
        Ok(Self { empty: empty_mounts(single)?, pids })
    }
}

fn empty_mounts(single: SingleThread) -> Result<Fd> {
    let (ours, theirs) = socket::pair()?;
    if let Copy::Child = process::copy(single, CopyOptions { namespaces: namespace::MOUNT, ..CopyOptions::default() })?
    {
        let made = file::open(file::CWD, c"/mnt/proc/self/ns/mnt", libc::O_RDONLY, 0)
            .and_then(|made| rootfs::enter_empty().map(|()| made))
            .and_then(|made| socket::send(theirs.raw(), &[0], &[made.raw()], true));
        process::exit(i32::from(made.is_err()));
    }
    drop(theirs);
    let mut fds = Fds::none();
    socket::receive(ours.raw(), &mut [0; 1], &mut fds)?;
    fds.take(0)
}

/// The device files of every container, as the spawner keeps them, and by name.
pub(crate) const DEVICES: [(&CStr, &CStr, u32, u32); 6] = [
    (c"/mnt/dev/null", c"null", 1, 3),
    (c"/mnt/dev/zero", c"zero", 1, 5),
    (c"/mnt/dev/full", c"full", 1, 7),
    (c"/mnt/dev/random", c"random", 1, 8),
    (c"/mnt/dev/urandom", c"urandom", 1, 9),
    (c"/mnt/dev/tty", c"tty", 5, 0),
];

fn attach(path: &CStr, mount: &Fd) -> Result<()> {
    let target = file::open(file::CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    mount::attach(mount, &target)
}

fn become_shim(single: SingleThread, text: &[u8], listener: Fd, heritage: Heritage) -> i32 {
    let Some((id, rest)) = text.split_first_chunk::<ID_BYTES>() else { return 2 };
    let Some(cookie) = rest.first_chunk::<COOKIE_BYTES>() else { return 2 };
    let prepared = process::set_name(c"podbus-spare")
        .and_then(|()| process::new_session())
        .and_then(|()| process::become_subreaper())
        .and_then(|()| process::ignore_signal(libc::SIGCHLD, false))
        .and_then(|()| process::block_signals(true))
        .and_then(|()| file::dup_onto(1, SOCKET));
    match prepared {
        Ok(()) => pod::run(single, *id, *cookie, listener, heritage),
        Err(_) => 3,
    }
}
