mod preemption;
mod rules;

use std::collections::BTreeMap;

use podbus_common::model::{Taint, TaintEffect, Toleration, TolerationOperator};
use proptest::prelude::*;

use super::*;
use crate::pod::{Placement, Shape};

/// What follows when nobody can be pushed out.
const NO_VICTIMS: &str = "No preemption victims found for incoming pod.";

fn resources(cpu_millis: u64, memory_bytes: u64) -> Resources {
    Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes: 0, pods: 1 }
}

fn node(name: &str, cpu_millis: u64, memory_bytes: u64) -> Node {
    let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
    let allocatable = Resources { pods: 110, ..resources(cpu_millis, memory_bytes) };
    Node { name: name.to_owned(), labels, allocatable, ..Node::default() }
}

fn pod(uid: &str, cpu_millis: u64, memory_bytes: u64) -> PendingPod {
    let shape = Shape { requests: resources(cpu_millis, memory_bytes), ..Shape::default() };
    PendingPod { uid: uid.to_owned(), spec: PodSpec { namespace: "default".into(), shape, ..PodSpec::default() } }
}

/// A pod that goes only where `placement` says.
fn placed(placement: Placement) -> PendingPod {
    let mut pod = pod("p", 1, 1);
    pod.spec.placement = placement;
    pod
}

fn taint(key: &str, value: &str, effect: TaintEffect) -> Taint {
    Taint { key: key.to_owned(), value: value.to_owned(), effect, time_added: None }
}

fn scheduler(nodes: impl IntoIterator<Item = Node>) -> Scheduler {
    let mut scheduler = Scheduler::default();
    nodes.into_iter().for_each(|node| scheduler.upsert_node(node));
    scheduler
}

/// Where a pod goes, or why not.
#[expect(clippy::needless_pass_by_value, reason = "so that callers write pod(...)")]
fn place(scheduler: &mut Scheduler, pod: PendingPod) -> String {
    scheduler.enqueue(&pod);
    match scheduler.schedule(1, 0).remove(0) {
        Decision::Bind { node, .. } => node,
        Decision::Unschedulable { message, .. } => message,
        Decision::Preempt { node, victims, .. } => format!("{node} after {victims:?}"),
    }
}

#[test]
fn each_filter_refuses_in_kube_schedulers_words() {
    let gpu = || vec![taint("gpu", "true", TaintEffect::NoSchedule)];
    let cases: [(Node, PendingPod, &str); 7] = [
        (node("a", 100, 1), pod("p", 200, 1), "1 Insufficient cpu"),
        (node("a", 100, 1), pod("p", 200, 2), "1 Insufficient cpu, 1 Insufficient memory"),
        (
            Node { allocatable: Resources { pods: 0, ..resources(100, 100) }, ..node("a", 0, 0) },
            pod("p", 1, 1),
            "1 Too many pods",
        ),
        (
            node("a", 100, 100),
            placed(Placement { node_name: Some("b".into()), ..Placement::default() }),
            "1 node(s) didn't match the requested node name",
        ),
        (
            node("a", 100, 100),
            placed(Placement { node_selector: [("disk".to_owned(), "ssd".to_owned())].into(), ..Placement::default() }),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (Node { taints: gpu(), ..node("a", 100, 100) }, pod("p", 1, 1), "1 node(s) had untolerated taint {gpu: true}"),
        (Node { unschedulable: true, ..node("a", 100, 100) }, pod("p", 1, 1), "1 node(s) were unschedulable"),
    ];
    for (node, pod, reasons) in cases {
        let said = place(&mut scheduler([node]), pod);
        assert!(said.starts_with(&format!("0/1 nodes are available: {reasons}. preemption: 0/1 nodes are")), "{said}");
    }
}

#[test]
fn reasons_are_counted_over_all_nodes() {
    let tainted = |name| Node { taints: vec![taint("gpu", "true", TaintEffect::NoSchedule)], ..node(name, 1000, 1000) };
    let nodes = [node("a", 1000, 1), node("b", 1000, 1), tainted("c"), tainted("d"), tainted("e")];
    let message = place(&mut scheduler(nodes), pod("p", 1, 2));
    assert_eq!(
        message,
        "0/5 nodes are available: 2 Insufficient memory, 3 node(s) had untolerated taint {gpu: true}. preemption: 0/5 \
         nodes are available: 2 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(place(&mut scheduler([]), pod("p", 1, 1)), "no nodes available to schedule pods");
}

#[test]
fn a_toleration_matches_as_kubernetes_says() {
    let bears = |key: &str, operator, value: &str, effect: &str| Toleration {
        key: key.into(),
        operator,
        value: value.into(),
        effect: effect.into(),
        toleration_seconds: None,
    };
    let (exists, equal) = (Some(TolerationOperator::Exists), Some(TolerationOperator::Equal));
    let cases = [
        (bears("gpu", equal, "true", "NoSchedule"), true),
        (bears("gpu", None, "true", ""), true),
        (bears("gpu", equal, "false", ""), false),
        (bears("gpu", exists, "", ""), true),
        (bears("", exists, "", ""), true),
        (bears("", exists, "", "NoExecute"), false),
        (bears("disk", exists, "", ""), false),
    ];
    for (toleration, expected) in cases {
        let tolerations = [toleration];
        let borne = crate::tolerates(&tolerations, "gpu", "true", TaintEffect::NoSchedule);
        assert_eq!(borne, expected, "{tolerations:?}");
    }
}

#[test]
fn pods_spread_over_the_least_allocated_nodes() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30), node("b", 1000, 1 << 30), node("c", 1000, 1 << 30)]);
    let mut placed: Vec<_> = (0..3).map(|n| place(&mut scheduler, pod(&n.to_string(), 0, 0))).collect();
    placed.sort();
    assert_eq!(placed, ["a", "b", "c"]);
}

