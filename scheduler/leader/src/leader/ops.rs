//! What can be decided about an object, and which pure function decides it.

use std::collections::BTreeMap;
use std::sync::Arc;

use podbus_common::api::{ApplyRequest, ApplyResult, DeleteRequest};
use podbus_common::model::Pod;
use podbus_common::proto::SyncRequest;
use podbus_common::subject;
use podbus_scheduler_core::{Decision, PodSpec};

use super::Leader;
use crate::cluster::PodName;
use crate::intake::{self, Asked, Ready, Unplaced};
use crate::nodes::{self, Readiness};
use crate::plan::{CallId, Effect, Object, Plan, Write};
use crate::status::{self, Reported};
use crate::{binding, deletion, query};

/// One decision to take. Those about pods name the UID that they were meant for: the name may have another one by now.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Of a pod: a client applies it. With its UID, should it be new.
    Apply { call: CallId, asked: Arc<Asked>, uid: String },
    /// Of a pod: a client deletes it.
    Delete { call: CallId, request: DeleteRequest },
    /// Of a pod: it has a place, under a UID of its own where an unreachable node may run it under the old one.
    Bind { uid: String, node: String, new_uid: Option<String> },
    /// Of a pod: it has none.
    Unschedulable { uid: String, message: String, nominated: String },
    /// Of a pod: it must leave for the pod `by`.
    Preempt { uid: String, by: String },
    /// Of a pod or a removal: its node reports.
    Report(Reported),
    /// Of a pod: its node is not ready.
    NodeLost,
    /// Of a pod: it bore its node's taints long enough.
    Evict { uid: String, new_uid: String },
    /// Of a node: a client applies it.
    ApplyNode { call: CallId, request: Arc<ApplyRequest<nodes::Asked>> },
    /// Of a node: it registers.
    Register { call: CallId, request: Arc<SyncRequest> },
    /// Of a node.
    Readiness(Readiness),
    /// Of a node.
    Allocatable(BTreeMap<String, String>),
    /// Of anything: it is written back as it was.
    Restore(Vec<Write>),
    /// Of what has no use any more: a removal, or the status of a pod that is gone.
    Drop,
}

impl Op {
    /// The pod for which a place was assumed before the write.
    pub(super) fn assumed_uid(&self) -> Option<String> {
        match self {
            Self::Apply { uid, .. } => Some(uid.clone()),
            Self::Bind { uid, new_uid, .. } => Some(new_uid.as_ref().unwrap_or(uid).clone()),
            _ => None,
        }
    }
}

impl Leader {
    /// Decides. What was decided in memory only, a place in the core, is undone when the write conflicts.
    pub(super) fn plan(&mut self, object: &Object, op: &Op) -> Plan {
        if let Op::Restore(writes) = op {
            return Plan { writes: writes.clone(), effects: Vec::new() };
        }
        match object {
            Object::Pod(name) => self.plan_pod(name, op),
            Object::Node(name) => self.plan_node(name, op),
            Object::Removal { node, uid } => match op {
                Op::Report(reported) => status::removal(reported),
                Op::Drop => Plan { writes: vec![Write::purge(subject::removal_key(node, uid))], effects: Vec::new() },
                _ => Plan::default(),
            },
        }
    }

