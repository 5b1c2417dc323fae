//! What becomes of a store that went back in time, or was lost: what nodes hold is put back. Pure.
//!
//! The highest (epoch, revision) wins a name. What a node's ledger says has ended was deleted. Nothing is concluded
//! from absence: a pod that a node should hold and does not is assigned to it, and one that had no node and that nobody
//! claims may have been deleted or placed since, so a person decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podbus_common::model::{Pod, PodSchedulingGate};
use podbus_common::proto::HeldPod;

use crate::cluster::{Cluster, PodName};
use crate::deletion::purges;
use crate::lineage::Lineage;
use crate::plan::{Object, Write};
use crate::record::Record;

/// On pods of whom nobody knows whether they were deleted: taking it away lets them be placed.
pub(crate) const RECOVERED_GATE: &str = "podbus/recovered";

/// What one node says that it holds.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    claims: Vec<Claim>,
    /// UIDs that ended there.
    ended: BTreeSet<String>,
}

/// A pod that a node holds.
#[derive(Debug, Clone)]
struct Claim {
    node: String,
    /// Of the leader that assigned it, and the record's revision then.
    rank: (u64, u64),
    pod: Arc<Pod>,
}

impl Inventory {
    /// Takes in what `node` says. A node speaks only of pods that were bound to it.
    pub(crate) fn add(&mut self, node: &str, held: &[HeldPod]) {
        for pod in held {
            if pod.ended {
                self.ended.insert(pod.uid.clone());
                continue;
            }
            let read = serde_json::from_slice::<Pod>(&pod.pod).ok();
            let own = |read: &Pod| read.metadata.uid == pod.uid && read.spec.node_name == node;
            if let Some(read) = read.filter(own) {
                let rank = (pod.epoch, pod.revision);
                self.claims.push(Claim { node: node.to_owned(), rank, pod: Arc::new(read) });
            }
        }
    }
}

/// What is to be written about one pod, and why.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Repair {
    pub(crate) object: Object,
    pub(crate) writes: Vec<Write>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) kind: Kind,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This node holds it, and the store has it not, or older.
    Restored { node: String },
    /// The store has it again, and its node knows that it ended.
    Ended,
    /// The store has it again without a node, and nobody knows more.
    Gated,
}

/// What is to be done so that the store agrees with the nodes. `written_back`: the ranks that pods had which were written
/// back from memory, which may be older than what nodes hold. `gate`: the store's unbound pods may be older than what
/// became of them, and go on under a `new_uid`.
pub(crate) fn merge(
    cluster: &Cluster,
    lineage: &Lineage,
    written_back: &HashMap<PodName, (u64, u64)>,
    inventories: &BTreeMap<String, Inventory>,
    gate: bool,
    mut new_uid: impl FnMut() -> String,
) -> Vec<Repair> {
    let mut best: BTreeMap<PodName, &Claim> = BTreeMap::new();
    // What its node must remove is gone for everybody else.
    let stays = |claim: &&Claim| cluster.removal(&claim.node, &claim.pod.metadata.uid).is_none();
    for claim in inventories.values().flat_map(|inventory| &inventory.claims).filter(stays) {
        let held = best.entry(PodName::of(&claim.pod)).or_insert(claim);
        if claim.rank > held.rank {
            *held = claim;
        }
    }
    let rank =
        |name: &PodName| written_back.get(name).copied().unwrap_or_else(|| lineage.rank_of(cluster.pod_revision(name)));
    // A name that was deleted since stays deleted, as far as is known when the node got its pod.
    let unknown = |name: &PodName, claim: &Claim| {
        cluster.kept(name).is_none() && (cluster.pod_revision(name) == 0 || claim.rank.0 == 0)
    };
    let ended: BTreeSet<&str> =
        inventories.values().flat_map(|inventory| &inventory.ended).map(String::as_str).collect();
    let is_over = |name: &PodName| cluster.kept(name).is_some_and(|pod| ended.contains(&*pod.uid));
    let newer = |(name, claim): &(&PodName, &&Claim)| unknown(name, claim) || is_over(name) || claim.rank > rank(name);
    let restored = best.iter().filter(newer).map(|(name, claim)| Repair {
        object: Object::Pod(name.clone()),
        writes: vec![Write::put(name.key(), Record::Pod(Arc::clone(&claim.pod)))],
        pod: Arc::clone(&claim.pod),
        kind: Kind::Restored { node: claim.node.clone() },
    });
    let mut repairs: Vec<_> = restored.collect();
    for (name, pod) in cluster.pods().filter(|(name, _)| !best.contains_key(*name)) {
        let repair = |writes, pod, kind| Repair { object: Object::Pod(name.clone()), writes, pod, kind };
        if ended.contains(&*pod.uid) {
            repairs.push(repair(purges(name), Arc::new(pod.pod(name)), Kind::Ended));
        } else if gate && pod.node().is_empty() && cluster.pod_revision(name) < lineage.began() {
            let mut gated = with_uid(pod.pod(name), new_uid());
            if gated.spec.scheduling_gates.iter().all(|gate| gate.name != RECOVERED_GATE) {
                gated.spec.scheduling_gates.push(PodSchedulingGate { name: RECOVERED_GATE.to_owned() });
                let gated = Arc::new(gated);
                let put = Write::put(name.key(), Record::Pod(Arc::clone(&gated)));
                repairs.push(repair(vec![put, Write::purge(name.status_key())], gated, Kind::Gated));
            }
        }
    }
    repairs
}

/// The writes that make a store say what `remembered` says, which is all that was acknowledged. Nobody knows whether a pod
/// that waited was bound since: it goes on under a UID that no node can have.
pub(crate) fn write_back(
    cluster: &Cluster,
    remembered: &Cluster,
    mut new_uid: impl FnMut() -> String,
) -> BTreeMap<Object, Vec<Write>> {
    let mut writes: BTreeMap<Object, Vec<Write>> = BTreeMap::new();
    // What was said of the UID that it had counts no longer.
    let counts = |record: &Record| !matches!(record, Record::Status(status) if remembered.waits(&status.uid));
    for (key, record) in remembered.records().filter(|(_, record)| counts(record)) {
        let record = match record {
            Record::Pod(pod) if pod.spec.node_name.is_empty() => {
                Record::Pod(Arc::new(with_uid(Arc::unwrap_or_clone(pod), new_uid())))
            }
            record => record,
        };
        if cluster.record(&key).as_ref() != Some(&record)
            && let Some(object) = Object::of_key(&key)
        {
            writes.entry(object).or_default().push(Write::put(key, record));
        }
    }
    for (key, _) in cluster.records() {
        if !remembered.record(&key).is_some_and(|record| counts(&record))
            && let Some(object) = Object::of_key(&key)
        {
            writes.entry(object).or_default().push(Write::purge(key));
        }
    }
    writes
}

fn with_uid(mut pod: Pod, uid: String) -> Pod {
    pod.metadata.uid = uid;
    pod
}

#[cfg(test)]
mod tests;
