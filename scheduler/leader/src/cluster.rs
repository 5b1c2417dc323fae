//! What is stored, as acknowledged: the leader's memory. Pure.
//!
//! [`Cluster::apply`] is the only way in, for what is read at the start and for what was written: so memory is what a
//! restart would read.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, hash_map};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

use foldhash::{HashMap, HashSet};
use podbus_common::model::{Node, Pod, PodPhase, PodStatus};
use podbus_common::subject::{self, Key};
use podbus_common::{digest, fold};
use serde::Serialize;

use crate::kept::{KeptPod, KeptStatus, PodJson, PodTemplate, Templates};
use crate::record::{NodeRecord, Record, RemovalRecord, StatusRecord};

const POD_SCHEDULED: &str = "PodScheduled";

/// A pod's name within the cluster. Copies share its text.
#[derive(Debug, Clone, Eq)]
pub struct PodName {
    /// Where the name means something.
    pub namespace: Arc<str>,
    /// Within it.
    pub name: Arc<str>,
}

// By hand, because names are compared all the time: shared text is equal without a look at it, and what differs most
// comes first.
impl PartialEq for PodName {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<str>, b: &Arc<str>| Arc::ptr_eq(a, b) || a == b;
        same(&self.name, &other.name) && same(&self.namespace, &other.namespace)
    }
}

impl Hash for PodName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.namespace.hash(state);
        self.name.hash(state);
    }
}

impl Ord for PodName {
    fn cmp(&self, other: &Self) -> Ordering {
        let compare = |a: &Arc<str>, b: &Arc<str>| if Arc::ptr_eq(a, b) { Ordering::Equal } else { a.cmp(b) };
        compare(&self.namespace, &other.namespace).then_with(|| compare(&self.name, &other.name))
    }
}

impl PartialOrd for PodName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PodName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        Self::new(pod.metadata.namespace.as_str(), pod.metadata.name.as_str())
    }

    pub(crate) fn key(&self) -> String {
        subject::pod_key(&self.namespace, &self.name)
    }

    pub(crate) fn status_key(&self) -> String {
        subject::pod_status_key(&self.namespace, &self.name)
    }
}

/// Everything that is stored.
#[derive(Debug, Default)]
pub struct Cluster {
    /// By name: each decision looks here several times.
    pods: HashMap<PodName, Entry>,
    /// The keys of `pods`, in order.
    names: BTreeSet<PodName>,
    /// By name: each message of a node looks here several times.
    nodes: HashMap<Arc<str>, Arc<NodeRecord>>,
    /// The keys of `nodes`, in order.
    node_names: BTreeSet<Arc<str>>,
    /// By node, then UID.
    removals: BTreeMap<String, BTreeMap<String, Arc<RemovalRecord>>>,
    /// Names whose status speaks of no pod that is there.
    orphans: BTreeSet<PodName>,
    by_uid: HashMap<Arc<str>, PodName>,
    /// Bound pods.
    by_node: HashMap<Arc<str>, OnNode>,
    /// Of each other key's last message, markers of purged keys too: what the next write of the key expects.
    revisions: HashMap<String, u64>,
    /// Keys that end in a marker.
    purged: BTreeMap<u64, String>,
    revision: u64,
    /// Texts that many share: namespaces, nodes and their addresses.
    texts: HashSet<Arc<str>>,
    pod_templates: Templates<PodTemplate>,
    status_templates: Templates<PodStatus>,
}

/// Both keys of a pod. A revision is that of the key's last message, also of a marker; 0: there is none.
#[derive(Debug, Default)]
struct Entry {
    pod: Option<Arc<KeptPod>>,
    pod_revision: u64,
    status: Option<Arc<KeptStatus>>,
    status_revision: u64,
}

impl Entry {
    /// The status of the pod that has the name now.
    fn status(&self) -> Option<&Arc<KeptStatus>> {
        let uid = &self.pod.as_ref()?.uid;
        self.status.as_ref().filter(|status| status.uid == *uid)
    }

    fn is_empty(&self) -> bool {
        (self.pod_revision, self.status_revision) == (0, 0)
    }
}

