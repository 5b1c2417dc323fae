//! Texts about pods that several commands show alike: kubectl's columns STATUS, READY and RESTARTS, and durations.

use crate::fold::NODE_NOT_READY;
use crate::model::{Container, ContainerState, ContainerStatus, Pod, PodStatus, RestartPolicy, Timestamp};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The column STATUS: a reason beats the phase.
pub fn pod_status(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "Pending".to_owned() };
    if pod.metadata.deletion_timestamp.is_some() && !status.phase.is_terminal() {
        let lost = condition(status, "Ready").is_some_and(|c| c.reason == NODE_NOT_READY);
        return if lost { "Unknown".to_owned() } else { "Terminating".to_owned() };
    }
    let init = init_reason(pod, status);
    if let Some(reason) = &init
        && condition(status, "Initialized").is_none_or(|c| c.status != "True")
    {
        return reason.clone();
    }
    regular_reason(status)
        .or(init)
        .or_else(|| (!status.reason.is_empty()).then(|| status.reason.clone()))
        .or_else(|| gated(status))
        .unwrap_or_else(|| status.phase.as_str().to_owned())
}

/// The column READY: containers that are ready of all that run as long as the pod, sidecars among them.
pub fn ready(pod: &Pod) -> String {
    let long_running: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .filter(|c| is_sidecar(c))
        .chain(&pod.spec.containers)
        .map(|c| c.name.as_str())
        .collect();
    let ready = pod.status.iter().flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses));
    let ready = ready.filter(|c| c.ready && c.state.running.is_some() && long_running.contains(&c.name.as_str()));
    format!("{}/{}", ready.count(), long_running.len())
}

/// The column RESTARTS: `3 (5m ago)`. While init containers run theirs count, later those of containers and sidecars.
pub fn restarts(pod: &Pod, now: Timestamp) -> String {
    let Some(status) = &pod.status else { return "0".to_owned() };
    let initializing =
        init_reason(pod, status).is_some() && condition(status, "Initialized").is_none_or(|c| c.status != "True");
    let init = status.init_container_statuses.iter().filter(|c| initializing || is_sidecar_of(pod, &c.name));
    let regular = status.container_statuses.iter().filter(|_| !initializing);
    let counted: Vec<_> = init.chain(regular).collect();
    let count: u32 = counted.iter().map(|c| c.restart_count).sum();
    let last = counted.iter().filter_map(|c| c.last_state.terminated.as_ref()?.finished_at).max();
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", duration(now.seconds_since(last))),
        _ => count.to_string(),
    }
}

