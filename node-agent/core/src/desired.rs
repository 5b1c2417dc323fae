//! What this node should run, as far as its agent knows: pure, no bus, no disk, no clock.
//!
//! Every change also yields [`Record`]s; replayed in order they give the same set again. The rules are those of
//! sections 3 and 5 of the protocol: a lower epoch or another agent epoch changes nothing, a gap in the counter means
//! sync, removal needs a record of the leader's, and a UID that ended never starts again.

mod record;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use podbus_common::digest;
use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{
    AssignedPod, Assignment, HeldPod, Mark, Removal, SyncReply, Term, Verdict, refusal, verdict,
};
use serde_json::value::RawValue;

pub use self::record::Record;
use self::record::held_records;
use crate::admission::Claim;

/// How long a UID that ended is remembered, seconds: seven days.
const LEDGER_SECONDS: i64 = 7 * 24 * 3600;

/// One pod of the node.
#[derive(Debug, Clone)]
pub struct Held {
    /// The object as assigned.
    pub pod: Arc<Pod>,
    /// The bytes that `pod` was read from.
    pub json: Arc<RawValue>,
    /// What `pod` takes from the node.
    pub claim: Arc<Claim>,
    /// Of the object.
    pub generation: u64,
    /// The KV revision of the object.
    pub revision: u64,
    /// Of the leader that assigned it; 0: only the runtime knew of it.
    pub epoch: u64,
    /// When it passed admission: its start time.
    pub admitted: Option<Timestamp>,
    /// Reason and message of its failure on this node.
    pub failed: Option<(String, String)>,
    /// It must go though its object is gone: the grace given for that, seconds.
    pub removal: Option<u32>,
    /// When its containers are killed at the latest; set once it must end.
    pub deadline: Option<Timestamp>,
    /// The leader has no record of it: it runs on and does not count for the digest.
    pub on_hold: bool,
}

impl Held {
    /// Whether it was deleted, by its object or by a removal.
    pub(crate) fn must_go(&self) -> bool {
        self.removal.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }

    fn told(&self, uid: &str) -> HeldPod {
        HeldPod {
            uid: uid.to_owned(),
            namespace: self.pod.metadata.namespace.clone(),
            name: self.pod.metadata.name.clone(),
            generation: self.generation,
            revision: self.revision,
            epoch: self.epoch,
            ..Default::default()
        }
    }
}

/// A UID that ended here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedPod {
    /// Of the pod.
    pub namespace: String,
    /// Of the pod.
    pub name: String,
    /// When.
    pub at: Timestamp,
    /// The leader has acked it.
    pub acked: bool,
}

impl EndedPod {
    fn told(&self, uid: &str) -> HeldPod {
        let (namespace, name) = (self.namespace.clone(), self.name.clone());
        HeldPod { uid: uid.to_owned(), namespace, name, ended: true, ..Default::default() }
    }
}

/// What a message changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// UIDs whose entry is new or another one now.
    pub changed: Vec<String>,
    /// UIDs that ended here and that the leader asks for again: report their end once more.
    pub ended: Vec<String>,
    /// It was of this registration, and not older than what was heard before.
    pub heard: bool,
    /// Ask the leader for the differences.
    pub sync: bool,
    /// The message was of a term below this one and was refused.
    pub refused_for: Option<u64>,
}

/// The set, and how far the agent has heard.
#[derive(Debug, Default)]
pub struct DesiredSet {
    /// Changed through [`Self::pods_mut`] only.
    pods: BTreeMap<String, Held>,
    /// Of `pods` as they are: each heartbeat tells it.
    digest: OnceLock<[u8; 32]>,
    ended: BTreeMap<String, EndedPod>,
    term: Term,
    /// Of the assignments of this term that were seen.
    counter: u64,
    revision: u64,
    /// Of the last term before this one whose leader answered.
    earlier: Option<Mark>,
    /// Of this registration; 0: not registered.
    agent_epoch: u64,
    /// The highest ever.
    agent_epoch_seen: u64,
    records: Vec<Record>,
}

// === Reading ===

impl DesiredSet {
    /// All pods, sorted by UID.
    pub fn pods(&self) -> &BTreeMap<String, Held> {
        &self.pods
    }

    /// One pod.
    pub fn get(&self, uid: &str) -> Option<&Held> {
        self.pods.get(uid)
    }

    /// One that ended here.
    pub fn ended(&self, uid: &str) -> Option<&EndedPod> {
        self.ended.get(uid)
    }

