//! What pods and nodes are, by the names of kube-state-metrics: without them most boards for Kubernetes are empty.
//!
//! As kube-state-metrics does, it asks the API: the leader's own memory is not touched for it.

use std::collections::BTreeMap;

use podbus_common::api::ListRequest;
use podbus_common::model::{Container, ContainerStatus, Node, Pod, PodPhase};
use podbus_common::quantity::Quantity;
use podbus_common_bus::Bus;
use podbus_common_bus::api::Client;
use podbus_common_telemetry::{Kind, Labels, Samples};
use serde_json::Value;

/// A page of more pods is longer than Prometheus takes by default, and keeps the leader from its work.
const PODS_MAX: usize = 20_000;
const PHASES: [PodPhase; 5] =
    [PodPhase::Pending, PodPhase::Succeeded, PodPhase::Failed, PodPhase::Unknown, PodPhase::Running];

/// All pods and nodes of the cluster, page by page.
pub(crate) async fn page(bus: Bus) -> Result<String, String> {
    let client = Client::new(bus);
    let (mut pods, mut request) = (Vec::new(), ListRequest::default());
    loop {
        let page = client.list_page::<Value>(None, "pods", &request).await.map_err(|error| error.to_string())?;
        pods.extend(page.items);
        if page.metadata.continue_token.is_empty() {
            break;
        }
        if pods.len() > PODS_MAX {
            return Err(format!("there are more than {PODS_MAX} pods, which is more than this page shows"));
        }
        request.continue_token = page.metadata.continue_token;
    }
    let nodes = client.list(None, "nodes", &ListRequest::default()).await.map_err(|error| error.to_string())?;
    Ok(text(&read::<Pod>(pods), &read::<Node>(nodes.items)))
}

fn read<T: serde::de::DeserializeOwned>(objects: Vec<Value>) -> Vec<T> {
    objects.into_iter().filter_map(|object| serde_json::from_value(object).ok()).collect()
}

#[rustfmt::skip] // a line each
const FAMILIES: [(Kind, &str, &str); 24] = [
    (Kind::Gauge, "kube_pod_info", "Of a pod: where it is."),
    (Kind::Gauge, "kube_pod_owner", "Who made a pod; empty: a person."),
    (Kind::Gauge, "kube_pod_created", "When a pod was created, in seconds since 1970."),
    (Kind::Gauge, "kube_pod_start_time", "When a node took a pod, in seconds since 1970."),
    (Kind::Gauge, "kube_pod_status_phase", "1 for the phase that a pod is in."),
    (Kind::Gauge, "kube_pod_status_ready", "1 for what the condition Ready of a pod is."),
    (Kind::Gauge, "kube_pod_status_reason", "1 for the reason that a pod's status has."),
    (Kind::Gauge, "kube_pod_container_info", "Of a container: its image."),
    (Kind::Gauge, "kube_pod_container_resource_requests", "What a container asks for."),
    (Kind::Gauge, "kube_pod_container_resource_limits", "What a container may use."),
    (Kind::Counter, "kube_pod_container_status_restarts_total", "Restarts of a container."),
    (Kind::Gauge, "kube_pod_container_status_ready", "Whether a container is ready."),
    (Kind::Gauge, "kube_pod_container_status_running", "Whether a container runs."),
    (Kind::Gauge, "kube_pod_container_status_waiting", "Whether a container waits."),
    (Kind::Gauge, "kube_pod_container_status_waiting_reason", "1 for what a container waits for."),
    (Kind::Gauge, "kube_pod_container_status_terminated", "Whether a container has ended."),
    (Kind::Gauge, "kube_pod_container_status_terminated_reason", "1 for why a container ended."),
    (Kind::Gauge, "kube_pod_container_status_last_terminated_reason", "1 for why the run before the last ended."),
    (Kind::Gauge, "kube_node_info", "Of a node: its software."),
    (Kind::Gauge, "kube_node_created", "When a node registered first, in seconds since 1970."),
    (Kind::Gauge, "kube_node_status_capacity", "What a node has."),
    (Kind::Gauge, "kube_node_status_allocatable", "What a node offers to pods."),
    (Kind::Gauge, "kube_node_status_condition", "1 for what a condition of a node is."),
    (Kind::Gauge, "kube_node_spec_taint", "A taint of a node."),
];

fn text(pods: &[Pod], nodes: &[Node]) -> String {
    let mut samples = Samples::default();
    for (kind, name, help) in FAMILIES {
        samples.family(kind, name, help);
    }
    pods.iter().for_each(|pod| add_pod(pod, &mut samples));
    nodes.iter().for_each(|node| add_node(node, &mut samples));
    samples.into_text()
}

