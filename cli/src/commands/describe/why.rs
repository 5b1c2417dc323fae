//! Why a pod waits, in one plain sentence and with what a person can do. Pure.

use std::cmp::Reverse;

use podbus_common::model::{
    Container, ContainerStatus, Node, Pod, PodPhase, PodStatus, RestartPolicy, Taint, TaintEffect, Timestamp,
    Toleration, TolerationOperator,
};
use podbus_common::print;
use podbus_common::quantity::Quantity;

use super::node::{Amount, Which, of_pod};

/// What else must be known to say why.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// All nodes.
    pub(crate) nodes: Vec<Node>,
    /// Pods that have not ended; needed for a pod without a node.
    pub(crate) pods: Vec<Pod>,
}

/// Whether [`sentence`] needs [`Surroundings`].
pub(super) fn needs_nodes(pod: &Pod) -> bool {
    let ended = pod.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    !ended && (pod.metadata.deletion_timestamp.is_some() || !condition_is(pod, "Ready", "True"))
}

/// The sentence; `None` when nothing waits.
pub(super) fn sentence(pod: &Pod, around: &Surroundings, now: Timestamp) -> Option<String> {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(format!("Why terminating: {}", terminating(pod, around, now)));
    }
    match status.phase {
        PodPhase::Succeeded => None,
        PodPhase::Failed => failed(status).map(|why| format!("Why failed: {why}")),
        PodPhase::Pending if pod.spec.node_name.is_empty() => {
            Some(format!("Why pending: {}", unplaced(pod, status, around)))
        }
        phase => {
            let why = lost_node(pod, around).or_else(|| waiting(pod, status, now))?;
            let title = if phase == PodPhase::Pending { "pending" } else { "not ready" };
            Some(format!("Why {title}: {why}"))
        }
    }
}

fn condition_is(pod: &Pod, kind: &str, value: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.kind == kind && condition.status == value)
}

fn is_ready(node: &Node) -> bool {
    node.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
}

// === the node has gone, or the pod is going ===

fn lost_node(pod: &Pod, around: &Surroundings) -> Option<String> {
    let name = &pod.spec.node_name;
    match around.nodes.iter().find(|node| node.metadata.name == *name) {
        Some(node) if is_ready(node) => None,
        None if around.nodes.is_empty() => None,
        _ => {
            let tolerated = pod.spec.tolerations.iter().filter(|t| t.key == "node.kubernetes.io/unreachable");
            let then = match (pod.spec.restart_policy, tolerated.filter_map(|t| t.toleration_seconds).min()) {
                (RestartPolicy::Never, _) | (_, None) => "The pod stays until the node comes back.".to_owned(),
                (_, Some(seconds)) => {
                    format!("If it stays away for {}, the pod is replaced on another node.", print::duration(seconds))
                }
            };
            Some(format!("its node {name} does not answer. {then}"))
        }
    }
}

fn terminating(pod: &Pod, around: &Surroundings, now: Timestamp) -> String {
    let (name, node) = (&pod.metadata.name, &pod.spec.node_name);
    let known = around.nodes.iter().find(|known| known.metadata.name == *node);
    if !known.is_none_or(is_ready) {
        return format!(
            "its node {node} does not answer. The pod is removed when the node comes back, or now with `podbus delete \
             pod {name} -n {} --force`.",
            pod.metadata.namespace
        );
    }
    match pod.metadata.deletion_timestamp.map(|at| at.seconds_since(now)) {
        Some(left @ 1..) => format!("its containers have {} to end by themselves.", print::duration(left)),
        _ => format!("its grace is over; {node} is cleaning up."),
    }
}

// === no node takes it ===

