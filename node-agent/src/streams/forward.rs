//! Ports inside a pod. Each connection is a stream of its own on the bus, with credits of its own: one that nobody reads
//! holds up no other.

use podbus_common::proto::{PortForwardRequest, chunk, client_frame};
use podbus_common_bus::stream::{self, ServerReceiver, ServerSender, ServerStream};
use podbus_common_cri::runtime as v1;
use podbus_common_spdy::Event;
use tokio::time::{Duration, sleep};

use super::join::{JoinError, Joined, Outlet};
use super::{Refusal, Streams, finish};
use crate::runtime::{Runtime, RuntimeError};

const PROTOCOL: &str = "portforward.k8s.io";
/// How soon a client learns that the pod is gone.
const END_POLL: Duration = Duration::from_millis(500);
/// The longest error of a runtime that is read.
const ERROR_BYTES_MAX: usize = 4096;

impl<R: Runtime> Streams<R> {
    pub(super) async fn port_forward(&self, request: PortForwardRequest, stream: ServerStream) {
        let (uid, sandbox) = match self.ready_sandbox(&request).await {
            Ok(found) => found,
            Err(error) => return finish(stream, error).await,
        };
        if request.port == 0 {
            tokio::select! {
                () = stream.sender.closed() => return,
                () = self.end_of(&uid, &sandbox) => {}
            }
            return finish(stream, stream::error(410, format!("the sandbox of pod {} is gone", request.pod))).await;
        }
        match self.connect(sandbox, request.port).await {
            Ok(connection) => serve(connection, stream).await,
            Err(error) => finish(stream, error).await,
        }
    }

    /// The pod's UID, and the sandbox whose network is the pod's now.
    async fn ready_sandbox(&self, request: &PortForwardRequest) -> Result<(String, String), Refusal> {
        let (pod, _) = self.find(&request.namespace, &request.pod, &request.uid, "")?;
        let uid = pod.metadata.uid.clone();
        let ready = self.ready_sandboxes(&uid).await;
        let ready = ready.map_err(|error| stream::error(500, format!("the container runtime: {error}")))?.pop();
        let absent = || stream::error(409, format!("pod {} has no running sandbox", request.pod));
        ready.map(|sandbox| (uid, sandbox)).ok_or_else(absent)
    }

    async fn ready_sandboxes(&self, uid: &str) -> Result<Vec<String>, RuntimeError> {
        let sandboxes = self.runtime.list_pod_sandbox(Some(uid)).await?;
        let ready = sandboxes.into_iter().filter(|it| it.state == v1::PodSandboxState::SandboxReady as i32);
        Ok(ready.map(|sandbox| sandbox.id).collect())
    }

    /// Returns when the sandbox runs no more.
    async fn end_of(&self, uid: &str, sandbox: &str) {
        loop {
            // A runtime that does not answer may be on its way back.
            if self.ready_sandboxes(uid).await.is_ok_and(|ready| ready.iter().all(|id| id != sandbox)) {
                return;
            }
            sleep(END_POLL).await;
        }
    }

    async fn connect(&self, sandbox: String, port: u32) -> Result<Forward, Refusal> {
        let number = u16::try_from(port).map_err(|_| stream::error(400, format!("{port} is not a port")))?;
        let request = v1::PortForwardRequest { pod_sandbox_id: sandbox, port: vec![number.into()] };
        let url = self.runtime.port_forward(request).await.map_err(|error| stream::error(500, error.message))?;
        Forward::join(&url, number).await.map_err(|error| {
            let error = anyhow::Error::from(error);
            stream::error(500, format!("cannot reach the pod's network: {error:#}"))
        })
    }
}

/// One connection into a pod.
struct Forward {
    joined: Joined,
    /// The runtime's word on what failed.
    error: u32,
    data: u32,
}

impl Forward {
    async fn join(url: &str, port: u16) -> Result<Self, JoinError> {
        let mut joined = Joined::join(url, PROTOCOL).await?;
        let port = port.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        let error = joined.open(&headers("error")).await?;
        joined.outlet().end(error).await; // nothing is said to it; a connection that is gone is seen below
        let data = joined.open(&headers("data")).await?;
        Ok(Self { joined, error, data })
    }
}

async fn serve(forward: Forward, stream: ServerStream) {
    let ServerStream { sender, receiver } = stream;
    let (outlet, data) = (forward.joined.outlet(), forward.data);
    let ended = tokio::select! {
        () = sender.closed() => return,
        ended = outward(forward, &sender) => ended,
        never = inward(receiver, outlet, data) => match never {},
    };
    match ended {
        Ok(()) => sender.finish(0, None).await,
        Err(error) => sender.finish(1, Some(error)).await,
    }
}

/// Passes on what the pod says, until the runtime has nothing more to say of it.
async fn outward(forward: Forward, sender: &ServerSender) -> Result<(), Refusal> {
    let Forward { mut joined, error, data } = forward;
    let lost = |why: &str| stream::error(500, format!("the connection to the pod is lost: {why}"));
    let (mut text, mut data_ended, mut error_ended) = (Vec::new(), false, false);
    while !(data_ended && error_ended) {
        match joined.next().await {
            Some(Event::Data { stream, bytes }) if stream == data => {
                sender.send(chunk::Kind::Stdout, bytes).await.map_err(|_| lost("the client has left"))?;
            }
            Some(Event::Data { stream, bytes }) if stream == error && text.len() < ERROR_BYTES_MAX => {
                text.extend_from_slice(&bytes);
            }
            Some(Event::Ended { stream }) if stream == data => {
                data_ended = true;
                if text.is_empty() && !error_ended {
                    sender.eof().await.map_err(|_| lost("the client has left"))?;
                }
            }
            Some(Event::Ended { stream }) if stream == error => error_ended = true,
            Some(_) => {}
            None => return Err(lost("the runtime closed it")),
        }
    }
    if text.is_empty() { Ok(()) } else { Err(stream::error(502, String::from_utf8_lossy(&text))) }
}

/// Passes on what the client says, for as long as it does; never returns. What cannot be passed on shows on the other
/// side too.
async fn inward(mut receiver: ServerReceiver, outlet: Outlet, data: u32) -> std::convert::Infallible {
    while let Some(frame) = receiver.recv().await {
        let is_open = match frame.kind() {
            client_frame::Kind::Data => outlet.send(data, frame.data).await,
            client_frame::Kind::Eof => outlet.end(data).await,
            _ => true,
        };
        if !is_open {
            break;
        }
    }
    std::future::pending().await
}