fn with(labels: &Labels, more: &[(&'static str, &str)]) -> Labels {
    let more = more.iter().map(|(key, value)| ((*key).into(), (*value).to_owned()));
    labels.iter().cloned().chain(more).collect()
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn seconds(unix_ms: i64) -> f64 {
    unix_ms.div_euclid(1000) as f64
}

// === Pods ===

fn add_pod(pod: &Pod, samples: &mut Samples) {
    let (meta, spec, status) = (&pod.metadata, &pod.spec, pod.status.clone().unwrap_or_default());
    let own = with(&Vec::new(), &[("namespace", &meta.namespace), ("pod", &meta.name), ("uid", &meta.uid)]);
    let info = [
        ("host_ip", status.host_ip.as_str()),
        ("pod_ip", &status.pod_ip),
        ("node", &spec.node_name),
        ("created_by_kind", ""),
        ("created_by_name", ""),
        ("priority_class", &spec.priority_class_name),
        ("host_network", "false"),
    ];
    samples.add("kube_pod_info", with(&own, &info), 1.0);
    let owner = [("owner_kind", ""), ("owner_name", ""), ("owner_is_controller", "")];
    samples.add("kube_pod_owner", with(&own, &owner), 1.0);
    if let Some(created) = meta.creation_timestamp {
        samples.add("kube_pod_created", own.clone(), seconds(created.unix_ms));
    }
    if let Some(started) = status.start_time {
        samples.add("kube_pod_start_time", own.clone(), seconds(started.unix_ms));
    }
    for phase in PHASES {
        let labels = with(&own, &[("phase", phase.as_str())]);
        samples.add("kube_pod_status_phase", labels, yes(status.phase == phase));
    }
    if !status.reason.is_empty() {
        samples.add("kube_pod_status_reason", with(&own, &[("reason", &status.reason)]), 1.0);
    }
    if let Some(ready) = status.conditions.iter().find(|condition| condition.kind == "Ready") {
        add_condition("kube_pod_status_ready", &own, "condition", &ready.status, samples);
    }
    for container in &spec.containers {
        add_requests(container, &with(&own, &[("node", &spec.node_name)]), samples);
    }
    for container in &status.container_statuses {
        add_container(container, &own, samples);
    }
}

/// One sample for each of the three words, 1 for the one that is.
fn add_condition(name: &str, own: &Labels, key: &'static str, is: &str, samples: &mut Samples) {
    for (word, label) in [("True", "true"), ("False", "false"), ("Unknown", "unknown")] {
        samples.add(name, with(own, &[(key, label)]), yes(is == word));
    }
}

fn add_requests(container: &Container, own: &Labels, samples: &mut Samples) {
    let own = with(own, &[("container", &container.name)]);
    let resources = &container.resources;
    for (name, amounts) in [
        ("kube_pod_container_resource_requests", &resources.requests),
        ("kube_pod_container_resource_limits", &resources.limits),
    ] {
        add_amounts(name, &own, amounts, samples);
    }
}

/// Resources with dashes for underscores and their unit, as kube-state-metrics writes them.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn add_amounts(name: &str, own: &Labels, amounts: &BTreeMap<String, String>, samples: &mut Samples) {
    for (resource, amount) in amounts {
        let Ok(amount) = Quantity::parse(amount) else { continue };
        let (unit, value) = match resource.as_str() {
            "cpu" => ("core", amount.milli_value() as f64 / 1000.0),
            "memory" | "ephemeral-storage" => ("byte", amount.value() as f64),
            _ => ("integer", amount.value() as f64),
        };
        let resource = resource.replace(['-', '.', '/'], "_");
        samples.add(name, with(own, &[("resource", &resource), ("unit", unit)]), value);
    }
}

fn add_container(container: &ContainerStatus, own: &Labels, samples: &mut Samples) {
    let own = with(own, &[("container", &container.name)]);
    let info = [
        ("image", container.image.as_str()),
        ("image_id", &container.image_id),
        ("container_id", &container.container_id),
    ];
    samples.add("kube_pod_container_info", with(&own, &info), 1.0);
    samples.add("kube_pod_container_status_restarts_total", own.clone(), f64::from(container.restart_count));
    samples.add("kube_pod_container_status_ready", own.clone(), yes(container.ready));
    let state = &container.state;
    samples.add("kube_pod_container_status_running", own.clone(), yes(state.running.is_some()));
    samples.add("kube_pod_container_status_waiting", own.clone(), yes(state.waiting.is_some()));
    samples.add("kube_pod_container_status_terminated", own.clone(), yes(state.terminated.is_some()));
    let reasons = [
        ("kube_pod_container_status_waiting_reason", state.waiting.as_ref().map(|waiting| &waiting.reason)),
        ("kube_pod_container_status_terminated_reason", state.terminated.as_ref().map(|ended| &ended.reason)),
        (
            "kube_pod_container_status_last_terminated_reason",
            container.last_state.terminated.as_ref().map(|ended| &ended.reason),
        ),
    ];
    for (name, reason) in reasons {
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            samples.add(name, with(&own, &[("reason", reason)]), 1.0);
        }
    }
}

// === Nodes ===

fn add_node(node: &Node, samples: &mut Samples) {
    let own = with(&Vec::new(), &[("node", &node.metadata.name)]);
    let info = &node.status.node_info;
    let address = node.status.addresses.iter().find(|address| address.kind == "InternalIP");
    let labels = [
        ("kernel_version", info.kernel_version.as_str()),
        ("os_image", &info.os_image),
        ("container_runtime_version", &info.container_runtime_version),
        ("kubelet_version", &info.kubelet_version),
        ("pod_cidr", &node.spec.pod_cidr),
        ("internal_ip", address.map_or("", |address| &address.address)),
    ];
    samples.add("kube_node_info", with(&own, &labels), 1.0);
    if let Some(created) = node.metadata.creation_timestamp {
        samples.add("kube_node_created", own.clone(), seconds(created.unix_ms));
    }
    add_amounts("kube_node_status_capacity", &own, &node.status.capacity, samples);
    add_amounts("kube_node_status_allocatable", &own, &node.status.allocatable, samples);
    for condition in &node.status.conditions {
        let own = with(&own, &[("condition", &condition.kind)]);
        add_condition("kube_node_status_condition", &own, "status", &condition.status, samples);
    }
    for taint in &node.spec.taints {
        let labels = [("key", taint.key.as_str()), ("value", &taint.value), ("effect", taint.effect.as_str())];
        samples.add("kube_node_spec_taint", with(&own, &labels), 1.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_the_series_that_boards_join_on() {
        let pod = json!({
            "metadata": {"namespace": "default", "name": "web", "uid": "u"},
            "spec": {"nodeName": "node-1", "containers": [
                {"name": "main", "image": "i", "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "64Mi"}}}
            ]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"name": "main", "restartCount": 2, "ready": true, "image": "i",
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
            ]}
        });
        let text = text(&read(vec![pod]), &[]);
        let own = "namespace=\"default\",pod=\"web\",uid=\"u\"";
        for line in [
            format!(
                "kube_pod_info{{{own},host_ip=\"\",pod_ip=\"\",node=\"node-1\",created_by_kind=\"\",created_by_name=\"\",priority_class=\"\",host_network=\"false\"}} 1.0"
            ),
            format!("kube_pod_owner{{{own},owner_kind=\"\",owner_name=\"\",owner_is_controller=\"\"}} 1.0"),
            format!("kube_pod_status_phase{{{own},phase=\"Running\"}} 1.0"),
            format!("kube_pod_status_phase{{{own},phase=\"Failed\"}} 0.0"),
            format!("kube_pod_status_ready{{{own},condition=\"true\"}} 1.0"),
            format!(
                "kube_pod_container_resource_requests{{{own},node=\"node-1\",container=\"main\",resource=\"cpu\",unit=\"core\"}} 0.25"
            ),
            format!(
                "kube_pod_container_resource_limits{{{own},node=\"node-1\",container=\"main\",resource=\"memory\",unit=\"byte\"}} 67108864.0"
            ),
            format!("kube_pod_container_status_restarts_total{{{own},container=\"main\"}} 2.0"),
            format!(
                "kube_pod_container_status_waiting_reason{{{own},container=\"main\",reason=\"CrashLoopBackOff\"}} 1.0"
            ),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_node_has_its_amounts_and_one_of_three_words_a_condition() {
        let node = json!({
            "metadata": {"name": "node-1"},
            "status": {"allocatable": {"cpu": "2", "nvidia.com/gpu": "4"},
                       "conditions": [{"type": "Ready", "status": "Unknown"}]}
        });
        let text = text(&[], &read(vec![node]));
        for line in [
            "kube_node_status_allocatable{node=\"node-1\",resource=\"cpu\",unit=\"core\"} 2.0",
            "kube_node_status_allocatable{node=\"node-1\",resource=\"nvidia_com_gpu\",unit=\"integer\"} 4.0",
            "kube_node_status_condition{node=\"node-1\",condition=\"Ready\",status=\"true\"} 0.0",
            "kube_node_status_condition{node=\"node-1\",condition=\"Ready\",status=\"unknown\"} 1.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
