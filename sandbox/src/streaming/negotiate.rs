//! Which of the ways that a client offers is taken.

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::http::header::SEC_WEBSOCKET_VERSION;
use hyper::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// How the streams of exec and attach are spoken: `v4.channel.k8s.io` and its kin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// Errors are text.
    V1,
    /// The end of standard input arrives.
    V2,
    /// The terminal's size can change.
    V3,
    /// The end is a JSON status.
    V4,
    /// A channel of a WebSocket can be closed.
    V5,
}

/// What carries the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// SPDY/3.1; the version counts for exec and attach.
    Spdy(Version),
    /// A WebSocket, binary or in base64.
    WebSocket { version: Version, base64: bool },
    /// SPDY/3.1 inside a WebSocket.
    Tunnel,
}

/// What was offered, and may be taken.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) carrier: Carrier,
    /// The answer, 101.
    pub(super) response: Response<String>,
}

/// The answer that says why not.
pub(super) type Refusal = Box<Response<String>>;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The best first, as in the lists below.
const SPDY_COMMAND: [(&str, Carrier); 4] = [
    ("v4.channel.k8s.io", Carrier::Spdy(Version::V4)),
    ("v3.channel.k8s.io", Carrier::Spdy(Version::V3)),
    ("v2.channel.k8s.io", Carrier::Spdy(Version::V2)),
    ("channel.k8s.io", Carrier::Spdy(Version::V1)),
];
const SPDY_FORWARD: [(&str, Carrier); 1] = [("portforward.k8s.io", Carrier::Spdy(Version::V4))];
const SOCKET_COMMAND: [(&str, Carrier); 5] = [
    ("v5.channel.k8s.io", Carrier::WebSocket { version: Version::V5, base64: false }),
    ("v4.channel.k8s.io", Carrier::WebSocket { version: Version::V4, base64: false }),
    ("v4.base64.channel.k8s.io", Carrier::WebSocket { version: Version::V4, base64: true }),
    ("channel.k8s.io", PLAIN),
    ("base64.channel.k8s.io", Carrier::WebSocket { version: Version::V1, base64: true }),
];
const SOCKET_FORWARD: [(&str, Carrier); 5] =
    [(TUNNEL, Carrier::Tunnel), SOCKET_COMMAND[1], SOCKET_COMMAND[2], SOCKET_COMMAND[3], SOCKET_COMMAND[4]];
/// A WebSocket without a subprotocol.
const PLAIN: Carrier = Carrier::WebSocket { version: Version::V1, base64: false };

