//! The rules of what says where a pod may go: affinity, spreading, priority, gates, ports of the node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::selector::{validate_label_selector, validate_node_selector_term};
use super::{Faults, names};
use crate::defaults::{PRIORITY_CLASSES, class_priority};
use crate::model::{
    Affinity, NodeAffinity, PodAffinity, PodAffinityTerm, PodSpec, RestartPolicy, TopologySpreadConstraint,
};

/// What is above belongs to the classes of the system.
const PRIORITY_MAX: i32 = 1_000_000_000;
const TOPOLOGY_KEY_EMPTY: &str = "can not be empty";

pub(super) fn validate_scheduling(spec: &PodSpec, faults: &mut Faults) {
    if let Some(affinity) = &spec.affinity {
        validate_affinity("spec.affinity", affinity, faults);
    }
    let mut constraints = BTreeSet::new();
    for (index, constraint) in spec.topology_spread_constraints.iter().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{index}]");
        validate_spread(&path, constraint, faults);
        if !constraints.insert((&constraint.topology_key, &constraint.when_unsatisfiable)) {
            let pair = format!("{{{}, {}}}", constraint.topology_key, constraint.when_unsatisfiable);
            faults.duplicate(&format!("{path}.{{topologyKey, whenUnsatisfiable}}"), &pair);
        }
    }
    validate_priority(spec, faults);
    let mut gates = BTreeSet::new();
    for (index, gate) in spec.scheduling_gates.iter().enumerate() {
        let path = format!("spec.schedulingGates[{index}]");
        faults.name(&path, &gate.name, names::qualified_name);
        if !gates.insert(&gate.name) {
            faults.duplicate(&path, &gate.name);
        }
    }
    if !gates.is_empty() && !spec.node_name.is_empty() {
        faults.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
    if !spec.scheduler_name.is_empty() {
        faults.name("spec.schedulerName", &spec.scheduler_name, names::dns_subdomain);
    }
}

fn validate_priority(spec: &PodSpec, faults: &mut Faults) {
    let class = &spec.priority_class_name;
    match (class_priority(class), spec.priority) {
        (None, _) if !class.is_empty() => {
            let known = PRIORITY_CLASSES.map(|(name, _)| format!("\"{name}\"")).join(", ");
            faults.forbidden(
                "spec.priorityClassName",
                &format!("no PriorityClass with name {class} was found: there are {known}"),
            );
        }
        (Some(computed), Some(given)) if given != computed => faults.forbidden(
            "spec.priority",
            &format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {computed} from the given PriorityClass name"
            ),
        ),
        (None, Some(given)) if given > PRIORITY_MAX => {
            faults.invalid_number("spec.priority", given, &format!("must be at most {PRIORITY_MAX}"));
        }
        _ => {}
    }
}

fn validate_affinity(path: &str, affinity: &Affinity, faults: &mut Faults) {
    if let Some(nodes) = &affinity.node_affinity {
        validate_node_affinity(&format!("{path}.nodeAffinity"), nodes, faults);
    }
    for (field, pods) in [("podAffinity", &affinity.pod_affinity), ("podAntiAffinity", &affinity.pod_anti_affinity)] {
        if let Some(pods) = pods {
            validate_pod_affinity(&format!("{path}.{field}"), pods, faults);
        }
    }
}

fn validate_node_affinity(path: &str, affinity: &NodeAffinity, faults: &mut Faults) {
    if let Some(required) = &affinity.required {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        if required.node_selector_terms.is_empty() {
            faults.required(&path, "must have at least one node selector term");
        }
        for (index, term) in required.node_selector_terms.iter().enumerate() {
            validate_node_selector_term(&format!("{path}[{index}]"), term, faults);
        }
    }
    for (index, wish) in affinity.preferred.iter().enumerate() {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
        validate_weight(&path, wish.weight, faults);
        validate_node_selector_term(&format!("{path}.preference"), &wish.preference, faults);
    }
}

fn validate_pod_affinity(path: &str, affinity: &PodAffinity, faults: &mut Faults) {
    for (index, term) in affinity.required.iter().enumerate() {
        let path = format!("{path}.requiredDuringSchedulingIgnoredDuringExecution[{index}]");
        validate_pod_affinity_term(&path, term, faults);
    }
    for (index, wish) in affinity.preferred.iter().enumerate() {
        let path = format!("{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]");
        validate_weight(&path, wish.weight, faults);
        validate_pod_affinity_term(&format!("{path}.podAffinityTerm"), &wish.pod_affinity_term, faults);
    }
}

