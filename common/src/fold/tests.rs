use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{ContainerStateTerminated, ContainerStatus};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);
const LATER: Timestamp = Timestamp::from_unix_ms(2_000_000);

#[expect(clippy::needless_pass_by_value, reason = "so that callers write json!({...})")]
fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "uid": "u"}, "spec": spec})).unwrap()
}

/// A pod of one container `a`.
fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}))
}

fn report(containers: Vec<proto::ContainerStatus>) -> proto::PodReport {
    proto::PodReport {
        uid: "u".into(),
        generation: 1,
        sandbox: Some(proto::SandboxStatus {
            state: proto::SandboxState::SandboxReady.into(),
            id: "s".into(),
            ip: "10.0.0.2".into(),
            created_at_ms: 100,
            ..Default::default()
        }),
        containers,
        start_time_ms: 50,
        ..Default::default()
    }
}

fn running(name: &str, attempt: u32) -> proto::ContainerStatus {
    proto::ContainerStatus {
        name: name.into(),
        state: proto::ContainerState::ContainerRunning.into(),
        attempt,
        id: format!("{name}-{attempt}"),
        started_at_ms: 200,
        ready: true,
        started: true,
        restart_count: attempt,
        ..Default::default()
    }
}

fn exited(name: &str, attempt: u32, exit_code: i32) -> proto::ContainerStatus {
    proto::ContainerStatus {
        state: proto::ContainerState::ContainerExited.into(),
        ready: false,
        started: false,
        exit: Some(exit(name, attempt, exit_code)),
        ..running(name, attempt)
    }
}

fn exit(name: &str, attempt: u32, exit_code: i32) -> proto::ContainerExit {
    proto::ContainerExit {
        attempt,
        exit_code,
        started_at_ms: 200,
        finished_at_ms: 300,
        container_id: format!("{name}-{attempt}"),
        ..Default::default()
    }
}

fn waiting(name: &str, reason: &str) -> proto::ContainerStatus {
    proto::ContainerStatus { name: name.into(), waiting_reason: reason.into(), ..Default::default() }
}

fn folded(pod: &Pod, report: &proto::PodReport, previous: Option<&PodStatus>) -> PodStatus {
    fold(pod, report, "192.0.2.1", previous, NOW)
}

/// `status`, or `status/reason`, of a condition, and its message.
fn condition(status: &PodStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|c| c.kind == kind).unwrap();
    let reason = if found.reason.is_empty() { String::new() } else { format!("/{}", found.reason) };
    (format!("{}{reason}", found.status), found.message.clone())
}

fn end_of(container: &ContainerStatus) -> &ContainerStateTerminated {
    container.state.terminated.as_ref().unwrap()
}

#[test]
fn a_pod_that_runs_has_its_addresses_its_states_and_all_conditions() {
    let status = folded(&one("Always"), &report(vec![running("a", 0)]), None);
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        json!({
            "phase": "Running",
            "conditions": (["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"])
                .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "1970-01-01T00:16:40Z"})),
            "hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.1"}],
            "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
            "startTime": "1970-01-01T00:00:00Z",
            "containerStatuses": [{
                "name": "a", "ready": true, "started": true, "restartCount": 0, "image": "i", "imageID": "",
                "containerID": "podbus://a-0", "state": {"running": {"startedAt": "1970-01-01T00:00:00Z"}}
            }],
            "qosClass": "BestEffort",
            "observedGeneration": 1
        })
    );
}

