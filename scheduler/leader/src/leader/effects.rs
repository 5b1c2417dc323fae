//! Carrying out what follows from a decision, once it is durable.

use bytes::Bytes;
use podbus_common::api::Detail;
use podbus_common::model::Event;
use podbus_common::proto::{Assignment, PodAck, Removal, StatusReply};
use podbus_common::subject::{self, removal_key};

use super::ops::Op;
use super::{BUSY_MIN, GATHER_MS_MAX, Leader, REPORTS_MAX};
use crate::cluster::PodName;
use crate::output::Output;
use crate::plan::{BatchId, CallId, Effect, Object};
use crate::status::Reported;
use crate::{events, intake, nodes, query, sync};

impl Leader {
    /// `pod_json`: the pod that they are about as it is stored, where it was written just now.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>, pod_json: Option<&Bytes>) {
        for effect in effects {
            self.carry_out_one(effect, pod_json);
        }
    }

    fn carry_out_one(&mut self, effect: Effect, pod_json: Option<&Bytes>) {
        match effect {
            Effect::Answer(call, result) => self.answer(call, result),
            Effect::AnswerPod(call, name) => {
                let pod = self.cluster.seen_pod(&name).ok_or_else(|| query::not_found("pods", &name.name));
                self.answer(call, pod.and_then(|pod| query::to_json(&pod.shown())));
            }
            Effect::AnswerApplied(call, result, name, detail) => {
                let pod = self.cluster.seen_pod(&name).ok_or_else(|| query::not_found("pods", &name.name));
                let reply = pod.and_then(|pod| match detail {
                    Detail::Full => intake::reply(result, &pod.shown()),
                    Detail::Brief => intake::reply(result, &pod.brief()),
                });
                self.answer(call, reply);
            }
            Effect::Ack(batch, ack) => self.ack(batch, ack),
            Effect::Assign(name) => self.assign(&name, pod_json),
            Effect::AssignRemoval { node, removal } => self.assign_removal(&node, removal),
            Effect::Publish(event) => self.publish(*event),
            Effect::PublishScheduled(name, at) => {
                if self.has_room_for_event()
                    && let Some(pod) = self.cluster.kept(&name)
                {
                    self.publish_made(events::scheduled(&name, pod, at));
                }
            }
            Effect::PublishReported(name, Reported { node, report, .. }) => {
                for event in &report.events {
                    if self.has_room_for_event() {
                        self.publish_made(events::of_pod_on_node(&name, &report.uid, &node, event));
                    }
                }
            }
            Effect::Release { uid } => self.core.release(&uid),
            Effect::NodeChanged { node } => self.node_changed(&node),
            Effect::Registered { call, node } => self.answer_registration(call, &node),
        }
    }

    pub(super) fn publish(&mut self, event: Event) {
        if self.has_room_for_event() {
            self.publish_made(event);
        }
    }

    /// Whether an event would be taken: one that would not is counted, and need not be made.
    fn has_room_for_event(&mut self) -> bool {
        let room = self.events_room > 0;
        self.stats.events_dropped += u64::from(!room);
        room
    }

    fn publish_made(&mut self, event: Event) {
        if let Some(event) = self.recorder.record(event) {
            self.events_room -= 1;
            self.outputs.push(Output::Publish(Box::new(event)));
        }
    }

    fn ack(&mut self, id: BatchId, ack: PodAck) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        batch.acks.push(ack);
        batch.waiting -= 1;
        if batch.waiting == 0
            && let Some(batch) = self.batches.remove(&id)
        {
            let retry_after_ms = self.gather_ms();
            let reply = StatusReply { term: Some(self.term.clone()), acks: batch.acks, retry_after_ms };
            self.send(batch.reply, &reply);
        }
    }

    /// For how long a node that reported gathers what it reports next: with many pods under way a request for each report
    /// costs as much as that pod's binding.
    fn gather_ms(&self) -> u32 {
        if self.busy.len() < BUSY_MIN {
            return 0;
        }
        let nodes = u32::try_from(self.cluster.nodes_len()).unwrap_or(u32::MAX);
        (nodes.saturating_mul(1_000) / REPORTS_MAX).min(GATHER_MS_MAX)
    }

    fn assign(&mut self, name: &PodName, json: Option<&Bytes>) {
        let Some(pod) = self.cluster.kept(name).cloned() else { return };
        self.creating.remove(&*pod.uid);
        let json = json.cloned().unwrap_or_else(|| sync::json_of(name, &pod));
        let assigned = vec![sync::assigned(&pod, json, self.cluster.pod_revision(name))];
        self.send_assignment(pod.node(), Assignment { assigned, ..Default::default() });
    }

    pub(super) fn assign_removal(&mut self, node: &str, removal: Removal) {
        let revision = self.cluster.revision_of(&removal_key(node, &removal.uid));
        let removed = vec![Removal { revision, ..removal }];
        self.send_assignment(node, Assignment { removed, ..Default::default() });
    }

    /// An assignment to a node that never registered is not sent: it syncs when it does.
    fn send_assignment(&mut self, node: &str, assignment: Assignment) {
        let Some(record) = self.cluster.node(node) else { return };
        let agent_epoch = record.agent.epoch;
        let counter = self.health.next_counter(node, self.now.instant);
        let (term, place) = (Some(self.term.clone()), nodes::place(record));
        let assignment = Assignment { term, agent_epoch, counter, place, ..assignment };
        self.send(subject::assign(node), &assignment);
    }

    /// Tells an agent to sync; nothing new is assigned by it.
    pub(super) fn nudge(&mut self, node: &str, agent_epoch: u64) {
        self.stats.nudges += 1;
        let counter = self.health.counter(node);
        let assignment =
            Assignment { term: Some(self.term.clone()), agent_epoch, counter, nudge: true, ..Default::default() };
        self.send(subject::assign(node), &assignment);
    }

    fn node_changed(&mut self, node: &str) {
        if self.cluster.node(node).is_none_or(|record| nodes::is_ready(&record.node)) {
            return;
        }
        let names: Vec<_> = self.cluster.pods_on(node).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.submit(Object::Pod(name), Op::NodeLost);
        }
    }

    fn answer_registration(&mut self, call: CallId, node: &str) {
        let Some((reply, request)) = self.registrations.remove(&call) else { return };
        self.health.heard(node, &request.instance, self.now.instant);
        let held = self.pages.remove(node).unwrap_or_default();
        self.answer_sync(node, &held, reply, true);
    }
}
