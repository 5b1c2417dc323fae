//! Counters for InterPodAffinity and PodTopologySpread: how many pods a selector takes in each domain, a domain being
//! the nodes with one value of a label. They are kept for the selectors of live classes only, and follow each binding.

use std::collections::HashMap;
use std::sync::Arc;

use crate::bitset::Bitset;
use crate::nodes::Nodes;
use crate::placement::{PlacementId, Placements};
use crate::selector::PodSelector;

/// A topology key by its place in the table.
pub(crate) type KeyId = u32;
/// A term by its place in the table.
pub(crate) type TermId = u32;
/// The node has no such label.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

/// Pods, and where they are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TermKey {
    /// A pod counts when all take it.
    pub(crate) selectors: Vec<PodSelector>,
    pub(crate) topology: KeyId,
    pub(crate) scope: Scope,
}

/// Which nodes and pods count.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Scope {
    /// Pods that are being deleted do not, and the emptiest domain is known: for spreading.
    pub(crate) spreads: bool,
    /// Only nodes that this placement's selector takes.
    pub(crate) selected: Option<PlacementId>,
    /// Only nodes whose taints this placement bears.
    pub(crate) tolerated: Option<PlacementId>,
    /// Only nodes with all of these labels.
    pub(crate) keys: Vec<KeyId>,
}

/// One term's counters, by domain.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) key: Arc<TermKey>,
    users: usize,
    /// Nodes that count.
    pub(crate) counts: Bitset,
    /// Pods that the selectors take.
    pub(crate) matched: Vec<u32>,
    pub(crate) matched_total: u64,
    /// Pods that must not be beside those that the selector takes.
    pub(crate) repelling: Vec<u32>,
    pub(crate) repelling_total: u64,
    /// Weights of the pods that want to be beside (or away from) those that the selector takes.
    pub(crate) weight: Vec<i64>,
    pub(crate) weight_owners: u64,
    /// Nodes that count, of each domain.
    nodes: Vec<u32>,
    /// Domains with such nodes.
    pub(crate) domains: u32,
    /// How many domains have so many pods.
    histogram: Vec<u32>,
    min: u32,
}

/// What a pod of a class is to a term, besides being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It must not be beside those that the selector takes.
    Repels,
    /// It wants to be beside them so much.
    Weighs(i32),
}

/// A label that says how near nodes are.
#[derive(Debug, Default)]
struct Key {
    name: String,
    /// By slot.
    domain_of: Vec<u32>,
    values: HashMap<String, u32>,
}

/// All keys and terms in use.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    keys: Vec<Key>,
    ids: HashMap<Arc<TermKey>, TermId>,
    terms: Vec<Option<Term>>,
    free: Vec<TermId>,
}

impl Topology {
    /// The key of a label. Keys stay: there are few.
    pub(crate) fn key(&mut self, name: &str, nodes: &Nodes) -> KeyId {
        #[expect(clippy::cast_possible_truncation, reason = "keys fit in memory, so in 32 bits")]
        if let Some(index) = self.keys.iter().position(|key| key.name == name) {
            return index as KeyId;
        }
        let mut key = Key { name: name.to_owned(), ..Key::default() };
        for slot in nodes.known.iter() {
            key.set(slot, nodes);
        }
        self.keys.push(key);
        #[expect(clippy::cast_possible_truncation, reason = "keys fit in memory, so in 32 bits")]
        let id = (self.keys.len() - 1) as KeyId;
        id
    }

