//! Nodes and pods as scheduler_perf's templates have them, and a clock around the core.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podbus_common::model::{
    LabelSelector, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, TopologySpreadConstraint,
};
use podbus_scheduler_core::{Decision, Node, PendingPod, PodSpec, Resources, Scheduler, Shape};

pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";
pub(crate) const HOST: &str = "kubernetes.io/hostname";
/// Decisions that are taken at once.
const BATCH: usize = 256;

/// node-default.yaml: 4 CPUs, 32Gi, 110 pods. `zones`: nodes take turns in them.
pub(crate) fn node(index: usize, zones: usize) -> Node {
    let name = format!("scheduler-perf-{index:05}");
    let mut labels = BTreeMap::from([(HOST.to_owned(), name.clone())]);
    if zones > 0 {
        labels.insert(ZONE.to_owned(), format!("zone{}", index % zones + 1));
    }
    let allocatable = Resources { cpu_millis: 4_000, memory_bytes: 32 << 30, ephemeral_storage_bytes: 0, pods: 110 };
    Node { name, labels, allocatable, ..Node::default() }
}

/// pod-default.yaml: 100m and 500Mi.
pub(crate) fn pod() -> PodSpec {
    asking(100, 500)
}

pub(crate) fn asking(cpu_millis: u64, mebibytes: u64) -> PodSpec {
    let memory_bytes = mebibytes << 20;
    let requests = Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes: 0, pods: 1 };
    PodSpec { namespace: "sched-1".to_owned(), shape: Shape { requests, ..Shape::default() }, ..PodSpec::default() }
}

pub(crate) fn coloured(color: &str, pod: PodSpec) -> PodSpec {
    PodSpec { labels: [("color".to_owned(), color.to_owned())].into(), ..pod }
}

pub(crate) fn selecting(color: &str) -> Option<LabelSelector> {
    let match_labels = [("color".to_owned(), color.to_owned())].into();
    Some(LabelSelector { match_labels, match_expressions: vec![] })
}

pub(crate) fn beside(color: &str, topology_key: &str) -> PodAffinityTerm {
    PodAffinityTerm {
        label_selector: selecting(color),
        topology_key: topology_key.to_owned(),
        namespaces: vec!["sched-1".to_owned(), "sched-0".to_owned()],
        ..PodAffinityTerm::default()
    }
}

pub(crate) fn spreading(color: &str, when: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 5,
        topology_key: ZONE.to_owned(),
        when_unsatisfiable: when.to_owned(),
        label_selector: selecting(color),
        ..TopologySpreadConstraint::default()
    }
}

pub(crate) fn nodes_with(key: &str, values: &[&str], on_name: bool) -> Option<NodeSelector> {
    let requirement = NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    let term = if on_name {
        NodeSelectorTerm { match_fields: vec![requirement], match_expressions: vec![] }
    } else {
        NodeSelectorTerm { match_expressions: vec![requirement], match_fields: vec![] }
    };
    Some(NodeSelector { node_selector_terms: vec![term] })
}

/// A scheduler under the clock.
pub(crate) struct Bench {
    pub(crate) scheduler: Scheduler,
    created: usize,
    /// Of the pods that were placed.
    pub(crate) bound: Vec<String>,
}

impl Bench {
    pub(crate) fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut scheduler = Scheduler::default();
        nodes.into_iter().for_each(|node| scheduler.upsert_node(node));
        Self { scheduler, created: 0, bound: Vec::new() }
    }

    /// Pods, each with a UID of its own: making them is not the core's work.
    pub(crate) fn make(&mut self, count: usize, spec: impl Fn(usize) -> PodSpec) -> Vec<PendingPod> {
        (0..count)
            .map(|index| {
                self.created += 1;
                PendingPod { uid: format!("7c9e6679-7425-40de-944b-{:012}", self.created), spec: spec(index) }
            })
            .collect()
    }

    /// Creates pods and places them all. Panics when one has no place.
    pub(crate) fn place(&mut self, count: usize, spec: impl Fn(usize) -> PodSpec) -> Duration {
        let pods = self.make(count, spec);
        let before = self.bound.len();
        let started = Instant::now();
        for pod in &pods {
            self.scheduler.enqueue(pod);
        }
        self.drain();
        let took = started.elapsed();
        assert_eq!(self.bound.len() - before, count, "each pod of this shape has a place");
        took
    }

    /// Takes decisions until nothing is left; victims are gone at once.
    pub(crate) fn drain(&mut self) {
        while self.scheduler.active_len() > 0 {
            for decision in self.scheduler.schedule(BATCH, 0) {
                match decision {
                    Decision::Bind { uid, .. } => self.bound.push(uid),
                    Decision::Preempt { victims, .. } => {
                        victims.iter().for_each(|victim| self.scheduler.release(victim));
                    }
                    Decision::Unschedulable { .. } => {}
                }
            }
        }
    }
}
