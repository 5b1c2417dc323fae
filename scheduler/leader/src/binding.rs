//! Where a pod goes: what the core needs to know of it, and the writes that bind, explain and replace. Pure.

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::Arc;

use podbus_common::effective;
use podbus_common::fold;
use podbus_common::model::{
    Affinity, Container, Node, NodeAffinity, Pod, PodAffinity, PodStatus, PreemptionPolicy, RestartPolicy, Taint,
    TaintEffect, Timestamp, Toleration,
};
use podbus_common::proto;
use podbus_common::quantity::Quantity;
use podbus_common::subject::removal_key;
use podbus_common::validation::is_extended_resource;
use podbus_scheduler_core::{
    self as core, HostPort, PendingPod, Placement, PodGroup, PodSpec, Resources, Shape, tolerates,
};

use crate::cluster::PodName;
use crate::deletion;
use crate::events;
use crate::plan::{Effect, Plan, Write};
use crate::record::{Record, RemovalRecord, StatusRecord};

/// Amounts of a map of quantities; what is no quantity was refused before.
pub(crate) fn resources(quantities: &BTreeMap<String, String>) -> Resources {
    let of = |name: &str| quantities.get(name).and_then(|text| Quantity::parse(text).ok()).unwrap_or_default();
    let whole = |name| u64::try_from(of(name).value()).unwrap_or(0);
    Resources {
        cpu_millis: u64::try_from(of("cpu").milli_value()).unwrap_or(0),
        memory_bytes: whole("memory"),
        ephemeral_storage_bytes: whole("ephemeral-storage"),
        pods: whole("pods"),
    }
}

/// Pods with the same value of this label are placed together, in the words of the scheduler plugin Coscheduling,
const GROUP_LABEL: &str = "pod-group.scheduling.sigs.k8s.io/name";
/// as soon as there is room for so many of them.
const GROUP_SIZE_LABEL: &str = "pod-group.scheduling.sigs.k8s.io/min-available";

/// Amounts of resources that nodes name themselves.
fn extended(quantities: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let own = quantities.iter().filter(|(name, _)| is_extended_resource(name));
    let whole = |text: &String| Quantity::parse(text).ok().and_then(|quantity| u64::try_from(quantity.value()).ok());
    own.map(|(name, text)| (name.clone(), whole(text).unwrap_or(0))).collect()
}

/// What a pod takes.
pub(crate) fn requests(pod: &Pod) -> Resources {
    let of = |container: &Container| resources(&container.resources.requests);
    Resources { pods: 1, ..effective::of_pod(&pod.spec, of, Add::add, Resources::max) }
}

/// As [`requests`], of resources that nodes name themselves.
fn extended_requests(pod: &Pod) -> BTreeMap<String, u64> {
    let names = pod.spec.init_containers.iter().chain(&pod.spec.containers).flat_map(|c| c.resources.requests.keys());
    let names: std::collections::BTreeSet<_> = names.filter(|name| is_extended_resource(name)).collect();
    let of_resource = |name: &String| {
        let of = |c: &Container| extended(&c.resources.requests).get(name).copied().unwrap_or(0);
        effective::of_pod(&pod.spec, of, u64::saturating_add, Ord::max)
    };
    names.into_iter().map(|name| (name.clone(), of_resource(name))).collect()
}

/// A pod as the queue holds it; `None`: it must not be placed yet.
pub(crate) fn pending(uid: &str, pod: &Pod) -> Option<PendingPod> {
    let gated = !pod.spec.scheduling_gates.is_empty();
    (!gated).then(|| PendingPod { uid: uid.to_owned(), spec: spec(pod) })
}

