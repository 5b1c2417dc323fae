//! The table of an instance, one for each address family.
//!
//! ```text
//! table ip podbus-<instance> {
//!   map ports       { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
//!   chain raw         { iifname <bridge> ip daddr 127.0.0.0/8 drop }
//!   chain ports       { dnat to ip daddr . l4proto . dport map @ports; dnat to 0.0.0.0 . l4proto . dport map @ports }
//!   chain prerouting  { fib daddr type local jump ports }
//!   chain output      { fib daddr type local jump ports }
//!   chain postrouting { what leaves the pods' range, what a pod sent to itself, what came from loopback: masquerade }
//! }
//! ```
//!
//! A host port is an element of the map, never a rule: a packet takes as long with a thousand of them as with one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use super::expression::{
    self, DATA_VALUE, EQUAL, META_IIFNAME, META_OIFNAME, NOT_EQUAL, REGISTER_1, REGISTER_32, RULE_CHAIN, RULE_TABLE,
    Side, octets, rule,
};
use super::{Family, SUBSYSTEM, transaction};
use crate::network::message::{ACK, CREATE, DUMP, Message};
use crate::network::socket::Netlink;

const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETRULE: u16 = SUBSYSTEM | 7;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWELEMENT: u16 = SUBSYSTEM | 12;
const DELELEMENT: u16 = SUBSYSTEM | 14;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DESTINATION_NAT: i32 = -100;
const PRIORITY_SOURCE_NAT: i32 = 100;

const MAP: &str = "ports";
const PORTS: &str = "ports";
const POSTROUTING: &str = "postrouting";
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
/// Elements of one message: an attribute holds 64 KiB, and an element of IPv6 takes some 100 bytes.
const ELEMENTS_MAX: usize = 256;

/// What the table of a family is made of.
#[derive(Debug, Clone)]
pub(in crate::network) struct Rules<'a> {
    /// Its name.
    pub(in crate::network) table: &'a str,
    /// The pods' bridge.
    pub(in crate::network) bridge: &'a str,
    /// The pods' addresses.
    pub(in crate::network) range: IpNet,
}

/// A host port and where it leads. Both addresses are of the table's family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Element {
    /// The address of the node; unspecified: any.
    pub(in crate::network) host_ip: IpAddr,
    /// The protocol's number.
    pub(in crate::network) protocol: u8,
    /// The node's port.
    pub(in crate::network) host_port: u16,
    /// The pod's address.
    pub(in crate::network) pod_ip: IpAddr,
    /// The pod's port.
    pub(in crate::network) pod_port: u16,
}

impl Rules<'_> {
    fn family(&self) -> Family {
        if matches!(self.range, IpNet::V4(_)) { Family::V4 } else { Family::V6 }
    }
}

/// Puts the table in place, new as a whole, with these host ports.
pub(in crate::network) fn install(rules: &Rules<'_>, elements: &[Element]) -> io::Result<()> {
    let (family, table) = (rules.family(), rules.table);
    let mut messages = vec![
        table_message(NEWTABLE, CREATE, family, table), // so that the deletion cannot fail
        table_message(DELTABLE, 0, family, table),
        table_message(NEWTABLE, CREATE, family, table),
        map(family, table),
        chain(family, table, PORTS),
        base_chain(family, table, "prerouting", "nat", HOOK_PREROUTING, PRIORITY_DESTINATION_NAT),
        base_chain(family, table, "output", "nat", HOOK_OUTPUT, PRIORITY_DESTINATION_NAT),
        base_chain(family, table, POSTROUTING, "nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT),
    ];
    messages.extend(port_rules(family, table));
    messages.extend(masquerade_rules(rules));
    if family == Family::V4 {
        messages.push(base_chain(family, table, "raw", "filter", HOOK_PREROUTING, PRIORITY_RAW));
        messages.push(rule(family, table, "raw", |rule| {
            expression::link_is(rule, META_IIFNAME, rules.bridge);
            expression::address_is(rule, family, Side::Destination, EQUAL, LOOPBACK.into());
            expression::drop_packet(rule);
        }));
    }
    messages.extend(element_messages(NEWELEMENT, CREATE, family, table, elements));
    transaction(messages)
}

/// True if the table is there with its rules: a reload of another firewall may flush everything.
pub(in crate::network) fn is_installed(wanted: &Rules<'_>) -> io::Result<bool> {
    let family = wanted.family();
    Ok(!rules(family, wanted.table, POSTROUTING)?.is_empty() && !rules(family, wanted.table, PORTS)?.is_empty())
}

/// Removes the table, if it is there.
pub(in crate::network) fn remove(family: Family, table: &str) -> io::Result<()> {
    transaction(vec![table_message(NEWTABLE, CREATE, family, table), table_message(DELTABLE, 0, family, table)])
}

/// Opens host ports.
pub(in crate::network) fn add_elements(rules: &Rules<'_>, elements: &[Element]) -> io::Result<()> {
    transaction(element_messages(NEWELEMENT, CREATE, rules.family(), rules.table, elements))
}

/// Closes host ports. Those that are not there are fine.
pub(in crate::network) fn remove_elements(rules: &Rules<'_>, elements: &[Element]) -> io::Result<()> {
    for element in elements {
        let one = std::slice::from_ref(element);
        match transaction(element_messages(DELELEMENT, 0, rules.family(), rules.table, one)) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            removed => removed?,
        }
    }
    Ok(())
}

/// The rules of a chain; none if it is not there.
pub(super) fn rules(family: Family, table: &str, chain: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut message = Message::new(GETRULE, DUMP, &family.header());
    message.string(RULE_TABLE, table).string(RULE_CHAIN, chain);
    match Netlink::netfilter()?.query(message) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(Vec::new()),
        found => found,
    }
}

