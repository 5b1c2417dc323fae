//! The state: nodes, the pods on them, and the classes with their counters. Every change goes through here, so that
//! the counters follow.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::class::{Class, ClassId, Classes, Shapes, Spread};
use crate::config::Config;
use crate::node::Node;
use crate::nodes::{Nodes, PodId};
use crate::placement::Placements;
use crate::pod::PodSpec;
use crate::selector::PodSelector;
use crate::topology::{Owner, Scope, TermId, TermKey, Topology};
use crate::view::Views;

/// Classes without a pod that are kept.
const IDLE_MAX: usize = 1024;

/// A pod that is bound or waits.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) uid: Arc<str>,
    pub(crate) class: ClassId,
    /// The order in which pods came.
    pub(crate) sequence: u64,
    pub(crate) state: PodState,
    /// It is being deleted.
    pub(crate) terminating: bool,
    /// The hash of what was last said of it; 0: nothing.
    pub(crate) told: u64,
}

/// Where a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodState {
    Waits,
    /// On a node; its place in the node's list.
    Bound {
        slot: u32,
        position: u32,
    },
}

/// The state.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) nodes: Nodes,
    pub(crate) placements: Placements,
    pub(crate) topology: Topology,
    pub(crate) classes: Classes,
    shapes: Shapes,
    pub(crate) views: Views,
    /// UIDs are the scheduler's own choice, so a fast hash will do.
    pub(crate) uids: FxHashMap<Arc<str>, PodId>,
    pods: Vec<Option<Pod>>,
    free: Vec<PodId>,
    sequence: u64,
}

// === Pods ===

impl Cluster {
    #[expect(
        clippy::expect_used,
        reason = "ids are taken out of all lists when a pod goes: one without a pod is a bug"
    )]
    pub(crate) fn pod(&self, id: PodId) -> &Pod {
        self.pods[id as usize].as_ref().expect("a pod in use")
    }

    #[expect(clippy::expect_used, reason = "as in `pod`")]
    pub(crate) fn pod_mut(&mut self, id: PodId) -> &mut Pod {
        self.pods[id as usize].as_mut().expect("a pod in use")
    }

    pub(crate) fn pod_of(&self, uid: &str) -> Option<PodId> {
        self.uids.get(uid).copied()
    }

    pub(crate) fn spec_of(&self, id: PodId) -> &Arc<PodSpec> {
        &self.classes.get(self.pod(id).class).spec
    }

    /// Adds a pod that waits. Its UID is new.
    pub(crate) fn add_pod(&mut self, uid: &str, spec: &PodSpec) -> PodId {
        let class = self.class_of(spec);
        let held = self.classes.get_mut(class);
        held.pods += 1;
        if held.pods == 1 {
            self.classes.idle -= 1;
        }
        self.sequence += 1;
        let uid: Arc<str> = uid.into();
        let pod = Pod {
            uid: uid.clone(),
            class,
            sequence: self.sequence,
            state: PodState::Waits,
            terminating: false,
            told: 0,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            #[expect(clippy::cast_possible_truncation, reason = "pods fit in memory, so in 32 bits")]
            let id = (self.pods.len() - 1) as PodId;
            id
        });
        self.pods[id as usize] = Some(pod);
        self.uids.insert(uid, id);
        id
    }

    /// Forgets a pod that is bound nowhere.
    pub(crate) fn remove_pod(&mut self, id: PodId) {
        let Some(pod) = self.pods[id as usize].take() else { return };
        self.uids.remove(&pod.uid);
        self.free.push(id);
        let class = self.classes.get_mut(pod.class);
        class.pods -= 1;
        if class.pods == 0 {
            self.classes.idle += 1;
            if self.classes.idle > IDLE_MAX {
                self.sweep();
            }
        }
    }

    /// Puts a waiting pod onto a node.
    pub(crate) fn bind(&mut self, id: PodId, slot: u32) {
        let bound = &mut self.nodes.bound[slot as usize];
        #[expect(clippy::cast_possible_truncation, reason = "pods of a node fit in memory, so in 32 bits")]
        let position = bound.len() as u32;
        bound.push(id);
        self.pod_mut(id).state = PodState::Bound { slot, position };
        self.count(id, slot, true);
        self.nodes.changed(slot);
    }

    /// Takes a pod off its node; it waits again.
    pub(crate) fn unbind(&mut self, id: PodId) -> Option<u32> {
        let PodState::Bound { slot, position } = self.pod(id).state else { return None };
        self.count(id, slot, false);
        let bound = &mut self.nodes.bound[slot as usize];
        bound.swap_remove(position as usize);
        if let Some(moved) = bound.get(position as usize).copied() {
            self.pod_mut(moved).state = PodState::Bound { slot, position };
        }
        self.pod_mut(id).state = PodState::Waits;
        self.nodes.changed(slot);
        Some(slot)
    }

    /// Adds a pod to all counters of its node, or takes it out of them. What was computed of the node stays as it is,
    /// so that preemption can try.
    pub(crate) fn count(&mut self, id: PodId, slot: u32, comes: bool) {
        let pod = self.pod(id);
        let terminating = pod.terminating;
        let class = self.classes.get(pod.class);
        if comes {
            self.nodes.take(slot, &class.spec.shape, &class.extended);
        } else {
            self.nodes.give_back(slot, &class.spec.shape, &class.extended);
        }
        self.nodes.count_priority(slot, class.spec.priority, comes);
        for term in &class.counted_in {
            self.topology.count(*term, slot, terminating, comes);
        }
        for (term, owner) in &class.owns {
            self.topology.own(*term, *owner, slot, comes);
        }
    }

    /// A bound pod is being deleted: it takes its place until it is gone, but spreading looks past it.
    pub(crate) fn set_terminating(&mut self, id: PodId) {
        let pod = self.pod(id);
        let (PodState::Bound { slot, .. }, false) = (pod.state, pod.terminating) else { return };
        for term in &self.classes.get(pod.class).counted_in {
            if self.topology.term(*term).key.scope.spreads {
                self.topology.count(*term, slot, false, false);
            }
        }
        self.pod_mut(id).terminating = true;
    }
}

