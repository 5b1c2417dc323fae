//! The fast scheduler against a slow one that looks at every pod and every node each time, and knows no class, view or
//! counter.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::model::{
    LabelSelector, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PreferredSchedulingTerm,
    Taint, TaintEffect, Toleration, TolerationOperator, TopologySpreadConstraint,
};
use proptest::prelude::*;

use super::*;
use crate::filter::tolerates;
use crate::pod::{HostPort, Placement, Shape};

/// A cluster as plain lists, in the order in which things came.
#[derive(Debug, Default, Clone)]
struct Oracle {
    nodes: Vec<Node>,
    pods: Vec<Bound>,
}

#[derive(Debug, Clone)]
struct Bound {
    uid: String,
    node: String,
    spec: PodSpec,
    terminating: bool,
}

// === Filters ===

impl Oracle {
    fn on<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Bound> {
        self.pods.iter().filter(|pod| pod.node == node.name)
    }

    fn pods_in<'a>(&'a self, key: &'a str, node: &'a Node) -> impl Iterator<Item = &'a Bound> {
        let value = node.labels.get(key);
        let same = move |other: &&Node| value.is_some() && other.labels.get(key) == value;
        self.nodes.iter().filter(same).flat_map(|node| self.on(node))
    }

    fn takes(&self, spec: &PodSpec, node: &Node) -> bool {
        let bears = |taint: &Taint| {
            taint.effect == TaintEffect::PreferNoSchedule
                || tolerates(&spec.placement.tolerations, &taint.key, &taint.value, taint.effect)
        };
        !node.unschedulable
            && node.taints.iter().all(bears)
            && selects(&spec.placement, node)
            && self.has_ports(spec, node)
            && self.has_room(spec, node)
            && self.spreads(spec, node)
            && self.neighbours(spec, node)
    }

    fn has_ports(&self, spec: &PodSpec, node: &Node) -> bool {
        let mut taken = self.on(node).flat_map(|pod| &pod.spec.shape.ports);
        !taken.any(|taken| spec.shape.ports.iter().any(|port| port.conflicts(taken)))
    }

    fn has_room(&self, spec: &PodSpec, node: &Node) -> bool {
        let used = self.on(node).fold(Resources::default(), |sum, pod| sum + pod.spec.shape.requests);
        let wanted = used + spec.shape.requests;
        let asked = spec.shape.requests;
        let extended = |(name, amount): (&String, &u64)| {
            let used: u64 = self.on(node).filter_map(|pod| pod.spec.shape.extended.get(name)).sum();
            *amount == 0 || used + amount <= node.extended.get(name).copied().unwrap_or(0)
        };
        wanted.pods <= node.allocatable.pods
            && (asked.cpu_millis == 0 || wanted.cpu_millis <= node.allocatable.cpu_millis)
            && (asked.memory_bytes == 0 || wanted.memory_bytes <= node.allocatable.memory_bytes)
            && spec.shape.extended.iter().all(extended)
    }

    fn spreads(&self, spec: &PodSpec, node: &Node) -> bool {
        let hard: Vec<_> = spec.spread.iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule").collect();
        hard.iter().all(|constraint| {
            let Some(value) = node.labels.get(&constraint.topology_key) else { return false };
            let counts = self.spread_counts(spec, constraint, &hard);
            let fewest = counts.values().copied().min().unwrap_or(0);
            let wanted = constraint.min_domains.unwrap_or(1);
            let fewest = if i32::try_from(counts.len()).unwrap() < wanted { 0 } else { fewest };
            let own = i32::from(spread_takes(constraint, spec, spec));
            counts.get(value).copied().unwrap_or(0) + own - fewest <= constraint.max_skew
        })
    }

    /// Pods by value of the constraint's label, over the nodes that count.
    fn spread_counts(
        &self,
        spec: &PodSpec,
        constraint: &TopologySpreadConstraint,
        all: &[&TopologySpreadConstraint],
    ) -> BTreeMap<String, i32> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            let labelled = all.iter().all(|other| node.labels.contains_key(&other.topology_key));
            let selected =
                constraint.node_affinity_policy.as_deref() == Some("Ignore") || selects(&spec.placement, node);
            let bears = |taint: &Taint| {
                taint.effect == TaintEffect::PreferNoSchedule
                    || tolerates(&spec.placement.tolerations, &taint.key, &taint.value, taint.effect)
            };
            let tolerated = constraint.node_taints_policy.as_deref() != Some("Honor") || node.taints.iter().all(bears);
            if labelled && selected && tolerated {
                let there = self.on(node).filter(|pod| !pod.terminating && spread_takes(constraint, spec, &pod.spec));
                *counts.entry(node.labels[&constraint.topology_key].clone()).or_default() +=
                    i32::try_from(there.count()).unwrap();
            }
        }
        counts
    }

    fn neighbours(&self, spec: &PodSpec, node: &Node) -> bool {
        let all = |other: &PodSpec| spec.affinity.iter().all(|term| affinity_takes(term, spec, other));
        let anywhere = |key: &str| {
            self.nodes
                .iter()
                .filter(|node| node.labels.contains_key(key))
                .any(|node| self.on(node).any(|p| all(&p.spec)))
        };
        let none_yet = !spec.affinity.iter().any(|term| anywhere(&term.topology_key));
        let first = all(spec) && none_yet;
        let beside = |term: &PodAffinityTerm| {
            let near = self.pods_in(&term.topology_key, node).any(|pod| all(&pod.spec));
            node.labels.contains_key(&term.topology_key) && (near || first)
        };
        let apart = |term: &PodAffinityTerm| {
            !self.pods_in(&term.topology_key, node).any(|pod| affinity_takes(term, spec, &pod.spec))
        };
        let unwanted = |pod: &Bound| {
            let near =
                |term: &PodAffinityTerm| self.pods_in(&term.topology_key, node).any(|other| other.uid == pod.uid);
            pod.spec.anti_affinity.iter().any(|term| affinity_takes(term, &pod.spec, spec) && near(term))
        };
        spec.affinity.iter().all(beside) && spec.anti_affinity.iter().all(apart) && !self.pods.iter().any(unwanted)
    }
}

