//! The fold: a pod's status as a pure function of its spec, of what its node reports, and of the status before.
//!
//! Nobody sets a phase by hand. The rules are the kubelet's: `phase` decides the phase, `conditions` the conditions,
//! `containers` what each container's state is.

mod conditions;
mod containers;
mod phase;

use crate::model::{HostIp, Pod, PodCondition, PodIp, PodPhase, PodStatus, RestartPolicy, Timestamp};
use crate::proto;
use crate::quantity::Quantity;

use conditions::Conditions;

/// The reason of the Ready condition while a pod's node cannot be asked.
pub const NODE_NOT_READY: &str = "NodeNotReady";

/// What the pod is, now that its node reports `observed`.
///
/// `node_ip` is the node's address, `previous` the status stored before, and `now` becomes the time of each condition
/// that changes. A terminal phase is never left, and a report that would bring a container back to life that may not
/// be restarted changes nothing.
pub fn fold(
    pod: &Pod,
    observed: &proto::PodReport,
    node_ip: &str,
    previous: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let mut status = PodStatus {
        qos_class: qos(pod).to_owned(),
        observed_generation: observed.generation.max(previous.map_or(0, |p| p.observed_generation)),
        start_time: previous.and_then(|p| p.start_time).or(Some(match observed.start_time_ms {
            0 => now,
            ms => Timestamp::from_unix_ms(ms),
        })),
        host_ip: node_ip.to_owned(),
        ..PodStatus::default()
    };
    if !observed.rejected_reason.is_empty() && never_ran(observed) {
        if let Some(previous) = previous
            && previous.phase.is_terminal()
        {
            return previous.clone();
        }
        reject(&mut status, observed);
        conditions::fill(&mut status, pod, observed, previous, now);
        finish(&mut status);
        return status;
    }
    set_address(&mut status, observed, previous);
    containers::fill(&mut status, pod, observed, previous);
    if let Some(previous) = previous
        && phase::revives(pod, previous, &status)
    {
        return previous.clone();
    }
    phase::fill(&mut status, pod, observed, previous);
    if !observed.rejected_reason.is_empty() {
        phase::evict(&mut status, observed, previous);
    }
    conditions::fill(&mut status, pod, observed, previous, now);
    finish(&mut status);
    status
}

fn never_ran(observed: &proto::PodReport) -> bool {
    let has_sandbox = observed.sandbox.as_ref().is_some_and(|s| s.state() != proto::SandboxState::SandboxAbsent);
    !has_sandbox && observed.containers.is_empty()
}

fn reject(status: &mut PodStatus, observed: &proto::PodReport) {
    status.phase = PodPhase::Failed;
    status.reason.clone_from(&observed.rejected_reason);
    status.message = format!("Pod was rejected: {}", observed.rejected_message);
}

/// The sandbox's address; the last known one stays while there is no sandbox, as in Kubernetes.
fn set_address(status: &mut PodStatus, observed: &proto::PodReport, previous: Option<&PodStatus>) {
    status.pod_ip = match (&observed.sandbox, previous) {
        (Some(sandbox), _) if !sandbox.ip.is_empty() => sandbox.ip.clone(),
        (_, Some(previous)) => previous.pod_ip.clone(),
        _ => String::new(),
    };
}

/// The lists that repeat the addresses.
fn finish(status: &mut PodStatus) {
    let listed = |ip: &String| if ip.is_empty() { vec![] } else { vec![ip.clone()] };
    status.host_ips = listed(&status.host_ip).into_iter().map(|ip| HostIp { ip }).collect();
    status.pod_ips = listed(&status.pod_ip).into_iter().map(|ip| PodIp { ip }).collect();
}

