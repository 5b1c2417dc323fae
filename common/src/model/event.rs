use serde::{Deserialize, Serialize};

use super::{ObjectMeta, Timestamp};

/// Whether an event is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EventType {
    /// Expected.
    #[default]
    Normal,
    /// Somebody should look.
    Warning,
}

/// Something that happened, Kubernetes Event shape (core v1).
///
/// Delivered at least once: `metadata.name` is a hash of what happened, so a reader drops repeats by it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// `v1`.
    pub api_version: String,
    /// `Event`.
    pub kind: String,
    /// The name is unique to the occurrence.
    pub metadata: ObjectMeta,
    /// What it is about.
    pub involved_object: ObjectReference,
    /// One CamelCase word.
    pub reason: String,
    /// For a person.
    pub message: String,
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub kind_of: EventType,
    /// Who says so.
    pub source: EventSource,
    /// When it happened first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_timestamp: Option<Timestamp>,
    /// When it happened last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_timestamp: Option<Timestamp>,
    /// How often.
    pub count: u32,
}

/// Who reports an event.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventSource {
    /// `podbus-scheduler` or `podbus-node-agent`.
    pub component: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
}

/// Which object an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectReference {
    /// `Pod` or `Node`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `spec.containers{web}`: the part of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}
