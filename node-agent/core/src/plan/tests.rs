//! The kubelet's own cases, and what follows from them, in a notation of one line a case.
//!
//! An observation is words: `sb0` a ready sandbox of attempt 0, `sb0!` one that died, `sb0-` one without an address;
//! `0=run` a container that runs, `=made` created, `=lost` unknown, `=old` runs with another image, `=x137` exited,
//! `=oom` exited 0 by an out-of-memory kill. A run belongs to the newest sandbox, or `0@1/0=run`: attempt 1, sandbox 0.

use super::*;
use crate::fixtures::*;
use crate::memory::StartFailure;
use podbus_common::model::Pod;
use podbus_common::model::RestartPolicy::{Always, Never, OnFailure};

#[derive(Clone, Copy, Debug)]
enum Base {
    /// Regular 0, 1, 2.
    A,
    /// Init i0, i1, i2 before them.
    B,
    /// Sidecars s0, s1, s2 before them.
    C,
    /// Init i0 before them.
    D,
}

fn base(base: Base, policy: RestartPolicy) -> Pod {
    let mut pod = pod(&["0", "1", "2"]);
    pod.spec.restart_policy = policy;
    pod.spec.init_containers = match base {
        Base::A => vec![],
        Base::B => ["i0", "i1", "i2"].map(container).into(),
        Base::C => ["s0", "s1", "s2"].map(sidecar).into(),
        Base::D => vec![container("i0")],
    };
    pod
}

fn observation(text: &str) -> Observed {
    let mut observed = Observed::default();
    for word in text.split_whitespace() {
        let Some((place, state)) = word.split_once('=') else {
            let attempt = word.trim_start_matches("sb").trim_end_matches(['!', '-']).parse().unwrap();
            let ip = Some(if word.ends_with('-') { String::new() } else { "10.0.0.2".to_owned() });
            observed.sandboxes.push(SandboxObserved { ip, ..sandbox(attempt, !word.ends_with('!')) });
            continue;
        };
        let newest = observed.newest_sandbox().map_or(0, |s| s.attempt);
        let (name, run_of) = place.split_once('@').unwrap_or((place, "0"));
        let (attempt, in_sandbox) = match run_of.split_once('/') {
            Some((attempt, in_sandbox)) => (attempt, in_sandbox.parse().unwrap()),
            None => (run_of, newest),
        };
        let state_of = match state {
            "run" | "old" => running(),
            "made" => RunState::Created,
            "lost" => RunState::Unknown,
            "oom" => match exited(0) {
                RunState::Exited(exit) => RunState::Exited(crate::model::Exit { reason: "OOMKilled".into(), ..exit }),
                other => other,
            },
            code => exited(code.trim_start_matches('x').parse().unwrap()),
        };
        let mut run = run(name, attempt.parse().unwrap(), in_sandbox, state_of);
        if state == "old" {
            run.spec_hash = Some("another".into());
        }
        observed.containers.push(run);
    }
    observed
}

/// The actions in words.
fn words(plan: &Plan) -> String {
    let word = |action: &Action| match action {
        Action::AnnounceSandboxChange { attempt } => format!("announce {attempt}"),
        Action::StopContainers { stops, .. } => {
            format!("stop {}", stops.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join("+"))
        }
        Action::StopPodSandbox { id } => format!("end {id}"),
        Action::PrepareVolumes => "volumes".to_owned(),
        Action::RunPodSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StartContainer { name, attempt, .. } => format!("{name}#{attempt}"),
        Action::RemoveContainer { id, .. } => format!("remove {id}"),
        Action::RemovePodSandbox { id } => format!("remove {id}"),
    };
    plan.actions.iter().map(word).collect::<Vec<_>>().join(", ")
}

fn check(pod: Pod, observed: &str, expected: &str, remark: &str) -> Plan {
    let plan = plan(&desired(pod), &observation(observed), &Memory::default(), at(20));
    assert_eq!(words(&plan), expected, "{remark}: {observed}");
    plan
}

