//! Where images are pulled from: mirrors, credentials and certificates of registries, as the file `registries.yaml`
//! says, which k3s and RKE2 read too.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::AuthConfig;
use serde::Deserialize;

use super::auth::{Credentials, credentials};
use super::reference::{self, Reference};
use super::tls::Tls;

/// The entry for each registry that has none of its own.
const ANY: &str = "*";
/// Where the registry of names without one really is.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// Why the configuration of registries cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// Its file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// It is not YAML of the right shape.
    #[error("{} is not a configuration of registries: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        reason: String,
    },
    /// A mirror's address is none.
    #[error("{}: mirrors[{registry:?}].endpoint: {endpoint:?} is not of the form http(s)://host[:port][/path]", path.display())]
    Endpoint {
        /// The file.
        path: PathBuf,
        /// Whose mirror.
        registry: String,
        /// The address.
        endpoint: String,
    },
}

/// The configuration of all registries. Empty: each registry is asked itself.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirrors>,
    auth: BTreeMap<String, Credentials>,
    tls: BTreeMap<String, Tls>,
}

#[derive(Debug, Clone)]
struct Mirrors {
    endpoints: Vec<Endpoint>,
    fallback: bool,
}

/// A server that speaks the distribution protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Without TLS.
    pub(super) is_plain: bool,
    /// Host, with a port where it has one.
    pub(super) host: String,
    /// What stands before the name of an image: begins with `/v2`, or ends with it, and with no `/`.
    pub(super) base: String,
    /// False for the registry that an image's name says.
    pub(super) is_mirror: bool,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_plain { "http" } else { "https" }, self.host)?;
        f.write_str(self.base.strip_suffix("/v2").unwrap_or(&self.base))
    }
}

/// What the node's owner says of one host.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HostEntry {
    auth: Option<AuthEntry>,
    tls: Option<TlsEntry>,
}

/// How a host proves who it is, and we to it.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsEntry {
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    insecure_skip_verify: bool,
}

/// Credentials of a host, in Docker's words.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AuthEntry {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    mirrors: BTreeMap<String, MirrorEntry>,
    configs: BTreeMap<String, HostEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MirrorEntry {
    endpoint: Vec<String>,
    #[serde(default = "yes")]
    fallback: bool,
}

fn yes() -> bool {
    true
}

impl Registries {
    /// Reads `registries.yaml`.
    pub fn read(path: &Path) -> Result<Self, RegistriesError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RegistriesError::File { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, RegistriesError> {
        let syntax = |reason: String| RegistriesError::Syntax { path: path.to_owned(), reason };
        let file: File = match text.trim() {
            "" => File::default(),
            text => serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?,
        };
        let mut mirrors = BTreeMap::new();
        for (registry, entry) in file.mirrors {
            let bad = |endpoint: &str| RegistriesError::Endpoint {
                path: path.to_owned(),
                registry: registry.clone(),
                endpoint: endpoint.to_owned(),
            };
            let endpoints: Result<Vec<Endpoint>, _> =
                entry.endpoint.iter().map(|text| endpoint(text).ok_or_else(|| bad(text))).collect();
            mirrors.insert(registry.clone(), Mirrors { endpoints: endpoints?, fallback: entry.fallback });
        }
        let (mut auth, mut tls) = (BTreeMap::new(), BTreeMap::new());
        for (host, entry) in file.configs {
            if let Some(AuthEntry { username, password, auth: encoded, identity_token }) = entry.auth {
                let said = AuthConfig { username, password, auth: encoded, identity_token, ..AuthConfig::default() };
                let read = credentials(said, &host);
                auth.insert(host.clone(), read.map_err(|error| syntax(format!("configs[{host:?}].auth: {error}")))?);
            }
            if let Some(TlsEntry { ca_file, cert_file, key_file, insecure_skip_verify }) = entry.tls {
                let (authority, certificate, key) = (ca_file.as_deref(), cert_file.as_deref(), key_file.as_deref());
                let read = Tls::read(authority, certificate, key, insecure_skip_verify);
                tls.insert(host.clone(), read.map_err(|error| syntax(format!("configs[{host:?}].tls: {error}")))?);
            }
        }
        Ok(Registries { mirrors, auth, tls })
    }

    /// The servers to ask for an image, in this order; never none.
    pub(super) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let mirrors = self.mirrors.get(&reference.registry).or_else(|| self.mirrors.get(ANY));
        let mut endpoints = mirrors.map(|mirrors| mirrors.endpoints.clone()).unwrap_or_default();
        if endpoints.is_empty() || mirrors.is_none_or(|mirrors| mirrors.fallback) {
            endpoints.push(itself(reference));
        }
        endpoints
    }

