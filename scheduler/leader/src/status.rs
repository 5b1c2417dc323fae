//! What a node reports of a pod. Pure.
//!
//! Status never goes back: per pod, an older (agentEpoch, sequence) changes nothing. An ack means that the report, and
//! so each exit in it, is stored.

use std::sync::Arc;

use podbus_common::fold;
use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{self, PodReport, pod_ack};
use podbus_common::subject::removal_key;

use crate::binding::{put_status, put_status_of};
use crate::cluster::{Cluster, PodName};
use crate::deletion::purges;
use crate::events;
use crate::plan::{BatchId, Effect, Object, Plan, Write};
use crate::record::StatusRecord;

/// A pod's part of a status request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reported {
    pub(crate) batch: BatchId,
    pub(crate) node: Arc<str>,
    pub(crate) agent_epoch: u64,
    pub(crate) report: Arc<PodReport>,
}

impl Reported {
    fn ack(&self, kind: pod_ack::Kind) -> Effect {
        let ack = proto::PodAck { uid: self.report.uid.clone(), sequence: self.report.sequence, kind: kind.into() };
        Effect::Ack(self.batch, ack)
    }
}

/// Which object a report is about. `None`: nothing is known of its UID.
pub(crate) fn subject_of(cluster: &Cluster, node: &str, uid: &str) -> Option<Object> {
    if let Some(name) = cluster.name_of(uid) {
        return Some(Object::Pod(name.clone()));
    }
    cluster.removal(node, uid).map(|_| Object::Removal { node: node.to_owned(), uid: uid.to_owned() })
}

/// A report of a UID that has no record: what ended is over, what runs is left to run.
pub(crate) fn unknown(reported: &Reported) -> Plan {
    let ended = reported.report.ended;
    Plan::only(reported.ack(if ended { pod_ack::Kind::Ack } else { pod_ack::Kind::Hold }))
}

/// A report of what the node was told to remove: the entry stays until it ended.
pub(crate) fn removal(reported: &Reported) -> Plan {
    let ack = reported.ack(pod_ack::Kind::Ack);
    if !reported.report.ended {
        return Plan::only(ack);
    }
    let writes = vec![Write::purge(removal_key(&reported.node, &reported.report.uid))];
    Plan { writes, effects: vec![ack] }
}

/// What was asked of a pod, as far as a report of it needs that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a PodName,
    pub(crate) uid: &'a str,
    pub(crate) node: &'a str,
    /// Its spec, and when it was deleted; its names, its UID and its node may not be there.
    pub(crate) pod: &'a Pod,
}

/// A report of a pod. `stored` and `status` are what is known of its UID; `node_ip` is the node's address.
pub(crate) fn pod(
    reported: &Reported,
    stored: Option<Asked<'_>>,
    status: Option<&Arc<StatusRecord>>,
    node_ip: &str,
    now: Timestamp,
) -> Plan {
    let report = &reported.report;
    let bound = |asked: &Asked<'_>| asked.uid == report.uid && *asked.node == *reported.node;
    let Some(Asked { name, uid, pod, .. }) = stored.filter(bound) else { return unknown(reported) };
    let known = status.map_or((0, 0), |status| (status.agent_epoch, status.sequence));
    let told = (reported.agent_epoch, report.sequence);
    let ack = reported.ack(pod_ack::Kind::Ack);
    let being_deleted = pod.metadata.deletion_timestamp.is_some();
    let is_over = report.ended && being_deleted;
    if told < known {
        // What ended stays so, whatever a store that came back knows of its life: a node counts anew when it is asked again.
        return Plan { writes: if is_over { purges(name) } else { Vec::new() }, effects: vec![ack] };
    }
    let events = (!report.events.is_empty()).then(|| Effect::PublishReported(name.clone(), reported.clone()));
    // The leader itself changed the status since, without a number: the same report makes it true again.
    let node_was_lost = status.is_some_and(|status| {
        status.status.conditions.iter().any(|c| c.kind == "Ready" && c.reason == fold::NODE_NOT_READY)
    });
    // What ended is purged below, also when the report before the purge was stored and its ack was lost.
    if told == known && !node_was_lost && !is_over {
        return Plan { writes: Vec::new(), effects: events.into_iter().chain([ack]).collect() };
    }
    let folded = fold::fold(pod, report, node_ip, status.map(|status| &status.status), now);
    // Written also when it says nothing new: the sequence must be durable before the ack.
    let writes = vec![put_status_of(name, uid, told.0, told.1, folded)];
    let mut plan = Plan { writes, effects: events.into_iter().collect() };
    if is_over {
        plan.writes.extend(purges(name));
    }
    plan.effects.push(ack);
    plan
}

/// A pod whose node does not answer: not Ready. No sequence is used up, so that the node's next report counts.
pub(crate) fn node_lost(pod: &Arc<Pod>, status: Option<&Arc<StatusRecord>>, now: Timestamp) -> Plan {
    let Some(record) = status else { return Plan::default() };
    let lost = fold::node_lost(&record.status, now);
    if lost == record.status {
        return Plan::default();
    }
    let event = Effect::Publish(Box::new(events::pod_node_not_ready(pod, now)));
    Plan { writes: vec![put_status(pod, record.agent_epoch, record.sequence, lost)], effects: vec![event] }
}

#[cfg(test)]
mod tests;
