//! What is stored, as acknowledged: the leader's memory. Pure.
//!
//! [`Cluster::apply`] is the only way in, for what is read at the start and for what was written: so memory is what a
//! restart would read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podbus_common::fold;
use podbus_common::model::{Node, Pod, PodPhase, PodStatus};
use podbus_common::subject::{self, Key};

use crate::record::{NodeRecord, Record, RemovalRecord, StatusRecord};
use crate::writing::Stored;

/// A pod's name within the cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Where the name means something.
    pub namespace: String,
    /// Within it.
    pub name: String,
}

impl PodName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        Self::new(&pod.metadata.namespace, &pod.metadata.name)
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
    pods: BTreeMap<PodName, Arc<Pod>>,
    statuses: HashMap<PodName, Arc<StatusRecord>>,
    nodes: BTreeMap<String, Arc<NodeRecord>>,
    /// By node, then UID.
    removals: BTreeMap<String, BTreeMap<String, Arc<RemovalRecord>>>,
    by_uid: HashMap<String, PodName>,
    /// Bound pods.
    by_node: HashMap<String, BTreeSet<PodName>>,
    /// Of each key's last message, markers of purged keys too: what the next write of the key expects.
    revisions: HashMap<String, u64>,
    /// Keys that end in a marker.
    purged: BTreeMap<u64, String>,
    revision: u64,
}

impl Cluster {
    /// Takes in what was read from the store.
    pub fn take_in(&mut self, key: &str, stored: &Stored) {
        match stored.value.as_ref().map(|json| Record::from_json(key, json)).transpose() {
            // The lease, or a kind of a later version.
            Ok(Some(None)) => {}
            Ok(record) => self.apply(key, record.flatten(), stored.revision),
            // A person wrote it: better one object missing than no scheduler.
            Err(error) => tracing::error!(key, %error, "this key cannot be read and is left alone"),
        }
    }

    /// Takes in that `key` is `record` (`None`: gone) since `revision`.
    pub fn apply(&mut self, key: &str, record: Option<Record>, revision: u64) {
        if let Some(before) = self.revisions.insert(key.to_owned(), revision) {
            self.purged.remove(&before);
        }
        if record.is_none() {
            self.purged.insert(revision, key.to_owned());
        }
        if revision == 0 {
            // Not even a marker is left of it.
            self.forget_marker(key, 0);
        }
        self.revision = self.revision.max(revision);
        match (Key::parse(key), record) {
            (Some(Key::Pod { namespace, name }), record) => {
                let name = PodName::new(namespace, name);
                self.forget_pod(&name);
                if let Some(Record::Pod(pod)) = record {
                    self.keep_pod(name, pod);
                }
            }
            (Some(Key::PodStatus { namespace, name }), Some(Record::Status(status))) => {
                self.statuses.insert(PodName::new(namespace, name), status);
            }
            (Some(Key::PodStatus { namespace, name }), _) => {
                self.statuses.remove(&PodName::new(namespace, name));
            }
            (Some(Key::Node { name }), Some(Record::Node(node))) => {
                self.nodes.insert(name.to_owned(), node);
            }
            (Some(Key::Node { name }), _) => {
                self.nodes.remove(name);
            }
            (Some(Key::Removal { node, uid }), Some(Record::Removal(removal))) => {
                self.removals.entry(node.to_owned()).or_default().insert(uid.to_owned(), removal);
            }
            (Some(Key::Removal { node, uid }), _) => {
                if let Some(of_node) = self.removals.get_mut(node) {
                    of_node.remove(uid);
                }
            }
            (Some(Key::Lease) | None, _) => {}
        }
    }

    fn forget_pod(&mut self, name: &PodName) {
        let Some(pod) = self.pods.remove(name) else { return };
        self.by_uid.remove(&pod.metadata.uid);
        if let Some(of_node) = self.by_node.get_mut(&pod.spec.node_name) {
            of_node.remove(name);
        }
    }

    fn keep_pod(&mut self, name: PodName, pod: Arc<Pod>) {
        self.by_uid.insert(pod.metadata.uid.clone(), name.clone());
        if !pod.spec.node_name.is_empty() {
            self.by_node.entry(pod.spec.node_name.clone()).or_default().insert(name.clone());
        }
        self.pods.insert(name, pod);
    }

    /// A marker of a purged key was removed from the store.
    pub(crate) fn forget_marker(&mut self, key: &str, revision: u64) {
        if self.revisions.get(key) == Some(&revision) {
            self.revisions.remove(key);
        }
        self.purged.remove(&revision);
    }
}

// === What is there ===

impl Cluster {
    /// The pod of this name.
    pub fn pod(&self, name: &PodName) -> Option<&Arc<Pod>> {
        self.pods.get(name)
    }

    /// The name of the pod with this UID.
    pub fn name_of(&self, uid: &str) -> Option<&PodName> {
        self.by_uid.get(uid)
    }

