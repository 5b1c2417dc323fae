//! A command inside a container, or the container's first process: streams that CRI serves behind a URL.
//!
//! The protocol is `v4.channel.k8s.io`: a stream each for stdin, stdout, stderr, the terminal's size as JSON, and the
//! outcome as a Kubernetes Status.

use bytes::Bytes;
use podbus_common::proto::{AttachRequest, ExecRequest, chunk, client_frame};
use podbus_common_bus::stream::{self, ServerReceiver, ServerSender, ServerStream};
use podbus_common_cri::runtime as v1;
use podbus_common_spdy::Event;
use podbus_node_agent_core::model::{RunState, find_container};
use serde::Deserialize;

use super::join::{JoinError, Joined, Outlet};
use super::{Refusal, Streams, finish};
use crate::runtime::Runtime;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// The longest outcome that is read.
const STATUS_BYTES_MAX: usize = 64 << 10;

/// What is joined, and with which streams.
struct Command {
    url: String,
    stdin: bool,
    tty: bool,
    /// Rows and columns of the client's terminal.
    size: Option<(u32, u32)>,
}

impl<R: Runtime> Streams<R> {
    pub(super) async fn exec(&self, request: ExecRequest, stream: ServerStream) {
        match self.start(&request).await {
            Ok(command) => serve(command, stream).await,
            Err(error) => finish(stream, error).await,
        }
    }

    pub(super) async fn attach(&self, request: AttachRequest, stream: ServerStream) {
        match self.find_first_process(&request).await {
            Ok(command) => serve(command, stream).await,
            Err(error) => finish(stream, error).await,
        }
    }

    async fn start(&self, request: &ExecRequest) -> Result<Command, Refusal> {
        let (pod, container) = self.find(&request.namespace, &request.pod, &request.uid, &request.container)?;
        let ExecRequest { stdin, tty, rows, columns, .. } = *request;
        let exec = v1::ExecRequest {
            container_id: self.running(&pod.metadata.uid, &container).await?,
            cmd: request.command.clone(),
            tty,
            stdin,
            stdout: true,
            stderr: !tty,
        };
        let url = self.runtime.exec(exec).await.map_err(|error| stream::error(500, error.message))?;
        Ok(Command { url, stdin, tty, size: size(rows, columns) })
    }

    async fn find_first_process(&self, request: &AttachRequest) -> Result<Command, Refusal> {
        let (pod, container) = self.find(&request.namespace, &request.pod, &request.uid, &request.container)?;
        let spec = find_container(&pod, &container).map(|(_, spec)| spec);
        // What the container was started with: a client cannot have more, nor do without its terminal.
        let tty = spec.is_some_and(|spec| spec.tty);
        let stdin = request.stdin && spec.is_some_and(|spec| spec.stdin);
        let container_id = self.running(&pod.metadata.uid, &container).await?;
        let attach = v1::AttachRequest { container_id, stdin, tty, stdout: true, stderr: !tty };
        let url = self.runtime.attach(attach).await.map_err(|error| stream::error(500, error.message))?;
        Ok(Command { url, stdin, tty, size: size(request.rows, request.columns) })
    }

    /// The ID of the container's run, if there is one now.
    async fn running(&self, uid: &str, container: &str) -> Result<String, Refusal> {
        let runs = self.runs(uid, container).await?;
        let running = runs.into_iter().find(|run| matches!(run.state, RunState::Running { .. }));
        let absent = || stream::error(409, format!("container not found (\"{container}\"): it is not running"));
        running.map(|run| run.id).ok_or_else(absent)
    }
}

fn size(rows: u32, columns: u32) -> Option<(u32, u32)> {
    (rows > 0 && columns > 0).then_some((rows, columns))
}

/// The streams of a command by their ids.
struct Ids {
    error: u32,
    stdin: Option<u32>,
    stdout: u32,
    stderr: Option<u32>,
    resize: Option<u32>,
}

