//! Views: for pods that ask the same, which nodes have room and how good each is, with the best one at hand.
//!
//! A view remembers the generation that it has seen. Before it is used it looks again at the nodes that changed since,
//! so there is nothing to invalidate, and placing many pods of a class looks at one node for each.

use rustc_hash::FxHashMap;

use crate::class::Class;
use crate::config::Profile;
use crate::nodes::Nodes;
use crate::placement::{PlacementId, Verdicts};
use crate::pod::Shape;
use crate::score;

/// Views that are kept; the one that was not used for longest goes.
const VIEWS_MAX: usize = 64;

/// What pods ask of a node by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ViewKey {
    placement: PlacementId,
    profile: usize,
    /// Numbers of shapes are never given again.
    shape: u64,
}

/// One view.
#[derive(Debug, Default)]
pub(crate) struct View {
    generation: u64,
    image_changes: u64,
    /// 0: no room; else 1 + the weighted scores of NodeResourcesFit, BalancedAllocation and ImageLocality.
    /// A tree of the highest: the leaves begin at `leaves`, and each inner entry is the higher of its two.
    tree: Vec<u32>,
    leaves: usize,
    used_at: u64,
}

/// All views in use.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: FxHashMap<ViewKey, View>,
    clock: u64,
}

impl Views {
    /// What pods of a class see, as the nodes are now.
    pub(crate) fn current(&mut self, asks: &Asks<'_>, nodes: &Nodes) -> &View {
        let Class { placement, shape, .. } = asks.class;
        let key = ViewKey { placement: *placement, profile: asks.class.profile.unwrap_or(0), shape: *shape };
        self.clock += 1;
        if self.views.len() >= VIEWS_MAX && !self.views.contains_key(&key) {
            let oldest = self.views.iter().min_by_key(|(_, view)| view.used_at).map(|(key, _)| *key);
            oldest.map(|key| self.views.remove(&key));
        }
        let view = self.views.entry(key).or_default();
        view.used_at = self.clock;
        view.follow(asks, nodes);
        view
    }

    /// A placement's id is about to mean another one.
    pub(crate) fn forget_placement(&mut self, id: PlacementId) {
        self.views.retain(|key, _| key.placement != id);
    }
}

impl View {
    fn follow(&mut self, asks: &Asks<'_>, nodes: &Nodes) {
        let images_moved = !asks.shape().images.is_empty() && self.image_changes != nodes.image_changes;
        let changed = nodes.changed_since(self.generation).filter(|_| nodes.len() <= self.leaves && !images_moved);
        self.generation = nodes.generation();
        self.image_changes = nodes.image_changes;
        let Some(changed) = changed else { return self.build(asks, nodes) };
        for slot in changed {
            self.set(*slot as usize, asks.value(nodes, *slot));
        }
    }

    fn build(&mut self, asks: &Asks<'_>, nodes: &Nodes) {
        self.leaves = nodes.len().next_power_of_two();
        self.tree.clear();
        self.tree.resize(2 * self.leaves, 0);
        for slot in asks.verdicts.fine.iter() {
            self.tree[self.leaves + slot as usize] = asks.value(nodes, slot);
        }
        for index in (1..self.leaves).rev() {
            self.tree[index] = self.tree[2 * index].max(self.tree[2 * index + 1]);
        }
    }

    fn set(&mut self, slot: usize, value: u32) {
        let mut index = self.leaves + slot;
        self.tree[index] = value;
        while index > 1 {
            let higher = self.tree[index].max(self.tree[index ^ 1]);
            index /= 2;
            if self.tree[index] == higher {
                break;
            }
            self.tree[index] = higher;
        }
    }

    /// By slot: 0 where there is no room, else more is better.
    pub(crate) fn values(&self) -> &[u32] {
        &self.tree[self.leaves..]
    }