    /// All pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = (&PodName, &Arc<Pod>)> {
        self.pods.iter()
    }

    /// Pods that come after `name`, in order.
    pub(crate) fn pods_after<'a>(&'a self, name: Option<&PodName>) -> impl Iterator<Item = &'a PodName> + use<'a> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = name.map_or(Unbounded, |name| Excluded(name.clone()));
        self.pods.range((from, Unbounded)).map(|(name, _)| name)
    }

    /// The pods that are bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.by_node.get(node).into_iter().flatten().filter_map(|name| self.pods.get(name))
    }

    /// How many pods there are.
    pub fn pods_len(&self) -> usize {
        self.pods.len()
    }

    /// The status of the pod that has the name now.
    pub fn status(&self, name: &PodName) -> Option<&Arc<StatusRecord>> {
        let uid = &self.pods.get(name)?.metadata.uid;
        self.statuses.get(name).filter(|status| status.uid == *uid)
    }

    /// Statuses whose pod is gone: garbage, once everything is read.
    pub(crate) fn orphaned_statuses(&self) -> impl Iterator<Item = &PodName> {
        self.statuses.keys().filter(|name| self.status(name).is_none())
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(name)
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &Arc<NodeRecord>)> {
        self.nodes.iter()
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
        self.revisions.get(key).copied().unwrap_or(0)
    }

    /// Whether `key` has a value.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.revisions.get(key).is_some_and(|revision| !self.purged.contains_key(revision))
    }

    /// All that has a value, by key.
    pub(crate) fn records(&self) -> impl Iterator<Item = (String, Record)> {
        let pods = self.pods.iter().map(|(name, pod)| (name.key(), Record::Pod(Arc::clone(pod))));
        let statuses = self.statuses.iter().map(|(name, s)| (name.status_key(), Record::Status(Arc::clone(s))));
        let nodes = self.nodes.iter().map(|(name, node)| (subject::node_key(name), Record::Node(Arc::clone(node))));
        let removals = self
            .removals()
            .map(|removal| (subject::removal_key(&removal.node, &removal.uid), Record::Removal(Arc::clone(removal))));
        pods.chain(statuses).chain(nodes).chain(removals)
    }

    /// The value of a key.
    pub(crate) fn record(&self, key: &str) -> Option<Record> {
        match Key::parse(key)? {
            Key::Pod { namespace, name } => self.pods.get(&PodName::new(namespace, name)).cloned().map(Record::Pod),
            Key::PodStatus { namespace, name } => {
                self.statuses.get(&PodName::new(namespace, name)).cloned().map(Record::Status)
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
    /// A pod as a client sees it: intent and status, under the higher of their revisions.
    pub(crate) fn shown_pod(&self, name: &PodName) -> Option<Pod> {
        self.seen_pod(name).map(|seen| seen.shown())
    }

    /// A pod as it is now, without a copy of it.
    pub(crate) fn seen_pod(&self, name: &PodName) -> Option<SeenPod> {
        let pod = Arc::clone(self.pods.get(name)?);
        let status = self.status(name).cloned();
        let status_revision = status.as_ref().map_or(0, |_| self.revision_of(&name.status_key()));
        let revision = self.revision_of(&name.key()).max(status_revision);
        Some(SeenPod { pod, status, revision })
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
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: Option<Arc<StatusRecord>>,
    /// The higher of its two keys'.
    pub(crate) revision: u64,
}

impl SeenPod {
    /// As a client sees it.
    pub(crate) fn shown(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod);
        pod.metadata.resource_version = self.revision.to_string();
        pod.status = Some(shown_status(&pod, self.status.as_ref().map(|record| &record.status)));
        pod
    }

    /// As `status.phase` says.
    pub(crate) fn phase(&self) -> PodPhase {
        self.status.as_ref().map_or(PodPhase::Pending, |record| record.status.phase)
    }
}

/// The status before any report is what follows from the binding: it costs no write of its own.
fn shown_status(pod: &Pod, status: Option<&PodStatus>) -> PodStatus {
    let born = pod.metadata.creation_timestamp.unwrap_or_default();
    let scheduled =
        |status: &PodStatus| status.conditions.iter().any(|c| c.kind == "PodScheduled" && c.status == "True");
    match (status, pod.spec.node_name.is_empty()) {
        (Some(status), false) if !scheduled(status) => fold::bound(pod, Some(status), born),
        (Some(status), _) => status.clone(),
        (None, false) => fold::bound(pod, None, born),
        (None, true) => fold::unbound(pod),
    }
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
        assert_eq!(cluster.shown_pod(&name).unwrap().metadata.resource_version, "2");
        cluster.apply("podstatus.default.web", status("new"), 3);
        assert_eq!(cluster.shown_pod(&name).unwrap().metadata.resource_version, "3");
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
