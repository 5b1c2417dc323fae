//! Programs beside podbus: the bus, and Rust for who builds.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use super::Finding;
use crate::cluster;
use crate::failure::Failure;
use crate::up::nats;

/// The oldest Rust that builds podbus.
const RUST_MIN: &str = env!("CARGO_PKG_RUST_VERSION");

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![nats_server(), port()];
    findings.extend(rust(Path::new("Cargo.toml").exists()));
    findings
}

fn nats_server() -> Finding {
    match nats::find() {
        Ok(server) if server.version.knows_sync_interval() => {
            Finding::good("nats-server", format!("{} at {}", server.version, server.program.display()))
        }
        Ok(server) => Finding::warning(
            "nats-server",
            format!("{} at {}: a power cut may lose its last 2 minutes", server.version, server.program.display()),
            "2.10 or later syncs each second",
        ),
        Err(Failure::Said(report)) => {
            let hint = report.hint.unwrap_or_else(|| nats::INSTALL.to_owned());
            Finding::bad("nats-server", report.head.trim_start_matches("error: "), hint)
        }
        Err(other) => Finding::bad("nats-server", other.text(), nats::INSTALL),
    }
}

fn port() -> Finding {
    let url = format!(":{}", nats::USUAL_PORT);
    let (clusters, _) = cluster::read_all();
    if let Some(cluster) = clusters.iter().find(|cluster| cluster.url.ends_with(&url)) {
        return Finding::good(
            "port",
            format!("{} is the bus of the cluster in {}", nats::USUAL_PORT, cluster.state_dir.display()),
        );
    }
    match TcpListener::bind((Ipv4Addr::LOCALHOST, nats::USUAL_PORT)) {
        Ok(_) => Finding::good("port", format!("{} is free", nats::USUAL_PORT)),
        Err(_) => Finding::good("port", format!("{} is taken: `podbus up` will take another", nats::USUAL_PORT)),
    }
}

/// Only who stands in the sources wants to build.
fn rust(building: bool) -> Option<Finding> {
    let output = Command::new("cargo").arg("--version").output().ok().filter(|output| output.status.success());
    let Some(output) = output else {
        let hint = "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh";
        return building.then(|| Finding::warning("rust", "there is no cargo, which building podbus needs", hint));
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if is_recent(&said) {
        return building.then(|| Finding::good("rust", said));
    }
    building.then(|| Finding::warning("rust", format!("{said} is older than {RUST_MIN}"), "rustup update"))
}

/// `cargo 1.89.0 (c24e10642 2025-06-23)`.
fn is_recent(said: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let version = said.split(' ').nth(1).and_then(numbers);
    version >= numbers(RUST_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_compared_by_number() {
        assert!(is_recent("cargo 1.100.0 (abc 2026-01-01)"));
        assert!(!is_recent("cargo 1.63.0"));
        assert!(!is_recent("cargo"));
    }
}
