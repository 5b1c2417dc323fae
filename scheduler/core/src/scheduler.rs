//! The scheduler: is fed with what changes, and hands out decisions.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::class::ClassId;
use crate::cluster::{Cluster, PodState};
use crate::config::Config;
use crate::groups::Groups;
use crate::node::Node;
use crate::nodes::PodId;
use crate::pod::{PendingPod, PodSpec};
use crate::queue::{Queue, QueueLengths, UnitId};
use crate::resources::Resources;

/// What to do with a pod that waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It goes there; its requests count from now on, until [`Scheduler::release`].
    Bind {
        /// The pod.
        uid: String,
        /// The node's name.
        node: String,
    },
    /// It fits nowhere now. It is tried again when an event may help it.
    Unschedulable {
        /// The pod.
        uid: String,
        /// Why, in kube-scheduler's form.
        message: String,
    },
    /// It goes there once the victims are gone, which are to be deleted, each with its own grace.
    Preempt {
        /// The pod.
        uid: String,
        /// The node's name.
        node: String,
        /// The UIDs of the pods that must leave.
        victims: Vec<String>,
        /// Why it has no place yet.
        message: String,
    },
}

/// A waiting pod for which others were asked to leave.
#[derive(Debug)]
struct Nomination {
    slot: u32,
    victims: Vec<Arc<str>>,
}

/// Holds nodes, what is taken on them, and the queue. Everything is in memory and rebuilt at each start.
///
/// Feed it with [`upsert_node`](Self::upsert_node), [`assume`](Self::assume), [`release`](Self::release) and
/// [`enqueue`](Self::enqueue), then take decisions with [`schedule`](Self::schedule).
#[derive(Debug, Default)]
pub struct Scheduler {
    pub(crate) cluster: Cluster,
    queue: Queue,
    groups: Groups,
    nominations: FxHashMap<PodId, Nomination>,
    /// Decisions that were clear without trying.
    clear: Vec<Decision>,
    now_ms: u64,
}

// === Facts ===

impl Scheduler {
    /// With weights and profiles of its own.
    pub fn new(config: Config) -> Self {
        let mut scheduler = Self::default();
        scheduler.cluster.config = config;
        scheduler
    }

    /// Adds or changes a node. Pods that it may help are tried again.
    pub fn upsert_node(&mut self, node: Node) {
        let slot = self.cluster.nodes.slot_of(&node.name);
        if self.cluster.nodes.known.holds(slot) && self.cluster.nodes.records[slot as usize] == node {
            return;
        }
        self.cluster.set_node(slot, Some(node));
        self.wake_for_node(slot);
    }

