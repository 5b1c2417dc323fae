//! One repository on one server, over HTTP: the distribution protocol's part that a pull needs.
//!
//! A server is not trusted: what it sends is bounded and checked by digest, and what it may lead us to is checked
//! before we go. A client of our own, since each known one reads documents and tokens to whatever end they have.

use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::auth::Credentials;
use super::challenge::{self, Challenge, check_hop};
use super::digest::Digest;
use super::manifest::DOCUMENT_TYPES;
use super::reference;
use super::registries::Endpoint;
use super::tls::Tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A server that sends nothing for so long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A document, a token or a refusal has to be whole by then.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// So much of a blob has to come in each period: a server that drips holds no pull for ever.
const PACE_BYTES_MIN: u64 = 16 << 10;
const PACE_PERIOD: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
/// An answer with a token in it.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// What is read of a refusal, to say why.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// What is said of it.
const REASON_CHARS_MAX: usize = 300;
/// A server that asks for a longer pause is asked again after this one.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a server did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It could not be asked, or broke off.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// It refused.
    #[error("it answered {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Status {
        /// The status code of HTTP.
        status: u16,
        /// The beginning of what it said.
        reason: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It wants other credentials.
    #[error("it wants other credentials")]
    Denied,
    /// It sent more than it may.
    #[error("it sent more than {0} bytes")]
    TooLong(u64),
    /// It sent something that makes no sense.
    #[error("{0}")]
    Nonsense(String),
    /// Nothing could vouch for it.
    #[error("this node has no CA certificates: install ca-certificates, or name a file with SSL_CERT_FILE")]
    Certificates,
}

impl RemoteError {
    /// How long to wait before the next try, if what happened may go away by itself: at least `pause`.
    pub(super) fn pause(&self, pause: Duration) -> Option<Duration> {
        match self {
            RemoteError::Http(error) => (!error.is_builder() && !error.is_redirect()).then_some(pause),
            RemoteError::Status { status, retry_after, .. } if *status >= 500 || *status == 429 || *status == 408 => {
                Some(retry_after.map_or(pause, |wanted| wanted.clamp(pause, PAUSE_MAX)))
            }
            _ => None,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, RemoteError::Status { status: 404, .. })
    }
}

/// Whether a server sends fast enough to ever come to an end.
#[derive(Debug)]
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Pace { since: now, bytes: 0 }
    }

    /// Takes note of bytes that have come; false if there are too few of them.
    fn note(&mut self, now: Instant, bytes: u64) -> bool {
        self.bytes += bytes;
        if now.duration_since(self.since) < PACE_PERIOD {
            return true;
        }
        let came = self.bytes;
        *self = Pace::new(now);
        came >= PACE_BYTES_MIN
    }
}

/// A repository on a server.
pub(super) struct Remote {
    http: reqwest::Client,
    /// `https://host/v2/repository/`.
    base: Url,
    /// The repository as the server calls it.
    repository: String,
    credentials: Credentials,
    /// What the server wants to hear, once it has said so.
    authorization: Mutex<Option<HeaderValue>>,
}

/// The part of a blob from some byte on.
pub(super) struct Part {
    response: Response,
    /// The first byte that comes; 0 if the server does not send parts.
    pub(super) start: u64,
    pace: Pace,
}

impl Part {
    /// The next bytes; None at the end.
    pub(super) async fn next(&mut self) -> Result<Option<bytes::Bytes>, RemoteError> {
        let chunk = self.response.chunk().await.map_err(reqwest::Error::without_url)?;
        let bytes = chunk.as_ref().map_or(0, bytes::Bytes::len) as u64;
        if chunk.is_some() && !self.pace.note(Instant::now(), bytes) {
            return Err(RemoteError::Nonsense(format!("it sends less than {PACE_BYTES_MIN} bytes in {PACE_PERIOD:?}")));
        }
        Ok(chunk)
    }
}

impl Remote {
    /// A repository of an image's name at an endpoint. `registry` is what the name says.
    pub(super) async fn new(
        endpoint: &Endpoint,
        tls: Option<Tls>,
        registry: &str,
        repository: &str,
        credentials: Credentials,
    ) -> Result<Self, RemoteError> {
        let scheme = if endpoint.is_plain { "http" } else { "https" };
        let mut base = Url::parse(&format!("{scheme}://{}{}/{repository}/", endpoint.host, endpoint.base))
            .map_err(|error| RemoteError::Nonsense(format!("{endpoint} is no address: {error}")))?;
        if endpoint.is_mirror {
            base.query_pairs_mut().append_pair("ns", registry); // as containerd: a mirror of many knows whose it is
        }
        let authorization = match &credentials {
            Credentials::Bearer(token) => Some(header("Bearer", token)?),
            _ => None,
        };
        let repository = match endpoint.base.strip_prefix("/v2/") {
            Some(prefix) => format!("{prefix}/{repository}"),
            None => repository.to_owned(),
        };
        let http = client(endpoint, tls).await?;
        Ok(Remote { http, base, repository, credentials, authorization: Mutex::new(authorization) })
    }

