//! Streams of exec, attach and port-forward: an HTTP server on loopback that speaks what clients of CRI speak.
//!
//! ```text
//!   Exec, Attach, PortForward ──> URL with a token, good for one connection within a minute
//!                                   │
//!   HTTP upgrade ── negotiate ──┬─ SPDY/3.1    ─ spdy      ┐            ┌─ exec     pipes or a terminal
//!                               ├─ WebSocket   ─ websocket ┴─ Client ───┤
//!                               │                                       └─ attach   the shim's copies
//!                               └─ SPDY/3.1, also inside a WebSocket ─── forward    sockets of the pod's network
//! ```
//!
//! The carriers know nothing of containers: they turn a connection into a [`client::Client`].

mod attach;
mod client;
mod exec;
mod forward;
mod negotiate;
mod relay;
mod server;
mod spdy;
mod token;
mod websocket;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podbus_common_cri::runtime::{AttachRequest, ExecRequest};
use podbus_common_spdy::LINGER;
use tokio::net::TcpSocket;
use tonic::Status;

use self::token::Tokens;
use crate::runtime::{Container, Runtime, Sandbox, lock};

/// How long a client may take to open its streams (as the kubelet has it).
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// How long a connection may be silent (as the kubelet has it).
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// What the kernel keeps for a client that does not read: then whatever writes to it waits.
const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// What a URL stands for.
enum Admitted {
    Exec { container: Arc<Container>, request: ExecRequest },
    Attach { container: Arc<Container>, request: AttachRequest },
    PortForward { sandbox: Arc<Sandbox>, ports: Vec<i32> },
}

impl Admitted {
    /// The first part of the URL's path.
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

/// The server of streams.
pub(crate) struct Streaming {
    address: SocketAddr,
    tokens: Arc<Mutex<Tokens<Admitted>>>,
}

impl Streaming {
    /// Listens on a free port of loopback, for as long as the runtime lives.
    pub(crate) async fn start(runtime: Arc<Runtime>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_send_buffer_size(UNSENT_BYTES_MAX)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(128)?;
        let address = listener.local_addr()?;
        let tokens = Arc::default();
        tokio::spawn(server::accept(listener, runtime, Arc::clone(&tokens)));
        Ok(Self { address, tokens })
    }

    /// A URL by which a process can be started in a container.
    pub(crate) fn exec(&self, container: Arc<Container>, request: ExecRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        check_running(&container)?;
        self.admit(Admitted::Exec { container, request })
    }

    /// A URL by which the first process of a container can be talked to.
    pub(crate) fn attach(&self, container: Arc<Container>, request: AttachRequest) -> Result<String, Status> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        check_running(&container)?;
        if request.tty != container.config().tty {
            let has = if request.tty { "no terminal" } else { "a terminal" };
            return Err(Status::invalid_argument(format!("the container {} has {has}", container.body.id)));
        }
        self.admit(Admitted::Attach { container, request })
    }

    /// A URL by which ports inside a pod can be reached.
    pub(crate) fn port_forward(&self, sandbox: Arc<Sandbox>, ports: Vec<i32>) -> Result<String, Status> {
        if let Some(port) = ports.iter().find(|port| forward::port(**port).is_none()) {
            return Err(Status::invalid_argument(format!("{port} is not a port: they go from 1 to 65535")));
        }
        if !sandbox.is_ready() {
            return Err(Status::failed_precondition(format!("the sandbox {} is not ready", sandbox.body.id)));
        }
        self.admit(Admitted::PortForward { sandbox, ports })
    }

    fn admit(&self, admitted: Admitted) -> Result<String, Status> {
        let kind = admitted.kind();
        let token = format!("{kind}/{:032x}", rand::random::<u128>());
        let url = format!("http://{}/{token}", self.address);
        let is_kept = lock(&self.tokens).keep(token, admitted, Instant::now());
        is_kept.then_some(url).ok_or_else(|| {
            Status::resource_exhausted(format!("{} streams wait for their clients already", token::TOKENS_MAX))
        })
    }
}

fn check_streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), Status> {
    if tty && stderr {
        let text = "a terminal has no standard error of its own: tty and stderr are both set";
        return Err(Status::invalid_argument(text));
    }
    if !(stdin || stdout || stderr) {
        return Err(Status::invalid_argument("one of stdin, stdout and stderr has to be set"));
    }
    Ok(())
}

fn check_running(container: &Container) -> Result<(), Status> {
    if container.is_running() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("the container {} is not running", container.body.id)))
}
