//! What is stored under each key: JSON, for `nats kv get --raw KEY | jq`.

use std::collections::BTreeMap;
use std::sync::Arc;

use podbus_common::model::{Node, Pod, PodStatus, Taint};
use podbus_common::subject::Key;
use podbus_scheduler_core::{PodSpec, Resources, Shape};
use serde::{Deserialize, Serialize};

/// Few records are larger, and few objects as they are shown.
pub(crate) const BYTES_USUAL: usize = 2048;

/// `podstatus.<namespace>.<name>`: what a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusRecord {
    /// Of the pod that it speaks of; a status of another UID is none.
    pub uid: String,
    /// Of the agent whose report this is; 0: none reported yet.
    pub agent_epoch: u64,
    /// The report's number. An older (agentEpoch, sequence) changes nothing.
    pub sequence: u64,
    /// The fold of it.
    pub status: PodStatus,
}

/// `nodes.<node>`: a node, and who may be it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeRecord {
    /// In Kubernetes' shape.
    #[serde(flatten)]
    pub node: Node,
    /// Who may be it.
    pub agent: AgentRecord,
}

/// The agent that registered last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentRecord {
    /// Grows with each registration.
    pub epoch: u64,
    /// Random, kept in the node's state directory.
    pub node_id: String,
    /// Random per process.
    pub instance: String,
    /// The labels that it told: where the node's differ, a person changed them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The taints that it told.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
}

/// `removals.<node>.<uid>`: a pod that has no record any more, and that its node must still remove. What it asked for
/// counts until then. It holds no time, so that a repeated write is the same write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemovalRecord {
    /// Who must remove it.
    pub node: String,
    /// Of the pod.
    pub uid: String,
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// How long it may take to end.
    pub grace_period_seconds: u32,
    /// What it asked for.
    pub cpu_millis: u64,
    /// What it asked for.
    pub memory_bytes: u64,
    /// What it asked for.
    pub ephemeral_storage_bytes: u64,
    /// Of resources that nodes name themselves.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extended: BTreeMap<String, u64>,
}

impl RemovalRecord {
    /// What it takes on its node until it is gone. Nobody looks at its labels any more.
    pub(crate) fn spec(&self) -> PodSpec {
        let requests = Resources {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            ephemeral_storage_bytes: self.ephemeral_storage_bytes,
            pods: 1,
        };
        // It cannot be pushed out: it leaves already.
        let shape = Shape { requests, extended: self.extended.clone(), ..Shape::default() };
        PodSpec { shape, priority: i32::MAX, ..PodSpec::default() }
    }
}

/// A value of the store that this version knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// `pods.*`: what was asked.
    Pod(Arc<Pod>),
    /// `podstatus.*`: what is.
    Status(Arc<StatusRecord>),
    /// `nodes.*`.
    Node(Arc<NodeRecord>),
    /// `removals.*`.
    Removal(Arc<RemovalRecord>),
}

impl Record {
    /// As it is stored. On one line: with line breaks it is two fifths larger, and nats-server copies it several times.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::with_capacity(BYTES_USUAL);
        let written = match self {
            Self::Pod(pod) => serde_json::to_writer(&mut json, &**pod),
            Self::Status(status) => serde_json::to_writer(&mut json, &**status),
            Self::Node(node) => serde_json::to_writer(&mut json, &**node),
            Self::Removal(removal) => serde_json::to_writer(&mut json, &**removal),
        };
        // Maps have string keys and nothing else can fail in memory.
        written.map(|()| json).unwrap_or_default()
    }

    /// Reads what is stored under `key`; `None` for a kind that is none of ours.
    ///
    /// # Errors
    /// When it is not what the key says.
    pub(crate) fn from_json(key: &str, json: &[u8]) -> serde_json::Result<Option<Self>> {
        Ok(Some(match Key::parse(key) {
            Some(Key::Pod { .. }) => Self::Pod(Arc::new(serde_json::from_slice(json)?)),
            Some(Key::PodStatus { .. }) => Self::Status(Arc::new(serde_json::from_slice(json)?)),
            Some(Key::Node { .. }) => Self::Node(Arc::new(serde_json::from_slice(json)?)),
            Some(Key::Removal { .. }) => Self::Removal(Arc::new(serde_json::from_slice(json)?)),
            Some(Key::Lease) | None => return Ok(None),
        }))
    }
}