    /// Those that ended and whose end the leader has not acked.
    pub fn unacked_ends(&self) -> impl Iterator<Item = (&String, &EndedPod)> {
        self.ended.iter().filter(|(_, ended)| !ended.acked)
    }

    /// The leader's term as last seen.
    pub fn leader_epoch(&self) -> u64 {
        self.term.epoch
    }

    /// Of the last assignment seen.
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// Of this registration; 0 before it.
    pub fn agent_epoch(&self) -> u64 {
        self.agent_epoch
    }

    /// The highest agent epoch that this node ever held.
    pub fn agent_epoch_seen(&self) -> u64 {
        self.agent_epoch_seen
    }

    /// The newest that was seen of the store.
    pub fn mark(&self) -> Mark {
        Mark { term: Some(self.term.clone()), revision: self.revision }
    }

    /// What both sides compare. What goes by a removal and what is on hold has no object, so it does not count.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let assigned = self.pods.iter().filter(|(_, held)| held.removal.is_none() && !held.on_hold);
            digest::desired_set(
                assigned
                    .map(|(uid, held)| (uid.as_str(), held.generation, held.pod.metadata.deletion_timestamp.is_some())),
            )
        })
    }

    fn pods_mut(&mut self) -> &mut BTreeMap<String, Held> {
        self.digest.take();
        &mut self.pods
    }

    /// All that is held, and what ended without an ack, for a sync.
    pub fn held(&self) -> Vec<HeldPod> {
        let pods = self.pods.iter().map(|(uid, held)| held.told(uid));
        pods.chain(self.unacked_ends().map(|(uid, ended)| ended.told(uid))).collect()
    }

    /// Everything: each pod's object, and the whole ledger. What is being removed counts as ended, since nobody may put
    /// it back.
    pub fn inventory(&self) -> Vec<HeldPod> {
        let pods = self.pods.iter().map(|(uid, held)| HeldPod {
            ended: held.removal.is_some(),
            pod: held.json.get().as_bytes().to_vec().into(),
            ..held.told(uid)
        });
        pods.chain(self.ended.iter().map(|(uid, ended)| ended.told(uid))).collect()
    }

    /// The newest that was seen of the last term whose leader answered a sync, until another leader has: one that took a
    /// store which went back in time learns from it.
    pub fn earlier_mark(&self) -> Option<Mark> {
        self.earlier.clone()
    }
}

// === The leader's messages ===

impl DesiredSet {
    /// Takes in an assignment.
    pub(crate) fn handle_assignment(&mut self, assignment: &Assignment, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        let term = assignment.term.clone().unwrap_or_default();
        if self.agent_epoch == 0 || assignment.agent_epoch != self.agent_epoch {
            return applied;
        }
        if term.epoch < self.term.epoch {
            applied.refused_for = Some(self.term.epoch);
            return applied;
        }
        self.enter_term(term);
        applied.heard = true;
        applied.sync = assignment.nudge || assignment.counter != self.counter + 1;
        self.counter = self.counter.max(assignment.counter);
        for pod in &assignment.assigned {
            self.put(pod, &mut applied);
        }
        for removal in &assignment.removed {
            self.remove(removal, now, &mut applied);
        }
        self.note_mark();
        applied
    }

    /// Takes in the answer to a registration or a sync, unless it was a refusal.
    pub(crate) fn handle_sync_reply(&mut self, reply: &SyncReply, now: Timestamp) -> Applied {
        let mut applied = Applied::default();
        let refused = reply.refusal.as_ref().is_some_and(|r| r.reason() != refusal::Reason::None);
        let term = reply.term.clone().unwrap_or_default();
        if refused || reply.retry_after_ms > 0 {
            return applied;
        }
        if term.epoch < self.term.epoch {
            // Also to a registration: whoever leads over a store that went back must take a term above all that were.
            applied.refused_for = Some(self.term.epoch);
            return applied;
        }
        let is_old = term.epoch == self.term.epoch && reply.counter < self.counter;
        if is_old && reply.agent_epoch == self.agent_epoch {
            // Assignments overtook it: what it says is old.
            applied.sync = true;
            return applied;
        }
        if reply.agent_epoch != self.agent_epoch {
            self.agent_epoch = reply.agent_epoch;
            self.agent_epoch_seen = self.agent_epoch_seen.max(reply.agent_epoch);
            self.records.push(Record::Agent { agent_epoch: self.agent_epoch_seen });
        }
        self.enter_term(term);
        applied.heard = true;
        // It judged what this agent has seen.
        self.earlier = None;
        self.counter = reply.counter;
        self.revision = self.revision.max(reply.revision);
        for pod in &reply.missing {
            self.put(pod, &mut applied);
        }
        for verdict in &reply.verdicts {
            self.judge(verdict, now, &mut applied);
        }
        applied.sync = reply.more;
        self.note_mark();
        self.records.push(Record::Judged);
        applied
    }

