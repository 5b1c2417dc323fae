//! How far the init containers and sidecars are: the kubelet's `computeInitContainerActions`.

use podbus_common::model::{Container, RestartPolicy};

use super::{Step, definition_changed};
use crate::model::{ContainerKind, ContainerObserved, DesiredPod, Observed, RunState, init_kind, may_restart};

/// What init containers and sidecars need.
pub(crate) struct Progress<'a> {
    /// Steps in the order of the spec.
    pub(crate) steps: Vec<(ContainerKind, Step, &'a Container)>,
    /// The regular containers may run.
    pub(crate) initialized: bool,
    /// One failed and may not be tried again: the pod has failed.
    pub(crate) failed: bool,
}

/// Walks from the last to the first: the last init container with a record tells how far the pod is, and records of
/// earlier ones are not needed. Runs in other sandboxes do not count, a new sandbox begins anew.
pub(crate) fn progress<'a>(desired: &'a DesiredPod, observed: &Observed, sandbox_id: &str) -> Progress<'a> {
    let spec = &desired.pod.spec;
    let active = |c: &Container| observed.latest_in(sandbox_id, &c.name);
    let started =
        |c: &Container| active(c).is_some_and(|run| matches!(run.state, RunState::Created | RunState::Running { .. }));
    let init = &spec.init_containers;
    let mut walk = Walk { desired, steps: Vec::new(), initialized: init.is_empty(), later_started: false };
    walk.initialized |= spec.containers.iter().any(started);
    walk.later_started = walk.initialized;

    for (index, container) in init.iter().enumerate().rev() {
        let Some(run) = active(container) else {
            if init_kind(container) == ContainerKind::Sidecar && walk.later_started {
                walk.push(Step::Start, container);
            }
            continue;
        };
        let next = init.get(index + 1);
        let verdict = match init_kind(container) {
            ContainerKind::Sidecar => walk.sidecar(container, run, next),
            _ if walk.later_started => Verdict::Goes,
            _ => walk.init(container, run, next),
        };
        if verdict == Verdict::PodFailed {
            return Progress { steps: Vec::new(), initialized: false, failed: true };
        }
        walk.later_started = true;
    }
    if !walk.later_started
        && let Some(first) = init.first()
    {
        walk.push(Step::Start, first);
    }
    walk.steps.reverse();
    Progress { steps: walk.steps, initialized: walk.initialized, failed: false }
}

struct Walk<'a> {
    desired: &'a DesiredPod,
    steps: Vec<(ContainerKind, Step, &'a Container)>,
    initialized: bool,
    /// A container after the one looked at was started, so this one had its turn.
    later_started: bool,
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Goes,
    PodFailed,
}

impl<'a> Walk<'a> {
    fn push(&mut self, step: Step, container: &'a Container) {
        self.steps.push((init_kind(container), step, container));
    }

    fn passed(&mut self, next: Option<&'a Container>) {
        match next {
            None => self.initialized = true,
            Some(next) => self.push(Step::Start, next),
        }
    }

    fn init(&mut self, container: &'a Container, run: &ContainerObserved, next: Option<&'a Container>) -> Verdict {
        let pod = &self.desired.pod;
        let policy = container.restart_policy.unwrap_or(pod.spec.restart_policy);
        match &run.state {
            RunState::Created => self.push(Step::Start, container),
            RunState::Running { .. } => {}
            RunState::Exited(exit) if exit.succeeded() => self.passed(next),
            // An out-of-memory kill has failed whatever the code.
            RunState::Exited(exit) if may_restart(pod, container, exit.exit_code.max(1)) => {
                self.push(Step::Start, container);
            }
            RunState::Exited(_) => return Verdict::PodFailed,
            RunState::Unknown if policy == RestartPolicy::Never => return Verdict::PodFailed,
            RunState::Unknown => self.push(Step::KillUnknown, container),
        }
        Verdict::Goes
    }

    fn sidecar(&mut self, container: &'a Container, run: &ContainerObserved, next: Option<&'a Container>) -> Verdict {
        match &run.state {
            RunState::Created | RunState::Exited(_) => self.push(Step::Start, container),
            RunState::Unknown => self.push(Step::KillUnknown, container),
            RunState::Running { .. } => {
                match next {
                    None => self.initialized = true,
                    Some(next) if !self.later_started => self.push(Step::Start, next),
                    Some(_) => {}
                }
                if definition_changed(container, run) {
                    self.push(Step::Restart, container);
                }
            }
        }
        Verdict::Goes
    }
}
