//! What streams need of a pod: copies of a container's output, its input, and sockets in the pod's network.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use podbus_sandbox_linux::message::{ATTACH_INPUT, ATTACH_STDERR, ATTACH_STDOUT, Message, kind};
use rustix::net::AddressFamily;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio::net::{TcpSocket, TcpStream};

use super::{Container, Outcome, RuntimeError, Sandbox, doing};

/// What a client of an attach may leave unread: then it has a second to go on reading, or is cut off.
const UNREAD_BYTES_MAX: usize = 256 << 10;
/// How long a connection inside a pod may take: it is loopback.
const CONNECT: Duration = Duration::from_secs(5);

/// Our ends of a running container.
pub(crate) struct Attached {
    /// Its terminal, or the pipe of its standard input; `None` where it has none, or it was closed.
    pub(crate) input: Option<OwnedFd>,
    pub(crate) output: Option<OwnedFd>,
    pub(crate) error: Option<OwnedFd>,
}

impl Container {
    /// Joins what the first process reads and writes, from now on.
    pub(crate) async fn attach(&self, input: bool, output: bool, error: bool) -> Outcome<Attached> {
        if !self.is_running() {
            return Err(RuntimeError::WrongState(format!("the container {} is not running", self.body.id)));
        }
        let has_terminal = self.config().tty;
        let (mut flags, mut senders) = (if input { ATTACH_INPUT } else { 0 }, Vec::new());
        let mut copy_of = |wanted: bool, flag: i32| -> Outcome<Option<OwnedFd>> {
            if !wanted {
                return Ok(None);
            }
            let made = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
            let (ours, theirs) = made.map_err(doing("make a pipe"))?;
            // Without the room (a limit of the node) the client may leave less unread.
            let _ = fcntl_setpipe_size(&theirs, UNREAD_BYTES_MAX);
            flags |= flag;
            senders.push(theirs);
            Ok(Some(ours))
        };
        let output = copy_of(output, ATTACH_STDOUT)?;
        let error = copy_of(error && !has_terminal, ATTACH_STDERR)?;
        let fds: Vec<i32> = senders.iter().map(OwnedFd::as_raw_fd).collect();
        let message = Message { kind: kind::ATTACH, a: flags, text: self.body.id.as_bytes(), ..Message::default() };
        let answer = self.sandbox.link()?.request(message, &fds).await?;
        Ok(Attached { input: answer.fds.into_iter().next(), output, error })
    }

    /// Lets go of the shim's end of standard input: it ends when the last client has let go of its own.
    pub(crate) async fn close_input(&self) -> Outcome<()> {
        let message = Message { kind: kind::CLOSE_STDIN, text: self.body.id.as_bytes(), ..Message::default() };
        self.sandbox.link()?.request(message, &[]).await?;
        Ok(())
    }

    /// Waits for the exit.
    pub(crate) async fn exits(&self) {
        // Fails only when the container is gone, and with it this reference.
        let _ = self.exited.subscribe().wait_for(|exited| *exited).await;
    }
}

impl Sandbox {
    /// Connects to an address as a process of the pod would. The shim, which is in the pod's network, makes the socket,
    /// and no thread of the daemon ever enters that network.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Outcome<TcpStream> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let message = Message { kind: kind::SOCKET, a: family.as_raw().into(), ..Message::default() };
        let answer = self.link()?.request(message, &[]).await?;
        let failed = |error| doing(format!("connect to {address} inside the pod"))(error);
        let socket =
            answer.fds.into_iter().next().ok_or_else(|| failed(io::Error::other("the shim made no socket")))?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        match tokio::time::timeout(CONNECT, socket.connect(address)).await {
            Ok(connected) => connected.map_err(failed),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}
