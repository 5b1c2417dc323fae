//! What the scheduler knows of a pod: only what decides where it may go.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::model::{
    NodeSelector, PodAffinityTerm, PreferredSchedulingTerm, Toleration, TopologySpreadConstraint,
};

use crate::resources::Resources;

/// A pod without a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PendingPod {
    /// Its UID.
    pub uid: String,
    /// What it asks for.
    pub spec: PodSpec,
}

/// What decides where a pod may go. Pods with the same are one class: they are filtered and scored once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PodSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its labels: selectors of other pods see them.
    pub labels: BTreeMap<String, String>,
    /// What it takes.
    pub shape: Shape,
    /// Which nodes do.
    pub placement: Placement,
    /// Which other pods it must be beside: all terms together.
    pub affinity: Vec<PodAffinityTerm>,
    /// Which other pods it must not be beside.
    pub anti_affinity: Vec<PodAffinityTerm>,
    /// Which other pods it wants to be beside; away from, where the weight is negative.
    pub preferred_pods: Vec<(i32, PodAffinityTerm)>,
    /// How evenly it spreads.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Who has more goes first, and may push out who has less.
    pub priority: i32,
    /// It pushes nobody out.
    pub never_preempts: bool,
    /// The pods that are placed with it, all or none.
    pub group: Option<PodGroup>,
    /// The profile that places it; empty: the first.
    pub scheduler_name: String,
}

/// What a pod takes on its node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// `pods: 1` included.
    pub requests: Resources,
    /// Of resources that nodes name themselves, such as `nvidia.com/gpu`.
    pub extended: BTreeMap<String, u64>,
    /// Ports of the node.
    pub ports: BTreeSet<HostPort>,
    /// Names of its images.
    pub images: BTreeSet<String>,
}

/// A port of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Empty: all addresses.
    pub ip: String,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be open at once.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || all(&self.ip) || all(&other.ip))
    }
}

/// Which nodes do, whatever runs on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Placement {
    /// The only node, where the user named one.
    pub node_name: Option<String>,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity: other nodes do not do.
    pub required: Option<NodeSelector>,
    /// Node affinity: wishes.
    pub preferred: Vec<PreferredSchedulingTerm>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
}

/// Pods that are placed all or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PodGroup {
    /// Unique in the namespace.
    pub name: String,
    /// How many must be placed at once.
    pub min_member: u32,
}
