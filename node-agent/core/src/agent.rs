//! The agent without a bus, a disk or a clock: what the node should run, what it told the leader, and who works.
//!
//! [`Agent`] takes one [`Input`] at a time and gives [`Output`]s, to be carried out in order. A change of the desired set
//! goes through the [`Journal`] before any output that rests on it is given: what was output was written down.

mod admission;
mod link;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{
    self, Assignment, Heartbeat, NodeDescription, PodReport, StatusReply, StatusRequest, SyncReply, SyncRequest,
};
use prost::Message as _;

use self::link::Link;
pub use self::link::Refused;
use crate::admission::{NodeOffer, Place};
use crate::chronicle::node_event;
use crate::desired::{Applied, DesiredSet, Held};
use crate::model::{AfterStop, Stop};
use crate::outbox::{Acked, Outbox};
use crate::termination;
use crate::worker::{EVICTED, Update, Wanted};

/// [`Input::Tick`] comes so often: a heartbeat goes with each.
pub const TICK_EVERY: Duration = Duration::from_secs(1);

/// How the node is, as somebody else measures it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why it cannot run pods; empty: it can.
    pub not_ready: String,
    /// Thousandths of a CPU that its pods use.
    pub used_cpu_millis: u64,
    /// Bytes that its pods use.
    pub used_memory_bytes: u64,
}

/// When an input is heard.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Never goes back; waits are measured on it.
    pub instant: Instant,
    /// The time of the wall, for deadlines, which outlive the agent, and for what a person reads.
    pub wall: Timestamp,
}

/// Who an agent is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// Random, kept on the node's disk.
    pub node_id: String,
    /// Random per process.
    pub instance: String,
}

/// Where changes of the desired set are written down.
pub trait Journal {
    /// Writes down what changed since the last call, and what the last call could not write. Once this returns, a
    /// killed agent loses nothing of it.
    ///
    /// # Errors
    /// Why it could not, for a person. It is tried again with each tick.
    fn append(&mut self, set: &mut DesiredSet) -> Result<(), String>;
}

/// Something for the agent.
#[derive(Debug)]
pub enum Input {
    /// An assignment came.
    Assignment(Bytes),
    /// The answer to the last [`Output::Sync`]; `None`: there was none.
    Synced(Option<Box<SyncReply>>),
    /// The answer to the last [`Output::Status`]; `None`: there was none.
    StatusTaken(Option<StatusReply>),
    /// A worker says something.
    Update(Update),
    /// Time passed: each [`TICK_EVERY`].
    Tick(Health),
    /// What [`Agent::wake_at`] named has come.
    Wake,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send these requests to `podbus.node.<node>.sync` one after the other; the answer to the last counts. Only one
    /// of these is under way.
    Sync(Vec<SyncRequest>),
    /// Send this request to `podbus.status.<node>`. Only one of these is under way.
    Status(Arc<StatusRequest>),
    /// Publish it, unless the bus is away: late it would say what is no longer so.
    Heartbeat(Box<Heartbeat>),
    /// Start the worker of a pod, or tell the one that is there.
    Work {
        /// The pod.
        uid: String,
        /// What is wanted of it now.
        wanted: Box<Wanted>,
    },
    /// Tell the worker of a pod that the leader acked its reports up to `sequence`.
    Acked {
        /// The pod.
        uid: String,
        /// Of the report.
        sequence: u64,
    },
    /// The node holds this pod, in this shape.
    Holds {
        /// The pod.
        uid: String,
        /// As assigned.
        pod: Arc<Pod>,
    },
    /// The node holds nothing of this pod any more; its worker has ended, if it had one.
    Ended {
        /// The pod.
        uid: String,
    },
}

