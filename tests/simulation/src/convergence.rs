//! What must come true once nothing breaks any more: who leads, what runs, and that nothing is left.

use std::collections::BTreeSet;

use podbus_common::model::{Pod, PodPhase};
use podbus_common::subject::pod_status_key;
use podbus_scheduler_leader::StatusRecord;

use crate::client::Acked;
use crate::world::World;

impl World {
    /// What is not as it must be in the end; `None`: all is well.
    pub(crate) fn unsettled(&self) -> Option<String> {
        if !self.schedulers.iter().any(|scheduler| scheduler.decides(self.now)) {
            return Some("nobody leads".to_owned());
        }
        for name in &self.client.names {
            if name.acked == Acked::Unsure {
                return Some(format!("the last request about {} has no answer", name.name));
            }
        }
        let mut uids = BTreeSet::new();
        for (key, json) in self.store.values("pods.") {
            let Ok(pod) = serde_json::from_slice::<Pod>(json) else { return Some(format!("{key} cannot be read")) };
            uids.insert(pod.metadata.uid.clone());
            if let Some(why) = self.unsettled_pod(&pod) {
                return Some(format!("{key} ({}): {why}", pod.metadata.uid));
            }
        }
        for (key, json) in self.store.values("podstatus.") {
            let status: StatusRecord = serde_json::from_slice(json).unwrap_or_default();
            if !uids.contains(&status.uid) {
                return Some(format!("{key} is the status of a pod that is gone"));
            }
        }
        if let Some((key, _)) = self.store.values("removals.").next() {
            return Some(format!("{key} is not removed yet"));
        }
        self.nodes.iter().find_map(|node| {
            let Some(set) = node.set() else { return Some(format!("no agent runs on {}", node.name)) };
            if let Some((uid, _)) = set.unacked_ends().next() {
                return Some(format!("{} did not get an ack for the end of {uid}", node.name));
            }
            let left =
                node.runtime.uids().into_iter().chain(set.pods().keys().cloned()).find(|uid| !uids.contains(uid));
            left.map(|uid| format!("7: {} has something left of {uid}, which is gone", node.name))
        })
    }

    fn unsettled_pod(&self, pod: &Pod) -> Option<String> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Some("it is still being deleted".to_owned());
        }
        let meta = &pod.metadata;
        let status = self.store.value(&pod_status_key(&meta.namespace, &meta.name));
        let status: Option<StatusRecord> = status.and_then(|json| serde_json::from_slice(json).ok());
        let status = status.filter(|status| status.uid == meta.uid);
        if pod.spec.node_name.is_empty() && !pod.spec.scheduling_gates.is_empty() {
            // It came back with the store, and a person must say whether it is still wanted.
            return None;
        }
        if pod.spec.node_name.is_empty() {
            // It may wait for room, and must say so.
            let said = status.is_some_and(|s| s.status.conditions.iter().any(|c| c.reason == "Unschedulable"));
            return (!said).then(|| "it is not bound, and nothing says why".to_owned());
        }
        let Some(record) = status else { return Some("its node says nothing of it".to_owned()) };
        let node = self.nodes.iter().find(|node| node.name == pod.spec.node_name)?;
        let running = node.runtime.running().filter(|(uid, _)| **uid == meta.uid).count();
        match record.status.phase {
            PodPhase::Succeeded | PodPhase::Failed if running == 0 => None,
            PodPhase::Running if running == pod.spec.containers.len() => {
                let ready = record.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
                let current = record.status.observed_generation == meta.generation;
                (!ready || !current).then(|| format!("it runs, and its status says {:?}", record.status))
            }
            phase => {
                let status = serde_json::to_string(&record).unwrap_or_default();
                Some(format!("it is {phase:?} and {running} of its containers run: {status}"))
            }
        }
    }
}