    /// The domain of a node.
    #[inline]
    pub(crate) fn domain(&self, key: KeyId, slot: u32) -> u32 {
        self.keys[key as usize].domain_of.get(slot as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// The domains of all nodes, by slot; shorter than the nodes where the last ones have no such label.
    pub(crate) fn domains_of(&self, key: KeyId) -> &[u32] {
        &self.keys[key as usize].domain_of
    }

    #[expect(clippy::expect_used, reason = "a class holds its terms: an id without one is a bug")]
    pub(crate) fn term(&self, id: TermId) -> &Term {
        self.terms[id as usize].as_ref().expect("a term in use")
    }

    /// One more user of a term; `true`: it is new, and counts nothing yet.
    pub(crate) fn hold(&mut self, key: TermKey, nodes: &Nodes, placements: &Placements) -> (TermId, bool) {
        if let Some(id) = self.ids.get(&key).copied() {
            if let Some(term) = &mut self.terms[id as usize] {
                term.users += 1;
            }
            return (id, false);
        }
        let key = Arc::new(key);
        let mut term = Term::new(Arc::clone(&key));
        for slot in nodes.known.iter() {
            self.node_in_one(&mut term, slot, placements);
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.terms.push(None);
            #[expect(clippy::cast_possible_truncation, reason = "terms fit in memory, so in 32 bits")]
            let id = (self.terms.len() - 1) as TermId;
            id
        });
        self.terms[id as usize] = Some(term);
        self.ids.insert(key, id);
        (id, true)
    }

    /// One user less; `true`: that was the last.
    pub(crate) fn let_go(&mut self, id: TermId) -> bool {
        let Some(term) = &mut self.terms[id as usize] else { return false };
        term.users -= 1;
        if term.users > 0 {
            return false;
        }
        self.ids.remove(&term.key);
        self.terms[id as usize] = None;
        self.free.push(id);
        true
    }

    pub(crate) fn terms(&self) -> impl Iterator<Item = (TermId, &Term)> {
        (0..).zip(&self.terms).filter_map(|(id, term)| Some((id, term.as_ref()?)))
    }

    /// A node's labels are about to change, and no pod on it is counted.
    pub(crate) fn node_out(&mut self, slot: u32) {
        for term in self.terms.iter_mut().flatten() {
            if term.counts.holds(slot) {
                let domain = self.keys[term.key.topology as usize].domain_of[slot as usize];
                term.counts.remove(slot);
                term.node_leaves(domain);
            }
        }
        for key in &mut self.keys {
            if let Some(domain) = key.domain_of.get_mut(slot as usize) {
                *domain = NO_DOMAIN;
            }
        }
    }

    /// A node's labels have changed, and `placements` know.
    pub(crate) fn node_in(&mut self, slot: u32, nodes: &Nodes, placements: &Placements) {
        for key in &mut self.keys {
            key.set(slot, nodes);
        }
        let mut terms = std::mem::take(&mut self.terms);
        for term in terms.iter_mut().flatten() {
            self.node_in_one(term, slot, placements);
        }
        self.terms = terms;
    }

    fn node_in_one(&self, term: &mut Term, slot: u32, placements: &Placements) {
        let scope = &term.key.scope;
        let domain = self.domain(term.key.topology, slot);
        let counts = domain != NO_DOMAIN
            && scope.selected.is_none_or(|id| placements.get(id).selected.holds(slot))
            && scope.tolerated.is_none_or(|id| placements.get(id).tolerated.holds(slot))
            && scope.keys.iter().all(|key| self.domain(*key, slot) != NO_DOMAIN);
        if counts {
            term.counts.insert(slot);
            term.node_joins(domain);
        }
    }

    /// A pod that the term's selectors take came to a node, or left.
    pub(crate) fn count(&mut self, id: TermId, slot: u32, terminating: bool, comes: bool) {
        let Some(term) = &mut self.terms[id as usize] else { return };
        if term.counts.holds(slot) && !(term.key.scope.spreads && terminating) {
            let domain = self.keys[term.key.topology as usize].domain_of[slot as usize];
            term.count(domain as usize, comes);
        }
    }

    /// A pod that owns the term came to a node, or left.
    pub(crate) fn own(&mut self, id: TermId, owner: Owner, slot: u32, comes: bool) {
        let Some(term) = &mut self.terms[id as usize] else { return };
        if !term.counts.holds(slot) {
            return;
        }
        let domain = self.keys[term.key.topology as usize].domain_of[slot as usize] as usize;
        match owner {
            Owner::Repels => {
                step(grown(&mut term.repelling, domain), comes);
                term.repelling_total = if comes { term.repelling_total + 1 } else { term.repelling_total - 1 };
            }
            Owner::Weighs(weight) => {
                *grown(&mut term.weight, domain) += if comes { i64::from(weight) } else { -i64::from(weight) };
                term.weight_owners = if comes { term.weight_owners + 1 } else { term.weight_owners - 1 };
            }
        }
    }
}

impl Key {
    fn set(&mut self, slot: u32, nodes: &Nodes) {
        let known = nodes.known.holds(slot);
        let value = nodes.records[slot as usize].labels.get(&self.name).filter(|_| known);
        #[expect(clippy::cast_possible_truncation, reason = "values fit in memory, so in 32 bits")]
        let next = self.values.len() as u32;
        let domain = value.map_or(NO_DOMAIN, |value| *self.values.entry(value.clone()).or_insert(next));
        let index = slot as usize;
        if index >= self.domain_of.len() {
            self.domain_of.resize(index + 1, NO_DOMAIN);
        }
        self.domain_of[index] = domain;
    }
}

impl Term {
    fn new(key: Arc<TermKey>) -> Self {
        Self {
            key,
            users: 1,
            counts: Bitset::default(),
            matched: Vec::new(),
            matched_total: 0,
            repelling: Vec::new(),
            repelling_total: 0,
            weight: Vec::new(),
            weight_owners: 0,
            nodes: Vec::new(),
            domains: 0,
            histogram: vec![0],
            min: 0,
        }
    }

