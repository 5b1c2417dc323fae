//! HTTP for machines that look: GET, one answer, nothing that is kept.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::prometheus_text;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::address::Address;
use crate::endpoints::{Answer, Endpoints};

/// How long a client may take for the head of its request.
const HEAD: Duration = Duration::from_secs(10);
/// Connections at once; more wait.
const CONNECTIONS_MAX: usize = 32;
/// After an accept that failed for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);
const PLAIN: &str = "text/plain; charset=utf-8";

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A listener that nobody serves yet.
pub struct Server {
    listener: Listener,
    address: Address,
}

impl Server {
    /// Listens. The path of a unix socket is taken over, and root alone may connect to it.
    ///
    /// # Errors
    /// The address, and why nobody can listen there.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        let told = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        match address {
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).await.map_err(told)?;
                let address = Address::Tcp(listener.local_addr().map_err(told)?);
                Ok(Self { listener: Listener::Tcp(listener), address })
            }
            Address::Unix(path) => {
                let listener = listen(path).map_err(told)?;
                Ok(Self { listener: Listener::Unix(listener), address: address.clone() })
            }
        }
    }

    /// Where it listens: with the port that was free.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Answers until the runtime ends, or this is dropped.
    pub async fn run(self, endpoints: Endpoints) {
        let (endpoints, places) = (Arc::new(endpoints), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let endpoints = Arc::clone(&endpoints);
            let accepted = match &self.listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        serve(stream, &endpoints).await;
                        drop(place);
                    });
                }),
                Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        serve(stream, &endpoints).await;
                        drop(place);
                    });
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, endpoints: &Endpoints) {
    let service =
        service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(answer(&request, endpoints).await) });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a request for metrics failed");
    }
}

async fn answer(request: &Request<Incoming>, endpoints: &Endpoints) -> Response<String> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET is answered\n".to_owned());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match endpoints.answer(request.uri().path(), request.uri().query().unwrap_or_default()).await {
        Answer::Metrics(text) => response(StatusCode::OK, prometheus_text::CONTENT_TYPE, text),
        Answer::Verdict(verdict) if verdict.passed => response(StatusCode::OK, PLAIN, verdict.text),
        Answer::Verdict(verdict) => response(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, verdict.text),
        Answer::Failed(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        Answer::NotFound => response(StatusCode::NOT_FOUND, PLAIN, "not found\n".to_owned()),
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::Registry;

    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> String {
        stream.write_all(format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    fn endpoints() -> Endpoints {
        Endpoints::new(Registry::default()).ready("nats", || Err("not connected".to_owned()))
    }

    #[tokio::test]
    async fn a_tcp_client_gets_metrics_in_the_type_that_prometheus_reads() {
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Address::Tcp(address) = *server.address() else { panic!("no TCP") };
        tokio::spawn(server.run(endpoints()));
        let text = ask(TcpStream::connect(address).await.unwrap(), "GET /metrics HTTP/1.1").await;
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{text}");
        assert!(text.contains("\nprocess_cpu_seconds_total "), "{text}");
        let text = ask(TcpStream::connect(address).await.unwrap(), "POST /metrics HTTP/1.1").await;
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
    }

    #[tokio::test]
    async fn a_unix_socket_is_taken_over_and_is_for_root_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.sock");
        drop(UnixListener::bind(&path).unwrap());
        let server = Server::bind(&Address::Unix(path.clone())).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        tokio::spawn(server.run(endpoints()));
        let text = ask(UnixStream::connect(&path).await.unwrap(), "GET /readyz HTTP/1.1").await;
        assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
        assert!(text.ends_with("[-]nats failed: not connected\nreadyz check failed\n"), "{text}");
        let text = ask(UnixStream::connect(&path).await.unwrap(), "GET /livez HTTP/1.1").await;
        assert!(text.ends_with("\r\n\r\nok"), "{text}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_in_the_error() {
        let server = Server::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let taken = server.address().clone();
        let error = Server::bind(&taken).await.err().unwrap().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
    }
}