    /// Takes a node away. What is bound to it stays counted, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.cluster.nodes.slot(name)
            && self.cluster.nodes.known.holds(slot)
        {
            self.cluster.set_node(slot, None);
        }
    }

    /// Counts a pod that is bound to `node`, as found in the store. A repeated call changes nothing; a pod that was
    /// in the queue leaves it.
    pub fn assume(&mut self, uid: &str, node: &str, spec: &PodSpec) {
        match self.cluster.pod_of(uid).map(|id| (id, self.cluster.pod(id).state)) {
            Some((_, PodState::Bound { .. })) => return,
            Some((_, PodState::Waits)) => self.dequeue(uid),
            None => {}
        }
        let slot = self.cluster.nodes.slot_of(node);
        let id = self.add(uid, spec);
        self.bind(id, slot);
    }

    /// A bound pod is being deleted: it keeps its place until [`Self::release`].
    pub fn set_terminating(&mut self, uid: &str) {
        if let Some(id) = self.cluster.pod_of(uid) {
            self.cluster.set_terminating(id);
        }
    }

    /// A bound pod has ended, or its binding was not stored: what it took is free, and pods that this may help are
    /// tried again.
    pub fn release(&mut self, uid: &str) {
        let Some(id) = self.cluster.pod_of(uid) else { return };
        let class = self.cluster.pod(id).class;
        let Some(slot) = self.cluster.unbind(id) else { return };
        self.groups.bound(&self.cluster.classes.get(class).spec, false);
        self.wake_for_node(slot);
        self.wake_for_neighbour(class, false);
        self.forget(id);
    }

    /// Puts a pod into the queue; one that waits already is replaced and tried again. One that another scheduler
    /// places is none of ours.
    pub fn enqueue(&mut self, pod: &PendingPod) {
        self.wait(&pod.uid, &pod.spec);
    }

    /// As [`enqueue`](Self::enqueue), of a spec that others have too.
    pub fn wait(&mut self, uid: &str, spec: &PodSpec) {
        match self.cluster.pod_of(uid).map(|id| self.cluster.pod(id).state) {
            Some(PodState::Bound { .. }) => return,
            Some(PodState::Waits) => self.dequeue(uid),
            None => {}
        }
        let id = self.add(uid, spec);
        if self.cluster.classes.get(self.cluster.pod(id).class).profile.is_none() {
            return self.forget(id);
        }
        let (unit, sequence) = (self.unit_of(id), self.cluster.pod(id).sequence);
        if let UnitId::Group(_) = unit {
            // One more may be what was missing.
            self.wake(unit);
        }
        if let Some(message) = self.queue.push(unit, id, sequence, spec.priority) {
            self.tell(id, &message);
        }
    }

    /// Forgets a pod that waits.
    pub fn dequeue(&mut self, uid: &str) {
        let Some(id) = self.cluster.pod_of(uid) else { return };
        if self.cluster.pod(id).state == PodState::Waits {
            let (unit, sequence) = (self.unit_of(id), self.cluster.pod(id).sequence);
            self.queue.remove(unit, sequence);
            self.denominate(id);
            self.forget(id);
        }
    }

    fn add(&mut self, uid: &str, spec: &PodSpec) -> PodId {
        self.groups.enter(spec);
        self.cluster.add_pod(uid, spec)
    }

    fn forget(&mut self, id: PodId) {
        self.groups.exit(self.cluster.spec_of(id));
        self.cluster.remove_pod(id);
    }

    /// How much there is to try or to say.
    pub fn active_len(&self) -> usize {
        self.queue.ready() + self.clear.len()
    }

    /// Pods that wait for a place, by part of the queue: one step a class of pods that wait.
    pub fn queue_lengths(&self) -> QueueLengths {
        self.queue.lengths()
    }

    /// Whether a pod waits, or is bound somewhere.
    pub fn holds(&self, uid: &str) -> bool {
        self.cluster.pod_of(uid).is_some()
    }

    /// Whether a pod is bound to `node`.
    pub fn is_on(&self, uid: &str, node: &str) -> bool {
        let state = self.cluster.pod_of(uid).map(|id| self.cluster.pod(id).state);
        matches!(state, Some(PodState::Bound { slot, .. }) if self.cluster.nodes.slot(node) == Some(slot))
    }

    /// What is taken on a node.
    pub fn used(&self, node: &str) -> Resources {
        self.cluster.nodes.slot(node).map(|slot| self.cluster.nodes.used(slot)).unwrap_or_default()
    }

    fn unit_of(&self, id: PodId) -> UnitId {
        let class = self.cluster.pod(id).class;
        match self.groups.of(&self.cluster.classes.get(class).spec) {
            Some(group) => UnitId::Group(group),
            None => UnitId::Class(class),
        }
    }

    fn bind(&mut self, id: PodId, slot: u32) {
        self.cluster.bind(id, slot);
        self.denominate(id);
        let class = self.cluster.pod(id).class;
        self.groups.bound(&self.cluster.classes.get(class).spec, true);
        self.wake_for_neighbour(class, true);
    }
}

// === Decisions ===

impl Scheduler {
    /// Decides on up to about `pods_max` waiting pods: highest priority first, then who came first. `now_ms`: a clock
    /// that never goes back, for the rest of pods that were not placed.
    pub fn schedule(&mut self, pods_max: usize, now_ms: u64) -> Vec<Decision> {
        self.now_ms = self.now_ms.max(now_ms);
        let mut decisions = std::mem::take(&mut self.clear);
        while decisions.len() < pods_max
            && let Some(unit) = self.queue.next(self.now_ms)
        {
            match unit {
                UnitId::Class(class) => self.try_class(unit, class, &mut decisions),
                UnitId::Group(group) => self.try_group(unit, group, &mut decisions),
            }
            decisions.append(&mut self.clear);
        }
        decisions
    }

