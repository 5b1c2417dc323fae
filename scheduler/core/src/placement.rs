//! Verdicts that do not depend on other pods: NodeUnschedulable, NodeName, TaintToleration, NodeAffinity. They are
//! computed once for all pods that ask the same, and again for a node only when its record changes.

use std::collections::HashMap;
use std::sync::Arc;

use podbus_common::model::{Taint, TaintEffect};

use crate::bitset::Bitset;
use crate::filter::{FilterReason, tolerates};
use crate::labels::{select, select_term};
use crate::node::Node;
use crate::nodes::Nodes;
use crate::pod::Placement;

/// A placement by its place in the table.
pub(crate) type PlacementId = u32;

/// Up to so many candidates are looked at one by one: pods of a DaemonSet name their node.
const FEW: usize = 16;
/// The key under which an unschedulable node can be tolerated (KEP 382).
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// What is known of one placement.
#[derive(Debug)]
pub(crate) struct Verdicts {
    pub(crate) placement: Arc<Placement>,
    /// Nodes that do.
    pub(crate) fine: Bitset,
    /// Nodes that its selector and affinity take, whatever their taints: those count for spreading.
    pub(crate) selected: Bitset,
    /// Nodes whose taints it bears.
    pub(crate) tolerated: Bitset,
    /// The nodes of `fine`, where they are few.
    pub(crate) few: Option<Vec<u32>>,
    /// How many `PreferNoSchedule` taints each node has that it does not bear; empty: none has any.
    pub(crate) reluctance: Vec<u32>,
    /// The weights of its wishes that each node fulfils; empty: none does.
    pub(crate) attraction: Vec<u32>,
    users: usize,
}

/// All placements in use.
#[derive(Debug, Default)]
pub(crate) struct Placements {
    ids: HashMap<Arc<Placement>, PlacementId>,
    table: Vec<Option<Verdicts>>,
    free: Vec<PlacementId>,
}

impl Placements {
    #[expect(clippy::expect_used, reason = "a class holds its placement: an id without one is a bug")]
    pub(crate) fn get(&self, id: PlacementId) -> &Verdicts {
        self.table[id as usize].as_ref().expect("a placement in use")
    }

    /// One more user of a placement.
    pub(crate) fn hold(&mut self, placement: &Placement, nodes: &Nodes) -> PlacementId {
        if let Some(id) = self.ids.get(placement).copied() {
            if let Some(verdicts) = &mut self.table[id as usize] {
                verdicts.users += 1;
            }
            return id;
        }
        let placement = Arc::new(placement.clone());
        let verdicts = Verdicts::of_all(Arc::clone(&placement), nodes);
        let id = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            #[expect(clippy::cast_possible_truncation, reason = "placements fit in memory, so in 32 bits")]
            let id = (self.table.len() - 1) as PlacementId;
            id
        });
        self.table[id as usize] = Some(verdicts);
        self.ids.insert(placement, id);
        id
    }

    /// One user less; `true`: that was the last.
    pub(crate) fn let_go(&mut self, id: PlacementId) -> bool {
        let Some(verdicts) = &mut self.table[id as usize] else { return false };
        verdicts.users -= 1;
        if verdicts.users > 0 {
            return false;
        }
        self.ids.remove(&verdicts.placement);
        self.table[id as usize] = None;
        self.free.push(id);
        true
    }

    /// A node's record changed.
    pub(crate) fn update(&mut self, slot: u32, nodes: &Nodes) {
        for verdicts in self.table.iter_mut().flatten() {
            verdicts.update(slot, nodes);
        }
    }
}

