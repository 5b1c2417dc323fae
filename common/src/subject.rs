//! Every NATS subject and KV key of podbus: built here and nowhere else.
//!
//! Subjects are lower case and dot-separated. A dot inside a name would be a token border, so [`token`] writes it
//! as `_`, which no Kubernetes name contains. KV keys keep the dot: their last part is the name, whole.

use std::borrow::Cow;
use std::fmt;

/// The KV bucket that holds the cluster.
pub const BUCKET: &str = "podbus";
/// The JetStream stream behind [`BUCKET`] (ADR-8 names it so).
pub const BUCKET_STREAM: &str = "KV_podbus";
/// The JetStream stream that keeps events.
pub const EVENTS_STREAM: &str = "PODBUS_EVENTS";
/// What [`EVENTS_STREAM`] stores.
pub const EVENTS_ALL: &str = "podbus.events.>";
/// The key of the leader's lease.
pub const LEASE_KEY: &str = "leases.scheduler";
/// Every request of the API: what the leader subscribes to.
pub const API_ALL: &str = "podbus.api.v1.>";
/// All status requests: what the leader subscribes to.
pub const STATUS_ALL: &str = "podbus.status.*";
/// All heartbeats: what the leader subscribes to.
pub const HEARTBEAT_ALL: &str = "podbus.node.*.heartbeat";
/// All sync requests: what the leader subscribes to.
pub const SYNC_ALL: &str = "podbus.node.*.sync";
/// Answers go to subjects that begin with this, and nowhere else.
pub const INBOX: &str = "_INBOX.";
/// Stands for "no namespace" or "all namespaces" in a subject.
pub const ANY: &str = "_";
/// Node events live in this namespace, as in Kubernetes.
pub const NODE_EVENTS_NAMESPACE: &str = "default";

/// Whether an answer may go there: who asks could else have the answerer, who may publish what the asker may not,
/// write to the store or to a node.
pub fn is_inbox(subject: &str) -> bool {
    subject.strip_prefix(INBOX).is_some_and(|rest| !rest.is_empty())
}

/// A name as one token of a subject: its dots become `_`.
pub fn token(name: &str) -> Cow<'_, str> {
    if name.contains('.') { name.replace('.', "_").into() } else { name.into() }
}

/// What can be asked of the API. `Display` gives the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Create or update an object.
    Apply,
    /// Read one object.
    Get,
    /// Read all objects of a namespace, or of all.
    List,
    /// Follow changes.
    Watch,
    /// Delete one object.
    Delete,
    /// Say what each node thinks of a pod.
    Explain,
    /// Say what would become of pods.
    Plan,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] =
        [Self::Apply, Self::Get, Self::List, Self::Watch, Self::Delete, Self::Explain, Self::Plan];

    /// The token in a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Delete => "delete",
            Self::Explain => "explain",
            Self::Plan => "plan",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `podbus.api.v1.<namespace>.<resource>.<verb>`; `None` is written `_`: no namespace, or all.
pub fn api(namespace: Option<&str>, resource: &str, verb: Verb) -> String {
    ["podbus.api.v1.", &namespace.map_or(ANY.into(), token), ".", resource, ".", verb.as_str()].concat()
}

/// An API subject taken apart again: namespace (`None` for `_`), resource, verb.
pub fn parse_api(subject: &str) -> Option<(Option<&str>, &str, Verb)> {
    let mut tokens = subject.strip_prefix("podbus.api.v1.")?.split('.');
    let (namespace, resource, verb) = (tokens.next()?, tokens.next()?, tokens.next()?);
    let verb = Verb::ALL.into_iter().find(|v| v.as_str() == verb)?;
    if tokens.next().is_some() {
        return None;
    }
    Some(((namespace != ANY).then_some(namespace), resource, verb))
}

/// Assignments to a node: `podbus.node.<node>.assign`.
pub fn assign(node: &str) -> String {
    ["podbus.node.", &token(node), ".assign"].concat()
}

/// Registration and sync of a node: `podbus.node.<node>.sync`.
pub fn sync(node: &str) -> String {
    ["podbus.node.", &token(node), ".sync"].concat()
}

/// Heartbeats of a node: `podbus.node.<node>.heartbeat`.
pub fn heartbeat(node: &str) -> String {
    ["podbus.node.", &token(node), ".heartbeat"].concat()
}

/// Status batches of a node: `podbus.status.<node>`.
pub fn status(node: &str) -> String {
    ["podbus.status.", &token(node)].concat()
}

/// Images of a node: `podbus.node.<node>._.images`.
pub fn images(node: &str) -> String {
    ["podbus.node.", &token(node), ".", ANY, ".images"].concat()
}

