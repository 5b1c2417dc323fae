use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Affinity, ObjectMeta, PodSchedulingGate, PodStatus, PreemptionPolicy, TopologySpreadConstraint};

/// A pod: what was asked, and, where it is shown, what is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// `v1`.
    #[serde(default = "v1")]
    pub api_version: String,
    /// `Pod`.
    #[serde(default = "kind_pod")]
    pub kind: String,
    /// Name, namespace, UID, labels...
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What was asked, defaulted.
    pub spec: PodSpec,
    /// What is; not part of the stored intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<PodStatus>,
}

fn v1() -> String {
    "v1".to_owned()
}

fn kind_pod() -> String {
    "Pod".to_owned()
}

/// What a pod should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Run one after the other before the containers; with `restartPolicy: Always` a sidecar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<Container>,
    /// Run together.
    pub containers: Vec<Container>,
    /// What to do when a container exits.
    pub restart_policy: RestartPolicy,
    /// Seconds from SIGTERM to SIGKILL; defaulted to 30.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<u32>,
    /// The binding; set by the scheduler, or by the user to name the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Labels that the node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that this pod bears.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// All containers see each other's processes, pause is PID 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_process_namespace: Option<bool>,
    /// False: the pod has users of its own, who are nobody on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_users: Option<bool>,
    /// The UTS hostname; the pod's name by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// What containers may mount.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Defaults for all containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Where it wants to be, and beside whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How evenly it spreads with pods like it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Who is more goes first, and may push out who is less; defaulted to 0, or by the class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// The name of a priority.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub priority_class_name: String,
    /// Whether it pushes others out; defaulted to `PreemptLowerPriority`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemption_policy: Option<PreemptionPolicy>,
    /// Who has not yet said that it may be placed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scheduling_gates: Vec<PodSchedulingGate>,
    /// Which profile places it; defaulted to `default-scheduler`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheduler_name: String,
    /// The runtime handler that makes its containers, by name; the node's default if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub runtime_class_name: String,
}

/// When containers are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    #[default]
    Always,
    /// When the exit code is not 0.
    OnFailure,
    /// Never.
    Never,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// When the node has none.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// A DNS label, unique in the pod.
    pub name: String,
    /// The image.
    pub image: String,
    /// Defaulted by the tag: `Always` for `latest` or none, else `IfNotPresent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Replaces the image's working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Environment, in order; `$(VAR)` refers to earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Informational but for names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ContainerPort>,
    /// Requests and limits.
    #[serde(skip_serializing_if = "ResourceRequirements::is_empty")]
    pub resources: ResourceRequirements,
    /// Where volumes appear.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// Of an init container only: `Always` makes it a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Identity and privileges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Keep stdin open.
    #[serde(skip_serializing_if = "is_false")]
    pub stdin: bool,
    /// Close stdin after the first attach ends.
    #[serde(skip_serializing_if = "is_false")]
    pub stdin_once: bool,
    /// Give it a terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub tty: bool,
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// One variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, before expansion.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// A port that a container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// An IANA service name, unique in the pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// 1 to 65535.
    pub container_port: u16,
    /// TCP, UDP or SCTP; defaulted to TCP.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// The node's port that leads here; 0: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub host_port: u16,
    /// The node's address of that port; empty: all.
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// What a container asks for and may use: resource name -> quantity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRequirements {
    /// The most it may use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// What is set aside for it; defaulted to the limits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, String>,
}

impl ResourceRequirements {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty() && self.requests.is_empty()
    }
}

/// A volume inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeMount {
    /// The volume.
    pub name: String,
    /// Where, absolute or relative to the root.
    pub mount_path: String,
    /// Not writable.
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// A path inside the volume instead of its root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
}

/// A volume: exactly one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// A DNS label, unique in the pod.
    pub name: String,
    /// Lives as long as the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolume>,
    /// A path of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathVolume>,
}

/// A directory that is born and dies with the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EmptyDirVolume {
    /// Empty: the node's disk; `Memory`: tmpfs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub medium: String,
    /// A quantity of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<String>,
}

/// A path of the node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPathVolume {
    /// Absolute, without `..`.
    pub path: String,
    /// Empty, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice or BlockDevice.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// Identity for all containers of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSecurityContext {
    /// The user ID of the processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// The group ID of the processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// Refuse to start as user 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
}

/// Identity and privileges of one container; what is set here wins over the pod's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecurityContext {
    /// The user ID of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_user: Option<u32>,
    /// The group ID of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_group: Option<u32>,
    /// Refuse to start as user 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// The root file system cannot be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// Capabilities to add to and to drop from the default set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// Names without `CAP_`, or `ALL`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Dropped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
}

/// A taint that a pod bears.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Empty with `Exists`: all keys.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// How `key` and `value` are compared; `Equal` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Compared by `Equal`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Empty: all effects.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// Of `NoExecute`: how long it is borne; unset: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TolerationOperator {
    /// The key is there.
    Exists,
    /// Key and value are equal.
    Equal,
}
