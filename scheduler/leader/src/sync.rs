//! What an agent that syncs is told: what it misses, and a verdict on each pod that it holds. Pure.
//!
//! A removal needs a record: a `removals` entry, or a newer record that gives the name another UID. Without a record a
//! pod is on hold and runs on: absence alone ends nothing.

use std::collections::HashMap;

use bytes::Bytes;
use podbus_common::proto::{AssignedPod, HeldPod, Removal, SyncReply, Term, Verdict, verdict};

use crate::cluster::{Cluster, PodName};
use crate::kept::KeptPod;
use crate::lineage::Lineage;
use crate::nodes;

/// A reply stays below the 1 MiB that nats-server takes by default.
const REPLY_BYTES_MAX: usize = 700 << 10;

/// How long a pod has to end whose name was deleted while its node was away: Kubernetes' default.
const DELETED_GRACE_SECONDS: u32 = 30;

/// The answer to an agent that holds `held`.
pub(crate) fn reply(
    cluster: &Cluster,
    lineage: &Lineage,
    node: &str,
    held: &[HeldPod],
    term: Term,
    agent_epoch: u64,
    counter: u64,
) -> SyncReply {
    let known: HashMap<&str, &HeldPod> = held.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
    let mut reply = SyncReply {
        term: Some(term),
        agent_epoch,
        counter,
        revision: cluster.revision(),
        place: cluster.node(node).and_then(|record| nodes::place(record)),
        verdicts: held.iter().map(|pod| judge(cluster, lineage, node, pod)).collect(),
        ..Default::default()
    };
    let mut bytes = held.len() * 64;
    for (name, pod) in cluster.pods_on(node) {
        let revision = cluster.pod_revision(name);
        let has_it =
            |held: &&HeldPod| held.ended || held.generation >= pod.generation && !is_newer(lineage, revision, held);
        if known.get(&*pod.uid).is_some_and(has_it) {
            continue;
        }
        let pod = assigned(pod, json_of(name, pod), revision);
        bytes += pod.pod.len() + 128;
        if bytes > REPLY_BYTES_MAX && !reply.missing.is_empty() {
            reply.more = true;
            break;
        }
        reply.missing.push(pod);
    }
    reply
}

/// A pod as it is assigned.
pub(crate) fn assigned(pod: &KeptPod, json: Bytes, revision: u64) -> AssignedPod {
    AssignedPod { uid: pod.uid.to_string(), generation: pod.generation, revision, pod: json }
}

/// A pod as JSON.
pub(crate) fn json_of(name: &PodName, pod: &KeptPod) -> Bytes {
    // A pod that was read from JSON is JSON.
    serde_json::to_vec(&pod.json(name)).unwrap_or_default().into()
}

/// What a node must remove and does not hold: it has nothing to stop, but it must say so.
pub(crate) fn unheld_removals(cluster: &Cluster, node: &str, held: &[HeldPod]) -> Vec<Removal> {
    let of_node = cluster.removals().filter(|removal| removal.node == node);
    let unheld = of_node.filter(|removal| held.iter().all(|pod| pod.uid != removal.uid));
    unheld
        .map(|removal| Removal {
            uid: removal.uid.clone(),
            namespace: removal.namespace.clone(),
            name: removal.name.clone(),
            revision: 0,
            grace_period_seconds: removal.grace_period_seconds,
        })
        .collect()
}

/// Whether a record of this revision is newer than what a node holds. In a store that went back revisions begin anew:
/// the epoch counts first, where the node still knows it.
fn is_newer(lineage: &Lineage, revision: u64, held: &HeldPod) -> bool {
    if held.epoch == 0 {
        return revision > held.revision;
    }
    lineage.rank_of(revision) > (held.epoch, held.revision)
}

fn judge(cluster: &Cluster, lineage: &Lineage, node: &str, held: &HeldPod) -> Verdict {
    let verdict =
        |kind: verdict::Kind, grace| Verdict { uid: held.uid.clone(), kind: kind.into(), grace_period_seconds: grace };
    let name = PodName::new(held.namespace.as_str(), held.name.as_str());
    let namesake = cluster.kept(&name);
    if namesake.is_some_and(|pod| *pod.uid == *held.uid && pod.node() == node) {
        return verdict(verdict::Kind::Keep, 0);
    }
    if let Some(removal) = cluster.removal(node, &held.uid) {
        return verdict(verdict::Kind::Remove, removal.grace_period_seconds);
    }
    if held.ended {
        return verdict(verdict::Kind::Keep, 0);
    }
    let newer = is_newer(lineage, cluster.pod_revision(&name), held);
    match namesake {
        Some(other) if newer && *other.uid != *held.uid => {
            let grace = other.template().spec.termination_grace_period_seconds.unwrap_or(30);
            verdict(verdict::Kind::Remove, grace)
        }
        // The name was deleted later. Who does not know when it was assigned is not told so.
        None if newer && held.epoch > 0 => verdict(verdict::Kind::Remove, DELETED_GRACE_SECONDS),
        _ => verdict(verdict::Kind::Hold, 0),
    }
}

#[cfg(test)]
mod tests;