    fn plan_pod(&mut self, name: &PodName, op: &Op) -> Plan {
        let now = self.now.wall;
        if let Op::Report(reported) = op {
            return self.plan_report(name, reported);
        }
        let stored = self.cluster.pod(name);
        let record = self.cluster.status(name);
        match op {
            Op::Apply { call, asked, uid } => {
                let version = self.cluster.seen_pod(name).map(|pod| pod.revision);
                match (query::check_version(&asked.resource_version, "pods", &name.name, version), &stored) {
                    (Err(status), _) => Plan::only(Effect::Answer(*call, Err(status))),
                    (Ok(()), Some(stored)) => {
                        let new_uid = self.is_doubtful(name).then_some(uid.as_str());
                        intake::plan_update(*call, stored, asked, new_uid, self.settings.toleration_seconds)
                    }
                    (Ok(()), None) => self.plan_create(*call, asked, uid),
                }
            }
            Op::Delete { call, request } => {
                let known = stored.as_ref().is_some_and(|pod| self.cluster.node(&pod.spec.node_name).is_some());
                deletion::delete(*call, name, stored.as_ref(), request, known, now)
            }
            Op::Bind { uid, node, new_uid } => {
                self.creating.remove(uid);
                binding::bind(stored.as_ref(), uid, node, new_uid.as_deref(), now)
            }
            Op::Unschedulable { uid, message, nominated } => {
                let status = record.as_ref().map(|record| &record.status);
                binding::unschedulable(stored.as_ref(), status, uid, (message, nominated), now)
            }
            Op::Preempt { uid, by } => binding::preempt(stored.as_ref(), record.as_ref(), uid, by, now),
            Op::NodeLost => stored.map_or_else(Plan::default, |pod| status::node_lost(&pod, record.as_ref(), now)),
            Op::Evict { uid, new_uid } => {
                let node = stored.as_ref().and_then(|pod| self.cluster.node(&pod.spec.node_name));
                let answers = node.is_some_and(|record| nodes::is_ready(&record.node));
                binding::evict(stored.as_ref(), uid, new_uid.clone(), answers, now)
            }
            // A status without its pod.
            Op::Drop if stored.is_none() => Plan { writes: vec![Write::purge(name.status_key())], effects: Vec::new() },
            Op::Report(_)
            | Op::Drop
            | Op::ApplyNode { .. }
            | Op::Register { .. }
            | Op::Readiness(_)
            | Op::Allocatable(_)
            | Op::Restore(_) => Plan::default(),
        }
    }

    fn plan_node(&mut self, name: &str, op: &Op) -> Plan {
        let stored = self.cluster.node(name);
        match (op, stored) {
            (Op::ApplyNode { call, request }, Some(stored)) => {
                let version = self.cluster.revision_of(&subject::node_key(name));
                nodes::update(*call, stored, version, request, self.now.wall)
            }
            (Op::ApplyNode { call, .. }, None) => {
                Plan::only(Effect::Answer(*call, Err(query::not_found("nodes", name))))
            }
            (Op::Register { call, request }, stored) => nodes::register(*call, request, stored, self.now.wall),
            (Op::Readiness(readiness), Some(stored)) => nodes::change(stored, readiness, self.now.wall),
            (Op::Allocatable(allocatable), Some(stored)) => nodes::change_allocatable(stored, allocatable.clone()),
            _ => Plan::default(),
        }
    }

    /// A report that waited while its pod was replaced is about the removal by now.
    fn plan_report(&mut self, name: &PodName, reported: &Reported) -> Plan {
        match status::subject_of(&self.cluster, &reported.node, &reported.report.uid) {
            Some(Object::Pod(now)) if now == *name => {}
            Some(other) => {
                self.submit(other, Op::Report(reported.clone()));
                return Plan::default();
            }
            None => return status::unknown(reported),
        }
        let node_ip = self.cluster.node(&reported.node).map_or("", |record| nodes::internal_ip(&record.node));
        let Some(kept) = self.cluster.kept(name) else { return status::unknown(reported) };
        // What most pods share says all that is needed; of one that is deleted also when.
        let whole = kept.is_terminating().then(|| kept.pod(name));
        let pod = whole.as_ref().unwrap_or(kept.template());
        let asked = status::Asked { name, uid: &kept.uid, node: kept.node(), pod };
        status::pod(reported, Some(asked), self.cluster.status(name).as_ref(), node_ip, self.now.wall)
    }

    fn plan_create(&mut self, call: CallId, asked: &Asked, uid: &str) -> Plan {
        let now = self.now.wall;
        let mut pod = match intake::create(asked, uid.to_owned(), self.settings.toleration_seconds, now) {
            Err(status) => return Plan::only(Effect::Answer(call, Err(status))),
            Ok(pod) if asked.dry_run => {
                return Plan::only(Effect::Answer(call, intake::reply(ApplyResult::Created, &pod)));
            }
            Ok(pod) => pod,
        };
        // As in Kubernetes, who names a node goes around the scheduler, and the node may refuse.
        let unplaced = if pod.spec.node_name.is_empty() {
            self.place(&mut pod, asked.ready.as_ref())
        } else {
            self.core.assume(uid, &pod.spec.node_name, &binding::spec(&pod));
            None
        };
        if unplaced.is_some() {
            self.creating.insert(uid.to_owned(), PodName::of(&pod));
        }
        intake::plan_create(call, pod, asked.detail, unplaced.as_ref(), now)
    }

