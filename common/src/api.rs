//! Requests and replies of `podbus.api.v1.<namespace>.<resource>.<verb>`: JSON, readable with any NATS client.
//!
//! Resources: `pods` (all verbs), `nodes` (`get`, `list`, `watch` and `apply`). A refusal carries the micro service headers
//! `Nats-Service-Error` and `Nats-Service-Error-Code` and a [`Status`] as body.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{ListMeta, Timestamp};

/// Header of every message of a watch: the number of its first event. They are numbered 1, 2, 3... without gaps; events
/// that wait together come as one message, a line each.
pub const WATCH_SEQUENCE_HEADER: &str = "Podbus-Sequence";
/// A watcher publishes an empty message to [`WatchReply::control`] this often; after three misses the server ends it.
pub const WATCH_ALIVE_SECONDS: u64 = 5;
/// A list reply holds at most this many objects; [`ListMeta::continue_token`] asks for the next.
pub const LIST_PAGE_OBJECTS_MAX: usize = 500;

/// The kind of a list that `apply` takes in place of one object, as kubectl writes it.
pub const LIST_KIND: &str = "List";
/// It holds at most so many objects
pub const APPLY_OBJECTS_MAX: usize = 64;
/// of so many bytes together: told in full, with defaults and status, they are less than the 1 MiB that nats-server
/// takes by default.
pub const APPLY_BYTES_MAX: usize = 256 << 10;

/// The version of an object that is not there: who applies to it creates, and changes nothing.
pub const VERSION_OF_NOTHING: &str = "0";

/// How much is told of each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// All of it.
    #[default]
    Full,
    /// Of a pod who it is, where it is and how it is, in the shape of the whole: the name, namespace, UID and
    /// resourceVersion in `metadata`, `spec.nodeName`, `status.phase`, and type and status of each condition. Of a node
    /// all of it.
    Brief,
}

impl Detail {
    /// Whether all is told.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

/// `apply`: the object, as the user wrote it, without defaults. Or a list of them, with one answer ([`ApplyAllReply`])
/// once each is stored or refused: many objects that come together cost less so.
///
/// Of a node labels, annotations, taints and `unschedulable` may be said: what is said replaces what was, and what is not
/// said stays. All else its agent says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyRequest<Object = Value> {
    /// The object in Kubernetes' shape.
    pub object: Object,
    /// Validate and answer as if, without storing.
    #[serde(default)]
    pub dry_run: bool,
    /// Precondition: refuse when the object is not there (404) or of another version by now (409). Not for a list.
    /// [`VERSION_OF_NOTHING`]: refuse when it is there (409).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Of the object in the answer. That of a dry run is told in full: nobody has it yet.
    #[serde(default, skip_serializing_if = "Detail::is_full")]
    pub detail: Detail,
}

impl<Object> ApplyRequest<Object> {
    /// Of this object, whatever is stored.
    pub fn new(object: Object) -> Self {
        Self { object, dry_run: false, resource_version: String::new(), detail: Detail::Full }
    }
}

/// What an apply did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplyResult {
    /// It is new.
    Created,
    /// It was changed.
    Configured,
    /// It already was so.
    Unchanged,
}

/// Answer to `apply`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyReply<Object = Value> {
    /// What was done.
    pub result: ApplyResult,
    /// The object as stored.
    pub object: Object,
}

/// Several objects in place of one: `kind: List`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectList<Object = Value> {
    /// `v1`.
    pub api_version: String,
    /// [`LIST_KIND`].
    pub kind: String,
    /// In this order they are answered.
    pub items: Vec<Object>,
}

impl<Object> ObjectList<Object> {
    /// Of these objects.
    pub fn new(items: Vec<Object>) -> Self {
        Self { api_version: "v1".to_owned(), kind: LIST_KIND.to_owned(), items }
    }
}

/// Answer to `apply` of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApplyAllReply<Object = Value> {
    /// What became of each object, in the order of the list.
    pub items: Vec<ItemReply<Object>>,
}

/// What became of one object of a list: an [`ApplyReply`], or why it was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ItemReply<Object = Value> {
    /// As in [`ApplyReply`].
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub result: Option<ApplyResult>,
    /// As in [`ApplyReply`].
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub object: Option<Object>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Box<Status>>,
}

/// `get`. The answer is the object itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetRequest {
    /// The object's name.
    pub name: String,
}

/// `list`. The answer is a [`List`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListRequest {
    /// kubectl's `-l`: `a=b,c!=d,e in (f,g),h,!i`.
    pub label_selector: String,
    /// `metadata.name`, `metadata.namespace`, `spec.nodeName`, `status.phase` with `=`, `==`, `!=`.
    pub field_selector: String,
    /// From the reply before.
    #[serde(rename = "continue")]
    pub continue_token: String,
    /// Of each object.
    #[serde(skip_serializing_if = "Detail::is_full")]
    pub detail: Detail,
}

/// A list of objects in Kubernetes' shape.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<Object = Value> {
    /// `v1`.
    pub api_version: String,
    /// `PodList`, `NodeList`.
    pub kind: String,
    /// Revision and the next page.
    pub metadata: ListMeta,
    /// The objects, sorted by namespace and name.
    pub items: Vec<Object>,
}

