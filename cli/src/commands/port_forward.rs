//! `podbus port-forward`: ports of this machine that lead into a pod.
//!
//! Each connection is a stream of its own at the pod's node. One more stream, which carries nothing, ends with the pod.

mod ports;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::select_all;
use podbus_common::model::Pod;
use podbus_common::proto::{self, chunk, open_stream};
use podbus_common::subject::{self, PodStream};
use podbus_common_bus::stream::{ClientReader, ClientStream, ClientWriter, StreamError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::ports::{Address, Forward};
use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::{node_of, pod_name};
use crate::rows::typed;
use crate::terminal::Terminal;

/// What is read of a connection at once.
const READ_BYTES: usize = 64 << 10;
/// How long connections may take to tell the node that we leave.
const LEAVE: Duration = Duration::from_secs(1);
/// After a failed accept: out of descriptors, those of other connections come back.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(
    override_usage = "podbus port-forward [--address ADDRESS,...] POD [LOCAL:]REMOTE...",
    after_help = "Examples:\n  podbus port-forward web 8080:80          # localhost:8080 leads to port 80 of the pod\n  \
                  podbus port-forward pod/web 8080 9090    # the same ports here and there\n  \
                  podbus port-forward web :80              # a free port of this machine\n  \
                  podbus port-forward web 8080:http        # a port by its name in the pod's spec\n  \
                  podbus port-forward --address 0.0.0.0 web 8080:80\n\n\
                  It runs until Ctrl-C, or until the pod is gone."
)]
pub(crate) struct Args {
    /// The pod
    pod: String,
    /// Ports: a local one, a colon, and the pod's own by number or name
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<String>,
    /// Where to listen: IP addresses, or localhost
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "localhost", value_parser = ports::address)]
    address: Vec<Address>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let session = Session::connect(&args.bus).await?;
    let namespace = args.namespace.namespace.as_str();
    let pod: Pod = typed(&session.api.get(Some(namespace), "pods", &pod_name(&args.pod)?).await?)?;
    let forwards = args.ports.iter().map(|text| ports::forward(text, &pod)).collect::<Outcome<Vec<_>>>()?;
    let phase = pod.status.as_ref().map_or("Pending", |status| status.phase.as_str());
    if phase != "Running" {
        let text = format!("unable to forward port because pod is not running. Current status={phase}");
        return Err(Failure::local(text));
    }
    let target = Arc::new(Target { session, node: node_of(&pod)?.to_owned(), pod });
    let mut pod_lives = target.open(0).await?;
    let listeners = listen(&args.address, &forwards, terminal).await?;

    let mut accepted = select_all(listeners.into_iter().map(|(listener, forward)| {
        Box::pin(futures::stream::unfold(listener, move |listener| async move {
            Some(((listener.accept().await, forward), listener))
        }))
    }));
    let (stop, mut connections) = (CancellationToken::new(), JoinSet::new());
    let ended = loop {
        // Cancel-safe, all of them: streams and signals hold what they did not return, a set its tasks.
        let (connection, forward) = tokio::select! {
            ended = pod_lives.next() => break Some(ended),
            _ = interrupt.recv() => break None,
            _ = terminate.recv() => break None,
            Some(_) = connections.join_next() => continue,
            Some(accepted) = accepted.next() => accepted,
        };
        match connection {
            Ok((connection, _)) => {
                terminal.line(&format!("Handling connection for {}", forward.local))?;
                let carried = carry(Arc::clone(&target), connection, forward, stop.clone(), *terminal);
                connections.spawn(carried);
            }
            Err(error) => {
                terminal.note(&format!("cannot accept a connection for {}: {error}", forward.local));
                sleep(ACCEPT_AGAIN).await;
            }
        }
    };
    // The node learns at once that we leave.
    stop.cancel();
    pod_lives.leave().await;
    let _ = timeout(LEAVE, async { while connections.join_next().await.is_some() {} }).await;
    match ended {
        None => Ok(()),
        Some(last) => Err(lost(last)),
    }
}

/// Why there is nothing to forward to any more, as kubectl says it.
fn lost(last: Option<Result<proto::Chunk, StreamError>>) -> Failure {
    let failure = Failure::local("lost connection to pod");
    match last {
        Some(Ok(proto::Chunk { error: Some(error), .. })) => failure.because(error.message),
        Some(Err(error)) => failure.because(error),
        Some(Ok(_)) | None => failure,
    }
}