fn selects(placement: &Placement, node: &Node) -> bool {
    let requirement = |r: &NodeSelectorRequirement| match r.operator.as_str() {
        "In" => node.labels.get(&r.key).is_some_and(|value| r.values.contains(value)),
        "NotIn" => !node.labels.get(&r.key).is_some_and(|value| r.values.contains(value)),
        "Exists" => node.labels.contains_key(&r.key),
        "DoesNotExist" => !node.labels.contains_key(&r.key),
        other => panic!("{other}"),
    };
    let term = |term: &NodeSelectorTerm| {
        term.match_expressions.iter().all(requirement)
            && term.match_fields.iter().all(|r| (r.operator == "In") == r.values.contains(&node.name))
    };
    placement.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && placement.required.as_ref().is_none_or(|required| required.node_selector_terms.iter().any(term))
}

fn affinity_takes(term: &PodAffinityTerm, owner: &PodSpec, other: &PodSpec) -> bool {
    let in_namespace = match (&term.namespaces[..], &term.namespace_selector) {
        ([], None) => owner.namespace == other.namespace,
        (_, Some(_)) => true,
        (names, None) => names.contains(&other.namespace),
    };
    in_namespace && term.label_selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
}

fn spread_takes(constraint: &TopologySpreadConstraint, owner: &PodSpec, other: &PodSpec) -> bool {
    let takes = |selector: &LabelSelector| selector.matches(&other.labels);
    owner.namespace == other.namespace && constraint.label_selector.as_ref().is_some_and(takes)
}

// === Scores ===

