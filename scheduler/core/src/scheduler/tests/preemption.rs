//! Pods that push others out.

use super::*;

fn of_priority(uid: &str, cpu_millis: u64, priority: i32) -> PendingPod {
    let mut pod = pod(uid, cpu_millis, 0);
    pod.spec.priority = priority;
    pod
}

/// Pods of a node: UID, CPU, priority.
type Bound<'a> = &'a [(&'a str, u64, i32)];

/// A node of one CPU, full of pods.
fn full(node_name: &str, pods: Bound<'_>, scheduler: &mut Scheduler) {
    scheduler.upsert_node(node(node_name, 1000, 1 << 30));
    for (uid, cpu_millis, priority) in pods {
        scheduler.assume(uid, node_name, &of_priority(uid, *cpu_millis, *priority).spec);
    }
}

#[test]
fn victims_are_as_few_and_as_unimportant_as_can_be() {
    let cases: [(&str, Bound<'_>, Bound<'_>, u64, &str); 6] = [
        ("the lowest priority goes first", &[("a", 500, 5), ("b", 500, 1)], &[], 500, "x after [\"b\"]"),
        ("of equals the last goes", &[("a", 500, 1), ("b", 500, 1)], &[], 500, "x after [\"b\"]"),
        ("only those that must", &[("a", 200, 1), ("b", 300, 1), ("c", 500, 1)], &[], 450, "x after [\"c\"]"),
        ("rather a lower priority elsewhere", &[("a", 1000, 5)], &[("b", 1000, 2)], 600, "y after [\"b\"]"),
        ("rather fewer elsewhere", &[("a", 500, 1), ("b", 500, 1)], &[("c", 1000, 1)], 900, "y after [\"c\"]"),
        ("rather the younger elsewhere", &[("a", 1000, 1)], &[("b", 1000, 1)], 900, "y after [\"b\"]"),
    ];
    for (why, on_x, on_y, cpu_millis, expected) in cases {
        let mut scheduler = Scheduler::default();
        full("x", on_x, &mut scheduler);
        if !on_y.is_empty() {
            full("y", on_y, &mut scheduler);
        }
        assert_eq!(place(&mut scheduler, of_priority("p", cpu_millis, 9)), expected, "{why}");
    }
}

#[test]
fn a_pod_that_pushed_others_out_takes_their_place_when_they_are_gone() {
    let mut scheduler = Scheduler::default();
    full("x", &[("a", 1000, 0)], &mut scheduler);
    assert_eq!(place(&mut scheduler, of_priority("p", 800, 9)), "x after [\"a\"]");
    scheduler.set_terminating("a");
    scheduler.upsert_node(Node { labels: BTreeMap::new(), ..node("x", 1000, 1 << 30) });
    assert_eq!(scheduler.schedule(10, 0), [], "its victim ends: nobody else is pushed out");
    scheduler.release("a");
    assert_eq!(scheduler.schedule(10, 0), [Decision::Bind { uid: "p".into(), node: "x".into() }]);
}

#[test]
fn a_place_that_was_made_for_one_is_not_taken_by_a_lesser_one() {
    let mut scheduler = Scheduler::default();
    full("x", &[("a", 1000, 0)], &mut scheduler);
    assert_eq!(place(&mut scheduler, of_priority("p", 800, 9)), "x after [\"a\"]");
    assert!(place(&mut scheduler, of_priority("lesser", 300, 0)).starts_with("0/1 nodes are available"));
    scheduler.release("a");
    assert_eq!(scheduler.schedule(10, 0), [Decision::Bind { uid: "p".into(), node: "x".into() }]);
    assert_eq!(place(&mut scheduler, of_priority("small", 200, 0)), "x", "what is left is anybody's");
}

#[test]
fn a_greater_one_takes_the_place_and_the_lesser_looks_for_another() {
    let mut scheduler = Scheduler::default();
    full("x", &[("a", 1000, 0)], &mut scheduler);
    assert_eq!(place(&mut scheduler, of_priority("p", 800, 5)), "x after [\"a\"]");
    assert_eq!(place(&mut scheduler, of_priority("q", 800, 9)), "x after [\"a\"]");
    scheduler.schedule(10, 0);
    scheduler.release("a");
    assert_eq!(scheduler.schedule(10, 0)[0], Decision::Bind { uid: "q".into(), node: "x".into() });
}

#[test]
fn who_must_not_or_cannot_preempt_says_so() {
    let mut scheduler = Scheduler::default();
    full("x", &[("a", 1000, 5)], &mut scheduler);
    let mut never = of_priority("never", 500, 9);
    never.spec.never_preempts = true;
    let short = "0/1 nodes are available: 1 Insufficient cpu. preemption: ";
    assert_eq!(place(&mut scheduler, never), format!("{short}not eligible due to preemptionPolicy=Never."));
    let equal = place(&mut scheduler, of_priority("equal", 500, 5));
    assert_eq!(equal, format!("{short}0/1 nodes are available: 1 {NO_VICTIMS}"));
    let large = place(&mut scheduler, of_priority("large", 1500, 9));
    assert_eq!(large, format!("{short}0/1 nodes are available: 1 {NO_VICTIMS}"));
}

#[test]
fn higher_priority_is_tried_first() {
    let mut scheduler = Scheduler::default();
    scheduler.enqueue(&of_priority("low", 600, 0));
    scheduler.enqueue(&of_priority("high", 600, 1));
    scheduler.schedule(10, 0);
    scheduler.upsert_node(node("x", 1000, 1 << 30));
    assert_eq!(scheduler.schedule(1, 10_000), [Decision::Bind { uid: "high".into(), node: "x".into() }]);
}

#[derive(Debug, Clone)]
enum Act {
    Come { cpu_millis: u64, priority: i32, group: Option<u32> },
    Leave(usize),
    Grow(u8, u64),
    Decide(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (1..900_u64, 0..4_i32, prop::option::weighted(0.3, 0..3_u32))
            .prop_map(|(cpu_millis, priority, group)| Act::Come { cpu_millis, priority, group }),
        2 => (0..30_usize).prop_map(Act::Leave),
        1 => (0..3_u8, 500..2000_u64).prop_map(|(node, cpu_millis)| Act::Grow(node, cpu_millis)),
        3 => (1..10_usize).prop_map(Act::Decide),
    ]
}

proptest! {
    /// With priorities and groups too: no node is over-committed by a placement, a pod is bound once, victims are
    /// lesser, and a group is placed all or none.
    #[test]
    fn preemption_and_groups_keep_the_promises(acts in prop::collection::vec(act(), 1..80)) {
        let (mut scheduler, mut count, mut now) = (Scheduler::default(), 0, 0);
        let mut specs: BTreeMap<String, PodSpec> = BTreeMap::new();
        let mut bound: BTreeMap<String, String> = BTreeMap::new();
        let mut allocatable: BTreeMap<String, u64> = BTreeMap::new();
        for act in acts {
            now += 700;
            match act {
                Act::Come { cpu_millis, priority, group } => {
                    count += 1;
                    let mut pod = of_priority(&format!("p{count}"), cpu_millis, priority);
                    pod.spec.group = group.map(|n| crate::PodGroup { name: format!("g{n}"), min_member: 3 });
                    specs.insert(pod.uid.clone(), pod.spec.clone());
                    scheduler.enqueue(&pod);
                }
                Act::Leave(index) => {
                    if let Some(uid) = specs.keys().nth(index % specs.len().max(1)).cloned() {
                        specs.remove(&uid);
                        if bound.remove(&uid).is_some() { scheduler.release(&uid) } else { scheduler.dequeue(&uid) }
                    }
                }
                Act::Grow(name, cpu_millis) => {
                    allocatable.insert(format!("n{name}"), cpu_millis);
                    scheduler.upsert_node(node(&format!("n{name}"), cpu_millis, 1 << 30));
                }
                Act::Decide(most) => {
                    let members = |bound: &BTreeMap<String, String>, group: &crate::PodGroup| {
                        bound.keys().filter(|uid| specs.get(*uid).is_some_and(|s| s.group.as_ref() == Some(group))).count()
                    };
                    let mut leaving = Vec::new();
                    let mut joined = Vec::new();
                    for decision in scheduler.schedule(most, now) {
                        match decision {
                            Decision::Bind { uid, node } => {
                                prop_assert!(bound.insert(uid.clone(), node.clone()).is_none(), "bound twice");
                                let on = bound.iter().filter(|(_, on)| **on == node);
                                let used: u64 = on.map(|(uid, _)| specs[uid].shape.requests.cpu_millis).sum();
                                prop_assert!(used <= allocatable[&node], "{node} is over-committed");
                                joined.extend(specs[&uid].group.clone());
                            }
                            Decision::Preempt { uid, node, victims, .. } => {
                                for victim in &victims {
                                    prop_assert!(specs[victim].priority < specs[&uid].priority);
                                    prop_assert_eq!(&bound[victim], &node);
                                }
                                leaving.extend(victims);
                            }
                            Decision::Unschedulable { uid, .. } => prop_assert!(!bound.contains_key(&uid)),
                        }
                    }
                    for group in joined {
                        prop_assert!(members(&bound, &group) >= 3, "a part of a group was placed");
                    }
                    for victim in leaving {
                        bound.remove(&victim);
                        specs.remove(&victim);
                        scheduler.release(&victim);
                    }
                }
            }
        }
    }
}
