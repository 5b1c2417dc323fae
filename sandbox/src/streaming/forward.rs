//! Ports inside a pod: each connection that a client forwards is a pair of streams, one for data and one for errors.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use podbus_common_spdy::{Event, Headers, Order, Session};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{IDLE, STREAM_CREATION, spdy, websocket};
use crate::runtime::{Outcome, Sandbox};

/// What is read at once.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks on their way into the pod, for each connection.
const CHUNKS_MAX: usize = 8;
/// How long a client may go on when the pod has ended its side (as containerd has it).
const AFTER_END: Duration = Duration::from_secs(1);
/// How many connections a session may have at once.
const CONNECTIONS_MAX: usize = 512;

/// A port as clients write it.
pub(super) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// The pod's loopback, first the address that nearly every program listens on.
async fn connect(sandbox: &Sandbox, port: u16) -> Outcome<TcpStream> {
    let first = sandbox.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    match first {
        Ok(stream) => Ok(stream),
        Err(error) => {
            let second = sandbox.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await;
            second.map_err(|_| error)
        }
    }
}

/// A connection that has one of its streams.
struct Half {
    data: Option<u32>,
    error: Option<u32>,
    port: u16,
    since: Instant,
}

/// Serves a SPDY session: connections come and go until the client leaves. One that fails ends alone.
pub(super) async fn run(sandbox: Arc<Sandbox>, io: impl AsyncRead + AsyncWrite + Unpin) {
    let (session, drive) = spdy::open(io);
    tokio::join!(drive, serve(sandbox, session));
}

async fn serve(sandbox: Arc<Sandbox>, session: Session) {
    let Session { mut events, orders } = session;
    let mut halves: HashMap<String, Half> = HashMap::new();
    // By data stream: what goes into the pod.
    let mut inputs: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut connections = JoinSet::new();
    while let Some(event) = events.recv().await {
        while connections.try_join_next().is_some() {}
        match event {
            Event::Opened { stream, headers } => {
                expire(&mut halves, &orders).await;
                let is_full = connections.len() + halves.len() >= CONNECTIONS_MAX;
                let pair = if is_full { None } else { pair(&mut halves, stream, &headers) };
                match pair {
                    Some(Paired::Half) => {}
                    Some(Paired::Whole { data, error, port }) => {
                        let (input, to_pod) = mpsc::channel(CHUNKS_MAX);
                        inputs.insert(data, input);
                        connections.spawn(forward(Arc::clone(&sandbox), data, error, port, to_pod, orders.clone()));
                    }
                    None => {
                        let _ = orders.send(Order::Reset { stream }).await; // the next event shows it, if it is gone
                    }
                }
            }
            Event::Data { stream, bytes } => {
                // A pod that does not read holds up its client, as a connection would; one that has closed, nobody.
                if let Some(input) = inputs.get(&stream)
                    && input.send(bytes).await.is_err()
                {
                    inputs.remove(&stream);
                }
            }
            Event::Ended { stream } => {
                inputs.remove(&stream);
            }
        }
    }
    // The client has left: what still runs is aborted with the set.
}

enum Paired {
    Half,
    Whole { data: u32, error: u32, port: u16 },
}

