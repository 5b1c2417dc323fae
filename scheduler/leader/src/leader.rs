//! The leader: takes inputs one by one, lets plain functions decide, hands writes out, and lets effects follow once
//! those are acknowledged.

mod apply;
mod effects;
mod forecast;
mod hear;
mod ops;
mod recover;
mod tick;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use podbus_common::proto::{HeldPod, PodAck, SyncRequest, Term};
use podbus_scheduler_core::{PodSpec, Scheduler};

use crate::cluster::{Cluster, PodName};
use crate::events::Recorder;
use crate::health::Health;
use crate::input::{Input, Now};
use crate::intake::{Known, Ready};
use crate::lease::LeaseLost;
use crate::lineage::Lineage;
use crate::output::Output;
use crate::plan::{BatchId, CallId, Effect, Object, Write};
use crate::query;
use crate::random::Random;
use crate::record::Record;
use crate::snapshot::{self, Remembered, Snapshot};
use crate::stats::{Facts, Stats};
use crate::watch::{Outgoing, Shown, Watches};
use crate::writing::{Acked, Written};

use apply::Listed;
use ops::Op;
use recover::Recovery;

/// How often time passes for the leader.
pub const TICK_EVERY: Duration = Duration::from_millis(250);
/// Waiting pods that are decided on at once.
const DECISIONS_MAX: usize = 256;
/// With so many objects that have writes under way the leader is busy: nodes are asked to gather what they report,
const BUSY_MIN: usize = 1_024;
/// so that no more status requests come in a second than this,
const REPORTS_MAX: u32 = 5_000;
/// but none is put off for longer, in milliseconds.
const GATHER_MS_MAX: u32 = 1_000;

/// Decisions that wait for one object; clients beyond that come back later.
const WAITING_MAX: usize = 1_000;

/// What a person chose.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long pods bear a lost node, unless they say so themselves.
    pub toleration_seconds: i64,
    /// Weights and profiles.
    pub scheduling: podbus_scheduler_core::Config,
}

/// What a term begins with.
#[derive(Debug)]
pub struct Start {
    /// All that is stored, up to the write that took the lease.
    pub snapshot: Snapshot,
    /// Its own.
    pub term: Term,
    /// The terms before it, and its own.
    pub lineage: Lineage,
    /// The store went back in time since this process knew this.
    pub remembered: Option<Remembered>,
}

/// See the crate.
pub struct Leader {
    term: Term,
    lineage: Lineage,
    /// The store is being rebuilt.
    recovery: Option<Recovery>,
    /// Nodes whose inventory was taken in this term: what they saw before counts no longer.
    taken_stock: HashSet<String>,
    settings: Settings,
    known: Known,
    /// A known spec, and what decides where the last new pod with it may go.
    placed: Option<(Arc<Ready>, Arc<PodSpec>)>,
    cluster: Cluster,
    core: Scheduler,
    health: Health,
    watches: Watches,
    recorder: Recorder,
    /// Events that would be taken still.
    events_room: usize,
    random: Random,
    stats: Stats,
    /// Of the input that is handled.
    now: Now,
    outputs: Vec<Output>,
    /// Registrations under way: who asked, and where the answer goes.
    registrations: HashMap<CallId, (String, Arc<SyncRequest>)>,
    registrations_last: CallId,
    /// Pods by node whose state was acknowledged before the store went back, and maybe lost: until it is reported again.
    unreported: HashMap<String, HashSet<Arc<str>>>,
    /// Pages of what agents hold, until the last one is there; by node.
    pages: HashMap<String, Vec<HeldPod>>,
    /// Lists that are applied, by their call; and of each object that waits the list and the place in it.
    listed: HashMap<CallId, Listed>,
    parts: HashMap<CallId, (CallId, usize)>,
    parts_last: CallId,
    batches: HashMap<BatchId, Batch>,
    batches_last: BatchId,
    /// Objects with writes under way.
    busy: HashMap<Object, Busy>,
    /// For each of them the highest revision that was known when it began: what it writes is newer.
    began: BTreeMap<u64, usize>,
    /// New pods that wait and whose first write is under way, by UID.
    creating: HashMap<String, PodName>,
    /// Where watchers say that they are there.
    control: String,
    began_at: Instant,
    ticks: u64,
    /// What the revision was at moments past, oldest first: markers are compacted by age.
    ages: VecDeque<(Instant, u64)>,
    /// Nothing is replaced because most nodes fell silent together; that was said.
    held_back: bool,
}

