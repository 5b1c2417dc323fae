//! The node's last word on a pod: the scheduler may have counted with an older state.

use std::collections::BTreeMap;
use std::sync::Arc;

use podbus_common::model::{Pod, Taint, TaintEffect, Toleration, TolerationOperator};

use crate::resources::{Amounts, extended_requests, pod_requests};

/// What the node offers.
#[derive(Debug, Clone, Default)]
pub struct NodeOffer {
    /// For pods.
    pub allocatable: Amounts,
    /// Of resources that it names itself, for pods.
    pub extended: BTreeMap<String, i64>,
    /// How many pods.
    pub pods: usize,
    /// Its name.
    pub name: String,
    /// By what pods choose it; `None`: that is not known yet, and the scheduler's word counts.
    pub place: Option<Place>,
}

/// By what pods choose a node, and what keeps them away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints, but for those of its readiness.
    pub taints: Vec<Taint>,
}

/// What a pod takes from its node. It is asked of each held pod at each admission, so it is read from the spec once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// What is set aside for it.
    pub requests: Amounts,
    /// Of resources that nodes name themselves.
    pub extended: BTreeMap<String, i64>,
    /// Ports of the node that it has: protocol, address, port.
    pub ports: Vec<HostPort>,
}

impl Claim {
    /// That of a pod.
    pub fn of(pod: &Pod) -> Self {
        Self { requests: pod_requests(pod), extended: extended_requests(pod), ports: HostPort::of(pod) }
    }
}

/// A pod that the node holds: admitted, and not reported as ended.
#[derive(Debug, Clone)]
pub struct Held {
    /// What it takes.
    pub claim: Arc<Claim>,
    /// It is being stopped.
    pub terminating: bool,
    /// Succeeded or Failed: it holds nothing any more.
    pub finished: bool,
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It may run.
    Admit,
    /// It fits once those that are being stopped are gone.
    Wait,
    /// It never runs here.
    Reject {
        /// OutOfcpu, OutOfmemory, OutOfpods, OutOfexample.com/gpu, NodeAffinity, NodePorts, TaintToleration.
        reason: String,
        /// The kubelet's words.
        message: String,
    },
}

/// Whether `pod` may run beside `held`, which does not contain it.
pub fn admit(node: &NodeOffer, held: &[Held], pod: &Pod) -> Admission {
    if let Some(rejection) = reject_by_place(node, pod) {
        return rejection;
    }
    let claim = Claim::of(pod);
    let counted: Vec<_> = held.iter().filter(|h| !h.finished).collect();
    if short_of(node, &counted, &claim).is_none() {
        return Admission::Admit;
    }
    let staying: Vec<_> = counted.into_iter().filter(|h| !h.terminating).collect();
    short_of(node, &staying, &claim).unwrap_or(Admission::Wait)
}

/// A port of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Empty: all addresses.
    pub ip: String,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// Those that a pod asks for.
    pub fn of(pod: &Pod) -> Vec<Self> {
        let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        let ports = containers.flat_map(|container| &container.ports).filter(|port| port.host_port > 0);
        ports.map(|p| Self { protocol: p.protocol.clone(), ip: p.host_ip.clone(), port: p.host_port }).collect()
    }

    fn conflicts(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || all(&self.ip) || all(&other.ip))
    }
}

/// What is missing beside `held`, told as the rejection that it would be.
fn short_of(node: &NodeOffer, held: &[&Held], claim: &Claim) -> Option<Admission> {
    let used = held.iter().fold(Amounts::default(), |sum, h| sum.plus(h.claim.requests));
    if let Some(short) = shortage(node, held.len(), used, claim.requests) {
        return Some(short.rejection());
    }
    for (resource, &requested) in &claim.extended {
        let used = held.iter().filter_map(|h| h.claim.extended.get(resource)).sum();
        let capacity = node.extended.get(resource).copied().unwrap_or(0);
        if requested > 0 && requested > capacity - used {
            return Some(Shortage { resource, requested, used, capacity }.rejection());
        }
    }
    let taken = || held.iter().flat_map(|h| &h.claim.ports);
    let conflict = claim.ports.iter().any(|port| taken().any(|other| port.conflicts(other)));
    conflict.then(|| Admission::Reject {
        reason: "NodePorts".to_owned(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned(),
    })
}

struct Shortage<'a> {
    resource: &'a str,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage<'_> {
    fn rejection(&self) -> Admission {
        let Self { resource, requested, used, capacity } = self;
        Admission::Reject {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: \
                 {capacity}"
            ),
        }
    }
}