/// Chooses, or says with which answer not.
pub(super) fn choose(is_forward: bool, headers: &HeaderMap) -> Result<Choice, Refusal> {
    let upgrades = words(headers, &UPGRADE);
    let wants_upgrade = words(headers, &CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade"));
    let offers = |name: &str| wants_upgrade && upgrades.iter().any(|word| word.eq_ignore_ascii_case(name));
    if offers("websocket") {
        let supported = if is_forward { SOCKET_FORWARD } else { SOCKET_COMMAND };
        return web_socket(headers, &supported);
    }
    if offers(SPDY) {
        return spdy(headers, if is_forward { &SPDY_FORWARD } else { &SPDY_COMMAND });
    }
    Err(refusal(StatusCode::BAD_REQUEST, "unable to upgrade: ask for SPDY/3.1 or a WebSocket"))
}

fn spdy(headers: &HeaderMap, supported: &[(&'static str, Carrier)]) -> Result<Choice, Refusal> {
    let offered = words(headers, &STREAM_PROTOCOL);
    if offered.is_empty() {
        return Err(refusal(StatusCode::BAD_REQUEST, "the header X-Stream-Protocol-Version is missing"));
    }
    let Some((name, carrier)) = first_common(supported, &offered) else {
        let mut response = refusal(StatusCode::FORBIDDEN, "no protocol that this server speaks is offered");
        for (name, _) in supported {
            response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        return Err(response);
    };
    let mut response = switching(SPDY);
    response.headers_mut().insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    Ok(Choice { carrier, response })
}

fn web_socket(headers: &HeaderMap, supported: &[(&'static str, Carrier)]) -> Result<Choice, Refusal> {
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| words(headers, &SEC_WEBSOCKET_VERSION) == ["13"]);
    let Some(key) = key else {
        return Err(refusal(StatusCode::BAD_REQUEST, "a WebSocket of version 13 with a key is needed"));
    };
    let offered = words(headers, &SEC_WEBSOCKET_PROTOCOL);
    let mut response = switching("websocket");
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).unwrap_or(HeaderValue::from_static(""));
    response.headers_mut().insert("sec-websocket-accept", accept);
    if offered.is_empty() {
        return Ok(Choice { carrier: PLAIN, response });
    }
    let Some((name, carrier)) = first_common(supported, &offered) else {
        let names: Vec<_> = supported.iter().map(|(name, _)| *name).collect();
        return Err(refusal(StatusCode::FORBIDDEN, &format!("offer one of {}", names.join(", "))));
    };
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok(Choice { carrier, response })
}

fn first_common(supported: &[(&'static str, Carrier)], offered: &[&str]) -> Option<(&'static str, Carrier)> {
    supported.iter().find(|(name, _)| offered.contains(name)).copied()
}

/// The values of a header, which may be repeated, a list, or both.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn switching(protocol: &'static str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// An answer that says why not.
pub(super) fn refusal(status: StatusCode, text: &str) -> Refusal {
    let mut response = Box::new(Response::new(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn spdy_with(protocols: &'static str) -> HeaderMap {
        headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "spdy/3.1"),
            ("x-stream-protocol-version", protocols),
        ])
    }

    fn socket_with(protocols: &'static str) -> HeaderMap {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let base = [("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13"), key];
        headers(&[&base[..], &[("sec-websocket-protocol", protocols)]].concat())
    }

    #[test]
    fn the_best_of_what_is_offered_is_taken() {
        let base64 = |version| Carrier::WebSocket { version, base64: true };
        let binary = |version| Carrier::WebSocket { version, base64: false };
        let cases = [
            (false, spdy_with("v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io"), Carrier::Spdy(Version::V4)),
            (false, spdy_with("channel.k8s.io,v2.channel.k8s.io"), Carrier::Spdy(Version::V2)),
            (true, spdy_with("portforward.k8s.io"), Carrier::Spdy(Version::V4)),
            (false, socket_with("v4.channel.k8s.io, v5.channel.k8s.io"), binary(Version::V5)),
            (false, socket_with("v4.base64.channel.k8s.io"), base64(Version::V4)),
            (false, socket_with("base64.channel.k8s.io"), base64(Version::V1)),
            (false, socket_with(""), binary(Version::V1)),
            (true, socket_with("SPDY/3.1+portforward.k8s.io"), Carrier::Tunnel),
            (true, socket_with("v4.channel.k8s.io"), binary(Version::V4)),
        ];
        for (is_forward, headers, carrier) in cases {
            assert_eq!(choose(is_forward, &headers).unwrap().carrier, carrier, "{headers:?}");
        }
    }

    #[test]
    fn what_cannot_be_spoken_is_refused_with_what_can() {
        let status = |is_forward, headers: &HeaderMap| choose(is_forward, headers).unwrap_err().status();
        assert_eq!(status(false, &HeaderMap::new()), StatusCode::BAD_REQUEST);
        assert_eq!(status(false, &spdy_with("")), StatusCode::BAD_REQUEST);
        assert_eq!(status(true, &socket_with("v5.channel.k8s.io")), StatusCode::FORBIDDEN);
        assert_eq!(status(false, &headers(&[("connection", "upgrade"), ("upgrade", "websocket")])), 400);
        let refused = choose(false, &spdy_with("v9.channel.k8s.io")).unwrap_err();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert_eq!(refused.headers().get_all(ACCEPTED_PROTOCOLS).iter().count(), 4);
    }

    #[test]
    fn a_web_socket_is_accepted_with_the_answer_to_its_key() {
        let choice = choose(false, &socket_with("v4.channel.k8s.io")).unwrap();
        let headers = choice.response.headers();
        assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); // RFC 6455, section 1.3
        assert_eq!(headers["sec-websocket-protocol"], "v4.channel.k8s.io");
    }
}