    /// The agent must register anew: until then it accepts no assignment.
    pub(crate) fn deregister(&mut self) {
        self.agent_epoch = 0;
    }

    fn enter_term(&mut self, term: Term) {
        if term != self.term {
            // A leader that was gone before it answered has judged nothing: what was seen before it counts on.
            if self.term.epoch > 0 && self.earlier.is_none() {
                self.earlier = Some(self.mark());
            }
            self.term = term;
            self.counter = 0;
            // Revisions of a new lineage may be lower: the mark is of this term.
            self.revision = 0;
        }
    }

    fn note_mark(&mut self) {
        let Term { epoch, nonce } = self.term.clone();
        self.records.push(Record::Mark { epoch, nonce, revision: self.revision });
    }

    fn put(&mut self, assigned: &AssignedPod, applied: &mut Applied) {
        let uid = &assigned.uid;
        if let Some(ended) = self.ended.get_mut(uid) {
            ended.acked = false;
            return applied.ended.push(uid.clone());
        }
        self.revision = self.revision.max(assigned.revision);
        // Revisions begin anew in a store that was rebuilt: the epoch counts first.
        let newest = (assigned.generation, self.term.epoch, assigned.revision);
        if let Some(held) = self.pods_mut().get_mut(uid) {
            held.on_hold = false;
            if (held.generation, held.epoch, held.revision) >= newest {
                return;
            }
        }
        let Some((pod, json)) = read_pod(&assigned.pod, uid) else { return };
        let (generation, revision) = (assigned.generation, assigned.revision);
        let epoch = self.term.epoch;
        let written = RawValue::to_owned(&json);
        self.records.push(Record::Pod { uid: uid.clone(), generation, revision, epoch, pod: written });
        self.insert(uid, pod, json, (generation, epoch, revision));
        applied.changed.push(uid.clone());
    }

    fn remove(&mut self, removal: &Removal, now: Timestamp, applied: &mut Applied) {
        let Removal { uid, namespace, name, revision, grace_period_seconds } = removal.clone();
        self.revision = self.revision.max(revision);
        if let Some(ended) = self.ended.get_mut(&uid) {
            ended.acked = false;
            return applied.ended.push(uid);
        }
        if self.pods.contains_key(&uid) {
            return self.mark_removed(&uid, grace_period_seconds, applied);
        }
        // It was never here, and now it never will be: a late assignment finds it in the ledger.
        self.records.push(Record::Ended {
            uid: uid.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            unix_ms: now.unix_ms,
        });
        self.ended.insert(uid.clone(), EndedPod { namespace, name, at: now, acked: false });
        applied.ended.push(uid);
    }

    fn judge(&mut self, verdict: &Verdict, now: Timestamp, applied: &mut Applied) {
        let uid = verdict.uid.clone();
        match verdict.kind() {
            verdict::Kind::Keep => self.hold(&uid, false),
            verdict::Kind::Hold => self.hold(&uid, true),
            verdict::Kind::Remove if self.pods.contains_key(&uid) => {
                self.mark_removed(&uid, verdict.grace_period_seconds, applied);
            }
            verdict::Kind::Remove => {
                let removal = Removal { uid, grace_period_seconds: verdict.grace_period_seconds, ..Default::default() };
                self.remove(&removal, now, applied);
            }
        }
    }

    fn hold(&mut self, uid: &str, on_hold: bool) {
        if let Some(held) = self.pods_mut().get_mut(uid) {
            held.on_hold = on_hold;
        }
    }

    fn mark_removed(&mut self, uid: &str, grace_period_seconds: u32, applied: &mut Applied) {
        let Some(held) = self.pods_mut().get_mut(uid) else { return };
        if held.removal.is_some_and(|before| before <= grace_period_seconds) {
            return;
        }
        held.removal = Some(grace_period_seconds);
        self.records.push(Record::Removal { uid: uid.to_owned(), grace_period_seconds });
        applied.changed.push(uid.to_owned());
    }

