//! What must hold after each step: the invariants of the design, by their numbers.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::model::{Pod, RestartPolicy};
use podbus_common::proto::StatusRequest;
use podbus_common::subject::Key;
use podbus_node_agent_core::model::ContainerObserved;
use podbus_node_agent_core::resources::pod_requests;
use podbus_scheduler_leader::{NodeRecord, StatusRecord};

use crate::client::{Acked, Client};
use crate::clock::Micros;
use crate::node::{CPU_MILLIS, Node};
use crate::scheduler::Process;
use crate::store::{Passed, Store};

/// Who watches, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    /// The first rule that was broken.
    pub(crate) broken: Option<String>,
    /// The store went back in time.
    went_back: bool,
    /// Where each UID was bound.
    bound: BTreeMap<String, String>,
    /// Where each UID ran.
    ran: BTreeMap<String, usize>,
    /// What each UID's pod asks for.
    asks: BTreeMap<String, i64>,
    /// The status of each UID: agent epoch and sequence.
    told: BTreeMap<String, (u64, u64)>,
    /// Restarts of each container of each UID as told.
    restarts: BTreeMap<(String, String), u32>,
    /// Exits in each report: by UID, agent epoch and sequence.
    reported: BTreeMap<(String, u64, u64), BTreeSet<String>>,
    /// Containers whose exit is in a status that was stored.
    durable_exits: BTreeSet<String>,
    /// UIDs that were deleted: durably marked, or purged.
    deleted: BTreeSet<String>,
    /// UIDs without a record: only a removal is left of them, and nobody asks how they ended.
    forgotten: BTreeSet<String>,
    /// Names whose pod may not run again and was taken from a lost node: it is deleted, as in Kubernetes.
    evicted: BTreeSet<String>,
    /// The highest term that each node heard of.
    terms: BTreeMap<usize, u64>,
    /// The agent epoch of each node.
    agent_epochs: BTreeMap<String, u64>,
}

