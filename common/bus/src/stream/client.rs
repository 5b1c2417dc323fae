//! The client's side: read chunks, write frames.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::proto::{self, Chunk, ClientFrame, OpenStream, StreamOpened, chunk, client_frame, open_stream};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ALIVE_EVERY, CHUNK_BYTES_MAX, CREDITS, FRAMES_MAX, SILENCE_MAX, StreamError};
use crate::{Bus, RequestError};

/// How long the other side may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the bus may take to hear that we leave.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The other side refuses.
    #[error("{}", .0.message)]
    Refused(proto::StreamError),
    /// It cannot be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The connection is closed.
    #[error("cannot subscribe on the bus")]
    Subscribe(#[from] async_nats::SubscribeError),
}

/// Opens a stream at whoever serves `subject`.
pub async fn open(bus: &Bus, subject: &str, request: open_stream::Request) -> Result<ClientStream, OpenError> {
    let client = bus.client();
    let inbox = client.new_inbox();
    let chunks = client.subscribe(inbox.clone()).await?;
    let request = OpenStream { inbox, credits: CREDITS, request: Some(request) };
    let opened: StreamOpened = bus.request_proto(subject, &request, OPEN_TIMEOUT).await?;
    if let Some(error) = opened.error {
        return Err(OpenError::Refused(error));
    }
    let stop = CancellationToken::new();
    // One place more than credits: the last chunk needs none.
    let (chunk_tx, chunk_rx) = mpsc::channel(CREDITS as usize + 1);
    let (taken_tx, taken_rx) = watch::channel(0);
    let route = Route { client: client.clone(), control: opened.control.clone(), chunk_tx, taken_tx };
    tokio::spawn(route.run(chunks, stop.clone()));
    let shared = Arc::new(Shared { client: client.clone(), control: opened.control, _stop: stop.drop_guard() });
    Ok(ClientStream {
        reader: ClientReader { chunks: chunk_rx, taken: 0, acked: 0, shared: Arc::clone(&shared) },
        writer: ClientWriter { sent: 0, taken: taken_rx, shared },
    })
}

/// An open stream. Dropping it, or both of its halves, ends it.
#[derive(Debug)]
pub struct ClientStream {
    reader: ClientReader,
    writer: ClientWriter,
}

impl ClientStream {
    /// The next chunk; see [`ClientReader::next`].
    pub async fn next(&mut self) -> Option<Result<Chunk, StreamError>> {
        self.reader.next().await
    }

    /// Ends the stream, and waits until the server can know: for who ends with it.
    pub async fn leave(self) {
        self.reader.leave().await;
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (ClientReader, ClientWriter) {
        (self.reader, self.writer)
    }
}

#[derive(Debug)]
struct Shared {
    client: Client,
    control: String,
    /// Ends the routing task, which then tells the server.
    _stop: DropGuard,
}

impl Shared {
    async fn send(&self, frame: &ClientFrame) -> Result<(), StreamError> {
        let published = self.client.publish(self.control.clone(), frame.encode_to_vec().into()).await;
        published.map_err(|_| StreamError::Closed)
    }
}

/// Reads chunks.
#[derive(Debug)]
pub struct ClientReader {
    chunks: mpsc::Receiver<Result<Chunk, StreamError>>,
    taken: u64,
    acked: u64,
    shared: Arc<Shared>,
}

impl ClientReader {
    /// The next chunk. The last one is of kind `END`; after it, or after an error, there is none.
    ///
    /// Cancel-safe: a chunk is either returned or still there.
    pub async fn next(&mut self) -> Option<Result<Chunk, StreamError>> {
        if self.taken - self.acked >= u64::from(CREDITS / 2) {
            self.acked = self.taken;
            let ack = ClientFrame { kind: client_frame::Kind::Ack.into(), chunks: self.taken, ..Default::default() };
            if let Err(error) = self.shared.send(&ack).await {
                return Some(Err(error));
            }
        }
        let chunk = self.chunks.recv().await?;
        self.taken += 1;
        Some(chunk)
    }

