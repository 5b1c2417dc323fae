//! A connection over any bytes.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Event};
use super::header::Headers;

/// How long the other side may take to leave when all has been said: what is closed before it has read is lost to it.
pub const LINGER: Duration = Duration::from_secs(10);
/// What is read at once.
const READ_BYTES: usize = 32 << 10;
/// Written when this much waits for the other side: then nothing more is taken from anyone.
const OUT_BYTES_MAX: usize = 256 << 10;
/// Events and orders on their way.
const QUEUE_MAX: usize = 8;

/// What is done to a stream.
#[derive(Debug)]
#[allow(missing_docs, reason = "stream is its id, the rest says itself")]
pub enum Order {
    /// Opens it, as [`Connection::open`] does.
    Open { stream: u32, headers: Headers },
    /// Sends data, the last of it with `fin`.
    Send { stream: u32, bytes: Bytes, fin: bool },
    /// Ends it in both directions.
    Reset { stream: u32 },
}

/// A connection, as its user sees it. Dropping the orders ends it when all is written and the other side has left.
#[derive(Debug)]
pub struct Session {
    /// What the other side does; ends with the connection.
    pub events: mpsc::Receiver<Event>,
    /// Fails when the connection has ended.
    pub orders: mpsc::Sender<Order>,
}

/// A session, and what drives it: nothing happens unless that is polled. `moved` hears whenever bytes come or go.
pub fn open(
    connection: Connection,
    io: impl AsyncRead + AsyncWrite + Unpin,
    moved: impl Fn(),
) -> (Session, impl Future<Output = ()>) {
    let (to_events, events) = mpsc::channel(QUEUE_MAX);
    let (orders, from_orders) = mpsc::channel(QUEUE_MAX);
    (Session { events, orders }, drive(connection, io, to_events, from_orders, moved))
}

async fn drive(
    mut connection: Connection,
    io: impl AsyncRead + AsyncWrite + Unpin,
    events: mpsc::Sender<Event>,
    mut orders: mpsc::Receiver<Order>,
    moved: impl Fn(),
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut buffer = vec![0; READ_BYTES];
    let mut event = None;
    let (mut has_user, mut leave_at) = (true, None);
    loop {
        while event.is_none() || !has_user {
            event = connection.event();
            if event.is_none() {
                break;
            }
        }
        let out = connection.transmit();
        let (is_written, has_room) = (out.is_empty(), out.len() < OUT_BYTES_MAX);
        // What a client reads makes it write no more than answers to pings: it reads on, or both sides could wait for
        // each other's room.
        let may_read = event.is_none() && (has_room || connection.is_client());
        if is_written
            && event.is_none()
            && let Some(error) = connection.error()
        {
            tracing::debug!(%error, "the other side speaks no SPDY");
            return;
        }
        tokio::select! {
            // Cancel-safe, all of them: a place in a channel, one read or write, a channel, a timer.
            place = events.reserve(), if event.is_some() => match (place, event.take()) {
                (Ok(place), Some(event)) => place.send(event),
                _ => has_user = false,
            },
            written = writer.write(connection.transmit()), if !is_written => match written {
                Ok(count) if count > 0 => {
                    connection.transmit().drain(..count);
                    moved();
                }
                _ => return,
            },
            read = reader.read(&mut buffer), if may_read => match read {
                Ok(count) if count > 0 => {
                    connection.receive(&buffer[..count]);
                    moved();
                }
                _ => return,
            },
            order = orders.recv(), if leave_at.is_none() && has_room => match order {
                Some(Order::Open { stream, headers }) => connection.open(stream, headers),
                Some(Order::Send { stream, bytes, fin }) => connection.send(stream, bytes, fin),
                Some(Order::Reset { stream }) => connection.reset(stream),
                None => leave_at = Some(Instant::now() + LINGER),
            },
            () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => return,
        }
    }
}