fn table_message(kind: u16, flags: u16, family: Family, table: &str) -> Message {
    let mut message = Message::new(kind, flags | ACK, &family.header());
    message.string(TABLE_NAME, table);
    message
}

fn chain(family: Family, table: &str, name: &str) -> Message {
    let mut message = Message::new(NEWCHAIN, ACK | CREATE, &family.header());
    message.string(CHAIN_TABLE, table).string(CHAIN_NAME, name);
    message
}

fn base_chain(family: Family, table: &str, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    let mut message = chain(family, table, name);
    message.nest(CHAIN_HOOK, |inner| {
        inner.be32(HOOK_NUMBER, hook).be32(HOOK_PRIORITY, priority.cast_unsigned());
    });
    message.string(CHAIN_TYPE, kind);
    message
}

/// The map of host ports. The numbers of the types serve `nft list` only, six bits each.
fn map(family: Family, table: &str) -> Message {
    const FLAG_MAP: u32 = 8;
    const PROTO: u32 = 12;
    const SERVICE: u32 = 13;
    let (address, address_bytes) = if family == Family::V4 { (7, 4) } else { (8, 16) };
    let mut message = Message::new(NEWSET, ACK | CREATE, &family.header());
    message.string(1, table).string(2, MAP).be32(3, FLAG_MAP);
    message.be32(4, address << 12 | PROTO << 6 | SERVICE).be32(5, address_bytes + 8);
    message.be32(6, address << 6 | SERVICE).be32(7, address_bytes + 4);
    message.be32(10, 1); // an id within this transaction
    message
}

/// What is for the node goes by the map: first by the very address, then by any.
fn port_rules(family: Family, table: &str) -> Vec<Message> {
    let to_ports = |chain| {
        rule(family, table, chain, |rule| {
            expression::is_for_the_node(rule);
            expression::jump(rule, PORTS);
        })
    };
    let (any, words) = match family {
        Family::V4 => (octets(Ipv4Addr::UNSPECIFIED.into()), 1),
        Family::V6 => (octets(Ipv6Addr::UNSPECIFIED.into()), 4),
    };
    let by_map = |rule: &mut Message| {
        expression::load_port(rule, REGISTER_32 + words);
        expression::look_up(rule, MAP);
        expression::redirect(rule, family);
    };
    let by_address = rule(family, table, PORTS, |rule| {
        expression::load_address(rule, family, Side::Destination, REGISTER_1);
        by_map(rule);
    });
    let by_any = rule(family, table, PORTS, |rule| {
        expression::immediate(rule, REGISTER_1, &any);
        by_map(rule);
    });
    vec![by_address, by_any, to_ports("prerouting"), to_ports("output")]
}

fn masquerade_rules(rules: &Rules<'_>) -> Vec<Message> {
    let (family, table, range) = (rules.family(), rules.table, rules.range);
    let outwards = rule(family, table, POSTROUTING, |rule| {
        expression::address_is(rule, family, Side::Source, EQUAL, range);
        expression::address_is(rule, family, Side::Destination, NOT_EQUAL, range);
        expression::masquerade(rule);
    });
    // A pod that calls a host port of a pod beside it, or its own, would be answered past the translation.
    let hairpin = rule(family, table, POSTROUTING, |rule| {
        expression::address_is(rule, family, Side::Source, EQUAL, range);
        expression::address_is(rule, family, Side::Destination, EQUAL, range);
        expression::was_redirected(rule);
        expression::masquerade(rule);
    });
    let mut messages = vec![outwards, hairpin];
    if family == Family::V4 {
        messages.push(rule(family, table, POSTROUTING, |rule| {
            expression::address_is(rule, family, Side::Source, EQUAL, LOOPBACK.into());
            expression::link_is(rule, META_OIFNAME, rules.bridge);
            expression::masquerade(rule);
        }));
    }
    messages
}

fn element_messages(kind: u16, flags: u16, family: Family, table: &str, elements: &[Element]) -> Vec<Message> {
    let messages = elements.chunks(ELEMENTS_MAX).map(|chunk| {
        let mut message = Message::new(kind, flags | ACK, &family.header());
        message.string(1, table).string(2, MAP).nest(3, |list| {
            for element in chunk {
                list.nest(1, |item| element.write(item));
            }
        });
        message
    });
    messages.collect()
}

impl Element {
    /// Each part is padded to the 4 bytes of a register.
    fn write(&self, item: &mut Message) {
        let mut key = octets(self.host_ip);
        key.extend([self.protocol, 0, 0, 0]);
        key.extend(self.host_port.to_be_bytes());
        key.extend([0; 2]);
        let mut value = octets(self.pod_ip);
        value.extend(self.pod_port.to_be_bytes());
        value.extend([0; 2]);
        item.nest(1, |data| {
            data.attribute(DATA_VALUE, &key);
        });
        item.nest(2, |data| {
            data.attribute(DATA_VALUE, &value);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_host_ports_are_split_so_that_no_attribute_overflows() {
        let element = Element {
            host_ip: Ipv6Addr::UNSPECIFIED.into(),
            protocol: 6,
            host_port: 80,
            pod_ip: Ipv6Addr::LOCALHOST.into(),
            pod_port: 8080,
        };
        let elements = vec![element; ELEMENTS_MAX * 2 + 1];
        let messages = element_messages(NEWELEMENT, CREATE, Family::V6, "t", &elements);
        assert_eq!(messages.len(), 3);
        assert!(messages.into_iter().all(|message| message.finish(1).len() < usize::from(u16::MAX)));
    }
}
