//! A SPDY connection over any bytes, and a command's streams in it.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Activity, Client, Ends, Input, Output, Sizes, Wanted};
use super::negotiate::Version;
use super::{IDLE, LINGER, STREAM_CREATION};
use crate::spdy::{Connection, Event};

/// What is read at once.
const READ_BYTES: usize = 32 << 10;
/// Written when this much waits for the client: then nothing more is taken from anyone.
const OUT_BYTES_MAX: usize = 256 << 10;
/// Events and orders on their way.
const QUEUE_MAX: usize = 8;
/// What may come on open streams before all are there.
const EARLY_MAX: usize = 64;

/// What is done to a stream.
#[derive(Debug)]
pub(super) enum Order {
    /// Sends data, the last of it with `fin`.
    Send { stream: u32, bytes: Bytes, fin: bool },
    /// Ends it in both directions.
    Reset { stream: u32 },
}

/// A connection, as its user sees it. Dropping the orders ends it when all is written and the client has left.
pub(super) struct Session {
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) orders: mpsc::Sender<Order>,
}

/// A session, and what drives it: nothing happens unless that is polled.
pub(super) fn open(io: impl AsyncRead + AsyncWrite + Unpin) -> (Session, impl Future<Output = ()>) {
    let (to_events, events) = mpsc::channel(QUEUE_MAX);
    let (orders, from_orders) = mpsc::channel(QUEUE_MAX);
    let activity = Activity::new();
    let drive = async move {
        tokio::select! {
            () = drive(io, to_events, from_orders, &activity) => {}
            () = activity.silent_for(IDLE) => tracing::debug!("a stream carried nothing for hours, and is closed"),
        }
    };
    (Session { events, orders }, drive)
}

async fn drive(
    io: impl AsyncRead + AsyncWrite + Unpin,
    events: mpsc::Sender<Event>,
    mut orders: mpsc::Receiver<Order>,
    activity: &Activity,
) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut connection = Connection::default();
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
        if is_written
            && event.is_none()
            && let Some(error) = connection.error()
        {
            tracing::debug!(%error, "a client speaks no SPDY");
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
                    activity.touch();
                }
                _ => return,
            },
            read = reader.read(&mut buffer), if event.is_none() && has_room => match read {
                Ok(count) if count > 0 => {
                    connection.receive(&buffer[..count]);
                    activity.touch();
                }
                _ => return,
            },
            order = orders.recv(), if leave_at.is_none() && has_room => match order {
                Some(Order::Send { stream, bytes, fin }) => connection.send(stream, bytes, fin),
                Some(Order::Reset { stream }) => connection.reset(stream),
                None => leave_at = Some(Instant::now() + LINGER),
            },
            () = sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => return,
        }
    }
}

/// The streams of a command by their ids.
#[derive(Debug, Default)]
struct Streams {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Streams {
    /// The place of a stream, by its type; none where nobody wants it.
    fn place(&mut self, kind: &str, wanted: Wanted, version: Version) -> Option<&mut Option<u32>> {
        match kind {
            "error" => Some(&mut self.error),
            "stdin" if wanted.stdin => Some(&mut self.stdin),
            "stdout" if wanted.stdout => Some(&mut self.stdout),
            "stderr" if wanted.stderr => Some(&mut self.stderr),
            "resize" if wanted.tty && version >= Version::V3 => Some(&mut self.resize),
            _ => None,
        }
    }

    fn is_whole(&self, wanted: Wanted, version: Version) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == wanted.stdin
            && self.stdout.is_some() == wanted.stdout
            && self.stderr.is_some() == wanted.stderr
            && self.resize.is_some() == (wanted.tty && version >= Version::V3)
    }
}

/// Runs a command whose client speaks SPDY.
pub(super) async fn command(
    io: impl AsyncRead + AsyncWrite + Unpin,
    version: Version,
    wanted: Wanted,
    run: impl AsyncFnOnce(Client),
) {
    let (session, drive) = open(io);
    tokio::join!(drive, command_in(session, version, wanted, run, STREAM_CREATION));
}

async fn command_in(
    session: Session,
    version: Version,
    wanted: Wanted,
    run: impl AsyncFnOnce(Client),
    creation: Duration,
) {
    let Session { mut events, orders } = session;
    let gathered = timeout(creation, gather(&mut events, &orders, version, wanted)).await;
    let Ok(Some((streams, early))) = gathered else {
        tracing::debug!("a client did not open its streams");
        return;
    };
    let (client, Ends { input, output }) = Client::pair();
    let pass_input = async {
        let mut sizes = Sizes::default();
        for event in early {
            pass(event, &streams, &mut sizes, &input).await;
        }
        while let Some(event) = events.recv().await {
            pass(event, &streams, &mut sizes, &input).await;
        }
        drop(input);
    };
    tokio::join!(run(client), pass_input, pass_output(output, orders, &streams, version));
}

/// Waits for the streams, with what came before the last; `None` where the client has left, or sends too much before.
async fn gather(
    events: &mut mpsc::Receiver<Event>,
    orders: &mpsc::Sender<Order>,
    version: Version,
    wanted: Wanted,
) -> Option<(Streams, Vec<Event>)> {
    let (mut streams, mut early) = (Streams::default(), Vec::new());
    while !streams.is_whole(wanted, version) {
        match events.recv().await {
            Some(Event::Opened { stream, headers }) => {
                match streams.place(headers.get("streamtype").unwrap_or_default(), wanted, version) {
                    Some(place @ None) => *place = Some(stream),
                    _ => {
                        let _ = orders.send(Order::Reset { stream }).await; // shown by the next event, if it is gone
                    }
                }
            }
            Some(event) if early.len() < EARLY_MAX => early.push(event),
            _ => return None,
        }
    }
    Some((streams, early))
}