    /// Tries the first pod of a class.
    fn try_class(&mut self, unit: UnitId, class: ClassId, decisions: &mut Vec<Decision>) {
        let Some((sequence, id)) = self.queue.front(unit) else { return self.queue.park(unit, None, self.now_ms) };
        if let Some(slot) = self.place_of(class, id) {
            self.queue.succeeded(unit);
            self.queue.remove(unit, sequence);
            self.bind(id, slot);
            decisions.push(self.bound(id, slot));
            return self.queue.activate(unit);
        }
        if self.waits_for_victims(id) {
            self.queue.skip(unit, sequence);
            return self.queue.activate(unit);
        }
        self.denominate(id);
        match self.cluster.preempt(class, id) {
            Ok(candidate) => {
                let message = self.message(class);
                let victims: Vec<Arc<str>> =
                    candidate.victims.iter().map(|victim| self.cluster.pod(*victim).uid.clone()).collect();
                self.nominate(id, candidate.slot, victims.clone());
                decisions.push(Decision::Preempt {
                    uid: self.cluster.pod(id).uid.to_string(),
                    node: self.cluster.nodes.records[candidate.slot as usize].name.clone(),
                    victims: victims.iter().map(ToString::to_string).collect(),
                    message,
                });
                self.queue.skip(unit, sequence);
                self.queue.activate(unit);
            }
            Err(preemption) if self.cluster.nodes.known_len() > 0 => {
                let message = format!("{} {preemption}", self.message(class));
                self.fail(unit, &message);
            }
            Err(_) => {
                let message = self.message(class);
                self.fail(unit, &message);
            }
        }
    }

    /// Where a pod goes: where others left for it, if that still does, else the best node.
    fn place_of(&mut self, class: ClassId, id: PodId) -> Option<u32> {
        let nominated = self.nominations.get(&id).map(|nomination| nomination.slot);
        let nominated = nominated.filter(|slot| self.cluster.takes(class, *slot, Some(id)));
        nominated.or_else(|| self.cluster.best(class, Some(id)))
    }

    /// Tries all pods of a group: enough of them get a place, or none.
    fn try_group(&mut self, unit: UnitId, group: u32, decisions: &mut Vec<Decision>) {
        let waiting: Vec<PodId> =
            self.queue.unit(unit).into_iter().flat_map(|unit| unit.waiting.values().copied()).collect();
        let (name, wanted, bound) = self.groups.state(group);
        let there = waiting.len() + bound;
        if there < wanted {
            let message = format!("pod group {name} has {there} of the {wanted} pods that are placed together");
            return self.fail(unit, &message);
        }
        let (mut placed, mut left) = (Vec::new(), None);
        for id in waiting {
            let class = self.cluster.pod(id).class;
            match self.cluster.best(class, Some(id)) {
                Some(slot) => {
                    self.cluster.bind(id, slot);
                    placed.push((id, slot));
                }
                None => left = left.or_else(|| Some(self.message(class))),
            }
        }
        if placed.len() + bound < wanted {
            let fits = placed.len() + bound;
            placed.iter().for_each(|(id, _)| {
                self.cluster.unbind(*id);
            });
            let message = format!(
                "only {fits} of the {wanted} pods of pod group {name} have a place: {}",
                left.unwrap_or_default()
            );
            return self.fail(unit, &message);
        }
        for (id, slot) in placed {
            let sequence = self.cluster.pod(id).sequence;
            self.queue.remove(unit, sequence);
            let class = self.cluster.pod(id).class;
            self.groups.bound(&self.cluster.classes.get(class).spec, true);
            self.wake_for_neighbour(class, true);
            decisions.push(self.bound(id, slot));
        }
        self.queue.succeeded(unit);
        if let Some(message) = left {
            self.fail(unit, &message);
        }
    }

    fn bound(&self, id: PodId, slot: u32) -> Decision {
        let node = self.cluster.nodes.records[slot as usize].name.clone();
        Decision::Bind { uid: self.cluster.pod(id).uid.to_string(), node }
    }

    /// Says to all pods of a unit why they wait, and parks it.
    fn fail(&mut self, unit: UnitId, message: &str) {
        let waiting: Vec<PodId> =
            self.queue.unit(unit).into_iter().flat_map(|unit| unit.waiting.values().copied()).collect();
        for id in waiting {
            if !self.nominations.contains_key(&id) {
                self.tell(id, message);
            }
        }
        self.queue.park(unit, Some(message.to_owned()), self.now_ms);
    }

    /// Says why a pod waits, unless it was said already.
    fn tell(&mut self, id: PodId, message: &str) {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let (told, pod) = (hasher.finish().max(1), self.cluster.pod_mut(id));
        if pod.told != told {
            pod.told = told;
            let uid = pod.uid.to_string();
            self.clear.push(Decision::Unschedulable { uid, message: message.to_owned() });
        }
    }

    /// `0/5 nodes are available: 2 Insufficient memory, 3 node(s) were unschedulable.`
    pub(crate) fn message(&self, class: ClassId) -> String {
        let nodes = self.cluster.nodes.known_len();
        if nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons = self.cluster.reasons(class);
        let mut counted: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        counted.sort();
        format!("0/{nodes} nodes are available: {}.", counted.join(", "))
    }
}