impl Oracle {
    /// The best node: of equals the first that ever registered.
    fn best(&self, spec: &PodSpec) -> Option<String> {
        let feasible: Vec<&Node> = self.nodes.iter().filter(|node| self.takes(spec, node)).collect();
        let taints: Vec<u64> = feasible.iter().map(|node| self.reluctance(spec, node)).collect();
        let wishes: Vec<u64> = feasible.iter().map(|node| attraction(spec, node)).collect();
        let pulls: Vec<i64> = feasible.iter().map(|node| self.pull(spec, node)).collect();
        let crowds = self.crowds(spec, &feasible);
        let (taint_max, wish_max) =
            (taints.iter().max().copied().unwrap_or(0), wishes.iter().max().copied().unwrap_or(0));
        let (pull_min, pull_max) = (pulls.iter().min().copied().unwrap_or(0), pulls.iter().max().copied().unwrap_or(0));
        let (crowd_min, crowd_max) =
            (crowds.iter().flatten().min().copied().unwrap_or(0), crowds.iter().flatten().max().copied().unwrap_or(0));
        let soft = spec.spread.iter().any(|c| c.when_unsatisfiable == "ScheduleAnyway");
        let mut best: Option<(u64, &Node)> = None;
        for (index, node) in feasible.iter().enumerate() {
            let of = |value: u64, most: u64| (value * 100).checked_div(most).unwrap_or(0);
            let spread = match crowds[index] {
                _ if !soft => 0,
                None => 0,
                Some(_) if crowd_max == 0 => 100,
                Some(crowd) => u64::try_from(100 * (crowd_max + crowd_min - crowd) / crowd_max).unwrap(),
            };
            let pull = if pull_max == pull_min { 0 } else { 100 * (pulls[index] - pull_min) / (pull_max - pull_min) };
            let total = self.fit_scores(spec, node)
                + 3 * (100 - of(taints[index], taint_max))
                + 2 * of(wishes[index], wish_max)
                + 2 * spread
                + 2 * u64::try_from(pull).unwrap();
            if best.is_none_or(|(highest, _)| total > highest) {
                best = Some((total, node));
            }
        }
        best.map(|(_, node)| node.name.clone())
    }

    fn reluctance(&self, spec: &PodSpec, node: &Node) -> u64 {
        let prefers_not = node.taints.iter().filter(|taint| taint.effect == TaintEffect::PreferNoSchedule);
        prefers_not.filter(|t| !tolerates(&spec.placement.tolerations, &t.key, &t.value, t.effect)).count() as u64
    }

    fn fit_scores(&self, spec: &PodSpec, node: &Node) -> u64 {
        let or = |amount, default| if amount == 0 { default } else { amount };
        let requests: Vec<_> = self.on(node).map(|pod| pod.spec.shape.requests).chain([spec.shape.requests]).collect();
        let cpu: u64 = requests.iter().map(|r| or(r.cpu_millis, 100)).sum();
        let memory: u64 = requests.iter().map(|r| or(r.memory_bytes, 200 << 20)).sum();
        let both = [(cpu, node.allocatable.cpu_millis), (memory, node.allocatable.memory_bytes)];
        let there: Vec<_> = both.iter().filter(|(_, all)| *all > 0).collect();
        let free: u64 = there.iter().map(|(used, all)| all.saturating_sub(*used) * 100 / all).sum();
        let least = if there.is_empty() { 0 } else { free / there.len() as u64 };
        let [cpu, memory] = both.map(|(used, all)| (used.min(all) * 100).checked_div(all).unwrap_or(100));
        least + 100 - cpu.abs_diff(memory) / 2
    }

