//! Runtime handlers: what makes a sandbox's containers. `native` is ours; any other is an OCI runtime by its binary.
//!
//! ```yaml
//! # podbus sandbox --handlers handlers.yaml
//! default: native
//! handlers:
//!   crun:
//!     binary: /usr/bin/crun
//!   runsc:
//!     binary: /usr/local/bin/runsc
//!     options: ["--platform=systrap"]
//! ```
//!
//! The sandbox is the same for all of them: pause and the namespaces are ours, and a handler's containers join them.

pub(crate) mod bundle;
pub(crate) mod command;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::process::Invalid;
use crate::record::HandlerBody;

/// The handler that is built in.
pub(crate) const NATIVE: &str = "native";

/// Why a file of handlers cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandlersError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}: handlers.{name}: {message}", path.display())]
    Handler { path: PathBuf, name: String, message: String },
    #[error("{}: default: no handler {name:?}", path.display())]
    Default { path: PathBuf, name: String },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    default: Option<String>,
    handlers: BTreeMap<String, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    binary: PathBuf,
    /// Words before the command.
    #[serde(default)]
    options: Vec<String>,
    /// For a handler that leaves cgroups alone: its processes are born where the container's have to be.
    #[serde(default)]
    inherits_cgroup: bool,
}

/// The handlers that this daemon knows beside [`NATIVE`].
#[derive(Debug, Default)]
pub(crate) struct Handlers {
    default: Option<String>,
    by_name: BTreeMap<String, HandlerBody>,
}

impl Handlers {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, HandlersError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| HandlersError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, HandlersError> {
        let syntax = |message| HandlersError::Syntax { path: path.to_owned(), message };
        let file: File = match text.trim() {
            "" => File::default(),
            text => serde_saphyr::from_str(text).map_err(|error| syntax(error.to_string()))?,
        };
        let mut by_name = BTreeMap::new();
        for (name, entry) in file.handlers {
            let body = check(&name, entry).map_err(|message| HandlersError::Handler {
                path: path.to_owned(),
                name: name.clone(),
                message,
            })?;
            by_name.insert(name, body);
        }
        let default = file.default.filter(|name| name != NATIVE);
        if let Some(name) = default.iter().find(|name| !by_name.contains_key(*name)) {
            return Err(HandlersError::Default { path: path.to_owned(), name: name.clone() });
        }
        Ok(Self { default, by_name })
    }

    /// The handler that a request names: `None` is the native one. An empty name is the default.
    pub(crate) fn find(&self, name: &str) -> Result<Option<&HandlerBody>, Invalid> {
        let name = if name.is_empty() { self.default.as_deref().unwrap_or(NATIVE) } else { name };
        if name == NATIVE {
            return Ok(None);
        }
        let known = || std::iter::once(NATIVE).chain(self.by_name.keys().map(String::as_str)).collect::<Vec<_>>();
        let missing = || Invalid(format!("no runtime handler {name:?}: there are {}", known().join(", ")));
        self.by_name.get(name).map(Some).ok_or_else(missing)
    }

    /// The names of all, the default also as the empty one.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        ["", NATIVE].into_iter().chain(self.by_name.keys().map(String::as_str))
    }
}

fn check(name: &str, entry: Entry) -> Result<HandlerBody, String> {
    let is_label = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_label {
        return Err("a handler's name has at most 63 of a-z, 0-9 and - within".to_owned());
    }
    if name == NATIVE {
        return Err("this name is that of the built-in one".to_owned());
    }
    let binary = entry.binary;
    if !binary.is_absolute() {
        return Err(format!("the binary {} is not an absolute path", binary.display()));
    }
    let metadata = std::fs::metadata(&binary).map_err(|error| format!("the binary {}: {error}", binary.display()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("the binary {} is not an executable file", binary.display()));
    }
    Ok(HandlerBody {
        name: name.to_owned(),
        binary: binary.to_string_lossy().into_owned(),
        options: entry.options,
        inherits_cgroup: entry.inherits_cgroup,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Handlers, String> {
        Handlers::parse(Path::new("handlers.yaml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_names_handlers_beside_the_native_one() {
        let handlers = parse("handlers:\n  sh:\n    binary: /bin/sh\n    options: [--debug]\n").unwrap();
        assert!(handlers.find("").unwrap().is_none() && handlers.find("native").unwrap().is_none());
        let body = handlers.find("sh").unwrap().unwrap();
        assert_eq!((body.binary.as_str(), body.options.as_slice()), ("/bin/sh", ["--debug".to_owned()].as_slice()));
        assert_eq!(handlers.find("x").unwrap_err().0, "no runtime handler \"x\": there are native, sh");
        assert_eq!(handlers.names().collect::<Vec<_>>(), ["", "native", "sh"]);
        assert!(Handlers::default().find("").unwrap().is_none());
    }

    #[test]
    fn the_default_may_be_another() {
        let handlers = parse("default: sh\nhandlers: {sh: {binary: /bin/sh}}").unwrap();
        assert!(handlers.find("").unwrap().is_some() && handlers.find("native").unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_a_handler_is_refused_with_its_reason() {
        let cases = [
            ("handlers: {native: {binary: /bin/sh}}", "the built-in one"),
            ("handlers: {A_b: {binary: /bin/sh}}", "a-z, 0-9 and - within"),
            ("handlers: {a: {binary: sh}}", "not an absolute path"),
            ("handlers: {a: {binary: /etc/passwd}}", "not an executable file"),
            ("handlers: {a: {binary: /nowhere}}", "No such file"),
            ("handlers: {a: {binary: /bin/sh, more: 1}}", "unknown field"),
            ("default: b", "default: no handler \"b\""),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with("handlers.yaml:") && error.contains(expected), "{text}: {error}");
        }
    }
}
