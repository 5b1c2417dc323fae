//! The spawner, as the daemon sees it: a process that forks a shim for each pod.
//!
//! The daemon has threads and a heap, and a fork of it would copy both: it asks a small process instead.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use podbus_sandbox_linux::message::{BYTES_MAX, Message};
use podbus_sandbox_linux::{poll, socket};

use crate::program;

/// How long the spawner may take to leave the host's mounts behind.
const READY: Duration = Duration::from_secs(10);

/// What a shim finds in the state directory.
const MOUNT_POINTS: [&str; 5] = ["mnt/root", "mnt/proc", "mnt/sys", "mnt/dev", "mnt/shm"];

/// The places that every container has something mounted on, as the lowest layer of all, relative to the state
/// directory. An image that lacks them would get them in its writable layer: files on the disk, for each container.
pub(crate) const LOWEST_LAYER: &str = "mnt/lowest";
const LOWEST_DIRECTORIES: [&str; 4] = ["proc", "sys", "dev", "etc"];
const LOWEST_FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];

/// Starts shims. One that has died is started again at the next pod.
pub(crate) struct Spawner {
    state_dir: PathBuf,
    program: OwnedFd,
    /// Told of each new process, for its cgroup.
    started: Box<dyn Fn(u32) + Send + Sync>,
    running: Mutex<Option<Running>>,
}

struct Running {
    process: Child,
    socket: OwnedFd,
}

impl Spawner {
    /// Starts one for the pods beneath `state_dir`. `started` is told its process id, also that of a later one, before
    /// it makes any shim.
    pub(crate) fn start(state_dir: &Path, started: impl Fn(u32) + Send + Sync + 'static) -> io::Result<Self> {
        for path in MOUNT_POINTS {
            std::fs::create_dir_all(state_dir.join(path))?;
        }
        make_lowest_layer(&state_dir.join(LOWEST_LAYER))?;
        let program = program::sealed("podbus-shim", program::SHIM)?;
        let running = Mutex::new(None);
        let spawner = Self { state_dir: state_dir.to_owned(), program, started: Box::new(started), running };
        *spawner.lock() = Some(spawner.run()?);
        Ok(spawner)
    }

    /// Makes a shim that owns `listener`. It tells its success there; its failure closes it.
    pub(crate) fn spawn(&self, id_and_cookie: &[u8], listener: &OwnedFd) -> io::Result<()> {
        let mut place = self.lock();
        let mut packet = [0; BYTES_MAX];
        let length = Message { text: id_and_cookie, ..Message::default() }.encode(&mut packet);
        if let Some(running) = place.as_ref()
            && socket::send(running.socket.as_raw_fd(), &packet[..length], &[listener.as_raw_fd()], true).is_ok()
        {
            return Ok(());
        }
        tracing::warn!("the spawner is gone, starting another");
        let running = self.run()?;
        socket::send(running.socket.as_raw_fd(), &packet[..length], &[listener.as_raw_fd()], true)?;
        *place = Some(running);
        Ok(())
    }

    fn run(&self) -> io::Result<Running> {
        let (ours, theirs) = socket::pair()?;
        let process = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0("podbus-spawner")
            .arg(&self.state_dir)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let timeout = u32::try_from(READY.as_millis()).unwrap_or(u32::MAX);
        let mut hello = [0; 1];
        let is_ready = poll::readable(ours.raw(), timeout)?
            && socket::receive(ours.raw(), &mut hello, &mut socket::Fds::none())? == 1;
        if !is_ready {
            return Err(io::Error::other(
                "the spawner cannot leave the host's mounts: is this root, with CAP_SYS_ADMIN?",
            ));
        }
        (self.started)(process.id());
        Ok(Running { process, socket: ours.into() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner) // replaced as a whole
    }
}

fn make_lowest_layer(layer: &Path) -> io::Result<()> {
    for path in LOWEST_DIRECTORIES {
        std::fs::create_dir_all(layer.join(path))?;
    }
    LOWEST_FILES.iter().try_for_each(|path| std::fs::write(layer.join(path), ""))
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends when our end of the socket does, which is after this: so it is not waited for here, but killed. The
        // shims that it forked are their own masters.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