    fn pull(&self, spec: &PodSpec, node: &Node) -> i64 {
        let mut sum = 0;
        for (weight, term) in &spec.preferred_pods {
            let near = self.pods_in(&term.topology_key, node).filter(|pod| affinity_takes(term, spec, &pod.spec));
            sum += i64::from(*weight) * i64::try_from(near.count()).unwrap();
        }
        for pod in &self.pods {
            let hard = pod.spec.affinity.iter().map(|term| (1, term));
            let own = pod.spec.preferred_pods.iter().map(|(weight, term)| (*weight, term));
            for (weight, term) in hard.chain(own) {
                let near = self.pods_in(&term.topology_key, node).any(|other| other.uid == pod.uid);
                if near && affinity_takes(term, &pod.spec, spec) {
                    sum += i64::from(weight);
                }
            }
        }
        sum
    }

    fn crowds(&self, spec: &PodSpec, feasible: &[&Node]) -> Vec<Option<i64>> {
        let soft: Vec<_> = spec.spread.iter().filter(|c| c.when_unsatisfiable == "ScheduleAnyway").collect();
        let labelled = |node: &Node| soft.iter().all(|c| node.labels.contains_key(&c.topology_key));
        let crowd = |node: &&Node| {
            if !labelled(node) {
                return None;
            }
            let mut sum = 0.0;
            for constraint in &soft {
                let values: BTreeSet<_> = feasible
                    .iter()
                    .filter(|node| labelled(node))
                    .map(|node| &node.labels[&constraint.topology_key])
                    .collect();
                let counts = self.spread_counts(spec, constraint, &soft);
                let there = counts.get(&node.labels[&constraint.topology_key]).copied().unwrap_or(0);
                #[expect(clippy::cast_precision_loss, reason = "a handful")]
                let weight = (values.len() as f64 + 2.0).ln();
                sum += f64::from(there) * weight + f64::from(constraint.max_skew - 1);
            }
            #[expect(clippy::cast_possible_truncation, reason = "small")]
            Some(sum.round() as i64)
        };
        feasible.iter().map(crowd).collect()
    }
}

fn attraction(spec: &PodSpec, node: &Node) -> u64 {
    let fulfilled = spec.placement.preferred.iter().filter(|wish| {
        let only = NodeSelector { node_selector_terms: vec![wish.preference.clone()] };
        selects(&Placement { required: Some(only), ..Placement::default() }, node)
    });
    fulfilled.map(|wish| u64::try_from(wish.weight).unwrap()).sum()
}

// === Cases ===

fn labels(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn any_node() -> impl Strategy<Value = Node> {
    let taint = prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec![TaintEffect::NoSchedule]),
        1 => Just(vec![TaintEffect::PreferNoSchedule]),
    ];
    (0..8_u32, 0..4_u32, prop::bool::weighted(0.1), taint, 500..4000_u64, 1..5_u64, 0..3_u64, 2..9_u64).prop_map(
        |(name, zone, unschedulable, taints, cpu, memory, gpus, pods)| {
            let host = format!("node-{name}");
            // Zone 0: the node is in none.
            let mut labels = labels(&[("host", host.clone()), ("disk", ["ssd", "hdd"][zone as usize % 2].to_owned())]);
            if zone > 0 {
                labels.insert("zone".into(), format!("zone-{zone}"));
            }
            let taint = |effect| Taint { key: "kept".into(), value: String::new(), effect, time_added: None };
            Node {
                name: host,
                labels,
                taints: taints.into_iter().map(taint).collect(),
                unschedulable,
                allocatable: Resources {
                    cpu_millis: cpu,
                    memory_bytes: memory << 30,
                    ephemeral_storage_bytes: 0,
                    pods,
                },
                extended: [("example.com/gpu".to_owned(), gpus)].into(),
                images: BTreeMap::new(),
            }
        },
    )
}

fn any_selector() -> impl Strategy<Value = Option<LabelSelector>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(LabelSelector::default())),
        4 => (0..3_u32).prop_map(|app| Some(LabelSelector {
            match_labels: labels(&[("app", format!("app-{app}"))]),
            match_expressions: vec![],
        })),
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![Just("zone".to_owned()), Just("host".to_owned())]
}