fn unplaced(pod: &Pod, status: &PodStatus, around: &Surroundings) -> String {
    let gates: Vec<&str> = pod.spec.scheduling_gates.iter().map(|gate| gate.name.as_str()).collect();
    if !gates.is_empty() {
        return format!("its scheduling gates hold it back: {}. Apply it without them.", gates.join(", "));
    }
    if !status.nominated_node_name.is_empty() {
        return format!("pods of lower priority leave {} for it.", status.nominated_node_name);
    }
    if around.nodes.is_empty() {
        return "the cluster has no node. Start some with `podbus up`.".into();
    }
    let ready: Vec<&Node> = around.nodes.iter().filter(|node| is_ready(node)).collect();
    if ready.is_empty() {
        return format!("none of the {} nodes is ready: see `podbus describe nodes`.", around.nodes.len());
    }
    let matching: Vec<&Node> = ready.into_iter().filter(|node| selected(pod, node)).collect();
    if matching.is_empty() {
        let labels: Vec<String> = pod.spec.node_selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        return format!(
            "no ready node has the labels {}. Change spec.nodeSelector, or start a node with them.",
            labels.join(", ")
        );
    }
    let open: Vec<&Node> = matching.iter().copied().filter(|node| repelling(pod, node).is_none()).collect();
    if open.is_empty() {
        let taint = matching.iter().find_map(|node| repelling(pod, node)).map(describe_taint).unwrap_or_default();
        return format!("each node that it may run on has a taint that it does not tolerate, such as {taint}.");
    }
    if let Some(sentence) = too_big(pod, &open, &around.pods) {
        return sentence;
    }
    match status.conditions.iter().find(|condition| condition.kind == "PodScheduled" && condition.status == "False") {
        Some(condition) if !condition.message.is_empty() => condition.message.clone(),
        _ => "the scheduler has not placed it yet.".into(),
    }
}

fn selected(pod: &Pod, node: &Node) -> bool {
    pod.spec.node_selector.iter().all(|(key, value)| node.metadata.labels.get(key) == Some(value))
}

fn repelling<'n>(pod: &Pod, node: &'n Node) -> Option<&'n Taint> {
    let harmful = node.spec.taints.iter().filter(|taint| taint.effect != TaintEffect::PreferNoSchedule);
    harmful.into_iter().find(|taint| !pod.spec.tolerations.iter().any(|toleration| bears(toleration, taint)))
}

fn bears(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let effect = toleration.effect.is_empty() || toleration.effect == taint.effect.as_str();
    let value = match toleration.operator {
        Some(TolerationOperator::Exists) => true,
        _ => toleration.value == taint.value,
    };
    key && effect && value
}

fn describe_taint(taint: &Taint) -> String {
    match taint.value.as_str() {
        "" => format!("{}:{}", taint.key, taint.effect.as_str()),
        value => format!("{}={value}:{}", taint.key, taint.effect.as_str()),
    }
}

/// The first resource of which no open node has enough left.
fn too_big(pod: &Pod, open: &[&Node], pods: &[Pod]) -> Option<String> {
    for resource in ["cpu", "memory", "ephemeral-storage"] {
        let wanted = of_pod(pod, resource, Which::Requests);
        let (left, freest) =
            open.iter().map(|node| (left(node, resource, pods), *node)).max_by_key(|(left, node)| {
                // Of equals the first by name.
                (*left, Reverse(node.metadata.name.clone()))
            })?;
        if wanted <= left {
            continue;
        }
        let largest = open.iter().map(|node| offered(node, resource)).max().unwrap_or_default();
        let (wanted_text, unit) = (wanted.text(resource), unit(resource));
        if wanted > largest {
            return Some(format!(
                "needs {wanted_text}{unit}; the largest node offers {}. Lower the request, or add a larger node.",
                largest.text(resource)
            ));
        }
        return Some(format!(
            "needs {wanted_text}{unit}; the freest node ({}) has {} left. Free {}, lower the request, or add a node.",
            freest.metadata.name,
            left.max(Amount(0)).text(resource),
            what(resource),
        ));
    }
    None
}

fn unit(resource: &str) -> &'static str {
    match resource {
        "cpu" => " CPU",
        "memory" => " of memory",
        _ => " of disk",
    }
}