/// The pods that are bound to a node.
#[derive(Debug, Default)]
struct OnNode {
    pods: BTreeMap<PodName, Arc<KeptPod>>,
    /// Of what the node should hold: each heartbeat asks for it.
    digest: OnceLock<[u8; 32]>,
}

impl Cluster {
    /// Takes in that `key` is `record` (`None`: gone) since `revision`; 0: not even a marker is left of it.
    pub(crate) fn apply(&mut self, key: &str, record: Option<Record>, revision: u64) {
        let gone = record.is_none();
        self.revision = self.revision.max(revision);
        match (Key::parse(key), record) {
            (Some(Key::Pod { namespace, name }), record) => {
                let name = self.name(namespace, name);
                self.forget_pod(&name);
                if let Some(Record::Pod(pod)) = record {
                    self.keep_pod(&name, pod);
                }
                self.set_revision(&name, revision, |entry| &mut entry.pod_revision);
                self.note_orphan(&name);
            }
            (Some(Key::PodStatus { namespace, name }), record) => {
                let name = self.name(namespace, name);
                let status = match record {
                    Some(Record::Status(status)) => Some(self.kept_status(&name, status)),
                    _ => None,
                };
                self.entry_mut(&name).status = status;
                self.set_revision(&name, revision, |entry| &mut entry.status_revision);
                self.note_orphan(&name);
            }
            (other, record) => {
                let before = match revision {
                    0 => self.revisions.remove(key),
                    revision => self.revisions.insert(key.to_owned(), revision),
                };
                if let Some(before) = before {
                    self.purged.remove(&before);
                }
                self.apply_other(other.as_ref(), record);
            }
        }
        if gone && revision > 0 {
            self.purged.insert(revision, key.to_owned());
        }
    }

    fn apply_other(&mut self, key: Option<&Key<'_>>, record: Option<Record>) {
        match (key, record) {
            (Some(Key::Node { name }), Some(Record::Node(node))) => {
                let name: Arc<str> = (*name).into();
                self.node_names.insert(Arc::clone(&name));
                self.nodes.insert(name, node);
            }
            (Some(Key::Node { name }), _) => {
                self.nodes.remove(*name);
                self.node_names.remove(*name);
            }
            (Some(Key::Removal { node, uid }), Some(Record::Removal(removal))) => {
                self.removals.entry((*node).to_owned()).or_default().insert((*uid).to_owned(), removal);
            }
            (Some(Key::Removal { node, uid }), _) => {
                if let Some(of_node) = self.removals.get_mut(*node) {
                    of_node.remove(*uid);
                }
            }
            _ => {}
        }
    }

    /// The name, with what is kept of it already.
    fn name(&mut self, namespace: &str, name: &str) -> PodName {
        let name = PodName::new(self.text(namespace), name);
        self.pods.get_key_value(&name).map_or(name, |(there, _)| there.clone())
    }

    /// A text that many share.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(there) = self.texts.get(text) {
            return Arc::clone(there);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// The entry of a name, which is new where nothing was known of it.
    fn entry_mut(&mut self, name: &PodName) -> &mut Entry {
        match self.pods.entry(name.clone()) {
            hash_map::Entry::Occupied(there) => there.into_mut(),
            hash_map::Entry::Vacant(free) => {
                self.names.insert(name.clone());
                free.insert(Entry::default())
            }
        }
    }

    fn set_revision(&mut self, name: &PodName, revision: u64, of: impl Fn(&mut Entry) -> &mut u64) {
        let entry = self.entry_mut(name);
        let before = std::mem::replace(of(entry), revision);
        if entry.is_empty() {
            self.pods.remove(name);
            self.names.remove(name);
        }
        self.purged.remove(&before);
    }

    fn note_orphan(&mut self, name: &PodName) {
        if self.entry(name).is_some_and(|entry| entry.status.is_some() && entry.status().is_none()) {
            self.orphans.insert(name.clone());
        } else {
            self.orphans.remove(name);
        }
    }

