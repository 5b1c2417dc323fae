//! Registration of nodes, and what their record says of them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use podbus_common::api::{ApplyRequest, ApplyResult, Status};
use podbus_common::defaults::{TAINT_NOT_READY, TAINT_UNREACHABLE};
use podbus_common::model::{
    EventType, Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo, ObjectMeta, Taint, TaintEffect, Timestamp,
};
use podbus_common::proto::{self, NodeDescription, Refusal, SyncRequest, refusal};
use podbus_common::subject::node_key;
use podbus_common::validation::{FieldError, invalid_message, names, validate_names, validate_taints};
use serde::Deserialize;

use crate::plan::{CallId, Effect, Plan, Write};
use crate::record::{AgentRecord, NodeRecord, Record};
use crate::{events, intake, query};

/// Taints that follow from whether a node is ready.
const TAINTS_OF_READINESS: [&str; 2] = [TAINT_NOT_READY, TAINT_UNREACHABLE];

/// Whether a node can run pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// It says why not.
    NotReady(String),
    /// It says nothing.
    Unknown,
}

/// Why a registration is refused; `None`: it is not. `other_alive`: the instance that registered last still beats.
pub(crate) fn refuse(request: &SyncRequest, stored: Option<&NodeRecord>, other_alive: bool) -> Option<Refusal> {
    let node = &request.node;
    let refusal = |reason: refusal::Reason, message: String| Some(Refusal { reason: reason.into(), message });
    if let Some(why) = names::dns_subdomain(node) {
        return refusal(refusal::Reason::Invalid, format!("the node's name {node:?} is none: {why}"));
    }
    if request.node_id.is_empty() || request.instance.is_empty() || request.description.is_none() {
        return refusal(refusal::Reason::Invalid, "a registration names its node ID, instance and description".into());
    }
    let taints = request.description.as_ref().map(|description| &description.taints[..]).unwrap_or_default();
    if !taints.is_empty()
        && let Err(error) = serde_json::from_slice::<Vec<Taint>>(taints)
    {
        return refusal(refusal::Reason::Invalid, format!("the node's taints cannot be read: {error}"));
    }
    let agent = &stored?.agent;
    if agent.node_id != request.node_id {
        let message = format!(
            "another machine is registered as node {node:?}: give this one another name (--node), or its old state \
             directory back"
        );
        return refusal(refusal::Reason::NodeIdTaken, message);
    }
    if other_alive && agent.instance != request.instance {
        let message = format!("another agent of node {node:?} is alive: stop it, or wait until it missed 5 heartbeats");
        return refusal(refusal::Reason::InstanceAlive, message);
    }
    None
}

/// Stores a node that registers, under a new agent epoch.
pub(crate) fn register(call: CallId, request: &SyncRequest, stored: Option<&Arc<NodeRecord>>, now: Timestamp) -> Plan {
    let description = request.description.clone().unwrap_or_default();
    let before = stored.map(|stored| &stored.agent);
    let epoch = before.map_or(0, |agent| agent.epoch).max(request.agent_epoch_seen) + 1;
    let mut node = described(&request.node, &request.node_id, &description, stored.map(|stored| &stored.node), now);
    let agent = AgentRecord {
        epoch,
        node_id: request.node_id.clone(),
        instance: request.instance.clone(),
        labels: node.metadata.labels.clone(),
        taints: node.spec.taints.clone(),
    };
    if let Some(stored) = stored {
        keep_what_a_person_said(stored, &mut node);
    }
    set_readiness(&mut node, &Readiness::Ready, now);
    let record = NodeRecord { node, agent };
    let mut effects = vec![
        Effect::NodeChanged { node: request.node.clone() },
        Effect::Registered { call, node: request.node.clone() },
    ];
    if stored.is_none() {
        let message = format!("Node {0} event: Registered Node {0} in Controller", request.node);
        effects.push(publish(&record.node, EventType::Normal, "RegisteredNode", message, now));
    }
    if stored.is_none_or(|stored| !is_ready(&stored.node)) {
        effects.push(publish(&record.node, EventType::Normal, "NodeReady", is_now(&record.node, "NodeReady"), now));
    }
    Plan { writes: vec![Write::put(node_key(&request.node), Record::Node(Arc::new(record)))], effects }
}

