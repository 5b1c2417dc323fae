//! Links, addresses and routes over rtnetlink (`man 7 rtnetlink`).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{self, ACK, CREATE, EXCL, Message, REPLACE, find, u32_at};
use super::socket::{DUMP_ALL, Netlink};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The address is not looked for on the link before it is used.
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;

const IFINFO_BYTES: usize = 16;
const IFADDR_BYTES: usize = 8;
const RTMSG_BYTES: usize = 12;

/// The link of the pod's end of a veth pair.
pub(super) const POD_LINK: &str = "eth0";

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its interface index.
    pub(super) index: u32,
    /// Its name.
    pub(super) name: String,
    /// The largest packet that it takes, in bytes.
    pub(super) mtu: u32,
    /// The bridge that it is a port of.
    pub(super) master: Option<u32>,
}

/// A veth pair to be made.
pub(super) struct Veth<'a> {
    /// The name of the end that stays here.
    pub(super) name: &'a str,
    /// The bridge that this end becomes a port of.
    pub(super) bridge: u32,
    /// The network namespace in which the other end is born, as [`POD_LINK`].
    pub(super) netns: BorrowedFd<'a>,
    /// The other end's MAC address.
    pub(super) pod_mac: [u8; 6],
    /// For both ends, in bytes.
    pub(super) mtu: u32,
}

/// The link of this name, if there is one.
pub(super) fn by_name(netlink: &mut Netlink, name: &str) -> io::Result<Option<Link>> {
    let mut message = Message::new(RTM_GETLINK, ACK, &link_header(0, 0, 0));
    message.string(IFLA_IFNAME, name);
    one(netlink, message)
}

/// The link of this index, if there is one.
pub(super) fn by_index(netlink: &mut Netlink, index: u32) -> io::Result<Option<Link>> {
    one(netlink, Message::new(RTM_GETLINK, ACK, &link_header(index, 0, 0)))
}

/// All links.
pub(super) fn list(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let found = netlink.query(Message::new(RTM_GETLINK, DUMP_ALL, &link_header(0, 0, 0)))?;
    Ok(found.iter().filter_map(|payload| parse(payload)).collect())
}

/// Makes a bridge, down.
pub(super) fn add_bridge(netlink: &mut Netlink, name: &str, mac: [u8; 6], mtu: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, 0, 0));
    // A MAC of its own: else a bridge takes the lowest of its ports', and changes it as pods come and go.
    message.string(IFLA_IFNAME, name).attribute(IFLA_ADDRESS, &mac).u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |data| {
            data.attribute(IFLA_BR_MCAST_SNOOPING, &[0]);
        });
    });
    netlink.request(message)
}

/// Makes a veth pair, both ends down.
///
/// The other end is born in its namespace: to move a link there waits for RCU, 10 to 30 ms.
pub(super) fn add_veth(netlink: &mut Netlink, veth: &Veth<'_>) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCL, &link_header(0, 0, 0));
    one_queue(message.string(IFLA_IFNAME, veth.name).u32(IFLA_MTU, veth.mtu).u32(IFLA_MASTER, veth.bridge));
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0, 0)).string(IFLA_IFNAME, POD_LINK).u32(IFLA_MTU, veth.mtu);
                one_queue(peer.attribute(IFLA_ADDRESS, &veth.pod_mac));
                peer.attribute(IFLA_NET_NS_FD, &veth.netns.as_raw_fd().to_ne_bytes());
            });
        });
    });
    netlink.request(message)
}

/// By default a veth has a queue for each CPU, each with its memory.
fn one_queue(message: &mut Message) {
    message.u32(IFLA_NUM_TX_QUEUES, 1).u32(IFLA_NUM_RX_QUEUES, 1);
}

/// Sets a link up.
pub(super) fn set_up(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.request(Message::new(RTM_NEWLINK, ACK, &link_header(index, IFF_UP, IFF_UP)))
}

/// Lets a port of a bridge get back what it sent: a pod that calls its own host port, where netfilter sees bridged
/// packets (`bridge-nf-call-iptables`).
pub(super) fn set_hairpin(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, ACK, &link_header(index, 0, 0));
    message.nest(IFLA_LINKINFO, |info| {
        info.string(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
            data.attribute(IFLA_BRPORT_MODE, &[1]);
        });
    });
    netlink.request(message)
}