fn what(resource: &str) -> &'static str {
    match resource {
        "cpu" => "some CPU",
        "memory" => "memory",
        _ => "disk space",
    }
}

fn offered(node: &Node, resource: &str) -> Amount {
    let quantity = node.status.allocatable.get(resource).and_then(|text| Quantity::parse(text).ok());
    Amount(quantity.map_or(0, |quantity| i128::from(quantity.milli_value())))
}

fn left(node: &Node, resource: &str, pods: &[Pod]) -> Amount {
    let here = pods.iter().filter(|pod| pod.spec.node_name == node.metadata.name);
    let used: i128 = here.map(|pod| of_pod(pod, resource, Which::Requests).0).sum();
    Amount(offered(node, resource).0 - used)
}

// === the node works on it ===

fn waiting(pod: &Pod, status: &PodStatus, now: Timestamp) -> Option<String> {
    let init = pod.spec.init_containers.iter().zip(&status.init_container_statuses);
    let main = pod.spec.containers.iter().zip(&status.container_statuses);
    let mut containers = init.clone().chain(main);
    if let Some(why) = containers.find_map(|(spec, status)| stuck(pod, spec, status, now)) {
        return Some(why);
    }
    let initializing = |(spec, status): &(&Container, &ContainerStatus)| {
        spec.restart_policy != Some(RestartPolicy::Always) && status.state.running.is_some()
    };
    if let Some((spec, _)) = init.clone().find(initializing) {
        return Some(format!(
            "init container {0} is still running; the containers start when it has ended. See `podbus logs {1} -c {0}`.",
            spec.name, pod.metadata.name
        ));
    }
    (status.phase == PodPhase::Pending).then(|| format!("{} is making its containers.", pod.spec.node_name))
}

fn stuck(pod: &Pod, spec: &Container, status: &ContainerStatus, now: Timestamp) -> Option<String> {
    let waiting = status.state.waiting.as_ref()?;
    let (container, image, node) = (&spec.name, &spec.image, &pod.spec.node_name);
    let told = if waiting.message.is_empty() { &waiting.reason } else { &waiting.message };
    Some(match waiting.reason.as_str() {
        "CrashLoopBackOff" => {
            let how = status.last_state.terminated.as_ref().map_or_else(String::new, |ended| {
                let when = ended
                    .finished_at
                    .map_or_else(String::new, |at| format!(" {} ago", print::duration(now.seconds_since(at))));
                match ended.reason.as_str() {
                    "OOMKilled" => format!(" It last ended{when}: it needed more memory than its limit (OOMKilled)."),
                    _ => format!(" It last ended{when}, with exit code {}.", ended.exit_code),
                }
            });
            format!(
                "container {container} keeps ending and is started again after a pause.{how} See `podbus logs {} -c \
                 {container} --previous`.",
                pod.metadata.name
            )
        }
        "ErrImageNeverPull" => format!(
            "{node} does not have the image {image}, and it is never pulled. Load it with `podbus image load FILE`, or \
             change imagePullPolicy."
        ),
        "ErrImagePull" | "ImagePullBackOff" => {
            format!("{node} cannot pull the image {image} for container {container}: {told}")
        }
        "InvalidImageName" => format!("container {container} has an image name that cannot be read: {image}"),
        "ContainerCreating" | "PodInitializing" | "" => return None,
        _ => format!("container {container} cannot be started: {told}"),
    })
}

fn failed(status: &PodStatus) -> Option<String> {
    if !status.message.is_empty() {
        return Some(status.message.clone());
    }
    let ended = status.init_container_statuses.iter().chain(&status.container_statuses);
    let (container, end) = ended
        .filter_map(|status| Some((&status.name, status.state.terminated.as_ref()?)))
        .find(|(_, end)| end.exit_code != 0)?;
    Some(match end.reason.as_str() {
        "OOMKilled" => format!("container {container} needed more memory than its limit (OOMKilled)."),
        _ => format!("container {container} ended with exit code {}.", end.exit_code),
    })
}

#[cfg(test)]
mod tests;
