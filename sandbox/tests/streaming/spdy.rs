//! A client of SPDY/3.1, as small as a test needs it.

use std::collections::HashMap;

use podbus_common_spdy::{Decoder, Encoder, Frame, Headers};
use podbus_test_support::wait::PATIENCE;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// What has come on a stream.
#[derive(Default, Clone)]
pub(super) struct Seen {
    pub(super) bytes: Vec<u8>,
    pub(super) is_accepted: bool,
    pub(super) has_ended: bool,
    pub(super) is_reset: bool,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end: String = self.text().chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        let Self { bytes, is_accepted, has_ended, is_reset } = self;
        write!(f, "{} bytes, accepted {is_accepted}, ended {has_ended}, reset {is_reset}: {end:?}", bytes.len())
    }
}

impl Seen {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// A connection. Streams are known by the ids that [`Client::open`] gives.
pub(super) struct Client<T = TcpStream> {
    pub(super) io: T,
    encoder: Encoder,
    decoder: Decoder,
    newest: u32,
    streams: HashMap<u32, Seen>,
    pub(super) pings: Vec<u32>,
}

/// Asks for an upgrade; the connection and the head of the answer.
pub(super) async fn upgrade(url: &str, headers: &[(&str, &str)]) -> (TcpStream, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap();
    assert!(authority.starts_with("127.0.0.1:"), "{url}");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap(); // so that a client that does not read is soon seen
    let mut io = socket.connect(authority.parse().unwrap()).await.unwrap();
    let mut head = format!("POST /{path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    io.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, io.read_u8()).await.unwrap().unwrap());
    }
    (io, String::from_utf8(answer).unwrap())
}

impl Client {
    /// Connects, speaking `protocol`.
    pub(super) async fn connect(url: &str, protocol: &str) -> Self {
        let headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)];
        let (io, answer) = upgrade(url, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let answer = answer.to_lowercase();
        assert!(answer.contains("upgrade: spdy/3.1\r\n") && answer.contains("connection: upgrade\r\n"), "{answer}");
        assert!(answer.contains("x-stream-protocol-version: "), "{answer}");
        Self::over(io)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(super) fn over(io: T) -> Self {
        let (encoder, decoder) = (Encoder::default(), Decoder::default());
        Self { io, encoder, decoder, newest: 0, streams: HashMap::new(), pings: Vec::new() }
    }

    pub(super) async fn send_frame(&mut self, frame: Frame) {
        let mut bytes = Vec::new();
        self.encoder.encode(&frame, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    /// Opens a stream and waits until it is accepted, as clients do.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = if self.newest == 0 { 1 } else { self.newest + 2 };
        self.newest = stream;
        self.streams.insert(stream, Seen::default());
        self.send_frame(Frame::SynStream { stream, fin: false, headers: Headers::new(headers) }).await;
        self.until(|it| it.seen(stream).is_accepted || it.seen(stream).is_reset).await;
        stream
    }

    pub(super) async fn send(&mut self, stream: u32, text: &str) {
        let bytes = text.to_owned().into();
        self.send_frame(Frame::Data { stream, fin: false, bytes }).await;
    }

    pub(super) async fn end(&mut self, stream: u32) {
        self.send_frame(Frame::Data { stream, fin: true, bytes: Default::default() }).await;
    }

    pub(super) fn seen(&self, stream: u32) -> &Seen {
        &self.streams[&stream]
    }

    /// Reads until a condition holds; it has to before the connection ends.
    pub(super) async fn until(&mut self, mut condition: impl FnMut(&Self) -> bool) {
        while !condition(self) {
            let read = timeout(PATIENCE, self.read_some()).await;
            let is_open = read.unwrap_or_else(|_| panic!("gave up waiting: {:?}", self.streams));
            assert!(is_open || condition(self), "the connection ended: {:?}", self.streams);
        }
    }

    /// Whether there may be more.
    async fn read_some(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        let count = self.io.read(&mut buffer).await.unwrap_or(0);
        self.decoder.feed(&buffer[..count]);
        while let Some(frame) = self.decoder.frame().unwrap() {
            match frame {
                Frame::SynReply { stream, .. } => self.streams.get_mut(&stream).unwrap().is_accepted = true,
                Frame::RstStream { stream, .. } => {
                    let seen = self.streams.get_mut(&stream).unwrap();
                    (seen.is_reset, seen.has_ended) = (true, true);
                }
                Frame::Data { stream, fin, bytes } => {
                    let seen = self.streams.get_mut(&stream).unwrap();
                    assert!(!seen.has_ended, "data after the end of {stream}");
                    seen.bytes.extend_from_slice(&bytes);
                    seen.has_ended = fin;
                }
                Frame::Ping { id } => self.pings.push(id),
                other => panic!("a server sends no {other:?}"),
            }
        }
        count > 0
    }
}

/// The streams of an exec or attach.
pub(super) struct Command {
    pub(super) client: Client,
    pub(super) error: u32,
    pub(super) stdin: Option<u32>,
    pub(super) stdout: Option<u32>,
    pub(super) stderr: Option<u32>,
    pub(super) resize: Option<u32>,
}

/// Which streams a client asks for.
#[derive(Clone, Copy)]
pub(super) struct Wants {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Command {
    /// Opens the streams in the order of client-go.
    pub(super) async fn open(url: &str, protocol: &str, wants: Wants) -> Self {
        let mut client = Client::connect(url, protocol).await;
        let error = client.open(&[("streamtype", "error")]).await;
        let mut places = [None; 4];
        let kinds = [("stdin", wants.stdin), ("stdout", wants.stdout), ("stderr", wants.stderr), ("resize", wants.tty)];
        for (place, (kind, is_wanted)) in places.iter_mut().zip(kinds) {
            if is_wanted {
                *place = Some(client.open(&[("streamtype", kind)]).await);
            }
        }
        let [stdin, stdout, stderr, resize] = places;
        Self { client, error, stdin, stdout, stderr, resize }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.client.send(self.stdin.unwrap(), text).await;
    }

    pub(super) async fn end_input(&mut self) {
        self.client.end(self.stdin.unwrap()).await;
    }

    pub(super) async fn resize(&mut self, columns: u16, rows: u16) {
        let json = format!(r#"{{"Width":{columns},"Height":{rows}}}"#);
        self.client.send(self.resize.unwrap(), &json).await;
    }

    pub(super) fn output(&self) -> String {
        self.stdout.map_or(String::new(), |stream| self.client.seen(stream).text())
    }

    pub(super) fn errors(&self) -> String {
        self.stderr.map_or(String::new(), |stream| self.client.seen(stream).text())
    }

    /// Waits until the output contains `text`.
    pub(super) async fn until_output_has(&mut self, text: &str) {
        let stdout = self.stdout.unwrap();
        self.client.until(|client| client.seen(stdout).text().contains(text)).await;
    }

    /// Waits for the end of all streams; the text of the error stream.
    pub(super) async fn finish(&mut self) -> String {
        let all: Vec<u32> = [Some(self.error), self.stdout, self.stderr].into_iter().flatten().collect();
        self.client.until(|client| all.iter().all(|stream| client.seen(*stream).has_ended)).await;
        self.client.seen(self.error).text()
    }

    /// The exit code in the status at the end.
    pub(super) async fn exit_code(&mut self) -> i32 {
        let status: serde_json::Value = serde_json::from_str(&self.finish().await).unwrap();
        if status["status"] == "Success" {
            return 0;
        }
        assert_eq!(status["reason"], "NonZeroExitCode", "{status}");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "ExitCode", "{status}");
        cause["message"].as_str().unwrap().parse().unwrap()
    }
}