// === Nodes ===

impl Cluster {
    /// Replaces a node's record; `None`: it is away.
    pub(crate) fn set_node(&mut self, slot: u32, node: Option<Node>) {
        let before = &self.nodes.records[slot as usize];
        let same_place = self.nodes.known.holds(slot)
            && node.as_ref().is_some_and(|node| {
                node.labels == before.labels
                    && node.taints == before.taints
                    && node.unschedulable == before.unschedulable
            });
        if same_place {
            return self.nodes.replace(slot, node);
        }
        let bound = self.nodes.bound[slot as usize].clone();
        bound.iter().for_each(|id| self.count(*id, slot, false));
        self.topology.node_out(slot);
        self.nodes.replace(slot, node);
        self.placements.update(slot, &self.nodes);
        self.topology.node_in(slot, &self.nodes, &self.placements);
        bound.iter().for_each(|id| self.count(*id, slot, true));
    }
}

// === Classes ===

impl Cluster {
    /// The class of a spec, made where there is none.
    pub(crate) fn class_of(&mut self, spec: &PodSpec) -> ClassId {
        if let Some(id) = self.classes.ids.get(spec).copied() {
            return id;
        }
        let spec = Arc::new(spec.clone());
        let placement = self.placements.hold(&spec.placement, &self.nodes);
        let extended = spec.shape.extended.iter().map(|(name, amount)| (self.nodes.extended_of(name), *amount));
        let profiles = &self.config.profiles;
        let mut class = Class {
            placement,
            shape: self.shapes.hold(&spec.shape),
            extended: extended.collect(),
            profile: profiles
                .iter()
                .position(|profile| spec.scheduler_name.is_empty() || profile.scheduler_name == spec.scheduler_name),
            counted_in: Vec::new(),
            owns: Vec::new(),
            affinity: Vec::new(),
            affinity_of_self: false,
            anti_affinity: Vec::new(),
            preferred: Vec::new(),
            spread_hard: Vec::new(),
            spread_soft: Vec::new(),
            held: Vec::new(),
            pods: 0,
            spec: Arc::clone(&spec),
        };
        class.counted_in = self
            .topology
            .terms()
            .filter(|(_, term)| term.key.selectors.iter().all(|selector| selector.takes(&spec)))
            .map(|(id, _)| id)
            .collect();
        let mut new = Vec::new();
        self.hold_affinity(&mut class, &mut new);
        self.hold_spread(&mut class, &mut new);
        let id = self.classes.insert(class);
        self.classes.idle += 1;
        new.into_iter().for_each(|term| self.count_all(term));
        id
    }

