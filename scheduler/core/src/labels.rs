//! Which nodes have which labels: postings, from which sets of nodes are made without looking at any node.

use std::collections::{BTreeMap, HashMap};

use podbus_common::model::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use crate::bitset::Bitset;

/// Label -> value -> nodes. Keys are the users' choice, so they are hashed with a secret.
#[derive(Debug, Default)]
pub(crate) struct LabelIndex {
    postings: HashMap<String, HashMap<String, Vec<u32>>>,
}

impl LabelIndex {
    pub(crate) fn add(&mut self, slot: u32, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let values = self.postings.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().push(slot);
        }
    }

    pub(crate) fn remove(&mut self, slot: u32, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            if let Some(values) = self.postings.get_mut(key)
                && let Some(slots) = values.get_mut(value)
            {
                slots.retain(|other| *other != slot);
                if slots.is_empty() {
                    values.remove(value);
                }
            }
        }
    }

    /// Nodes with a label of which `takes` takes the value.
    fn with(&self, key: &str, takes: impl Fn(&str) -> bool) -> Bitset {
        let mut set = Bitset::default();
        let values = self.postings.get(key).into_iter().flatten();
        for slot in values.filter(|(value, _)| takes(value)).flat_map(|(_, slots)| slots) {
            set.insert(*slot);
        }
        set
    }

    /// Nodes with this value: the usual case, without looking at other values.
    pub(crate) fn with_value(&self, key: &str, value: &str) -> Bitset {
        let mut set = Bitset::default();
        for slot in self.postings.get(key).and_then(|values| values.get(value)).into_iter().flatten() {
            set.insert(*slot);
        }
        set
    }
}

/// Nodes of `all` that a selector takes; `named` finds a node by its name.
pub(crate) fn select(
    selector: &NodeSelector,
    index: &LabelIndex,
    all: &Bitset,
    named: &dyn Fn(&str) -> Option<u32>,
) -> Bitset {
    let mut set = Bitset::default();
    for term in &selector.node_selector_terms {
        set.or(&select_term(term, index, all, named));
    }
    set
}

/// Nodes of `all` that one term takes: a term without requirements takes none.
pub(crate) fn select_term(
    term: &NodeSelectorTerm,
    index: &LabelIndex,
    all: &Bitset,
    named: &dyn Fn(&str) -> Option<u32>,
) -> Bitset {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return Bitset::default();
    }
    let mut set = all.clone();
    for requirement in &term.match_fields {
        let mut of_name = Bitset::default();
        requirement.values.iter().filter_map(|name| named(name)).for_each(|slot| of_name.insert(slot));
        match requirement.operator.as_str() {
            "In" => set.and(&of_name),
            "NotIn" => set.and_not(&of_name),
            _ => set = Bitset::default(),
        }
    }
    for requirement in &term.match_expressions {
        narrow(&mut set, requirement, index);
    }
    set
}

fn narrow(set: &mut Bitset, requirement: &NodeSelectorRequirement, index: &LabelIndex) {
    let key = &requirement.key;
    let listed = || {
        let mut listed = Bitset::default();
        requirement.values.iter().for_each(|value| listed.or(&index.with_value(key, value)));
        listed
    };
    match requirement.operator.as_str() {
        "In" => set.and(&listed()),
        "NotIn" => set.and_not(&listed()),
        "Exists" => set.and(&index.with(key, |_| true)),
        "DoesNotExist" => set.and_not(&index.with(key, |_| true)),
        operator => set.and(&index.with(key, |value| requirement.compares(operator, value))),
    }
}
