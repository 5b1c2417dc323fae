//! The phase: a count over the containers' states, then the first rule that applies.

use super::containers::{end_all, has_started, is_sidecar};
use super::may_restart;
use crate::model::{Container, ContainerState, ContainerStatus, Pod, PodPhase, PodStatus, RestartPolicy};
use crate::proto;

/// The reason of an exit that fails an init container whatever its code.
const OOM_KILLED: &str = "OOMKilled";

/// Sets phase, reason and message. The containers' states are set already.
pub(super) fn fill(status: &mut PodStatus, pod: &Pod, observed: &proto::PodReport, previous: Option<&PodStatus>) {
    let mut phase = decide(pod, status, observed.ended, has_started(pod, observed));
    if observed.ended {
        end_all(status, pod);
        if !phase.is_terminal() {
            phase = PodPhase::Failed;
        }
    }
    if let Some(previous) = previous {
        // A pod is published as over only when nothing of it runs any more.
        if previous.phase.is_terminal() || (phase.is_terminal() && !observed.ended && runs(observed)) {
            phase = previous.phase;
        }
        if phase == previous.phase {
            status.reason.clone_from(&previous.reason);
            status.message.clone_from(&previous.message);
        }
    } else if phase.is_terminal() && !observed.ended && runs(observed) {
        // Only an init container that failed beside a running sidecar ends a pod in which something runs.
        phase = PodPhase::Pending;
    }
    status.phase = phase;
}

/// The node ended the pod for what it did there (Evicted): Failed with the node's words, once nothing of it runs, and
/// unless its containers ended well or it was over before.
pub(super) fn evict(status: &mut PodStatus, observed: &proto::PodReport, previous: Option<&PodStatus>) {
    let was_over = previous.is_some_and(|p| p.phase.is_terminal());
    if !was_over && !runs(observed) && status.phase != PodPhase::Succeeded {
        status.phase = PodPhase::Failed;
        status.reason.clone_from(&observed.rejected_reason);
        status.message.clone_from(&observed.rejected_message);
    }
}

/// Whether `status` has a container alive again that ended for good in `previous`: no runtime does that, so the
/// report speaks of something else.
pub(super) fn revives(pod: &Pod, previous: &PodStatus, status: &PodStatus) -> bool {
    let revived = |container: &Container, before: &[ContainerStatus], after: &[ContainerStatus]| {
        let find = |list: &[ContainerStatus]| list.iter().find(|c| c.name == container.name).map(|c| c.state.clone());
        let (Some(ContainerState { terminated: Some(end), .. }), Some(after)) = (find(before), find(after)) else {
            return false;
        };
        after.terminated.is_none() && !may_restart(pod.spec.restart_policy, end.exit_code)
    };
    let (init, regular) = (&pod.spec.init_containers, &pod.spec.containers);
    regular.iter().any(|c| revived(c, &previous.container_statuses, &status.container_statuses))
        || init
            .iter()
            .filter(|c| !is_sidecar(c))
            // A new sandbox runs them again, whatever their code.
            .filter(|_| pod.spec.restart_policy != RestartPolicy::OnFailure)
            .any(|c| revived(c, &previous.init_container_statuses, &status.init_container_statuses))
}

fn runs(observed: &proto::PodReport) -> bool {
    observed.containers.iter().any(|c| c.state() == proto::ContainerState::ContainerRunning)
}

/// How many containers are in which state; names as in Kubernetes' own rules.
#[derive(Debug, Default)]
struct Counts {
    pending_init: u32,
    failed_init: u32,
    pending_sidecar: u32,
    unknown: u32,
    running: u32,
    waiting: u32,
    /// Ended, whether or not it will be started again.
    stopped: u32,
    /// Ended for good.
    finished: u32,
    succeeded: u32,
}

/// The phase, before what was published earlier has its say. `ended`: nothing will be started again.
fn decide(pod: &Pod, status: &PodStatus, ended: bool, has_started: bool) -> PodPhase {
    let n = count(pod, status);
    let by_exit_codes = if n.stopped == n.succeeded { PodPhase::Succeeded } else { PodPhase::Failed };
    if n.failed_init > 0 {
        PodPhase::Failed
    } else if n.pending_init > 0 || (n.pending_sidecar > 0 && !has_started) || n.waiting > 0 {
        PodPhase::Pending
    } else if n.running > 0 && n.unknown == 0 {
        PodPhase::Running
    } else if n.stopped > 0 && n.unknown == 0 {
        if ended || n.stopped == n.finished { by_exit_codes } else { PodPhase::Running }
    } else {
        PodPhase::Pending
    }
}

fn count(pod: &Pod, status: &PodStatus) -> Counts {
    let policy = pod.spec.restart_policy;
    let mut counts = Counts::default();
    for container in &pod.spec.init_containers {
        let found = status.init_container_statuses.iter().find(|c| c.name == container.name);
        if is_sidecar(container) { counts.sidecar(found) } else { counts.init(found, policy) }
    }
    for container in &pod.spec.containers {
        counts.regular(status.container_statuses.iter().find(|c| c.name == container.name), policy);
    }
    counts
}

impl Counts {
    fn init(&mut self, status: Option<&ContainerStatus>, policy: RestartPolicy) {
        let Some(status) = status else {
            self.pending_init += 1;
            return;
        };
        let waiting = status.state.waiting.is_some();
        let end = status.state.terminated.as_ref().or(status.last_state.terminated.as_ref().filter(|_| waiting));
        match end {
            Some(end) if end.exit_code == 0 && end.reason != OOM_KILLED => {}
            Some(_) => self.failed_init += u32::from(policy == RestartPolicy::Never),
            None => self.pending_init += 1,
        }
    }

    fn sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        if status.state.running.is_some() {
            self.running += 1;
            self.pending_sidecar += u32::from(status.started != Some(true));
        } else if status.state.waiting.is_some() && status.last_state.terminated.is_none() {
            self.pending_sidecar += 1;
            self.waiting += 1;
        }
    }

    fn regular(&mut self, status: Option<&ContainerStatus>, policy: RestartPolicy) {
        let state = status.map(|s| &s.state).filter(|s| !s.is_empty());
        let (Some(status), Some(state)) = (status, state) else {
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            self.running += 1;
        } else if let Some(end) = &state.terminated {
            self.stopped += 1;
            self.finished += u32::from(!may_restart(policy, end.exit_code));
            self.succeeded += u32::from(end.exit_code == 0);
        } else if let Some(end) = &status.last_state.terminated {
            self.stopped += 1;
            self.finished += u32::from(!may_restart(policy, end.exit_code));
        } else {
            self.waiting += 1;
        }
    }
}

#[cfg(test)]
mod tests;