/// What an agent says of its node.
fn described(name: &str, id: &str, told: &NodeDescription, before: Option<&Node>, now: Timestamp) -> Node {
    let info: NodeSystemInfo = serde_json::from_slice(&told.node_info).unwrap_or_default();
    let mut node = Node { api_version: "v1".to_owned(), kind: "Node".to_owned(), ..Node::default() };
    name.clone_into(&mut node.metadata.name);
    node.metadata.uid = before.map_or(id, |before| &before.metadata.uid).to_owned();
    node.metadata.creation_timestamp = before.and_then(|before| before.metadata.creation_timestamp).or(Some(now));
    node.metadata.labels = told.labels.clone().into_iter().collect();
    let labels = &mut node.metadata.labels;
    let given = [("hostname", name), ("os", &info.operating_system), ("arch", &info.architecture)];
    for (label, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
        labels.entry(format!("kubernetes.io/{label}")).or_insert_with(|| value.to_owned());
    }
    node.spec.pod_cidr.clone_from(&told.pod_cidr);
    node.spec.taints = serde_json::from_slice(&told.taints).unwrap_or_default();
    let address = |kind: &str, address: &str| NodeAddress { kind: kind.to_owned(), address: address.to_owned() };
    node.status = NodeStatus {
        capacity: told.capacity.clone().into_iter().collect(),
        allocatable: told.allocatable.clone().into_iter().collect(),
        conditions: before.map(|before| before.status.conditions.clone()).unwrap_or_default(),
        addresses: vec![address("InternalIP", &told.internal_ip), address("Hostname", name)],
        node_info: info,
    };
    node
}

/// An agent that starts again takes nothing back that a person said of its node meanwhile.
fn keep_what_a_person_said(stored: &NodeRecord, node: &mut Node) {
    let NodeRecord { node: before, agent } = stored;
    node.spec.unschedulable = before.spec.unschedulable;
    node.metadata.annotations.clone_from(&before.metadata.annotations);
    let told = std::mem::take(&mut node.metadata.labels);
    node.metadata.labels = retold(before.metadata.labels.clone(), &agent.labels, &told);
    let taints = retold(by_key(&before.spec.taints), &by_key(&agent.taints), &by_key(&node.spec.taints));
    node.spec.taints = taints.into_values().collect();
}

/// What is `stored`, with what an agent says differently from before: it `told` so, and tells so `now`.
fn retold<K: Ord + Clone, V: PartialEq + Clone>(
    mut stored: BTreeMap<K, V>,
    told: &BTreeMap<K, V>,
    now: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    for key in told.keys().filter(|key| !now.contains_key(key)) {
        stored.remove(key);
    }
    for (key, value) in now.iter().filter(|(key, value)| told.get(key) != Some(value)) {
        stored.insert(key.clone(), value.clone());
    }
    stored
}

/// A node has one taint of a key and an effect.
fn by_key(taints: &[Taint]) -> BTreeMap<(String, &'static str), Taint> {
    taints.iter().map(|taint| ((taint.key.clone(), taint.effect.as_str()), taint.clone())).collect()
}

/// Changes what a node's record says of its readiness; an empty plan where it says so already.
pub(crate) fn change(stored: &Arc<NodeRecord>, readiness: &Readiness, now: Timestamp) -> Plan {
    let mut record = NodeRecord::clone(stored);
    set_readiness(&mut record.node, readiness, now);
    if record.node == stored.node {
        return Plan::default();
    }
    let name = record.node.metadata.name.clone();
    let mut effects = vec![Effect::NodeChanged { node: name.clone() }];
    if status_of(&record.node) != status_of(&stored.node) {
        let reason = if *readiness == Readiness::Ready { "NodeReady" } else { "NodeNotReady" };
        effects.push(publish(&record.node, EventType::Normal, reason, is_now(&record.node, reason), now));
    }
    Plan { writes: vec![Write::put(node_key(&name), Record::Node(Arc::new(record)))], effects }
}