#[test]
fn conditions_say_what_is_missing() {
    // init containers, sidecars, what is reported; then Initialized and ContainersReady
    let spec = |init: serde_json::Value| {
        pod(json!({"restartPolicy": "Never", "initContainers": init, "containers": [{"name": "a"}, {"name": "b"}]}))
    };
    let plain = spec(json!([]));
    let init = spec(json!([{"name": "i"}]));
    let sidecar = spec(json!([{"name": "s", "restartPolicy": "Always"}]));
    let unready = |names: &str| format!("containers with unready status: [{names}]");
    let incomplete = |names: &str| format!("containers with incomplete status: [{names}]");
    let not_started = proto::ContainerStatus { started: false, ..running("s", 0) };
    for (pod, containers, initialized, ready) in [
        (&plain, vec![], ("True", String::new()), ("False/ContainersNotReady", unready("a b"))),
        (&plain, vec![running("a", 0)], ("True", String::new()), ("False/ContainersNotReady", unready("b"))),
        (
            &init,
            vec![running("i", 0)],
            ("False/ContainersNotInitialized", incomplete("i")),
            ("False/ContainersNotReady", unready("a b")),
        ),
        (
            &sidecar,
            vec![not_started],
            ("False/ContainersNotInitialized", incomplete("s")),
            ("False/ContainersNotReady", unready("s a b")),
        ),
        (
            &sidecar,
            vec![exited("s", 0, 1), running("a", 0), running("b", 0)],
            ("True", String::new()),
            ("False/ContainersNotReady", unready("s")),
        ),
        (
            &plain,
            vec![exited("a", 0, 0), exited("b", 0, 0)],
            ("True/PodCompleted", String::new()),
            ("False/PodCompleted", String::new()),
        ),
        (
            &plain,
            vec![exited("a", 0, 0), exited("b", 0, 1)],
            ("True", String::new()),
            ("False/PodFailed", String::new()),
        ),
        (
            &init,
            vec![exited("i", 0, 1)],
            ("False/ContainersNotInitialized", incomplete("i")),
            ("False/PodFailed", String::new()),
        ),
    ] {
        let status = folded(pod, &report(containers), None);
        let expected = |(status, message): (&str, String)| (status.to_owned(), message);
        assert_eq!(condition(&status, "Initialized"), expected(initialized), "{status:?}");
        assert_eq!(condition(&status, "ContainersReady"), expected(ready), "{status:?}");
        assert_eq!(condition(&status, "Ready"), condition(&status, "ContainersReady"));
    }
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let (pod, creating) = (one("Always"), report(vec![]));
    let first = folded(&pod, &creating, None);
    let second = fold(&pod, &creating, "", Some(&first), LATER);
    let third = fold(&pod, &report(vec![running("a", 0)]), "", Some(&second), LATER);
    let time = |status: &PodStatus, kind: &str| {
        status.conditions.iter().find(|c| c.kind == kind).and_then(|c| c.last_transition_time)
    };
    assert_eq!(time(&second, "Ready"), Some(NOW));
    assert_eq!(time(&third, "Ready"), Some(LATER));
    assert_eq!(time(&third, "Initialized"), Some(NOW));
}

#[test]
fn what_the_node_does_not_report_is_waiting() {
    let with_init = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    for (pod, reason) in [(one("Always"), "ContainerCreating"), (with_init, "PodInitializing")] {
        let status = folded(&pod, &report(vec![]), None);
        assert_eq!(status.container_statuses[0].state.waiting.as_ref().unwrap().reason, reason);
        assert_eq!(status.phase, PodPhase::Pending);
    }
    let refused = folded(&one("Always"), &report(vec![waiting("a", "ErrImagePull")]), None);
    assert_eq!(refused.container_statuses[0].state.waiting.as_ref().unwrap().reason, "ErrImagePull");
}

