//! What a decision consists of: writes, then effects. Nothing of it is done by whoever decides.

use bytes::Bytes;
use podbus_common::api::{ApplyResult, Detail, Status};
use podbus_common::model::{Event, Timestamp};
use podbus_common::proto;
use podbus_common::subject::Key;

use crate::cluster::PodName;
use crate::record::Record;
use crate::status::Reported;

/// What one decision may change: while a write of it is under way, later decisions about it wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// Both keys of a pod.
    Pod(PodName),
    /// A node's record.
    Node(String),
    /// What a node must remove.
    Removal {
        /// The node.
        node: String,
        /// The pod.
        uid: String,
    },
}

impl Object {
    /// What a key of the bucket belongs to; `None`: nothing that is decided on.
    pub(crate) fn of_key(key: &str) -> Option<Self> {
        match Key::parse(key)? {
            Key::Pod { namespace, name } | Key::PodStatus { namespace, name } => {
                Some(Self::Pod(PodName::new(namespace, name)))
            }
            Key::Node { name } => Some(Self::Node(name.to_owned())),
            Key::Removal { node, uid } => Some(Self::Removal { node: node.to_owned(), uid: uid.to_owned() }),
            Key::Lease => None,
        }
    }
}

/// One key. The expected revision is added when the write begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Of the bucket.
    pub key: String,
    /// `None`: purge it.
    pub record: Option<Record>,
}

impl Write {
    pub(crate) fn put(key: String, record: Record) -> Self {
        Self { key, record: Some(record) }
    }

    pub(crate) fn purge(key: String) -> Self {
        Self { key, record: None }
    }
}

/// A decision.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// One after the other.
    pub(crate) writes: Vec<Write>,
    /// Once all writes are acknowledged, in order.
    pub(crate) effects: Vec<Effect>,
}

impl Plan {
    /// Nothing to write.
    pub(crate) fn only(effect: Effect) -> Self {
        Self { writes: Vec::new(), effects: vec![effect] }
    }
}

/// The number of a call that waits for its answer.
pub type CallId = u64;
/// The number of a status request that waits for its pods.
pub(crate) type BatchId = u64;

/// What follows from a decision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Answers a call of the API with this JSON.
    Answer(CallId, Result<Bytes, Status>),
    /// Answers a call with a pod as it is shown by now.
    AnswerPod(CallId, PodName),
    /// Answers an apply with what it did and the pod as it is shown by now.
    AnswerApplied(CallId, ApplyResult, PodName, Detail),
    /// Answers a pod's part of a status request.
    Ack(BatchId, proto::PodAck),
    /// Tells a pod's node of the pod as it is stored by now.
    Assign(PodName),
    /// Tells a node to remove what has no record.
    AssignRemoval { node: String, removal: proto::Removal },
    /// Publishes an event.
    Publish(Box<Event>),
    /// Publishes that the pod got its node at this moment. It is made only where it is published: a burst has more
    /// events than that.
    PublishScheduled(PodName, Timestamp),
    /// Publishes what the pod's node says of it in this report.
    PublishReported(PodName, Reported),
    /// The place that was chosen for the pod is not used.
    Release { uid: String },
    /// The node's record changed: what is not ready makes its pods so.
    NodeChanged { node: String },
    /// Answers a registration that gave the node this agent epoch.
    Registered { call: CallId, node: String },
}
