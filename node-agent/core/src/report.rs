//! What the node says of a pod: the full state, for the leader to fold.

use podbus_common::model::PodPhase;
use podbus_common::proto;

use crate::memory::Memory;
use crate::model::{ContainerKind, ContainerObserved, DesiredPod, Exit, Observed, RunState, all_containers};
use crate::plan::Plan;

/// The state of a pod, without what the worker adds: sequence, events, start time, rejection and `ended`.
///
/// A container without a run and without a reason to wait is left out: it is still to come.
pub(crate) fn report(desired: &DesiredPod, observed: &Observed, memory: &Memory, plan: &Plan) -> proto::PodReport {
    let meta = &desired.pod.metadata;
    proto::PodReport {
        uid: meta.uid.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        generation: desired.generation,
        sandbox: Some(sandbox_status(observed)),
        containers: all_containers(&desired.pod)
            .filter_map(|(kind, container)| {
                let name = &container.name;
                container_status(kind, name, observed, plan)
                    .or_else(|| never_will_be(desired, observed, plan).then(|| not_located(kind, name)).flatten())
            })
            .collect(),
        exits: unacked_exits(observed, memory),
        ..proto::PodReport::default()
    }
}

/// Every end that the leader has not acked, oldest first.
pub(crate) fn unacked_exits(observed: &Observed, memory: &Memory) -> Vec<proto::UnackedExit> {
    let mut exits: Vec<_> = observed
        .containers
        .iter()
        .filter(|run| !memory.acked_exits.contains(&run.id))
        .filter_map(|run| Some((run, run.state.exit()?)))
        .collect();
    exits.sort_by_key(|(run, exit)| (exit.finished_at, run.attempt));
    exits
        .into_iter()
        .map(|(run, exit)| proto::UnackedExit { container: run.name.clone(), exit: Some(container_exit(run, exit)) })
        .collect()
}

fn sandbox_status(observed: &Observed) -> proto::SandboxStatus {
    let Some(sandbox) = observed.newest_sandbox() else { return proto::SandboxStatus::default() };
    let state = match observed.usable_sandbox() {
        Some(_) => proto::SandboxState::SandboxReady,
        None => proto::SandboxState::SandboxNotReady,
    };
    proto::SandboxStatus {
        state: state.into(),
        attempt: sandbox.attempt,
        id: sandbox.id.clone(),
        ip: if sandbox.ready { sandbox.ip.clone().unwrap_or_default() } else { String::new() },
        created_at_ms: sandbox.created_at.unix_ms,
    }
}

fn container_status(
    kind: ContainerKind,
    name: &str,
    observed: &Observed,
    plan: &Plan,
) -> Option<proto::ContainerStatus> {
    let latest = observed.latest(name);
    let waiting = plan.waiting.get(name);
    if latest.is_none() && waiting.is_none() {
        return None;
    }
    let running = latest.filter(|run| matches!(run.state, RunState::Running { .. }));
    // In a new sandbox init containers run again: an end in an older one is history.
    let history = |run: &ContainerObserved| {
        kind != ContainerKind::Regular && observed.usable_sandbox().is_some_and(|s| s.id != run.sandbox_id)
    };
    let exited = latest.filter(|run| run.state.exit().is_some() && waiting.is_none() && !history(run));
    let exit = match exited {
        Some(run) => run.state.exit().map(|exit| container_exit(run, exit)),
        None => observed.latest_exit(name).map(|(run, exit)| container_exit(run, exit)),
    };
    let state = match (running, exited) {
        (Some(_), _) => proto::ContainerState::ContainerRunning,
        (None, Some(_)) => proto::ContainerState::ContainerExited,
        (None, None) => proto::ContainerState::ContainerWaiting,
    };
    Some(proto::ContainerStatus {
        name: name.to_owned(),
        state: state.into(),
        attempt: latest.map_or(0, |run| run.attempt),
        id: latest.map(|run| run.id.clone()).unwrap_or_default(),
        image: latest.map(|run| run.image.clone()).unwrap_or_default(),
        image_id: latest.map(|run| run.image_id.clone()).unwrap_or_default(),
        started_at_ms: started_at_ms(latest),
        waiting_reason: waiting.map(|w| w.reason.clone()).unwrap_or_default(),
        waiting_message: waiting.map(|w| w.message.clone()).unwrap_or_default(),
        exit,
        restart_count: latest.map_or(0, |run| run.attempt),
        // Without probes what runs is started and ready.
        ready: running.is_some(),
        started: running.is_some(),
    })
}

/// The pod ended before some of its containers were made: they never will be. Where an init container failed that is
/// told by it, and the others wait for ever, as in Kubernetes.
fn never_will_be(desired: &DesiredPod, observed: &Observed, plan: &Plan) -> bool {
    let init_failed = all_containers(&desired.pod)
        .filter(|(kind, _)| *kind == ContainerKind::Init)
        .any(|(_, container)| observed.latest_exit(&container.name).is_some_and(|(_, exit)| !exit.succeeded()));
    desired.stop.is_none() && plan.finished == Some(PodPhase::Failed) && !init_failed
}

/// What the kubelet says of a container that it does not find when its pod has ended.
fn not_located(kind: ContainerKind, name: &str) -> Option<proto::ContainerStatus> {
    let exit = proto::ContainerExit {
        exit_code: 137,
        reason: "ContainerStatusUnknown".to_owned(),
        message: "The container could not be located when the pod was terminated".to_owned(),
        ..Default::default()
    };
    (kind == ContainerKind::Regular).then(|| proto::ContainerStatus {
        name: name.to_owned(),
        state: proto::ContainerState::ContainerExited.into(),
        exit: Some(exit),
        ..Default::default()
    })
}

fn started_at_ms(run: Option<&ContainerObserved>) -> i64 {
    match run.map(|run| &run.state) {
        Some(RunState::Running { started_at }) => started_at.unix_ms,
        Some(RunState::Exited(exit)) => exit.started_at.unix_ms,
        _ => 0,
    }
}

fn container_exit(run: &ContainerObserved, exit: &Exit) -> proto::ContainerExit {
    let reason = match (exit.reason.as_str(), exit.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    proto::ContainerExit {
        attempt: run.attempt,
        exit_code: exit.exit_code,
        // As the kubelet: a death by signal shows in the code, 128 + n.
        signal: 0,
        reason: reason.to_owned(),
        message: exit.message.clone(),
        started_at_ms: exit.started_at.unix_ms,
        finished_at_ms: exit.finished_at.unix_ms,
        container_id: run.id.clone(),
    }
}
#[cfg(test)]
mod tests;