    fn hold_affinity(&mut self, class: &mut Class, new: &mut Vec<TermId>) {
        let spec = Arc::clone(&class.spec);
        let selector = |term| PodSelector::of_affinity(term, &spec);
        let all: Vec<_> = spec.affinity.iter().map(selector).collect();
        class.affinity_of_self = all.iter().all(|selector| selector.takes(&spec));
        for term in &spec.affinity {
            let id = self.hold_term(class, new, all.clone(), &term.topology_key, Scope::default());
            class.affinity.push(id);
        }
        let hard_weight = class.profile.map_or(0, |profile| self.config.profiles[profile].hard_pod_affinity_weight);
        if hard_weight > 0 {
            for term in &spec.affinity {
                let id = self.hold_term(class, new, vec![selector(term)], &term.topology_key, Scope::default());
                class.owns.push((id, Owner::Weighs(hard_weight)));
            }
        }
        for term in &spec.anti_affinity {
            let id = self.hold_term(class, new, vec![selector(term)], &term.topology_key, Scope::default());
            class.anti_affinity.push(id);
            class.owns.push((id, Owner::Repels));
        }
        for (weight, term) in &spec.preferred_pods {
            let id = self.hold_term(class, new, vec![selector(term)], &term.topology_key, Scope::default());
            class.preferred.push((i64::from(*weight), id));
            class.owns.push((id, Owner::Weighs(*weight)));
        }
    }

    fn hold_spread(&mut self, class: &mut Class, new: &mut Vec<TermId>) {
        let spec = Arc::clone(&class.spec);
        let selects_all = self.placements.get(class.placement).selects_all();
        for hard in [true, false] {
            let of_kind: Vec<_> =
                spec.spread.iter().filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard).collect();
            let mut keys: Vec<_> = of_kind.iter().map(|c| self.topology.key(&c.topology_key, &self.nodes)).collect();
            keys.sort_unstable();
            // The constraint's own key is asked for anyway.
            if keys.len() == 1 {
                keys.clear();
            }
            for constraint in of_kind {
                let selector = PodSelector::of_spread(constraint, &spec);
                let counts_self = selector.takes(&spec);
                let honors_nodes = constraint.node_affinity_policy.as_deref() != Some("Ignore") && !selects_all;
                let honors_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
                let scope = Scope {
                    spreads: true,
                    selected: honors_nodes.then_some(class.placement),
                    tolerated: honors_taints.then_some(class.placement),
                    keys: keys.clone(),
                };
                let term = self.hold_term(class, new, vec![selector], &constraint.topology_key, scope);
                let spread = Spread { term, constraint: constraint.clone(), counts_self };
                if hard { class.spread_hard.push(spread) } else { class.spread_soft.push(spread) }
            }
        }
    }

    fn hold_term(
        &mut self,
        class: &mut Class,
        new: &mut Vec<TermId>,
        selectors: Vec<PodSelector>,
        topology_key: &str,
        scope: Scope,
    ) -> TermId {
        let topology = self.topology.key(topology_key, &self.nodes);
        let key = TermKey { selectors, topology, scope };
        let (id, is_new) = self.topology.hold(key, &self.nodes, &self.placements);
        class.held.push(id);
        if is_new {
            new.push(id);
        }
        id
    }

    /// Counts what is there for a term that is new.
    fn count_all(&mut self, term: TermId) {
        let key = Arc::clone(&self.topology.term(term).key);
        for class in self.classes.table.iter_mut().flatten() {
            if key.selectors.iter().all(|selector| selector.takes(&class.spec)) {
                class.counted_in.push(term);
            }
        }
        for pod in self.pods.iter().flatten() {
            if let PodState::Bound { slot, .. } = pod.state
                && self.classes.get(pod.class).counted_in.contains(&term)
            {
                self.topology.count(term, slot, pod.terminating, true);
            }
        }
    }

    /// Forgets the classes that have no pod.
    fn sweep(&mut self) {
        let idle: Vec<_> = self.classes.iter().filter(|(_, class)| class.pods == 0).map(|(id, _)| id).collect();
        for id in idle {
            let Some(class) = self.classes.remove(id) else { continue };
            for term in class.held {
                if self.topology.let_go(term) {
                    self.classes.table.iter_mut().flatten().for_each(|class| class.counted_in.retain(|t| *t != term));
                }
            }
            self.shapes.let_go(&class.spec.shape);
            if self.placements.let_go(class.placement) {
                self.views.forget_placement(class.placement);
            }
        }
        self.classes.idle = 0;
    }
}