#[test]
fn a_crash_shows_its_end_then_the_back_off_then_the_new_run() {
    let pod = one("Always");
    let crashed = folded(&pod, &report(vec![exited("a", 0, 3)]), None);
    assert_eq!((end_of(&crashed.container_statuses[0]).exit_code, crashed.phase), (3, PodPhase::Running));
    assert_eq!(end_of(&crashed.container_statuses[0]).reason, "Error");

    let mut held = waiting("a", "CrashLoopBackOff");
    held.exit = Some(exit("a", 0, 3));
    let held = folded(&pod, &report(vec![held]), Some(&crashed));
    assert_eq!(held.container_statuses[0].last_state.terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(held.phase, PodPhase::Running);

    // The report of the new run says nothing of the old one: what was known stays.
    let again = folded(&pod, &report(vec![running("a", 1)]), Some(&held));
    assert_eq!(again.container_statuses[0].last_state.terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(again.container_statuses[0].restart_count, 1);

    // A second end pushes the first one only when the state was the first end itself.
    let twice = folded(&pod, &report(vec![exited("a", 1, 4)]), Some(&crashed));
    assert_eq!(twice.container_statuses[0].last_state.terminated.as_ref().unwrap().exit_code, 3);
}

#[test]
fn a_restart_count_never_goes_down() {
    let pod = one("Always");
    let status = folded(&pod, &report(vec![running("a", 5)]), None);
    let status = folded(&pod, &report(vec![running("a", 2)]), Some(&status));
    assert_eq!(status.container_statuses[0].restart_count, 5);
}

#[test]
fn a_container_that_vanished_while_it_ran_counts_as_killed() {
    let pod = one("Always");
    let before = folded(&pod, &report(vec![running("a", 0)]), None);
    let after = folded(&pod, &report(vec![]), Some(&before));
    let container = &after.container_statuses[0];
    assert_eq!(container.last_state.terminated.as_ref().unwrap().reason, "ContainerStatusUnknown");
    assert_eq!(container.restart_count, 1);
    assert_eq!(after.phase, PodPhase::Running);
}

#[test]
fn a_rejected_pod_is_failed_with_the_nodes_reason() {
    let refused = proto::PodReport {
        rejected_reason: "OutOfcpu".into(),
        rejected_message: "Node didn't have enough resource: cpu".into(),
        ..Default::default()
    };
    let status = folded(&one("Always"), &refused, None);
    assert_eq!((status.phase, status.reason.as_str()), (PodPhase::Failed, "OutOfcpu"));
    assert_eq!(status.message, "Pod was rejected: Node didn't have enough resource: cpu");
    assert!(status.container_statuses.is_empty());
    assert_eq!(condition(&status, "Ready").0, "False/PodFailed");
    // What ended well before is not failed by a node that is asked to run it again.
    let over = folded(&one("Never"), &report(vec![exited("a", 0, 0)]), None);
    assert_eq!(folded(&one("Never"), &refused, Some(&over)), over);
}

#[test]
fn an_evicted_pod_is_failed_with_the_nodes_words_once_nothing_of_it_runs() {
    let evicted = |containers| proto::PodReport {
        rejected_reason: "Evicted".into(),
        rejected_message: "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ".into(),
        ..report(containers)
    };
    let runs = folded(&one("Always"), &report(vec![running("a", 0)]), None);
    let stopping = folded(&one("Always"), &evicted(vec![running("a", 0)]), Some(&runs));
    assert_eq!((stopping.phase, stopping.reason.as_str()), (PodPhase::Running, ""));
    for policy in ["Always", "Never"] {
        let over = folded(&one(policy), &evicted(vec![exited("a", 0, 137)]), Some(&stopping));
        assert_eq!((over.phase, over.reason.as_str()), (PodPhase::Failed, "Evicted"), "{policy}");
        assert!(over.message.starts_with("Usage of EmptyDir"), "{}", over.message);
        assert_eq!(end_of(&over.container_statuses[0]).exit_code, 137);
    }
    let well = folded(&one("Never"), &evicted(vec![exited("a", 0, 0)]), Some(&stopping));
    assert_eq!((well.phase, well.reason.as_str()), (PodPhase::Succeeded, ""));
}

#[test]
fn a_pod_that_ended_before_it_started_is_failed() {
    let ended = proto::PodReport { ended: true, ..Default::default() };
    let status = folded(&one("Always"), &ended, None);
    assert_eq!(status.phase, PodPhase::Failed);
    assert_eq!(end_of(&status.container_statuses[0]).exit_code, 137);
}

#[test]
fn a_pod_that_was_stopped_is_judged_by_its_exit_codes() {
    for (code, phase) in [(0, PodPhase::Succeeded), (143, PodPhase::Failed)] {
        let ended = proto::PodReport { ended: true, ..report(vec![exited("a", 0, code)]) };
        assert_eq!(folded(&one("Always"), &ended, None).phase, phase);
    }
}

#[test]
fn a_failure_is_published_only_when_nothing_runs_any_more() {
    let pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
        "containers": [{"name": "a"}]
    }));
    let before = folded(&pod, &report(vec![running("s", 0), running("i", 0)]), None);
    let failing = folded(&pod, &report(vec![running("s", 0), exited("i", 0, 1)]), Some(&before));
    assert_eq!(failing.phase, PodPhase::Pending);
    assert_eq!(folded(&pod, &report(vec![running("s", 0), exited("i", 0, 1)]), None).phase, PodPhase::Pending);
    let failed = folded(&pod, &report(vec![exited("s", 0, 143), exited("i", 0, 1)]), Some(&failing));
    assert_eq!(failed.phase, PodPhase::Failed);
}

#[test]
fn a_report_that_revives_what_ended_for_good_changes_nothing() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]}));
    let before = folded(&pod, &report(vec![exited("a", 0, 1), running("b", 0)]), None);
    let after = folded(&pod, &report(vec![running("a", 1), running("b", 0)]), Some(&before));
    assert_eq!(after, before);
}