/// `watch`. The answer is a [`WatchReply`]; then [`WatchEvent`]s are published to `inbox`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WatchRequest {
    /// Where events go.
    pub inbox: String,
    /// As in [`ListRequest`].
    pub label_selector: String,
    /// As in [`ListRequest`].
    pub field_selector: String,
    /// Begin after this revision; empty: ADDED for all that is, then go on.
    pub resource_version: String,
    /// Of each object.
    #[serde(skip_serializing_if = "Detail::is_full")]
    pub detail: Detail,
}

/// The watch is open.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WatchReply {
    /// Publish here to stay alive; the payload `stop` ends the watch.
    pub control: String,
}

/// One change, or a bookmark each second. A gap in the sequence, or 3 s of silence: watch again from the last
/// resourceVersion. `ERROR` carries a [`Status`] (410 Expired: list again).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchEvent<Object = Value> {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: WatchEventType,
    /// The object after the change; of a bookmark only its resourceVersion.
    pub object: Object,
}

/// Kinds of [`WatchEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum WatchEventType {
    /// It is there.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
    /// Nothing happened up to this revision.
    Bookmark,
    /// The watch ends.
    Error,
}

/// `delete`. The answer is the object as it is now, or a [`Status`] of success when it is gone at once.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteRequest {
    /// The object's name.
    pub name: String,
    /// Precondition: refuse (409) when the name has another UID by now.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Replaces the pod's own grace; a later delete only shortens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<u32>,
    /// Do not wait for the node: the record goes at once (kubectl's `--force --grace-period=0`).
    pub force: bool,
}

/// `explain`. The answer is an [`ExplainReply`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExplainRequest {
    /// The pod's name.
    pub name: String,
}

/// What the scheduler thinks of each node for a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainReply {
    /// Those that can take it first, the best at the top; then the others, by name.
    pub nodes: Vec<ExplainedNode>,
    /// All in one plain sentence.
    pub conclusion: String,
}

/// One node's verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExplainedNode {
    /// Its name.
    pub node: String,
    /// Why it cannot take the pod; empty: it can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refused>,
    /// Of a node that can.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<Scored>,
    /// The sum of scores times weights.
    pub total: u32,
}

/// A filter that refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// kube-scheduler's name of the filter.
    pub filter: String,
    /// Its words.
    pub reason: String,
}

/// One score.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scored {
    /// kube-scheduler's name of it.
    pub plugin: String,
    /// 0 to 100.
    pub score: u32,
    /// How much it counts.
    pub weight: u32,
}

/// `plan`: pods as a user wrote them, which are not stored. The answer is a [`PlanReply`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Objects in Kubernetes' shape.
    pub objects: Vec<Value>,
}

/// What would become of the pods, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReply {
    /// One a pod.
    pub pods: Vec<PlannedPod>,
}

/// What would become of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PlannedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name, or the prefix that one would be made from.
    pub name: String,
    /// Where it would go; empty: it would wait.
    pub node: String,
    /// `namespace/name` of pods that would be asked to leave for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preempts: Vec<String>,
    /// Why it would wait.
    pub message: String,
}

/// Kubernetes' answer to what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `v1`.
    pub api_version: String,
    /// `Status`.
    pub kind: String,
    /// `Failure` or `Success`.
    pub status: String,
    /// For a person, in kubectl's words: `pods "x" not found`.
    pub message: String,
    /// NotFound, AlreadyExists, Conflict, Invalid, Forbidden, BadRequest, Expired, ServiceUnavailable...
    pub reason: String,
    /// HTTP's number.
    pub code: u16,
    /// Seconds to wait before trying again; of ServiceUnavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

impl Status {
    /// A refusal.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            api_version: "v1".into(),
            kind: "Status".into(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            code,
            retry_after_seconds: None,
        }
    }

    /// Done.
    pub fn success(message: impl Into<String>) -> Self {
        Self { status: "Success".into(), ..Self::failure(200, "", message) }
    }
}

/// The record of the lease, `leases.scheduler`: never deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lease {
    /// Who leads.
    pub holder: String,
    /// Random per term.
    pub nonce: String,
    /// Grows with each term: max(stored + 1, unix milliseconds).
    pub epoch: u64,
    /// How long it holds without renewal.
    pub duration_ms: u64,
    /// The last 64 terms, newest last.
    pub terms: Vec<LeaseTerm>,
    /// Of the last renewal; for a person, nothing decides by it.
    pub renew_time: Option<Timestamp>,
}

/// One term of [`Lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerm {
    /// Its epoch.
    pub epoch: u64,
    /// Its nonce.
    pub nonce: String,
    /// The revision at which it began.
    pub revision: u64,
    /// A cold start: nobody had followed the store from before, so what the nodes know may be missing in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
}

/// A JSON chunk of the stream `images`: one image that the node has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageRow {
    /// `registry/repository:tag`, without those by digest.
    pub names: Vec<String>,
    /// `sha256:...`.
    pub id: String,
    /// On the node's disk.
    pub size_bytes: u64,
}

/// A JSON chunk of the stream `images`: how far a load or a pull is. The last one has all names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageProgress {
    /// Names loaded or pulled so far.
    pub names: Vec<String>,
    /// Bytes read so far.
    pub bytes: u64,
    /// Bytes in all; 0: not known.
    pub bytes_total: u64,
    /// `sha256:...`, when it is known.
    pub id: String,
}

/// A JSON chunk of the stream `stats`: what one container uses now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatsRow {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// The container.
    pub container: String,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// The working set.
    pub memory_bytes: u64,
}