/// How long, as kubectl writes an age: two units at most, fewer the longer it is. A clock that is behind by more than
/// a second gives `<invalid>`.
pub fn duration(seconds: i64) -> String {
    let pair = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => pair(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => pair(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => pair(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => pair(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a crate::model::PodCondition> {
    status.conditions.iter().find(|c| c.kind == kind)
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy == Some(RestartPolicy::Always)
}

fn is_sidecar_of(pod: &Pod, name: &str) -> bool {
    pod.spec.init_containers.iter().any(|c| c.name == name && is_sidecar(c))
}

/// Of the first init container that is not through yet: `Init:1/2`, `Init:Error`, `Init:CrashLoopBackOff`.
fn init_reason(pod: &Pod, status: &PodStatus) -> Option<String> {
    let through = |c: &ContainerStatus| {
        c.state.terminated.as_ref().is_some_and(|t| t.exit_code == 0)
            || (is_sidecar_of(pod, &c.name) && c.started == Some(true))
    };
    let (index, container) = status.init_container_statuses.iter().enumerate().find(|(_, c)| !through(c))?;
    let reason = match &container.state {
        ContainerState { waiting: Some(waiting), .. } if waiting.reason == "PodInitializing" => None,
        state => state_reason(state),
    };
    Some(match reason {
        Some(reason) => format!("Init:{reason}"),
        None => format!("Init:{index}/{}", pod.spec.init_containers.len()),
    })
}

/// Of the first container that has one. A pod of which one container completed and another runs is Running.
fn regular_reason(status: &PodStatus) -> Option<String> {
    let reason = status.container_statuses.iter().find_map(|c| state_reason(&c.state))?;
    let running = status.container_statuses.iter().any(|c| c.ready && c.state.running.is_some());
    if reason == "Completed" && running {
        let ready = condition(status, "Ready").is_some_and(|c| c.status == "True");
        return Some(if ready { "Running" } else { "NotReady" }.to_owned());
    }
    Some(reason)
}

/// Why a container does not run.
fn state_reason(state: &ContainerState) -> Option<String> {
    match state {
        ContainerState { waiting: Some(waiting), .. } => (!waiting.reason.is_empty()).then(|| waiting.reason.clone()),
        ContainerState { terminated: Some(end), .. } => Some(if !end.reason.is_empty() {
            end.reason.clone()
        } else if end.signal != 0 {
            format!("Signal:{}", end.signal)
        } else {
            format!("ExitCode:{}", end.exit_code)
        }),
        _ => None,
    }
}

fn gated(status: &PodStatus) -> Option<String> {
    condition(status, "PodScheduled").filter(|c| c.reason == "SchedulingGated").map(|c| c.reason.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000);

    #[expect(clippy::needless_pass_by_value, reason = "so that callers write json!({...})")]
    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}]
            },
            "status": status
        }))
        .unwrap()
    }

    fn waiting(name: &str, reason: &str) -> Value {
        json!({"name": name, "state": {"waiting": {"reason": reason}}})
    }

    fn ended(name: &str, code: i32, reason: &str) -> Value {
        json!({"name": name, "state": {"terminated": {"exitCode": code, "reason": reason}}})
    }

    fn running(name: &str) -> Value {
        json!({"name": name, "ready": true, "started": true, "state": {"running": {}}})
    }

    #[test]
    fn the_status_column_reads_as_kubectls() {
        let init_done = || json!([ended("i", 0, "Completed"), running("s")]);
        for (init, regular, phase, expected) in [
            (json!([]), json!([]), "Pending", "Pending"),
            (json!([running("i"), waiting("s", "PodInitializing")]), json!([]), "Pending", "Init:0/2"),
            (json!([ended("i", 0, ""), waiting("s", "PodInitializing")]), json!([]), "Pending", "Init:1/2"),
            (json!([ended("i", 1, "Error")]), json!([]), "Pending", "Init:Error"),
            (json!([ended("i", 3, "")]), json!([]), "Pending", "Init:ExitCode:3"),
            (json!([waiting("i", "CrashLoopBackOff")]), json!([]), "Pending", "Init:CrashLoopBackOff"),
            (init_done(), json!([waiting("a", "ContainerCreating"), running("b")]), "Pending", "ContainerCreating"),
            (init_done(), json!([running("a"), running("b")]), "Running", "Running"),
            (init_done(), json!([running("a"), waiting("b", "CrashLoopBackOff")]), "Running", "CrashLoopBackOff"),
            (init_done(), json!([ended("a", 137, "OOMKilled"), running("b")]), "Running", "OOMKilled"),
            (init_done(), json!([ended("a", 0, "Completed"), running("b")]), "Running", "NotReady"),
            (init_done(), json!([ended("a", 0, "Completed"), ended("b", 0, "Completed")]), "Succeeded", "Completed"),
            (init_done(), json!([ended("a", 2, ""), running("b")]), "Running", "ExitCode:2"),
        ] {
            let pod = pod(json!({"phase": phase, "initContainerStatuses": init, "containerStatuses": regular}));
            assert_eq!(pod_status(&pod), expected, "{pod:?}");
        }
    }

    #[test]
    fn a_reason_of_the_pod_beats_its_phase_and_deletion_beats_all() {
        let evicted = pod(json!({"phase": "Failed", "reason": "OutOfcpu"}));
        assert_eq!(pod_status(&evicted), "OutOfcpu");
        let mut leaving = pod(json!({"phase": "Running", "containerStatuses": [waiting("a", "CrashLoopBackOff")]}));
        leaving.metadata.deletion_timestamp = Some(NOW);
        assert_eq!(pod_status(&leaving), "Terminating");
        leaving.status = Some(crate::fold::node_lost(leaving.status.as_ref().unwrap(), NOW));
        assert_eq!(pod_status(&leaving), "Unknown");
    }

    #[test]
    fn sidecars_count_as_ready_and_init_containers_do_not() {
        let pod = pod(json!({
            "initContainerStatuses": [{"name": "i", "ready": true, "state": {"terminated": {"exitCode": 0}}}, running("s")],
            "containerStatuses": [running("a"), waiting("b", "")]
        }));
        assert_eq!(ready(&pod), "2/3");
    }

    #[test]
    fn restarts_say_when_the_last_one_was() {
        let end = |seconds: i64| json!({"terminated": {"exitCode": 1, "finishedAt": NOW.plus_seconds(-seconds)}});
        let pod = pod(json!({
            "initContainerStatuses": [
                {"name": "i", "restartCount": 7, "state": {"terminated": {"exitCode": 0}}, "lastState": end(10)},
                {"name": "s", "restartCount": 1, "started": true, "state": {"running": {}}, "lastState": end(3600)}
            ],
            "containerStatuses": [{"name": "a", "restartCount": 2, "state": {"running": {}}, "lastState": end(300)}]
        }));
        assert_eq!(restarts(&pod, NOW), "3 (5m ago)");
    }

    #[test]
    fn durations_lose_precision_as_they_grow() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (300, "5m"),
            (600, "10m"),
            (179 * 60, "179m"),
            (185 * 60, "3h5m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (76 * 3600, "3d4h"),
            (700 * 86_400, "700d"),
            ((2 * 365 + 100) * 86_400, "2y100d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