#[test]
fn the_kubelets_cases() {
    use Base::{A, B, C, D};
    let all = [Always, OnFailure, Never];
    let cases: &[(u32, &[RestartPolicy], Base, &str, &str)] = &[
        (1, &all, A, "sb0 0=run 1=run 2=run", ""),
        (2, &all, A, "", "volumes, sandbox 0, 0#0, 1#0, 2#0"),
        (3, &[Always], A, "sb0 0=x0 1=x111 2=run", "volumes, 0#1, 1#1"),
        (4, &[OnFailure], A, "sb0 0=x0 1=x111 2=run", "volumes, 1#1"),
        (5, &[OnFailure], A, "sb0 0=x0 1=made 2=run", "remove 1-0, volumes, 1#0"),
        (6, &[Never], A, "sb0 0=x0 1=x111 2=run", ""),
        (7, &[Never], A, "sb0 0=run 1=lost 2=run", "stop 1, volumes, 1#1"),
        (8, &[Never], A, "sb0 0=x0 1=x1 2=x2", "end sb0"),
        (10, &[Always, Never], A, "sb0 0=run 1=old 2=run", "stop 1, volumes, 1#1"),
        (
            16,
            &[Always],
            A,
            "sb0! 0=run 1=run 2=run",
            "announce 1, stop 0+1+2, end sb0, volumes, sandbox 1, 0#1, 1#1, 2#1",
        ),
        (
            17,
            &[Always],
            A,
            "sb0- 0=run 1=run 2=run",
            "announce 1, stop 0+1+2, end sb0, volumes, sandbox 1, 0#1, 1#1, 2#1",
        ),
        (
            18,
            &[Always],
            A,
            "sb0 sb1 0=run 1=run 2=run",
            "announce 2, stop 0+1+2, end sb0, end sb1, volumes, sandbox 2, 0#1, 1#1, 2#1",
        ),
        (20, &[OnFailure], A, "sb0! 0=run 1=x0 2=run", "announce 1, stop 0+2, end sb0, volumes, sandbox 1, 0#1, 2#1"),
        (21, &[Never], A, "sb1! 0=x0 1=x0 2=x0", "end sb1"),
        (22, &[Never], A, "sb0! 0=run 1=run 2=run", "stop 0+1+2, end sb0"),
        (23, &[Never], A, "sb2!", "announce 3, end sb2, volumes, sandbox 3, 0#0, 1#0, 2#0"),
        (32, &all, B, "sb0 i0=x0 i1=x0 i2=x0", "volumes, 0#0, 1#0, 2#0"),
        (33, &all, B, "sb0 i0=x0", "volumes, i1#0"),
        (34, &[Always], B, "sb0 i0=x0 i1=x0 i2=run", ""),
        (34, &[Always], B, "sb0 i2=run", ""),
        (35, &[Always], B, "sb0 i0=x0 i1=x0 i2=x137", "volumes, i2#1"),
        (36, &[Never], B, "sb0 i0=x0 i1=x0 i2=x137", "end sb0"),
        (37, &[Always, OnFailure], B, "sb0 i0=x0 i1=x0 i2=oom", "volumes, i2#1"),
        (37, &[Never], B, "sb0 i0=x0 i1=x0 i2=oom", "end sb0"),
        (38, &[Always], B, "sb0 i0=x0 i1=x0 i2=lost", "stop i2, volumes, i2#1"),
        (39, &[Never], B, "sb0 i0=x0 i1=x0 i2=lost", "stop i2, end sb0"),
        (42, &[Always], B, "sb0! i0=x0 i1=x0 i2=x0", "announce 1, end sb0, volumes, sandbox 1, i0#1"),
        (43, &[Never], B, "sb0! i0=x0 i1=x0 i2=x0", "end sb0"),
        (44, &[Never], B, "sb0!", "announce 1, end sb0, volumes, sandbox 1, i0#0"),
        (45, &[Always], B, "sb0 0=run 1=run 2=run", ""),
        (46, &all, C, "sb0 s0=run s1=run s2=run", "volumes, 0#0, 1#0, 2#0"),
        (47, &[Always], C, "sb0 s0=run", "volumes, s1#0"),
        (49, &[Always], C, "sb0 s0=run s1=run", "volumes, s2#0"),
        (52, &[Always], C, "sb0 s0=run s1=run s2=old", "stop s2, volumes, s2#1, 0#0, 1#0, 2#0"),
        (53, &[Always], C, "sb0 s0=x1 s1=run s2=run", "volumes, s0#1, 0#0, 1#0, 2#0"),
        (54, &[Always], C, "sb0 s0=x1 s1=run s2=x1", "volumes, s0#1, s2#1"),
        (55, &[Always], C, "sb0 s2=run", "volumes, s0#0, s1#0, 0#0, 1#0, 2#0"),
        (56, &[Never], C, "sb0 s0=run s1=run s2=x137", "volumes, s2#1"),
        (57, &[Never], C, "sb0 s0=run s1=run s2=lost", "stop s2, volumes, s2#1"),
        (58, &[Never], C, "sb0 s0=run s1=run s2=run 0=x0 1=x0 2=x0", "stop s2"),
        (59, &[Always], C, "sb0! s0=x137 s1=x137 s2=x137", "announce 1, end sb0, volumes, sandbox 1, s0#1"),
        (60, &[Never], C, "sb0! s0=x137 s1=x137 s2=x137", "end sb0"),
        (61, &all, D, "sb0 i0=x0 0=run 1=run 2=run", ""),
        (66, &[Always], D, "sb0! i0=x0 0=run 1=run 2=run", "announce 1, stop 0+1+2, end sb0, volumes, sandbox 1, i0#1"),
    ];
    for (number, policies, shape, observed, expected) in cases {
        for policy in *policies {
            check(base(*shape, *policy), observed, expected, &format!("case {number}, {policy:?}"));
        }
    }
}

