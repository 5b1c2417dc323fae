//! nats-server: finding one that is new enough, its configuration, and its port.

use std::env;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::failure::{Failure, Outcome};

/// The oldest that podbus works with: Debian 12's.
pub(crate) const OLDEST: Version = Version { major: 2, minor: 9, patch: 0 };
/// The first that knows `sync_interval`.
const WITH_SYNC_INTERVAL: Version = Version { major: 2, minor: 10, patch: 0 };
/// Where clients look by default.
pub(crate) const USUAL_PORT: u16 = 4222;
/// What gets it on Debian and Ubuntu.
pub(crate) const INSTALL: &str = "sudo apt-get install nats-server";

/// How soon a stored message is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sync {
    /// Within a second; a power cut may lose that second
    #[value(name = "1s")]
    Second,
    /// Before it is acknowledged; slower
    Always,
}

impl Sync {
    /// As nats-server and our own flag write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Always => "always",
        }
    }
}

/// A server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

impl Version {
    /// `2.9.10`, `v2.14.0`, `2.11.0-RC.1`; `nats-server: v2.9.10`, as the program prints it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = text.trim().rsplit(' ').next()?.trim_start_matches('v');
        let mut parts = number.split(['.', '-', '+']).map(|part| part.parse().ok());
        Some(Self { major: parts.next()??, minor: parts.next()??, patch: parts.next().flatten().unwrap_or(0) })
    }

    /// Whether it takes `sync_interval`; one that does not syncs every two minutes.
    pub(crate) fn knows_sync_interval(self) -> bool {
        self >= WITH_SYNC_INTERVAL
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// An installed nats-server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its version.
    pub(crate) version: Version,
}

/// Looks for the program named by `NATS_SERVER`, else in PATH and where Debian has it.
///
/// # Errors
/// When there is none, it does not run, or it is too old: each with what to do.
pub(crate) fn find() -> Outcome<Server> {
    let program = locate().ok_or_else(|| {
        Failure::local("nats-server is not installed: it is the bus that podbus runs on")
            .hint(format!("`{INSTALL}`, or name another with NATS_SERVER or --nats"))
    })?;
    let output = Command::new(&program).arg("--version").output();
    let output = output.map_err(|error| {
        let hint = format!("`{INSTALL}`, or name another with NATS_SERVER or --nats");
        Failure::local(format!("cannot run {}", program.display())).because(error).hint(hint)
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = Version::parse(&said)
        .ok_or_else(|| Failure::local(format!("{} tells no version: {said:?}", program.display())))?;
    check_version(version)?;
    Ok(Server { program, version })
}

/// Refuses a server that is too old.
pub(crate) fn check_version(version: Version) -> Outcome {
    if version >= OLDEST {
        return Ok(());
    }
    Err(Failure::local(format!("nats-server {version} is too old: podbus needs {OLDEST} or later"))
        .hint(format!("`{INSTALL}`, or name a newer one with NATS_SERVER or --nats")))
}

fn locate() -> Option<PathBuf> {
    if let Some(named) = env::var_os("NATS_SERVER").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        return if path.components().count() > 1 { Some(path) } else { in_path(&path) };
    }
    in_path(Path::new("nats-server"))
}

fn in_path(name: &Path) -> Option<PathBuf> {
    // A plain user's PATH has no sbin, where Debian has the program; root's under sudo may lack /usr/local.
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).filter(|dir| dir.is_absolute()).collect();
    dirs.extend(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin"].map(PathBuf::from));
    dirs.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What `config` needs to know.
pub(crate) struct Config<'a> {
    /// The cluster's name.
    pub(crate) name: &'a str,
    /// On 127.0.0.1.
    pub(crate) port: u16,
    /// What clients show.
    pub(crate) token: &'a str,
    /// Where JetStream stores.
    pub(crate) store_dir: &'a Path,
    /// Which server reads it.
    pub(crate) version: Version,
    /// How soon what is stored is on the disk.
    pub(crate) sync: Sync,
}

/// The configuration as text.
pub(crate) fn config(config: &Config<'_>) -> String {
    let Config { name, port, token, store_dir, version, sync } = config;
    let sync = if version.knows_sync_interval() {
        format!("  sync_interval: {}\n", quoted(sync.as_str()))
    } else {
        String::new()
    };
    format!(
        "# Written by `podbus up` at each start.\n\
         listen: \"127.0.0.1:{port}\"\n\
         server_name: {}\n\
         authorization {{ token: {} }}\n\
         jetstream {{\n  store_dir: {}\n{sync}}}\n",
        quoted(&format!("podbus-{name}")),
        quoted(token),
        quoted(&store_dir.to_string_lossy()),
    )
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A port of 127.0.0.1 that is free now: the one of before, the usual one, or any.
pub(crate) fn choose_port(before: Option<u16>) -> std::io::Result<u16> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for port in before.into_iter().chain([USUAL_PORT]) {
        if bind(port).is_ok() {
            return Ok(port);
        }
    }
    Ok(bind(0)?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        assert_eq!(version("nats-server: v2.9.10\n").to_string(), "2.9.10");
        assert_eq!(version("2.11.0-RC.1").to_string(), "2.11.0");
        assert!(version("2.10.0") > version("2.9.10"));
        assert!(version("2.14.0").knows_sync_interval() && !version("2.9.25").knows_sync_interval());
        for text in ["", "nats-server", "two"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_old_server_is_refused_with_what_to_do() {
        assert!(check_version(version("2.9.0")).is_ok());
        let text = check_version(version("2.8.4")).unwrap_err().text();
        assert!(text.contains("2.8.4") && text.contains("apt-get"), "{text}");
    }

    #[test]
    fn only_a_server_that_knows_it_is_told_the_sync_interval() {
        let text = |version_text: &str, sync| {
            let store_dir = Path::new("/s");
            config(&Config { name: "abcde", port: 4222, token: "t", store_dir, version: version(version_text), sync })
        };
        assert!(!text("2.9.10", Sync::Second).contains("sync_interval"));
        assert!(text("2.10.0", Sync::Second).contains("sync_interval: \"1s\""));
        assert!(text("2.14.0", Sync::Always).contains("sync_interval: \"always\""));
    }

    #[test]
    fn a_taken_port_is_not_chosen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(choose_port(Some(port)).unwrap(), port);
    }
}