    /// The best node that `takes` takes too; of equals the first.
    pub(crate) fn best(&self, takes: &mut dyn FnMut(u32) -> bool) -> Option<u32> {
        let mut best = (0, usize::MAX);
        if self.leaves > 0 {
            self.search(1, self.leaves, 0, &mut best, takes);
        }
        u32::try_from(best.1).ok().filter(|_| best.0 > 0)
    }

    /// Looks below `index`, whose `width` leaves begin at slot `from`.
    fn search(
        &self,
        index: usize,
        width: usize,
        from: usize,
        best: &mut (u32, usize),
        takes: &mut dyn FnMut(u32) -> bool,
    ) {
        let value = self.tree[index];
        if value == 0 || value < best.0 || (value == best.0 && from >= best.1) {
            return;
        }
        if width == 1 {
            #[expect(clippy::cast_possible_truncation, reason = "slots have 32 bits")]
            if takes(from as u32) {
                *best = (value, from);
            }
            return;
        }
        let half = width / 2;
        let (left, right) = (2 * index, 2 * index + 1);
        if self.tree[left] >= self.tree[right] {
            self.search(left, half, from, best, takes);
            self.search(right, half, from + half, best, takes);
        } else {
            self.search(right, half, from + half, best, takes);
            self.search(left, half, from, best, takes);
        }
    }
}

/// What pods of a class ask of a node, other pods aside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asks<'a> {
    pub(crate) class: &'a Class,
    pub(crate) profile: &'a Profile,
    pub(crate) verdicts: &'a Verdicts,
}

impl<'a> Asks<'a> {
    pub(crate) fn shape(&self) -> &'a Shape {
        &self.class.spec.shape
    }

    /// What a view says of one node: 0 where there is no room, else 1 + [`Self::score`].
    pub(crate) fn value(&self, nodes: &Nodes, slot: u32) -> u32 {
        let fine = self.verdicts.fine.holds(slot)
            && has_room(self.shape(), &self.class.extended, nodes, slot)
            && has_ports(self.shape(), nodes, slot);
        if fine { 1 + self.score(nodes, slot) } else { 0 }
    }

    /// The weighted scores that depend on the node alone: NodeResourcesFit, BalancedAllocation, ImageLocality.
    pub(crate) fn score(&self, nodes: &Nodes, slot: u32) -> u32 {
        let weights = &self.profile.weights;
        self.own_scores(nodes, slot)
            .into_iter()
            .zip([weights.resources_fit, weights.balanced_allocation, weights.image_locality])
            .map(|(score, weight)| weight * score)
            .sum()
    }

    /// The three scores, 0 to 100 each.
    pub(crate) fn own_scores(&self, nodes: &Nodes, slot: u32) -> [u32; 3] {
        let (index, shape) = (slot as usize, self.shape());
        let images = if shape.images.is_empty() { 0 } else { score::image_locality(shape, nodes, index) };
        let scores = [
            score::resources_fit(self.profile, shape, nodes, index),
            score::balanced_allocation(shape, nodes, index),
            images,
        ];
        scores.map(|score| u32::try_from(score).unwrap_or(0))
    }
}

/// NodeResourcesFit. A pod that asks nothing of a resource fits even where it is over-committed.
pub(crate) fn has_room(shape: &Shape, extended: &[(usize, u64)], nodes: &Nodes, slot: u32) -> bool {
    let (index, requests) = (slot as usize, &shape.requests);
    let fits = |column: &crate::nodes::Column, request: u64| request == 0 || column.fits(index, request, 0);
    nodes.pods.fits(index, requests.pods, 0)
        && fits(&nodes.cpu, requests.cpu_millis)
        && fits(&nodes.memory, requests.memory_bytes)
        && fits(&nodes.storage, requests.ephemeral_storage_bytes)
        && extended.iter().all(|(column, amount)| fits(&nodes.extended[*column], *amount))
}

/// NodePorts.
pub(crate) fn has_ports(shape: &Shape, nodes: &Nodes, slot: u32) -> bool {
    let taken = &nodes.ports[slot as usize];
    shape.ports.is_empty() || !shape.ports.iter().any(|port| taken.iter().any(|other| port.conflicts(other)))
}