/// Listens for each port on each address: as long as there is one, those that are in use are only told.
async fn listen(
    addresses: &[Address],
    forwards: &[Forward],
    terminal: &Terminal,
) -> Outcome<Vec<(TcpListener, Forward)>> {
    let mut listeners = Vec::new();
    for forward in forwards {
        let mut forward = *forward;
        for address in addresses {
            let (mut heard, mut is_taken, mut failures) = (false, false, Vec::new());
            for ip in address.ips() {
                // With a port of the kernel's choice the second address gets the same one.
                let bound = TcpListener::bind(SocketAddr::new(ip, forward.local)).await;
                match bound.and_then(|listener| Ok((listener.local_addr()?, listener))) {
                    Ok((at, listener)) => {
                        heard = true;
                        forward.local = at.port();
                        terminal.line(&format!("Forwarding from {at} -> {}", forward.remote))?;
                        listeners.push((listener, forward));
                    }
                    Err(error) => {
                        is_taken |= error.kind() == std::io::ErrorKind::AddrInUse;
                        failures.push(format!("{}: {error}", SocketAddr::new(ip, forward.local)));
                    }
                }
            }
            // Of localhost one address is enough, as a machine may have no IPv6; but not where another program answers.
            if !heard || is_taken {
                terminal.note(&format!("Unable to listen on port {}: {}", forward.local, failures.join(", ")));
            }
        }
    }
    if listeners.is_empty() {
        return Err(Failure::local("unable to listen on any of the requested ports"));
    }
    Ok(listeners)
}

/// The pod at its node.
struct Target {
    session: Session,
    node: String,
    pod: Pod,
}

impl Target {
    /// A stream to a port of the pod; of port 0: the one that ends with the pod.
    async fn open(&self, port: u16) -> Outcome<ClientStream> {
        let metadata = &self.pod.metadata;
        let request = proto::PortForwardRequest {
            namespace: metadata.namespace.clone(),
            pod: metadata.name.clone(),
            uid: metadata.uid.clone(),
            port: port.into(),
        };
        let subject = subject::pod_stream(&self.node, &metadata.namespace, PodStream::PortForward);
        self.session.open(&self.node, &subject, open_stream::Request::PortForward(request)).await
    }
}

/// Carries one connection to its end, or until `stop`. One that fails ends alone, and is told.
async fn carry(
    target: Arc<Target>,
    connection: TcpStream,
    forward: Forward,
    stop: CancellationToken,
    terminal: Terminal,
) {
    let Forward { local, remote } = forward;
    let carried = async {
        // Small writes are a person's keys or a program's questions.
        connection.set_nodelay(true)?;
        let stream = target.open(remote).await?;
        copy(stream, connection, stop).await
    };
    if let Err(failure) = carried.await {
        terminal.note(&format!(
            "an error occurred forwarding {local} -> {remote}: {}",
            failure.text().trim_start_matches("error: ").trim_end()
        ));
    }
}

/// Copies both ways until the pod has said all and heard all, or the client is gone.
async fn copy(stream: ClientStream, connection: TcpStream, stop: CancellationToken) -> Outcome {
    let (mut from_pod, to_pod) = stream.split();
    let (client, mut to_client) = connection.into_split();
    let inward = async {
        match send(client, to_pod).await {
            // The pod may still have much to say.
            Ok(()) => std::future::pending().await,
            // A client that went away wants no more.
            Err(gone) => gone,
        }
    };
    let ended = tokio::select! {
        ended = receive(&mut from_pod, &mut to_client) => ended,
        ClientGone = inward => Ok(()),
        () = stop.cancelled() => Ok(()),
    };
    from_pod.leave().await;
    ended
}

/// Nobody is there to read what the pod says.
struct ClientGone;

/// Sends what the client says, and that it has said all.
async fn send(mut client: impl AsyncRead + Unpin, mut to_pod: ClientWriter) -> Result<(), ClientGone> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        let count = client.read_buf(&mut buffer).await.map_err(|_| ClientGone)?;
        let sent = if count == 0 { to_pod.eof().await } else { to_pod.data(buffer.split().freeze()).await };
        // That the stream has ended shows on its other half too.
        if count == 0 || sent.is_err() {
            return Ok(());
        }
    }
}

/// Hands the client what the pod says.
async fn receive(from_pod: &mut ClientReader, to_client: &mut OwnedWriteHalf) -> Outcome {
    while let Some(chunk) = from_pod.next().await {
        let chunk = chunk?;
        let written = match chunk.kind() {
            chunk::Kind::Stdout => to_client.write_all(&chunk.data).await,
            chunk::Kind::Eof => to_client.shutdown().await,
            chunk::Kind::End => return chunk.error.map_or(Ok(()), |error| Err(Failure::local(error.message))),
            chunk::Kind::Stderr | chunk::Kind::Json | chunk::Kind::Ack => Ok(()),
        };
        if written.is_err() {
            return Ok(()); // the client has left
        }
    }
    Err(Failure::local("the stream ended before the connection did"))
}