    fn insert(
        &mut self,
        uid: &str,
        pod: Arc<Pod>,
        json: Arc<RawValue>,
        (generation, epoch, revision): (u64, u64, u64),
    ) {
        let claim = Arc::new(Claim::of(&pod));
        match self.pods_mut().get_mut(uid) {
            Some(held) => {
                (held.pod, held.json, held.claim) = (pod, json, claim);
                (held.generation, held.epoch, held.revision) = (generation, epoch, revision);
            }
            None => {
                let held = Held {
                    pod,
                    json,
                    claim,
                    generation,
                    revision,
                    epoch,
                    admitted: None,
                    failed: None,
                    removal: None,
                    deadline: None,
                    on_hold: false,
                };
                self.pods_mut().insert(uid.to_owned(), held);
            }
        }
    }
}

/// Reads an assigned pod; `None`, and a line in the log, for what is none.
fn read_pod(json: &[u8], uid: &str) -> Option<(Arc<Pod>, Arc<RawValue>)> {
    let read = serde_json::from_slice::<Box<RawValue>>(json)
        .and_then(|raw| serde_json::from_str::<Pod>(raw.get()).map(|pod| (Arc::new(pod), Arc::from(raw))));
    match read {
        Ok((pod, _)) if pod.metadata.uid != uid => {
            tracing::error!(podUID = %uid, found = %pod.metadata.uid, "an assigned pod carries another UID, dropped");
            None
        }
        Ok(read) => Some(read),
        Err(error) => {
            tracing::error!(podUID = %uid, %error, "an assigned pod cannot be read, dropped");
            None
        }
    }
}

// === The node's own decisions ===

impl DesiredSet {
    /// It passed admission: it counts until it ended, and is not asked again.
    pub fn admit(&mut self, uid: &str, now: Timestamp) {
        if let Some(held) = self.pods_mut().get_mut(uid) {
            held.admitted = Some(now);
            self.records.push(Record::Admitted { uid: uid.to_owned(), unix_ms: now.unix_ms });
        }
    }

    /// It failed on this node and never starts again here.
    pub fn fail(&mut self, uid: &str, reason: &str, message: &str) {
        if let Some(held) = self.pods_mut().get_mut(uid) {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            held.failed = Some((reason.clone(), message.clone()));
            self.records.push(Record::Failed { uid: uid.to_owned(), reason, message });
        }
    }

    /// Sets when the containers of a pod that must end are killed; it only moves nearer.
    pub(crate) fn set_deadline(&mut self, uid: &str, deadline: Timestamp) {
        let Some(held) = self.pods_mut().get_mut(uid) else { return };
        if held.deadline.is_none_or(|before| deadline < before) {
            held.deadline = Some(deadline);
            self.records.push(Record::Deadline { uid: uid.to_owned(), unix_ms: deadline.unix_ms });
        }
    }

    /// Nothing of it is left on the node.
    pub fn end(&mut self, uid: &str, now: Timestamp) {
        let Some(held) = self.pods_mut().remove(uid) else { return };
        let (namespace, name) = (held.pod.metadata.namespace.clone(), held.pod.metadata.name.clone());
        let ended = EndedPod { namespace: namespace.clone(), name: name.clone(), at: now, acked: false };
        self.ended.insert(uid.to_owned(), ended);
        self.records.push(Record::Ended { uid: uid.to_owned(), namespace, name, unix_ms: now.unix_ms });
    }

    /// The leader acked the end of `uid`.
    pub fn drop_ended(&mut self, uid: &str) {
        if let Some(ended) = self.ended.get_mut(uid).filter(|ended| !ended.acked) {
            ended.acked = true;
            self.records.push(Record::Dropped { uid: uid.to_owned() });
        }
    }

    /// A pod that the runtime has since `created_at` and the disk lost; `false`: the disk knows it.
    pub fn adopt(&mut self, uid: &str, json: &str, generation: u64, revision: u64, created_at: Timestamp) -> bool {
        if self.ended.contains_key(uid) {
            return false;
        }
        if let Some(held) = self.pods.get(uid) {
            if held.admitted.is_none() {
                // A power cut took the record of its admission: it runs, so it was admitted.
                self.admit(uid, created_at);
            }
            return false;
        }
        let Some((pod, json)) = read_pod(json.as_bytes(), uid) else { return false };
        self.insert(uid, pod, json, (generation, 0, revision));
        if let Some(held) = self.pods_mut().get_mut(uid) {
            // It runs, so it was admitted.
            held.admitted = Some(created_at);
            let records = held_records(uid, held);
            self.records.extend(records);
        }
        true
    }

    /// Forgets what ended more than seven days ago.
    pub fn forget_old_ends(&mut self, now: Timestamp) {
        self.ended.retain(|_, ended| !ended.acked || now.seconds_since(ended.at) < LEDGER_SECONDS);
    }
}

#[cfg(test)]
mod tests;
