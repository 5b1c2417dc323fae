//! The expressions that rules are made of, as the kernel's virtual machine knows them. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Family;
use super::SUBSYSTEM;
use crate::network::message::{ACK, Message};

pub(super) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const EXPRESSION_NAME: u16 = 1;
pub(super) const EXPRESSION_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;

const LIST_ELEMENT: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NFT_JUMP`, which is -3.
const JUMP: u32 = 0u32.wrapping_sub(3);

const REGISTER_VERDICT: u32 = 0;
/// 16 bytes wide: also [`REGISTER_32`] and the three after it.
pub(super) const REGISTER_1: u32 = 1;
/// The first of the registers of 4 bytes.
pub(super) const REGISTER_32: u32 = 8;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
pub(super) const EQUAL: u32 = 0;
pub(super) const NOT_EQUAL: u32 = 1;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
/// `IFNAMSIZ`: the width of a link's name in the kernel.
const LINK_NAME_BYTES: usize = 16;

/// Which address of a packet.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

/// A message about a rule of this chain.
pub(super) fn rule_message(kind: u16, flags: u16, family: Family, table: &str, chain: &str) -> Message {
    let mut message = Message::new(kind, flags | ACK, &family.header());
    message.string(RULE_TABLE, table).string(RULE_CHAIN, chain);
    message
}

/// A rule as the kernel keeps it.
pub(super) fn rule(family: Family, table: &str, chain: &str, fill: impl FnOnce(&mut Message)) -> Message {
    let mut message = rule_message(NEWRULE, crate::network::message::CREATE, family, table, chain);
    message.nest(RULE_EXPRESSIONS, fill);
    message
}

fn place(family: Family, side: Side) -> (u32, u32) {
    match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    }
}

/// Loads an address of the packet into `register`.
pub(super) fn load_address(rule: &mut Message, family: Family, side: Side, register: u32) {
    let (offset, length) = place(family, side);
    expression(rule, "payload", |data| {
        data.be32(1, register).be32(2, NETWORK_HEADER).be32(3, offset).be32(4, length);
    });
}

/// Loads the packet's protocol, then its destination port, into two registers of 4 bytes.
pub(super) fn load_port(rule: &mut Message, register: u32) {
    meta(rule, META_L4PROTO, register);
    expression(rule, "payload", |data| {
        data.be32(1, register + 1).be32(2, TRANSPORT_HEADER).be32(3, 2).be32(4, 2);
    });
}

/// Loads a fact about the packet.
pub(super) fn meta(rule: &mut Message, key: u32, register: u32) {
    expression(rule, "meta", |data| {
        data.be32(2, key).be32(1, register);
    });
}

/// Goes on only where the link that the packet came in by or leaves by has this name.
pub(super) fn link_is(rule: &mut Message, key: u32, name: &str) {
    meta(rule, key, REGISTER_1);
    compare(rule, EQUAL, &link_name(name));
}

/// Goes on only where the address is in `range` (`EQUAL`), or is not.
pub(super) fn address_is(rule: &mut Message, family: Family, side: Side, operator: u32, range: IpNet) {
    load_address(rule, family, side, REGISTER_1);
    let mask = octets(range.netmask());
    let length = u32::try_from(mask.len()).unwrap_or(0);
    expression(rule, "bitwise", |data| {
        data.be32(1, REGISTER_1).be32(2, REGISTER_1).be32(3, length);
        data.nest(4, |value| {
            value.attribute(DATA_VALUE, &mask);
        });
        data.nest(5, |value| {
            value.attribute(DATA_VALUE, &vec![0; mask.len()]);
        });
    });
    compare(rule, operator, &octets(range.network()));
}

/// Goes on only where the packet is for this node itself.
pub(super) fn is_for_the_node(rule: &mut Message) {
    const RESULT_ADDRTYPE: u32 = 3;
    const FLAG_DESTINATION: u32 = 2;
    const RTN_LOCAL: u32 = 2;
    expression(rule, "fib", |data| {
        data.be32(1, REGISTER_1).be32(2, RESULT_ADDRTYPE).be32(3, FLAG_DESTINATION);
    });
    compare(rule, EQUAL, &RTN_LOCAL.to_ne_bytes());
}

/// Goes on only where the connection's destination was changed.
pub(super) fn was_redirected(rule: &mut Message) {
    const CT_STATUS: u32 = 2;
    const IPS_DST_NAT: u32 = 0x20;
    expression(rule, "ct", |data| {
        data.be32(2, CT_STATUS).be32(1, REGISTER_1);
    });
    expression(rule, "bitwise", |data| {
        data.be32(1, REGISTER_1).be32(2, REGISTER_1).be32(3, 4);
        data.nest(4, |value| {
            value.attribute(DATA_VALUE, &IPS_DST_NAT.to_ne_bytes());
        });
        data.nest(5, |value| {
            value.attribute(DATA_VALUE, &[0; 4]);
        });
    });
    compare(rule, NOT_EQUAL, &[0; 4]);
}

/// Puts `value` into a register.
pub(super) fn immediate(rule: &mut Message, register: u32, value: &[u8]) {
    expression(rule, "immediate", |data| {
        data.be32(1, register).nest(2, |inner| {
            inner.attribute(DATA_VALUE, value);
        });
    });
}

/// Goes on only where `map` has the key at [`REGISTER_1`]; its value is there then.
pub(super) fn look_up(rule: &mut Message, map: &str) {
    expression(rule, "lookup", |data| {
        data.string(1, map).be32(2, REGISTER_1).be32(3, REGISTER_1);
    });
}

/// Sends the packet to the address at [`REGISTER_1`] and the port in the register after it.
pub(super) fn redirect(rule: &mut Message, family: Family) {
    const TO_DESTINATION: u32 = 1;
    let (_, length) = place(family, Side::Destination);
    expression(rule, "nat", |data| {
        data.be32(1, TO_DESTINATION).be32(2, u32::from(family.header()[0]));
        data.be32(3, REGISTER_1).be32(5, REGISTER_32 + length / 4);
    });
}

/// Lets the packet look as if this node had sent it.
pub(super) fn masquerade(rule: &mut Message) {
    expression(rule, "masq", |_| {});
}

pub(super) fn counter(rule: &mut Message) {
    expression(rule, "counter", |data| {
        data.attribute(1, &[0; 8]).attribute(2, &[0; 8]);
    });
}

pub(super) fn accept(rule: &mut Message) {
    verdict(rule, NF_ACCEPT, None);
}

pub(super) fn drop_packet(rule: &mut Message) {
    verdict(rule, NF_DROP, None);
}

pub(super) fn jump(rule: &mut Message, chain: &str) {
    verdict(rule, JUMP, Some(chain));
}

fn verdict(rule: &mut Message, code: u32, chain: Option<&str>) {
    expression(rule, "immediate", |data| {
        data.be32(1, REGISTER_VERDICT).nest(2, |value| {
            value.nest(DATA_VERDICT, |verdict| {
                verdict.be32(VERDICT_CODE, code);
                if let Some(chain) = chain {
                    verdict.string(VERDICT_CHAIN, chain);
                }
            });
        });
    });
}

fn compare(rule: &mut Message, operator: u32, value: &[u8]) {
    expression(rule, "cmp", |data| {
        data.be32(1, REGISTER_1).be32(2, operator).nest(3, |inner| {
            inner.attribute(DATA_VALUE, value);
        });
    });
}

fn expression(rule: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    rule.nest(LIST_ELEMENT, |element| {
        element.string(EXPRESSION_NAME, name).nest(EXPRESSION_DATA, fill);
    });
}

/// An address as it stands in a packet.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A link's name as it stands in a register.
pub(super) fn link_name(name: &str) -> [u8; LINK_NAME_BYTES] {
    let mut bytes = [0; LINK_NAME_BYTES];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes
}
