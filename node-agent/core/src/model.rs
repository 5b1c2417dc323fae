//! What is wanted of a pod and what the runtime says of it.

use std::sync::Arc;

use podbus_common::model::{Container, Pod, RestartPolicy, Timestamp};

/// A pod as this node should have it.
#[derive(Debug, Clone)]
pub struct DesiredPod {
    /// The object as assigned: defaulted, with its UID.
    pub pod: Arc<Pod>,
    /// The generation of the object that is carried out.
    pub generation: u64,
    /// Set once the pod must end.
    pub stop: Option<Stop>,
}

/// Why and until when a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// When its containers are killed. Wall clock, so that it survives a restart of the agent; it only ever moves
    /// nearer.
    pub deadline: Timestamp,
    /// What becomes of it then.
    pub then: AfterStop,
}

/// What becomes of a pod that was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterStop {
    /// Deleted: its sandboxes are removed.
    Remove,
    /// Failed on the node (evicted): its records stay until it is deleted.
    Keep,
}

/// All that the runtime lists for one pod UID, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Every attempt.
    pub sandboxes: Vec<SandboxObserved>,
    /// Every run of every container, in every sandbox.
    pub containers: Vec<ContainerObserved>,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxObserved {
    /// The runtime's ID.
    pub id: String,
    /// 0, 1, 2...
    pub attempt: u32,
    /// Its pause process lives.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// `None`: the runtime did not say (it was only listed). Empty: it said that there is none.
    pub ip: Option<String>,
}

/// One run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerObserved {
    /// The runtime's ID.
    pub id: String,
    /// The container's name in the pod.
    pub name: String,
    /// 0, 1, 2...: the restart count when it was made.
    pub attempt: u32,
    /// The sandbox that it was made in.
    pub sandbox_id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it does.
    pub state: RunState,
    /// The image as asked.
    pub image: String,
    /// The image's ID or digest reference, as the runtime has it.
    pub image_id: String,
    /// The annotation `io.kubernetes.container.hash`; `None` where a runtime lost it.
    pub spec_hash: Option<String>,
}

/// The state of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Made, not started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited(Exit),
    /// The runtime cannot tell.
    Unknown,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 128 + signal where one ended it.
    pub exit_code: i32,
    /// The runtime's word: Completed, Error, OOMKilled, StartError, Unknown...
    pub reason: String,
    /// The runtime's sentence, often empty.
    pub message: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the next.
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    /// An entry of `spec.containers`.
    Regular,
}

impl DesiredPod {
    /// `name_namespace(uid)`, as the kubelet names pods in messages.
    pub fn description(&self) -> String {
        pod_description(&self.pod)
    }
}

/// `name_namespace(uid)`, as the kubelet names pods in messages.
pub fn pod_description(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}_{}({})", meta.name, meta.namespace, meta.uid)
}

/// What `container`, an init container of a spec, is.
pub(crate) fn init_kind(container: &Container) -> ContainerKind {
    match container.restart_policy {
        Some(RestartPolicy::Always) => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    }
}

/// The container called `name` and what it is; `None` when the spec has none.
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<(ContainerKind, &'a Container)> {
    all_containers(pod).find(|(_, c)| c.name == name)
}

/// Init containers and sidecars in order, then the regular ones in order.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = (ContainerKind, &Container)> {
    let init = pod.spec.init_containers.iter().map(|c| (init_kind(c), c));
    init.chain(pod.spec.containers.iter().map(|c| (ContainerKind::Regular, c)))
}

/// Whether a container that exited with `exit_code` is started again (pod-level policy unless it has its own).
pub fn may_restart(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    match container.restart_policy.unwrap_or(pod.spec.restart_policy) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

impl Observed {
    /// The sandbox with the highest attempt.
    pub(crate) fn newest_sandbox(&self) -> Option<&SandboxObserved> {
        self.sandboxes.iter().max_by_key(|s| (s.attempt, s.created_at))
    }

    /// The newest sandbox, if it is the only ready one and has its network: the one that containers may join.
    pub fn usable_sandbox(&self) -> Option<&SandboxObserved> {
        let newest = self.newest_sandbox()?;
        let alone = self.sandboxes.iter().filter(|s| s.ready).count() == 1;
        (newest.ready && alone && newest.ip.as_deref() != Some("")).then_some(newest)
    }

    /// The newest run of a container, in whatever sandbox.
    pub fn latest(&self, name: &str) -> Option<&ContainerObserved> {
        self.runs(name).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The newest run of a container inside one sandbox.
    pub(crate) fn latest_in(&self, sandbox_id: &str, name: &str) -> Option<&ContainerObserved> {
        self.runs(name).filter(|c| c.sandbox_id == sandbox_id).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The newest run that has ended.
    pub(crate) fn latest_exit(&self, name: &str) -> Option<(&ContainerObserved, &Exit)> {
        self.runs(name).filter_map(|c| Some((c, c.state.exit()?))).max_by_key(|(c, _)| (c.attempt, c.created_at))
    }

    fn runs(&self, name: &str) -> impl Iterator<Item = &ContainerObserved> {
        self.containers.iter().filter(move |c| c.name == name)
    }
}

impl RunState {
    /// How it ended, if it did.
    pub fn exit(&self) -> Option<&Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether a process may live.
    pub fn may_live(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unknown)
    }
}

impl Exit {
    /// Ended well: code 0 and not by an out-of-memory kill.
    pub fn succeeded(&self) -> bool {
        self.exit_code == 0 && self.reason != "OOMKilled"
    }
}
