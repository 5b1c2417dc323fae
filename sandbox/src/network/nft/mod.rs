//! Our nftables rules, over nfnetlink. Each change is one transaction.
//!
//! `nft list table ip podbus-<instance>` and `nft list table ip6 podbus-<instance>` show the result.

mod docker;
mod expression;
mod table;

use std::io;

pub(super) use self::docker::{close as close_docker, open as open_docker};
pub(super) use self::table::{Element, Rules, add_elements, install, is_installed, remove, remove_elements};
use super::message::Message;
use super::socket::Netlink;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NFPROTO_UNSPEC: u8 = 0;

/// An address family with a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// `struct nfgenmsg`.
    fn header(self) -> [u8; 4] {
        const NFPROTO_IPV4: u8 = 2;
        const NFPROTO_IPV6: u8 = 10;
        [if self == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 }, 0, 0, 0]
    }
}

fn transaction(messages: Vec<Message>) -> io::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    // `struct nfgenmsg`: the resource id names the subsystem.
    let frame = [NFPROTO_UNSPEC, 0, 0, 10];
    Netlink::netfilter()?.transaction(
        Message::new(BATCH_BEGIN, 0, &frame),
        messages,
        Message::new(BATCH_END, 0, &frame),
    )
}
