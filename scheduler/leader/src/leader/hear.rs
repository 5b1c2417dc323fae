//! Taking in what clients and nodes say.

use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use podbus_common::api::{ApplyRequest, DeleteRequest, GetRequest, ListRequest, Status, WatchReply, WatchRequest};
use podbus_common::fold;
use podbus_common::model::PodCondition;
use podbus_common::proto::{
    Heartbeat, HeldPod, PodAck, Refusal, StatusReply, StatusRequest, SyncReply, SyncRequest, pod_ack, refusal,
};
use podbus_common::subject::{self, Verb};

use super::ops::Op;
use super::recover::{REBUILDING, RETRY_AFTER_MS};
use super::{Batch, Leader};
use crate::cluster::PodName;
use crate::lease::LeaseLost;
use crate::nodes::{self, Readiness};
use crate::plan::{CallId, Object};
use crate::query::{self, Resource};
use crate::status::{self, Reported};
use crate::watch::Shown;
use crate::{events, sync};

/// Pods that one agent may hold.
const HELD_MAX: usize = 100_000;

// === Clients ===

impl Leader {
    pub(super) fn hear_call(&mut self, call: CallId, subject: &str, payload: &[u8]) {
        match self.take_call(call, subject, payload) {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer(call, Ok(answer)),
            Err(status) => self.answer(call, Err(status)),
        }
    }

    /// `None`: the answer comes once it is durable.
    fn take_call(&mut self, call: CallId, subject: &str, payload: &[u8]) -> Result<Option<Bytes>, Status> {
        let unknown =
            || Status::failure(404, "NotFound", format!("the server could not find the requested resource: {subject}"));
        let (namespace, resource, verb) = subject::parse_api(subject).ok_or_else(unknown)?;
        let resource = Resource::parse(resource).ok_or_else(unknown)?;
        if self.recovers() && resource == Resource::Pods {
            return Err(query::unavailable(REBUILDING));
        }
        match (verb, resource) {
            (Verb::Get, _) => {
                query::get(&self.cluster, resource, namespace, &query::read::<GetRequest>(payload)?).map(Some)
            }
            (Verb::List, _) => {
                let request: ListRequest = query::read(payload)?;
                query::list(&self.cluster, resource, namespace, &request, self.applied()).map(Some)
            }
            (Verb::Watch, _) => self.take_watch(resource, namespace, &query::read(payload)?).map(Some),
            (Verb::Apply, Resource::Pods) => {
                self.take_apply(call, namespace, payload)?;
                Ok(None)
            }
            (Verb::Delete, Resource::Pods) => {
                let request: DeleteRequest = query::read(payload)?;
                let object = Object::Pod(PodName::new(query::namespace_of(namespace)?, request.name.as_str()));
                self.submit(object, Op::Delete { call, request });
                Ok(None)
            }
            (Verb::Explain, Resource::Pods) => self.explain(namespace, &query::read(payload)?).map(Some),
            (Verb::Plan, Resource::Pods) => self.plan_pods(namespace, &query::read(payload)?).map(Some),
            (Verb::Explain | Verb::Plan, Resource::Nodes) => Err(unknown()),
            (Verb::Apply, Resource::Nodes) => {
                // Who may do everything in one namespace may not therefore change nodes, which are in none.
                if namespace.is_some() {
                    return Err(unknown());
                }
                let request: ApplyRequest<nodes::Asked> = query::read(payload)?;
                let object = Object::Node(request.object.metadata.name.clone());
                self.submit(object, Op::ApplyNode { call, request: Arc::new(request) });
                Ok(None)
            }
            (Verb::Delete, Resource::Nodes) => {
                let message = "nodes come and go with their agents: they cannot be deleted by hand";
                Err(Status::failure(405, "MethodNotAllowed", message))
            }
        }
    }

    fn take_watch(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        request: &WatchRequest,
    ) -> Result<Bytes, Status> {
        let objects: Vec<Object> = match resource {
            Resource::Pods => self.cluster.pods_after(None).cloned().map(Object::Pod).collect(),
            Resource::Nodes => self.cluster.nodes().map(|(name, _)| Object::Node(name.to_owned())).collect(),
        };
        let there: Vec<Shown> = objects.iter().filter_map(|object| self.shown(object)).collect();
        let applied = self.applied();
        let (watch, messages) =
            self.watches.open(resource, namespace, request, there.into_iter(), applied, self.now.instant)?;
        for message in messages {
            self.tell(message);
        }
        query::to_json(&WatchReply { control: format!("{}.{watch}", self.control) })
    }
}

// === Nodes ===