    fn forget_pod(&mut self, name: &PodName) {
        let Some(pod) = self.pods.get_mut(name).and_then(|entry| entry.pod.take()) else { return };
        self.by_uid.remove(&pod.uid);
        if let Some(on_node) = self.by_node.get_mut(pod.node()) {
            on_node.pods.remove(name);
            on_node.digest.take();
        }
    }

    fn keep_pod(&mut self, name: &PodName, pod: Arc<Pod>) {
        let node = self.text(&pod.spec.node_name);
        let pod = Arc::new(KeptPod::new(pod, Arc::clone(&node), &mut self.pod_templates));
        self.by_uid.insert(Arc::clone(&pod.uid), name.clone());
        if !node.is_empty() {
            let on_node = self.by_node.entry(node).or_default();
            on_node.pods.insert(name.clone(), Arc::clone(&pod));
            on_node.digest.take();
        }
        self.entry_mut(name).pod = Some(pod);
    }

    fn kept_status(&mut self, name: &PodName, status: Arc<StatusRecord>) -> Arc<KeptStatus> {
        let host_ip = self.text(&status.status.host_ip);
        let pod = self.pods.get(name).and_then(|entry| entry.pod.as_ref());
        Arc::new(KeptStatus::new(status, pod.map(|pod| &pod.uid), host_ip, &mut self.status_templates))
    }

    /// A marker of a purged key was removed from the store.
    pub(crate) fn forget_marker(&mut self, key: &str, revision: u64) {
        if self.revision_of(key) == revision && !self.holds(key) {
            self.apply(key, None, 0);
        }
        self.purged.remove(&revision);
    }
}

// === What is there ===

impl Cluster {
    fn entry(&self, name: &PodName) -> Option<&Entry> {
        self.pods.get(name)
    }

    /// The pod of this name.
    pub fn pod(&self, name: &PodName) -> Option<Arc<Pod>> {
        self.kept(name).map(|kept| Arc::new(kept.pod(name)))
    }

    /// The pod of this name, as it is kept.
    pub(crate) fn kept(&self, name: &PodName) -> Option<&Arc<KeptPod>> {
        self.entry(name)?.pod.as_ref()
    }

    /// The name of the pod with this UID.
    pub fn name_of(&self, uid: &str) -> Option<&PodName> {
        self.by_uid.get(uid)
    }