#[test]
fn a_pod_that_ended_says_how() {
    let cases = [
        (Base::A, Never, "sb0 0=x0 1=x0 2=x0", PodPhase::Succeeded),
        (Base::A, Never, "sb0 0=x0 1=x1 2=x0", PodPhase::Failed),
        (Base::A, OnFailure, "sb0 0=x0 1=x0 2=x0", PodPhase::Succeeded),
        (Base::A, OnFailure, "sb0! 0=x0 1=x0 2=x0", PodPhase::Succeeded),
        (Base::B, Never, "sb0 i0=x1", PodPhase::Failed),
        // Sidecars restart whatever the policy, but not in a pod whose regular containers have ended for good.
        (Base::C, Never, "sb0 s0=x1 s1=x1 s2=x1 0=x0 1=x0 2=x0", PodPhase::Succeeded),
    ];
    for (shape, policy, observed, expected) in cases {
        let plan = plan(&desired(base(shape, policy)), &observation(observed), &Memory::default(), at(20));
        assert_eq!(plan.finished, Some(expected), "{policy:?} {observed}");
    }
}

#[test]
fn a_new_sandbox_begins_with_the_first_init_container_and_counts_on() {
    let runs = "sb0! sb1 i0@0/0=x0 i1@0/0=x0 i2@0/0=x0 0@3/0=x137";
    check(base(Base::B, Always), runs, "end sb0, volumes, i0#1", "ends in the old sandbox are history");
}

#[test]
fn what_lives_outside_the_sandbox_is_stopped_first() {
    check(base(Base::A, Always), "sb0! sb1 0@0/0=run 1=run", "stop 0", "a stray");
}

#[test]
fn of_two_runs_of_a_container_that_live_at_once_the_older_is_stopped() {
    check(base(Base::A, Always), "sb0 0@0=run 0@1=run 1=run 2=run", "stop 0", "started late for an agent that died");
}

#[test]
fn a_failed_setup_waits_for_its_time() {
    let mut memory = Memory::default();
    memory.sandbox_failed(at(15));
    let desired = desired(base(Base::A, Always));
    let waits = plan(&desired, &Observed::default(), &memory, at(20));
    assert_eq!((words(&waits).as_str(), waits.wake_at), ("", Some(at(25))));
    let goes = plan(&desired, &Observed::default(), &memory, at(25));
    assert_eq!(words(&goes), "volumes, sandbox 0, 0#0, 1#0, 2#0");

    let mut memory = Memory::default();
    let retries: Vec<_> = (0..10)
        .map(|_| {
            memory.volumes_failed(at(0));
            memory.setup_retry_at.map_or(0, |retry| retry.unix_ms - at(0).unix_ms)
        })
        .collect();
    assert_eq!(retries, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]);
}