/// A status request whose pods are not all decided on.
struct Batch {
    reply: String,
    waiting: usize,
    acks: Vec<PodAck>,
}

/// An object with writes under way.
struct Busy {
    op: Op,
    effects: Vec<Effect>,
    began: u64,
    /// What comes next, in order.
    waiting: VecDeque<Op>,
}

impl Leader {
    /// Begins a term. `control` is the prefix of the subjects that watchers speak to; `seed`
    /// is what UIDs and generated names are made of, and must never have been used before.
    pub fn new(start: Start, control: String, settings: Settings, seed: [u8; 32], now: Now) -> Self {
        let Start { snapshot: Snapshot { cluster, core }, term, lineage, remembered } = start;
        let mut leader = Self {
            lineage,
            recovery: None,
            taken_stock: HashSet::new(),
            watches: Watches::new(cluster.revision()),
            health: Health::new(now.instant),
            core,
            recorder: Recorder::default(),
            events_room: usize::MAX,
            known: Known::new(settings.toleration_seconds),
            placed: None,
            random: Random::new(seed),
            stats: Stats::default(),
            now,
            outputs: Vec::new(),
            registrations: HashMap::new(),
            registrations_last: 0,
            unreported: HashMap::new(),
            pages: HashMap::new(),
            listed: HashMap::new(),
            parts: HashMap::new(),
            parts_last: 0,
            batches: HashMap::new(),
            batches_last: 0,
            busy: HashMap::new(),
            began: BTreeMap::new(),
            creating: HashMap::new(),
            began_at: now.instant,
            ticks: 0,
            ages: VecDeque::new(),
            held_back: false,
            term,
            settings,
            cluster,
            control,
        };
        match remembered {
            Some(remembered) => leader.begin_recovery("The store went back in time, or was lost", Some(&remembered)),
            None => leader.begin(),
        }
        leader.decide();
        leader
    }

    /// What it wants done, in order.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// So many events are taken from now on; without a word all are. More are dropped and counted, before they cost
    /// anything.
    pub fn set_events_room(&mut self, room: usize) {
        self.events_room = room;
    }

    /// What it did since it began.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What it did and holds: a step a node and a class of waiting pods.
    pub fn facts(&self) -> Facts {
        let nodes_ready = self.cluster.nodes().filter(|(_, record)| crate::nodes::is_ready(&record.node)).count();
        Facts {
            epoch: self.term.epoch,
            stats: self.stats,
            queue: self.core.queue_lengths(),
            pods: self.cluster.pods_len(),
            nodes_ready,
            nodes_not_ready: self.cluster.nodes_len() - nodes_ready,
        }
    }

    /// What was stored, as far as it was acknowledged, when the store is another one now.
    pub fn into_remembered(self) -> Remembered {
        Remembered { cluster: self.cluster, lineage: self.lineage }
    }

