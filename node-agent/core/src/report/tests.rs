//! What the leader is told.

use super::*;
use crate::fixtures::*;
use crate::memory::StartFailure;
use crate::plan::plan;
use podbus_common::model::RestartPolicy;

fn told(observed: &Observed, memory: &Memory) -> proto::PodReport {
    let desired = desired(pod(&["a", "b"]));
    report(&desired, observed, memory, &plan(&desired, observed, memory, at(20)))
}

fn state(report: &proto::PodReport, name: &str) -> Option<(proto::ContainerState, String, Option<i32>, u32)> {
    let status = report.containers.iter().find(|c| c.name == name)?;
    let exit = status.exit.as_ref().map(|e| e.exit_code);
    Some((status.state(), status.waiting_reason.clone(), exit, status.restart_count))
}

#[test]
fn a_new_pod_has_no_sandbox_and_no_containers() {
    let report = told(&Observed::default(), &Memory::default());
    assert_eq!(report.sandbox.unwrap().state(), proto::SandboxState::SandboxAbsent);
    assert_eq!((report.uid.as_str(), report.name.as_str(), report.containers.len()), ("u-1", "web", 0));
}

#[test]
fn each_container_shows_its_newest_run_and_the_end_before_it() {
    use proto::ContainerState::{ContainerExited, ContainerRunning};
    let mut observed = observed(&[("a", exited(1)), ("b", exited(0))]);
    observed.containers.push(run("a", 1, 0, running()));
    let report = told(&observed, &Memory::default());
    assert_eq!(state(&report, "a"), Some((ContainerRunning, String::new(), Some(1), 1)));
    assert_eq!(state(&report, "b"), Some((ContainerExited, String::new(), Some(0), 0)));
    let sandbox = report.sandbox.clone().unwrap();
    assert_eq!((sandbox.state(), sandbox.ip.as_str()), (proto::SandboxState::SandboxReady, "10.0.0.2"));
    let a = &report.containers[0];
    assert!(a.ready && a.started && a.id == "a-1" && a.started_at_ms == at(1).unix_ms);
}

#[test]
fn a_container_that_may_not_start_yet_waits_and_shows_its_last_end() {
    let mut memory = Memory::default();
    memory.container_started(&container("a"), Some(at(5)), at(5));
    memory.start_failed("b", StartFailure::new("ErrImagePull", "not found"), at(15));
    let report = told(&observed(&[("a", exited_at(1, 15))]), &memory);
    let waiting = proto::ContainerState::ContainerWaiting;
    assert_eq!(state(&report, "a"), Some((waiting, "CrashLoopBackOff".into(), Some(1), 0)));
    assert_eq!(state(&report, "b"), Some((waiting, "ErrImagePull".into(), None, 0)));
    assert_eq!(report.containers[1].waiting_message, "not found");
}

#[test]
fn exits_are_told_oldest_first_until_they_are_acked() {
    let mut observed = observed(&[("a", exited_at(1, 10)), ("b", exited_at(0, 5))]);
    observed.containers.push(run("a", 1, 0, exited_at(2, 15)));
    let mut memory = Memory::default();
    let codes = |memory: &Memory| -> Vec<_> {
        told(&observed, memory).exits.into_iter().map(|e| (e.container, e.exit.unwrap().exit_code)).collect()
    };
    assert_eq!(codes(&memory), [("b".into(), 0), ("a".into(), 1), ("a".into(), 2)]);
    memory.acked_exits.insert("a-0".into());
    assert_eq!(codes(&memory), [("b".into(), 0), ("a".into(), 2)]);
}

#[test]
fn a_runtime_that_gives_no_reason_gets_kubernetes_words() {
    let nameless = |code| match exited(code) {
        RunState::Exited(exit) => RunState::Exited(Exit { reason: String::new(), ..exit }),
        other => other,
    };
    let report = told(&observed(&[("a", nameless(0)), ("b", nameless(3))]), &Memory::default());
    let reasons: Vec<_> = report.exits.into_iter().map(|e| e.exit.unwrap().reason).collect();
    assert_eq!(reasons, ["Completed", "Error"]);
}

#[test]
fn in_a_new_sandbox_init_containers_are_still_to_come() {
    let mut pod = pod(&["a"]);
    pod.spec.restart_policy = RestartPolicy::Always;
    pod.spec.init_containers.push(container("i"));
    let desired = desired(pod);
    let observed = Observed {
        sandboxes: vec![sandbox(0, false), sandbox(1, true)],
        containers: vec![run("i", 0, 0, exited(0)), run("a", 0, 0, exited(137))],
    };
    let memory = Memory::default();
    let report = report(&desired, &observed, &memory, &plan(&desired, &observed, &memory, at(20)));
    let waiting = proto::ContainerState::ContainerWaiting;
    assert_eq!(state(&report, "i"), Some((waiting, String::new(), Some(0), 0)));
    assert_eq!(state(&report, "a"), Some((proto::ContainerState::ContainerExited, String::new(), Some(137), 0)));
}