    /// An index or a manifest by tag or digest, and the digest that the server says it has.
    pub(super) async fn document(&self, name: &str, bytes_max: u64) -> Result<(Vec<u8>, Option<Digest>), RemoteError> {
        let mut headers = HeaderMap::new();
        for kind in DOCUMENT_TYPES {
            headers.append(ACCEPT, HeaderValue::from_static(kind));
        }
        let response = self.get(&format!("manifests/{name}"), &headers).await?;
        let claimed =
            response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok((read_all(response, bytes_max).await?, claimed))
    }

    /// A blob, from byte `start` on if the server can.
    pub(super) async fn blob(&self, digest: &Digest, start: u64) -> Result<Part, RemoteError> {
        let mut headers = HeaderMap::new();
        if start > 0 {
            let range = HeaderValue::from_str(&format!("bytes={start}-"));
            headers.insert(RANGE, range.map_err(|error| RemoteError::Nonsense(error.to_string()))?);
        }
        let path = format!("blobs/{digest}");
        match self.get(&path, &headers).await {
            Ok(response) => {
                let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
                let comes_from = if is_part { range_start(response.headers()) } else { Some(0) };
                match comes_from {
                    Some(comes_from) if comes_from == 0 || comes_from == start => {
                        Ok(Part { response, start: comes_from, pace: Pace::new(Instant::now()) })
                    }
                    _ => Err(RemoteError::Nonsense("it sent another part than was asked for".to_owned())),
                }
            }
            // What we have is longer than what it has: from the beginning.
            Err(RemoteError::Status { status: 416, .. }) if start > 0 => {
                let response = self.get(&path, &HeaderMap::new()).await?;
                Ok(Part { response, start: 0, pace: Pace::new(Instant::now()) })
            }
            Err(error) => Err(error),
        }
    }