    /// Takes an input in.
    ///
    /// # Errors
    /// When the term must end.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<(), LeaseLost> {
        self.now = now;
        match input {
            Input::Call { call, subject, payload } => self.hear_call(call, &subject, &payload),
            Input::Sync { request, reply } => self.hear_sync(*request, reply)?,
            Input::Status { request, reply } => self.hear_status(*request, reply),
            Input::Heartbeat(heartbeat) => self.hear_heartbeat(&heartbeat)?,
            Input::Watcher { watch, leaves } => self.watches.heard(watch, leaves, now.instant),
            Input::Written { object, outcome } => self.hear_written(&object, outcome),
            Input::Compacted { key, revision } => self.cluster.forget_marker(&key, revision),
            Input::Tick { caught_up } => self.tick(caught_up),
            Input::Resumed => self.health.listen_anew(now.instant),
        }
        self.decide();
        Ok(())
    }

    /// Takes away what a leader before left behind.
    fn begin(&mut self) {
        // Their pods were not replaced after all: that write never came.
        let removals = self.cluster.removals().filter(|removal| self.cluster.name_of(&removal.uid).is_some());
        let removals: Vec<_> = removals.map(|r| Object::Removal { node: r.node.clone(), uid: r.uid.clone() }).collect();
        let orphans: Vec<_> = self.cluster.orphaned_statuses().cloned().map(Object::Pod).collect();
        for object in removals.into_iter().chain(orphans) {
            self.submit(object, Op::Drop);
        }
    }

    /// Places pods that wait, as far as there is room.
    fn decide(&mut self) {
        if self.recovers() {
            return self.recover();
        }
        while self.core.active_len() > 0 {
            for decision in self.core.schedule(DECISIONS_MAX, self.now_ms()) {
                self.stats.count(&decision);
                self.submit_decision(decision);
            }
        }
    }

    /// The core's clock.
    fn now_ms(&self) -> u64 {
        u64::try_from((self.now.instant - self.began_at).as_millis()).unwrap_or(u64::MAX)
    }

    /// The last revision that was applied in order: a write under way may have a lower one than what is known.
    fn applied(&self) -> u64 {
        self.began.keys().next().copied().unwrap_or_else(|| self.cluster.revision())
    }
}

// === What leaves ===

impl Leader {
    fn send(&mut self, subject: String, message: &impl prost::Message) {
        self.outputs.push(Output::Send { subject, payload: message.encode_to_vec().into() });
    }

    fn tell(&mut self, message: Outgoing) {
        self.outputs.push(Output::Watch(message));
    }
}

// === One object, one decision at a time ===

impl Leader {
    /// Decides `op`, now or after what is under way.
    fn submit(&mut self, object: Object, op: Op) {
        if let Some(busy) = self.busy.get_mut(&object) {
            match op {
                Op::Apply { call, .. } | Op::ApplyNode { call, .. } | Op::Delete { call, .. }
                    if busy.waiting.len() >= WAITING_MAX =>
                {
                    let refused = query::unavailable("too many requests wait for this object");
                    self.answer(call, Err(refused));
                }
                op => busy.waiting.push_back(op),
            }
            return;
        }
        let plan = self.plan(&object, &op);
        let writes = self.expecting(plan.writes);
        if writes.is_empty() {
            return self.carry_out(plan.effects, None);
        }
        let began = self.cluster.revision();
        *self.began.entry(began).or_default() += 1;
        self.busy.insert(object.clone(), Busy { op, effects: plan.effects, began, waiting: VecDeque::new() });
        self.outputs.push(Output::Write { object, writes });
    }

    /// Writes with the revision that each expects; a purge of what is not there is none.
    fn expecting(&self, writes: Vec<Write>) -> Vec<(Write, u64)> {
        let mut expecting: Vec<(Write, u64)> = Vec::new();
        for write in writes {
            let expected = self.cluster.revision_of(&write.key);
            let there =
                self.cluster.is_value(expected) || expecting.iter().any(|(earlier, _)| earlier.key == write.key);
            if write.record.is_some() || there {
                expecting.push((write, expected));
            }
        }
        expecting
    }

