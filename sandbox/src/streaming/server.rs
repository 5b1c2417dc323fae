//! The HTTP side: a request that upgrades to streams, and nothing else.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Client, Wanted};
use super::negotiate::{Carrier, choose, refusal};
use super::token::Tokens;
use super::{Admitted, attach, exec, forward, spdy, websocket};
use crate::runtime::{Runtime, lock};

/// How long a client may take for the head of its request.
const HEAD: Duration = Duration::from_secs(10);

pub(super) type Shared = Arc<Mutex<Tokens<Admitted>>>;

/// Serves until the runtime ends.
pub(super) async fn accept(listener: TcpListener, runtime: Arc<Runtime>, tokens: Shared) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true); // keys and their echoes are small
                tokio::spawn(serve(stream, Arc::clone(&runtime), Arc::clone(&tokens)));
            }
            Err(error) => {
                // Out of descriptors: those of other streams come back.
                tracing::warn!(%error, "cannot accept a stream");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, runtime: Arc<Runtime>, tokens: Shared) {
    let service = service_fn(|request| {
        let answer = answer(request, &runtime, &tokens);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        tracing::debug!(%error, "a stream's request failed");
    }
}

/// Takes the token, and starts the session that goes on after the answer.
fn answer(mut request: Request<Incoming>, runtime: &Arc<Runtime>, tokens: &Shared) -> Response<String> {
    if !request.headers().contains_key(HOST) {
        return *refusal(StatusCode::BAD_REQUEST, "the header Host is missing");
    }
    let token = request.uri().path().trim_start_matches('/').to_owned();
    let choice = match choose(token.starts_with("portforward/"), request.headers()) {
        Ok(choice) => choice,
        Err(refusal) => return *refusal,
    };
    let Some(admitted) = lock(tokens).take(&token, Instant::now()) else {
        return *refusal(StatusCode::NOT_FOUND, "this URL is used, too old, or was never given out");
    };
    let (runtime, carrier) = (Arc::clone(runtime), choice.carrier);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => run(&runtime, admitted, carrier, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "the client left before its streams began"),
        }
    });
    choice.response
}

type Io = TokioIo<hyper::upgrade::Upgraded>;

/// One session, to its end.
async fn run(runtime: &Arc<Runtime>, admitted: Admitted, carrier: Carrier, io: Io) {
    match admitted {
        Admitted::Exec { container, request } => {
            let wanted =
                Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
            command(io, carrier, wanted, async |client| exec::run(runtime, &container, &request, client).await).await;
        }
        Admitted::Attach { container, request } => {
            let wanted =
                Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
            command(io, carrier, wanted, async |client| attach::run(&container, wanted, client).await).await;
        }
        Admitted::PortForward { sandbox, ports } => match carrier {
            Carrier::Spdy(_) => forward::run(sandbox, io).await,
            Carrier::Tunnel => {
                let (tunnel, pump) = websocket::tunnel(io).await;
                tokio::join!(forward::run(sandbox, tunnel), pump);
            }
            Carrier::WebSocket { base64, .. } => forward::run_channels(sandbox, &ports, base64, io).await,
        },
    }
}

async fn command(io: Io, carrier: Carrier, wanted: Wanted, run: impl AsyncFnOnce(Client)) {
    match carrier {
        Carrier::WebSocket { version, base64 } => websocket::command(io, version, base64, wanted, run).await,
        Carrier::Spdy(version) => spdy::command(io, version, wanted, run).await,
        Carrier::Tunnel => {} // never chosen for a command
    }
}