/// The node's state and its owner.
#[derive(Debug)]
pub struct Agent<J> {
    set: DesiredSet,
    /// Pods that only the runtime knew of: they run on, and are left alone until the leader has taken this agent, which
    /// may be one too many for the same runtime.
    adopted: BTreeSet<String>,
    journal: J,
    /// UIDs whose change is not written down or not enacted yet.
    unsettled: BTreeSet<String>,
    link: Link,
    outbox: Outbox,
    offer: NodeOffer,
    /// The node's place as it was told to the leader.
    told: Place,
    /// Pods that have a worker.
    working: BTreeSet<String>,
    /// Pods that ended by themselves: they hold no resources.
    finished: BTreeSet<String>,
    /// Workers that have not said anything yet after the agent's start.
    unheard: BTreeSet<String>,
    /// The status request under way.
    status: Option<Arc<StatusRequest>>,
    /// No status is sent before this: the last one failed, or the leader asked for patience.
    status_at: Instant,
    /// Why the desired set cannot be written down; empty: it can.
    disk_error: String,
    /// Of the input that is handled.
    now: Now,
    outputs: Vec<Output>,
}

impl<J: Journal> Agent<J> {
    /// Goes on with what the disk (`set`) and the runtime say. `adopted` are UIDs that only the runtime knew of. The place
    /// in `offer` is what is told to the leader, who answers with what a person changed of it.
    pub fn new(
        identity: Identity,
        description: NodeDescription,
        mut offer: NodeOffer,
        set: DesiredSet,
        adopted: BTreeSet<String>,
        journal: J,
        now: Now,
    ) -> Self {
        let mut outbox = Outbox::default();
        outbox.put_node_event(node_event("Normal", "Starting", "Starting podbus node agent.", now.wall));
        let mut agent = Self {
            link: Link::new(identity, description, now.instant),
            set,
            adopted,
            journal,
            unsettled: BTreeSet::new(),
            outbox,
            told: offer.place.take().unwrap_or_default(),
            offer,
            working: BTreeSet::new(),
            finished: BTreeSet::new(),
            unheard: BTreeSet::new(),
            status: None,
            status_at: now.instant,
            disk_error: String::new(),
            now,
            outputs: Vec::new(),
        };
        agent.resume();
        agent.ask();
        agent
    }

    /// What it wants done, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// When it wants [`Input::Wake`], if nothing else comes before.
    pub fn wake_at(&self) -> Option<Instant> {
        let resend = self.status.is_none() && self.set.agent_epoch() != 0 && self.outbox.is_due();
        self.link.due().into_iter().chain(resend.then_some(self.status_at)).min()
    }

    /// What the node should run.
    pub fn set(&self) -> &DesiredSet {
        &self.set
    }

    /// Takes an input in.
    ///
    /// # Errors
    /// When the leader refuses this node for good: the agent must end, its pods run on.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), Refused> {
        self.now = now;
        match input {
            Input::Assignment(payload) => self.handle_assignment(payload),
            Input::Synced(reply) => self.handle_sync(reply)?,
            Input::StatusTaken(reply) => self.handle_status(reply.as_ref()),
            Input::Update(update) => self.handle_update(update),
            Input::Tick(health) => self.tick(&health),
            Input::Wake => {}
        }
        self.ask();
        Ok(())
    }

    /// Sends what is due.
    fn ask(&mut self) {
        let pages = self.link.ask(&self.set, self.now.instant);
        self.outputs.extend(pages.map(Output::Sync));
        self.send_status();
    }

    /// Goes on with what the disk and the runtime say.
    fn resume(&mut self) {
        let admitted = self.set.pods().iter().filter(|(_, held)| held.admitted.is_some());
        self.unheard = admitted.map(|(uid, _)| uid.clone()).collect();
        let own = self.set.pods().keys().filter(|uid| !self.adopted.contains(*uid));
        let uids: Vec<_> = own.cloned().collect();
        let ended: Vec<_> = self.set.unacked_ends().map(|(uid, _)| uid.clone()).collect();
        for uid in ended {
            self.report_end(&uid);
        }
        self.unsettled.extend(uids);
        self.settle();
    }

    fn tick(&mut self, health: &Health) {
        self.set.forget_old_ends(self.now.wall);
        self.settle();
        if self.set.agent_epoch() == 0 {
            return;
        }
        let not_ready = if self.disk_error.is_empty() { &health.not_ready } else { &self.disk_error };
        let heartbeat = self.link.heartbeat(&self.set, health, not_ready.clone());
        self.outputs.push(Output::Heartbeat(Box::new(heartbeat)));
    }
}

// === The leader ===

