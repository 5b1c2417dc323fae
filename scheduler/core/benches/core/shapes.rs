//! The shapes.

use std::time::{Duration, Instant};

use podbus_common::model::{PodAffinityTerm, Taint, TaintEffect};
use podbus_scheduler_core::{Node, PodGroup, PodSpec};

use crate::parts::{Bench, HOST, ZONE, asking, beside, coloured, node, nodes_with, pod, selecting, spreading};
use crate::report::Report;

/// Identical pods on empty nodes and on nodes that are 90 % full.
pub(crate) fn identical(report: &mut Report) {
    for (nodes, title) in [
        (100, "core, 100 nodes, identical pods"),
        (1_000, "core, 1,000 nodes, identical pods"),
        (5_000, "core, 5,000 nodes"),
        (10_000, "core, 10,000 nodes"),
    ] {
        // 40 pods of 100m fit on a node.
        let (nodes, room) = (nodes / report.divisor.min(nodes), nodes / report.divisor.min(nodes) * 40);
        if report.wants(title) {
            let mut bench = Bench::new((0..nodes).map(|index| node(index, 3)));
            let pods = room * 9 / 10;
            let took = bench.place(pods, |_| pod());
            report.rate(title, pods, took, None);
        }
        let full = format!("{title}, 90 % full");
        if report.wants(&full) {
            let mut bench = Bench::new((0..nodes).map(|index| node(index, 3)));
            bench.place(room * 9 / 10, |_| pod());
            // Others than those that are there already, so that nothing is known of them.
            let pods = room / 10;
            let took = bench.place(pods, |_| asking(100, 400));
            report.rate(&full, pods, took, None);
        }
    }
}

/// A shape that places `before` pods and times `measured` more.
struct Simple<'a> {
    name: &'a str,
    nodes: usize,
    zones: usize,
    before: usize,
    measured: usize,
    threshold: f64,
}

impl Simple<'_> {
    fn run(&self, report: &mut Report, first: impl Fn(usize) -> PodSpec, then: impl Fn(usize) -> PodSpec) {
        if !report.wants(self.name) {
            return;
        }
        let of = |count: usize| count / report.divisor;
        let mut bench = Bench::new((0..of(self.nodes)).map(|index| node(index, self.zones)));
        bench.place(of(self.before), first);
        let took = bench.place(of(self.measured), then);
        report.rate(self.name, of(self.measured), took, Some(self.threshold));
    }
}

/// kube-scheduler's own shapes.
pub(crate) fn scheduler_perf(report: &mut Report) {
    let simple =
        |name, zones, before, measured, threshold| Simple { name, nodes: 5_000, zones, before, measured, threshold };
    simple("SchedulingBasic, 5,000 nodes, 10,000 pods", 0, 1_000, 10_000, 680.0).run(report, |_| pod(), |_| pod());
    simple("SchedulingBasic, 5,000 nodes, 50,000 pods", 0, 5_000, 50_000, 810.0).run(report, |_| pod(), |_| pod());
    daemon_set(report);
    gated(report);
    churn(report);
    unschedulable(report);
    preemption(report);
    simple("SchedulingPodMatchingAntiAffinity", 0, 1_000, 5_000, 595.0).run(
        report,
        |_| PodSpec { anti_affinity: vec![beside("green", HOST)], ..coloured("green", pod()) },
        |_| pod(),
    );
    simple("TopologySpreading", 3, 5_000, 5_000, 460.0).run(
        report,
        |_| pod(),
        |_| PodSpec { spread: vec![spreading("blue", "DoNotSchedule")], ..coloured("blue", pod()) },
    );
    simple("PreferredTopologySpreading", 3, 5_000, 5_000, 340.0).run(
        report,
        |_| pod(),
        |_| PodSpec { spread: vec![spreading("blue", "ScheduleAnyway")], ..coloured("blue", pod()) },
    );
    node_inclusion_policy(report);
    simple("SchedulingNodeAffinity", 1, 5_000, 10_000, 220.0).run(report, |_| pod(), |_| in_zones(pod()));
    extended_resource(report);
    mixed(report);
    let preferred = |weight: i32, color: &str| PodSpec {
        preferred_pods: vec![(weight, beside(color, HOST))],
        ..coloured(color, pod())
    };
    simple("SchedulingPreferredPodAffinity", 0, 5_000, 5_000, 90.0).run(report, |_| pod(), |_| preferred(1, "red"));
    simple("SchedulingPreferredPodAntiAffinity", 0, 5_000, 5_000, 90.0).run(
        report,
        |_| pod(),
        |_| preferred(-1, "yellow"),
    );
    simple("SchedulingPodAntiAffinity", 0, 1_000, 2_000, 60.0).run(
        report,
        |_| PodSpec { anti_affinity: vec![beside("green", HOST)], ..coloured("green", pod()) },
        |_| PodSpec { anti_affinity: vec![beside("green", HOST)], ..coloured("green", pod()) },
    );
    simple("SchedulingPodAffinity", 1, 5_000, 5_000, 35.0).run(
        report,
        |_| PodSpec { affinity: vec![beside("blue", ZONE)], ..coloured("blue", pod()) },
        |_| PodSpec { affinity: vec![beside("blue", ZONE)], ..coloured("blue", pod()) },
    );
    Simple {
        name: "SchedulingRequiredPodAntiAffinityWithNSSelector",
        nodes: 6_000,
        zones: 0,
        before: 4_000,
        measured: 2_000,
        threshold: 24.0,
    }
    .run(report, everywhere, everywhere);
    gangs(report);
}

