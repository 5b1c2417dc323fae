//! What each container's state is: the report's newest run, with what is known of the run before.

use crate::model::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodStatus, RestartPolicy, Timestamp,
};
use crate::proto;

/// Exit code of what vanished, as if killed by SIGKILL.
const EXIT_CODE_LOST: i32 = 137;
const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

/// Whether a container is a sidecar: an init container that runs as long as the pod.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy == Some(RestartPolicy::Always)
}

/// Whether a regular container was created in the newest sandbox, and that sandbox lives.
pub(super) fn has_started(pod: &Pod, observed: &proto::PodReport) -> bool {
    let Some(sandbox) = &observed.sandbox else { return false };
    sandbox.state() == proto::SandboxState::SandboxReady
        && observed.containers.iter().any(|report| {
            let started_at = match (&report.exit, report.state()) {
                (Some(exit), proto::ContainerState::ContainerExited) => exit.started_at_ms,
                _ => report.started_at_ms,
            };
            pod.spec.containers.iter().any(|c| c.name == report.name)
                && report.state() != proto::ContainerState::ContainerWaiting
                && started_at >= sandbox.created_at_ms
        })
}

/// Sets the states of all containers, in the spec's order.
pub(super) fn fill(status: &mut PodStatus, pod: &Pod, observed: &proto::PodReport, previous: Option<&PodStatus>) {
    let view = View {
        observed,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        default_reason: if pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" },
    };
    let past = |list: fn(&PodStatus) -> &Vec<ContainerStatus>, name: &str| {
        previous.and_then(|p| list(p).iter().find(|c| c.name == name))
    };
    let initialized = has_started(pod, observed);
    for container in &pod.spec.init_containers {
        let past = past(|p| &p.init_container_statuses, &container.name);
        let mut state = view.state_of(container, past);
        if !is_sidecar(container) {
            state.ready = state.state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
            if initialized && view.report(&container.name).is_none() && state.state.terminated.is_none() {
                treat_as_completed(&mut state);
            }
        }
        status.init_container_statuses.push(state);
    }
    for container in &pod.spec.containers {
        let past = past(|p| &p.container_statuses, &container.name);
        status.container_statuses.push(view.state_of(container, past));
    }
}

/// What does not differ between the containers of a pod.
struct View<'a> {
    observed: &'a proto::PodReport,
    deleting: bool,
    default_reason: &'a str,
}

impl View<'_> {
    fn report(&self, name: &str) -> Option<&proto::ContainerStatus> {
        self.observed.containers.iter().find(|c| c.name == name)
    }

    fn state_of(&self, container: &Container, past: Option<&ContainerStatus>) -> ContainerStatus {
        match self.report(&container.name) {
            Some(report) => self.reported(container, report, past),
            None => self.unreported(container, past),
        }
    }

    /// No run of it is on the node: it has not run yet, or has vanished.
    fn unreported(&self, container: &Container, past: Option<&ContainerStatus>) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: container.name.clone(),
            state: self.waiting("", ""),
            image: container.image.clone(),
            started: Some(false),
            ..ContainerStatus::default()
        };
        let Some(past) = past else { return status };
        if past.state.terminated.is_some() {
            return past.clone();
        }
        status.restart_count = past.restart_count;
        status.last_state = past.last_state.clone();
        if past.state.running.is_some() && status.last_state.is_empty() {
            status.last_state = lost(
                past,
                "The container could not be located when the pod was deleted.  The container used to be Running",
            );
            status.restart_count += u32::from(!self.deleting);
        }
        status
    }

    fn reported(
        &self,
        container: &Container,
        report: &proto::ContainerStatus,
        past: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let running = report.state() == proto::ContainerState::ContainerRunning;
        let exited = report.state() == proto::ContainerState::ContainerExited;
        let state = match report.state() {
            proto::ContainerState::ContainerWaiting => self.waiting(&report.waiting_reason, &report.waiting_message),
            proto::ContainerState::ContainerRunning => ContainerState {
                running: Some(ContainerStateRunning { started_at: moment(report.started_at_ms) }),
                ..ContainerState::default()
            },
            proto::ContainerState::ContainerExited => terminated(&report.exit.clone().unwrap_or_else(|| {
                // A node that knows no end of an exited run lost it.
                proto::ContainerExit {
                    exit_code: EXIT_CODE_LOST,
                    reason: STATUS_UNKNOWN.to_owned(),
                    container_id: report.id.clone(),
                    ..proto::ContainerExit::default()
                }
            })),
        };
        let container_id = if running || exited { full_id(&report.id) } else { String::new() };
        let last_state = match (&report.exit, exited) {
            (Some(exit), false) => terminated(exit),
            _ => self.last_state(report, &container_id, past),
        };
        ContainerStatus {
            name: container.name.clone(),
            state,
            last_state,
            ready: running && report.started && report.ready,
            restart_count: report.restart_count.max(past.map_or(0, |p| p.restart_count)),
            image: if report.image.is_empty() { container.image.clone() } else { report.image.clone() },
            image_id: report.image_id.clone(),
            container_id,
            started: Some(running && report.started),
        }
    }

    /// The end of the run before, where the report does not carry it: a newer run pushes the end that was the state,
    /// an exit that was not acked yet, or what was known already.
    fn last_state(
        &self,
        report: &proto::ContainerStatus,
        container_id: &str,
        past: Option<&ContainerStatus>,
    ) -> ContainerState {
        let before = self
            .observed
            .exits
            .iter()
            .filter(|e| e.container == report.name)
            .filter_map(|e| e.exit.as_ref())
            .rfind(|exit| exit.attempt < report.attempt);
        if let Some(exit) = before {
            return terminated(exit);
        }
        let Some(past) = past else { return ContainerState::default() };
        if past.state.terminated.is_some() && past.container_id != container_id {
            past.state.clone()
        } else {
            past.last_state.clone()
        }
    }

    fn waiting(&self, reason: &str, message: &str) -> ContainerState {
        let reason = if reason.is_empty() { self.default_reason } else { reason };
        ContainerState {
            waiting: Some(ContainerStateWaiting { reason: reason.to_owned(), message: message.to_owned() }),
            ..ContainerState::default()
        }
    }
}