    /// All pods, by name.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&PodName, &Arc<KeptPod>)> {
        self.names.iter().filter_map(|name| Some((name, self.kept(name)?)))
    }

    /// Pods that come after `name`, in order.
    pub(crate) fn pods_after<'a>(&'a self, name: Option<&PodName>) -> impl Iterator<Item = &'a PodName> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = name.map_or(Unbounded, |name| Excluded(name.clone()));
        self.names.range((from, Unbounded)).filter(|name| self.kept(name).is_some())
    }

    /// The pods that are bound to a node.
    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = (&PodName, &Arc<KeptPod>)> {
        self.by_node.get(node).into_iter().flat_map(|on_node| &on_node.pods)
    }

    /// Of what a node should hold.
    pub(crate) fn digest_of(&self, node: &str) -> [u8; 32] {
        let digest = || {
            digest::desired_set(self.pods_on(node).map(|(_, pod)| (&*pod.uid, pod.generation, pod.is_terminating())))
        };
        self.by_node.get(node).map_or_else(digest, |on_node| *on_node.digest.get_or_init(digest))
    }

    /// How many pods there are.
    pub fn pods_len(&self) -> usize {
        self.by_uid.len()
    }

    /// The status of the pod that has the name now.
    pub fn status(&self, name: &PodName) -> Option<Arc<StatusRecord>> {
        self.kept_status_of(name).map(|status| Arc::new(status.record()))
    }

    /// The status of the pod that has the name now, as it is kept.
    pub(crate) fn kept_status_of(&self, name: &PodName) -> Option<&Arc<KeptStatus>> {
        self.entry(name)?.status()
    }

    /// Statuses whose pod is gone: garbage, once everything is read.
    pub(crate) fn orphaned_statuses(&self) -> impl Iterator<Item = &PodName> {
        self.orphans.iter()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Arc<NodeRecord>)> {
        self.node_names.iter().filter_map(|name| Some((&**name, self.node(name)?)))
    }

    /// How many nodes there are.
    pub fn nodes_len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn removal(&self, node: &str, uid: &str) -> Option<&Arc<RemovalRecord>> {
        self.removals.get(node)?.get(uid)
    }

    /// Whether a node must still remove something.
    pub(crate) fn owes_removal(&self, node: &str) -> bool {
        self.removals.get(node).is_some_and(|of_node| !of_node.is_empty())
    }

    /// All that absent nodes must still remove.
    pub fn removals(&self) -> impl Iterator<Item = &Arc<RemovalRecord>> {
        self.removals.values().flat_map(BTreeMap::values)
    }

    /// What the next write of `key` expects; 0: it never was.
    pub(crate) fn revision_of(&self, key: &str) -> u64 {
        match Key::parse(key) {
            Some(Key::Pod { namespace, name }) => {
                self.entry(&PodName::new(namespace, name)).map_or(0, |entry| entry.pod_revision)
            }
            Some(Key::PodStatus { namespace, name }) => {
                self.entry(&PodName::new(namespace, name)).map_or(0, |entry| entry.status_revision)
            }
            _ => self.revisions.get(key).copied().unwrap_or(0),
        }
    }

    /// What the next write of a pod expects; 0: it never was.
    pub(crate) fn pod_revision(&self, name: &PodName) -> u64 {
        self.entry(name).map_or(0, |entry| entry.pod_revision)
    }

    /// Whether `key` has a value.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.is_value(self.revision_of(key))
    }

    /// Whether `revision`, which is that of a key's last message, is that of a value.
    pub(crate) fn is_value(&self, revision: u64) -> bool {
        revision > 0 && !self.purged.contains_key(&revision)
    }

    /// All that has a value, by key.
    pub(crate) fn records(&self) -> impl Iterator<Item = (String, Record)> {
        let pods = self.pods().map(|(name, pod)| (name.key(), Record::Pod(Arc::new(pod.pod(name)))));
        let statuses = self.names.iter().filter_map(|name| {
            let status = self.entry(name)?.status.as_ref()?;
            Some((name.status_key(), Record::Status(Arc::new(status.record()))))
        });
        let nodes = self.nodes().map(|(name, node)| (subject::node_key(name), Record::Node(Arc::clone(node))));
        let removals = self
            .removals()
            .map(|removal| (subject::removal_key(&removal.node, &removal.uid), Record::Removal(Arc::clone(removal))));
        pods.chain(statuses).chain(nodes).chain(removals)
    }

    /// Whether it is the UID of a pod that has no node.
    pub(crate) fn waits(&self, uid: &str) -> bool {
        self.name_of(uid).and_then(|name| self.kept(name)).is_some_and(|pod| pod.node().is_empty())
    }

    /// The value of a key.
    pub(crate) fn record(&self, key: &str) -> Option<Record> {
        match Key::parse(key)? {
            Key::Pod { namespace, name } => self.pod(&PodName::new(namespace, name)).map(Record::Pod),
            Key::PodStatus { namespace, name } => {
                let status = self.entry(&PodName::new(namespace, name))?.status.as_ref()?;
                Some(Record::Status(Arc::new(status.record())))
            }
            Key::Node { name } => self.nodes.get(name).cloned().map(Record::Node),
            Key::Removal { node, uid } => self.removal(node, uid).cloned().map(Record::Removal),
            Key::Lease => None,
        }
    }

    /// The highest revision that was taken in.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Markers of purged keys up to `revision`, oldest first.
    pub(crate) fn markers_until(&self, revision: u64) -> impl Iterator<Item = (u64, &String)> {
        self.purged.range(..=revision).map(|(revision, key)| (*revision, key))
    }
}

// === What is shown ===

impl Cluster {
    /// A pod as it is now, without a copy of it.
    pub(crate) fn seen_pod(&self, name: &PodName) -> Option<SeenPod> {
        let (name, entry) = self.pods.get_key_value(name)?;
        let pod = Arc::clone(entry.pod.as_ref()?);
        let status = entry.status().cloned();
        let status_revision = status.as_ref().map_or(0, |_| entry.status_revision);
        Some(SeenPod { name: name.clone(), pod, status, revision: entry.pod_revision.max(status_revision) })
    }

