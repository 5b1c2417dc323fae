//! The conditions: what a pod has reached, each with the time of its last change.

use super::containers::is_sidecar;
use crate::model::{ContainerStatus, Pod, PodCondition, PodPhase, PodStatus, Timestamp};
use crate::proto;

pub(super) const POD_SCHEDULED: &str = "PodScheduled";
const READY_TO_START: &str = "PodReadyToStartContainers";
const INITIALIZED: &str = "Initialized";
pub(super) const READY: &str = "Ready";
const CONTAINERS_READY: &str = "ContainersReady";
/// Written by the fold, in the order in which the kubelet lists them; all others are copied and come first.
const OWN: [&str; 5] = [READY_TO_START, INITIALIZED, READY, CONTAINERS_READY, POD_SCHEDULED];

/// Conditions under change: what was before, and what is known by now.
pub(super) struct Conditions {
    list: Vec<PodCondition>,
    now: Timestamp,
}

impl Conditions {
    /// Begins with those of `previous`.
    pub(super) fn new(previous: Option<&PodStatus>, now: Timestamp) -> Self {
        Self { list: previous.map(|p| p.conditions.clone()).unwrap_or_default(), now }
    }

    /// Replaces the condition `kind`; its time moves only when its status does.
    pub(super) fn set(&mut self, kind: &str, condition: PodCondition) {
        let before = self.list.iter().position(|c| c.kind == kind).map(|index| self.list.remove(index));
        let since = before.filter(|b| b.status == condition.status).and_then(|b| b.last_transition_time);
        self.list.push(PodCondition {
            kind: kind.to_owned(),
            last_transition_time: Some(since.unwrap_or(self.now)),
            ..condition
        });
    }

    /// All of them, foreign ones first.
    pub(super) fn in_order(self) -> Vec<PodCondition> {
        let rank = |c: &PodCondition| OWN.iter().position(|own| *own == c.kind).map_or(0, |index| index + 1);
        let mut list = self.list;
        list.sort_by_key(rank);
        list
    }
}

/// Sets all conditions of a pod on a node. Phase and containers are set already.
pub(super) fn fill(
    status: &mut PodStatus,
    pod: &Pod,
    observed: &proto::PodReport,
    previous: Option<&PodStatus>,
    now: Timestamp,
) {
    let mut conditions = Conditions::new(previous, now);
    conditions.set(READY_TO_START, ready_to_start(observed));
    conditions.set(INITIALIZED, initialized(pod, status));
    let ready = containers_ready(pod, status);
    conditions.set(READY, ready.clone());
    conditions.set(CONTAINERS_READY, ready);
    conditions.set(POD_SCHEDULED, yes());
    status.conditions = conditions.in_order();
}

fn yes() -> PodCondition {
    PodCondition { status: "True".to_owned(), ..PodCondition::default() }
}

fn yes_because(reason: &str) -> PodCondition {
    PodCondition { reason: reason.to_owned(), ..yes() }
}

fn no(reason: &str, message: impl Into<String>) -> PodCondition {
    PodCondition {
        status: "False".to_owned(),
        reason: reason.to_owned(),
        message: message.into(),
        ..PodCondition::default()
    }
}

fn ready_to_start(observed: &proto::PodReport) -> PodCondition {
    match &observed.sandbox {
        Some(sandbox) if sandbox.state() == proto::SandboxState::SandboxReady && !sandbox.ip.is_empty() => yes(),
        _ => no("", ""),
    }
}

fn initialized(pod: &Pod, status: &PodStatus) -> PodCondition {
    let init = &pod.spec.init_containers;
    if init.is_empty() {
        return if status.phase == PodPhase::Succeeded { yes_because("PodCompleted") } else { yes() };
    }
    if status.container_statuses.is_empty() && status.init_container_statuses.is_empty() {
        return no("UnknownContainerStatuses", "");
    }
    let find = |name: &str| status.init_container_statuses.iter().find(|c| c.name == name);
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in init {
        match find(&container.name) {
            None => unknown.push(container.name.as_str()),
            Some(state) if is_sidecar(container) && state.started == Some(true) => {}
            Some(state) if !is_sidecar(container) && state.ready => {}
            Some(_) => incomplete.push(container.name.as_str()),
        }
    }
    let has_run = |c: &ContainerStatus| c.state.running.is_some() || c.state.terminated.is_some();
    if status.phase == PodPhase::Succeeded && unknown.is_empty() {
        yes_because("PodCompleted")
    } else if status.container_statuses.iter().any(has_run) || (unknown.is_empty() && incomplete.is_empty()) {
        // A sidecar that is started again does not make the pod uninitialized.
        yes()
    } else {
        no("ContainersNotInitialized", lists("unknown", &unknown, "incomplete", &incomplete))
    }
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> PodCondition {
    if status.phase == PodPhase::Failed {
        return no("PodFailed", "");
    }
    if status.container_statuses.is_empty() && status.init_container_statuses.is_empty() {
        return no("UnknownContainerStatuses", "");
    }
    let sidecars =
        pod.spec.init_containers.iter().filter(|c| is_sidecar(c)).map(|c| (c, &status.init_container_statuses));
    let regular = pod.spec.containers.iter().map(|c| (c, &status.container_statuses));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for (container, statuses) in sidecars.chain(regular) {
        match statuses.iter().find(|c| c.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(state) if !state.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if status.phase == PodPhase::Succeeded && unknown.is_empty() {
        no("PodCompleted", "")
    } else if unknown.is_empty() && unready.is_empty() {
        yes()
    } else {
        no("ContainersNotReady", lists("unknown", &unknown, "unready", &unready))
    }
}

/// `containers with unknown status: [a b], containers with unready status: [c]`.
fn lists(first: &str, one: &[&str], second: &str, other: &[&str]) -> String {
    let list = |what: &str, names: &[&str]| {
        (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
    };
    [list(first, one), list(second, other)].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
