//! The network of a node's pods: one bridge, and for each pod a namespace with a veth pair and an address.
//!
//! ```text
//!   pod netns             node
//!   eth0 10.85.1.7/24 --- vnode1000007 --- pb-node1 10.85.1.1/24 --- route, masquerade --- the world
//! ```
//!
//! Everything goes through netlink; no helper program runs. What a pod has is held by its namespace: when the last
//! process and descriptor of it are gone, the kernel deletes the veth pair by itself, off everybody's path.

mod lease;
mod link;
mod message;
mod netns;
mod nft;
mod port;
mod range;
mod socket;
mod sysctl;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;

use self::lease::Leases;
use self::link::{Link, Veth};
use self::netns::NetworkNamespace;
use self::nft::{Element, Family, Rules};
pub use self::port::{HostPort, Protocol, reserve};
pub use self::range::{Ranges, RangesError};
use self::socket::Netlink;

/// The longest instance name: with prefix and address it must fit in the 15 bytes of a link's name.
const INSTANCE_BYTES_MAX: usize = 8;
/// Where there is no default route to learn it from: Ethernet's.
const MTU_DEFAULT: u32 = 1500;

/// Why the pod network, or a pod's part of it, could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The instance name does not fit in the names of links and tables.
    #[error("the instance name {0:?} is not 1 to {INSTANCE_BYTES_MAX} of a-z and 0-9")]
    Instance(String),
    /// The range is too small.
    #[error("the pod CIDR {0} has no room for a gateway and a pod: its prefix may be at most /30")]
    TooSmall(Ipv4Net),
    /// All addresses are taken or resting.
    #[error("no free IP address in the pod CIDR {0}")]
    NoAddress(Ipv4Net),
    /// A host port that something else on this host has, or whose address is not the node's.
    #[error("cannot take the host port {address} ({protocol})")]
    HostPort {
        /// Its protocol.
        protocol: Protocol,
        /// The node's address and port.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: String,
        /// Its answer.
        source: io::Error,
    },
}

/// A pod's network, ready to be entered.
#[derive(Debug)]
pub struct Attached {
    /// The network namespace; with the last descriptor and process it and the veth pair end.
    pub netns: OwnedFd,
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// The pod's IPv6 address, where pods have both.
    pub second_ip: Option<Ipv6Addr>,
    /// The length of the pod CIDR's prefix.
    pub prefix_len: u8,
    /// The bridge's address, the pod's default route.
    pub gateway: Ipv4Addr,
    /// The name of the veth's end on the node.
    pub veth: String,
}

/// What a pod will be reached by.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) ip: Ipv4Addr,
    pub(crate) second_ip: Option<Ipv6Addr>,
    /// The name of the veth's end on the node.
    pub(crate) veth: String,
}

/// What a pod that exists holds of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its host ports.
    pub ports: Vec<HostPort>,
}

/// The pod network of one node. Clones share it. Calls block for about 2 ms: not for an async worker.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    instance: String,
    bridge: u32,
    mtu: u32,
    ranges: Ranges,
    gateway: Ipv4Addr,
    state: Mutex<State>,
}

struct State {
    netlink: Netlink,
    leases: Leases,
    /// The host ports of pods, by the pod's address.
    ports: BTreeMap<Ipv4Addr, Vec<HostPort>>,
}

impl State {
    fn elements(&self, ranges: &Ranges) -> Vec<Element> {
        let of_pods = self.ports.iter().flat_map(|(ip, ports)| ports.iter().map(move |port| (ip, port)));
        of_pods.flat_map(|(ip, port)| port.elements(ranges, *ip)).collect()
    }
}

