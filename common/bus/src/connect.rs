//! Connecting to the bus.

use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use nkeys::KeyPair;
use podbus_common::access::inbox_prefix;
use tokio::sync::broadcast;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait between attempts to reconnect, at most: the cluster shows the truth soon after the bus is back.
const RECONNECT_DELAY_MAX: Duration = Duration::from_millis(500);
/// Refusals of the server that a request may be behind with.
const REFUSALS_MAX: usize = 64;

/// Where the bus is, and who asks.
#[derive(Clone, Default)]
pub struct BusOptions {
    /// `nats://host:port`, of a cluster's servers all, with commas between them; a token may stand before an `@`.
    pub url: String,
    /// The token, or the seed of a user's nkey (`SU...`), where the server wants one; wins over one in the URL.
    pub token: Option<String>,
    /// Shown by `nats server report connections`.
    pub name: String,
}

impl fmt::Debug for BusOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusOptions").field("url", &split_token(&self.url).0).field("name", &self.name).finish()
    }
}

/// Why the bus cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is none.
    #[error("{url:?} is not the URL of a NATS server: write nats://host:port")]
    Url {
        /// As given, without the token.
        url: String,
    },
    /// The server wants a token or a key, or another one.
    #[error("the NATS server at {url} refuses this token or key")]
    Unauthorized {
        /// Without the token.
        url: String,
    },
    /// Nothing answers there.
    #[error("cannot reach the NATS server at {url}")]
    Unreachable {
        /// Without the token.
        url: String,
        /// Why.
        source: async_nats::ConnectError,
    },
}

/// A connection to the bus; clones share it. It reconnects by itself.
#[derive(Debug, Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    url: String,
    /// What the server says it refuses: a publish without the right to has no answer of its own.
    refusals: broadcast::Sender<String>,
}

impl Bus {
    /// Connects now, or says why not: for a person who waits.
    pub async fn connect(options: &BusOptions) -> Result<Self, ConnectError> {
        Self::open(options, false).await
    }

    /// Returns at once and connects in the background, for ever: for a service that outlives its bus.
    pub async fn connect_lazy(options: &BusOptions) -> Result<Self, ConnectError> {
        Self::open(options, true).await
    }

    async fn open(options: &BusOptions, lazy: bool) -> Result<Self, ConnectError> {
        let (url, token_of_url) = split_token(&options.url);
        let mut connect = ConnectOptions::new()
            .name(&options.name)
            .connection_timeout(CONNECT_TIMEOUT)
            .max_reconnects(None)
            .reconnect_delay_callback(reconnect_delay);
        let (refusals, _) = broadcast::channel(REFUSALS_MAX);
        let refused = refusals.clone();
        connect = connect.event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                // Nobody may be asking anything.
                let _ = refused.send(text);
            }
            std::future::ready(())
        });
        if let Some(secret) = options.token.clone().or(token_of_url) {
            connect = match KeyPair::from_seed(&secret) {
                // Each user reads the inboxes beneath its own key, and no others.
                Ok(pair) => connect.nkey(secret).custom_inbox_prefix(inbox_prefix(&pair.public_key())),
                Err(_) => connect.token(secret),
            };
        }
        if lazy {
            connect = connect.retry_on_initial_connect();
        }
        let servers: Vec<&str> = url.split(',').collect();
        let client = connect.connect(&servers[..]).await.map_err(|source| match source.kind() {
            ConnectErrorKind::ServerParse => ConnectError::Url { url: url.clone() },
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                ConnectError::Unauthorized { url: url.clone() }
            }
            _ => ConnectError::Unreachable { url: url.clone(), source },
        })?;
        Ok(Self { jetstream: jetstream::new(client.clone()), client, url, refusals })
    }

    /// The NATS client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The JetStream context.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// What the server refuses from now on, in its words.
    pub(crate) fn refusals(&self) -> broadcast::Receiver<String> {
        self.refusals.subscribe()
    }

    /// Where the bus is, without the token.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's version as (major, minor, patch); `None` before the first connection.
    pub fn server_version(&self) -> Option<(u64, u64, u64)> {
        parse_version(&self.client.try_server_info()?.version)
    }

    /// Whether the connection stands now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// How often it was made: what is true of the server need not be true of it after a reconnection.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// Reads a token or a seed from its file; white space around it does not count.
pub fn read_token(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|token| token.trim().to_owned())
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.min(8)).unwrap_or(8);
    Duration::from_millis(10).saturating_mul(1 << doublings).min(RECONNECT_DELAY_MAX)
}

/// `nats://TOKEN@host:port` -> the URL without it, and the token. A user with a password stays in the URL. Of several
/// URLs with commas between them the servers are those of one cluster, so the first token is that of all.
pub fn split_token(urls: &str) -> (String, Option<String>) {
    let split: Vec<_> = urls.split(',').map(split_one).collect();
    let token = split.iter().find_map(|(_, token)| token.clone());
    (split.into_iter().map(|(url, _)| url).collect::<Vec<_>>().join(","), token)
}

fn split_one(url: &str) -> (String, Option<String>) {
    let (scheme, rest) = url.trim().split_once("://").unwrap_or(("nats", url.trim()));
    match rest.rsplit_once('@') {
        Some((token, host)) if !token.contains(':') => (format!("{scheme}://{host}"), Some(token.to_owned())),
        _ => (format!("{scheme}://{rest}"), None),
    }
}

/// `2.10.22-beta.1` -> (2, 10, 22).
fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_the_url_is_never_shown() {
        let options = BusOptions { url: "nats://s3cret@h:1".into(), token: None, name: "x".into() };
        assert!(!format!("{options:?}").contains("s3cret"));
        assert_eq!(split_token("nats://s3cret@h:1"), ("nats://h:1".to_owned(), Some("s3cret".to_owned())));
        assert_eq!(split_token("nats://u:p@h:1"), ("nats://u:p@h:1".to_owned(), None));
        assert_eq!(split_token("h:1"), ("nats://h:1".to_owned(), None));
        let cluster = ("nats://a:1,nats://b:2".to_owned(), Some("s3cret".to_owned()));
        assert_eq!(split_token("nats://s3cret@a:1, b:2"), cluster);
    }

    #[test]
    fn a_version_reads_with_or_without_a_suffix() {
        assert_eq!(parse_version("2.9.10"), Some((2, 9, 10)));
        assert_eq!(parse_version("2.14.0-RC.1"), Some((2, 14, 0)));
        assert_eq!(parse_version(""), None);
    }
}