// === Nominations ===

impl Scheduler {
    /// Keeps a place for a pod. Pods of lower priority that had hopes there look for another.
    fn nominate(&mut self, id: PodId, slot: u32, victims: Vec<Arc<str>>) {
        let priority = self.cluster.spec_of(id).priority;
        let mut others = self.cluster.nodes.nominated[slot as usize].clone();
        others.retain(|other| self.cluster.spec_of(*other).priority < priority);
        for other in others {
            self.denominate(other);
            let unit = self.unit_of(other);
            self.wake(unit);
        }
        self.cluster.nodes.nominated[slot as usize].push(id);
        self.cluster.nodes.nominated_total += 1;
        self.nominations.insert(id, Nomination { slot, victims });
    }

    fn denominate(&mut self, id: PodId) {
        if let Some(nomination) = self.nominations.remove(&id) {
            self.cluster.nodes.nominated[nomination.slot as usize].retain(|other| *other != id);
            self.cluster.nodes.nominated_total -= 1;
        }
    }

    fn waits_for_victims(&self, id: PodId) -> bool {
        let there = |uid: &str| self.cluster.uids.contains_key(uid);
        self.nominations.get(&id).is_some_and(|nomination| nomination.victims.iter().any(|uid| there(uid)))
    }
}

// === Who an event can help ===

impl Scheduler {
    fn wake(&mut self, unit: UnitId) {
        let (initial, max) = (self.cluster.config.backoff_initial_ms, self.cluster.config.backoff_max_ms);
        self.queue.wake(unit, self.now_ms, initial, max);
    }

    /// A node has more room than before, or other labels.
    fn wake_for_node(&mut self, slot: u32) {
        if !self.queue.has_parked() || !self.cluster.nodes.known.holds(slot) {
            return;
        }
        let mut helped: Vec<UnitId> = self.queue.parked().filter(|unit| self.helps(*unit, slot)).collect();
        for id in self.cluster.nodes.nominated[slot as usize].clone() {
            helped.push(self.unit_of(id));
        }
        helped.into_iter().for_each(|unit| self.wake(unit));
    }

    fn helps(&self, unit: UnitId, slot: u32) -> bool {
        let takes = |class: ClassId| {
            let spec = &self.cluster.classes.get(class).spec;
            let lowest = self.cluster.nodes.lowest_priority_on(slot);
            let may_preempt = || {
                !spec.never_preempts
                    && spec.group.is_none()
                    && lowest.is_some_and(|lowest| lowest < spec.priority)
                    && self.cluster.placements.get(self.cluster.classes.get(class).placement).fine.holds(slot)
            };
            self.cluster.takes(class, slot, None) || may_preempt()
        };
        match unit {
            UnitId::Class(class) => takes(class),
            UnitId::Group(_) => self
                .queue
                .unit(unit)
                .is_some_and(|unit| unit.waiting.values().any(|id| takes(self.cluster.pod(*id).class))),
        }
    }

    /// A pod came somewhere, or left: that may help those that want to be beside it, or away from it.
    fn wake_for_neighbour(&mut self, class: ClassId, came: bool) {
        if !self.queue.has_parked() {
            return;
        }
        let other = self.cluster.classes.get(class);
        if other.counted_in.is_empty() && other.owns.is_empty() {
            return;
        }
        let helped: Vec<UnitId> = self.queue.parked().filter(|unit| self.looks_at(*unit, class, came)).collect();
        helped.into_iter().for_each(|unit| self.wake(unit));
    }

    fn looks_at(&self, unit: UnitId, other: ClassId, came: bool) -> bool {
        let other = self.cluster.classes.get(other);
        let looks = |class: ClassId| {
            let class = self.cluster.classes.get(class);
            let spreads = class.spread_hard.iter().map(|spread| &spread.term);
            let beside = if came { &class.affinity } else { &class.anti_affinity };
            let repelled = || {
                other
                    .owns
                    .iter()
                    .any(|(term, owner)| *owner == crate::topology::Owner::Repels && class.counted_in.contains(term))
            };
            beside.iter().chain(spreads).any(|term| other.counted_in.contains(term)) || (!came && repelled())
        };
        match unit {
            UnitId::Class(class) => looks(class),
            UnitId::Group(_) => self
                .queue
                .unit(unit)
                .is_some_and(|unit| unit.waiting.values().any(|id| looks(self.cluster.pod(*id).class))),
        }
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