impl Network {
    /// Makes the bridge, its addresses and the firewall's tables, or takes over what is there, in the calling thread's
    /// network namespace. `used` is what pods that exist hold.
    pub fn open(instance: &str, ranges: impl Into<Ranges>, used: &[Used]) -> Result<Network, NetworkError> {
        check_instance(instance)?;
        let ranges = ranges.into();
        let addresses: Vec<Ipv4Addr> = used.iter().map(|pod| pod.ip).collect();
        let mut leases = Leases::new(ranges.v4(), &addresses).ok_or(NetworkError::TooSmall(ranges.v4()))?;
        let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
        let mtu = uplink_mtu(&mut netlink).map_err(failed("read the default route"))?;
        let bridge = ensure_bridge(&mut netlink, instance, leases.gateway(), &ranges, mtu)?;
        for link in link::list(&mut netlink).map_err(failed("list links"))? {
            if let Some(address) = address_of_veth(instance, ranges.v4(), &link, bridge.index) {
                leases.rest(address, &link.name);
            }
        }
        sysctl::forward_packets(ranges.v6().is_some());
        let gateway = leases.gateway();
        let with_ports = used.iter().filter(|pod| !pod.ports.is_empty());
        let ports = with_ports.map(|pod| (pod.ip, pod.ports.clone())).collect();
        let state = State { netlink, leases, ports };
        install_rules(instance, &ranges, &state.elements(&ranges))?;
        sysctl::route_loopback(&bridge_name(instance), !state.ports.is_empty());
        let state = Mutex::new(state);
        let shared = Shared { instance: instance.to_owned(), bridge: bridge.index, mtu, ranges, gateway, state };
        Ok(Network { shared: Arc::new(shared) })
    }

    /// Makes a network namespace with loopback up, and with eth0, an address and a default route.
    pub fn attach(&self) -> Result<Attached, NetworkError> {
        let lease = self.lease()?;
        let attached = self.attach_leased(&lease);
        if attached.is_err() {
            self.release(lease.ip, &lease.veth); // the namespace is gone with its descriptor, and the veth soon is
        }
        attached
    }

    /// Takes an address for a pod whose network namespace is made elsewhere. To be released, whatever comes of it.
    pub(crate) fn lease(&self) -> Result<Lease, NetworkError> {
        let ip = self.take_address()?;
        let Shared { instance, ranges, .. } = &*self.shared;
        Ok(Lease { ip, second_ip: ranges.second(ip), veth: veth_name(instance, ranges.v4(), ip) })
    }

    /// As [`Network::attach`], with an address that was taken before.
    pub(crate) fn attach_leased(&self, lease: &Lease) -> Result<Attached, NetworkError> {
        let pod = NetworkNamespace::create(lease.second_ip.is_some()).map_err(failed("make a network namespace"))?;
        self.connect(pod, lease)
    }

    /// Gives `netns` what [`Network::attach`] gives one of ours.
    pub(crate) fn attach_to(&self, netns: OwnedFd, lease: &Lease) -> Result<Attached, NetworkError> {
        let pod = NetworkNamespace::enter(netns, lease.second_ip.is_some());
        self.connect(pod.map_err(failed("enter the pod's network namespace"))?, lease)
    }