#[test]
fn a_node_that_prefers_no_pods_comes_last_but_is_used() {
    let reluctant = Node { taints: vec![taint("old", "", TaintEffect::PreferNoSchedule)], ..node("a", 1000, 1 << 30) };
    let mut scheduler = scheduler([reluctant, node("b", 100, 1 << 30)]);
    assert_eq!(place(&mut scheduler, pod("1", 100, 0)), "b");
    assert_eq!(place(&mut scheduler, pod("2", 100, 0)), "a");
}

#[test]
fn a_pod_that_fits_nowhere_is_tried_again_when_another_leaves_and_only_then() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30)]);
    assert_eq!(place(&mut scheduler, pod("first", 700, 0)), "a");
    let short =
        format!("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 {NO_VICTIMS}");
    assert_eq!(place(&mut scheduler, pod("second", 700, 0)), short);
    assert_eq!(scheduler.schedule(10, 0), []);
    scheduler.upsert_node(node("a", 1000, 1 << 30));
    assert_eq!(scheduler.schedule(10, 0), [], "a node that did not change wakes nobody");
    scheduler.release("first");
    assert_eq!(scheduler.schedule(10, 0), [Decision::Bind { uid: "second".into(), node: "a".into() }]);
}

#[test]
fn pods_of_a_node_that_is_away_stay_counted() {
    let mut scheduler = scheduler([]);
    scheduler.assume("old", "a", &pod("old", 700, 0).spec);
    scheduler.upsert_node(node("a", 1000, 1 << 30));
    assert!(place(&mut scheduler, pod("new", 700, 0)).starts_with("0/1 nodes are available: 1 Insufficient cpu."));
    scheduler.remove_node("a");
    scheduler.upsert_node(node("a", 2000, 1 << 30));
    assert_eq!(scheduler.schedule(10, 0), [Decision::Bind { uid: "new".into(), node: "a".into() }]);
}

/// What may happen to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Node { name: u8, cpu_millis: u64, memory_bytes: u64, pods: u64 },
    RemoveNode(u8),
    Enqueue { uid: u8, cpu_millis: u64, memory_bytes: u64 },
    Release(u8),
    Dequeue(u8),
    Schedule(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8, 0..2000u64, 0..2000u64, 0..5u64).prop_map(|(name, cpu_millis, memory_bytes, pods)| Step::Node {
            name,
            cpu_millis,
            memory_bytes,
            pods
        }),
        (0..4u8).prop_map(Step::RemoveNode),
        (0..20u8, 0..900u64, 0..900u64).prop_map(|(uid, cpu_millis, memory_bytes)| Step::Enqueue {
            uid,
            cpu_millis,
            memory_bytes
        }),
        (0..20u8).prop_map(Step::Release),
        (0..20u8).prop_map(Step::Dequeue),
        (1..10usize).prop_map(Step::Schedule),
    ]
}

proptest! {
    /// Invariants 1 and 8: a bound pod is never bound again, and no placement over-commits the node it chose.
    #[test]
    fn no_placement_over_commits_a_node_or_moves_a_pod(steps in prop::collection::vec(step(), 1..80)) {
        let mut scheduler = Scheduler::default();
        let mut model: BTreeMap<String, (String, Resources)> = BTreeMap::new();
        let mut allocatable: BTreeMap<String, Resources> = BTreeMap::new();
        let mut requests: BTreeMap<String, Resources> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Node { name, cpu_millis, memory_bytes, pods } => {
                    let mut node = node(&name.to_string(), cpu_millis, memory_bytes);
                    node.allocatable.pods = pods;
                    allocatable.insert(node.name.clone(), node.allocatable);
                    scheduler.upsert_node(node);
                }
                Step::RemoveNode(name) => {
                    allocatable.remove(&name.to_string());
                    scheduler.remove_node(&name.to_string());
                }
                Step::Enqueue { uid, cpu_millis, memory_bytes } => {
                    let pod = pod(&uid.to_string(), cpu_millis, memory_bytes);
                    if !model.contains_key(&pod.uid) {
                        requests.insert(pod.uid.clone(), pod.spec.shape.requests);
                    }
                    scheduler.enqueue(&pod);
                }
                Step::Release(uid) => {
                    model.remove(&uid.to_string());
                    scheduler.release(&uid.to_string());
                }
                Step::Dequeue(uid) => scheduler.dequeue(&uid.to_string()),
                Step::Schedule(pods_max) => {
                    for decision in scheduler.schedule(pods_max, 0) {
                        let Decision::Bind { uid, node } = decision else { continue };
                        let asked = requests[&uid];
                        prop_assert!(model.insert(uid, (node.clone(), asked)).is_none(), "bound twice");
                        let all = allocatable[&node];
                        let used = sum_on(&node, &model);
                        prop_assert!(used.pods <= all.pods);
                        prop_assert!(asked.cpu_millis == 0 || used.cpu_millis <= all.cpu_millis);
                        prop_assert!(asked.memory_bytes == 0 || used.memory_bytes <= all.memory_bytes);
                    }
                    for node in allocatable.keys() {
                        prop_assert_eq!(scheduler.used(node), sum_on(node, &model));
                    }
                }
            }
        }
    }
}

fn sum_on(node: &str, model: &BTreeMap<String, (String, Resources)>) -> Resources {
    model.values().filter(|(on, _)| on == node).fold(Resources::default(), |sum, (_, requests)| sum + *requests)
}