    fn hear_written(&mut self, object: &Object, outcome: Written) {
        let Some(busy) = self.busy.remove(object) else { return };
        if let Some(count) = self.began.get_mut(&busy.began) {
            *count -= 1;
            if *count == 0 {
                self.began.remove(&busy.began);
            }
        }
        let before = self.shown(object);
        let gone_at = outcome.acked.iter().map(|acked| acked.revision).min().unwrap_or(0);
        let mut pod_json = None;
        for Acked { write, revision, value } in outcome.acked {
            if matches!(write.record, Some(Record::Pod(_))) {
                pod_json = value;
            }
            snapshot::apply(&mut self.cluster, &mut self.core, &write.key, write.record, revision);
        }
        let conflict = outcome.conflict.is_some();
        for (key, record, revision) in outcome.conflict.into_iter().flatten() {
            snapshot::apply(&mut self.cluster, &mut self.core, &key, record, revision);
        }
        self.count_bound(object, before.as_ref());
        self.tell_watchers(object, before, gone_at);
        if conflict {
            self.stats.conflicts += 1;
            self.warn_of_conflict(object, &busy.op);
            self.repair(object, &busy.op);
        } else {
            self.carry_out(busy.effects, pod_json.as_ref());
        }
        for op in busy.waiting {
            self.submit(object.clone(), op);
        }
    }

    /// Notes how long a pod waited that is bound now and was not before.
    fn count_bound(&mut self, object: &Object, before: Option<&Shown>) {
        let Object::Pod(name) = object else { return };
        let was_bound = matches!(before, Some(Shown::Pod(seen)) if !seen.pod.node().is_empty());
        let bound = self.cluster.kept(name).filter(|pod| !was_bound && !pod.node().is_empty());
        if let Some(created) = bound.and_then(|pod| pod.created()) {
            self.stats.waits.add(self.now.wall.unix_ms - created.unix_ms);
        }
    }

    fn warn_of_conflict(&self, object: &Object, op: &Op) {
        let message = "another writer changed what was about to be written; deciding again";
        match object {
            Object::Pod(name) => {
                let (stored, pod) = (self.cluster.kept(name), format!("{}/{}", name.namespace, name.name));
                let uid = op.assumed_uid().or_else(|| stored.map(|pod| pod.uid.to_string())).unwrap_or_default();
                let node = stored.map_or("", |pod| pod.node());
                tracing::warn!(pod, podUID = uid, node, "{message}");
            }
            Object::Node(node) => tracing::warn!(node, "{message}"),
            Object::Removal { node, uid } => tracing::warn!(podUID = uid, node, "{message}"),
        }
    }

    /// After a foreign write: what was assumed is void, and what is there now counts.
    fn repair(&mut self, object: &Object, op: &Op) {
        if let Object::Pod(name) = object {
            if let Some(uid) = op.assumed_uid() {
                self.core.release(&uid);
                self.core.dequeue(&uid);
                self.creating.remove(&uid);
                snapshot::count_pod(&self.cluster, &mut self.core, name, None);
            }
            if self.cluster.kept(name).is_none() {
                // That one may never come to its status.
                self.submit(object.clone(), Op::Drop);
            }
        }
        if !matches!(op, Op::Bind { .. } | Op::Unschedulable { .. }) {
            self.submit(object.clone(), op.clone());
        }
    }

    fn shown(&self, object: &Object) -> Option<Shown> {
        match object {
            Object::Pod(name) => self.cluster.seen_pod(name).map(Shown::Pod),
            Object::Node(name) => self.cluster.node(name).map(|record| {
                Shown::Node(Arc::clone(record), self.cluster.revision_of(&podbus_common::subject::node_key(name)))
            }),
            Object::Removal { .. } => None,
        }
    }

    fn tell_watchers(&mut self, object: &Object, before: Option<Shown>, gone_at: u64) {
        let after = self.shown(object);
        let revision = after.as_ref().map_or(gone_at, Shown::revision);
        for message in self.watches.changed(revision, before, after) {
            self.tell(message);
        }
    }
}

#[cfg(test)]
mod tests;