/// Hands on what the client did. What a process does not read any more is dropped.
async fn pass(event: Event, streams: &Streams, sizes: &mut Sizes, input: &mpsc::Sender<Input>) {
    match event {
        Event::Data { stream, bytes } if Some(stream) == streams.stdin => {
            let _ = input.send(Input::Data(bytes)).await;
        }
        Event::Data { stream, bytes } if Some(stream) == streams.resize => {
            for size in sizes.take(&bytes) {
                let _ = input.send(size).await;
            }
        }
        Event::Ended { stream } if Some(stream) == streams.stdin => {
            let _ = input.send(Input::End).await;
        }
        Event::Opened { .. } | Event::Data { .. } | Event::Ended { .. } => {}
    }
}

async fn pass_output(
    mut output: mpsc::Receiver<Output>,
    orders: mpsc::Sender<Order>,
    streams: &Streams,
    version: Version,
) {
    let send = async |stream: Option<u32>, bytes: Bytes, fin: bool| {
        if let Some(stream) = stream {
            let _ = orders.send(Order::Send { stream, bytes, fin }).await; // a client that has left is told nothing
        }
    };
    while let Some(piece) = output.recv().await {
        match piece {
            Output::Stdout(bytes) => send(streams.stdout, bytes, false).await,
            Output::Stderr(bytes) => send(streams.stderr, bytes, false).await,
            Output::Ended(ended) => {
                send(streams.stdout, Bytes::new(), true).await;
                send(streams.stderr, Bytes::new(), true).await;
                send(streams.error, ended.encode(version).unwrap_or_default(), true).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::{Decoder, Encoder, Frame, Headers};
    use crate::streaming::client::Ended;

    struct Peer {
        io: tokio::io::DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
    }

    impl Peer {
        async fn send(&mut self, frame: Frame) {
            let mut bytes = Vec::new();
            self.encoder.encode(&frame, &mut bytes);
            self.io.write_all(&bytes).await.unwrap();
        }

        async fn open(&mut self, stream: u32, kind: &str) {
            self.send(Frame::SynStream { stream, fin: false, headers: Headers::new(&[("streamtype", kind)]) }).await;
        }

        /// The data frames until `stream` ends.
        async fn data_until_end_of(&mut self, last: u32) -> Vec<(u32, Bytes)> {
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                while let Some(frame) = self.decoder.frame().unwrap() {
                    let Frame::Data { stream, fin, bytes } = frame else { continue };
                    seen.push((stream, bytes));
                    if fin && stream == last {
                        return seen;
                    }
                }
                let count = self.io.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the connection ended");
                self.decoder.feed(&buffer[..count]);
            }
        }
    }

    fn peer() -> (Peer, tokio::io::DuplexStream) {
        let (io, theirs) = tokio::io::duplex(1 << 16);
        (Peer { io, encoder: Encoder::default(), decoder: Decoder::default() }, theirs)
    }

    const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

    #[tokio::test]
    async fn streams_may_come_in_any_order_and_the_status_comes_last() {
        let (mut peer, io) = peer();
        let echo = async |mut client: Client| {
            while let Some(input) = client.input.recv().await {
                match input {
                    Input::Data(bytes) => client.output.send(Output::Stdout(bytes)).await.unwrap(),
                    _ => break,
                }
            }
            client.output.send(Output::Ended(Ended::Exited(0))).await.unwrap();
        };
        let user = async move {
            peer.open(1, "stdin").await;
            peer.send(Frame::Data { stream: 1, fin: false, bytes: Bytes::from_static(b"early") }).await;
            peer.open(3, "nonsense").await;
            peer.open(5, "stdout").await;
            peer.open(7, "error").await;
            peer.send(Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b" late") }).await;
            let seen = peer.data_until_end_of(7).await;
            let text: Vec<u8> = seen.iter().filter(|(stream, _)| *stream == 5).flat_map(|(_, b)| b.to_vec()).collect();
            assert_eq!(text, b"early late");
            assert!(seen.last().unwrap().1.starts_with(b"{\"metadata\":{},\"status\":\"Success\"}"), "{seen:?}");
        };
        tokio::join!(command(io, Version::V4, WANTED, echo), user);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_opens_too_few_streams_is_cut_off() {
        let (mut peer, io) = peer();
        let began = Instant::now();
        let user = async move {
            peer.open(1, "stdin").await;
            let mut rest = Vec::new();
            peer.io.read_to_end(&mut rest).await.unwrap();
        };
        let never = async |_: Client| panic!("it has no stdout yet");
        tokio::join!(command(io, Version::V4, WANTED, never), user);
        let took = began.elapsed();
        assert!(took >= STREAM_CREATION && took <= STREAM_CREATION + LINGER + Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_after_four_hours() {
        let (mut peer, io) = peer();
        let began = Instant::now();
        let user = async move {
            for (stream, kind) in [(1, "stdin"), (3, "stdout"), (5, "error")] {
                peer.open(stream, kind).await;
            }
            let mut rest = Vec::new();
            peer.io.read_to_end(&mut rest).await.unwrap();
        };
        let wait = async |mut client: Client| assert_eq!(client.input.recv().await, None);
        tokio::join!(command(io, Version::V4, WANTED, wait), user);
        assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
    }
}