/// The first resource that is short, in the kubelet's order.
fn shortage(node: &NodeOffer, pods: usize, used: Amounts, requested: Amounts) -> Option<Shortage<'static>> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let allocatable = node.allocatable;
    let resources = [
        ("pods", 1, count(pods), count(node.pods)),
        ("cpu", requested.cpu_millis, used.cpu_millis, allocatable.cpu_millis),
        ("memory", requested.memory_bytes, used.memory_bytes, allocatable.memory_bytes),
        (
            "ephemeral-storage",
            requested.ephemeral_storage_bytes,
            used.ephemeral_storage_bytes,
            allocatable.ephemeral_storage_bytes,
        ),
    ];
    // Who asks for nothing is not refused for it, even on a node that gave away too much.
    let short =
        |&(_, requested, used, capacity): &(&'static str, i64, i64, i64)| requested > 0 && requested > capacity - used;
    resources.into_iter().find(short).map(|(resource, requested, used, capacity)| Shortage {
        resource,
        requested,
        used,
        capacity,
    })
}

fn reject_by_place(node: &NodeOffer, pod: &Pod) -> Option<Admission> {
    let Place { labels, taints } = node.place.as_ref()?;
    let required = pod.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()?.required.as_ref());
    let selected = pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|selector| selector.matches(&node.name, labels));
    if !selected {
        return Some(Admission::Reject {
            reason: "NodeAffinity".to_owned(),
            message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned(),
        });
    }
    // The other effects are the scheduler's alone: who names the node is let in.
    let taint = taints.iter().find(|t| t.effect == TaintEffect::NoExecute && !tolerated(pod, t))?;
    Some(Admission::Reject {
        reason: "TaintToleration".to_owned(),
        message: format!(
            "Predicate TaintToleration failed: node(s) had untolerated taint {{{}: {}}}",
            taint.key, taint.value
        ),
    })
}

fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    pod.spec.tolerations.iter().any(|t| tolerates(t, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.is_empty() || toleration.effect == taint.effect.as_str();
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let value = match toleration.operator {
        Some(TolerationOperator::Exists) => true,
        _ => toleration.value == taint.value,
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{pod, with_resources};

    fn node() -> NodeOffer {
        let allocatable = Amounts { cpu_millis: 1000, memory_bytes: 1000, ephemeral_storage_bytes: 1000 };
        NodeOffer { allocatable, pods: 2, ..NodeOffer::default() }
    }

    fn asking(cpu: &str, memory: &str) -> Pod {
        let mut pod = pod(&["a"]);
        with_resources(&mut pod.spec.containers[0], &[("cpu", cpu), ("memory", memory)], &[]);
        pod
    }

    fn held(cpu_millis: i64, memory_bytes: i64, terminating: bool) -> Held {
        let requests = Amounts { cpu_millis, memory_bytes, ..Amounts::default() };
        holding(Claim { requests, ..Claim::default() }, terminating)
    }

    fn holding(claim: Claim, terminating: bool) -> Held {
        Held { claim: Arc::new(claim), terminating, finished: false }
    }

    fn message(verdict: Admission) -> String {
        match verdict {
            Admission::Reject { reason, message } => format!("{reason}: {message}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_runs_waits_or_is_refused_by_what_is_left() {
        let short = "Node didn't have enough resource: ";
        let cases = [
            // held, cpu, memory, verdict
            (vec![], "1", "1000", "Admit".to_owned()),
            (vec![held(500, 0, false)], "500m", "1", "Admit".to_owned()),
            (
                vec![held(500, 0, false)],
                "2",
                "1",
                format!("OutOfcpu: {short}cpu, requested: 2000, used: 500, capacity: 1000"),
            ),
            (vec![held(500, 0, true)], "1", "1", "Wait".to_owned()),
            (
                vec![held(500, 0, true)],
                "2",
                "1",
                format!("OutOfcpu: {short}cpu, requested: 2000, used: 0, capacity: 1000"),
            ),
            (
                vec![held(0, 600, false)],
                "0",
                "500",
                format!("OutOfmemory: {short}memory, requested: 500, used: 600, capacity: 1000"),
            ),
            (
                vec![held(0, 0, false), held(0, 0, false)],
                "0",
                "0",
                format!("OutOfpods: {short}pods, requested: 1, used: 2, capacity: 2"),
            ),
            (vec![held(0, 0, false), held(0, 0, true)], "0", "0", "Wait".to_owned()),
            (vec![held(2000, 0, false)], "0", "1", "Admit".to_owned()),
        ];
        for (held, cpu, memory, expected) in cases {
            assert_eq!(message(admit(&node(), &held, &asking(cpu, memory))), expected, "{cpu} {memory} {held:?}");
        }
    }

    #[test]
    fn a_finished_pod_holds_nothing() {
        let finished = Held { finished: true, ..held(1000, 1000, false) };
        assert_eq!(admit(&node(), &[finished.clone(), finished], &asking("1", "1000")), Admission::Admit);
    }

    #[test]
    fn extended_resources_and_ports_are_counted_too() {
        let gpu = |n: i64| BTreeMap::from([("nvidia.com/gpu".to_owned(), n)]);
        let node = NodeOffer { extended: gpu(2), ..node() };
        let mut pod = pod(&["a"]);
        with_resources(&mut pod.spec.containers[0], &[("nvidia.com/gpu", "2")], &[]);
        assert_eq!(admit(&node, &[], &pod), Admission::Admit);
        let one = holding(Claim { extended: gpu(1), ..Claim::default() }, false);
        assert_eq!(
            message(admit(&node, &[one], &pod)),
            "OutOfnvidia.com/gpu: Node didn't have enough resource: nvidia.com/gpu, requested: 2, used: 1, capacity: 2"
        );
        let mut web = crate::fixtures::pod(&["a"]);
        let port = podbus_common::model::ContainerPort { host_port: 80, protocol: "TCP".into(), ..Default::default() };
        web.spec.containers[0].ports.push(port);
        let with_port = |terminating| holding(Claim { ports: HostPort::of(&web), ..Claim::default() }, terminating);
        assert_eq!(admit(&node, &[with_port(true)], &web), Admission::Wait);
        assert!(message(admit(&node, &[with_port(false)], &web)).starts_with("NodePorts: Predicate NodePorts failed"));
    }

    #[test]
    fn a_node_that_does_not_match_refuses() {
        let mut pod = pod(&["a"]);
        pod.spec.node_selector.insert("disk".into(), "ssd".into());
        let placed = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            NodeOffer { place: Some(Place { labels, taints: Vec::new() }), ..node() }
        };
        assert!(message(admit(&placed(&[]), &[], &pod)).starts_with("NodeAffinity: Predicate NodeAffinity failed"));
        assert_eq!(admit(&placed(&[("disk", "ssd")]), &[], &pod), Admission::Admit);
        assert_eq!(admit(&node(), &[], &pod), Admission::Admit, "nobody has told yet which labels it has");
    }

    #[test]
    fn only_no_execute_taints_keep_out_a_pod_that_was_placed_here() {
        let taint = |effect| Taint { key: "gpu".into(), value: "true".into(), effect, time_added: None };
        let tainted =
            |effect| NodeOffer { place: Some(Place { taints: vec![taint(effect)], ..Place::default() }), ..node() };
        assert_eq!(admit(&tainted(TaintEffect::NoSchedule), &[], &pod(&["a"])), Admission::Admit);
        let refused = message(admit(&tainted(TaintEffect::NoExecute), &[], &pod(&["a"])));
        assert!(refused.ends_with("untolerated taint {gpu: true}"), "{refused}");
        let mut tolerant = pod(&["a"]);
        tolerant.spec.tolerations.push(Toleration { key: "gpu".into(), value: "true".into(), ..Toleration::default() });
        assert_eq!(admit(&tainted(TaintEffect::NoExecute), &[], &tolerant), Admission::Admit);
    }
}