    /// Lets `ports` of the node lead to the pod with this address, until it is released. [`reserve`] them first.
    pub fn open_ports(&self, ip: Ipv4Addr, ports: &[HostPort]) -> Result<(), NetworkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let Shared { instance, ranges, .. } = &*self.shared;
        let mut state = self.state();
        let veth = veth_name(instance, ranges.v4(), ip);
        let port = link::by_name(&mut state.netlink, &veth).map_err(failed("look for the pod's veth"))?;
        if let Some(port) = port {
            link::set_hairpin(&mut state.netlink, port.index)
                .map_err(failed("let the pod reach its own host ports"))?;
        }
        sysctl::route_loopback(&bridge_name(instance), true);
        state.ports.insert(ip, ports.to_vec());
        let elements: Vec<Element> = ports.iter().flat_map(|port| port.elements(ranges, ip)).collect();
        each_family(instance, ranges, &elements, nft::add_elements).map_err(failed("open the host ports"))
    }

    fn close_ports(&self, state: &mut State, ip: Ipv4Addr) {
        let Shared { instance, ranges, .. } = &*self.shared;
        let Some(ports) = state.ports.remove(&ip) else { return };
        let elements: Vec<Element> = ports.iter().flat_map(|port| port.elements(ranges, ip)).collect();
        if let Err(error) = each_family(instance, ranges, &elements, nft::remove_elements) {
            tracing::warn!(%error, podIP = %ip, "cannot close the host ports of a pod that is gone");
        }
        if state.ports.is_empty() {
            sysctl::route_loopback(&bridge_name(instance), false);
        }
    }

    /// Gives a pod's address back. It rests until the veth is gone, which the end of its namespace brings about.
    /// Its host ports are closed.
    pub fn release(&self, ip: Ipv4Addr, veth: &str) {
        let mut state = self.state();
        self.close_ports(&mut state, ip);
        state.leases.release(ip, veth);
    }

    /// Puts the firewall's rules back if something else removed them; true if it did. Cheap: two look-ups.
    ///
    /// A reload of firewalld, or `nft flush ruleset`, takes them away without a word: call it now and then, in the
    /// network namespace of [`Network::open`].
    pub fn repair(&self) -> Result<bool, NetworkError> {
        let Shared { instance, ranges, .. } = &*self.shared;
        let (table, bridge) = (table_name(instance), bridge_name(instance));
        let is_missing = || -> io::Result<bool> {
            for rules in rules_of(&table, &bridge, ranges) {
                if !nft::is_installed(&rules)? {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let missing = match is_missing() {
            Err(error) if is_without_nftables(&error) => return Ok(false), // said when it was opened
            missing => missing.map_err(failed("look for the nftables table"))?,
        };
        if missing {
            let state = self.state(); // no port is opened or closed meanwhile
            install_rules(instance, ranges, &state.elements(ranges))?;
        } else {
            let opened = nft::open_docker(&bridge); // Docker may have come later than we
            opened.map_err(failed("add rules to DOCKER-USER"))?;
        }
        Ok(missing)
    }

    /// The ranges that pods have their addresses from.
    pub fn ranges(&self) -> &Ranges {
        &self.shared.ranges
    }

    /// Why new pods get no network; `None` if they do.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = bridge_name(&self.shared.instance);
        match link::by_index(&mut self.state().netlink, self.shared.bridge) {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("the bridge {name} is gone: start podbus sandbox again")),
            Err(error) => Some(format!("cannot look for the bridge {name}: {error}")),
        }
    }

    /// The bridge's address, the gateway of every pod.
    pub fn gateway(&self) -> Ipv4Addr {
        self.shared.gateway
    }

    fn take_address(&self) -> Result<Ipv4Addr, NetworkError> {
        let mut state = self.state();
        let State { netlink, leases, .. } = &mut *state;
        leases
            .take(|name| matches!(link::by_name(netlink, name), Ok(None)))
            .ok_or_else(|| NetworkError::NoAddress(leases.cidr()))
    }

    fn connect(&self, mut pod: NetworkNamespace, lease: &Lease) -> Result<Attached, NetworkError> {
        let Shared { ranges, gateway, .. } = &*self.shared;
        let Lease { ip, second_ip, ref veth } = *lease;
        let prefix_len = ranges.v4().prefix_len();
        self.make_veth(&pod, ip, veth).map_err(failed(&format!("make the veth pair {veth}")))?;
        configure_pod(&mut pod.netlink, ip, *gateway, ranges)
            .map_err(failed(&format!("configure eth0 with {ip}/{prefix_len}")))?;
        Ok(Attached { netns: pod.fd, ip, second_ip, prefix_len, gateway: *gateway, veth: veth.to_owned() })
    }

    fn make_veth(&self, pod: &NetworkNamespace, ip: Ipv4Addr, name: &str) -> io::Result<()> {
        let shared = &*self.shared;
        let netlink = &mut self.state().netlink;
        let veth = Veth { name, bridge: shared.bridge, netns: pod.fd.as_fd(), pod_mac: mac(ip), mtu: shared.mtu };
        link::add_veth(netlink, &veth)?;
        let here = link::by_name(netlink, name)?.ok_or(io::ErrorKind::NotFound)?;
        sysctl::turn_ipv6_off(name); // a port of the bridge needs no address
        link::set_up(netlink, here.index)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete by itself, so a panic elsewhere leaves it usable.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the bridge, the veth ends that are left on it and the firewall's rules of this instance, from the calling
/// thread's network namespace. What is not there is fine. IP forwarding stays on: others may count on it by now.
pub fn destroy(instance: &str) -> Result<(), NetworkError> {
    check_instance(instance)?;
    let mut netlink = Netlink::route().map_err(failed("open a netlink socket"))?;
    let bridge = bridge_name(instance);
    if let Some(found) = link::by_name(&mut netlink, &bridge).map_err(failed("look for the bridge"))? {
        for port in link::list(&mut netlink).map_err(failed("list links"))? {
            if port.master == Some(found.index) && port.name.starts_with(&veth_prefix(instance)) {
                link::delete(&mut netlink, port.index).map_err(failed(&format!("delete the link {}", port.name)))?;
            }
        }
        link::delete(&mut netlink, found.index).map_err(failed(&format!("delete the bridge {bridge}")))?;
    }
    let table = table_name(instance);
    let removed = nft::close_docker(&bridge)
        .and_then(|()| nft::remove(Family::V4, &table))
        .and_then(|()| nft::remove(Family::V6, &table));
    match removed {
        Err(error) if !is_without_nftables(&error) => Err(failed("remove the nftables rules")(error)),
        _ => Ok(()),
    }
}

/// A network namespace with nothing but loopback, which is up: for others to furnish.
pub(crate) fn empty_namespace() -> Result<OwnedFd, NetworkError> {
    let mut made = NetworkNamespace::create(true).map_err(failed("make a network namespace"))?;
    let mut set_up = || -> io::Result<()> {
        let loopback = link::by_name(&mut made.netlink, "lo")?.ok_or(io::ErrorKind::NotFound)?;
        link::set_up(&mut made.netlink, loopback.index)
    };
    set_up().map_err(failed("set up loopback"))?;
    Ok(made.fd)
}

fn check_instance(instance: &str) -> Result<(), NetworkError> {
    let allowed = instance.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if allowed && (1..=INSTANCE_BYTES_MAX).contains(&instance.len()) {
        Ok(())
    } else {
        Err(NetworkError::Instance(instance.to_owned()))
    }
}

fn ensure_bridge(
    netlink: &mut Netlink,
    instance: &str,
    gateway: Ipv4Addr,
    ranges: &Ranges,
    mtu: u32,
) -> Result<Link, NetworkError> {
    let name = bridge_name(instance);
    let make = |netlink: &mut Netlink| -> io::Result<Link> {
        if link::by_name(netlink, &name)?.is_none() {
            link::add_bridge(netlink, &name, mac(gateway), mtu)?;
        }
        let is_quiet = if ranges.v6().is_some() { sysctl::turn_ipv6_on(&name) } else { sysctl::turn_ipv6_off(&name) };
        if !is_quiet {
            tracing::warn!(bridge = %name, "cannot configure IPv6 on the bridge: router advertisements of a pod could reach the node");
        }
        let bridge = link::by_name(netlink, &name)?.ok_or(io::ErrorKind::NotFound)?;
        link::keep_only_address(netlink, bridge.index, (gateway, ranges.v4().prefix_len()))?;
        link::add_address(netlink, bridge.index, gateway.into(), ranges.v4().prefix_len())?;
        if let (Some(v6), Some(gateway)) = (ranges.v6(), ranges.second(gateway)) {
            link::add_address(netlink, bridge.index, gateway.into(), v6.prefix_len())?;
        }
        link::set_up(netlink, bridge.index)?;
        Ok(bridge)
    };
    make(netlink).map_err(failed(&format!("make the bridge {name} with {gateway}/{}", ranges.v4().prefix_len())))
}

/// Inside the pod: loopback up, eth0 up with its addresses, and the ways out.
fn configure_pod(netlink: &mut Netlink, ip: Ipv4Addr, gateway: Ipv4Addr, ranges: &Ranges) -> io::Result<()> {
    let loopback = link::by_name(netlink, "lo")?.ok_or(io::ErrorKind::NotFound)?;
    link::set_up(netlink, loopback.index)?;
    let eth0 = link::by_name(netlink, link::POD_LINK)?.ok_or(io::ErrorKind::NotFound)?;
    link::add_address(netlink, eth0.index, ip.into(), ranges.v4().prefix_len())?;
    if let (Some(v6), Some(ip)) = (ranges.v6(), ranges.second(ip)) {
        link::add_address(netlink, eth0.index, ip.into(), v6.prefix_len())?;
    }
    link::set_up(netlink, eth0.index)?;
    link::add_default_route(netlink, gateway.into())?;
    match ranges.second(gateway) {
        Some(gateway) => link::add_default_route(netlink, gateway.into()),
        None => Ok(()),
    }
}

/// Masquerading, host ports, and Docker's leave to forward. Without nftables the pods of a node still reach each other.
fn install_rules(instance: &str, ranges: &Ranges, elements: &[Element]) -> Result<(), NetworkError> {
    match each_family(instance, ranges, elements, nft::install) {
        Err(error) if is_without_nftables(&error) => {
            tracing::warn!(%error, "this kernel has no nftables: pods reach each other, but nothing beyond the node");
            return Ok(());
        }
        installed => installed.map_err(failed("install the nftables table"))?,
    }
    if let Err(error) = nft::open_docker(&bridge_name(instance)) {
        tracing::warn!(%error, "cannot add rules to DOCKER-USER: Docker's firewall may drop what pods send beyond the node");
    }
    Ok(())
}

/// Calls `change` with the table of each family and the host ports that belong into it.
fn each_family(
    instance: &str,
    ranges: &Ranges,
    elements: &[Element],
    change: impl Fn(&Rules<'_>, &[Element]) -> io::Result<()>,
) -> io::Result<()> {
    for rules in rules_of(&table_name(instance), &bridge_name(instance), ranges) {
        let belongs = |element: &&Element| element.pod_ip.is_ipv4() == rules.range.addr().is_ipv4();
        let own: Vec<Element> = elements.iter().filter(belongs).cloned().collect();
        change(&rules, &own)?;
    }
    Ok(())
}

fn rules_of<'a>(table: &'a str, bridge: &'a str, ranges: &Ranges) -> impl Iterator<Item = Rules<'a>> {
    let families = [Some(ranges.v4().into()), ranges.v6().map(ipnet::IpNet::from)];
    families.into_iter().flatten().map(move |range| Rules { table, bridge, range })
}

fn is_without_nftables(error: &io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOENT, Errno::EAFNOSUPPORT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Pods take the MTU of the way out, so that no packet is too large for it.
fn uplink_mtu(netlink: &mut Netlink) -> io::Result<u32> {
    let Some(index) = link::default_route_link(netlink)? else { return Ok(MTU_DEFAULT) };
    Ok(link::by_index(netlink, index)?.map_or(MTU_DEFAULT, |link| link.mtu))
}

fn bridge_name(instance: &str) -> String {
    format!("pb-{instance}")
}

fn table_name(instance: &str) -> String {
    format!("podbus-{instance}")
}

fn veth_prefix(instance: &str) -> String {
    format!("v{instance}")
}

/// The prefix and six hexadecimal digits, the address's place in the CIDR: unique as long as the address is.
fn veth_name(instance: &str, cidr: Ipv4Net, ip: Ipv4Addr) -> String {
    let place = u32::from(ip) - u32::from(cidr.network());
    format!("{}{place:06x}", veth_prefix(instance))
}

/// The address that a port of our bridge was named after.
fn address_of_veth(instance: &str, cidr: Ipv4Net, link: &Link, bridge: u32) -> Option<Ipv4Addr> {
    let place = link.name.strip_prefix(&veth_prefix(instance)).filter(|_| link.master == Some(bridge))?;
    let place = u32::from_str_radix(place, 16).ok()?;
    let address = Ipv4Addr::from(u32::from(cidr.network()).checked_add(place)?);
    cidr.contains(&address).then_some(address)
}

/// A locally administered MAC address made of the IP: a reused address comes with the MAC that neighbours remember.
fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn failed(action: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let action = action.to_owned();
    move |source| NetworkError::Kernel { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_in_a_link_name_and_tells_its_address() {
        let cidr: Ipv4Net = "10.0.0.0/8".parse().unwrap();
        let ip = Ipv4Addr::new(10, 255, 255, 254);
        let name = veth_name("abcdefgh", cidr, ip);
        assert_eq!(name, "vabcdefghfffffe");
        assert!(name.len() <= 15 && bridge_name("abcdefgh").len() <= 15);
        let link = Link { index: 9, name, mtu: 1500, master: Some(3) };
        assert_eq!(address_of_veth("abcdefgh", cidr, &link, 3), Some(ip));
        assert_eq!(address_of_veth("abcdefgh", cidr, &link, 4), None, "a port of another bridge is not ours");
    }

    #[test]
    fn an_instance_name_that_does_not_fit_is_refused() {
        for name in ["", "abcdefghi", "Node1", "a-b", "../x"] {
            assert!(matches!(check_instance(name), Err(NetworkError::Instance(_))), "{name}");
        }
        assert!(check_instance("node1").is_ok());
    }
}
