use serde_json::{Value, json};

use super::*;
use crate::defaults::set_defaults;
use crate::model::Pod;

#[expect(clippy::needless_pass_by_value, reason = "so that callers write json!({...})")]
fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
}

fn defaulted(spec: Value) -> Pod {
    let mut pod = pod(spec);
    set_defaults(&mut pod, 300);
    pod
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_pod_has_no_faults_with_and_without_defaults() {
    let spec = json!({"containers": [{"name": "a", "image": "busybox"}]});
    assert_eq!(validate_pod(&pod(spec.clone())), []);
    assert_eq!(validate_pod(&defaulted(spec)), []);
}

#[test]
fn all_faults_are_found_at_once_and_told_as_kubernetes_does() {
    let errors = validate_pod(&pod(json!({"containers": [{"name": "a"}], "hostname": "a.b"})));
    assert_eq!(
        texts(&errors),
        ["spec.containers[0].image: Required value", "spec.hostname: Invalid value: \"a.b\": must not contain dots"]
    );
    assert_eq!(
        invalid_message("Pod", "web", &errors[..1]),
        "Pod \"web\" is invalid: spec.containers[0].image: Required value"
    );
    assert_eq!(
        invalid_message("Pod", "web", &errors),
        "Pod \"web\" is invalid: [spec.containers[0].image: Required value, spec.hostname: Invalid value: \"a.b\": must \
         not contain dots]"
    );
}

#[test]
fn only_images_and_added_tolerations_may_change() {
    let base = json!({"containers": [{"name": "a", "image": "busybox:1"}], "tolerations": [{"key": "k", "operator": "Exists"}]});
    let changed = |pointer: &str, value: Value| {
        let mut spec = base.clone();
        *spec.pointer_mut(pointer).unwrap() = value;
        let mut asked = defaulted(spec);
        let mut stored = defaulted(base.clone());
        stored.spec.node_name = "node-1".into();
        inherit(&stored, &mut asked);
        validate_update(&stored, &asked)
    };
    assert_eq!(changed("/containers/0/image", json!("busybox")), []);
    let more = json!([{"key": "new", "operator": "Exists"}, {"key": "k", "operator": "Exists"}]);
    assert_eq!(changed("/tolerations", more), []);

    let fewer = changed("/tolerations", json!([]));
    assert!(
        fewer[0].to_string().starts_with("spec: Forbidden: pod updates may not change fields other than "),
        "{fewer:?}"
    );
    let command = changed("/containers/0", json!({"name": "a", "image": "busybox:1", "command": ["sh"]}));
    assert!(command[0].message.ends_with("\n  spec.containers[0].command: null -> [\"sh\"]"), "{command:?}");
    let renamed = changed("/containers/0/name", json!("b"));
    assert_eq!(texts(&renamed), ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
}

#[test]
fn what_was_applied_may_be_applied_again() {
    let mut stored =
        defaulted(json!({"containers": [{"name": "a", "image": "busybox", "resources": {"limits": {"cpu": "0.5"}}}]}));
    stored.spec.node_name = "node-1".into();
    stored.metadata.uid = "u".into();
    // As a file again, and as `get -o yaml` shows it.
    for mut asked in [
        defaulted(json!({"containers": [{"name": "a", "image": "busybox", "resources": {"limits": {"cpu": "500m"}}}]})),
        stored.clone(),
    ] {
        inherit(&stored, &mut asked);
        assert_eq!(asked, stored);
        assert_eq!(validate_update(&stored, &asked), []);
    }
    let mut elsewhere = stored.clone();
    elsewhere.spec.node_name = "node-2".into();
    assert_eq!(validate_update(&stored, &elsewhere).len(), 1);
}

#[test]
fn a_taint_has_a_name_a_value_and_no_twin() {
    let taints = |json| serde_json::from_value::<Vec<crate::model::Taint>>(json).unwrap();
    let fine = json!([{"key": "gpu", "value": "true", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]);
    assert_eq!(validate_taints(&taints(fine)), []);
    let bad = json!([{"key": "", "effect": "NoExecute"}, {"key": "a", "value": "b c", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]);
    let faults = validate_taints(&taints(bad));
    let paths: Vec<_> = faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["spec.taints[0].key", "spec.taints[1].value", "spec.taints[2]"]);
    assert_eq!(faults[2].message, "Duplicate value: \"a:NoSchedule\"");
}
