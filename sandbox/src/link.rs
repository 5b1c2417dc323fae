//! The connection to a pod's shim: requests with answers, and what the shim tells unasked.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use podbus_sandbox_linux::message::{BYTES_MAX, Message, VERSION, kind};
use podbus_sandbox_linux::socket::{self, Fds};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::ready::watch;

/// No answer takes longer: the shim itself gives a start 20 s.
const ANSWER: Duration = Duration::from_secs(30);

/// Why a request to a shim failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The shim refused or failed.
    #[error("cannot {step}: {source}")]
    Refused {
        /// At which step, and of what.
        step: String,
        /// The kernel's answer.
        source: io::Error,
        /// Of a program that could not be run.
        exit_code: Option<i32>,
    },
    /// The shim is gone, or not the one of the record.
    #[error("the pod's shim is gone")]
    Gone,
    /// No answer came.
    #[error("the pod's shim did not answer within {} s", ANSWER.as_secs())]
    Timeout,
    /// The socket failed.
    #[error("cannot reach the pod's shim: {0}")]
    Socket(#[from] io::Error),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) a: i32,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What a shim tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The exit of a container stands in its record.
    Exited(String),
    /// Pause is dead.
    PauseExited,
    /// The shim is dead, or its connection was taken over.
    Gone,
}

/// A request that was sent.
#[must_use = "its answer says whether it was done"]
pub(crate) struct Asked {
    sequence: u32,
    /// `None`: it could not be sent.
    answer: Option<oneshot::Receiver<Reply>>,
}

/// A request's answer, or the refusal.
type Reply = Result<Answer, LinkError>;

/// How a process that was asked for ended: exit code and signal.
pub(crate) type ExecEnd = (i32, i32);

/// A connection to a shim. It ends with the last reference.
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    sequence: AtomicU32,
    is_gone: AtomicBool,
    pending: Mutex<HashMap<u32, oneshot::Sender<Reply>>>,
    execs: Mutex<HashMap<u64, oneshot::Sender<ExecEnd>>>,
}

