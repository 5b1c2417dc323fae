//! The cases of the kubelet's phase, one a line: policy, init containers, sidecars, regular containers, whether all was
//! stopped for good, whether a regular container was created in the newest sandbox, and the phase.
//!
//! States: `-` none, `W` waiting and never ran, `WL1` waiting after exit code 1, `R` running, `R*` running and started,
//! `T1` terminated with code 1.

use super::*;
use crate::model::{ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting};

fn container_status(name: &str, state: &str) -> Option<ContainerStatus> {
    let mut status = ContainerStatus { name: name.to_owned(), ..ContainerStatus::default() };
    let end = |code: &str| {
        Some(ContainerStateTerminated { exit_code: code.parse().unwrap(), ..ContainerStateTerminated::default() })
    };
    match state {
        "-" => return None,
        "W" => status.state.waiting = Some(ContainerStateWaiting::default()),
        "R" | "R*" => {
            status.state.running = Some(ContainerStateRunning::default());
            status.started = Some(state == "R*");
        }
        _ if state.starts_with("WL") => {
            status.state.waiting = Some(ContainerStateWaiting::default());
            status.last_state.terminated = end(&state[2..]);
        }
        _ => status.state.terminated = end(&state[1..]),
    }
    Some(status)
}

/// Containers named by kind and place, with their states.
fn group(kind: &str, states: &str, sidecar: bool) -> (Vec<Container>, Vec<ContainerStatus>) {
    let named = states.split_whitespace().enumerate().map(|(index, state)| (format!("{kind}{index}"), state));
    let (mut containers, mut statuses) = (Vec::new(), Vec::new());
    for (name, state) in named {
        statuses.extend(container_status(&name, state));
        let restart_policy = sidecar.then_some(RestartPolicy::Always);
        containers.push(Container { name, restart_policy, ..Container::default() });
    }
    (containers, statuses)
}

#[test]
fn the_phase_is_the_kubelets_in_every_case_of_its_table() {
    const CASES: &str = "
        Always    |     |     | - -     | n | n | Pending
        Always    |     |     | W W     | n | n | Pending
        Always    |     |     | R R     | n | y | Running
        Always    |     |     | R W     | n | y | Pending
        Always    |     |     | R T1    | n | y | Running
        Always    |     |     | R WL1   | n | y | Running
        Always    |     |     | T0 T0   | n | y | Running
        Always    |     |     | WL1     | n | y | Running
        Always    |     |     | T0 T0   | y | y | Succeeded
        Always    |     |     | T0 T1   | y | y | Failed
        Always    |     |     | W W     | y | n | Pending
        Never     |     |     | T0 T0   | n | y | Succeeded
        Never     |     |     | T0 T1   | n | y | Failed
        Never     |     |     | T0 W    | n | y | Pending
        Never     |     |     | WL0     | n | y | Failed
        OnFailure |     |     | T0 T0   | n | y | Succeeded
        OnFailure |     |     | T0 T1   | n | y | Running
        OnFailure |     |     | WL1 T0  | n | y | Running
        OnFailure |     |     | T0 T1   | y | y | Failed
        Always    | -   |     | - -     | n | n | Pending
        Always    | R   |     | W W     | n | n | Pending
        Always    | T1  |     | W W     | n | n | Pending
        Always    | WL1 |     | W W     | n | n | Pending
        Always    | T0  |     | R R     | n | y | Running
        Always    | R   |     | R R     | n | y | Pending
        Never     | T1  |     | W       | n | n | Failed
        Never     | T1  |     | T0      | n | y | Failed
        Always    |     | R   | -       | n | n | Pending
        Always    |     | R   | R R     | n | y | Running
        Always    |     | R   | R R     | n | n | Pending
        Always    |     | T1  | R R     | n | y | Running
        Always    |     | WL1 | R R     | n | y | Running
        Always    |     | W   | R       | n | y | Pending
        Always    |     | T1  | T0 T0   | y | y | Succeeded
        Never     |     | R*  | T0 T0   | n | y | Running
        Never     |     | T1  | T0 T0   | n | y | Succeeded
        Always    | T0  | R   | T1      | n | n | Pending
        Always    | T0  | R   | T1      | n | y | Running";
    for line in CASES.trim().lines() {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [policy, init, sidecar, regular, ended, has_started, phase] = columns[..] else { panic!("{line}") };
        let (mut init, mut init_statuses) = group("init", init, false);
        let (sidecars, sidecar_statuses) = group("sidecar", sidecar, true);
        init.extend(sidecars);
        init_statuses.extend(sidecar_statuses);
        let (containers, container_statuses) = group("regular", regular, false);
        let mut pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"restartPolicy": policy}})).unwrap();
        pod.spec.init_containers = init;
        pod.spec.containers = containers;
        let status = PodStatus { init_container_statuses: init_statuses, container_statuses, ..PodStatus::default() };
        assert_eq!(decide(&pod, &status, ended == "y", has_started == "y").as_str(), phase, "{line}");
    }
}