impl Leader {
    pub(super) fn hear_sync(&mut self, request: SyncRequest, reply: String) -> Result<(), LeaseLost> {
        let node = request.node.clone();
        self.hear_marks(&node, [request.mark.as_ref(), request.earlier_mark.as_ref()]);
        let record = self.cluster.node(&node);
        if request.agent_epoch == 0 {
            let other_alive = self.health.other_alive(&node, &request.instance, self.now.instant);
            if let Some(refusal) = nodes::refuse(&request, record.map(|record| &**record), other_alive) {
                if refusal.reason() == refusal::Reason::InstanceAlive {
                    self.health.knocked(&node, self.now.instant);
                }
                self.refuse_sync(reply, refusal);
                return Ok(());
            }
        } else if !self.recovers() && record.is_none_or(|record| record.agent.epoch != request.agent_epoch) {
            let message = format!("agent epoch {} is not the one of the last registration", request.agent_epoch);
            let reason = refusal::Reason::AgentEpochStale.into();
            self.refuse_sync(reply, Refusal { reason, message });
            return Ok(());
        }
        let pages = self.pages.entry(node.clone()).or_default();
        if request.page == 0 {
            pages.clear();
        }
        if pages.len() < HELD_MAX {
            pages.extend(request.held.iter().cloned());
        }
        if !request.last_page {
            self.send(reply, &SyncReply { term: Some(self.term.clone()), ..Default::default() });
            return Ok(());
        }
        if self.recovers() {
            self.health.heard(&node, &request.instance, self.now.instant);
            let held = self.pages.remove(&node).unwrap_or_default();
            self.take_stock(&node, &held, request.inventory, reply);
            return Ok(());
        }
        let epoch_seen = request.mark.as_ref().and_then(|mark| mark.term.as_ref()).map_or(0, |term| term.epoch);
        if epoch_seen > self.term.epoch {
            // It would refuse the answer.
            return Err(LeaseLost::HigherEpoch(epoch_seen));
        }
        if request.agent_epoch == 0 {
            self.registrations_last += 1;
            let (call, request) = (self.registrations_last, Arc::new(request));
            self.registrations.insert(call, (reply, Arc::clone(&request)));
            self.submit(Object::Node(node), Op::Register { call, request });
            return Ok(());
        }
        self.health.heard(&node, &request.instance, self.now.instant);
        let held = self.pages.remove(&node).unwrap_or_default();
        let wants_states = self.health.wants_states(&node);
        self.answer_sync(&node, &held, reply, wants_states);
        Ok(())
    }

    fn refuse_sync(&mut self, reply: String, refusal: Refusal) {
        let message = SyncReply { term: Some(self.term.clone()), refusal: Some(refusal), ..Default::default() };
        self.send(reply, &message);
    }

    /// Answers an agent that holds `held`; what it must remove and does not hold is told too, so that it says `ended`.
    pub(super) fn answer_sync(&mut self, node: &str, held: &[HeldPod], reply: String, send_all_states: bool) {
        let Some(record) = self.cluster.node(node) else { return };
        let (epoch, counter) = (record.agent.epoch, self.health.counter(node));
        let answer = sync::reply(&self.cluster, &self.lineage, node, held, self.term.clone(), epoch, counter);
        self.send(reply, &SyncReply { send_all_states, ..answer });
        for removal in sync::unheld_removals(&self.cluster, node, held) {
            self.assign_removal(node, removal);
        }
    }

    pub(super) fn hear_status(&mut self, request: StatusRequest, reply: String) {
        if self.recovers() {
            let term = Some(self.term.clone());
            return self.send(reply, &StatusReply { term, acks: Vec::new(), retry_after_ms: RETRY_AFTER_MS });
        }
        let Some(record) = self.cluster.node(&request.node).cloned() else { return };
        for event in &request.node_events {
            self.publish(events::of_node_by_agent(&record.node, event));
        }
        if request.agent_epoch != record.agent.epoch || request.pods.is_empty() {
            let retry =
                |uid: &String, sequence| PodAck { uid: uid.clone(), sequence, kind: pod_ack::Kind::Retry.into() };
            let acks = request.pods.iter().map(|report| retry(&report.uid, report.sequence)).collect();
            return self.send(reply, &StatusReply { term: Some(self.term.clone()), acks, retry_after_ms: 0 });
        }
        let node: Arc<str> = request.node.as_str().into();
        self.batches_last += 1;
        let batch = self.batches_last;
        self.batches.insert(batch, Batch { reply, waiting: request.pods.len(), acks: Vec::new() });
        for report in request.pods {
            if let Some(uids) = self.unreported.get_mut(&request.node) {
                uids.remove(report.uid.as_str());
            }
            let object = status::subject_of(&self.cluster, &request.node, &report.uid);
            let (node, agent_epoch) = (Arc::clone(&node), request.agent_epoch);
            let reported = Reported { batch, node, agent_epoch, report: Arc::new(report) };
            match object {
                Some(object) => self.submit(object, Op::Report(reported)),
                None => self.carry_out(status::unknown(&reported).effects, None),
            }
        }
    }