impl Verdicts {
    fn of_all(placement: Arc<Placement>, nodes: &Nodes) -> Self {
        let all = &nodes.known;
        let named = |name: &str| nodes.slot(name).filter(|slot| all.holds(*slot));
        let mut selected = all.clone();
        for (key, value) in &placement.node_selector {
            selected.and(&nodes.labels.with_value(key, value));
        }
        if let Some(required) = &placement.required {
            selected.and(&select(required, &nodes.labels, all, &named));
        }
        let mut tolerated = all.clone();
        let mut reluctance = Vec::new();
        for slot in all.iter() {
            let node = &nodes.records[slot as usize];
            if node.taints.is_empty() {
                continue;
            }
            tolerated.set(slot, untolerated(&placement, node).is_none());
            set_grown(&mut reluctance, slot, reluctance_of(&placement, node));
        }
        let mut attraction = Vec::new();
        for wish in &placement.preferred {
            for slot in select_term(&wish.preference, &nodes.labels, all, &named).iter() {
                let before = attraction.get(slot as usize).copied().unwrap_or(0);
                set_grown(&mut attraction, slot, before + wish.weight.unsigned_abs());
            }
        }
        let mut fine = selected.clone();
        fine.and(&tolerated);
        if let Some(name) = &placement.node_name {
            let mut only = Bitset::default();
            named(name).into_iter().for_each(|slot| only.insert(slot));
            fine.and(&only);
        }
        for slot in all.iter().filter(|slot| nodes.records[*slot as usize].unschedulable) {
            fine.set(slot, fine.holds(slot) && bears_unschedulable(&placement));
        }
        let mut verdicts = Self { placement, fine, selected, tolerated, few: None, reluctance, attraction, users: 1 };
        verdicts.count_few();
        verdicts
    }

    fn update(&mut self, slot: u32, nodes: &Nodes) {
        let known = nodes.known.holds(slot);
        let node = &nodes.records[slot as usize];
        let selected = known && selects(&self.placement, node);
        let tolerated = known && untolerated(&self.placement, node).is_none();
        self.selected.set(slot, selected);
        self.tolerated.set(slot, tolerated);
        set_grown(&mut self.reluctance, slot, if known { reluctance_of(&self.placement, node) } else { 0 });
        let attraction =
            self.placement.preferred.iter().filter(|wish| known && wish.preference.matches(&node.name, &node.labels));
        let attraction = attraction.map(|wish| wish.weight.unsigned_abs()).sum();
        set_grown(&mut self.attraction, slot, attraction);
        let named = self.placement.node_name.as_ref().is_none_or(|name| *name == node.name);
        let open = !node.unschedulable || bears_unschedulable(&self.placement);
        let fine = selected && tolerated && named && open;
        if fine != self.fine.holds(slot) {
            self.fine.set(slot, fine);
            self.count_few();
        }
    }

    fn count_few(&mut self) {
        self.few = (self.fine.len() <= FEW).then(|| self.fine.iter().collect());
    }

    /// Why a known node does not do, in kube-scheduler's order of filters.
    pub(crate) fn reason(&self, node: &Node) -> Option<FilterReason> {
        if node.unschedulable && !bears_unschedulable(&self.placement) {
            return Some(FilterReason::Unschedulable);
        }
        if self.placement.node_name.as_ref().is_some_and(|name| *name != node.name) {
            return Some(FilterReason::NodeName);
        }
        if let Some(taint) = untolerated(&self.placement, node) {
            return Some(FilterReason::Taint { key: taint.key.clone(), value: taint.value.clone() });
        }
        (!selects(&self.placement, node)).then_some(FilterReason::NodeAffinity)
    }

    /// Whether it takes every node, as far as labels go.
    pub(crate) fn selects_all(&self) -> bool {
        self.placement.node_selector.is_empty() && self.placement.required.is_none()
    }
}

/// Whether selector and required affinity take a node.
fn selects(placement: &Placement, node: &Node) -> bool {
    placement.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && placement.required.as_ref().is_none_or(|required| required.matches(&node.name, &node.labels))
}

fn bears_unschedulable(placement: &Placement) -> bool {
    tolerates(&placement.tolerations, UNSCHEDULABLE_TAINT, "", TaintEffect::NoSchedule)
}

/// The first taint that keeps the pod away.
fn untolerated<'a>(placement: &Placement, node: &'a Node) -> Option<&'a Taint> {
    let keeps_away = |taint: &&Taint| taint.effect != TaintEffect::PreferNoSchedule;
    crate::filter::untolerated_taint(&placement.tolerations, node.taints.iter().filter(keeps_away))
}

fn reluctance_of(placement: &Placement, node: &Node) -> u32 {
    let prefers_not = node.taints.iter().filter(|taint| taint.effect == TaintEffect::PreferNoSchedule);
    let count =
        prefers_not.filter(|taint| !tolerates(&placement.tolerations, &taint.key, &taint.value, taint.effect)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Sets `values[slot]`; zeros need no room.
fn set_grown(values: &mut Vec<u32>, slot: u32, value: u32) {
    let index = slot as usize;
    if index >= values.len() {
        if value == 0 {
            return;
        }
        values.resize(index + 1, 0);
    }
    values[index] = value;
}
