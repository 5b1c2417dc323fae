//! The standard descriptors of what a handler makes: pipes, or the terminal that it hands over.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use podbus_sandbox_linux::socket::{self, Fds};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::UnixListener;

/// How long the terminal may take to come once the handler has ended.
const TERMINAL: Duration = Duration::from_secs(5);
/// What a failed handler may have said on standard error.
const ERROR_BYTES_MAX: usize = 4096;

/// Our ends of a container's standard descriptors.
pub(super) struct Ours {
    pub(super) input: Option<OwnedFd>,
    pub(super) output: OwnedFd,
    /// A terminal has none.
    pub(super) error: Option<OwnedFd>,
}

/// What a command of a handler gets as its standard descriptors.
pub(super) struct Theirs {
    pub(super) input: Option<OwnedFd>,
    pub(super) output: OwnedFd,
    pub(super) error: OwnedFd,
}

/// A socket on which a handler hands over the terminal that it made.
pub(super) struct Console {
    path: PathBuf,
    listener: UnixListener,
}

pub(super) fn pipes(with_input: bool) -> io::Result<(Ours, Theirs)> {
    let (output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, their_error) = pipe_with(PipeFlags::CLOEXEC)?;
    let (their_input, input) = match with_input {
        true => pipe_with(PipeFlags::CLOEXEC).map(|(theirs, ours)| (Some(theirs), Some(ours)))?,
        false => (None, None),
    };
    let theirs = Theirs { input: their_input, output: their_output, error: their_error };
    Ok((Ours { input, output, error: Some(error) }, theirs))
}

impl Ours {
    /// What the command has said on standard error up to now.
    pub(super) fn said(&self) -> String {
        let Some(pipe) = &self.error else { return String::new() };
        let mut buffer = vec![0; ERROR_BYTES_MAX];
        let length =
            rustix::io::ioctl_fionbio(pipe, true).and_then(|()| rustix::io::read(pipe, &mut buffer)).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    pub(super) fn of_terminal(terminal: OwnedFd) -> io::Result<Self> {
        Ok(Self { input: Some(terminal.try_clone()?), output: terminal, error: None })
    }
}

impl Theirs {
    /// What is written to nobody.
    pub(super) fn null() -> io::Result<Self> {
        let null = || std::fs::File::options().write(true).open("/dev/null").map(OwnedFd::from);
        Ok(Self { input: None, output: null()?, error: null()? })
    }
}

impl Console {
    /// A socket in `dir`.
    pub(super) fn listen(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("{:016x}", rand::random::<u64>()));
        let console = Self { listener: UnixListener::bind(&path)?, path };
        rustix::fs::chmod(&console.path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        Ok(console)
    }

    /// The handler's flag for it.
    pub(super) fn flag(&self) -> [&str; 2] {
        ["--console-socket", self.path.to_str().unwrap_or_default()]
    }

    /// The terminal's other side, which the handler sends as a descriptor.
    pub(super) async fn take(self) -> io::Result<OwnedFd> {
        let receive = async {
            let (stream, _) = self.listener.accept().await?;
            loop {
                stream.readable().await?;
                let (mut text, mut fds) = ([0; 256], Fds::none());
                let received = stream.try_io(tokio::io::Interest::READABLE, || {
                    socket::receive(stream.as_fd().as_raw_fd(), &mut text, &mut fds).map_err(io::Error::from)
                });
                match received {
                    Ok(_) => return fds.take(0).map(OwnedFd::from).map_err(io::Error::from),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::time::timeout(TERMINAL, receive).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