/// Deletes a link; one that is not there is fine.
pub(super) fn delete(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    match netlink.request(Message::new(RTM_DELLINK, ACK, &link_header(index, 0, 0))) {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

/// Gives a link an address; one that it already has is fine.
pub(super) fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix_len: u8) -> io::Result<()> {
    let flags = ACK | CREATE | REPLACE;
    let message = match address {
        IpAddr::V4(address) => {
            let broadcast = u32::from(address) | u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            let mut message = Message::new(RTM_NEWADDR, flags, &address_header(index, prefix_len));
            message
                .attribute(IFA_LOCAL, &address.octets())
                .attribute(IFA_ADDRESS, &address.octets())
                .attribute(IFA_BROADCAST, &broadcast.to_be_bytes());
            message
        }
        IpAddr::V6(address) => {
            let mut header = address_header(index, prefix_len);
            (header[0], header[2]) = (AF_INET6, IFA_F_NODAD);
            let mut message = Message::new(RTM_NEWADDR, flags, &header);
            message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
            message
        }
    };
    netlink.request(message)
}

/// Takes all IPv4 addresses from a link but `keep`.
pub(super) fn keep_only_address(netlink: &mut Netlink, index: u32, keep: (Ipv4Addr, u8)) -> io::Result<()> {
    let found = netlink.query(Message::new(RTM_GETADDR, DUMP_ALL, &address_header(0, 0)))?;
    for (owner, address, prefix_len) in found.iter().filter_map(|payload| parse_address(payload)) {
        if owner == index && (address, prefix_len) != keep {
            let mut message = Message::new(RTM_DELADDR, ACK, &address_header(index, prefix_len));
            message.attribute(IFA_LOCAL, &address.octets());
            netlink.request(message)?;
        }
    }
    Ok(())
}

/// Adds the default route over `gateway`.
pub(super) fn add_default_route(netlink: &mut Netlink, gateway: IpAddr) -> io::Result<()> {
    let mut header = [0; RTMSG_BYTES];
    header[0] = if gateway.is_ipv4() { AF_INET } else { AF_INET6 };
    header[4] = RT_TABLE_MAIN;
    header[5] = RTPROT_BOOT;
    header[7] = RTN_UNICAST;
    let mut message = Message::new(RTM_NEWROUTE, ACK | CREATE | REPLACE, &header);
    match gateway {
        IpAddr::V4(gateway) => message.attribute(RTA_GATEWAY, &gateway.octets()),
        IpAddr::V6(gateway) => message.attribute(RTA_GATEWAY, &gateway.octets()),
    };
    netlink.request(message)
}

/// The index of the link that the default route leaves by, if there is one.
pub(super) fn default_route_link(netlink: &mut Netlink) -> io::Result<Option<u32>> {
    let mut header = [0; RTMSG_BYTES];
    header[0] = AF_INET;
    let found = netlink.query(Message::new(RTM_GETROUTE, DUMP_ALL, &header))?;
    let defaults = found.iter().filter_map(|payload| {
        let is_default = payload.get(1) == Some(&0)
            && payload.get(4) == Some(&RT_TABLE_MAIN)
            && payload.get(7) == Some(&RTN_UNICAST);
        let attributes = payload.get(RTMSG_BYTES..).filter(|_| is_default)?;
        let link = u32_at(find(attributes, RTA_OIF)?, 0)?;
        let metric = find(attributes, RTA_PRIORITY).and_then(|value| u32_at(value, 0)).unwrap_or(0);
        Some((metric, link))
    });
    Ok(defaults.min().map(|(_, link)| link))
}

fn one(netlink: &mut Netlink, message: Message) -> io::Result<Option<Link>> {
    match netlink.query(message) {
        Ok(found) => Ok(found.first().and_then(|payload| parse(payload))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// ENODEV: no such link.
fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

fn parse(payload: &[u8]) -> Option<Link> {
    let attributes = payload.get(IFINFO_BYTES..)?;
    Some(Link {
        index: u32_at(payload, 4)?,
        name: message::text(find(attributes, IFLA_IFNAME)?).to_owned(),
        mtu: u32_at(find(attributes, IFLA_MTU)?, 0)?,
        master: find(attributes, IFLA_MASTER).and_then(|value| u32_at(value, 0)),
    })
}

fn parse_address(payload: &[u8]) -> Option<(u32, Ipv4Addr, u8)> {
    let prefix_len = *payload.get(1)?;
    let index = u32_at(payload, 4)?;
    let local: [u8; 4] = find(payload.get(IFADDR_BYTES..)?, IFA_LOCAL)?.try_into().ok()?;
    Some((index, Ipv4Addr::from(local), prefix_len))
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; IFINFO_BYTES] {
    let mut header = [0; IFINFO_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`, of global scope.
fn address_header(index: u32, prefix_len: u8) -> [u8; IFADDR_BYTES] {
    let mut header = [0; IFADDR_BYTES];
    header[0] = AF_INET;
    header[1] = prefix_len;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}
