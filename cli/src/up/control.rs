//! The socket on which `up` takes orders from `down`, `node` and a second `up`: JSON, one message a line.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::pods::Fate;
use super::status::Status;
use crate::failure::{Failure, Outcome};

/// No order is longer.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Orders that wait for `up`; more wait in their sockets.
const ORDERS_MAX: usize = 8;

/// What `up` may be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Tell the status now and whenever it changes.
    Watch,
    /// End the cluster.
    Stop {
        /// What happens to its pods.
        pods: Fate,
    },
    /// End a node's agent and runtime; its pods run on.
    NodeStop {
        /// Which node.
        node: String,
        /// By SIGKILL.
        kill: bool,
    },
    /// Start what `NodeStop` ended.
    NodeStart {
        /// Which node.
        node: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// It cannot be done.
    Refused(String),
    /// To `Watch`.
    Status(Box<Status>),
}

/// An order, and where its answer goes.
pub(crate) type Order = (Request, oneshot::Sender<Reply>);

/// Takes orders at `path` from now on, until the receiver is dropped.
pub(crate) fn listen(path: &Path, status: watch::Receiver<Status>) -> io::Result<mpsc::Receiver<Order>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (orders_tx, orders) = mpsc::channel(ORDERS_MAX);
    tokio::spawn(async move {
        while !orders_tx.is_closed() {
            let Ok((stream, _)) = listener.accept().await else { break };
            let (orders_tx, status) = (orders_tx.clone(), status.clone());
            tokio::spawn(async move {
                // A client that goes away early needs no answer.
                let _ = serve(stream, &orders_tx, status).await;
            });
        }
    });
    Ok(orders)
}

async fn serve(
    mut stream: UnixStream,
    orders: &mpsc::Sender<Order>,
    mut status: watch::Receiver<Status>,
) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let request = match serde_json::from_str(&line) {
        Ok(Request::Watch) => loop {
            let now = Reply::Status(Box::new(status.borrow_and_update().clone()));
            write_line(&mut write, &now).await?;
            if status.changed().await.is_err() {
                return Ok(());
            }
        },
        Ok(request) => request,
        Err(error) => {
            return write_line(&mut write, &Reply::Refused(format!("no order of `podbus up`: {error}"))).await;
        }
    };
    let (reply_tx, reply) = oneshot::channel();
    let stopping = || Reply::Refused("podbus up is stopping".to_owned());
    let reply = match orders.send((request, reply_tx)).await {
        Ok(()) => reply.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    };
    write_line(&mut write, &reply).await
}

async fn write_line(write: &mut (impl tokio::io::AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// A conversation with a running `up`.
pub(crate) struct Conversation {
    lines: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects and asks; `None` when nobody listens.
    pub(crate) async fn open(path: &Path, request: &Request) -> Option<Self> {
        let mut stream = UnixStream::connect(path).await.ok()?;
        write_line(&mut stream, request).await.ok()?;
        Some(Self { lines: BufReader::new(stream) })
    }

    /// The next answer; `None` when `up` has ended.
    pub(crate) async fn next(&mut self) -> Option<Reply> {
        let mut line = String::new();
        match self.lines.read_line(&mut line).await {
            Ok(length) if length > 0 => serde_json::from_str(&line).ok(),
            _ => None,
        }
    }

    /// The one answer to an order.
    pub(crate) async fn answer(mut self) -> Outcome {
        match self.next().await {
            Some(Reply::Refused(why)) => Err(Failure::local(why)),
            Some(_) => Ok(()),
            None => Err(Failure::local("`podbus up` ended before it answered")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::status::Phase;

    fn status() -> Status {
        Status {
            name: "abcde".into(),
            state_dir: "/s".into(),
            url: "nats://127.0.0.1:4222".into(),
            pid: 1,
            phase: Phase::Starting,
            parts: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_watcher_is_told_each_change_and_an_order_is_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("up.sock");
        let (status_tx, status_rx) = watch::channel(status());
        let mut orders = listen(&path, status_rx).unwrap();

        let mut watcher = Conversation::open(&path, &Request::Watch).await.unwrap();
        assert_eq!(watcher.next().await, Some(Reply::Status(Box::new(status()))));
        status_tx.send_modify(|status| status.phase = Phase::Running);
        let Some(Reply::Status(next)) = watcher.next().await else { panic!("no status") };
        assert_eq!(next.phase, Phase::Running);

        let request = Request::NodeStop { node: "node-3".into(), kill: true };
        let conversation = Conversation::open(&path, &request).await.unwrap();
        let (got, reply) = orders.recv().await.unwrap();
        assert_eq!(got, request);
        reply.send(Reply::Refused("no such node".into())).unwrap();
        assert!(conversation.answer().await.unwrap_err().text().contains("no such node"));
    }
}
