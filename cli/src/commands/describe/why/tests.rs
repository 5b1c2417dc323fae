#![expect(clippy::needless_pass_by_value, reason = "builders read best with values")]

use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_764_000_000_000);

fn pod(spec: Value, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

fn asks(memory: &str) -> Value {
    json!({"containers": [{"name": "web", "resources": {"requests": {"memory": memory}}}]})
}

fn node(name: &str, ready: bool, memory: &str, taint: Option<&str>) -> Node {
    let taints: Vec<Value> =
        taint.map(|key| json!({"key": key, "value": "true", "effect": "NoSchedule"})).into_iter().collect();
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"taints": taints},
        "status": {
            "allocatable": {"cpu": "1", "memory": memory},
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}],
        },
    }))
    .unwrap()
}

fn why(pod: &Pod, nodes: Vec<Node>, pods: Vec<Pod>) -> String {
    sentence(pod, &Surroundings { nodes, pods }, NOW).unwrap_or_default()
}

#[test]
fn a_pod_that_fits_nowhere_says_what_it_needs_and_what_is_left() {
    let pending = json!({"phase": "Pending"});
    let mut other = pod(asks("1Gi"), json!({"phase": "Running"}));
    other.spec.node_name = "a".into();
    let nodes = || vec![node("a", true, "4Gi", None), node("b", true, "2Gi", None)];
    assert_eq!(
        why(&pod(asks("3.5Gi"), pending.clone()), nodes(), vec![other]),
        "Why pending: needs 3.5Gi of memory; the freest node (a) has 3Gi left. Free memory, lower the request, or add \
         a node."
    );
    assert_eq!(
        why(&pod(asks("9Gi"), pending), nodes(), vec![]),
        "Why pending: needs 9Gi of memory; the largest node offers 4Gi. Lower the request, or add a larger node."
    );
}

#[test]
fn a_pod_without_a_possible_node_says_which_rule_keeps_it_away() {
    let pending = || json!({"phase": "Pending"});
    let plain = pod(asks("1Mi"), pending());
    let picky = pod(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), pending());
    for (pod, nodes, expected) in [
        (&plain, vec![], "the cluster has no node"),
        (&plain, vec![node("a", false, "1Gi", None)], "none of the 1 nodes is ready"),
        (&picky, vec![node("a", true, "1Gi", None)], "no ready node has the labels disk=ssd"),
        (&plain, vec![node("a", true, "1Gi", Some("gpu"))], "such as gpu=true:NoSchedule"),
        (&plain, vec![node("a", true, "1Gi", None)], "the scheduler has not placed it yet"),
    ] {
        let sentence = why(pod, nodes, vec![]);
        assert!(sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn a_container_that_cannot_start_says_why_and_what_helps() {
    let spec = json!({"nodeName": "node-1", "containers": [{"name": "web", "image": "localhost/web"}]});
    let status = |state: Value, last: Value| json!({"phase": "Pending", "containerStatuses": [{"name": "web", "state": state, "lastState": last}]});
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "told"}});
    let crashed = json!({"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2025-11-24T15:59:50Z"}});
    for (state, last, expected) in [
        (waiting("ErrImageNeverPull"), json!({}), "node-1 does not have the image localhost/web"),
        (waiting("ImagePullBackOff"), json!({}), "cannot pull the image localhost/web for container web: told"),
        (waiting("CrashLoopBackOff"), crashed, "It last ended 10s ago, with exit code 3."),
        (waiting("CreateContainerConfigError"), json!({}), "cannot be started: told"),
        (waiting("ContainerCreating"), json!({}), "node-1 is making its containers"),
    ] {
        let sentence = why(&pod(spec.clone(), status(state, last)), vec![node("node-1", true, "1Gi", None)], vec![]);
        assert!(sentence.starts_with("Why pending: ") && sentence.contains(expected), "{sentence}");
    }
}

#[test]
fn a_pod_that_is_well_needs_no_sentence() {
    let spec = json!({"nodeName": "node-1", "containers": [{"name": "web"}]});
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "web", "ready": true, "state": {"running": {}}}]});
    let well = pod(spec.clone(), status);
    assert!(!needs_nodes(&well));
    assert_eq!(why(&well, vec![], vec![]), "");
    assert_eq!(why(&pod(spec, json!({"phase": "Succeeded"})), vec![], vec![]), "");
}

#[test]
fn a_lost_node_says_what_happens_next() {
    let spec = json!({"nodeName": "node-1", "containers": [{"name": "web"}], "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]});
    let mut lost = pod(spec, json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]}));
    let nodes = || vec![node("node-1", false, "1Gi", None)];
    assert_eq!(
        why(&lost, nodes(), vec![]),
        "Why not ready: its node node-1 does not answer. If it stays away for 5m, the pod is replaced on another node."
    );
    lost.metadata.deletion_timestamp = Some(NOW);
    assert!(why(&lost, nodes(), vec![]).contains("--force"));
}
