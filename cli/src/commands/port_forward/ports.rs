//! `8080:80`, `:80`, `80`, `8080:http`: which port leads where; `localhost`, `0.0.0.0`, `::1`: where to listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podbus_common::model::Pod;

use crate::failure::{Failure, Outcome};

/// One port of this machine and the pod's port that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forward {
    /// 0: one of the kernel's choice.
    pub(super) local: u16,
    /// Inside the pod.
    pub(super) remote: u16,
}

/// Reads `[LOCAL:]REMOTE`; a remote port may be a name that the pod's spec gives to it.
pub(super) fn forward(text: &str, pod: &Pod) -> Outcome<Forward> {
    let invalid = || Failure::local(format!("invalid port format '{text}'")).hint("write 8080:80, 8080 or :80");
    let (local, remote) = match text.split_once(':') {
        Some((_, remote)) if remote.contains(':') => return Err(invalid()),
        Some(("", remote)) => ("0", remote),
        Some(parts) => parts,
        None => (text, text),
    };
    let remote = match number(remote) {
        Some(0) | None => named(remote, pod)?,
        Some(port) => port,
    };
    // `podbus port-forward web http` means the same number here.
    let local = if local == text { remote } else { number(local).ok_or_else(invalid)? };
    Ok(Forward { local, remote })
}

/// A port's number. No sign, no spaces.
fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn named(name: &str, pod: &Pod) -> Outcome<u16> {
    let mut ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    let port = ports.find(|port| !name.is_empty() && port.name == name).map(|port| port.container_port);
    port.ok_or_else(|| {
        if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Failure::local(format!("remote port must be a number from 1 to 65535, not '{name}'"));
        }
        Failure::local(format!("Pod '{}' does not have a named port '{name}'", pod.metadata.name))
    })
}

/// Where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// 127.0.0.1 and ::1, of which one may be absent.
    Localhost,
    /// This one.
    Ip(IpAddr),
}

impl Address {
    /// All that it stands for.
    pub(super) fn ips(self) -> Vec<IpAddr> {
        match self {
            Self::Localhost => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Self::Ip(ip) => vec![ip],
        }
    }
}

/// Reads an address.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if text == "localhost" {
        return Ok(Address::Localhost);
    }
    text.parse().map(Address::Ip).map_err(|_| format!("`{text}` is neither an IP address nor localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Pod {
        let pod = serde_json::json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [
                {"name": "a", "image": "a"},
                {"name": "b", "image": "b", "ports": [{"name": "http", "containerPort": 8000}]},
            ]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn ports_are_read_as_kubectl_reads_them() {
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
            ("http", 8000, 8000),
            ("81:http", 81, 8000),
            (":http", 0, 8000),
            ("65535:65535", 65535, 65535),
        ] {
            assert_eq!(forward(text, &web()).unwrap(), Forward { local, remote }, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_what_would_be() {
        for (text, error) in [
            ("", "remote port must be"),
            ("8080:", "remote port must be"),
            ("0", "remote port must be"),
            ("80:0", "remote port must be"),
            ("80:65536", "remote port must be"),
            ("65536:80", "invalid port format '65536:80'"),
            ("x:80", "invalid port format 'x:80'"),
            ("+1:80", "invalid port format"),
            (" 1:80", "invalid port format"),
            ("1:2:3", "invalid port format"),
            ("8080:-1", "does not have a named port '-1'"),
            ("8080:https", "Pod 'web' does not have a named port 'https'"),
        ] {
            let text_of_error = forward(text, &web()).unwrap_err().text();
            assert!(text_of_error.contains(error), "{text:?}: {text_of_error}");
        }
    }

    #[test]
    fn addresses_are_numbers_or_localhost() {
        assert_eq!(address("localhost").unwrap().ips().len(), 2);
        assert_eq!(address("0.0.0.0").unwrap().ips(), [IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
        assert_eq!(address("::1").unwrap().ips(), [IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        assert!(address("example.org").is_err());
    }
}