/// The status of a pod that was just taken in and has no node yet.
pub fn unbound(pod: &Pod) -> PodStatus {
    let status = PodStatus { phase: PodPhase::Pending, qos_class: qos(pod).to_owned(), ..PodStatus::default() };
    if pod.spec.scheduling_gates.is_empty() {
        return status;
    }
    let gated = PodCondition {
        kind: conditions::POD_SCHEDULED.to_owned(),
        status: "False".to_owned(),
        reason: "SchedulingGated".to_owned(),
        message: "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
        last_transition_time: pod.metadata.creation_timestamp,
    };
    PodStatus { conditions: vec![gated], ..status }
}

/// The status of a pod that must leave for one of higher priority (KEP 3329).
pub fn preempted(pod: &Pod, previous: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let mut status = previous.cloned().unwrap_or_else(|| bound(pod, None, now));
    let mut conditions = Conditions::new(Some(&status), now);
    let scheduler = &pod.spec.scheduler_name;
    conditions.set(
        "DisruptionTarget",
        PodCondition {
            status: "True".to_owned(),
            reason: "PreemptionByScheduler".to_owned(),
            message: format!("{scheduler}: preempting to accommodate a higher priority pod"),
            ..PodCondition::default()
        },
    );
    status.conditions = conditions.in_order();
    status
}

/// The status of a pod that fits nowhere; `message` is the scheduler's `0/3 nodes are available: ...`.
pub fn unschedulable(pod: &Pod, message: &str, previous: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    scheduled(
        pod,
        previous,
        now,
        PodCondition {
            status: "False".to_owned(),
            reason: "Unschedulable".to_owned(),
            message: message.to_owned(),
            ..PodCondition::default()
        },
    )
}

/// The status of a pod that has a node, which has not reported yet.
pub fn bound(pod: &Pod, previous: Option<&PodStatus>, now: Timestamp) -> PodStatus {
    let status = scheduled(pod, previous, now, PodCondition { status: "True".to_owned(), ..PodCondition::default() });
    PodStatus { nominated_node_name: String::new(), ..status }
}

fn scheduled(pod: &Pod, previous: Option<&PodStatus>, now: Timestamp, condition: PodCondition) -> PodStatus {
    let mut status = previous.cloned().unwrap_or_else(|| unbound(pod));
    status.qos_class = qos(pod).to_owned();
    let mut conditions = Conditions::new(previous, now);
    conditions.set(conditions::POD_SCHEDULED, condition);
    status.conditions = conditions.in_order();
    status
}

/// The status of a pod whose node no longer answers: what ran there may still run, but it is not Ready. A terminal
/// pod stays as it is.
pub fn node_lost(previous: &PodStatus, now: Timestamp) -> PodStatus {
    let mut status = previous.clone();
    if status.phase.is_terminal() {
        return status;
    }
    let mut conditions = Conditions::new(Some(previous), now);
    conditions.set(
        conditions::READY,
        PodCondition {
            status: "False".to_owned(),
            reason: NODE_NOT_READY.to_owned(),
            message: "The node of the pod does not answer.".to_owned(),
            ..PodCondition::default()
        },
    );
    status.conditions = conditions.in_order();
    status
}

/// Whether a container that exited with `exit_code` is started again.
pub fn may_restart(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// The quality-of-service class: `Guaranteed`, `Burstable` or `BestEffort`. Only CPU and memory count, and zero
/// counts as not set.
pub fn qos(pod: &Pod) -> &'static str {
    let mut requests = [Quantity::ZERO; 2];
    let mut limits = [Quantity::ZERO; 2];
    let mut limited = true;
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        let resources = &container.resources;
        for (index, name) in ["cpu", "memory"].into_iter().enumerate() {
            let amount = |text: Option<&String>| text.and_then(|text| Quantity::parse(text).ok()).unwrap_or_default();
            let limit = amount(resources.limits.get(name));
            limited &= !limit.is_zero();
            limits[index] += limit;
            requests[index] += amount(resources.requests.get(name).or(resources.limits.get(name)));
        }
    }
    if requests.iter().chain(&limits).all(Quantity::is_zero) {
        "BestEffort"
    } else if limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests;
