//! Credentials of registries, from CRI's `AuthConfig` and from the node's own configuration. Pure.

use std::fmt;

use base64::Engine as _;
use podbus_common_cri::runtime::AuthConfig;

/// What lets one into a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user's name and password, told to the registry or to the server that gives out its tokens.
    Basic { user: String, password: String },
    /// A refresh token of OAuth 2, exchanged for a token of the registry.
    Identity(String),
    /// A token of the registry itself.
    Bearer(String),
}

/// Secrets stand in no log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::Anonymous => "Anonymous",
            Credentials::Basic { .. } => "Basic",
            Credentials::Identity(_) => "Identity",
            Credentials::Bearer(_) => "Bearer",
        })
    }
}

/// The field `auth` is not readable.
#[derive(Debug, thiserror::Error)]
#[error("the field auth is not the base64 of user:password")]
pub(super) struct InvalidAuth;

/// The credentials for `host`; none if they are another host's. The most specific field counts.
pub(super) fn credentials(auth: AuthConfig, host: &str) -> Result<Credentials, InvalidAuth> {
    if !auth.server_address.is_empty() && host_of(&auth.server_address) != host_of(host) {
        return Ok(Credentials::Anonymous); // credentials of another registry stay here
    }
    if !auth.registry_token.is_empty() {
        return Ok(Credentials::Bearer(auth.registry_token));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Credentials::Identity(auth.identity_token));
    }
    if !auth.username.is_empty() {
        return Ok(Credentials::Basic { user: auth.username, password: auth.password });
    }
    if auth.auth.is_empty() {
        return Ok(Credentials::Anonymous);
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).map_err(|_| InvalidAuth)?;
    let decoded = String::from_utf8(decoded).map_err(|_| InvalidAuth)?;
    let (user, password) = decoded.split_once(':').ok_or(InvalidAuth)?;
    Ok(Credentials::Basic { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// The host of `https://index.docker.io/v1/`, Docker's own names taken as one.
fn host_of(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    match address.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Credentials {
        Credentials::Basic { user: user.into(), password: password.into() }
    }

    #[test]
    fn each_form_of_credentials_is_read() {
        let auth = AuthConfig::default;
        let cases = [
            (auth(), Credentials::Anonymous),
            (AuthConfig { username: "u".into(), password: "p".into(), ..auth() }, basic("u", "p")),
            (AuthConfig { auth: "dTpwOnE=".into(), ..auth() }, basic("u", "p:q")), // u:p:q
            (AuthConfig { auth: "dTpwAAA=".into(), ..auth() }, basic("u", "p")),   // u:p and two NULs
            (
                AuthConfig { identity_token: "i".into(), username: "u".into(), ..auth() },
                Credentials::Identity("i".into()),
            ),
            (
                AuthConfig { registry_token: "r".into(), identity_token: "i".into(), ..auth() },
                Credentials::Bearer("r".into()),
            ),
        ];
        for (auth, expected) in cases {
            assert!(credentials(auth, "quay.io").unwrap() == expected, "{expected:?}");
        }
        for bad in ["?", "dQ==", "/w=="] {
            assert!(credentials(AuthConfig { auth: bad.into(), ..auth() }, "quay.io").is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_of_another_server_are_none() {
        let at = |server: &str, host: &str| {
            let auth = AuthConfig { username: "u".into(), server_address: server.into(), ..AuthConfig::default() };
            credentials(auth, host).unwrap() != Credentials::Anonymous
        };
        assert!(
            at("", "quay.io") && at("https://quay.io/v1/", "quay.io") && at("https://index.docker.io/v1/", "docker.io")
        );
        assert!(
            !at("quay.io", "quay.io:5000")
                && !at("quay.io.evil.example", "quay.io")
                && !at("https://evil.example/quay.io", "quay.io")
        );
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(format!("{:?}", basic("user", "password")), "Basic");
    }
}
