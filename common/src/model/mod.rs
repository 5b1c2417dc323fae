//! Kubernetes' types, as far as podbus supports them, in Kubernetes' own JSON shape.
//!
//! Each type is what is stored and shown. Reading a user's file is the business of `manifest`, which refuses what
//! these types do not know. Field docs say what podbus does with a field; the meaning is that of the Kubernetes API
//! reference, core v1.

mod event;
mod meta;
mod node;
mod pod;
mod scheduling;
mod status;

pub use event::{Event, EventSource, EventType, ObjectReference};
pub use meta::{ListMeta, ObjectMeta, Timestamp};
pub use node::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint, TaintEffect};
pub use pod::{
    Capabilities, Container, ContainerPort, EmptyDirVolume, EnvVar, HostPathVolume, Pod, PodSecurityContext, PodSpec,
    PullPolicy, ResourceRequirements, RestartPolicy, SecurityContext, Toleration, TolerationOperator, Volume,
    VolumeMount,
};
pub use scheduling::{
    Affinity, LabelSelector, LabelSelectorRequirement, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, PodAffinity, PodAffinityTerm, PodSchedulingGate, PreemptionPolicy, PreferredSchedulingTerm,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
pub use status::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIp,
    PodCondition, PodIp, PodPhase, PodStatus,
};