impl<J: Journal> Agent<J> {
    fn handle_assignment(&mut self, payload: Bytes) {
        let Ok(assignment) = Assignment::decode(payload) else {
            return tracing::error!("an assignment cannot be read: is the scheduler of another version?");
        };
        let applied = self.set.handle_assignment(&assignment, self.now.wall);
        self.link.note(&applied, self.now.instant);
        if applied.heard && !assignment.assigned.is_empty() {
            self.offer.place = Some(self.place(assignment.place));
        }
        self.take(applied);
    }

    fn handle_sync(&mut self, reply: Option<Box<SyncReply>>) -> Result<(), Refused> {
        let registered = self.set.agent_epoch();
        let Some(reply) = self.link.handle_reply(reply, &mut self.set, self.now.instant)? else { return Ok(()) };
        let applied = self.set.handle_sync_reply(&reply, self.now.wall);
        self.link.note(&applied, self.now.instant);
        if applied.heard {
            self.offer.place = Some(self.place(reply.place.clone()));
        }
        if self.set.agent_epoch() != registered {
            self.unsettled.append(&mut self.adopted);
        }
        if reply.send_all_states || self.set.agent_epoch() != registered {
            self.outbox.all_due();
        }
        self.take(applied);
        Ok(())
    }

    /// The node's place as the leader says, or as it was told.
    fn place(&self, said: Option<proto::Place>) -> Place {
        let said = said.map(|said| Place {
            labels: said.labels,
            taints: serde_json::from_slice(&said.taints).unwrap_or_default(),
        });
        said.unwrap_or_else(|| self.told.clone())
    }

    fn take(&mut self, applied: Applied) {
        for uid in applied.ended {
            self.report_end(&uid);
        }
        self.unsettled.extend(applied.changed);
        self.settle();
    }

    fn send_status(&mut self) {
        if self.status.is_some() || self.set.agent_epoch() == 0 || self.now.instant < self.status_at {
            return;
        }
        if let Some(request) = self.outbox.next_request(self.link.node(), self.set.agent_epoch()) {
            let request = Arc::new(request);
            self.status = Some(Arc::clone(&request));
            self.outputs.push(Output::Status(request));
        }
    }

    fn handle_status(&mut self, reply: Option<&StatusReply>) {
        let Some(request) = self.status.take() else { return };
        let acked = self.outbox.handle_reply(&request, reply);
        let patience = match reply {
            None => link::RETRY_INTERVAL,
            Some(reply) => Duration::from_millis(u64::from(reply.retry_after_ms)),
        };
        let unacked = reply.is_some() && acked.len() < request.pods.len();
        self.status_at = self.now.instant + if unacked { patience.max(link::UNACKED_INTERVAL) } else { patience };
        for acked in acked {
            self.handle_ack(&acked);
        }
    }

    fn handle_ack(&mut self, acked: &Acked) {
        if acked.ended {
            self.set.drop_ended(&acked.uid);
            return self.write_down();
        }
        if self.working.contains(&acked.uid) {
            self.outputs.push(Output::Acked { uid: acked.uid.clone(), sequence: acked.sequence });
        }
    }
}

// === Workers ===

impl<J: Journal> Agent<J> {
    fn handle_update(&mut self, update: Update) {
        match update {
            Update::Report(report) => {
                self.heard(&report.uid);
                self.outbox.put(*report);
            }
            Update::Finished { uid } => {
                self.finished.insert(uid);
                self.admit_waiting();
            }
            Update::Evict { uid, message } => {
                self.set.fail(&uid, EVICTED, &message);
                self.unsettled.insert(uid);
                self.settle();
            }
            Update::Gone { uid } => {
                self.heard(&uid);
                self.working.remove(&uid);
                self.finished.remove(&uid);
                self.end(&uid);
                self.admit_waiting();
            }
        }
    }

    fn heard(&mut self, uid: &str) {
        if self.unheard.remove(uid) && self.unheard.is_empty() {
            self.admit_waiting();
        }
    }

    /// Writes down what changed and then carries it out, as far as the disk lets it.
    fn settle(&mut self) {
        let uids: Vec<_> = self.unsettled.iter().cloned().collect();
        for uid in &uids {
            self.decide(uid);
        }
        self.write_down();
        if !self.disk_error.is_empty() {
            return; // Disk before action: tried again with the next tick.
        }
        for uid in uids {
            self.unsettled.remove(&uid);
            self.enact(&uid);
        }
    }

