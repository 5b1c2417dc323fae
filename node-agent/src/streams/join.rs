//! Joining what the runtime serves behind a URL on loopback: an HTTP upgrade to SPDY/3.1, which every CRI runtime speaks.

use std::collections::VecDeque;

use bytes::Bytes;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use podbus_common_spdy::{Connection, Event, Headers, Order, Session};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

const STREAM_PROTOCOL: &str = "X-Stream-Protocol-Version";

/// Why the streams of a URL cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    /// The runtime gave no URL that leads anywhere.
    #[error("the runtime gave a URL that cannot be used: {0}")]
    Url(String),
    /// Nobody listens there.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It speaks no HTTP.
    #[error("the runtime's streaming server: {0}")]
    Http(#[from] hyper::Error),
    /// It does not upgrade.
    #[error("the runtime's streaming server answers {0} where it should switch to SPDY/3.1")]
    Refused(StatusCode),
    /// It accepts no such stream, or the connection ended.
    #[error("the runtime's streaming server accepts no stream \"{0}\"")]
    Stream(String),
}

/// A connection whose streams are opened one after the other. Dropping it ends it.
pub(super) struct Joined {
    session: Session,
    /// What came while a stream was being opened.
    early: VecDeque<Event>,
    /// The id of the next stream.
    next: u32,
    _drive: AbortOnDropHandle<()>,
}

impl Joined {
    /// Joins by the URL, speaking `protocol` in the streams.
    pub(super) async fn join(url: &str, protocol: &str) -> Result<Self, JoinError> {
        let unusable = || JoinError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| unusable())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(unusable)?.to_string();
        let connected = async {
            let connection = TcpStream::connect(&authority).await?;
            connection.set_nodelay(true)?; // keys and their echoes are small
            Ok::<_, std::io::Error>(connection)
        };
        let failed = |source| JoinError::Connect { authority: authority.clone(), source };
        let connection = connected.await.map_err(failed)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
        // Ends with the upgraded connection.
        tokio::spawn(connection.with_upgrades());
        let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(HOST, &authority)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "SPDY/3.1")
            .header(STREAM_PROTOCOL, protocol)
            .body(String::new())
            .map_err(|_| unusable())?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(JoinError::Refused(response.status()));
        }
        let upgraded = TokioIo::new(hyper::upgrade::on(response).await?);
        let (session, drive) = podbus_common_spdy::open(Connection::client(), upgraded, || {});
        let drive = AbortOnDropHandle::new(tokio::spawn(drive));
        Ok(Self { session, early: VecDeque::new(), next: 1, _drive: drive })
    }

    /// Opens a stream and waits until it is accepted: some servers drop what comes before that.
    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32, JoinError> {
        let refused = || JoinError::Stream(headers.first().map_or("", |(_, kind)| *kind).to_owned());
        let id = self.next;
        self.next += 2;
        let order = Order::Open { stream: id, headers: Headers::new(headers) };
        self.session.orders.send(order).await.map_err(|_| refused())?;
        loop {
            match self.session.events.recv().await {
                Some(Event::Opened { stream, .. }) if stream == id => return Ok(id),
                Some(Event::Ended { stream }) if stream == id => return Err(refused()),
                Some(event) => self.early.push_back(event), // of streams that are open already: a few at most
                None => return Err(refused()),
            }
        }
    }

    /// What sends to its streams.
    pub(super) fn outlet(&self) -> Outlet {
        Outlet(self.session.orders.clone())
    }

    /// What happens next; `None`: the connection ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        match self.early.pop_front() {
            Some(event) => Some(event),
            None => self.session.events.recv().await,
        }
    }
}

/// Sends to the streams of a [`Joined`].
pub(super) struct Outlet(mpsc::Sender<Order>);

impl Outlet {
    /// Sends bytes; `false`: the connection has ended, which its reader sees as well.
    pub(super) async fn send(&self, stream: u32, bytes: Bytes) -> bool {
        self.0.send(Order::Send { stream, bytes, fin: false }).await.is_ok()
    }

    /// Ends one direction of a stream; as [`Self::send`].
    pub(super) async fn end(&self, stream: u32) -> bool {
        self.0.send(Order::Send { stream, bytes: Bytes::new(), fin: true }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with `head`, then accepts streams and sends `early` on each before it is accepted.
    async fn server(head: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/exec/token", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(io.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            assert!(request.starts_with("post /exec/token http/1.1\r\n"), "{request}");
            assert!(request.contains("upgrade: spdy/3.1\r\n") && request.contains("\r\nhost: 127.0.0.1:"), "{request}");
            io.write_all(head.as_bytes()).await.unwrap();
            let (mut session, drive) = podbus_common_spdy::open(Connection::server(), io, || {});
            let serve = async {
                while let Some(event) = session.events.recv().await {
                    match event {
                        Event::Opened { stream, headers } if headers.get("streamtype") == Some("nonsense") => {
                            session.orders.send(Order::Reset { stream }).await.unwrap();
                        }
                        Event::Data { stream, bytes } => {
                            session.orders.send(Order::Send { stream, bytes, fin: true }).await.unwrap();
                        }
                        Event::Opened { .. } | Event::Ended { .. } => {}
                    }
                }
            };
            tokio::join!(drive, serve);
        });
        url
    }

    #[tokio::test]
    async fn streams_are_opened_carry_data_and_end_alone() {
        let url = server("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n").await;
        let mut joined = Joined::join(&url, "v4.channel.k8s.io").await.unwrap();
        let stdin = joined.open(&[("streamtype", "stdin")]).await.unwrap();
        let outlet = joined.outlet();
        assert!(outlet.send(stdin, Bytes::from_static(b"hello")).await);
        // Its answer comes while another stream is opened, and is not lost.
        let other = joined.open(&[("streamtype", "stdout")]).await.unwrap();
        assert_ne!(stdin, other);
        let bytes = Bytes::from_static(b"hello");
        assert_eq!(joined.next().await, Some(Event::Data { stream: stdin, bytes }));
        assert_eq!(joined.next().await, Some(Event::Ended { stream: stdin }));
    }

    #[tokio::test]
    async fn who_does_not_upgrade_is_named() {
        let url = server("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        let error = Joined::join(&url, "v4.channel.k8s.io").await.err().unwrap();
        assert!(error.to_string().contains("404 Not Found"), "{error}");
        for url in ["https://127.0.0.1:1/x", "", "/x", "http://"] {
            assert!(matches!(Joined::join(url, "x").await.err().unwrap(), JoinError::Url(_)), "{url}");
        }
    }
}