#[test]
fn a_failed_start_shows_its_reason_until_it_is_tried_again() {
    let mut memory = Memory::default();
    memory.start_failed("1", StartFailure::new("CreateContainerError", "no"), at(15));
    let desired = desired(base(Base::A, Always));
    let observed = observation("sb0 0=run 2=run");
    let waits = plan(&desired, &observed, &memory, at(20));
    assert_eq!((words(&waits).as_str(), waits.wake_at), ("", Some(at(25))));
    let waiting = &waits.waiting["1"];
    assert_eq!((waiting.reason.as_str(), waiting.message.as_str()), ("CreateContainerError", "no"));
    assert_eq!(words(&plan(&desired, &observed, &memory, at(25))), "volumes, 1#0");
}

#[test]
fn a_crash_loop_waits_ten_seconds_and_twice_as_long_each_time() {
    let container = container("0");
    let mut one = pod(&["0"]);
    one.spec.restart_policy = Always;
    let desired = desired(one);
    let mut memory = Memory::default();
    let mut exit = 10;
    let mut delays = Vec::new();
    for attempt in 0..8 {
        let mut observed = observation("sb0");
        observed.containers.push(run("0", attempt, 0, exited_at(1, exit)));
        let first = plan(&desired, &observed, &memory, at(exit));
        let start = match first.wake_at {
            None => at(exit),
            Some(until) => {
                let window = window_text(until.seconds_since(at(exit)));
                let waiting = &first.waiting["0"];
                assert_eq!(waiting.reason, "CrashLoopBackOff");
                let expected = format!("back-off {window} restarting failed container=0 pod=web_default(u-1)");
                assert_eq!(waiting.message, expected);
                let event = "Back-off restarting failed container 0 in pod web_default(u-1)";
                assert_eq!(waiting.backoff_event.as_deref(), Some(event));
                assert_eq!(words(&first), "");
                until
            }
        };
        let second = plan(&desired, &observed, &memory, start);
        assert_eq!(words(&second), format!("volumes, 0#{}", attempt + 1));
        memory.container_started(&container, Some(at(exit)), start);
        delays.push(start.seconds_since(at(exit)));
        exit = start.seconds_since(at(0)) + 1;
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn a_new_image_starts_without_delay() {
    let mut memory = Memory::default();
    for _ in 0..3 {
        memory.container_started(&container("0"), Some(at(9)), at(9));
    }
    let observed = observation("sb0 0=x1");
    let mut pod = pod(&["0"]);
    assert_eq!(words(&plan(&desired(pod.clone()), &observed, &memory, at(20))), "");
    pod.spec.containers[0].image = "busybox:2".into();
    assert_eq!(words(&plan(&desired(pod), &observed, &memory, at(20))), "volumes, 0#1");
}

#[test]
fn records_go_once_they_are_acked_and_superseded() {
    let desired = desired(pod(&["0"]));
    let in_one_sandbox = observation("sb0 0@0=x1 0@1=x1 0@2=run");
    let mut memory = Memory::default();
    assert_eq!(words(&plan(&desired, &in_one_sandbox, &memory, at(20))), "");
    memory.acked_exits.extend(["0-0".to_owned(), "0-1".to_owned()]);
    assert_eq!(words(&plan(&desired, &in_one_sandbox, &memory, at(20))), "remove 0-0");

    memory.sandbox_stopped("sb0");
    let in_two = observation("sb0! sb1 0@0/0=x1 0@1/0=x1 0@2=run");
    assert_eq!(words(&plan(&desired, &in_two, &memory, at(20))), "remove 0-0, remove 0-1, remove sb0");
    let not_yet_again = observation("sb0! sb1 0@1/0=x1 0@2=made");
    assert!(words(&plan(&desired, &not_yet_again, &memory, at(20))).starts_with("remove 0-2, volumes, 0#2"));
}

#[test]
fn an_attempt_number_is_never_below_what_the_disk_remembers() {
    let mut memory = Memory::default();
    memory.attempts_min.insert("0".into(), 4);
    assert_eq!(words(&plan(&desired(pod(&["0"])), &observation("sb1"), &memory, at(20))), "volumes, 0#4");
}

mod ends;
mod world;