    fn write_down(&mut self) {
        let before = std::mem::take(&mut self.disk_error);
        if let Err(error) = self.journal.append(&mut self.set) {
            self.disk_error = error;
            if before.is_empty() {
                tracing::error!(error = %self.disk_error, "assignments wait until they can be written down");
            }
        }
    }

    /// What a change means for the set: admission, and the deadline of what must end.
    fn decide(&mut self, uid: &str) {
        let Some(held) = self.set.get(uid) else { return };
        let (must_go, evicted, started) = (held.must_go(), held.failed.is_some(), held.admitted.is_some());
        if started && (must_go || evicted) {
            let deadline = deadline(held, self.now.wall);
            return self.set.set_deadline(uid, deadline);
        }
        if !started && !must_go && !evicted {
            self.admit(uid);
        }
    }

    /// Makes the workers and the reports as the set says.
    fn enact(&mut self, uid: &str) {
        let Some(held) = self.set.get(uid) else { return };
        self.outputs.push(Output::Holds { uid: uid.to_owned(), pod: Arc::clone(&held.pod) });
        let Some(wanted) = wanted(held) else {
            if held.must_go() {
                return self.end(uid);
            }
            return self.report_refusal(uid);
        };
        self.working.insert(uid.to_owned());
        self.outputs.push(Output::Work { uid: uid.to_owned(), wanted: Box::new(wanted) });
    }

    /// Nothing of the pod is left, or nothing ever was.
    fn end(&mut self, uid: &str) {
        self.set.end(uid, self.now.wall);
        self.outputs.push(Output::Ended { uid: uid.to_owned() });
        self.write_down();
        self.report_end(uid);
    }

    fn report_end(&mut self, uid: &str) {
        let Some(ended) = self.set.ended(uid) else { return };
        let last = self.outbox.report(uid).cloned().unwrap_or_default();
        self.outbox.put(PodReport {
            uid: uid.to_owned(),
            namespace: ended.namespace.clone(),
            name: ended.name.clone(),
            sequence: self.outbox.sequence(uid) + 1,
            ended: true,
            ..last
        });
    }

    /// A pod that never got a worker: it was refused.
    fn report_refusal(&mut self, uid: &str) {
        let Some(held) = self.set.get(uid) else { return };
        let Some((reason, message)) = held.failed.clone() else { return };
        let event = node_event("Warning", &reason, &message, self.now.wall);
        self.outbox.put(PodReport {
            uid: uid.to_owned(),
            namespace: held.pod.metadata.namespace.clone(),
            name: held.pod.metadata.name.clone(),
            generation: held.generation,
            sequence: self.outbox.sequence(uid) + 1,
            rejected_reason: reason,
            rejected_message: message,
            events: vec![event],
            ..Default::default()
        });
    }
}

/// When a pod that must end is killed.
fn deadline(held: &Held, now: Timestamp) -> Timestamp {
    match (held.removal, &held.failed) {
        // Its object may carry no grace, the record that removes it does.
        (Some(grace), _) => {
            let new = now.plus_seconds(i64::from(grace.max(1)));
            held.deadline.map_or(new, |before| before.min(new))
        }
        // Local storage is reclaimed at once (section 8.2 of the kubelet's grace periods).
        (None, Some(_)) if held.pod.metadata.deletion_timestamp.is_none() => {
            held.deadline.unwrap_or_else(|| now.plus_seconds(1))
        }
        _ => termination::deadline(&held.pod, held.deadline, now),
    }
}

/// What a worker is to do; `None` for a pod that has none.
fn wanted(held: &Held) -> Option<Wanted> {
    let then = if held.must_go() { AfterStop::Remove } else { AfterStop::Keep };
    Some(Wanted {
        pod: Arc::clone(&held.pod),
        json: Arc::clone(&held.json),
        generation: held.generation,
        admitted: held.admitted?,
        stop: held.deadline.map(|deadline| Stop { deadline, then }),
        forgotten: held.removal.is_some(),
        failed: held.failed.clone(),
    })
}