    pub(super) fn hear_heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), LeaseLost> {
        if heartbeat.higher_epoch > self.term.epoch {
            return Err(LeaseLost::HigherEpoch(heartbeat.higher_epoch));
        }
        let (node, now) = (&heartbeat.node, self.now.instant);
        self.hear_marks(node, [heartbeat.mark.as_ref(), heartbeat.earlier_mark.as_ref()]);
        if self.recovers() {
            self.health.heard(node, &heartbeat.instance, now);
            if heartbeat.agent_epoch > 0 && self.lacks_inventory(node) && self.health.nudge(node, || true, now) {
                self.nudge(node, heartbeat.agent_epoch);
            }
            return Ok(());
        }
        let Some(record) = self.cluster.node(node).filter(|r| r.agent.epoch == heartbeat.agent_epoch).cloned() else {
            // Its sync tells it to register anew.
            if heartbeat.agent_epoch > 0 && self.health.nudge(node, || true, now) {
                self.nudge(node, heartbeat.agent_epoch);
            }
            return Ok(());
        };
        if self.health.is_new(node) {
            // The leader before may have marked its pods, and ended before it heard of them again.
            self.health.want_states(node);
        }
        self.health.heard(node, &heartbeat.instance, now);
        self.hear_readiness(heartbeat, nodes::status_of(&record.node));
        // Not when they are asked for, as the answer may be lost: when no pod is marked any more.
        let came = || !self.marks_pods_of(node) && self.all_reported(node);
        if self.health.wants_states(node) && nodes::is_ready(&record.node) && came() {
            self.health.has_states(node);
            self.unreported.remove(node);
        }
        let (told, stored) = (&heartbeat.allocatable, &record.node.status.allocatable);
        let same = told.len() == stored.len() && told.iter().all(|(name, amount)| stored.get(name) == Some(amount));
        if !told.is_empty() && !same {
            let allocatable = told.clone().into_iter().collect();
            self.submit(Object::Node(node.clone()), Op::Allocatable(allocatable));
        }
        let behind = heartbeat.leader_epoch == self.term.epoch && heartbeat.counter < self.health.counter(node);
        // A removal of what it does not hold is in no digest.
        let cluster = &self.cluster;
        let differs = || behind || cluster.owes_removal(node) || heartbeat.digest[..] != cluster.digest_of(node)[..];
        if self.health.nudge(node, differs, now) {
            tracing::debug!(node, behind, "told an agent to sync");
            self.nudge(node, record.agent.epoch);
        }
        Ok(())
    }

    fn hear_readiness(&mut self, heartbeat: &Heartbeat, before: &str) {
        let readiness = match heartbeat.not_ready_message.as_str() {
            "" => Readiness::Ready,
            why => Readiness::NotReady(why.to_owned()),
        };
        if before != "True" && readiness == Readiness::Ready {
            // What its pods are by now is not known: those that run become Ready again.
            self.health.want_states(&heartbeat.node);
        }
        let object = Object::Node(heartbeat.node.clone());
        if (before != "True" || readiness != Readiness::Ready) && !self.busy.contains_key(&object) {
            self.submit(object, Op::Readiness(readiness));
        }
    }

    /// Whether no pod of the node is left whose state may be lost with the store.
    fn all_reported(&self, node: &str) -> bool {
        let gone = |uid: &Arc<str>| self.cluster.name_of(uid).is_none();
        self.unreported.get(node).is_none_or(|uids| uids.iter().all(gone))
    }

    /// Whether a pod of the node is shown as one whose node does not answer, or is about to be.
    fn marks_pods_of(&self, node: &str) -> bool {
        let marks = |c: &PodCondition| c.kind == "Ready" && c.reason == fold::NODE_NOT_READY;
        self.cluster.pods_on(node).any(|(name, _)| {
            let status = self.cluster.kept_status_of(name);
            let busy = self.busy.get(&Object::Pod(name.clone()));
            status.is_some_and(|status| status.template().conditions.iter().any(marks))
                || busy
                    .is_some_and(|busy| iter::once(&busy.op).chain(&busy.waiting).any(|op| matches!(op, Op::NodeLost)))
        })
    }
}
