//! What the leader hears.

use std::time::Instant;

use bytes::Bytes;
use podbus_common::model::Timestamp;
use podbus_common::proto::{Heartbeat, StatusRequest, SyncRequest};
use podbus_common::subject::{self, is_inbox};
use prost::Message as _;

use crate::plan::{CallId, Object};
use crate::writing::Written;

/// When an input is heard.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back; silence and back-off are measured on it.
    pub instant: Instant,
    /// The time of the wall, for what a person reads and for tolerations.
    pub wall: Timestamp,
}

/// Something for the leader.
#[derive(Debug, Clone)]
pub enum Input {
    /// A call of the API. It is answered once, by [`Output::Answer`](crate::Output::Answer).
    Call {
        /// Its number, given by who runs the leader.
        call: CallId,
        /// What was asked: `podbus.api.v1.<namespace>.<resource>.<verb>`.
        subject: String,
        /// The request, JSON.
        payload: Bytes,
    },
    /// A node registers or syncs.
    Sync {
        /// What it says.
        request: Box<SyncRequest>,
        /// Where the answer goes.
        reply: String,
    },
    /// A node reports pods.
    Status {
        /// What it says.
        request: Box<StatusRequest>,
        /// Where the answer goes.
        reply: String,
    },
    /// A node is alive.
    Heartbeat(Box<Heartbeat>),
    /// A watcher is alive, or leaves.
    Watcher {
        /// Its number.
        watch: u64,
        /// It wants nothing more.
        leaves: bool,
    },
    /// The writes of a decision about an object are done.
    Written {
        /// The object.
        object: Object,
        /// How they went.
        outcome: Written,
    },
    /// The marker of a purged key is gone from the store.
    Compacted {
        /// The key.
        key: String,
        /// Of the marker.
        revision: u64,
    },
    /// Time passed: each [`TICK_EVERY`](crate::TICK_EVERY).
    Tick {
        /// Whether the bus is there and what came over it was heard: else silence is no node's fault.
        caught_up: bool,
    },
    /// The lease was not surely held for a while, so nothing was heard.
    Resumed,
}

/// A message of the bus.
#[derive(Debug, Clone)]
pub struct Message {
    /// What it was published to.
    pub subject: String,
    /// Where an answer goes.
    pub reply: Option<String>,
    /// Its content.
    pub payload: Bytes,
}

/// Messages become inputs. `None`: it cannot be read, speaks for another node than its subject, or wants the answer
/// elsewhere than in an inbox.
impl Input {
    /// Of the subjects `podbus.status.<node>`.
    pub fn read_status(message: Message) -> Option<Self> {
        let request = StatusRequest::decode(message.payload).ok()?;
        let reply =
            message.reply.filter(|reply| is_inbox(reply) && message.subject == subject::status(&request.node))?;
        Some(Self::Status { request: Box::new(request), reply })
    }

    /// Of the subjects `podbus.node.<node>.sync`.
    pub fn read_sync(message: Message) -> Option<Self> {
        let request = SyncRequest::decode(message.payload).ok()?;
        let reply = message.reply.filter(|reply| is_inbox(reply) && message.subject == subject::sync(&request.node))?;
        Some(Self::Sync { request: Box::new(request), reply })
    }

    /// Of the subjects `podbus.node.<node>.heartbeat`.
    pub fn read_heartbeat(message: Message) -> Option<Self> {
        let heartbeat = Heartbeat::decode(message.payload).ok()?;
        let own = message.subject == subject::heartbeat(&heartbeat.node);
        own.then(|| Self::Heartbeat(Box::new(heartbeat)))
    }

    /// Of the subjects `<control>.<watch>`.
    pub fn read_watcher(control: &str, message: &Message) -> Option<Self> {
        let watch = message.subject.strip_prefix(control)?.strip_prefix('.')?.parse().ok()?;
        Some(Self::Watcher { watch, leaves: message.payload == Bytes::from_static(b"stop") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: String, reply: &str, payload: Vec<u8>) -> Message {
        Message { subject, reply: Some(reply.to_owned()), payload: payload.into() }
    }

    #[test]
    fn a_node_speaks_for_itself_alone_whatever_it_says() {
        let status = StatusRequest { node: "node-2".into(), ..Default::default() }.encode_to_vec();
        let sync = SyncRequest { node: "node-2".into(), ..Default::default() }.encode_to_vec();
        let heartbeat = Heartbeat { node: "node-2".into(), ..Default::default() }.encode_to_vec();
        for (node, is_heard) in [("node-2", true), ("node-1", false)] {
            let read = [
                Input::read_status(message(subject::status(node), "_INBOX.a", status.clone())),
                Input::read_sync(message(subject::sync(node), "_INBOX.a", sync.clone())),
                Input::read_heartbeat(message(subject::heartbeat(node), "", heartbeat.clone())),
            ];
            assert!(read.iter().all(|input| input.is_some() == is_heard), "{node}: {read:?}");
        }
    }

    #[test]
    fn who_wants_the_answer_elsewhere_than_in_an_inbox_is_not_heard() {
        let status = StatusRequest { node: "node-1".into(), ..Default::default() }.encode_to_vec();
        let sync = SyncRequest { node: "node-1".into(), ..Default::default() }.encode_to_vec();
        for reply in ["$KV.podbus.pods.default.web", "podbus.node.node-2.assign", ""] {
            assert!(Input::read_status(message(subject::status("node-1"), reply, status.clone())).is_none(), "{reply}");
            assert!(Input::read_sync(message(subject::sync("node-1"), reply, sync.clone())).is_none(), "{reply}");
        }
    }
}
