//! A way past Docker's firewall: its policy is to drop what is forwarded, and an accept in a table of ours would not
//! overrule it.

use std::io;

use nix::errno::Errno;

use super::expression::{
    self, DATA_VALUE, EXPRESSION_DATA, EXPRESSION_NAME, META_IIFNAME, META_OIFNAME, RULE_CHAIN, RULE_EXPRESSIONS,
    link_name, rule, rule_message,
};
use super::table::rules;
use super::{Family, SUBSYSTEM, transaction};
use crate::network::message::{ACK, Message, attributes, find, text};
use crate::network::socket::Netlink;

const GETCHAIN: u16 = SUBSYSTEM | 4;
const DELRULE: u16 = SUBSYSTEM | 8;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_HANDLE: u16 = 3;

const TABLE: &str = "filter";
const CHAIN: &str = "DOCKER-USER";

/// Lets what `bridge` forwards pass, where Docker is.
pub(in crate::network) fn open(bridge: &str) -> io::Result<()> {
    if !chain_exists()? || !our_rules(bridge)?.is_empty() {
        return Ok(());
    }
    transaction(vec![docker_rule(META_OIFNAME, bridge), docker_rule(META_IIFNAME, bridge)])
}

/// Removes what [`open`] added.
pub(in crate::network) fn close(bridge: &str) -> io::Result<()> {
    if !chain_exists()? {
        return Ok(());
    }
    let rules = our_rules(bridge)?;
    let removals = rules.iter().map(|handle| {
        let mut message = rule_message(DELRULE, 0, Family::V4, TABLE, CHAIN);
        message.attribute(RULE_HANDLE, handle);
        message
    });
    transaction(removals.collect())
}

fn chain_exists() -> io::Result<bool> {
    let mut message = Message::new(GETCHAIN, ACK, &Family::V4.header());
    message.string(CHAIN_TABLE, TABLE).string(CHAIN_NAME, CHAIN);
    match Netlink::netfilter()?.query(message) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The handles of the rules that [`docker_rule`] made for this bridge.
fn our_rules(bridge: &str) -> io::Result<Vec<Vec<u8>>> {
    let rules = rules(Family::V4, TABLE, CHAIN)?;
    Ok(rules.iter().filter_map(|payload| our_rule(payload.get(4..)?, bridge)).collect())
}

/// The handle of a rule if it has our shape and names this bridge: a rule that someone else wrote stays.
fn our_rule(rule: &[u8], bridge: &str) -> Option<Vec<u8>> {
    let of_docker_user = find(rule, RULE_CHAIN).is_some_and(|chain| text(chain) == CHAIN);
    let expressions: Vec<&[u8]> = attributes(find(rule, RULE_EXPRESSIONS)?).map(|(_, element)| element).collect();
    let names: Vec<&str> = expressions.iter().filter_map(|e| find(e, EXPRESSION_NAME).map(text)).collect();
    let compared = find(expressions.get(1)?, EXPRESSION_DATA).and_then(|data| find(find(data, 3)?, DATA_VALUE))?;
    let ours = of_docker_user && names == ["meta", "cmp", "counter", "immediate"] && compared == link_name(bridge);
    ours.then(|| find(rule, RULE_HANDLE).map(<[u8]>::to_vec))?
}

/// `meta iifname <bridge> counter accept`, in the very form in which iptables-nft would write it: a rule that it
/// cannot read back would make the whole chain unusable for Docker.
fn docker_rule(meta: u32, bridge: &str) -> Message {
    rule(Family::V4, TABLE, CHAIN, |rule| {
        expression::link_is(rule, meta, bridge);
        expression::counter(rule);
        expression::accept(rule);
    })
}
