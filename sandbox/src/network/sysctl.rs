//! The switches of the node's network stack that the pod network needs, each written only where it differs.

use std::io;

/// Turns forwarding on, for packets between pods and the world.
pub(super) fn forward_packets(with_ipv6: bool) {
    forward("/proc/sys/net/ipv4/ip_forward");
    if with_ipv6 {
        keep_router_advertisements();
        forward("/proc/sys/net/ipv6/conf/all/forwarding");
    }
}

fn forward(path: &str) {
    if let Err(error) = set(path, "1") {
        tracing::warn!(%error, path, "cannot turn IP forwarding on: pods reach each other, but nothing beyond the node");
    }
}

/// A node that forwards stops believing router advertisements, and would lose its own way out: 2 says to go on. Links
/// that come later, such as the bridges of others, believe nobody: what `default` says stays.
fn keep_router_advertisements() {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        if ["all", "default"].iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
            && let Err(error) = std::fs::write(&path, "2")
        {
            tracing::warn!(%error, path = %path.display(), "a node that forwards IPv6 may lose the routes that it learned");
        }
    }
}

/// Lets connections of the node's loopback leave over the pods' bridge: `127.0.0.1:<host port>` needs it. What comes
/// from a pod for loopback addresses is dropped by a rule of ours, and while there are no host ports by the kernel.
pub(super) fn route_loopback(bridge: &str, on: bool) {
    let path = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    if let Err(error) = set(&path, if on { "1" } else { "0" }) {
        tracing::warn!(%error, path, "host ports do not answer at 127.0.0.1");
    }
}

/// True if IPv6 is off on this link now: nothing announces itself and nobody's router advertisement is believed.
pub(super) fn turn_ipv6_off(link: &str) -> bool {
    is_done_or_without_ipv6(set(&format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1"))
}

/// True if this link can have IPv6 addresses now, and still believes nobody's router advertisement.
pub(super) fn turn_ipv6_on(link: &str) -> bool {
    ["accept_ra", "accept_dad", "disable_ipv6"]
        .iter()
        .all(|name| set(&format!("/proc/sys/net/ipv6/conf/{link}/{name}"), "0").is_ok())
}

fn set(path: &str, value: &str) -> io::Result<()> {
    if std::fs::read_to_string(path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}

fn is_done_or_without_ipv6(result: io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound, // a kernel without IPv6
    }
}
