//! What Kubernetes fills in where a manifest says nothing.

use crate::image_name::ImageName;
use crate::model::{
    Container, EmptyDirVolume, Pod, PodSpec, PullPolicy, ResourceRequirements, Toleration, TolerationOperator,
};
use crate::quantity::Quantity;

/// The namespace of an object that names none.
pub const NAMESPACE: &str = "default";
/// Seconds from SIGTERM to SIGKILL.
pub(crate) const TERMINATION_GRACE_PERIOD_SECONDS: u32 = 30;
/// How long a pod bears a node that is not ready or cannot be reached.
pub const TOLERATION_SECONDS: i64 = 300;
/// Who places a pod that names nobody.
pub(crate) const SCHEDULER_NAME: &str = "default-scheduler";
/// The classes that are always there, and their priorities.
pub(crate) const PRIORITY_CLASSES: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
/// The taint of a node that says that it is not ready.
pub const TAINT_NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of a node that says nothing.
pub const TAINT_UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Letters of generated names: without vowels and look-alikes, so that no word comes out.
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// The longest prefix, so that prefix and five letters are a DNS label.
const NAME_PREFIX_BYTES_MAX: usize = 58;

/// The name of an object that has only `generateName`: the prefix and five letters, chosen by `random`.
pub fn generated_name(prefix: &str, random: [u8; 5]) -> String {
    let prefix: String = prefix.chars().take(NAME_PREFIX_BYTES_MAX).collect();
    let letter = |byte: u8| char::from(NAME_LETTERS[usize::from(byte) % NAME_LETTERS.len()]);
    prefix + &random.map(letter).iter().collect::<String>()
}

/// Completes a pod as Kubernetes does when it takes one in. `toleration_seconds`: how long it bears a lost node,
/// unless it says so itself ([`TOLERATION_SECONDS`] in Kubernetes). Twice is as good as once.
pub fn set_defaults(pod: &mut Pod, toleration_seconds: i64) {
    if pod.metadata.namespace.is_empty() {
        NAMESPACE.clone_into(&mut pod.metadata.namespace);
    }
    pod.metadata.generation = pod.metadata.generation.max(1);
    let spec = &mut pod.spec;
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_PERIOD_SECONDS);
    spec.security_context.get_or_insert_default();
    if spec.scheduler_name.is_empty() {
        SCHEDULER_NAME.clone_into(&mut spec.scheduler_name);
    }
    spec.priority.get_or_insert(class_priority(&spec.priority_class_name).unwrap_or(0));
    spec.preemption_policy.get_or_insert_default();
    for constraint in &mut spec.topology_spread_constraints {
        constraint.node_affinity_policy.get_or_insert_with(|| "Honor".to_owned());
        constraint.node_taints_policy.get_or_insert_with(|| "Ignore".to_owned());
    }
    for volume in &mut spec.volumes {
        if volume.empty_dir.is_none() && volume.host_path.is_none() {
            volume.empty_dir = Some(EmptyDirVolume::default());
        }
        if let Some(limit) = volume.empty_dir.as_mut().and_then(|dir| dir.size_limit.as_mut()) {
            canonicalise(limit);
        }
    }
    for container in spec.init_containers.iter_mut().chain(&mut spec.containers) {
        set_container_defaults(container);
    }
    tolerate(spec, TAINT_NOT_READY, toleration_seconds);
    tolerate(spec, TAINT_UNREACHABLE, toleration_seconds);
}

/// The priority of a class; `None`: there is no such class.
pub(crate) fn class_priority(name: &str) -> Option<i32> {
    PRIORITY_CLASSES.into_iter().find(|(class, _)| *class == name).map(|(_, priority)| priority)
}

fn set_container_defaults(container: &mut Container) {
    container.image_pull_policy.get_or_insert_with(|| default_pull_policy(&container.image));
    for port in &mut container.ports {
        if port.protocol.is_empty() {
            "TCP".clone_into(&mut port.protocol);
        }
    }
    set_resource_defaults(&mut container.resources);
}