    /// The fewest pods that a domain has; 0 where there are fewer domains than wanted.
    pub(crate) fn fewest(&self, min_domains: Option<i32>) -> u32 {
        let wanted = min_domains.and_then(|wanted| u32::try_from(wanted).ok()).unwrap_or(1);
        if self.domains < wanted || self.domains == 0 { 0 } else { self.min }
    }

    fn count(&mut self, domain: usize, comes: bool) {
        let matched = grown(&mut self.matched, domain);
        let before = *matched;
        step(matched, comes);
        let after = *matched;
        self.matched_total = if comes { self.matched_total + 1 } else { self.matched_total - 1 };
        if self.key.scope.spreads {
            self.histogram[before as usize] -= 1;
            *grown(&mut self.histogram, after as usize) += 1;
            self.move_min(after);
        }
    }

    fn node_joins(&mut self, domain: u32) {
        let nodes = grown(&mut self.nodes, domain as usize);
        *nodes += 1;
        if *nodes == 1 {
            let matched = *grown(&mut self.matched, domain as usize);
            self.domains += 1;
            *grown(&mut self.histogram, matched as usize) += 1;
            self.min = if self.domains == 1 { matched } else { self.min.min(matched) };
        }
    }

    fn node_leaves(&mut self, domain: u32) {
        let nodes = grown(&mut self.nodes, domain as usize);
        *nodes -= 1;
        if *nodes == 0 {
            let matched = self.matched[domain as usize];
            self.domains -= 1;
            self.histogram[matched as usize] -= 1;
            self.move_min(u32::MAX);
        }
    }

    /// Follows the fewest pods of a domain; `seen` is one that a domain has now.
    fn move_min(&mut self, seen: u32) {
        self.min = self.min.min(seen);
        while self.domains > 0 && self.histogram[self.min as usize] == 0 {
            self.min += 1;
        }
    }
}

fn step(count: &mut u32, up: bool) {
    *count = if up { *count + 1 } else { count.saturating_sub(1) };
}

/// `values[index]`, with room made for it.
fn grown<T: Default + Clone>(values: &mut Vec<T>, index: usize) -> &mut T {
    if index >= values.len() {
        values.resize(index + 1, T::default());
    }
    &mut values[index]
}
