//! Why a node cannot take a pod: a refusal is a value with kube-scheduler's words.

use std::fmt;

use podbus_common::model::{Taint, TaintEffect, Toleration, TolerationOperator};

/// Why a node cannot take a pod. `Display` is the wording that users of kube-scheduler know.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FilterReason {
    /// NodeUnschedulable
    Unschedulable,
    /// NodeName
    NodeName,
    /// TaintToleration: the first taint that the pod does not bear.
    Taint {
        /// The taint's key.
        key: String,
        /// The taint's value.
        value: String,
    },
    /// NodeAffinity, and the node selector.
    NodeAffinity,
    /// NodePorts
    Ports,
    /// NodeResourcesFit: the resource that is missing.
    Insufficient(String),
    /// NodeResourcesFit: all places are taken.
    TooManyPods,
    /// PodTopologySpread
    Spread,
    /// PodTopologySpread: the node is in no domain.
    SpreadLabel,
    /// InterPodAffinity
    Affinity,
    /// InterPodAffinity
    AntiAffinity,
    /// InterPodAffinity: a pod that is there does not want this one beside it.
    ExistingAntiAffinity,
}

impl FilterReason {
    /// The filter that refuses.
    pub fn plugin(&self) -> &'static str {
        match self {
            Self::Unschedulable => "NodeUnschedulable",
            Self::NodeName => "NodeName",
            Self::Taint { .. } => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::Ports => "NodePorts",
            Self::Insufficient(_) | Self::TooManyPods => "NodeResourcesFit",
            Self::Spread | Self::SpreadLabel => "PodTopologySpread",
            Self::Affinity | Self::AntiAffinity | Self::ExistingAntiAffinity => "InterPodAffinity",
        }
    }

    /// Whether the node might do if pods left it (kube-scheduler's `Unschedulable` against
    /// `UnschedulableAndUnresolvable`).
    pub(crate) fn is_resolvable(&self) -> bool {
        match self {
            Self::Unschedulable
            | Self::NodeName
            | Self::Taint { .. }
            | Self::NodeAffinity
            | Self::SpreadLabel
            | Self::Affinity => false,
            Self::Ports
            | Self::Insufficient(_)
            | Self::TooManyPods
            | Self::Spread
            | Self::AntiAffinity
            | Self::ExistingAntiAffinity => true,
        }
    }
}

impl fmt::Display for FilterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Taint { key, value } => return write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Insufficient(resource) => return write!(f, "Insufficient {resource}"),
            Self::TooManyPods => "Too many pods",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        })
    }
}

/// The first of `taints` that `tolerations` do not bear.
pub(crate) fn untolerated_taint<'a>(
    tolerations: &[Toleration],
    taints: impl IntoIterator<Item = &'a Taint>,
) -> Option<&'a Taint> {
    taints.into_iter().find(|taint| !tolerates(tolerations, &taint.key, &taint.value, taint.effect))
}

/// Whether a taint is borne (Kubernetes: "Taints and Tolerations"): an empty effect matches all effects, an empty key
/// with `Exists` matches all keys.
pub fn tolerates(tolerations: &[Toleration], key: &str, value: &str, effect: TaintEffect) -> bool {
    tolerations.iter().any(|toleration| {
        let same_effect = toleration.effect.is_empty() || toleration.effect == effect.as_str();
        let same_key = toleration.key.is_empty() || toleration.key == key;
        let same_value = match toleration.operator.unwrap_or(TolerationOperator::Equal) {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => !toleration.key.is_empty() && toleration.value == value,
        };
        same_effect && same_key && same_value
    })
}