impl Invariants {
    fn break_rule(&mut self, words: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(words());
        }
    }

    /// What is stored may be older from now on, and what was lost may come back. What ran, and where, stays as it was.
    pub(crate) fn store_went_back(&mut self) {
        self.went_back = true;
        self.told.clear();
        self.restarts.clear();
        self.deleted.clear();
        self.agent_epochs.clear();
    }

    /// A write passed.
    pub(crate) fn stored(&mut self, passed: &Passed, store: &Store, client: &Client) {
        let json = passed.stored.value.as_deref().unwrap_or_default();
        match Key::parse(&passed.key) {
            Some(Key::Pod { .. }) => {
                if let Ok(pod) = serde_json::from_slice::<Pod>(json) {
                    self.stored_pod(&pod);
                }
                self.acknowledged(store, client);
            }
            Some(Key::PodStatus { .. }) => {
                if let Ok(status) = serde_json::from_slice::<StatusRecord>(json) {
                    self.stored_status(&status);
                }
            }
            Some(Key::Removal { uid, .. }) => {
                self.forgotten.insert(uid.to_owned());
            }
            Some(Key::Node { name }) => {
                let record: NodeRecord = serde_json::from_slice(json).unwrap_or_default();
                let before = self.agent_epochs.insert(name.to_owned(), record.agent.epoch).unwrap_or(0);
                if record.agent.epoch < before && !self.went_back {
                    self.break_rule(|| format!("2: the agent epoch of {name} went back from {before}"));
                }
            }
            _ => {}
        }
    }

    fn stored_pod(&mut self, pod: &Pod) {
        let (uid, node) = (&pod.metadata.uid, &pod.spec.node_name);
        let (name, never) = (&pod.metadata.name, pod.spec.restart_policy == RestartPolicy::Never);
        if pod.metadata.deletion_timestamp.is_some() {
            self.deleted.insert(uid.clone());
            if never {
                self.evicted.insert(name.clone());
            }
        } else if self.deleted.contains(uid) {
            self.break_rule(|| format!("3: {uid} was deleted and came back"));
        } else {
            self.evicted.remove(name);
        }
        match self.bound.get(uid) {
            // In an older store it may wait again; it never goes elsewhere.
            Some(before) if before != node && !(node.is_empty() && self.went_back) => {
                let before = before.clone();
                self.break_rule(|| format!("1: {uid} was bound to {before} and then to {node:?}"));
            }
            None if !node.is_empty() => {
                self.bound.insert(uid.clone(), node.clone());
            }
            _ => {}
        }
    }

    fn stored_status(&mut self, status: &StatusRecord) {
        let told = (status.agent_epoch, status.sequence);
        let before = self.told.insert(status.uid.clone(), told).unwrap_or_default();
        if told < before {
            let uid = &status.uid;
            self.break_rule(|| format!("5: the status of {uid} went back from {before:?} to {told:?}"));
        }
        let exits = self.reported.get(&(status.uid.clone(), told.0, told.1)).cloned();
        self.durable_exits.extend(exits.into_iter().flatten());
        for container in &status.status.container_statuses {
            let key = (status.uid.clone(), container.name.clone());
            let before = self.restarts.insert(key, container.restart_count).unwrap_or(0);
            if container.restart_count < before {
                let (uid, name, count) = (&status.uid, &container.name, container.restart_count);
                self.break_rule(|| format!("4: {name} of {uid} had {before} restarts and now has {count}"));
            }
        }
    }

    /// 3: an acknowledged apply is there, an acknowledged deletion is gone or on its way.
    pub(crate) fn acknowledged(&mut self, store: &Store, client: &Client) {
        for (name, acked) in client.acked() {
            let json = store.value(&podbus_common::subject::pod_key("default", name));
            match acked {
                Acked::There if json.is_none() && !self.evicted.contains(name) => {
                    self.break_rule(|| format!("3: the apply of {name} was acknowledged, and it is not there"));
                }
                Acked::Gone => {
                    let pod = json.and_then(|json| serde_json::from_slice::<Pod>(json).ok());
                    if pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()) {
                        self.break_rule(|| format!("3: the deletion of {name} was acknowledged, and it is back"));
                    }
                }
                _ => {}
            }
        }
    }

    /// 6: who decides is alone with it.
    pub(crate) fn decides(&mut self, scheduler: usize, all: &[Process], at: Micros) {
        let other =
            |(number, process): (usize, &Process)| (number != scheduler && process.decides(at)).then_some(number);
        if let Some(other) = all.iter().enumerate().find_map(other) {
            self.break_rule(|| format!("6: scheduler-{scheduler} and scheduler-{other} lead at once"));
        }
    }

    /// 6: nothing is answered once the lease is over.
    pub(crate) fn answers(&mut self, scheduler: usize, all: &[Process], at: Micros) {
        if !all[scheduler].decides(at) && !all[scheduler].is_new() {
            self.break_rule(|| format!("6: scheduler-{scheduler} answers though its lease is over"));
        }
    }

    /// 6: an agent follows no term below one that it saw.
    pub(crate) fn hears_term(&mut self, node: usize, epoch: u64) {
        let before = self.terms.insert(node, epoch).unwrap_or(0);
        if epoch < before {
            self.break_rule(|| format!("6: the agent of node-{node} went back from term {before} to {epoch}"));
        }
    }

    /// An agent ends whose disk did not take, or lost, what it heard last: nothing was done about that.
    pub(crate) fn forgets_term(&mut self, node: usize) {
        self.terms.remove(&node);
    }

    /// A node reports.
    pub(crate) fn reports(&mut self, request: &StatusRequest) {
        for report in &request.pods {
            let ids = report.exits.iter().filter_map(|exit| Some(exit.exit.as_ref()?.container_id.clone()));
            let key = (report.uid.clone(), request.agent_epoch, report.sequence);
            self.reported.insert(key, ids.collect());
        }
    }

    /// 4: the record of an exit goes only when the exit is in a status that is stored, or nobody asks any more.
    pub(crate) fn removes(
        &mut self,
        uid: &str,
        id: &str,
        container: Option<&(String, ContainerObserved)>,
        forgotten: bool,
    ) {
        let ended = container.is_some_and(|(_, container)| container.state.exit().is_some());
        let forgotten = forgotten || self.forgotten.contains(uid);
        if ended && !forgotten && !self.durable_exits.contains(id) {
            self.break_rule(|| format!("4: the exit of {id} of {uid} is forgotten, and no status tells it"));
        }
    }

    /// 2: a UID runs on one node and was bound to it.
    pub(crate) fn runs_sandbox(&mut self, node: usize, uid: &str) {
        let before = *self.ran.entry(uid.to_owned()).or_insert(node);
        if before != node {
            self.break_rule(|| format!("2: {uid} ran on node-{before} and runs on node-{node}"));
        }
        let name = format!("node-{node}");
        if self.bound.get(uid) != Some(&name) {
            self.break_rule(|| format!("2: {uid} runs on {name} and was never bound to it"));
        }
    }

    /// 8: what runs on a node fits into it.
    pub(crate) fn starts(&mut self, node: usize, uid: &str, pod: &Pod, nodes: &[Node]) {
        self.runs_sandbox(node, uid);
        self.asks.insert(uid.to_owned(), pod_requests(pod).cpu_millis);
        let running: BTreeSet<_> = nodes[node].runtime.running().map(|(uid, _)| uid).collect();
        let sum: i64 = running.into_iter().filter_map(|uid| self.asks.get(uid)).sum();
        if sum > CPU_MILLIS {
            self.break_rule(|| format!("8: what runs on node-{node} asks for {sum}m of {CPU_MILLIS}m CPU"));
        }
    }
}
