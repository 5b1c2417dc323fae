//! Names of images, completed as docker does: `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;

/// Where images without a registry come from.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of it.
const DEFAULT_REGISTRY_OLD: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// The name of an image, in its parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// `docker.io`, `localhost`, `registry.example.com:5000`.
    pub registry: String,
    /// `library/busybox`.
    pub repository: String,
    /// `latest`, unless there is a digest.
    pub tag: Option<String>,
    /// `sha256:...`.
    pub digest: Option<String>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// It has another shape.
    #[error("couldn't parse image name \"{0}\": invalid reference format")]
    Format(String),
    /// Repositories are written in lower case.
    #[error("couldn't parse image name \"{0}\": invalid reference format: repository name must be lowercase")]
    UpperCase(String),
    /// The repository has more than 255 bytes.
    #[error("couldn't parse image name \"{0}\": repository name must not be more than 255 characters")]
    TooLong(String),
}

impl ImageName {
    /// Reads a name and completes it: registry, `library/`, and `latest` when neither tag nor digest is given.
    ///
    /// # Errors
    /// When it is not the name of an image.
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        let format = || ImageNameError::Format(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, repository)) if is_registry(first) => (first, repository),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == DEFAULT_REGISTRY_OLD { DEFAULT_REGISTRY } else { registry };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ImageNameError::UpperCase(text.to_owned()));
        }
        if !(is_valid_registry(registry)
            && repository.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest))
        {
            return Err(format());
        }
        if registry.len() + 1 + repository.len() > REPOSITORY_BYTES_MAX {
            return Err(ImageNameError::TooLong(text.to_owned()));
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        Ok(Self {
            registry: registry.to_owned(),
            repository: if official { format!("library/{repository}") } else { repository.to_owned() },
            tag: tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Of the registry `localhost` without a port: it is on the node or nowhere, and is never pulled.
    pub fn is_local(&self) -> bool {
        self.registry == "localhost"
    }

    /// Whether the same name may mean another image tomorrow, by Kubernetes' rule: the tag is `latest`, and no digest
    /// is named. Such an image is pulled at each start by default.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag.as_deref().is_none_or(|tag| tag == DEFAULT_TAG)
    }
}

/// The whole name: `docker.io/library/busybox:latest`.
impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// The whole name of an image.
///
/// # Errors
/// When it is not the name of an image.
pub fn normalise(text: &str) -> Result<String, ImageNameError> {
    ImageName::parse(text).map(|name| name.to_string())
}

/// Whether `text` names an image of the registry `localhost` without a port, see [`ImageName::is_local`].
pub fn is_local(text: &str) -> bool {
    ImageName::parse(text).is_ok_and(|name| name.is_local())
}

/// As docker tells `localhost/x` from `library/x`: by a dot, a port, capitals, or the very word.
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_valid_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_fine = match v6 {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(label),
    };
    host_is_fine && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower case and digits, separated by one dot, one or two underscores, or dashes.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().next_back()) else { return false };
    is_word(first)
        && is_word(last)
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (short, long) in [
            ("busybox".to_owned(), "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36".into(), "docker.io/library/busybox:1.36".into()),
            ("team/app".into(), "docker.io/team/app:latest".into()),
            ("docker.io/busybox".into(), "docker.io/library/busybox:latest".into()),
            ("index.docker.io/a/b:1".into(), "docker.io/a/b:1".into()),
            ("localhost/busybox:latest".into(), "localhost/busybox:latest".into()),
            ("localhost:5000/busybox".into(), "localhost:5000/busybox:latest".into()),
            ("registry.example.com:5000/a/b_c/d--e:v1".into(), "registry.example.com:5000/a/b_c/d--e:v1".into()),
            ("[::1]:5000/a".into(), "[::1]:5000/a:latest".into()),
            ("Registry/a".into(), "Registry/a:latest".into()),
            (format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
            (format!("busybox:1@{digest}"), format!("docker.io/library/busybox:1@{digest}")),
        ] {
            assert_eq!(normalise(&short).as_ref(), Ok(&long), "{short}");
            assert_eq!(normalise(&long), Ok(long));
        }
    }

    #[test]
    fn only_the_registry_localhost_without_a_port_is_local() {
        assert!(is_local("localhost/busybox"));
        for name in ["localhost:5000/busybox", "localhost", "busybox", "localhost.example.com/a", "a/localhost"] {
            assert!(!is_local(name), "{name}");
        }
    }

    #[test]
    fn what_names_no_image_is_refused() {
        for name in [
            "",
            " ",
            "a b",
            "a:",
            "a@",
            ":1",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a@sha256:12",
            "a:-1",
            "a:b:c/d",
        ] {
            assert!(matches!(normalise(name), Err(ImageNameError::Format(_))), "{name}");
        }
        assert!(matches!(normalise("Busybox"), Err(ImageNameError::UpperCase(_))));
        assert!(matches!(normalise(&"a".repeat(256)), Err(ImageNameError::TooLong(_))));
    }

    #[test]
    fn an_image_is_latest_by_tag_unless_a_digest_pins_it() {
        let digest = format!("a@sha256:{}", "0".repeat(64));
        for (name, latest) in [("a", true), ("a:latest", true), ("a:1", false), (digest.as_str(), false)] {
            assert_eq!(ImageName::parse(name).unwrap().is_latest(), latest, "{name}");
        }
    }
}
