//! Between a client and descriptors, until there is nothing more to say.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use bytes::Bytes;
use podbus_sandbox_linux::terminal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Client, Ended, Input, Output};

/// What is read at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks between the client and the process.
const CHUNKS_MAX: usize = 4;
/// How long output is waited for after the end, and input that a client left behind may take.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// Our ends of what a process reads and writes.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) input: Option<AsyncFd<OwnedFd>>,
    pub(super) output: Option<AsyncFd<OwnedFd>>,
    pub(super) error: Option<AsyncFd<OwnedFd>>,
    /// Dropped when nothing more is written to `input`.
    pub(super) input_ended: Option<oneshot::Sender<()>>,
    /// For changes of its size.
    pub(super) terminal: Option<OwnedFd>,
}

/// Why copying came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// This came to its end, and all output was passed on.
    Ended(Ended),
    /// All output has ended, and `end` did not come.
    NoOutput,
    /// The client has left.
    ClientLeft,
}

/// Copies both ways until `end`. Where all output ends before, `end` is waited for `after_output`, or for ever.
pub(super) async fn relay(
    ends: Ends,
    client: &mut Client,
    end: impl Future<Output = Ended>,
    after_output: Option<Duration>,
) -> Over {
    // What still reads is aborted with this.
    let mut reading = JoinSet::new();
    for (fd, wrap) in [(ends.output, Output::Stdout as fn(Bytes) -> Output), (ends.error, Output::Stderr)] {
        if let Some(fd) = fd {
            reading.spawn(read(fd, client.output.clone(), wrap));
        }
    }
    let (input, to_write) = mpsc::channel(CHUNKS_MAX);
    let mut writing = JoinSet::new();
    let input = ends.input.map(|fd| {
        let ended = ends.input_ended;
        writing.spawn(async move {
            write(fd, to_write).await;
            drop(ended);
        });
        input
    });
    let over = steer(client, reading, input, ends.terminal.as_ref(), end, after_output).await;
    if over == Over::ClientLeft {
        // What it said before is said.
        let _ = timeout(DRAIN, writing.join_next()).await;
    }
    over
}

/// Waits for what is to be done besides copying.
async fn steer(
    client: &mut Client,
    mut reading: JoinSet<()>,
    mut input: Option<mpsc::Sender<Bytes>>,
    terminal: Option<&OwnedFd>,
    end: impl Future<Output = Ended>,
    after_output: Option<Duration>,
) -> Over {
    let (mut ended, mut unwritten) = (None, None);
    // Without outputs it is only the end that ends.
    let mut has_output = !reading.is_empty();
    let mut deadline: Option<Instant> = None;
    tokio::pin!(end);
    loop {
        tokio::select! {
            // Cancel-safe, all of them: tasks, channels, places in channels, a future by reference, a timer.
            _ = reading.join_next(), if has_output => {
                has_output = !reading.is_empty();
                if !has_output && ended.is_some() {
                    break;
                }
                if !has_output {
                    deadline = after_output.map(|limit| Instant::now() + limit);
                }
            }
            () = client.output.closed() => return Over::ClientLeft,
            place = reserve(input.clone()), if unwritten.is_some() => match (place, unwritten.take()) {
                (Some(place), Some(data)) => {
                    place.send(data);
                }
                _ => input = None, // the process reads no more
            },
            request = client.input.recv(), if unwritten.is_none() => match request {
                Some(Input::Data(data)) => unwritten = input.is_some().then_some(data),
                Some(Input::End) => input = None,
                Some(Input::Resize { columns, rows }) => resize(terminal, columns, rows),
                None => return Over::ClientLeft,
            },
            it = &mut end, if ended.is_none() => {
                ended = Some(it);
                if !has_output {
                    break;
                }
                deadline = Some(Instant::now() + DRAIN);
            }
            // Something else holds what it wrote to, or the end does not come.
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
        }
    }
    ended.map_or(Over::NoOutput, Over::Ended)
}

async fn reserve(input: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    input?.reserve_owned().await.ok()
}

fn resize(terminal: Option<&OwnedFd>, columns: u16, rows: u16) {
    if let Some(terminal) = terminal
        && let Err(errno) = terminal::resize(terminal.as_raw_fd(), columns, rows)
    {
        tracing::debug!(error = %io::Error::from(errno), "cannot resize the terminal");
    }
}

async fn read(fd: AsyncFd<OwnedFd>, chunks: mpsc::Sender<Output>, wrap: fn(Bytes) -> Output) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?)) => read,
            () = chunks.closed() => return, // nobody listens any more: the descriptor is let go
        };
        let Ok(count @ 1..) = read else { return }; // a terminal ends with EIO
        if chunks.send(wrap(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
    }
}

async fn write(fd: AsyncFd<OwnedFd>, mut chunks: mpsc::Receiver<Bytes>) {
    while let Some(chunk) = chunks.recv().await {
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let written = fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, rest)?)).await;
            let Ok(count) = written else { return };
            rest = &rest[count..];
        }
    }
}