fn validate_weight(path: &str, weight: i32, faults: &mut Faults) {
    if !(1..=100).contains(&weight) {
        faults.invalid_number(&format!("{path}.weight"), weight, "must be in the range 1-100");
    }
}

fn validate_pod_affinity_term(path: &str, term: &PodAffinityTerm, faults: &mut Faults) {
    let selectors = [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)];
    for (field, selector) in selectors {
        if let Some(selector) = selector {
            validate_label_selector(&format!("{path}.{field}"), selector, faults);
        }
    }
    for (index, namespace) in term.namespaces.iter().enumerate() {
        faults.name(&format!("{path}.namespaces[{index}]"), namespace, names::dns_label);
    }
    validate_topology_key(path, &term.topology_key, faults);
    let keys = [("matchLabelKeys", &term.match_label_keys), ("mismatchLabelKeys", &term.mismatch_label_keys)];
    for (field, keys) in keys {
        validate_label_keys(&format!("{path}.{field}"), keys, term.label_selector.is_some(), faults);
    }
}

fn validate_topology_key(path: &str, key: &str, faults: &mut Faults) {
    let path = format!("{path}.topologyKey");
    if key.is_empty() {
        faults.required(&path, TOPOLOGY_KEY_EMPTY);
    } else {
        faults.name(&path, key, names::qualified_name);
    }
}

fn validate_label_keys(path: &str, keys: &[String], has_selector: bool, faults: &mut Faults) {
    if !keys.is_empty() && !has_selector {
        faults.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (index, key) in keys.iter().enumerate() {
        faults.name(&format!("{path}[{index}]"), key, names::qualified_name);
    }
}

fn validate_spread(path: &str, constraint: &TopologySpreadConstraint, faults: &mut Faults) {
    if constraint.max_skew < 1 {
        faults.invalid_number(&format!("{path}.maxSkew"), constraint.max_skew, "must be greater than zero");
    }
    validate_topology_key(path, &constraint.topology_key, faults);
    let when = &constraint.when_unsatisfiable;
    if when.is_empty() {
        faults.required(&format!("{path}.whenUnsatisfiable"), "");
    }
    faults.one_of(&format!("{path}.whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
    if let Some(domains) = constraint.min_domains {
        let path = format!("{path}.minDomains");
        if domains < 1 {
            faults.invalid_number(&path, domains, "must be greater than 0");
        }
        if when == "ScheduleAnyway" {
            faults.invalid_number(
                &path,
                domains,
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
            );
        }
    }
    let policies = [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ];
    for (field, policy) in policies {
        if let Some(policy) = policy {
            faults.one_of(&format!("{path}.{field}"), policy, &["Honor", "Ignore"]);
        }
    }
    if let Some(selector) = &constraint.label_selector {
        validate_label_selector(&format!("{path}.labelSelector"), selector, faults);
    }
    let has_selector = constraint.label_selector.is_some();
    validate_label_keys(&format!("{path}.matchLabelKeys"), &constraint.match_label_keys, has_selector, faults);
}

/// A port of the node belongs to one container of the pod.
pub(super) fn validate_host_ports(spec: &PodSpec, faults: &mut Faults) {
    let sidecars = |c: &&crate::model::Container| c.restart_policy == Some(RestartPolicy::Always);
    let init = spec.init_containers.iter().enumerate().filter(|(_, c)| sidecars(c)).map(|c| ("initContainers", c));
    let mut taken = BTreeSet::new();
    for (list, (index, container)) in spec.containers.iter().enumerate().map(|c| ("containers", c)).chain(init) {
        for (port_index, port) in container.ports.iter().enumerate() {
            let path = format!("spec.{list}[{index}].ports[{port_index}]");
            if !port.host_ip.is_empty() && port.host_ip.parse::<IpAddr>().is_err() {
                faults.invalid(
                    &format!("{path}.hostIP"),
                    &port.host_ip,
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                );
            }
            let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
            if port.host_port > 0 && !taken.insert((protocol, port.host_ip.as_str(), port.host_port)) {
                faults
                    .duplicate(&format!("{path}.hostPort"), &format!("{protocol}/{}/{}", port.host_ip, port.host_port));
            }
        }
    }
}