/// `Always` for `latest` or no tag at all, else `IfNotPresent`.
pub(crate) fn default_pull_policy(image: &str) -> PullPolicy {
    match ImageName::parse(image) {
        Ok(name) if name.is_latest() => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

fn set_resource_defaults(resources: &mut ResourceRequirements) {
    for text in resources.limits.values_mut().chain(resources.requests.values_mut()) {
        canonicalise(text);
    }
    for (resource, limit) in &resources.limits {
        resources.requests.entry(resource.clone()).or_insert_with(|| limit.clone());
    }
}

/// As Kubernetes stores a quantity; what is none stays for validation to complain of.
fn canonicalise(text: &mut String) {
    if let Ok(quantity) = Quantity::parse(text) {
        *text = quantity.rounded_up_to_millis().to_string();
    }
}

/// What Kubernetes' admission plugin DefaultTolerationSeconds does.
fn tolerate(spec: &mut PodSpec, taint: &str, seconds: i64) {
    let borne = spec.tolerations.iter().any(|toleration| {
        (toleration.key == taint || toleration.key.is_empty())
            && (toleration.effect == "NoExecute" || toleration.effect.is_empty())
    });
    if !borne {
        spec.tolerations.push(Toleration {
            key: taint.to_owned(),
            operator: Some(TolerationOperator::Exists),
            effect: "NoExecute".to_owned(),
            toleration_seconds: Some(seconds),
            ..Toleration::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "so that callers write json!({...})")]
    fn defaulted(spec: serde_json::Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
        set_defaults(&mut pod, 300);
        pod
    }

    #[test]
    fn a_bare_pod_gets_kubernetes_defaults() {
        let pod = defaulted(json!({
            "containers": [{"name": "a", "image": "busybox", "ports": [{"containerPort": 80}]}],
            "volumes": [{"name": "v"}]
        }));
        assert_eq!(
            serde_json::to_value(&pod).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "web", "namespace": "default", "generation": 1},
                "spec": {
                    "containers": [{
                        "name": "a", "image": "busybox", "imagePullPolicy": "Always",
                        "ports": [{"containerPort": 80, "protocol": "TCP"}]
                    }],
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 30,
                    "securityContext": {},
                    "priority": 0,
                    "preemptionPolicy": "PreemptLowerPriority",
                    "schedulerName": "default-scheduler",
                    "tolerations": [
                        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
                    ],
                    "volumes": [{"name": "v", "emptyDir": {}}]
                }
            })
        );
    }

    #[test]
    fn requests_come_from_limits_where_they_are_not_given() {
        let pod = defaulted(json!({"containers": [{"name": "a", "image": "busybox:1", "resources": {
            "limits": {"cpu": "1", "memory": "0.5Gi"}, "requests": {"cpu": "0.0001"}
        }}]}));
        let container = &pod.spec.containers[0];
        assert_eq!(container.image_pull_policy, Some(PullPolicy::IfNotPresent));
        assert_eq!(container.resources.requests["cpu"], "1m");
        assert_eq!(container.resources.requests["memory"], "512Mi");
        assert_eq!(container.resources.limits["memory"], "512Mi");
    }

    #[test]
    fn a_pod_that_bears_a_lost_node_already_keeps_its_own_word() {
        let pod = defaulted(json!({"containers": [], "tolerations": [
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}
        ]}));
        let seconds: Vec<_> = pod.spec.tolerations.iter().map(|t| t.toleration_seconds).collect();
        assert_eq!(seconds, [Some(5), None, Some(300)]);
        assert_eq!(pod.spec.tolerations[2].key, TAINT_NOT_READY);
    }

    #[test]
    fn a_generated_name_is_a_label_of_its_prefix_and_five_letters() {
        assert_eq!(generated_name("web-", [0, 1, 2, 26, 27]), "web-bcd9b");
        assert_eq!(generated_name(&"a".repeat(100), [0; 5]).len(), 63);
    }

    #[test]
    fn defaults_twice_are_defaults_once() {
        let once = defaulted(json!({"containers": [{"name": "a", "image": "x:2"}]}));
        let mut twice = once.clone();
        set_defaults(&mut twice, 300);
        assert_eq!(once, twice);
    }
}
