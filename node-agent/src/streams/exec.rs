//! A command inside a container: CRI gives a URL on loopback, which is joined by WebSocket.
//!
//! Each binary message is a channel byte and data: 0 stdin, 1 stdout, 2 stderr, 3 the outcome as a Kubernetes Status,
//! 4 the terminal's size. v5 of the protocol can also end stdin alone.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use podbus_common::proto::{ClientFrame, ExecRequest, chunk, client_frame};
use podbus_common_bus::stream::{self, ServerReceiver, ServerSender, ServerStream};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::model::RunState;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Refusal, Streams, finish};
use crate::runtime::Runtime;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTCOME: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the second byte names the channel that ends.
const CLOSE: u8 = 255;
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

type Socket = WebSocketStream<TcpStream>;

impl<R: Runtime> Streams<R> {
    pub(super) async fn exec(&self, request: ExecRequest, stream: ServerStream) {
        let (socket, can_close) = match self.join(&request).await {
            Ok(joined) => joined,
            Err(error) => return finish(stream, error).await,
        };
        let (to_container, from_container) = socket.split();
        let ServerStream { sender, receiver } = stream;
        let first = (request.tty && request.rows > 0).then(|| size(request.rows, request.columns));
        let outcome = tokio::select! {
            // Leaving ends the command: the runtime sees the connection close.
            () = sender.closed() => return,
            outcome = output(from_container, &sender) => outcome,
            // Without input there is only output to wait for.
            never = input(receiver, to_container, first, can_close) => match never {},
        };
        match outcome {
            Ok(exit_code) => sender.finish(exit_code, None).await,
            Err(error) => sender.finish(1, Some(error)).await,
        }
    }

    async fn join(&self, request: &ExecRequest) -> Result<(Socket, bool), Refusal> {
        let (pod, container) = self.find(&request.namespace, &request.pod, &request.uid, &request.container)?;
        let runs = self.runs(&pod.metadata.uid, &container).await?;
        let running = runs.iter().find(|run| matches!(run.state, RunState::Running { .. }));
        let Some(running) = running else {
            return Err(stream::error(409, format!("container not found (\"{container}\"): it is not running")));
        };
        let exec = v1::ExecRequest {
            container_id: running.id.clone(),
            cmd: request.command.clone(),
            tty: request.tty,
            stdin: request.stdin,
            stdout: true,
            stderr: !request.tty,
        };
        let url = self.runtime.exec(exec).await.map_err(|error| stream::error(500, error.message))?;
        connect(&url).await.map_err(|error| stream::error(500, format!("cannot join the command at {url}: {error}")))
    }
}

/// Joins; also says whether stdin can be ended alone.
async fn connect(url: &str) -> Result<(Socket, bool), WebSocketError> {
    let mut last = WebSocketError::ConnectionClosed;
    // Some servers refuse a list that has an entry they do not know.
    for protocols in [format!("{V5}, {V4}"), V4.to_owned()] {
        let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let value = HeaderValue::from_str(&protocols).map_err(|error| WebSocketError::HttpFormat(error.into()))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
        let connection = TcpStream::connect(&authority).await?;
        connection.set_nodelay(true)?;
        match client_async(request, connection).await {
            Ok((socket, response)) => {
                let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
                return Ok((socket, chosen.is_some_and(|chosen| chosen.as_bytes() == V5.as_bytes())));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Passes output on until the command has ended; its exit code, or why there is none.
async fn output(mut from_container: SplitStream<Socket>, sender: &ServerSender) -> Result<i32, Refusal> {
    let lost = |why: String| stream::error(500, format!("the connection to the command is lost: {why}"));
    while let Some(message) = from_container.next().await {
        let data = match message.map_err(|error| lost(error.to_string()))? {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            _ => continue,
        };
        let Some((&channel, _)) = data.split_first() else { continue };
        let data = data.slice(1..);
        let kind = match channel {
            STDOUT => chunk::Kind::Stdout,
            STDERR => chunk::Kind::Stderr,
            OUTCOME if data.is_empty() => continue,
            OUTCOME => return outcome(&data),
            _ => continue,
        };
        sender.send(kind, data).await.map_err(|_| lost("the client has left".to_owned()))?;
    }
    Err(lost("it ended without an outcome".to_owned()))
}

/// Passes input on for as long as there is any; never returns.
async fn input(
    mut receiver: ServerReceiver,
    mut to_container: SplitSink<Socket, Message>,
    first: Option<Message>,
    can_close: bool,
) -> std::convert::Infallible {
    if let Some(size) = first {
        // An error here shows on the reading side as well.
        let _ = to_container.send(size).await;
    }
    while let Some(frame) = receiver.recv().await {
        let Some(message) = message(frame, can_close) else { continue };
        if to_container.send(message).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

fn message(frame: ClientFrame, can_close: bool) -> Option<Message> {
    match frame.kind() {
        client_frame::Kind::Data => {
            let mut data = BytesMut::with_capacity(frame.data.len() + 1);
            data.put_u8(STDIN);
            data.put(frame.data);
            Some(Message::Binary(data.freeze()))
        }
        // v4 has no word for it: such a command reads on until the connection ends.
        client_frame::Kind::Eof => can_close.then(|| Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))),
        client_frame::Kind::Resize => Some(size(frame.rows, frame.columns)),
        _ => None,
    }
}

fn size(rows: u32, columns: u32) -> Message {
    let json = format!(r#"{{"Width":{columns},"Height":{rows}}}"#);
    let mut data = vec![RESIZE];
    data.extend_from_slice(json.as_bytes());
    Message::Binary(data.into())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Outcome {
    status: String,
    message: String,
    reason: String,
    details: Details,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// The exit code out of a Kubernetes Status.
fn outcome(json: &[u8]) -> Result<i32, Refusal> {
    let Ok(outcome) = serde_json::from_slice::<Outcome>(json) else {
        return Err(stream::error(500, String::from_utf8_lossy(json)));
    };
    if outcome.status == "Success" {
        return Ok(0);
    }
    let code = outcome.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse().ok()) {
        Some(code) if outcome.reason == "NonZeroExitCode" => Ok(code),
        _ => Err(stream::error(500, outcome.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_an_exit_code_or_an_error() {
        assert_eq!(outcome(br#"{"metadata":{},"status":"Success"}"#).unwrap(), 0);
        let three = br#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 3",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(outcome(three).unwrap(), 3);
        let internal = br#"{"status":"Failure","message":"no such file","reason":"InternalError","code":500}"#;
        assert_eq!(outcome(internal).unwrap_err().message, "no such file");
        assert_eq!(outcome(b"plain text").unwrap_err().message, "plain text");
    }

    #[test]
    fn the_end_of_stdin_is_said_only_where_the_protocol_has_a_word_for_it() {
        let eof = || ClientFrame { kind: client_frame::Kind::Eof.into(), ..Default::default() };
        assert_eq!(message(eof(), true), Some(Message::Binary(Bytes::from_static(&[255, 0]))));
        assert_eq!(message(eof(), false), None);
    }
}
