//! The host ports that a sandbox asks for. Pure.

use std::net::IpAddr;

use podbus_common_cri::runtime::{NamespaceMode, PodSandboxConfig, PortMapping, Protocol as CriProtocol};

use crate::network::{HostPort, Protocol};
use crate::process::Invalid;

/// The shim keeps a socket for each, and for each family: as many as it has room for.
const PORTS_MAX: usize = 64;

/// The host ports of `config`. A pod on the node's network has the node's ports anyway.
pub(super) fn of(config: &PodSandboxConfig) -> Result<Vec<HostPort>, Invalid> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let network = context.and_then(|context| context.namespace_options.as_ref()).map(|options| options.network);
    if network == Some(NamespaceMode::Node as i32) {
        return Ok(Vec::new());
    }
    let asked = config.port_mappings.iter().filter(|mapping| mapping.host_port != 0);
    let ports: Vec<HostPort> = asked.map(port).collect::<Result<_, _>>()?;
    if ports.len() > PORTS_MAX {
        return Err(Invalid(format!("{} host ports: a pod may have {PORTS_MAX}", ports.len())));
    }
    Ok(ports)
}

fn port(mapping: &PortMapping) -> Result<HostPort, Invalid> {
    let protocol = match mapping.protocol() {
        CriProtocol::Tcp => Protocol::Tcp,
        CriProtocol::Udp => Protocol::Udp,
        CriProtocol::Sctp => {
            return Err(Invalid(format!("the host port {}: SCTP is not supported", mapping.host_port)));
        }
    };
    let number = |value: i32, what: &str| {
        let number = u16::try_from(value).ok().filter(|number| *number != 0);
        number.ok_or_else(|| Invalid(format!("{value} is not a {what} port: 1 to 65535")))
    };
    let host_ip =
        match mapping.host_ip.as_str() {
            "" => None,
            text => {
                let address = text.parse::<IpAddr>();
                Some(address.map_err(|_| {
                    Invalid(format!("the host port {}: {text:?} is not an IP address", mapping.host_port))
                })?)
            }
        };
    Ok(HostPort {
        protocol,
        host_ip: host_ip.filter(|address| !address.is_unspecified()),
        host_port: number(mapping.host_port, "host")?,
        pod_port: number(mapping.container_port, "container")?,
    })
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption};

    use super::*;

    fn config(mappings: Vec<PortMapping>) -> PodSandboxConfig {
        PodSandboxConfig { port_mappings: mappings, ..PodSandboxConfig::default() }
    }

    fn mapping(protocol: CriProtocol, container_port: i32, host_port: i32, host_ip: &str) -> PortMapping {
        PortMapping { protocol: protocol.into(), container_port, host_port, host_ip: host_ip.to_owned() }
    }

    #[test]
    fn only_mappings_with_a_host_port_count() {
        let ports = of(&config(vec![
            mapping(CriProtocol::Tcp, 80, 0, ""),
            mapping(CriProtocol::Udp, 53, 5353, "192.0.2.1"),
            mapping(CriProtocol::Tcp, 80, 8080, "0.0.0.0"),
        ]));
        let [dns, web] = ports.unwrap()[..] else { panic!() };
        assert_eq!(
            (dns.protocol, dns.host_ip, dns.host_port, dns.pod_port),
            (Protocol::Udp, Some([192, 0, 2, 1].into()), 5353, 53)
        );
        assert_eq!((web.protocol, web.host_ip, web.host_port, web.pod_port), (Protocol::Tcp, None, 8080, 80));
    }

    #[test]
    fn what_cannot_be_a_host_port_is_refused_with_its_reason() {
        let cases = [
            (mapping(CriProtocol::Sctp, 80, 80, ""), "the host port 80: SCTP is not supported"),
            (mapping(CriProtocol::Tcp, 80, 65_536, ""), "65536 is not a host port: 1 to 65535"),
            (mapping(CriProtocol::Tcp, 0, 80, ""), "0 is not a container port: 1 to 65535"),
            (mapping(CriProtocol::Tcp, 80, 80, "here"), "the host port 80: \"here\" is not an IP address"),
        ];
        for (mapping, expected) in cases {
            assert_eq!(of(&config(vec![mapping])).unwrap_err().0, expected);
        }
        let many = (1..=65).map(|port| mapping(CriProtocol::Tcp, port, port, "")).collect();
        assert_eq!(of(&config(many)).unwrap_err().0, "65 host ports: a pod may have 64");
    }

    #[test]
    fn a_pod_on_the_nodes_network_has_the_nodes_ports_anyway() {
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..NamespaceOption::default() };
        let context = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        let config = PodSandboxConfig { linux: Some(linux), ..config(vec![mapping(CriProtocol::Tcp, 80, 80, "")]) };
        assert_eq!(of(&config), Ok(Vec::new()));
    }
}