/// The pod is gone from its node: what had no end gets one, so that nothing seems to run.
pub(super) fn end_all(status: &mut PodStatus, pod: &Pod) {
    if was_initialized(status, pod) {
        for container in &mut status.container_statuses {
            end(container);
        }
    }
    let seen = |c: &ContainerStatus| c.state.waiting.is_none() || !c.last_state.is_empty();
    let reached = status.init_container_statuses.iter().rposition(seen).unwrap_or(0);
    for container in status.init_container_statuses.iter_mut().take(reached + 1) {
        end(container);
    }
}

fn end(container: &mut ContainerStatus) {
    if container.state.terminated.is_none() {
        container.state = lost(container, "The container could not be located when the pod was terminated");
        container.ready = false;
        container.started = Some(false);
    }
}

/// Whether there is evidence that all init containers were through once.
fn was_initialized(status: &PodStatus, pod: &Pod) -> bool {
    let ran = |c: &ContainerStatus| c.state.waiting.is_none() || !c.last_state.is_empty();
    if pod.spec.init_containers.is_empty() || status.container_statuses.iter().any(ran) {
        return true;
    }
    let (Some(container), Some(last)) = (pod.spec.init_containers.last(), status.init_container_statuses.last()) else {
        return false;
    };
    let completed = |state: &ContainerState| state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    completed(&last.state) || completed(&last.last_state) || (is_sidecar(container) && last.started == Some(true))
}

fn lost(container: &ContainerStatus, message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: EXIT_CODE_LOST,
            reason: STATUS_UNKNOWN.to_owned(),
            message: message.to_owned(),
            started_at: container.state.running.as_ref().and_then(|r| r.started_at),
            container_id: container.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn treat_as_completed(status: &mut ContainerStatus) {
    status.state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            reason: "Completed".to_owned(),
            message:
                "Unable to get init container status from container runtime and pod has been initialized, treat it \
                      as exited normally"
                    .to_owned(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    status.ready = true;
}

fn terminated(exit: &proto::ContainerExit) -> ContainerState {
    let default_reason = if exit.exit_code == 0 { "Completed" } else { "Error" };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.exit_code,
            signal: exit.signal,
            reason: if exit.reason.is_empty() { default_reason.to_owned() } else { exit.reason.clone() },
            message: exit.message.clone(),
            started_at: moment(exit.started_at_ms),
            finished_at: moment(exit.finished_at_ms),
            container_id: full_id(&exit.container_id),
        }),
        ..ContainerState::default()
    }
}

fn moment(unix_ms: i64) -> Option<Timestamp> {
    (unix_ms != 0).then(|| Timestamp::from_unix_ms(unix_ms))
}

/// `podbus://<id>`, unless the agent names another runtime.
fn full_id(id: &str) -> String {
    if id.is_empty() || id.contains("://") { id.to_owned() } else { format!("podbus://{id}") }
}
