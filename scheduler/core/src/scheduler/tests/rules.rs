//! Groups, ports, profiles, and who is tried again when.

use podbus_common::model::{LabelSelector, PodAffinityTerm, TopologySpreadConstraint};

use super::*;
use crate::config::{Config, Profile, Strategy};
use crate::pod::{HostPort, PodGroup};

fn selecting(app: &str) -> Option<LabelSelector> {
    Some(LabelSelector { match_labels: [("app".to_owned(), app.to_owned())].into(), match_expressions: vec![] })
}

fn of_app(uid: &str, app: &str) -> PendingPod {
    let mut pod = pod(uid, 100, 0);
    pod.spec.labels = [("app".to_owned(), app.to_owned())].into();
    pod
}

fn beside(app: &str) -> PodAffinityTerm {
    let topology_key = "kubernetes.io/hostname".to_owned();
    PodAffinityTerm { label_selector: selecting(app), topology_key, ..PodAffinityTerm::default() }
}

fn member(uid: &str, cpu_millis: u64) -> PendingPod {
    let mut pod = pod(uid, cpu_millis, 0);
    pod.spec.group = Some(PodGroup { name: "train".into(), min_member: 3 });
    pod
}

/// UIDs of the pods that were placed, and what was said to the others.
fn decide(scheduler: &mut Scheduler) -> (Vec<String>, Vec<String>) {
    let (mut placed, mut said) = (Vec::new(), Vec::new());
    for decision in scheduler.schedule(100, 0) {
        match decision {
            Decision::Bind { uid, .. } => placed.push(uid),
            Decision::Unschedulable { message, .. } | Decision::Preempt { message, .. } => said.push(message),
        }
    }
    (placed, said)
}

#[test]
fn a_group_waits_for_its_pods_and_for_room_for_enough_of_them() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30), node("b", 1000, 1 << 30)]);
    scheduler.enqueue(&member("1", 700));
    scheduler.enqueue(&member("2", 700));
    let (placed, said) = decide(&mut scheduler);
    assert!(placed.is_empty());
    assert_eq!(said[0], "pod group default/train has 2 of the 3 pods that are placed together");
    scheduler.enqueue(&member("3", 700));
    let (placed, said) = decide(&mut scheduler);
    assert!(placed.is_empty());
    let short =
        "only 2 of the 3 pods of pod group default/train have a place: 0/2 nodes are available: 2 Insufficient cpu.";
    assert_eq!(said, [short; 3]);
    assert_eq!(scheduler.used("a"), Resources::default(), "nothing is kept of the attempt");
    scheduler.upsert_node(node("c", 1000, 1 << 30));
    assert_eq!(decide(&mut scheduler).0, ["1", "2", "3"]);
    scheduler.upsert_node(node("d", 1000, 1 << 30));
    scheduler.enqueue(&member("4", 700));
    assert_eq!(decide(&mut scheduler).0, ["4"], "a group that is placed may grow");
}

#[test]
fn a_port_of_a_node_is_given_once() {
    let with_port = |uid: &str, ip: &str| {
        let mut pod = pod(uid, 1, 0);
        pod.spec.shape.ports = [HostPort { protocol: "TCP".into(), ip: ip.into(), port: 80 }].into();
        pod
    };
    let mut scheduler = scheduler([node("a", 1000, 1 << 30)]);
    assert_eq!(place(&mut scheduler, with_port("1", "10.0.0.1")), "a");
    assert_eq!(place(&mut scheduler, with_port("2", "10.0.0.2")), "a");
    let refused = place(&mut scheduler, with_port("3", ""));
    assert!(refused.starts_with("0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod"));
    scheduler.release("1");
    scheduler.release("2");
    assert_eq!(decide(&mut scheduler).0, ["3"]);
}

#[test]
fn a_profile_packs_and_another_schedulers_pods_are_left_alone() {
    let packing = Profile { scheduler_name: "packer".into(), strategy: Strategy::MostAllocated, ..Profile::default() };
    let config = Config { profiles: vec![Profile::default(), packing], ..Config::default() };
    let mut scheduler = Scheduler::new(config);
    scheduler.upsert_node(node("a", 1000, 1 << 30));
    scheduler.upsert_node(node("b", 1000, 1 << 30));
    scheduler.assume("old", "b", &pod("old", 500, 512 << 20).spec);
    let by = |uid: &str, name: &str| {
        let mut pod = pod(uid, 100, 100 << 20);
        pod.spec.scheduler_name = name.into();
        pod
    };
    assert_eq!(place(&mut scheduler, by("1", "packer")), "b");
    assert_eq!(place(&mut scheduler, by("2", "default-scheduler")), "a");
    scheduler.enqueue(&by("3", "somebody-else"));
    assert_eq!((scheduler.active_len(), scheduler.queue_lengths()), (0, QueueLengths::default()));
}