fn in_zones(mut pod: PodSpec) -> PodSpec {
    pod.placement.required = nodes_with(ZONE, &["zone1", "zone2"], false);
    pod
}

/// One of 100 namespaces, away from its like in all of them.
fn everywhere(index: usize) -> PodSpec {
    let term = PodAffinityTerm {
        label_selector: selecting("green"),
        topology_key: HOST.to_owned(),
        namespace_selector: Some(podbus_common::model::LabelSelector::default()),
        ..PodAffinityTerm::default()
    };
    let namespace = format!("measure-ns-{}", index % 100);
    PodSpec { namespace, anti_affinity: vec![term], ..coloured("green", pod()) }
}

/// One node that takes all, and 15,000 that are none of theirs.
fn daemon_set(report: &mut Report) {
    let name = "SchedulingDaemonset";
    if !report.wants(name) {
        return;
    }
    let (nodes, pods) = (15_001 / report.divisor, 30_000 / report.divisor);
    let large = |index: usize| {
        let mut node = node(index, 0);
        node.allocatable.pods = 90_000;
        node.allocatable.cpu_millis = 100_000_000;
        node
    };
    let mut bench = Bench::new((0..nodes).map(large));
    let target = node(nodes / 2, 0).name;
    let took = bench.place(pods, |_| {
        let mut pod = asking(1, 0);
        pod.placement.required = nodes_with("metadata.name", &[&target], true);
        pod
    });
    report.rate(name, pods, took, Some(1_100.0));
}

/// Gated pods stay outside of the core: what is timed are those beside them, on one node.
fn gated(report: &mut Report) {
    let name = "SchedulingWhileGated";
    if !report.wants(name) {
        return;
    }
    let pods = 20_000 / report.divisor;
    let mut large = node(0, 0);
    large.allocatable.pods = 90_000;
    large.allocatable.cpu_millis = 100_000_000;
    let mut bench = Bench::new([large]);
    bench.place(pods, |_| asking(1, 0));
    let took = bench.place(pods, |_| asking(1, 0));
    report.rate(name, pods, took, Some(910.0));
}

/// A node and a pod go and come again while pods are placed; each second there, every 100 pods here.
fn churn(report: &mut Report) {
    let name = "SchedulingWithMixedChurn";
    if !report.wants(name) {
        return;
    }
    let (nodes, pods) = (5_000 / report.divisor, 10_000 / report.divisor);
    let mut bench = Bench::new((0..nodes).map(|index| node(index, 0)));
    let mut took = Duration::ZERO;
    for round in 0..pods / 100 {
        let started = Instant::now();
        bench.scheduler.remove_node("churn");
        bench.scheduler.upsert_node(Node { name: "churn".to_owned(), ..node(round, 0) });
        if let Some(uid) = bench.bound.pop() {
            bench.scheduler.release(&uid);
        }
        took += started.elapsed() + bench.place(100, |_| pod());
    }
    report.rate(name, pods / 100 * 100, took, Some(710.0));
}

/// A pod that fits nowhere comes every 200 ms there; here every 100 pods, which is more often.
fn unschedulable(report: &mut Report) {
    let name = "Unschedulable, 20,000 pods before";
    if !report.wants(name) {
        return;
    }
    let (nodes, before, pods) = (5_000 / report.divisor, 20_000 / report.divisor, 10_000 / report.divisor);
    let mut bench = Bench::new((0..nodes).map(|index| node(index, 0)));
    bench.place(before, |_| pod());
    let mut took = Duration::ZERO;
    for round in 0..pods / 100 {
        // Each of its own kind, so that nothing is known of it.
        let large = bench.make(1, |_| asking(9_000, 500 + round as u64));
        let started = Instant::now();
        bench.scheduler.enqueue(&large[0]);
        bench.drain();
        took += started.elapsed() + bench.place(100, |_| pod());
    }
    report.rate(name, pods / 100 * 100, took, Some(600.0));
}

