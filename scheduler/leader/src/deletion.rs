//! Deleting a pod. Pure.
//!
//! A pod without a node goes at once. A bound one is marked, which is durable and then answered; its node stops it and
//! reports `ended`; only then its keys are purged. By force the keys go first, and `removals.*` remembers what the node
//! must still remove.

use std::sync::Arc;

use podbus_common::api::{DeleteRequest, Status};
use podbus_common::model::{Pod, Timestamp};
use podbus_common::subject::removal_key;

use crate::binding::{assign_removal, removal_of};
use crate::cluster::PodName;
use crate::plan::{CallId, Effect, Plan, Write};
use crate::query;
use crate::record::Record;

/// Answers a request to delete. `node_known`: the pod's node has registered once, so somebody will report the end.
pub(crate) fn delete(
    call: CallId,
    name: &PodName,
    stored: Option<&Arc<Pod>>,
    request: &DeleteRequest,
    node_known: bool,
    now: Timestamp,
) -> Plan {
    let refuse = |status| Plan::only(Effect::Answer(call, Err(status)));
    let Some(pod) = stored else { return refuse(query::not_found("pods", &name.name)) };
    let uid = &pod.metadata.uid;
    if !request.uid.is_empty() && request.uid != *uid {
        let message = format!(
            "Operation cannot be fulfilled on pods \"{}\": Precondition failed: UID in precondition: {}, UID in \
             object meta: {uid}",
            name.name, request.uid
        );
        return refuse(Status::failure(409, "Conflict", message));
    }
    if pod.spec.node_name.is_empty() || !node_known {
        return gone(call, name);
    }
    if request.force {
        let removal = removal_of(pod, 0);
        let entry = Record::Removal(Arc::new(removal.clone()));
        let mut plan = gone(call, name);
        plan.writes.insert(0, Write::put(removal_key(&removal.node, uid), entry));
        plan.effects.insert(0, assign_removal(&removal));
        return plan;
    }
    let grace = grace_of(pod, request.grace_period_seconds);
    let mut plan = mark(pod, grace, now);
    plan.effects.push(Effect::AnswerPod(call, name.clone()));
    plan
}

/// The grace of a deletion: as asked or the pod's own; a later deletion only shortens it.
pub(crate) fn grace_of(pod: &Pod, asked: Option<u32>) -> u32 {
    let own = pod.spec.termination_grace_period_seconds.unwrap_or(30);
    let grace = asked.unwrap_or(own);
    pod.metadata.deletion_grace_period_seconds.map_or(grace, |before| before.min(grace))
}

/// Marks a bound pod as being deleted and tells its node; nothing to write when the mark says so already.
pub(crate) fn mark(stored: &Arc<Pod>, grace: u32, now: Timestamp) -> Plan {
    let metadata = &stored.metadata;
    if metadata.deletion_timestamp.is_some() && metadata.deletion_grace_period_seconds <= Some(grace) {
        return Plan::default();
    }
    let mut pod = Pod::clone(stored);
    // From the first deletion on: a later one must not lengthen it.
    let since = match (metadata.deletion_timestamp, metadata.deletion_grace_period_seconds) {
        (Some(end), Some(before)) => end.plus_seconds(-i64::from(before)),
        _ => now,
    };
    pod.metadata.deletion_timestamp = Some(since.plus_seconds(i64::from(grace)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod.metadata.generation += 1;
    let name = PodName::of(&pod);
    let assign = Effect::Assign(name.clone());
    Plan { writes: vec![Write::put(name.key(), Record::Pod(Arc::new(pod)))], effects: vec![assign] }
}

/// Both keys go: the intent first, so that a status without a pod is all that can be left.
pub(crate) fn purges(name: &PodName) -> Vec<Write> {
    vec![Write::purge(name.key()), Write::purge(name.status_key())]
}

fn gone(call: CallId, name: &PodName) -> Plan {
    let success = Status::success(format!("pods \"{}\" deleted", name.name));
    Plan { writes: purges(name), effects: vec![Effect::Answer(call, query::to_json(&success))] }
}

#[cfg(test)]
mod tests;
