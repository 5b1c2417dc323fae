use serde::{Deserialize, Serialize};

use super::Timestamp;

/// The sum of a pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum PodPhase {
    /// Accepted; not everything runs yet.
    #[default]
    Pending,
    /// Bound, all containers were created, at least one runs or is being restarted.
    Running,
    /// All ended well and will not be restarted.
    Succeeded,
    /// All ended, at least one badly.
    Failed,
    /// The node cannot be asked.
    Unknown,
}

impl PodPhase {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }

    /// Succeeded or Failed: it never runs again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What a pod is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// The sum of its life.
    pub phase: PodPhase,
    /// PodScheduled, Initialized, ContainersReady, Ready...
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<PodCondition>,
    /// Why, for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Why, one CamelCase word: Evicted, OutOfcpu, NodeLost...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where it goes once the pods have left that were asked to leave for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nominated_node_name: String,
    /// The node's address.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
    /// As Kubernetes has it, a list of one.
    #[serde(rename = "hostIPs", skip_serializing_if = "Vec::is_empty")]
    pub host_ips: Vec<HostIp>,
    /// The pod's address.
    #[serde(rename = "podIP", skip_serializing_if = "String::is_empty")]
    pub pod_ip: String,
    /// As Kubernetes has it, a list of one.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// When the node took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// One an init container, in the spec's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// One a container, in the spec's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub container_statuses: Vec<ContainerStatus>,
    /// Guaranteed, Burstable or BestEffort.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qos_class: String,
    /// The generation that this status speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An address of the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct HostIp {
    /// The address.
    pub ip: String,
}

/// An address of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// One condition of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// PodScheduled, PodReadyToStartContainers, Initialized, ContainersReady, Ready, DisruptionTarget.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When `status` changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    /// Why, one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// The container.
    pub name: String,
    /// Now.
    pub state: ContainerState,
    /// The run before this one, if there was one.
    #[serde(skip_serializing_if = "ContainerState::is_empty")]
    pub last_state: ContainerState,
    /// Passes its readiness probe, if it has one, and runs.
    pub ready: bool,
    /// How many times it was started again.
    pub restart_count: u32,
    /// As resolved.
    pub image: String,
    /// Its digest.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `podbus://<id>`; empty before it was created.
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Running, and its startup probe, if it has one, succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
}

/// At most one of the three is set; none is set in an empty `lastState`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// Not running yet, or not running again yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<ContainerStateWaiting>,
    /// Running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<ContainerStateRunning>,
    /// Ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<ContainerStateTerminated>,
}

impl ContainerState {
    /// Whether no state is set.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none() && self.running.is_none() && self.terminated.is_none()
    }
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStateWaiting {
    /// ContainerCreating, CrashLoopBackOff, ErrImagePull...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Since when a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStateRunning {
    /// When it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStateTerminated {
    /// 128 + signal when one ended it.
    pub exit_code: i32,
    /// The signal, 0 for none.
    #[serde(skip_serializing_if = "is_zero_i32")]
    pub signal: i32,
    /// Completed, Error, OOMKilled, ContainerStatusUnknown...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Of the run that ended.
    #[serde(rename = "containerID", skip_serializing_if = "String::is_empty")]
    pub container_id: String,
}

fn is_zero_i32(n: &i32) -> bool {
    *n == 0
}