/// A pod that pushes three others out comes every 200 ms there; here every 100 pods.
fn preemption(report: &mut Report) {
    for (name, nodes, before, pods, every, threshold) in
        [("PreemptionAsync", 5_000, 20_000, 5_000, 100, Some(570.0)), ("PreemptionBasic", 1_000, 4_000, 1_000, 1, None)]
    {
        if !report.wants(name) {
            continue;
        }
        let (nodes, before, pods) = (nodes / report.divisor, before / report.divisor, pods / report.divisor);
        let mut bench = Bench::new((0..nodes).map(|index| node(index, 0)));
        // pod-low-priority.yaml: four fill a node but for little.
        bench.place(before, |_| asking(900, 500));
        let mut took = Duration::ZERO;
        let preemptor = PodSpec { priority: 10, ..asking(3_000, 500) };
        for round in 0..pods {
            let mut bring = |spec: &PodSpec| {
                let pod = bench.make(1, |_| spec.clone());
                let started = Instant::now();
                bench.scheduler.enqueue(&pod[0]);
                bench.drain();
                took += started.elapsed();
            };
            if round % every == 0 {
                bring(&preemptor);
            }
            if every > 1 {
                bring(&asking(10, 5));
            }
        }
        report.rate(name, pods, took, threshold);
    }
}

/// 1,000 of the nodes are tainted, and only the others count.
fn node_inclusion_policy(report: &mut Report) {
    let name = "SchedulingWithNodeInclusionPolicy";
    if !report.wants(name) {
        return;
    }
    let (nodes, tainted, pods) = (5_000 / report.divisor, 1_000 / report.divisor, 4_000 / report.divisor);
    let taint =
        Taint { key: "foo".to_owned(), value: String::new(), effect: TaintEffect::NoSchedule, time_added: None };
    let mut bench = Bench::new((0..nodes).map(|index| {
        let taints = if index < tainted { vec![taint.clone()] } else { vec![] };
        Node { taints, ..node(index, 0) }
    }));
    let took = bench.place(pods, |_| {
        let mut constraint = spreading("blue", "DoNotSchedule");
        constraint.topology_key = HOST.to_owned();
        constraint.max_skew = 1;
        constraint.node_taints_policy = Some("Honor".to_owned());
        PodSpec { spread: vec![constraint], ..coloured("blue", pod()) }
    });
    report.rate(name, pods, took, Some(270.0));
}

fn extended_resource(report: &mut Report) {
    let name = "SchedulingWithExtendedResource";
    if !report.wants(name) {
        return;
    }
    let (nodes, pods) = (5_000 / report.divisor, 5_000 / report.divisor);
    let gpu = || [("example.com/gpu".to_owned(), 1)].into();
    let mut bench = Bench::new((0..nodes).map(|index| Node { extended: gpu(), ..node(index, 0) }));
    let took = bench.place(pods, |_| {
        let mut pod = pod();
        pod.shape.extended = gpu();
        pod
    });
    report.rate(name, pods, took, Some(180.0));
}

/// Plain pods beside five kinds of others.
fn mixed(report: &mut Report) {
    let name = "MixedSchedulingBasePod";
    if !report.wants(name) {
        return;
    }
    let (nodes, each, pods) = (5_000 / report.divisor, 2_000 / report.divisor, 5_000 / report.divisor);
    let mut bench = Bench::new((0..nodes).map(|index| node(index, 1)));
    let namespace = |pod: PodSpec| PodSpec { namespace: "sched-0".to_owned(), ..pod };
    bench.place(each, |_| namespace(pod()));
    bench.place(each, |_| PodSpec { affinity: vec![beside("blue", ZONE)], ..namespace(coloured("blue", pod())) });
    bench
        .place(each, |_| PodSpec { anti_affinity: vec![beside("green", HOST)], ..namespace(coloured("green", pod())) });
    bench.place(each, |_| PodSpec {
        preferred_pods: vec![(1, beside("red", HOST))],
        ..namespace(coloured("red", pod()))
    });
    bench.place(each, |_| PodSpec {
        preferred_pods: vec![(-1, beside("yellow", HOST))],
        ..namespace(coloured("yellow", pod()))
    });
    let took = bench.place(pods, |_| namespace(pod()));
    report.rate(name, pods, took, Some(140.0));
}

fn gangs(report: &mut Report) {
    for (name, gangs, threshold) in [
        ("GangScheduling, 1,000 gangs of 3", 1_000, 8.0),
        ("GangScheduling, 2,000 gangs of 3", 2_000, 10.0),
        ("GangScheduling, 3,000 gangs of 3", 3_000, 12.0),
    ] {
        if !report.wants(name) {
            continue;
        }
        let (nodes, gangs) = (5_000 / report.divisor, gangs / report.divisor);
        let mut bench = Bench::new((0..nodes).map(|index| node(index, 0)));
        let took = bench.place(gangs * 3, |index| {
            let group = format!("gang-{}", index / 3);
            PodSpec {
                labels: [("gang".to_owned(), group.clone())].into(),
                group: Some(PodGroup { name: group, min_member: 3 }),
                ..pod()
            }
        });
        report.each(name, gangs, took, threshold);
    }
}