    /// One GET, with an answer to the server's challenge if it has one.
    async fn get(&self, path: &str, headers: &HeaderMap) -> Result<Response, RemoteError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        let mut is_answered = false;
        loop {
            let mut request = self.http.get(url.clone()).headers(headers.clone());
            if let Some(value) = self.authorization() {
                request = request.header(AUTHORIZATION, value);
            }
            let response = request.send().await.map_err(reqwest::Error::without_url)?;
            match response.status() {
                status if status.is_success() => return Ok(response),
                StatusCode::UNAUTHORIZED if !is_answered => {
                    is_answered = true;
                    let answer = self.answer(response.headers()).await?;
                    *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                }
                _ => return Err(refusal(response).await),
            }
        }
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to say to a server that wants to know who asks.
    async fn answer(&self, headers: &HeaderMap) -> Result<HeaderValue, RemoteError> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        match (bearer.or(challenges.first()), &self.credentials) {
            (Some(Challenge::Bearer { realm, service }), credentials)
                if !matches!(credentials, Credentials::Bearer(_)) =>
            {
                header("Bearer", &self.token(realm, service.as_deref()).await?)
            }
            (Some(Challenge::Basic), Credentials::Basic { user, password }) => basic(user, password),
            _ => Err(RemoteError::Denied),
        }
    }

    /// A token for pulls of this repository, and for nothing that the server may ask for beyond.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, RemoteError> {
        let nonsense = |reason: String| RemoteError::Nonsense(format!("its server of tokens is refused: {reason}"));
        let mut url = Url::parse(realm).map_err(|error| nonsense(error.to_string()))?;
        check_hop(&self.base, &url).map_err(|reason| nonsense(reason.to_owned()))?;
        let scope = format!("repository:{}:pull", self.repository);
        let asked = [("service", service.unwrap_or_default()), ("scope", &scope)];
        let asked = asked.into_iter().filter(|(_, value)| !value.is_empty());
        let request = match &self.credentials {
            Credentials::Identity(token) => {
                let more = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", "podbus")];
                let mut form = self.base.clone(); // for its encoding
                form.query_pairs_mut().clear().extend_pairs(asked.chain(more));
                let body = form.query().unwrap_or_default().to_owned();
                self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(body)
            }
            credentials => {
                url.query_pairs_mut().extend_pairs(asked);
                let request = self.http.get(url);
                match credentials {
                    Credentials::Basic { user, password } => request.header(AUTHORIZATION, basic(user, password)?),
                    _ => request,
                }
            }
        };
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            return Err(RemoteError::Denied);
        }
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let answer: Token = serde_json::from_slice(&read_all(response, TOKEN_BYTES_MAX).await?)
            .map_err(|error| nonsense(format!("it gave no token ({error})")))?;
        answer.token.or(answer.access_token).ok_or_else(|| nonsense("it gave no token".to_owned()))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, RemoteError> {
    header("Basic", &base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn header(scheme: &str, secret: &str) -> Result<HeaderValue, RemoteError> {
    let mut value = HeaderValue::from_str(&format!("{scheme} {secret}"))
        .map_err(|_| RemoteError::Nonsense("a token has characters that no header can hold".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The first byte of `bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get("content-range")?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

async fn refusal(response: Response) -> RemoteError {
    let status = response.status().as_u16();
    if matches!(status, 401 | 403) {
        return RemoteError::Denied;
    }
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read_all(response, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let reason = reason(&String::from_utf8_lossy(&body));
    RemoteError::Status { status, reason, retry_after: retry_after.map(Duration::from_secs) }
}

/// The beginning of what a server said, as one line that no terminal is moved by.
fn reason(body: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    body.trim().chars().map(printable).take(REASON_CHARS_MAX).collect()
}

/// A body, if it is not longer than `bytes_max` and does not take too long.
async fn read_all(response: Response, bytes_max: u64) -> Result<Vec<u8>, RemoteError> {
    let read = tokio::time::timeout(DOCUMENT_TIMEOUT, read_bounded(response, bytes_max)).await;
    read.unwrap_or_else(|_| Err(RemoteError::Nonsense(format!("it took longer than {DOCUMENT_TIMEOUT:?}"))))
}

async fn read_bounded(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, RemoteError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if (bytes.len() + chunk.len()) as u64 > bytes_max {
            return Err(RemoteError::TooLong(bytes_max));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// An HTTP client for an endpoint and what it leads to.
async fn client(endpoint: &Endpoint, tls: Option<Tls>) -> Result<reqwest::Client, RemoteError> {
    static PROVIDER: Once = Once::new();
    // An error means that the program chose a provider before: it is the only one in the tree.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let (is_plain, is_loopback) = (endpoint.is_plain, reference::is_loopback(&endpoint.host));
    // On a thread that may block: it reads all certificates.
    let made = tokio::task::spawn_blocking(move || {
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .user_agent(concat!("podbus/", env!("CARGO_PKG_VERSION")))
                .referer(false)
                .redirect(redirect::Policy::custom(follow));
            if is_loopback { builder.no_proxy() } else { builder } // no proxy leads back to this machine
        };
        let with_tls = match tls {
            Some(tls) => tls.apply(builder()),
            None => builder(),
        };
        match with_tls.build() {
            // A bare container has no certificates, and plain HTTP needs none; what it leads to by TLS fails.
            Err(_) if is_plain => builder().tls_certs_only([]).build(),
            other => other,
        }
    });
    match made.await {
        Ok(made) => made.map_err(|error| if error.is_builder() { RemoteError::Certificates } else { error.into() }),
        Err(_) => Err(RemoteError::Certificates), // it panics where the node has none
    }
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > REDIRECTS_MAX {
        return attempt.error("too many redirects");
    }
    let checked = attempt.previous().last().map_or(Ok(()), |from| check_hop(from, attempt.url()));
    match checked {
        Ok(()) => attempt.follow(),
        Err(reason) => attempt.error(format!("a redirect is refused: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_away_by_itself_is_tried_again_and_not_before_the_server_wants_it() {
        let status = |status, seconds: Option<u64>| RemoteError::Status {
            status,
            reason: String::new(),
            retry_after: seconds.map(Duration::from_secs),
        };
        let pause = Duration::from_millis(250);
        assert_eq!(status(503, None).pause(pause), Some(pause));
        assert_eq!(status(429, Some(3)).pause(pause), Some(Duration::from_secs(3)));
        assert_eq!(status(429, Some(86400)).pause(pause), Some(PAUSE_MAX));
        for error in [status(404, None), status(400, Some(1)), RemoteError::Denied, RemoteError::TooLong(1)] {
            assert_eq!(error.pause(pause), None, "{error}");
        }
    }

    #[test]
    fn a_server_that_drips_is_given_up_and_a_slow_one_is_not() {
        let begin = Instant::now();
        let sends = |bytes: u64| {
            let mut pace = Pace::new(begin);
            (1..=180).all(|second| pace.note(begin + Duration::from_secs(second), bytes))
        };
        assert!(sends(PACE_BYTES_MIN / 60 + 1));
        assert!(!sends(PACE_BYTES_MIN / 60 - 1));
    }

    #[test]
    fn what_a_server_says_is_shown_as_one_short_line() {
        assert_eq!(reason(" a\n\u{1b}[2J "), "a  [2J");
        assert_eq!(reason(&"x".repeat(1000)).len(), REASON_CHARS_MAX);
    }
}