/// Finds the other stream of a connection; `None` where the headers make no sense.
fn pair(halves: &mut HashMap<String, Half>, stream: u32, headers: &Headers) -> Option<Paired> {
    let port = port(headers.get("port")?.parse().ok()?)?;
    let is_data = match headers.get("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    // Very old clients number no requests: their data stream comes right after the error stream.
    let id = headers
        .get("requestid")
        .map_or_else(|| if is_data { stream.saturating_sub(2) } else { stream }.to_string(), ToOwned::to_owned);
    let half = Half { data: None, error: None, port, since: Instant::now() };
    let half = halves.entry(id.clone()).or_insert(half);
    let place = if is_data { &mut half.data } else { &mut half.error };
    if place.replace(stream).is_some() || half.port != port {
        halves.remove(&id);
        return None;
    }
    let (Some(data), Some(error)) = (half.data, half.error) else { return Some(Paired::Half) };
    halves.remove(&id);
    Some(Paired::Whole { data, error, port })
}

/// Gives up connections whose second stream never came.
async fn expire(halves: &mut HashMap<String, Half>, orders: &mpsc::Sender<Order>) {
    let old: Vec<_> = halves.iter().filter(|(_, half)| half.since.elapsed() > STREAM_CREATION).collect();
    let ids: Vec<String> = old.iter().map(|(id, _)| (*id).clone()).collect();
    let streams: Vec<u32> = old.iter().flat_map(|(_, half)| [half.data, half.error]).flatten().collect();
    for stream in streams {
        let _ = orders.send(Order::Reset { stream }).await;
    }
    for id in ids {
        halves.remove(&id);
    }
}

/// One connection.
async fn forward(
    sandbox: Arc<Sandbox>,
    data: u32,
    error: u32,
    port: u16,
    to_pod: mpsc::Receiver<Bytes>,
    orders: mpsc::Sender<Order>,
) {
    let copied = match connect(&sandbox, port).await {
        Ok(stream) => {
            let wrap = |bytes| Order::Send { stream: data, bytes, fin: false };
            copy(stream, to_pod, &orders, wrap).await
        }
        Err(error) => Err(error.to_string()),
    };
    let last = match copied {
        Ok(()) => {
            let ended = |stream| Order::Send { stream, bytes: Bytes::new(), fin: true };
            [ended(data), ended(error)]
        }
        Err(text) => {
            let text = format!("error forwarding port {port} to pod {}: {text}", sandbox.body.id);
            [Order::Send { stream: error, bytes: text.into(), fin: true }, Order::Reset { stream: data }]
        }
    };
    for order in last {
        let _ = orders.send(order).await; // a client that has left needs no end
    }
}

/// Copies both ways until both have ended.
async fn copy<M>(
    stream: TcpStream,
    mut to_pod: mpsc::Receiver<Bytes>,
    to_client: &mpsc::Sender<M>,
    wrap: impl Fn(Bytes) -> M,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.into_split();
    let inward = async {
        while let Some(bytes) = to_pod.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return; // the reading side says why
            }
        }
        let _ = writer.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    if to_client.send(wrap(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                        return Ok(()); // the client has left
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        result = &mut outward => {
            // The pod has said all. What the client still has to say is heard a little longer.
            let _ = timeout(AFTER_END, inward).await;
            result
        }
        () = &mut inward => outward.await,
    }
}

/// Serves the channels of a WebSocket: for the n-th port 2n is data, 2n + 1 errors, and both begin with the port.
pub(super) async fn run_channels(
    sandbox: Arc<Sandbox>,
    ports: &[i32],
    base64: bool,
    io: impl AsyncRead + AsyncWrite + Unpin,
) {
    const PORTS_MAX: usize = 64;
    let ports: Vec<u16> = ports.iter().filter_map(|number| port(*number)).take(PORTS_MAX).collect();
    let (mut sink, mut stream) = websocket::accept(io).await.split();
    let (orders, mut outgoing) = mpsc::channel::<Message>(CHUNKS_MAX);
    let mut inputs = HashMap::new();
    let mut connections = JoinSet::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (input, to_pod) = mpsc::channel(CHUNKS_MAX);
        inputs.insert(channel, input);
        connections.spawn(forward_channel(Arc::clone(&sandbox), channel, port, base64, to_pod, orders.clone()));
    }
    drop(orders);
    let inward = async {
        while let Ok(Some(Ok(message))) = timeout(IDLE, stream.next()).await {
            if let Some((channel, bytes)) = websocket::parse(message, base64)
                && let Some(input) = inputs.get(&channel)
                && input.send(bytes).await.is_err()
            {
                inputs.remove(&channel);
            }
        }
    };
    let outward = async {
        while let Some(message) = outgoing.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.send(websocket::goodbye()).await;
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        () = &mut inward => {}
        () = &mut outward => {
            let _ = timeout(super::LINGER, inward).await;
        }
    }
}

async fn forward_channel(
    sandbox: Arc<Sandbox>,
    channel: u8,
    port: u16,
    base64: bool,
    to_pod: mpsc::Receiver<Bytes>,
    orders: mpsc::Sender<Message>,
) {
    let message = |channel, data: &[u8]| websocket::message(channel, data, base64);
    for channel in [channel, channel + 1] {
        let _ = orders.send(message(channel, &port.to_le_bytes())).await; // a client that has left needs nothing
    }
    let copied = match connect(&sandbox, port).await {
        Ok(stream) => copy(stream, to_pod, &orders, |bytes| message(channel, &bytes)).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(text) = copied {
        let text = format!("error forwarding port {port} to pod {}: {text}", sandbox.body.id);
        let _ = orders.send(message(channel + 1, text.as_bytes())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(halves: &mut HashMap<String, Half>, stream: u32, kind: &str, port: &str, id: Option<&str>) -> String {
        let mut headers = vec![("streamtype", kind), ("port", port)];
        headers.extend(id.map(|id| ("requestid", id)));
        match pair(halves, stream, &Headers::new(&headers)) {
            None => "refused".to_owned(),
            Some(Paired::Half) => "half".to_owned(),
            Some(Paired::Whole { data, error, port }) => format!("{data} {error} {port}"),
        }
    }

    #[test]
    fn two_streams_of_one_request_are_a_connection() {
        let halves = &mut HashMap::new();
        assert_eq!(opened(halves, 1, "error", "80", Some("0")), "half");
        assert_eq!(opened(halves, 3, "error", "81", Some("1")), "half");
        assert_eq!(opened(halves, 5, "data", "81", Some("1")), "5 3 81");
        assert_eq!(opened(halves, 7, "data", "80", Some("0")), "7 1 80");
        assert!(halves.is_empty());
    }

    #[test]
    fn clients_without_request_ids_open_data_right_after_errors() {
        let halves = &mut HashMap::new();
        assert_eq!(opened(halves, 1, "error", "80", None), "half");
        assert_eq!(opened(halves, 3, "data", "80", None), "3 1 80");
    }

    #[test]
    fn what_is_no_port_or_no_type_or_comes_twice_is_refused() {
        let halves = &mut HashMap::new();
        for port in ["0", "65536", "-1", "http", ""] {
            assert_eq!(opened(halves, 1, "error", port, Some("0")), "refused", "{port}");
        }
        assert_eq!(opened(halves, 1, "stdin", "80", Some("0")), "refused");
        assert_eq!(opened(halves, 1, "error", "80", Some("0")), "half");
        assert_eq!(opened(halves, 3, "error", "80", Some("0")), "refused");
        assert!(halves.is_empty());
    }
}