    /// The credentials of this node for an endpoint, which a pull without its own has.
    pub(super) fn auth(&self, endpoint: &Endpoint) -> Credentials {
        of(&self.auth, endpoint).cloned().unwrap_or(Credentials::Anonymous)
    }

    /// How an endpoint proves who it is, if that is said.
    pub(super) fn tls(&self, endpoint: &Endpoint) -> Option<Tls> {
        of(&self.tls, endpoint).cloned()
    }
}

/// What is said of a host: Docker's may be called by the name that images have.
fn of<'a, T>(said: &'a BTreeMap<String, T>, endpoint: &Endpoint) -> Option<&'a T> {
    let docker = || said.get(reference::REGISTRY_DEFAULT).filter(|_| endpoint.host == DOCKER_HOST);
    said.get(&endpoint.host).or_else(docker)
}

/// The registry that an image's name says. One on this machine speaks plain HTTP.
fn itself(reference: &Reference) -> Endpoint {
    let host = if reference.registry == reference::REGISTRY_DEFAULT { DOCKER_HOST } else { &reference.registry };
    Endpoint { is_plain: reference.is_loopback(), host: host.to_owned(), base: "/v2".to_owned(), is_mirror: false }
}

/// Reads a mirror's address. One whose path begins with `/v2` has all of it before the names of images, as the
/// proxies of some registries want it.
fn endpoint(text: &str) -> Option<Endpoint> {
    let (is_plain, rest) = match text.split_once("://")? {
        ("http", rest) => (true, rest),
        ("https", rest) => (false, rest),
        _ => return None,
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    reference::check_registry(host).ok()?;
    let path = path.trim_end_matches('/');
    let is_segment = |segment: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~".contains(&byte);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(known)
    };
    if !path.is_empty() && !path.split('/').all(is_segment) {
        return None;
    }
    let base = match path {
        "" => "/v2".to_owned(),
        path if path == "v2" || path.starts_with("v2/") => format!("/{path}"),
        path => format!("/{path}/v2"),
    };
    Some(Endpoint { is_plain, host: host.to_owned(), base, is_mirror: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registries, String> {
        Registries::parse(text, Path::new("registries.yaml")).map_err(|error| error.to_string())
    }

    fn asked(registries: &Registries, name: &str) -> Vec<String> {
        registries.endpoints(&name.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_mirrors_a_registry_is_asked_itself_and_only_this_machine_without_tls() {
        let none = parse("").unwrap();
        assert_eq!(asked(&none, "busybox"), ["https://registry-1.docker.io"]);
        assert_eq!(asked(&none, "quay.io/a/b"), ["https://quay.io"]);
        assert_eq!(asked(&none, "127.0.0.1:5000/a"), ["http://127.0.0.1:5000"]);
    }

    #[test]
    fn a_registry_has_its_own_mirrors_or_those_of_all() {
        let text = "mirrors:\n  docker.io:\n    endpoint: [https://a.example, http://b.example:81/sub/]\n  \"*\":\n    endpoint: [http://127.0.0.1:5055]\n    fallback: false\n";
        let registries = parse(text).unwrap();
        assert_eq!(
            asked(&registries, "busybox"),
            ["https://a.example", "http://b.example:81/sub", "https://registry-1.docker.io"]
        );
        assert_eq!(asked(&registries, "quay.io/a/b"), ["http://127.0.0.1:5055"]);
        assert!(registries.endpoints(&"quay.io/a".parse().unwrap())[0].is_mirror);
    }

    #[test]
    fn a_path_stands_before_v2_unless_it_begins_with_it() {
        let base = |text| endpoint(text).map(|endpoint| endpoint.base);
        assert_eq!(base("https://a"), Some("/v2".into()));
        assert_eq!(base("https://a/x/y/"), Some("/x/y/v2".into()));
        assert_eq!(base("https://a/v2/project"), Some("/v2/project".into()));
    }

    #[test]
    fn what_is_no_address_of_a_mirror_is_refused_by_name() {
        for bad in [
            "",
            "a.example",
            "ftp://a",
            "http://",
            "http://user:secret@a",
            "http://a/../b",
            "http://a/?x",
            "http://a b",
        ] {
            assert!(endpoint(bad).is_none(), "{bad}");
        }
        let error = parse("configs:\n  a:\n    auth: {auth: '?'}\n").unwrap_err();
        assert!(error.contains("configs[\"a\"].auth: the field auth is not the base64"), "{error}");
        let error = parse("mirrors:\n  quay.io:\n    endpoint: [quay.example]\n").unwrap_err();
        assert!(error.contains("mirrors[\"quay.io\"].endpoint: \"quay.example\""), "{error}");
        assert!(parse("mirrors:\n  quay.io:\n    endpont: []\n").is_err(), "a word that nobody knows");
    }
}
