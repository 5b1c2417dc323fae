//! Names of images, as Docker writes and completes them: `busybox` is `docker.io/library/busybox:latest`. Pure.
//!
//! The grammar is that of the distribution project: `[registry/]repository[:tag][@digest]`, where the first part is
//! a registry if it has a dot or a colon in it, is `localhost`, or has a capital letter.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// The registry of names without one.
pub(super) const REGISTRY_DEFAULT: &str = "docker.io";
/// The registry whose images are only ever loaded: podbus never pulls from it.
const REGISTRY_LOCAL: &str = "localhost";
const TAG_DEFAULT: &str = "latest";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A complete name: with a registry, and with a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    /// Host, with a port where it has one.
    pub(super) registry: String,
    /// The path in the registry.
    pub(super) repository: String,
    /// The tag; None only if there is a digest.
    pub(super) tag: Option<String>,
    /// The digest of the manifest or index.
    pub(super) digest: Option<Digest>,
}

/// Why a text is no name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of an image: {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// `registry/repository`.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository:tag`, if the name is not by digest alone.
    pub(super) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// True for the registry `localhost` without a port: its images are loaded and never pulled.
    pub(super) fn is_local(&self) -> bool {
        self.registry == REGISTRY_LOCAL
    }

    /// True if the registry is this machine: such a registry speaks plain HTTP.
    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }
}

/// True if a host, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    host == REGISTRY_LOCAL || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| InvalidReference { text: text.to_owned(), reason })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "the digest is not sha256: and 64 hexadecimal digits")?))
        }
        None => (text, None),
    };
    let (registry, remainder) = split_registry(rest);
    let (path, tag) = match remainder.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    check_registry(registry)?;
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag is 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two");
    }
    let is_official = registry == REGISTRY_DEFAULT && !path.contains('/');
    let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
    check_repository(&repository)?;
    if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("it is longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some(TAG_DEFAULT.to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn split_registry(text: &str) -> (&str, &str) {
    let (registry, rest) = match text.split_once('/') {
        Some((first, rest)) if looks_like_registry(first) => (first, rest),
        _ => return (REGISTRY_DEFAULT, text),
    };
    // The old name of Docker's registry.
    (if registry == "index.docker.io" { REGISTRY_DEFAULT } else { registry }, rest)
}

fn looks_like_registry(first: &str) -> bool {
    first == REGISTRY_LOCAL || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Fails unless the text is a host, with a port if need be.
pub(super) fn check_registry(registry: &str) -> Result<(), &'static str> {
    const REASON: &str = "its registry is not a host name or an address, with a port if need be";
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(REASON)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| REASON)?;
            ("v6", after.strip_prefix(':').or((!after.is_empty()).then_some("")))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_port =
        |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.split('.').all(is_label) && port.is_none_or(is_port) { Ok(()) } else { Err(REASON) }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("a repository is written in small letters");
    }
    if repository.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("a repository is small letters and digits, parted by `/`, `.`, `_`, `__` or `-`")
    }
}

/// Small letters and digits, with single separators inside: `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges =
        component.bytes().next().is_some_and(alphanumeric) && component.bytes().last().is_some_and(alphanumeric);
    let mut separators =
        component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    edges && separators.all(|s| s == "." || s == "_" || s == "__" || s.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.bytes().next().is_some_and(word)
        && tag.len() <= TAG_BYTES_MAX
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed_as_docker_does() {
        let by_digest = format!("busybox@sha256:{HEX}");
        let both = format!("quay.io/a/b:1@sha256:{HEX}");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/busybox", "localhost/busybox:latest".to_owned()),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c".to_owned()),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("Registry/a", "Registry/a:latest".to_owned()),
            (&by_digest, format!("docker.io/library/busybox@sha256:{HEX}")),
            (&both, both.clone()),
        ];
        for (text, complete) in cases {
            assert_eq!(text.parse::<Reference>().map(|r| r.to_string()), Ok(complete), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        let upper_digest = format!("a@sha256:{}", HEX.to_uppercase());
        let long = "a".repeat(256);
        let bad = [
            "",
            " ",
            "a b",
            "Busybox",
            "a/B",
            "a:",
            "a:-x",
            "a:b:c",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a.",
            "a..b",
            "a___b",
            "a@",
            "a@sha256:12",
            "a@md5:00",
            "a@sha256:../../etc/passwd",
            "host:99999/a",
            "host:x/a",
            "ho_st.x/a",
            "[::1/a",
            "[zz]/a",
            "../a",
            "a/../b",
            "localhost/",
            &upper_digest,
            &long,
        ];
        for text in bad {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn only_localhost_without_a_port_is_local_and_this_machine_is_loopback() {
        let parse = |text: &str| text.parse::<Reference>().unwrap();
        assert!(parse("localhost/a").is_local() && !parse("localhost:5000/a").is_local());
        for name in ["localhost:5000/a", "127.0.0.1:5000/a", "127.1.2.3:80/a", "[::1]:5000/a"] {
            assert!(parse(name).is_loopback(), "{name}");
        }
        assert!(!parse("127.example.com/a").is_loopback() && !parse("busybox").is_loopback());
    }

    proptest! {
        #[test]
        fn a_complete_name_is_read_as_itself(text in "[a-z0-9.:/@_-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            let _ = text.parse::<Reference>();
        }
    }
}