/// What a client says of a node. What it does not say stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    pub(crate) metadata: AskedMetadata,
    spec: AskedSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AskedMetadata {
    pub(crate) name: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AskedSpec {
    unschedulable: Option<bool>,
    taints: Option<Vec<Taint>>,
}

/// Changes a node, whose record has the revision `version`, as a client says.
pub(crate) fn update(
    call: CallId,
    stored: &Arc<NodeRecord>,
    version: u64,
    request: &ApplyRequest<Asked>,
    now: Timestamp,
) -> Plan {
    let name = stored.node.metadata.name.as_str();
    let changed = query::check_version(&request.resource_version, "nodes", name, Some(version))
        .and_then(|()| changed(&stored.node, &request.object, now));
    let node = match changed {
        Ok(node) => node,
        Err(status) => return Plan::only(Effect::Answer(call, Err(status))),
    };
    if node == stored.node {
        return Plan::only(Effect::Answer(call, intake::reply(ApplyResult::Unchanged, &node)));
    }
    let answer = Effect::Answer(call, intake::reply(ApplyResult::Configured, &node));
    if request.dry_run {
        return Plan::only(answer);
    }
    let record = NodeRecord { node, agent: stored.agent.clone() };
    let effects = vec![Effect::NodeChanged { node: name.to_owned() }, answer];
    Plan { writes: vec![Write::put(node_key(name), Record::Node(Arc::new(record)))], effects }
}

fn changed(stored: &Node, asked: &Asked, now: Timestamp) -> Result<Node, Status> {
    let mut node = stored.clone();
    let Asked { metadata: AskedMetadata { labels, annotations, .. }, spec: AskedSpec { unschedulable, taints } } =
        asked;
    node.spec.unschedulable = unschedulable.unwrap_or(node.spec.unschedulable);
    if let Some(labels) = labels {
        node.metadata.labels.clone_from(labels);
    }
    if let Some(annotations) = annotations {
        node.metadata.annotations.clone_from(annotations);
    }
    if let Some(taints) = taints {
        node.spec.taints.clone_from(taints);
        for taint in node.spec.taints.iter_mut().filter(|taint| taint.effect == TaintEffect::NoExecute) {
            taint.time_added = taint.time_added.or(Some(now));
        }
    }
    let faults = faults(stored, &node);
    if faults.is_empty() {
        return Ok(node);
    }
    let message = invalid_message("Node", &node.metadata.name, &faults);
    Err(Status::failure(422, "Invalid", message))
}

/// What is wrong with a change of a node. What its agent told, and what follows from its conditions, is not judged.
fn faults(stored: &Node, node: &Node) -> Vec<FieldError> {
    let labels = node.metadata.labels.iter().filter(|(key, value)| stored.metadata.labels.get(*key) != Some(value));
    let said = ObjectMeta {
        name: node.metadata.name.clone(),
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        annotations: node.metadata.annotations.clone(),
        ..ObjectMeta::default()
    };
    let mut faults = validate_names(&said);
    if node.spec.taints == stored.spec.taints {
        return faults;
    }
    faults.extend(validate_taints(&node.spec.taints));
    for key in TAINTS_OF_READINESS {
        let of = |node: &Node| node.spec.taints.iter().filter(|taint| taint.key == key).cloned().collect::<Vec<_>>();
        if of(node) != of(stored) {
            let message = format!("Forbidden: the scheduler itself adds and removes {key}, as the node comes and goes");
            faults.push(FieldError::new("spec.taints", message));
        }
    }
    faults
}

/// What its agent does not know of a node: what a person changed. The taints of readiness are no matter of the agent.
pub(crate) fn place(record: &NodeRecord) -> Option<proto::Place> {
    let NodeRecord { node, agent } = record;
    let taints = node.spec.taints.iter().filter(|taint| !TAINTS_OF_READINESS.contains(&taint.key.as_str()));
    let taints: Vec<Taint> = taints.cloned().collect();
    if node.metadata.labels == agent.labels && by_key(&taints) == by_key(&agent.taints) {
        return None;
    }
    // Taints are JSON.
    let taints = serde_json::to_vec(&taints).unwrap_or_default().into();
    Some(proto::Place { labels: node.metadata.labels.clone(), taints })
}

/// Changes what pods may have together.
pub(crate) fn change_allocatable(stored: &Arc<NodeRecord>, allocatable: BTreeMap<String, String>) -> Plan {
    let mut record = NodeRecord::clone(stored);
    record.node.status.allocatable = allocatable;
    if record.node == stored.node {
        return Plan::default();
    }
    let name = record.node.metadata.name.clone();
    let effects = vec![Effect::NodeChanged { node: name.clone() }];
    Plan { writes: vec![Write::put(node_key(&name), Record::Node(Arc::new(record)))], effects }
}

/// The condition, and the taints that follow from it (Kubernetes' node lifecycle controller).
fn set_readiness(node: &mut Node, readiness: &Readiness, now: Timestamp) {
    let (status, reason, message, taint) = match readiness {
        Readiness::Ready => ("True", "KubeletReady", "podbus-node-agent is posting ready status", None),
        Readiness::NotReady(why) => ("False", "KubeletNotReady", why.as_str(), Some(TAINT_NOT_READY)),
        Readiness::Unknown => {
            ("Unknown", "NodeStatusUnknown", "The node agent stopped posting node status.", Some(TAINT_UNREACHABLE))
        }
    };
    let before = node.status.conditions.iter().position(|c| c.kind == "Ready");
    let before = before.map(|index| node.status.conditions.remove(index));
    let same = before.as_ref().filter(|before| before.status == status);
    let condition = NodeCondition {
        kind: "Ready".to_owned(),
        status: status.to_owned(),
        // Heartbeats are not written: this is when the condition was.
        last_heartbeat_time: same.and_then(|before| before.last_heartbeat_time).or(Some(now)),
        last_transition_time: same.and_then(|before| before.last_transition_time).or(Some(now)),
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    node.status.conditions.push(condition);
    set_taints(node, taint, now);
}

fn set_taints(node: &mut Node, key: Option<&str>, now: Timestamp) {
    let since = node.spec.taints.iter().find(|t| Some(t.key.as_str()) == key && t.effect == TaintEffect::NoExecute);
    let since = since.and_then(|taint| taint.time_added).unwrap_or(now);
    node.spec.taints.retain(|taint| !TAINTS_OF_READINESS.contains(&taint.key.as_str()));
    let Some(key) = key else { return };
    for (effect, time_added) in [(TaintEffect::NoSchedule, None), (TaintEffect::NoExecute, Some(since))] {
        node.spec.taints.push(Taint { key: key.to_owned(), value: String::new(), effect, time_added });
    }
}

/// `True`, `False` or `Unknown`.
pub(crate) fn status_of(node: &Node) -> &str {
    node.status.conditions.iter().find(|c| c.kind == "Ready").map_or("Unknown", |c| c.status.as_str())
}

pub(crate) fn is_ready(node: &Node) -> bool {
    status_of(node) == "True"
}

/// The node's address, where it has one.
pub(crate) fn internal_ip(node: &Node) -> &str {
    node.status.addresses.iter().find(|a| a.kind == "InternalIP").map_or("", |a| a.address.as_str())
}

fn is_now(node: &Node, reason: &str) -> String {
    format!("Node {} status is now: {reason}", node.metadata.name)
}

fn publish(node: &Node, kind: EventType, reason: &str, message: String, now: Timestamp) -> Effect {
    Effect::Publish(Box::new(events::of_node(node, kind, reason, message, now)))
}

#[cfg(test)]
mod tests;