    /// Ends the stream; see [`ClientStream::leave`].
    pub async fn leave(self) {
        let cancel = ClientFrame { kind: client_frame::Kind::Cancel.into(), ..Default::default() };
        // A connection that is gone ends the stream by silence.
        if self.shared.send(&cancel).await.is_ok() {
            let _ = timeout(LEAVE_TIMEOUT, self.shared.client.flush()).await;
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct ClientWriter {
    sent: u64,
    taken: watch::Receiver<u64>,
    shared: Arc<Shared>,
}

impl ClientWriter {
    /// Sends bytes, in pieces of at most 128 KiB; waits while [`FRAMES_MAX`] pieces are not taken.
    pub async fn data(&mut self, data: Bytes) -> Result<(), StreamError> {
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(CHUNK_BYTES_MAX));
            self.numbered(client_frame::Kind::Data, piece).await?;
        }
        Ok(())
    }

    /// Says that no more bytes come.
    pub async fn eof(&mut self) -> Result<(), StreamError> {
        self.numbered(client_frame::Kind::Eof, Bytes::new()).await
    }

    /// Says how large the terminal is now.
    pub async fn resize(&mut self, rows: u32, columns: u32) -> Result<(), StreamError> {
        let kind = client_frame::Kind::Resize.into();
        self.shared.send(&ClientFrame { kind, rows, columns, ..Default::default() }).await
    }

    async fn numbered(&mut self, kind: client_frame::Kind, data: Bytes) -> Result<(), StreamError> {
        let floor = (self.sent + 1).saturating_sub(FRAMES_MAX as u64);
        self.taken.wait_for(|taken| *taken >= floor).await.map_err(|_| StreamError::Closed)?;
        self.sent += 1;
        self.shared.send(&ClientFrame { kind: kind.into(), data, sequence: self.sent, ..Default::default() }).await
    }
}

/// Hands what arrives to the halves, and keeps the stream alive.
struct Route {
    client: Client,
    control: String,
    chunk_tx: mpsc::Sender<Result<Chunk, StreamError>>,
    taken_tx: watch::Sender<u64>,
}

impl Route {
    async fn run(self, mut chunks: Subscriber, stop: CancellationToken) {
        let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
        let mut heard = Instant::now();
        let mut sequence = 0;
        let ended = loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.send(client_frame::Kind::Cancel).await;
                    break None;
                }
                // cancel-safe: both hold what they did not return
                _ = alive.tick() => {
                    self.send(client_frame::Kind::Alive).await;
                    continue;
                }
                message = timeout_at(heard + SILENCE_MAX, chunks.next()) => message,
            };
            heard = Instant::now();
            let chunk = match message {
                Err(_) => break Some(Err(StreamError::Silent)),
                Ok(None) => break Some(Err(StreamError::Closed)),
                Ok(Some(message)) => Chunk::decode(message.payload),
            };
            let chunk = match chunk {
                Err(error) => break Some(Err(error.into())),
                Ok(chunk) if chunk.kind() == chunk::Kind::Ack => {
                    self.taken_tx.send_modify(|taken| *taken = chunk.frames.max(*taken));
                    continue;
                }
                Ok(chunk) => chunk,
            };
            sequence += 1;
            if chunk.sequence != sequence {
                break Some(Err(StreamError::Lost { expected: sequence }));
            }
            if chunk.kind() == chunk::Kind::End {
                break Some(Ok(chunk));
            }
            // Full only when the server sends without credit.
            if self.chunk_tx.try_send(Ok(chunk)).is_err() {
                break Some(Err(StreamError::Closed));
            }
        };
        if let Some(last) = ended {
            // The reader is gone: nobody wants it.
            let _ = self.chunk_tx.try_send(last);
        }
    }

    async fn send(&self, kind: client_frame::Kind) {
        let frame = ClientFrame { kind: kind.into(), ..Default::default() };
        // A connection that is gone ends the stream by silence.
        let _ = self.client.publish(self.control.clone(), frame.encode_to_vec().into()).await;
    }
}