fn any_term() -> impl Strategy<Value = PodAffinityTerm> {
    (any_selector(), any_key(), prop::bool::weighted(0.2)).prop_map(|(label_selector, topology_key, everywhere)| {
        PodAffinityTerm {
            label_selector,
            topology_key,
            namespace_selector: everywhere.then(LabelSelector::default),
            ..PodAffinityTerm::default()
        }
    })
}

fn any_spread() -> impl Strategy<Value = Vec<TopologySpreadConstraint>> {
    let constraint =
        (1..3_i32, any_selector(), any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(1..4_i32));
    let one = constraint.prop_map(|(max_skew, label_selector, hard, ignore_nodes, honor_taints, domains)| {
        TopologySpreadConstraint {
            max_skew,
            topology_key: String::new(),
            when_unsatisfiable: if hard { "DoNotSchedule" } else { "ScheduleAnyway" }.to_owned(),
            label_selector,
            min_domains: domains.filter(|_| hard),
            node_affinity_policy: ignore_nodes.then(|| "Ignore".to_owned()),
            node_taints_policy: honor_taints.then(|| "Honor".to_owned()),
            match_label_keys: vec![],
        }
    });
    prop::collection::vec(one, 0..3).prop_map(|mut constraints| {
        for (constraint, key) in constraints.iter_mut().zip(["zone", "host"]) {
            constraint.topology_key = key.to_owned();
        }
        constraints
    })
}

fn any_placement() -> impl Strategy<Value = Placement> {
    let requirement = prop_oneof![
        Just(("disk", "In", vec!["ssd"])),
        Just(("disk", "NotIn", vec!["ssd"])),
        Just(("zone", "Exists", vec![])),
        Just(("zone", "DoesNotExist", vec![])),
        Just(("zone", "In", vec!["zone-1", "zone-2"])),
    ]
    .prop_map(|(key, operator, values)| NodeSelectorTerm {
        match_expressions: vec![NodeSelectorRequirement {
            key: key.into(),
            operator: operator.into(),
            values: values.into_iter().map(str::to_owned).collect(),
        }],
        match_fields: vec![],
    });
    let names = (0..8_u32).prop_map(|name| NodeSelectorTerm {
        match_expressions: vec![],
        match_fields: vec![NodeSelectorRequirement {
            key: "metadata.name".into(),
            operator: "NotIn".into(),
            values: vec![format!("node-{name}")],
        }],
    });
    let term = prop_oneof![4 => requirement, 1 => names];
    let wish =
        (1..100_i32, term.clone()).prop_map(|(weight, preference)| PreferredSchedulingTerm { weight, preference });
    let required = prop::option::weighted(0.3, prop::collection::vec(term, 1..3));
    (required, prop::collection::vec(wish, 0..2), any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(terms, preferred, bears, selects)| Placement {
            node_name: None,
            node_selector: if selects { labels(&[("disk", "hdd".into())]) } else { BTreeMap::new() },
            required: terms.map(|node_selector_terms| NodeSelector { node_selector_terms }),
            preferred,
            tolerations: if bears {
                vec![Toleration {
                    key: "kept".into(),
                    operator: Some(TolerationOperator::Exists),
                    ..Toleration::default()
                }]
            } else {
                vec![]
            },
        },
    )
}

