//! A command's streams in a SPDY connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbus_common_spdy::{Connection, Event, Order, Session};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::{Activity, Client, Ends, Input, Output, Sizes, Wanted};
use super::negotiate::Version;
use super::{IDLE, STREAM_CREATION};
/// What may come on open streams before all are there.
const EARLY_MAX: usize = 64;

/// A session of the server's side, which ends when it carried nothing for long.
pub(super) fn open(io: impl AsyncRead + AsyncWrite + Unpin) -> (Session, impl Future<Output = ()>) {
    let activity = Arc::new(Activity::new());
    let moved = Arc::clone(&activity);
    let (session, drive) = podbus_common_spdy::open(Connection::server(), io, move || moved.touch());
    let drive = async move {
        tokio::select! {
            () = drive => {}
            () = activity.silent_for(IDLE) => tracing::debug!("a stream carried nothing for hours, and is closed"),
        }
    };
    (session, drive)
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
    use podbus_common_spdy::{Decoder, Encoder, Frame, Headers, LINGER};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;
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