/// What a client may open at a node about a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodStream {
    /// Log lines.
    Logs,
    /// A command inside a container.
    Exec,
    /// The first process of a container.
    Attach,
    /// Connections to ports inside a pod.
    PortForward,
    /// CPU and memory now.
    Stats,
}

impl PodStream {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Logs, Self::Exec, Self::Attach, Self::PortForward, Self::Stats];

    /// The token in a subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Stats => "stats",
        }
    }
}

/// `podbus.node.<node>.<namespace>.<logs|exec|attach|portforward|stats>`: the agent compares the namespace with the pod's.
pub fn pod_stream(node: &str, namespace: &str, kind: PodStream) -> String {
    ["podbus.node.", &token(node), ".", &token(namespace), ".", kind.as_str()].concat()
}

/// What an agent subscribes to for one kind of stream: any namespace.
pub fn pod_stream_all(node: &str, kind: PodStream) -> String {
    ["podbus.node.", &token(node), ".*.", kind.as_str()].concat()
}

/// `podbus.events.<namespace>.<object>.<Reason>`.
pub fn event(namespace: &str, object: &str, reason: &str) -> String {
    ["podbus.events.", &token(namespace), ".", &token(object), ".", reason].concat()
}

/// The events of one namespace, or of all.
pub fn events_of(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| EVENTS_ALL.to_owned(), |n| ["podbus.events.", &token(n), ".>"].concat())
}

/// KV: what was asked of a pod.
pub fn pod_key(namespace: &str, name: &str) -> String {
    ["pods.", namespace, ".", name].concat()
}

/// KV: what a pod is.
pub fn pod_status_key(namespace: &str, name: &str) -> String {
    ["podstatus.", namespace, ".", name].concat()
}

/// KV: what an absent node must still remove.
pub fn removal_key(node: &str, uid: &str) -> String {
    ["removals.", node, ".", uid].concat()
}

/// KV: a node.
pub fn node_key(node: &str) -> String {
    ["nodes.", node].concat()
}

/// A KV key taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant's doc shows its fields")]
pub enum Key<'a> {
    /// `pods.<namespace>.<name>`
    Pod { namespace: &'a str, name: &'a str },
    /// `podstatus.<namespace>.<name>`
    PodStatus { namespace: &'a str, name: &'a str },
    /// `removals.<node>.<uid>`
    Removal { node: &'a str, uid: &'a str },
    /// `nodes.<node>`
    Node { name: &'a str },
    /// `leases.scheduler`
    Lease,
}

impl<'a> Key<'a> {
    /// Reads a key; `None` for a kind that this version does not know.
    pub fn parse(key: &'a str) -> Option<Self> {
        let (kind, rest) = key.split_once('.')?;
        match kind {
            "pods" => rest.split_once('.').map(|(namespace, name)| Key::Pod { namespace, name }),
            "podstatus" => rest.split_once('.').map(|(namespace, name)| Key::PodStatus { namespace, name }),
            // A node's name may hold dots, a UID holds none.
            "removals" => rest.rsplit_once('.').map(|(node, uid)| Key::Removal { node, uid }),
            "nodes" => Some(Key::Node { name: rest }),
            "leases" => (rest == "scheduler").then_some(Key::Lease),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_a_name_is_never_a_token_border_of_a_subject() {
        assert_eq!(event("default", "web.v1", "Started"), "podbus.events.default.web_v1.Started");
        assert_eq!(assign("node.example"), "podbus.node.node_example.assign");
    }

    #[test]
    fn an_answer_goes_to_inboxes_alone() {
        assert!(is_inbox("_INBOX.UABC.x.1"));
        for other in ["", "_INBOX", "_INBOX.", "$KV.podbus.pods.default.web", "podbus.node.node-1.assign"] {
            assert!(!is_inbox(other), "{other}");
        }
    }

    #[test]
    fn an_api_subject_reads_back_as_what_it_was_built_from() {
        for verb in Verb::ALL {
            for namespace in [None, Some("team-a")] {
                assert_eq!(parse_api(&api(namespace, "pods", verb)), Some((namespace, "pods", verb)));
            }
        }
        for bad in ["podbus.api.v1.default.pods", "podbus.api.v1.default.pods.fly", "podbus.api.v1.a.b.get.c"] {
            assert_eq!(parse_api(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_key_reads_back_as_what_it_was_built_from() {
        assert_eq!(Key::parse(&pod_key("default", "web.v1")), Some(Key::Pod { namespace: "default", name: "web.v1" }));
        assert_eq!(Key::parse(&removal_key("a.b", "u-1")), Some(Key::Removal { node: "a.b", uid: "u-1" }));
        assert_eq!(Key::parse(&node_key("a.b")), Some(Key::Node { name: "a.b" }));
        assert_eq!(Key::parse(LEASE_KEY), Some(Key::Lease));
        assert_eq!(Key::parse("widgets.a.b"), None);
    }
}