/// Opens the directory of a pod, through which its socket is reached: a socket's own path may have 108 bytes only.
fn through(dir: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/s", fd.as_raw_fd()))?;
    Ok((fd, address))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Binds the socket of the pod whose directory is `dir`: before its shim is made, which inherits it.
pub(crate) fn bind(dir: &Path) -> io::Result<OwnedFd> {
    let (_dir, address) = through(dir)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::fs::chmod(dir.join("s"), Mode::RUSR | Mode::WUSR)?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

impl Link {
    /// Connects to the shim of the pod whose directory is `dir`, and proves to be its daemon. Whether pause lives.
    ///
    /// `notify` is called for each notice, in order, the last being [`Notice::Gone`].
    pub(crate) async fn connect(
        dir: &Path,
        id_and_cookie: &[u8],
        notify: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, bool), LinkError> {
        let (link, hello) = Self::connect_ahead(dir, id_and_cookie, notify).await?;
        let answer = link.answer(hello).await?;
        Ok((link, answer.a != 0))
    }

    /// As [`Link::connect`], for a shim that may not be there yet: its socket holds what is sent until it is. So a new
    /// shim is woken once, and finds all that it needs.
    pub(crate) async fn connect_ahead(
        dir: &Path,
        id_and_cookie: &[u8],
        notify: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<(Arc<Self>, Asked), LinkError> {
        let socket = new_socket()?;
        let (_dir, address) = through(dir)?;
        rustix::net::connect(&socket, &address).map_err(|_| LinkError::Gone)?;
        let link = Arc::new(Self {
            socket: watch(socket)?,
            sequence: AtomicU32::new(1),
            is_gone: AtomicBool::new(false),
            pending: Mutex::default(),
            execs: Mutex::default(),
        });
        let reader = Arc::clone(&link);
        tokio::spawn(async move {
            reader.read(&notify).await;
            reader.give_up();
            notify(Notice::Gone);
        });
        let hello = Message { kind: kind::HELLO, number: VERSION, text: id_and_cookie, ..Message::default() };
        let asked = link.ask(hello, &[]).await;
        Ok((link, asked))
    }

    /// Ends the connection. A shim whose sandbox is not set up by then ends with it.
    pub(crate) fn close(&self) {
        let _ = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both); // or it is gone already
    }

    /// Whether the shim is known to be gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// Asks and waits for the answer.
    pub(crate) async fn request(&self, message: Message<'_>, fds: &[i32]) -> Reply {
        let asked = self.ask(message, fds).await;
        self.answer(asked).await
    }

    /// Asks. The answer is waited for by [`Link::answer`].
    pub(crate) async fn ask(&self, message: Message<'_>, fds: &[i32]) -> Asked {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed).max(1);
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).insert(sequence, sender);
        let sent = self.send(&Message { sequence, ..message }, fds).await;
        Asked { sequence, answer: sent.is_ok().then_some(receiver) }
    }

    /// Waits for the answer to what was asked.
    pub(crate) async fn answer(&self, asked: Asked) -> Reply {
        let answer = match asked.answer {
            Some(receiver) => tokio::time::timeout(ANSWER, receiver).await,
            None => Ok(Ok(Err(LinkError::Gone))),
        };
        lock(&self.pending).remove(&asked.sequence);
        match answer {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(LinkError::Gone),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    /// Announces that the process `number` will be asked for, and where its end is to be told.
    pub(crate) fn expect_exec(&self, number: u64) -> oneshot::Receiver<ExecEnd> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.execs).insert(number, sender);
        receiver
    }

    async fn send(&self, message: &Message<'_>, fds: &[i32]) -> io::Result<()> {
        let mut packet = [0; BYTES_MAX];
        let length = message.encode(&mut packet);
        let send =
            |socket: &OwnedFd| socket::send(socket.as_raw_fd(), &packet[..length], fds, false).map_err(io::Error::from);
        // There is room all but always: to wait for the word of the async runtime first costs a turn of it.
        match send(self.socket.get_ref()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.async_io(tokio::io::Interest::WRITABLE, send).await
            }
            sent => sent,
        }
    }

    /// Reads until the end.
    async fn read(&self, notify: &impl Fn(Notice)) {
        loop {
            let mut packet = [0; BYTES_MAX];
            let received = self
                .socket
                .async_io(tokio::io::Interest::READABLE, |socket| {
                    let mut fds = Fds::none();
                    let length = socket::receive(socket.as_raw_fd(), &mut packet, &mut fds)?;
                    let fds: Vec<OwnedFd> =
                        (0..fds.len()).filter_map(|at| fds.take(at).ok()).map(OwnedFd::from).collect();
                    Ok((length, fds))
                })
                .await;
            let Ok((length, fds)) = received else { return };
            let Some(message) = Message::decode(&packet[..length]) else { return };
            match message.kind {
                kind::DONE => self.settle(message.sequence, Ok(Answer { a: message.a, fds })),
                kind::FAILED => self.settle(
                    message.sequence,
                    Err(LinkError::Refused {
                        step: String::from_utf8_lossy(message.text).into_owned(),
                        source: io::Error::from_raw_os_error(message.a),
                        exit_code: (message.b != 0).then_some(message.b),
                    }),
                ),
                kind::EXITED => notify(Notice::Exited(String::from_utf8_lossy(message.text).into_owned())),
                kind::PAUSE_EXITED => notify(Notice::PauseExited),
                kind::EXEC_EXITED => {
                    if let Some(sender) = lock(&self.execs).remove(&message.number) {
                        let _ = sender.send((message.a, message.b));
                    }
                }
                other => tracing::debug!(kind = other, "a message of the shim that is not known here"),
            }
        }
    }

    fn settle(&self, sequence: u32, reply: Reply) {
        if let Some(sender) = lock(&self.pending).remove(&sequence) {
            let _ = sender.send(reply);
        }
    }

    /// Nothing will be answered any more.
    fn give_up(&self) {
        self.is_gone.store(true, Ordering::Release);
        lock(&self.pending).clear();
        lock(&self.execs).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner) // each change is complete by itself
}
