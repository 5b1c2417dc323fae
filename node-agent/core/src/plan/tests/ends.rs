//! How pods end.

use super::*;
use crate::termination::{deadline, grace_left};

fn ending(pod: Pod, deadline: i64, then: AfterStop) -> DesiredPod {
    DesiredPod { stop: Some(Stop { deadline: at(deadline), then }), ..desired(pod) }
}

fn graces(plan: &Plan) -> Vec<(String, u32)> {
    let stops = plan.actions.iter().filter_map(|a| match a {
        Action::StopContainers { stops, .. } => Some(stops),
        _ => None,
    });
    stops.flatten().map(|s| (s.name.clone(), s.grace_seconds)).collect()
}

#[test]
fn a_deleted_pod_stops_its_containers_and_keeps_their_records_until_they_are_acked() {
    let desired = ending(base(Base::A, Always), 50, AfterStop::Remove);
    let mut memory = Memory::default();
    let first = plan(&desired, &observation("sb0 0=run 1=x1 2=run"), &memory, at(20));
    assert_eq!(words(&first), "stop 0+2, end sb0");
    assert_eq!(graces(&first), [("0".into(), 30), ("2".into(), 30)]);

    memory.sandbox_stopped("sb0");
    let dead = observation("sb0! 0=x137 1=x1 2=x0");
    assert_eq!(words(&plan(&desired, &dead, &memory, at(30))), "", "no exit is acked");
    memory.acked_exits.extend(["0-0", "1-0", "2-0"].map(str::to_owned));
    let last = plan(&desired, &dead, &memory, at(30));
    assert_eq!(words(&last), "remove 0-0, remove 1-0, remove 2-0, remove sb0");
    assert!(!last.gone);
    assert!(plan(&desired, &Observed::default(), &memory, at(31)).gone);
}

#[test]
fn a_deleted_pod_starts_nothing_whatever_it_is() {
    for observed in ["", "sb0", "sb0!", "sb0 0=x1", "sb0- 0=made"] {
        let plan = plan(
            &ending(base(Base::A, Always), 50, AfterStop::Remove),
            &observation(observed),
            &Memory::default(),
            at(20),
        );
        let starts =
            plan.actions.iter().any(|a| matches!(a, Action::StartContainer { .. } | Action::RunPodSandbox { .. }));
        assert!(!starts, "{observed}: {}", words(&plan));
    }
}

#[test]
fn sidecars_end_after_the_containers_that_they_serve_and_in_reverse() {
    let desired = ending(base(Base::C, Always), 50, AfterStop::Remove);
    let cases = [
        ("sb0 s0=run s1=run s2=run 0=run 1=run 2=run", 20, "stop 0+1+2"),
        ("sb0 s0=run s1=run s2=run 0=x0 1=run 2=x0", 25, "stop 1"),
        ("sb0 s0=run s1=run s2=run 0=x0 1=x0 2=x0", 32, "stop s2"),
        ("sb0 s0=run s1=run s2=x0 0=x0 1=x0 2=x0", 33, "stop s1"),
        ("sb0 s0=run s1=x0 s2=x0 0=x0 1=x0 2=x0", 34, "stop s0, end sb0"),
        // The time is up: all together.
        ("sb0 s0=run s1=run s2=run 0=x0 1=x0 2=x0", 50, "stop s0+s1+s2, end sb0"),
    ];
    for (observed, now, expected) in cases {
        let plan = plan(&desired, &observation(observed), &Memory::default(), at(now));
        assert_eq!(words(&plan), expected, "{observed}");
        let left = u32::try_from((50 - now).max(2)).unwrap();
        assert!(graces(&plan).iter().all(|(_, grace)| *grace == left), "{now}: {:?}", graces(&plan));
    }
}

#[test]
fn an_init_container_is_not_waited_for() {
    let mut pod = base(Base::D, Always);
    pod.spec.init_containers.insert(0, sidecar("s"));
    let plan = plan(&ending(pod, 50, AfterStop::Remove), &observation("sb0 s=run i0=run"), &Memory::default(), at(20));
    assert_eq!(words(&plan), "stop i0+s, end sb0");
}

#[test]
fn an_evicted_pod_ends_and_keeps_its_records() {
    let desired = ending(base(Base::A, Always), 20, AfterStop::Keep);
    assert_eq!(words(&plan(&desired, &observation("sb0 0=run"), &Memory::default(), at(20))), "stop 0, end sb0");
    let ended = plan(&desired, &observation("sb0! 0=x137"), &Memory::default(), at(22));
    assert_eq!((words(&ended).as_str(), ended.finished), ("end sb0", Some(PodPhase::Failed)));
}

#[test]
fn grace_is_whole_seconds_and_at_least_two() {
    let cases = [(0, 30), (1, 29), (27, 3), (28, 2), (29, 2), (30, 2), (99, 2)];
    for (now, expected) in cases {
        assert_eq!(grace_left(at(30), at(now)), expected, "{now}");
    }
    let preciser = Timestamp::from_unix_ms(at(10).unix_ms + 700);
    assert_eq!(grace_left(at(30), preciser), 19, "10.7 s have gone");
}

#[test]
fn a_later_deletion_only_shortens() {
    let mut pod = pod(&["0"]);
    assert_eq!(deadline(&pod, None, at(0)), at(30), "the default");
    pod.spec.termination_grace_period_seconds = Some(5);
    assert_eq!(deadline(&pod, None, at(0)), at(5));
    pod.metadata.deletion_grace_period_seconds = Some(60);
    assert_eq!(deadline(&pod, None, at(0)), at(60));
    assert_eq!(deadline(&pod, Some(at(20)), at(0)), at(20));
    pod.metadata.deletion_grace_period_seconds = Some(0);
    assert_eq!(deadline(&pod, Some(at(20)), at(10)), at(11), "at least a second");
}

#[test]
fn a_dying_sandbox_leaves_its_sidecars_what_is_left_of_the_grace() {
    let mut memory = Memory::default();
    let desired = desired(base(Base::C, Always));
    let first = plan(&desired, &observation("sb0! s0=run 0=run"), &memory, at(20));
    assert_eq!(words(&first), "announce 1, stop 0");
    memory.announced(1);
    memory.stopping(at(50));
    let second = plan(&desired, &observation("sb0! s0=run 0=x137"), &memory, at(45));
    assert_eq!(words(&second), "stop s0, end sb0, volumes, sandbox 1, s0#1");
    assert_eq!(graces(&second), [("s0".into(), 5)]);
}

#[test]
fn the_end_of_an_earlier_stop_shortens_no_later_one() {
    let mut memory = Memory::default();
    memory.stopping(at(10));
    memory.container_started(&container("0"), None, at(12));
    let plan = plan(&desired(pod(&["0"])), &observation("sb0! 0=run"), &memory, at(20));
    assert_eq!(graces(&plan), [("0".into(), 30)]);
}
