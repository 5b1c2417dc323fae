//! Which pods a term is about: namespaces and labels.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::model::{LabelSelector, LabelSelectorRequirement, PodAffinityTerm, TopologySpreadConstraint};

use crate::pod::PodSpec;

/// Namespaces are no objects: this is the one label that each has.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Pods by namespace and labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PodSelector {
    namespaces: BTreeSet<String>,
    namespace_selector: Option<LabelSelector>,
    /// `None`: no pod.
    labels: Option<LabelSelector>,
}

impl PodSelector {
    /// Of a term of `pod`.
    pub(crate) fn of_affinity(term: &PodAffinityTerm, pod: &PodSpec) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(pod.namespace.clone());
        }
        let labels = term.label_selector.clone().map(|mut labels| {
            match_keys(&mut labels, &term.match_label_keys, "In", &pod.labels);
            match_keys(&mut labels, &term.mismatch_label_keys, "NotIn", &pod.labels);
            labels
        });
        Self { namespaces, namespace_selector: term.namespace_selector.clone(), labels }
    }

    /// Of a constraint of `pod`.
    pub(crate) fn of_spread(constraint: &TopologySpreadConstraint, pod: &PodSpec) -> Self {
        let labels = constraint.label_selector.clone().map(|mut labels| {
            match_keys(&mut labels, &constraint.match_label_keys, "In", &pod.labels);
            labels
        });
        Self { namespaces: [pod.namespace.clone()].into(), namespace_selector: None, labels }
    }

    /// Whether a pod is taken.
    pub(crate) fn takes(&self, pod: &PodSpec) -> bool {
        let by_label =
            |selector: &LabelSelector| selector.matches(&[(NAMESPACE_LABEL.to_owned(), pod.namespace.clone())].into());
        self.labels.as_ref().is_some_and(|labels| labels.matches(&pod.labels))
            && (self.namespaces.contains(&pod.namespace) || self.namespace_selector.as_ref().is_some_and(by_label))
    }
}

/// `matchLabelKeys`: the pod's own values become requirements; a label that it has not is skipped.
fn match_keys(selector: &mut LabelSelector, keys: &[String], operator: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in keys.iter().filter_map(|key| labels.get_key_value(key)) {
        selector.match_expressions.push(LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.to_owned(),
            values: vec![value.clone()],
        });
    }
}