/// What decides where a pod may go.
pub(crate) fn spec(pod: &Pod) -> PodSpec {
    let Affinity { node_affinity, pod_affinity, pod_anti_affinity } = pod.spec.affinity.clone().unwrap_or_default();
    let NodeAffinity { required, preferred } = node_affinity.unwrap_or_default();
    let PodAffinity { required: affinity, preferred: wanted } = pod_affinity.unwrap_or_default();
    let PodAffinity { required: anti_affinity, preferred: unwanted } = pod_anti_affinity.unwrap_or_default();
    let wanted = wanted.into_iter().map(|wish| (wish.weight, wish.pod_affinity_term));
    let unwanted = unwanted.into_iter().map(|wish| (-wish.weight, wish.pod_affinity_term));
    // How long a taint is borne does not decide where the pod may go: pods that differ in it are alike.
    let borne = |t: &Toleration| Toleration { toleration_seconds: None, ..t.clone() };
    let containers = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
    PodSpec {
        namespace: pod.metadata.namespace.clone(),
        labels: pod.metadata.labels.clone(),
        shape: Shape {
            requests: requests(pod),
            extended: extended_requests(pod),
            ports: containers().flat_map(host_ports).collect(),
            images: containers().map(|container| container.image.clone()).collect(),
        },
        placement: Placement {
            node_name: None,
            node_selector: pod.spec.node_selector.clone(),
            required,
            preferred,
            tolerations: pod.spec.tolerations.iter().map(borne).collect(),
        },
        affinity,
        anti_affinity,
        preferred_pods: wanted.chain(unwanted).collect(),
        spread: pod.spec.topology_spread_constraints.clone(),
        priority: pod.spec.priority.unwrap_or(0),
        never_preempts: pod.spec.preemption_policy == Some(PreemptionPolicy::Never),
        group: group(pod),
        scheduler_name: pod.spec.scheduler_name.clone(),
    }
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> {
    let open = container.ports.iter().filter(|port| port.host_port > 0);
    open.map(|port| HostPort { protocol: port.protocol.clone(), ip: port.host_ip.clone(), port: port.host_port })
}

fn group(pod: &Pod) -> Option<PodGroup> {
    let label = |key: &str| pod.metadata.labels.get(key);
    let name = label(GROUP_LABEL)?.clone();
    let min_member = label(GROUP_SIZE_LABEL).and_then(|size| size.parse().ok()).unwrap_or(1);
    Some(PodGroup { name, min_member })
}

/// A node as the core holds it.
pub(crate) fn core_node(node: &Node) -> core::Node {
    core::Node {
        name: node.metadata.name.clone(),
        labels: node.metadata.labels.clone(),
        taints: node.spec.taints.clone(),
        unschedulable: node.spec.unschedulable,
        allocatable: resources(&node.status.allocatable),
        extended: extended(&node.status.allocatable),
        images: BTreeMap::new(),
    }
}

/// Binds a pod that waited, under `new_uid` where one is given. One that is gone, bound or being deleted by now is left alone, and its place is free.
pub(crate) fn bind(stored: Option<&Arc<Pod>>, uid: &str, node: &str, new_uid: Option<&str>, now: Timestamp) -> Plan {
    let waits = |pod: &&Arc<Pod>| pod.metadata.uid == uid && pod.metadata.deletion_timestamp.is_none();
    let Some(stored) = stored.filter(waits).filter(|pod| pod.spec.node_name.is_empty()) else {
        return Plan::only(Effect::Release { uid: new_uid.unwrap_or(uid).to_owned() });
    };
    let mut pod = Pod::clone(stored);
    new_uid.unwrap_or(uid).clone_into(&mut pod.metadata.uid);
    node.clone_into(&mut pod.spec.node_name);
    let name = PodName::of(&pod);
    Plan { writes: vec![Write::put(name.key(), Record::Pod(Arc::new(pod)))], effects: bound(name, now) }
}

/// What follows once a pod is bound.
pub(crate) fn bound(name: PodName, now: Timestamp) -> Vec<Effect> {
    vec![Effect::PublishScheduled(name.clone(), now), Effect::Assign(name)]
}

/// Says why a pod waits, unless it was said already. `nominated`: the node that others were asked to leave for it.
pub(crate) fn unschedulable(
    stored: Option<&Arc<Pod>>,
    status: Option<&PodStatus>,
    uid: &str,
    (message, nominated): (&str, &str),
    now: Timestamp,
) -> Plan {
    let Some(pod) = stored.filter(|pod| pod.metadata.uid == uid && pod.spec.node_name.is_empty()) else {
        return Plan::default();
    };
    let said = |status: &PodStatus| status.conditions.iter().any(|c| c.kind == "PodScheduled" && c.message == message);
    if status.is_some_and(|status| said(status) && status.nominated_node_name == nominated) {
        return Plan::default();
    }
    let event = Effect::Publish(Box::new(events::failed_scheduling(pod, message, now)));
    let status = fold::unschedulable(pod, message, status, now);
    let status = PodStatus { nominated_node_name: nominated.to_owned(), ..status };
    Plan { writes: vec![put_status(pod, 0, 0, status)], effects: vec![event] }
}

/// Deletes a pod that must leave `node` for the pod `by`, with its own grace.
pub(crate) fn preempt(
    stored: Option<&Arc<Pod>>,
    record: Option<&Arc<StatusRecord>>,
    uid: &str,
    by: &str,
    now: Timestamp,
) -> Plan {
    let stays = |pod: &&Arc<Pod>| pod.metadata.uid == uid && pod.metadata.deletion_timestamp.is_none();
    let Some(pod) = stored.filter(stays).filter(|pod| !pod.spec.node_name.is_empty()) else { return Plan::default() };
    let (agent_epoch, sequence) = record.map_or((0, 0), |record| (record.agent_epoch, record.sequence));
    let status = fold::preempted(pod, record.map(|record| &record.status), now);
    let mut plan = deletion::mark(pod, deletion::grace_of(pod, None), now);
    plan.writes.push(put_status(pod, agent_epoch, sequence, status));
    plan.effects.insert(0, Effect::Publish(Box::new(events::preempted(pod, by, now))));
    plan
}

/// The status of a pod, as a write.
pub(crate) fn put_status(pod: &Pod, agent_epoch: u64, sequence: u64, status: PodStatus) -> Write {
    put_status_of(&PodName::of(pod), &pod.metadata.uid, agent_epoch, sequence, status)
}

/// The status of the pod that has this name and this UID, as a write.
pub(crate) fn put_status_of(name: &PodName, uid: &str, agent_epoch: u64, sequence: u64, status: PodStatus) -> Write {
    let record = StatusRecord { uid: uid.to_owned(), agent_epoch, sequence, status };
    Write::put(name.status_key(), Record::Status(Arc::new(record)))
}

/// When a pod must leave a node that has `taints`: the earliest end of what it bears. `None`: it stays.
pub(crate) fn evicted_at(pod: &Pod, taints: &[Taint]) -> Option<Timestamp> {
    let ends = taints.iter().filter(|taint| taint.effect == TaintEffect::NoExecute).filter_map(|taint| {
        let added = taint.time_added.unwrap_or_default();
        let bearing = |t: &&Toleration| tolerates(std::slice::from_ref(*t), &taint.key, &taint.value, taint.effect);
        let mut seconds: Vec<_> = pod.spec.tolerations.iter().filter(bearing).map(|t| t.toleration_seconds).collect();
        // As in Kubernetes: borne by none, at once; by one without an end, for ever, unless another ends earlier.
        if seconds.is_empty() {
            return Some(added);
        }
        seconds.retain(Option::is_some);
        let shortest = seconds.into_iter().flatten().min()?;
        Some(added.plus_seconds(shortest.max(0)))
    });
    ends.min()
}

/// Takes a pod away from its node: one that may run again is replaced under its name with `new_uid`, and the rest is
/// deleted as Kubernetes would. A node that answers gives it its grace; at one that is lost it ran on for long enough.
///
/// The order is the protocol's: what the node must remove is written first, then the name gets its new UID. Until the
/// node is back and has stopped the old UID, both may run.
pub(crate) fn evict(stored: Option<&Arc<Pod>>, uid: &str, new_uid: String, answers: bool, now: Timestamp) -> Plan {
    let leaves = |pod: &&Arc<Pod>| pod.metadata.uid == uid && pod.metadata.deletion_timestamp.is_none();
    let Some(old) = stored.filter(leaves) else { return Plan::default() };
    let event = Effect::Publish(Box::new(events::taint_manager_eviction(old, now)));
    if old.spec.restart_policy == RestartPolicy::Never {
        let mut plan = deletion::mark(old, deletion::grace_of(old, None), now);
        plan.effects.insert(0, event);
        return plan;
    }
    let removal = removal_of(old, if answers { deletion::grace_of(old, None) } else { 0 });
    let mut new = Pod::clone(old);
    new.metadata.uid = new_uid;
    new.metadata.generation = 1;
    new.metadata.creation_timestamp = Some(now);
    new.spec.node_name.clear();
    let name = PodName::of(&new);
    let writes = vec![
        Write::put(removal_key(&removal.node, &removal.uid), Record::Removal(Arc::new(removal.clone()))),
        Write::put(name.key(), Record::Pod(Arc::new(new.clone()))),
        put_status(&new, 0, 0, fold::unbound(&new)),
    ];
    Plan { writes, effects: vec![event, assign_removal(&removal)] }
}

/// The record of what `pod`'s node must remove.
pub(crate) fn removal_of(pod: &Pod, grace_period_seconds: u32) -> RemovalRecord {
    let Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes, .. } = requests(pod);
    RemovalRecord {
        node: pod.spec.node_name.clone(),
        uid: pod.metadata.uid.clone(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        grace_period_seconds,
        cpu_millis,
        memory_bytes,
        ephemeral_storage_bytes,
        extended: extended_requests(pod),
    }
}

/// Tells the node. Its revision is that of the entry, added when it is sent.
pub(crate) fn assign_removal(removal: &RemovalRecord) -> Effect {
    let RemovalRecord { uid, namespace, name, grace_period_seconds, .. } = removal.clone();
    let message = proto::Removal { uid, namespace, name, revision: 0, grace_period_seconds };
    Effect::AssignRemoval { node: removal.node.clone(), removal: message }
}

#[cfg(test)]
mod tests;
