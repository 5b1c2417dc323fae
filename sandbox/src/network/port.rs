//! Host ports: a port of the node that leads to a port of a pod.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::nft::Element;
use super::{NetworkError, Ranges};

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if *self == Protocol::Tcp { "TCP" } else { "UDP" })
    }
}

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// Of both ports.
    pub protocol: Protocol,
    /// The node's address; `None`: all of them.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub pod_port: u16,
}

impl HostPort {
    fn addresses(&self, with_v6: bool) -> Vec<IpAddr> {
        match self.host_ip {
            Some(address) => vec![address],
            None if with_v6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::UNSPECIFIED.into()],
        }
    }

    /// What stands in the firewall's maps for the pod with this address, one family after the other.
    pub(super) fn elements(&self, ranges: &Ranges, pod_ip: Ipv4Addr) -> Vec<Element> {
        let element = |host_ip: IpAddr| {
            let pod_ip = match host_ip {
                IpAddr::V4(_) => IpAddr::V4(pod_ip),
                IpAddr::V6(_) => IpAddr::V6(ranges.second(pod_ip)?),
            };
            let protocol = match self.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            Some(Element { host_ip, protocol, host_port: self.host_port, pod_ip, pod_port: self.pod_port })
        };
        self.addresses(ranges.v6().is_some()).into_iter().filter_map(element).collect()
    }
}

/// Binds a socket to each host port in the calling thread's network namespace. As long as they are open nobody else
/// gets the port: not another node of this host, and no program of it.
pub fn reserve(ports: &[HostPort], with_v6: bool) -> Result<Vec<OwnedFd>, NetworkError> {
    let mut sockets = Vec::new();
    for port in ports {
        for address in port.addresses(with_v6) {
            let address = SocketAddr::new(address, port.host_port);
            let failed = |source| NetworkError::HostPort { protocol: port.protocol, address, source };
            sockets.push(bind(port.protocol, address).map_err(failed)?);
        }
    }
    Ok(sockets)
}

/// Bound, and nothing more: it never listens, and no packet reaches it.
fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}