    /// A node as a client sees it.
    pub(crate) fn shown_node(&self, name: &str) -> Option<Node> {
        let mut node = self.nodes.get(name)?.node.clone();
        node.metadata.resource_version = self.revision_of(&subject::node_key(name)).to_string();
        Some(node)
    }
}

/// A pod at one moment: what it shares with the memory of that moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeenPod {
    pub(crate) name: PodName,
    pub(crate) pod: Arc<KeptPod>,
    pub(crate) status: Option<Arc<KeptStatus>>,
    /// The higher of its two keys'.
    pub(crate) revision: u64,
}

impl SeenPod {
    /// As a client sees it: intent and status, under the higher of their revisions.
    pub(crate) fn shown(&self) -> PodJson<'_> {
        let mut shown = self.pod.json(&self.name);
        shown.metadata.resource_version = self.revision.to_string();
        shown.status = Some(self.shown_status());
        shown
    }

    /// Who and where it is and how it is, as a client sees it that wants no more.
    pub(crate) fn brief(&self) -> BriefPod<'_> {
        let status = match &self.status {
            Some(status) if self.pod.node().is_empty() || is_scheduled(status.template()) => {
                let conditions = status.template().conditions.iter();
                let conditions = conditions.map(|c| BriefCondition { kind: &c.kind, status: &c.status });
                BriefStatus { phase: status.phase(), conditions: conditions.collect() }
            }
            // It follows from the binding.
            status => {
                let of_status = status.iter().flat_map(|status| &status.template().conditions);
                let conditions = of_status.filter(|c| c.kind != POD_SCHEDULED);
                let conditions = conditions.map(|c| BriefCondition { kind: &c.kind, status: &c.status });
                let said = if !self.pod.node().is_empty() {
                    Some("True")
                } else {
                    (!self.pod.template().spec.scheduling_gates.is_empty()).then_some("False")
                };
                let scheduled = said.map(|status| BriefCondition { kind: POD_SCHEDULED, status });
                BriefStatus { phase: self.phase(), conditions: conditions.chain(scheduled).collect() }
            }
        };
        let metadata = BriefMetadata {
            name: &self.name.name,
            namespace: &self.name.namespace,
            uid: &self.pod.uid,
            resource_version: self.revision.to_string(),
        };
        let spec = BriefSpec { node_name: self.pod.node() };
        BriefPod { api_version: "v1", kind: "Pod", metadata, spec, status }
    }

    /// As `status.phase` says.
    pub(crate) fn phase(&self) -> PodPhase {
        self.status.as_ref().map_or(PodPhase::Pending, |status| status.phase())
    }

    /// The status before any report is what follows from the binding: it costs no write of its own.
    fn shown_status(&self) -> PodStatus {
        let status = self.status.as_ref().map(|status| status.record().status);
        let pod = || self.pod.pod(&self.name);
        let born = self.pod.created().unwrap_or_default();
        match (status, self.pod.node().is_empty()) {
            (Some(status), false) if !is_scheduled(&status) => fold::bound(&pod(), Some(&status), born),
            (Some(status), _) => status,
            (None, false) => fold::bound(&pod(), None, born),
            (None, true) => fold::unbound(&pod()),
        }
    }
}

fn is_scheduled(status: &PodStatus) -> bool {
    status.conditions.iter().any(|c| c.kind == POD_SCHEDULED && c.status == "True")
}

/// A pod as [`Detail::Brief`](podbus_common::api::Detail::Brief) has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BriefPod<'a> {
    api_version: &'static str,
    kind: &'static str,
    pub(crate) metadata: BriefMetadata<'a>,
    spec: BriefSpec<'a>,
    status: BriefStatus<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BriefMetadata<'a> {
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    pub(crate) resource_version: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BriefSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    node_name: &'a str,
}

#[derive(Debug, Serialize)]
struct BriefStatus<'a> {
    phase: PodPhase,
    conditions: Vec<BriefCondition<'a>>,
}