#[test]
fn an_image_that_is_there_counts_by_its_size() {
    let with_image = |name: &str| Node { images: [("big".to_owned(), 900 << 20)].into(), ..node(name, 1000, 1 << 30) };
    let mut scheduler = scheduler([node("a", 1000, 1 << 30), with_image("b"), with_image("c")]);
    let mut pod = pod("1", 0, 0);
    pod.spec.shape.images = ["big".to_owned()].into();
    assert_eq!(place(&mut scheduler, pod), "b");
}

#[test]
fn a_pod_that_wants_to_be_beside_another_is_tried_again_when_that_comes() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30), node("b", 1000, 1 << 30)]);
    let mut client = of_app("client", "client");
    client.spec.affinity = vec![beside("db")];
    assert!(place(&mut scheduler, client).contains("2 node(s) didn't match pod affinity rules"));
    assert_eq!(place(&mut scheduler, of_app("other", "web")), "a");
    assert_eq!(scheduler.active_len(), 0, "a pod that it does not look for wakes it not");
    scheduler.enqueue(&of_app("db", "db"));
    assert_eq!(decide(&mut scheduler).0, ["db", "client"]);
}

#[test]
fn a_pod_that_wants_to_be_alone_is_tried_again_when_the_other_leaves() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30)]);
    let alone = |uid: &str| {
        let mut pod = of_app(uid, "web");
        pod.spec.anti_affinity = vec![beside("web")];
        pod
    };
    assert_eq!(place(&mut scheduler, alone("1")), "a");
    assert!(place(&mut scheduler, alone("2")).contains("1 node(s) didn't match pod anti-affinity rules"));
    let existing = place(&mut scheduler, of_app("3", "web"));
    assert!(existing.contains("1 node(s) didn't satisfy existing pods anti-affinity rules"), "{existing}");
    scheduler.release("1");
    assert_eq!(decide(&mut scheduler).0, ["2"]);
}

#[test]
fn spreading_refuses_the_crowded_domain_and_the_node_that_is_in_none() {
    let in_zone = |name: &str, zone: &str| {
        let mut node = node(name, 1000, 1 << 30);
        node.labels.insert("zone".into(), zone.into());
        node
    };
    let mut scheduler = scheduler([in_zone("a", "z1"), in_zone("b", "z2"), node("c", 1000, 1 << 30)]);
    let spread = |uid: &str| {
        let mut pod = of_app(uid, "web");
        pod.spec.spread = vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "zone".into(),
            when_unsatisfiable: "DoNotSchedule".into(),
            label_selector: selecting("web"),
            ..TopologySpreadConstraint::default()
        }];
        pod
    };
    let placed: Vec<_> = ["1", "2", "3", "4"].map(|uid| place(&mut scheduler, spread(uid))).into();
    assert_eq!(placed, ["a", "b", "a", "b"]);
    scheduler.upsert_node(Node { unschedulable: true, ..in_zone("b", "z2") });
    assert_eq!(place(&mut scheduler, spread("5")), "a");
    let said = place(&mut scheduler, spread("6"));
    let expected = "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't \
                    match pod topology spread constraints (missing required label), 1 node(s) were unschedulable.";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn explain_shows_each_nodes_verdict_and_changes_nothing() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30), node("b", 100, 1 << 30)]);
    let asked = pod("1", 500, 0);
    let explained = scheduler.explain("1", &asked.spec);
    assert_eq!(explained.conclusion, "It goes to a, the only node that can take it, with a score of 450.");
    let [a, b] = &explained.nodes[..] else { panic!("{explained:?}") };
    assert_eq!((a.node.as_str(), a.scores.iter().map(|s| s.score * s.weight).sum::<u32>()), ("a", a.total));
    assert_eq!((b.node.as_str(), b.refusals[0].clone()), ("b", ("NodeResourcesFit", "Insufficient cpu".to_owned())));
    assert_eq!(place(&mut scheduler, asked.clone()), "a");
    let again = scheduler.explain("1", &asked.spec).conclusion;
    assert!(again.starts_with("It is on a, which is the only node that can take it now"), "{again}");
    assert_eq!(scheduler.used("a"), asked.spec.shape.requests);
}

#[test]
fn a_plan_sees_the_pods_before_it_and_leaves_no_trace() {
    let mut scheduler = scheduler([node("a", 1000, 1 << 30)]);
    scheduler.assume("old", "a", &pod("old", 400, 0).spec);
    let mut urgent = pod("", 900, 0).spec;
    urgent.priority = 9;
    let planned = scheduler.plan(&[pod("", 500, 0).spec, pod("", 300, 0).spec]);
    assert_eq!((planned[0].node.as_deref(), planned[1].node.as_deref()), (Some("a"), None));
    assert!(planned[1].message.starts_with("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1"));
    let planned = scheduler.plan(&[pod("", 50, 0).spec, urgent]);
    assert_eq!((planned[1].node.as_deref(), &planned[1].preempts[..]), (Some("a"), &["old".to_owned()][..]));
    assert_eq!(planned[0].node.as_deref(), Some("a"), "the urgent one came first, and this fits beside it");
    assert_eq!(scheduler.used("a"), pod("old", 400, 0).spec.shape.requests);
    assert_eq!(scheduler.active_len(), 0);
}