    /// Places a new pod at once where that is possible; otherwise says why it must wait.
    fn place(&mut self, pod: &mut Pod, ready: Option<&Arc<Ready>>) -> Option<Unplaced> {
        if !pod.spec.scheduling_gates.is_empty() {
            return None;
        }
        let spec = self.placing(pod, ready);
        self.core.wait(&pod.metadata.uid, &spec);
        let mut unplaced = None;
        while self.core.active_len() > 0 {
            for decision in self.core.schedule(usize::MAX, self.now_ms()) {
                self.stats.count(&decision);
                match decision {
                    Decision::Bind { uid, node } if uid == pod.metadata.uid => {
                        pod.spec.node_name = node;
                        unplaced = None;
                    }
                    Decision::Unschedulable { uid, message } if uid == pod.metadata.uid => {
                        unplaced = Some(Unplaced { message, nominated: String::new() });
                    }
                    Decision::Preempt { uid, node, victims, message } if uid == pod.metadata.uid => {
                        self.submit_victims(victims, &uid);
                        unplaced = Some(Unplaced { message, nominated: node });
                    }
                    // Others waited longer.
                    other => self.submit_decision(other),
                }
            }
        }
        unplaced
    }

    /// What decides where a new pod may go: that of the one before, where they are alike.
    fn placing(&mut self, pod: &Pod, ready: Option<&Arc<Ready>>) -> Arc<PodSpec> {
        if let (Some((known, spec)), Some(ready)) = (&self.placed, ready)
            && Arc::ptr_eq(known, ready)
            && (&spec.namespace, &spec.labels) == (&pod.metadata.namespace, &pod.metadata.labels)
        {
            return Arc::clone(spec);
        }
        let spec = Arc::new(binding::spec(pod));
        self.placed = ready.map(|ready| (Arc::clone(ready), Arc::clone(&spec)));
        spec
    }

    fn submit_victims(&mut self, victims: Vec<String>, by: &str) {
        for uid in victims {
            if let Some(name) = self.cluster.name_of(&uid).or_else(|| self.creating.get(&uid)).cloned() {
                self.submit(Object::Pod(name), Op::Preempt { uid, by: by.to_owned() });
            }
        }
    }

    /// A decision of the core about a pod that waited.
    pub(super) fn submit_decision(&mut self, decision: Decision) {
        let (uid, op) = match decision {
            Decision::Bind { uid, node } => {
                let new_uid = self.renew_uid(&uid, &node);
                (uid.clone(), Op::Bind { uid, node, new_uid })
            }
            Decision::Unschedulable { uid, message } => {
                (uid.clone(), Op::Unschedulable { uid, message, nominated: String::new() })
            }
            Decision::Preempt { uid, node, victims, message } => {
                self.submit_victims(victims, &uid);
                (uid.clone(), Op::Unschedulable { uid, message, nominated: node })
            }
        };
        match self.cluster.name_of(&uid).or_else(|| self.creating.get(&uid)).cloned() {
            Some(name) => self.submit(Object::Pod(name), op),
            // It is gone.
            None => {
                self.core.release(&uid);
                self.core.dequeue(&uid);
            }
        }
    }

    /// Nobody knows whether a pod that waits since before the last cold start was bound already, to a node that cannot be
    /// reached now: it is written, and so bound, under a UID that no node can have.
    fn is_doubtful(&self, name: &PodName) -> bool {
        let waits = self.cluster.kept(name).is_some_and(|pod| pod.node().is_empty());
        waits && self.cluster.pod_revision(name) < self.lineage.is_whole_since()
    }

    fn renew_uid(&mut self, uid: &str, node: &str) -> Option<String> {
        let name = self.cluster.name_of(uid)?;
        let pod = self.cluster.kept(name).filter(|_| self.is_doubtful(name))?;
        let spec = binding::spec(pod.template());
        let new_uid = self.random.uid();
        self.core.release(uid);
        self.core.assume(&new_uid, node, &spec);
        Some(new_uid)
    }
}