prop_compose! {
    fn any_spec()(
        (app, team, cpu, memory) in (0..3_u32, 0..2_u32, 0..900_u64, 0..2_u64),
        (gpus, port) in (prop_oneof![4 => Just(0_u64), 1 => 1..3_u64], prop_oneof![4 => Just(0_u16), 1 => 80..82_u16]),
        placement in any_placement(),
        affinity in prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any_term(), 1..3)],
        anti_affinity in prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any_term(), 1..3)],
        preferred_pods in prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec((-50..50_i32, any_term()), 1..3)],
        spread in prop_oneof![2 => Just(vec![]), 1 => any_spread()],
    ) -> PodSpec {
        PodSpec {
            namespace: format!("team-{team}"),
            labels: labels(&[("app", format!("app-{app}"))]),
            shape: Shape {
                requests: Resources { cpu_millis: cpu, memory_bytes: memory << 29, ephemeral_storage_bytes: 0, pods: 1 },
                extended: if gpus > 0 { [("example.com/gpu".to_owned(), gpus)].into() } else { BTreeMap::new() },
                ports: if port > 0 { [host_port(port)].into() } else { BTreeSet::new() },
                images: BTreeSet::new(),
            },
            placement,
            affinity,
            anti_affinity,
            preferred_pods: preferred_pods.into_iter().filter(|(weight, _)| *weight != 0).collect(),
            spread,
            ..PodSpec::default()
        }
    }
}

fn host_port(port: u16) -> HostPort {
    HostPort { protocol: "TCP".into(), ip: String::new(), port }
}

/// What happens to the cluster.
#[derive(Debug, Clone)]
enum Step {
    Node(Node),
    RemoveNode(u32),
    Pods { spec: Box<PodSpec>, count: usize },
    Delete(usize),
    Terminate(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any_node().prop_map(Step::Node),
        1 => (0..8_u32).prop_map(Step::RemoveNode),
        6 => (any_spec(), 1..4_usize).prop_map(|(spec, count)| Step::Pods { spec: Box::new(spec), count }),
        2 => (0..40_usize).prop_map(Step::Delete),
        1 => (0..40_usize).prop_map(Step::Terminate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Each pod goes exactly where the slow reference puts it, or nowhere where that finds no place.
    #[test]
    fn the_fast_scheduler_decides_as_the_slow_one(steps in prop::collection::vec(any_step(), 1..40)) {
        let (mut fast, mut slow, mut count) = (Scheduler::default(), Oracle::default(), 0);
        // Slots follow the order in which names were first seen, and equals go to the first.
        let mut names: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Node(node) => {
                    if !names.contains(&node.name) {
                        names.push(node.name.clone());
                    }
                    slow.nodes.retain(|other| other.name != node.name);
                    slow.nodes.push(node.clone());
                    slow.nodes.sort_by_key(|node| names.iter().position(|name| *name == node.name));
                    fast.upsert_node(node);
                }
                Step::RemoveNode(name) => {
                    slow.nodes.retain(|node| node.name != format!("node-{name}"));
                    fast.remove_node(&format!("node-{name}"));
                }
                Step::Delete(index) => {
                    if !slow.pods.is_empty() {
                        let pod = slow.pods.remove(index % slow.pods.len());
                        fast.release(&pod.uid);
                    }
                }
                Step::Terminate(index) => {
                    if !slow.pods.is_empty() {
                        let index = index % slow.pods.len();
                        slow.pods[index].terminating = true;
                        fast.set_terminating(&slow.pods[index].uid);
                    }
                }
                Step::Pods { spec, count: pods } => {
                    for _ in 0..pods {
                        count += 1;
                        let uid = format!("pod-{count}");
                        let expected = slow.best(&spec);
                        let explained = fast.explain("", &spec);
                        let first = explained.nodes.first().filter(|node| node.refusals.is_empty());
                        prop_assert_eq!(first.map(|node| node.node.clone()), expected.clone(), "explain: {:?}", spec);
                        fast.enqueue(&PendingPod { uid: uid.clone(), spec: PodSpec::clone(&spec) });
                        let decisions = fast.schedule(1, 0);
                        let placed = match &decisions[..] {
                            [Decision::Bind { node, .. }] => Some(node.clone()),
                            _ => None,
                        };
                        prop_assert_eq!(&placed, &expected, "{:?}", spec);
                        match expected {
                            Some(node) => slow.pods.push(Bound { uid, node, spec: PodSpec::clone(&spec), terminating: false }),
                            None => fast.dequeue(&uid),
                        }
                    }
                }
            }
        }
    }
}