#[test]
fn the_schedulers_own_statuses_keep_what_is_known() {
    let pod = one("Always");
    let message = "0/3 nodes are available: 3 Insufficient cpu.";
    let held = unschedulable(&pod, message, None, NOW);
    assert_eq!(condition(&held, "PodScheduled"), ("False/Unschedulable".to_owned(), message.to_owned()));
    assert_eq!((held.phase, held.qos_class.as_str()), (PodPhase::Pending, "BestEffort"));
    let placed = bound(&pod, Some(&held), LATER);
    assert_eq!(condition(&placed, "PodScheduled"), ("True".to_owned(), String::new()));
    assert_eq!(placed.conditions.len(), 1);
    assert_eq!(unbound(&pod).phase, PodPhase::Pending);
}

#[test]
fn a_pod_on_a_lost_node_is_not_ready_until_the_node_reports_again() {
    let pod = one("Always");
    let up = folded(&pod, &report(vec![running("a", 0)]), None);
    let lost = node_lost(&up, LATER);
    assert_eq!(condition(&lost, "Ready").0, "False/NodeNotReady");
    assert_eq!((lost.phase, &lost.container_statuses), (PodPhase::Running, &up.container_statuses));
    assert_eq!(condition(&folded(&pod, &report(vec![running("a", 0)]), Some(&lost)), "Ready").0, "True");
}

#[test]
fn the_qos_class_follows_cpu_and_memory_of_every_container() {
    let resources = |list: &[serde_json::Value]| {
        let containers: Vec<_> = list.iter().map(|r| json!({"name": "a", "resources": r})).collect();
        qos(&pod(json!({"containers": containers})))
    };
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(resources(&[json!({})]), "BestEffort");
    assert_eq!(resources(&[json!({"requests": {"ephemeral-storage": "1Gi"}})]), "BestEffort");
    assert_eq!(resources(&[json!({"requests": {"cpu": "0"}})]), "BestEffort");
    assert_eq!(resources(std::slice::from_ref(&full)), "Guaranteed");
    assert_eq!(resources(&[full.clone(), json!({})]), "Burstable");
    assert_eq!(resources(&[json!({"limits": {"cpu": "1"}})]), "Burstable");
    assert_eq!(
        resources(&[
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}})
        ]),
        "Guaranteed"
    );
    assert_eq!(resources(&[json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}})]), "Burstable");
}

fn any_container() -> impl Strategy<Value = Option<proto::ContainerStatus>> {
    let name = prop_oneof![Just("i"), Just("s"), Just("a"), Just("b")];
    (name, 0_u32..3, 0_i32..3, 0_u8..4).prop_map(|(name, attempt, code, kind)| match kind {
        0 => None,
        1 => Some(running(name, attempt)),
        2 => Some(exited(name, attempt, code)),
        _ => Some(waiting(name, "CrashLoopBackOff")),
    })
}

fn any_report() -> impl Strategy<Value = proto::PodReport> {
    (proptest::collection::vec(any_container(), 0..5), any::<bool>()).prop_map(|(containers, ended)| {
        let mut containers: Vec<_> = containers.into_iter().flatten().collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        containers.dedup_by(|a, b| a.name == b.name);
        proto::PodReport { ended, ..report(containers) }
    })
}

proptest! {
    #[test]
    fn a_terminal_phase_is_never_left_and_counts_never_fall(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        reports in proptest::collection::vec(any_report(), 1..8),
    ) {
        let pod = pod(json!({
            "restartPolicy": policy,
            "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b"}]
        }));
        let mut previous: Option<PodStatus> = None;
        for report in &reports {
            let status = folded(&pod, report, previous.as_ref());
            prop_assert_eq!(&folded(&pod, report, Some(&status)).phase, &status.phase);
            if let Some(previous) = &previous {
                if previous.phase.is_terminal() {
                    prop_assert_eq!(status.phase, previous.phase);
                }
                for (old, new) in previous.container_statuses.iter().zip(&status.container_statuses) {
                    prop_assert!(new.restart_count >= old.restart_count);
                }
                prop_assert_eq!(status.start_time, previous.start_time);
            }
            for container in status.container_statuses.iter().chain(&status.init_container_statuses) {
                let state = &container.state;
                let set = [state.waiting.is_some(), state.running.is_some(), state.terminated.is_some()];
                prop_assert_eq!(set.iter().filter(|set| **set).count(), 1);
            }
            previous = Some(status);
        }
    }
}
