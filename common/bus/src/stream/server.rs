//! The server's side: accept a stream, send chunks, receive frames.

use std::sync::Arc;

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::proto::{self, Chunk, ClientFrame, OpenStream, StreamOpened, chunk, client_frame, open_stream};
use podbus_common::subject::is_inbox;
use prost::Message as _;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, interval_at, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{ALIVE_EVERY, CHUNK_BYTES_MAX, FRAMES_MAX, SILENCE_MAX, StreamError};
use crate::Bus;

/// Credits that a client may give, at most: what is in flight is bounded by the server too.
const CREDITS_MAX: u32 = 256;

/// Why a request to open a stream cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// It is of another schema; the client was told.
    #[error("a request to open a stream cannot be read")]
    Malformed,
    /// The connection is closed.
    #[error("the connection to the bus is closed")]
    Closed,
}

/// Tells the client why there is no stream.
pub async fn refuse(bus: &Bus, message: &Message, code: u32, text: impl Into<String>) {
    let opened = StreamOpened { control: String::new(), error: Some(super::error(code, text)) };
    if let Some(reply) = message.reply.clone().filter(|reply| is_inbox(reply)) {
        // A client that is gone needs no answer.
        let _ = bus.client().publish(reply, opened.encode_to_vec().into()).await;
    }
}

/// Opens the stream that `message` asks for.
pub async fn accept(bus: &Bus, message: Message) -> Result<(open_stream::Request, ServerStream), AcceptError> {
    let decoded = OpenStream::decode(message.payload.clone()).ok();
    let decoded = decoded.filter(|open| is_inbox(&open.inbox) && open.credits > 0);
    let reply = message.reply.clone().filter(|reply| is_inbox(reply));
    let (Some(OpenStream { inbox, credits, request: Some(request) }), Some(reply)) = (decoded, reply) else {
        refuse(bus, &message, 400, "this request cannot be read: is the client of another version?").await;
        return Err(AcceptError::Malformed);
    };
    let client = bus.client().clone();
    let control = client.new_inbox();
    let frames = client.subscribe(control.clone()).await.map_err(|_| AcceptError::Closed)?;
    let opened = StreamOpened { control, error: None };
    client.publish(reply, opened.encode_to_vec().into()).await.map_err(|_| AcceptError::Closed)?;

    let closed = CancellationToken::new();
    let outlet = Arc::new(Outlet {
        client,
        inbox,
        credits: Semaphore::new(credits.min(CREDITS_MAX) as usize),
        sequence: Mutex::new(0),
        closed: closed.clone(),
    });
    let (frame_tx, frame_rx) = mpsc::channel(FRAMES_MAX + 4);
    tokio::spawn(route(Arc::clone(&outlet), frames, frame_tx));
    let guard = Arc::new(closed.drop_guard());
    Ok((
        request,
        ServerStream {
            sender: ServerSender { outlet: Arc::clone(&outlet), _guard: Arc::clone(&guard) },
            receiver: ServerReceiver { frames: frame_rx, taken: 0, outlet, _guard: guard },
        },
    ))
}

/// An open stream. Dropping all of its halves ends it.
#[derive(Debug)]
pub struct ServerStream {
    /// Sends chunks; clones share the credits.
    pub sender: ServerSender,
    /// Receives frames.
    pub receiver: ServerReceiver,
}

#[derive(Debug)]
struct Outlet {
    client: Client,
    inbox: String,
    credits: Semaphore,
    /// Of the last chunk; held while one is published, so that they leave in order.
    sequence: Mutex<u64>,
    closed: CancellationToken,
}

impl Outlet {
    async fn publish(&self, chunk: &Chunk) -> Result<(), StreamError> {
        let published = self.client.publish(self.inbox.clone(), chunk.encode_to_vec().into()).await;
        published.map_err(|_| StreamError::Closed)
    }

    async fn numbered(&self, mut chunk: Chunk) -> Result<(), StreamError> {
        let mut sequence = self.sequence.lock().await;
        *sequence += 1;
        chunk.sequence = *sequence;
        self.publish(&chunk).await
    }
}

/// Sends chunks.
#[derive(Debug, Clone)]
pub struct ServerSender {
    outlet: Arc<Outlet>,
    _guard: Arc<DropGuard>,
}