#[derive(Debug, Serialize)]
struct BriefCondition<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    status: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, node: &str) -> Option<Record> {
        let json = json!({"metadata": {"namespace": "default", "name": "web", "uid": uid}, "spec": {"nodeName": node}});
        Some(Record::Pod(Arc::new(serde_json::from_value(json).unwrap())))
    }

    fn status(uid: &str) -> Option<Record> {
        Some(Record::Status(Arc::new(StatusRecord { uid: uid.into(), sequence: 1, ..Default::default() })))
    }

    #[test]
    fn a_status_of_another_uid_is_no_status() {
        let (mut cluster, name) = (Cluster::default(), PodName::new("default", "web"));
        cluster.apply("podstatus.default.web", status("old"), 1);
        cluster.apply("pods.default.web", pod("new", ""), 2);
        assert!(cluster.status(&name).is_none());
        assert_eq!(cluster.orphaned_statuses().count(), 1);
        assert_eq!(cluster.seen_pod(&name).unwrap().revision, 2);
        cluster.apply("podstatus.default.web", status("new"), 3);
        assert_eq!(cluster.seen_pod(&name).unwrap().revision, 3);
    }

    #[test]
    fn a_brief_pod_says_of_each_of_its_fields_what_the_whole_says() {
        let reported = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": "r"}]});
        let gates = json!([{"name": "wait"}]);
        for (node, gates, status) in [
            ("node-1", json!([]), None),
            ("", json!([]), None),
            ("", gates, None),
            ("node-1", json!([]), Some(&reported)),
            ("", json!([]), Some(&reported)),
        ] {
            let metadata = json!({"namespace": "default", "name": "web", "uid": "u", "labels": {"a": "b"}});
            let pod = json!({"metadata": metadata, "spec": {"nodeName": node, "schedulingGates": gates}});
            let (mut cluster, name) = (Cluster::default(), PodName::new("default", "web"));
            let record = Record::Pod(Arc::new(serde_json::from_value(pod).unwrap()));
            cluster.apply("pods.default.web", Some(record), 1);
            if let Some(status) = status {
                let record = serde_json::from_value(json!({"uid": "u", "status": status})).unwrap();
                cluster.apply("podstatus.default.web", Some(Record::Status(Arc::new(record))), 2);
            }
            let seen = cluster.seen_pod(&name).unwrap();
            let brief = serde_json::to_value(seen.brief()).unwrap();
            let full = serde_json::to_value(seen.shown()).unwrap();
            for path in ["/apiVersion", "/kind", "/metadata/uid", "/metadata/resourceVersion", "/status/phase"] {
                assert_eq!(brief.pointer(path), full.pointer(path), "{path}");
            }
            let told = |pod: &serde_json::Value| {
                let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let conditions = conditions.iter().map(|c| (c["type"].to_string(), c["status"].to_string()));
                (node, conditions.collect::<BTreeSet<_>>())
            };
            assert_eq!(told(&brief), told(&full));
            assert!(brief["metadata"].get("labels").is_none());
        }
    }

    #[test]
    fn a_replaced_pod_leaves_its_node_and_its_uid() {
        let mut cluster = Cluster::default();
        cluster.apply("pods.default.web", pod("a", "node-1"), 1);
        cluster.apply("pods.default.web", pod("b", "node-2"), 2);
        assert!(cluster.name_of("a").is_none());
        assert_eq!(cluster.pods_on("node-1").count(), 0);
        assert_eq!(cluster.pods_on("node-2").count(), 1);
    }

    #[test]
    fn a_purged_key_is_created_again_on_top_of_its_marker() {
        let mut cluster = Cluster::default();
        cluster.apply("pods.default.web", pod("a", ""), 1);
        cluster.apply("pods.default.web", None, 2);
        assert_eq!(cluster.revision_of("pods.default.web"), 2);
        assert_eq!(cluster.markers_until(9).count(), 1);
        cluster.forget_marker("pods.default.web", 2);
        assert_eq!(cluster.revision_of("pods.default.web"), 0);
    }
}