async fn serve(command: Command, stream: ServerStream) {
    let (joined, ids) = match join(&command).await {
        Ok(joined) => joined,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return finish(stream, stream::error(500, format!("cannot join the container: {error:#}"))).await;
        }
    };
    let ServerStream { sender, receiver } = stream;
    let outlet = joined.outlet();
    let outcome = tokio::select! {
        // Leaving ends the command: the runtime sees the connection close.
        () = sender.closed() => return,
        outcome = output(joined, &ids, &sender) => outcome,
        // Without input there is only output to wait for.
        never = input(receiver, outlet, &ids, command.size) => match never {},
    };
    match outcome {
        Ok(exit_code) => sender.finish(exit_code, None).await,
        Err(error) => sender.finish(1, Some(error)).await,
    }
}

/// Joins and opens the streams, in the order of kubectl.
async fn join(command: &Command) -> Result<(Joined, Ids), JoinError> {
    let mut joined = Joined::join(&command.url, PROTOCOL).await?;
    let error = open("error", &mut joined).await?;
    let stdin = if command.stdin { Some(open("stdin", &mut joined).await?) } else { None };
    let stdout = open("stdout", &mut joined).await?;
    let stderr = if command.tty { None } else { Some(open("stderr", &mut joined).await?) };
    let resize = if command.tty { Some(open("resize", &mut joined).await?) } else { None };
    let ids = Ids { error, stdin, stdout, stderr, resize };
    Ok((joined, ids))
}

async fn open(kind: &str, joined: &mut Joined) -> Result<u32, JoinError> {
    joined.open(&[("streamtype", kind)]).await
}

/// Passes output on until the command has ended; its exit code, or why there is none.
async fn output(mut joined: Joined, ids: &Ids, sender: &ServerSender) -> Result<i32, Refusal> {
    let lost = |why: &str| stream::error(500, format!("the connection to the container is lost: {why}"));
    let mut status = Vec::new();
    while let Some(event) = joined.next().await {
        let (kind, bytes) = match event {
            Event::Data { stream, bytes } if stream == ids.stdout => (chunk::Kind::Stdout, bytes),
            Event::Data { stream, bytes } if Some(stream) == ids.stderr => (chunk::Kind::Stderr, bytes),
            Event::Data { stream, bytes } if stream == ids.error => {
                status.extend_from_slice(&bytes);
                if status.len() > STATUS_BYTES_MAX {
                    return Err(lost("its outcome has no end"));
                }
                continue;
            }
            Event::Ended { stream } if stream == ids.error => return outcome(&status),
            Event::Data { .. } | Event::Ended { .. } | Event::Opened { .. } => continue,
        };
        sender.send(kind, bytes).await.map_err(|_| lost("the client has left"))?;
    }
    Err(lost("it ended without an outcome"))
}

/// Passes input on for as long as there is any; never returns. What cannot be passed on shows on the reading side too.
async fn input(
    mut receiver: ServerReceiver,
    outlet: Outlet,
    ids: &Ids,
    first: Option<(u32, u32)>,
) -> std::convert::Infallible {
    if let (Some(resize), Some((rows, columns))) = (ids.resize, first) {
        outlet.send(resize, size_json(rows, columns)).await;
    }
    while let Some(frame) = receiver.recv().await {
        let is_open = match (frame.kind(), ids.stdin, ids.resize) {
            (client_frame::Kind::Data, Some(stdin), _) => outlet.send(stdin, frame.data).await,
            (client_frame::Kind::Eof, Some(stdin), _) => outlet.end(stdin).await,
            (client_frame::Kind::Resize, _, Some(resize)) => {
                outlet.send(resize, size_json(frame.rows, frame.columns)).await
            }
            _ => true,
        };
        if !is_open {
            break;
        }
    }
    std::future::pending().await
}

fn size_json(rows: u32, columns: u32) -> Bytes {
    format!(r#"{{"Width":{columns},"Height":{rows}}}"#).into()
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

/// The exit code out of a Kubernetes Status; none is success.
fn outcome(json: &[u8]) -> Result<i32, Refusal> {
    if json.is_empty() {
        return Ok(0);
    }
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
        assert_eq!(outcome(b"").unwrap(), 0);
        let three = br#"{"status":"Failure","message":"command terminated with non-zero exit code: exit status 3",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(outcome(three).unwrap(), 3);
        let internal = br#"{"status":"Failure","message":"no such file","reason":"InternalError","code":500}"#;
        assert_eq!(outcome(internal).unwrap_err().message, "no such file");
        assert_eq!(outcome(b"plain text").unwrap_err().message, "plain text");
    }
}
