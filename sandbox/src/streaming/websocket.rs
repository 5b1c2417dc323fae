//! A command's streams in a WebSocket, and bytes in a WebSocket.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::client::{Activity, Client, Ends, Input, Output, Sizes, Wanted};
use super::negotiate::Version;
use super::{IDLE, LINGER};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the next byte names the channel that is closed.
const CLOSE: u8 = 255;

/// No client sends more at once: kubectl copies 32 KiB at a time.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
const CHUNK_BYTES: usize = 32 << 10;

/// Joins after an upgrade.
pub(super) async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(CHUNK_BYTES)
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// A message on a channel: its number and the data, or in base64 its digit and text.
pub(super) fn message(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut bytes = Vec::with_capacity(1 + data.len());
    bytes.push(channel);
    bytes.extend_from_slice(data);
    Message::binary(bytes)
}

/// The channel and data of a message; `None` where it has none, or they cannot be read.
pub(super) fn parse(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    let (&channel, data) = bytes.split_first()?;
    if base64 {
        let channel = channel.checked_sub(b'0').filter(|channel| *channel < 10)?;
        return Some((channel, STANDARD.decode(data).ok()?.into()));
    }
    Some((channel, bytes.slice(1..)))
}

/// Says that this side is done.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Runs a command whose client speaks WebSocket.
pub(super) async fn command(
    io: impl AsyncRead + AsyncWrite + Unpin,
    version: Version,
    base64: bool,
    wanted: Wanted,
    run: impl AsyncFnOnce(Client),
) {
    let activity = Activity::new();
    tokio::select! {
        () = command_in(io, version, base64, wanted, run, &activity) => {}
        () = activity.silent_for(IDLE) => tracing::debug!("a stream carried nothing for hours, and is closed"),
    }
}

async fn command_in(
    io: impl AsyncRead + AsyncWrite + Unpin,
    version: Version,
    base64: bool,
    wanted: Wanted,
    run: impl AsyncFnOnce(Client),
    activity: &Activity,
) {
    let (mut sink, mut stream) = accept(io).await.split();
    let (client, Ends { input, mut output }) = Client::pair();
    let mut input = Some(input);
    let pass_input = async {
        let mut sizes = Sizes::default();
        while let Some(Ok(message)) = stream.next().await {
            activity.touch();
            if message.is_close() {
                input = None; // the client has left; its close is answered by reading on
            }
            if let (Some(input), Some((channel, data))) = (&input, parse(message, base64)) {
                pass(channel, data, version, wanted, &mut sizes, input).await;
            }
        }
        input = None;
    };
    let pass_output = async {
        // The lowest channel that a client reads, empty: so it learns that the upgrade is complete.
        let first = if wanted.stdout { STDOUT } else { STDERR };
        let mut is_open = sink.send(message(first, b"", base64)).await.is_ok();
        while let Some(piece) = output.recv().await {
            let (channel, data) = match piece {
                Output::Stdout(bytes) => (STDOUT, Some(bytes)),
                Output::Stderr(bytes) => (STDERR, Some(bytes)),
                Output::Ended(ended) => (STATUS, ended.encode(version)),
            };
            let Some(data) = data else { continue };
            is_open = is_open && sink.send(message(channel, &data, base64)).await.is_ok();
            activity.touch();
            if !is_open {
                break; // dropping the output tells the command
            }
        }
        drop(output);
        let _ = sink.send(goodbye()).await; // a client that has left needs none
    };
    let work = async { tokio::join!(run(client), pass_output) };
    tokio::pin!(pass_input, work);
    tokio::select! {
        () = &mut pass_input => {
            work.await;
        }
        _ = &mut work => {
            let _ = timeout(LINGER, pass_input).await; // the client's own close
        }
    }
}

async fn pass(
    channel: u8,
    data: Bytes,
    version: Version,
    wanted: Wanted,
    sizes: &mut Sizes,
    input: &mpsc::Sender<Input>,
) {
    // What a process does not read any more is dropped.
    match channel {
        STDIN if wanted.stdin && !data.is_empty() => {
            let _ = input.send(Input::Data(data)).await;
        }
        RESIZE if wanted.tty => {
            for size in sizes.take(&data) {
                let _ = input.send(size).await;
            }
        }
        CLOSE if version >= Version::V5 && data[..] == [STDIN] => {
            let _ = input.send(Input::End).await;
        }
        _ => {}
    }
}

/// Bytes that travel in binary messages of a WebSocket, cut anywhere; and what moves them, as long as it is polled.
pub(super) async fn tunnel(io: impl AsyncRead + AsyncWrite + Unpin) -> (DuplexStream, impl Future<Output = ()>) {
    let (ours, theirs) = tokio::io::duplex(4 * CHUNK_BYTES);
    let (mut sink, mut stream) = accept(io).await.split();
    let (mut from_session, mut to_session) = tokio::io::split(theirs);
    let pump = async move {
        let inward = async {
            while let Some(Ok(message)) = stream.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Close(_) => break,
                    _ => continue, // pings are answered by the library
                };
                if to_session.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            let _ = to_session.shutdown().await; // the session reads its end
        };
        let outward = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(count @ 1..) = from_session.read(&mut buffer).await {
                if sink.send(Message::binary(buffer[..count].to_vec())).await.is_err() {
                    break;
                }
            }
            let _ = sink.send(goodbye()).await;
        };
        tokio::pin!(inward, outward);
        tokio::select! {
            () = &mut inward => outward.await,
            () = &mut outward => {
                let _ = timeout(LINGER, inward).await;
            }
        }
    };
    (ours, pump)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_channel_and_data_in_bytes_or_base64() {
        for base64 in [false, true] {
            let (channel, data) = parse(message(STDERR, b"\xffdata", base64), base64).unwrap();
            assert_eq!((channel, &data[..]), (STDERR, &b"\xffdata"[..]));
        }
        assert_eq!(message(1, b"hi", true), Message::text("1aGk="));
        for broken in ["", "x", "1***", ":aGk="] {
            assert_eq!(parse(Message::text(broken), true), None, "{broken:?}");
        }
        assert_eq!(parse(Message::binary(vec![]), false), None);
    }
}