impl ServerSender {
    /// Sends bytes in chunks of at most 128 KiB; waits for credits. An error: the client is gone.
    pub async fn send(&self, kind: chunk::Kind, data: Bytes) -> Result<(), StreamError> {
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(CHUNK_BYTES_MAX));
            self.send_piece(kind, piece).await?;
        }
        Ok(())
    }

    /// Says that no more bytes come, though the stream goes on; waits for a credit.
    pub async fn eof(&self) -> Result<(), StreamError> {
        self.send_piece(chunk::Kind::Eof, Bytes::new()).await
    }

    async fn send_piece(&self, kind: chunk::Kind, data: Bytes) -> Result<(), StreamError> {
        tokio::select! {
            biased;
            () = self.outlet.closed.cancelled() => return Err(StreamError::Closed),
            permit = self.outlet.credits.acquire() => permit.map_err(|_| StreamError::Closed)?.forget(),
        }
        self.outlet.numbered(Chunk { kind: kind.into(), data, ..Default::default() }).await
    }

    /// Sends the last chunk: how it ended. Needs no credit.
    pub async fn finish(self, exit_code: i32, error: Option<proto::StreamError>) {
        let end = Chunk { kind: chunk::Kind::End.into(), exit_code, error, ..Default::default() };
        // A client that is gone learns nothing.
        let _ = self.outlet.numbered(end).await;
        self.outlet.closed.cancel();
    }

    /// Returns when the client has left.
    pub async fn closed(&self) {
        self.outlet.closed.cancelled().await;
    }
}

/// Receives frames.
#[derive(Debug)]
pub struct ServerReceiver {
    frames: mpsc::Receiver<ClientFrame>,
    taken: u64,
    outlet: Arc<Outlet>,
    _guard: Arc<DropGuard>,
}

impl ServerReceiver {
    /// The next frame of kind `DATA`, `EOF` or `RESIZE`; `None`: the client has left.
    ///
    /// Frames are acknowledged when the next one is asked for, so a slow consumer slows the client. Cancel-safe.
    pub async fn recv(&mut self) -> Option<ClientFrame> {
        if self.taken > 0 {
            let ack = Chunk { kind: chunk::Kind::Ack.into(), frames: self.taken, ..Default::default() };
            self.outlet.publish(&ack).await.ok()?;
        }
        let frame = self.frames.recv().await?;
        self.taken = self.taken.max(frame.sequence);
        Some(frame)
    }
}

/// Hands what arrives to the halves, and keeps the stream alive.
async fn route(outlet: Arc<Outlet>, mut frames: Subscriber, frame_tx: mpsc::Sender<ClientFrame>) {
    let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
    let mut heard = Instant::now();
    let mut acked = 0;
    loop {
        let message = tokio::select! {
            biased;
            () = outlet.closed.cancelled() => break,
            // cancel-safe: both hold what they did not return
            _ = alive.tick() => {
                let ack = Chunk { kind: chunk::Kind::Ack.into(), ..Default::default() };
                if outlet.publish(&ack).await.is_err() { break }
                continue;
            }
            message = timeout_at(heard + SILENCE_MAX, frames.next()) => message,
        };
        let Ok(Some(message)) = message else { break };
        heard = Instant::now();
        let Ok(frame) = ClientFrame::decode(message.payload) else { break };
        match frame.kind() {
            client_frame::Kind::Ack => {
                let more = usize::try_from(frame.chunks.saturating_sub(acked)).unwrap_or(0);
                acked = acked.max(frame.chunks);
                outlet.credits.add_permits(more.min(CREDITS_MAX as usize));
            }
            client_frame::Kind::Alive => {}
            client_frame::Kind::Cancel => break,
            // Only the newest size of a window counts; one that finds no place is lost.
            client_frame::Kind::Resize => drop(frame_tx.try_send(frame)),
            client_frame::Kind::Data | client_frame::Kind::Eof => match frame_tx.try_send(frame) {
                // Nobody reads frames (logs): they do not matter.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                // The client sends more than it may.
                Err(mpsc::error::TrySendError::Full(_)) => break,
            },
        }
    }
    outlet.closed.cancel();
}
