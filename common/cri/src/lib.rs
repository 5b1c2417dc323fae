//! The container runtime interface v1: messages, client and server, and how to connect to a runtime.
//!
//! [`runtime`] is generated from `proto/cri.proto`, [`sandbox`] from `proto/sandbox.proto`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Messages, clients and servers of the package `runtime.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications, reason = "generated")]
pub mod runtime {
    tonic::include_proto!("runtime.v1");
}

/// The image archive call beside CRI, package `podbus.sandbox.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, unused_qualifications, reason = "generated")]
pub mod sandbox {
    tonic::include_proto!("podbus.sandbox.v1");
}

/// The largest message that either side sends or takes: the 16 MiB of the kubelet's CRI client.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Why a runtime's socket could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the container runtime at {}", socket.display())]
pub struct ConnectError {
    socket: PathBuf,
    source: tonic::transport::Error,
}

/// Connects to the runtime that listens on the unix socket at `socket`, within `timeout`.
///
/// The channel reconnects by itself when the runtime restarts; calls fail with `Unavailable` meanwhile.
pub async fn connect(socket: &Path, timeout: Duration) -> Result<Channel, ConnectError> {
    let path = socket.to_owned();
    endpoint(timeout)
        .connect_with_connector(service_fn(move |_: Uri| open(path.clone())))
        .await
        .map_err(|source| ConnectError { socket: socket.to_owned(), source })
}

/// A channel that connects at its first call, for a runtime that may not be up yet.
pub fn connect_lazy(socket: &Path, timeout: Duration) -> Channel {
    let path = socket.to_owned();
    endpoint(timeout).connect_with_connector_lazy(service_fn(move |_: Uri| open(path.clone())))
}

fn endpoint(timeout: Duration) -> Endpoint {
    // The authority is required by HTTP/2 and ignored on a unix socket.
    Endpoint::from_static("http://localhost").connect_timeout(timeout)
}

async fn open(socket: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(socket).await?))
}
