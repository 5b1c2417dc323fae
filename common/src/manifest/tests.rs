use proptest::prelude::*;
use serde_json::json;

use super::*;

fn faults(text: &str) -> Vec<String> {
    parse("pod.yaml", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

const SOUND: &str =
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: a\n    image: busybox\n";

#[test]
fn several_documents_are_read_and_empty_ones_skipped() {
    let text = format!("---\n# nothing\n---\n{SOUND}---\n{SOUND}...\n---\n");
    let manifests = parse("pod.yaml", &text).unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!((manifests[0].line, manifests[0].column, manifests[0].pod.metadata.name.as_str()), (4, 1, "web"));
    assert_eq!(parse("pod.yaml", "").unwrap().len(), 0);
}

#[test]
fn json_is_read_too_with_its_places() {
    let text = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"web\"},\n\t\"spec\": {\"containers\": [{\"name\": \"a\", \"image\": \"busybox\", \"imagePullPolice\": \"Never\"}]}\n}\n";
    assert_eq!(
        faults(text),
        ["pod.yaml:3:60: spec.containers[0].imagePullPolice: unknown field, did you mean \"imagePullPolicy\"?"]
    );
    assert_eq!(parse("pod.json", &text.replace("Police", "Policy")).unwrap().len(), 1);
}

#[test]
fn an_unknown_field_is_a_fault_at_its_key_with_a_suggestion() {
    let text = format!("{SOUND}    lifecycl: {{}}\n");
    assert_eq!(
        faults(&text),
        ["pod.yaml:9:5: spec.containers[0].lifecycl: unknown field, did you mean \"lifecycle\"?"]
    );
    let text = format!("{SOUND}    lifecycle: {{}}\n");
    assert_eq!(
        faults(&text),
        ["pod.yaml:9:5: spec.containers[0].lifecycle: is a Kubernetes field that podbus does not support yet"]
    );
}

#[test]
fn all_faults_of_all_documents_come_in_the_files_order() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\nspec:\n  containers:\n  - name: a\n---\nkind: Deployment\n---\n\
                a: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec: {containers: [{name: x, image: y, stdin: yes}]}\n";
    let faults = faults(text);
    let starts = [
        "pod.yaml:3:18: metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain",
        "pod.yaml:6:5: spec.containers[0].image: Required value",
        "pod.yaml:8:7: kind: \"Deployment\" is a Kubernetes kind that podbus does not support yet",
        "pod.yaml:10:4: this is not valid YAML: unclosed bracket '['",
        "pod.yaml:15:48: spec.containers[0].stdin: must be true or false, not the string \"yes\"",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault}\n{start}");
    }
}

#[test]
fn a_field_that_was_misspelt_is_not_missing_as_well() {
    let text = SOUND.replace("image:", "imgae:");
    assert_eq!(faults(&text), ["pod.yaml:8:5: spec.containers[0].imgae: unknown field, did you mean \"image\"?"]);
    let text = SOUND.replace("image: busybox", "image: 5");
    assert_eq!(
        faults(&text),
        ["pod.yaml:8:12: spec.containers[0].image: must be a string, not the number 5; write \"5\""]
    );
}

#[test]
fn a_field_in_the_wrong_object_is_shown_its_place() {
    for (line, told) in [
        ("labels: {}\n", "9:1: labels: unknown field, it belongs in metadata"),
        ("  command: [a]\n", "9:3: spec.command: unknown field, it belongs in spec.containers[]"),
        ("    hostNetwork: true\n", "9:5: spec.containers[0].hostNetwork: unknown field, it belongs in spec"),
        (
            "  runAsUser: 5\n",
            "9:3: spec.runAsUser: unknown field, it belongs in spec.containers[].securityContext or spec.securityContext",
        ),
    ] {
        assert_eq!(faults(&format!("{SOUND}{line}")), [format!("pod.yaml:{told}")]);
    }
}

#[test]
fn what_the_server_sets_is_ignored() {
    let text = SOUND.replace(
        "  name: web\n",
        "  name: web\n  uid: u\n  resourceVersion: \"5\"\n  generation: 2\n  creationTimestamp: null\n  managedFields: [{a: b}]\n",
    ) + "status:\n  phase: Running\n  anything: [1]\n";
    let pod = &parse("pod.yaml", &text).unwrap()[0].pod;
    assert_eq!(pod.metadata.uid, "");
    assert_eq!(pod.status, None);
}

#[test]
fn a_stored_pod_reads_back_from_its_own_yaml() {
    let mut pod = parse("pod.yaml", SOUND).unwrap().remove(0).pod;
    crate::defaults::set_defaults(&mut pod, 300);
    pod.spec.node_name = "node-1".into();
    let mut shown = pod.clone();
    shown.metadata.uid = "u".into();
    shown.metadata.creation_timestamp = Some(crate::model::Timestamp::from_unix_ms(0));
    shown.status = Some(crate::fold::unbound(&pod));
    let yaml = serde_saphyr::to_string(&shown).unwrap();
    let mut again = parse("-", &yaml).unwrap_or_else(|f| panic!("{f:#?}\n{yaml}")).remove(0).pod;
    crate::defaults::set_defaults(&mut again, 300);
    assert_eq!(again, pod);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [shown, pod]});
    assert_eq!(parse("-", &list.to_string()).unwrap().len(), 2);
}

#[test]
fn faults_in_a_list_name_the_item() {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "Pod", "apiVersion": "v1", "spec": {"containers": []}}]});
    assert_eq!(
        faults(&list.to_string()),
        [
            "pod.yaml:1:29: items[0].metadata.name: Required value: name or generateName is required",
            "pod.yaml:1:82: items[0].spec.containers: Required value",
        ]
    );
}

#[test]
fn aliases_and_merge_keys_stand_for_what_they_name() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: &l {app: web}, annotations: *l}\nspec:\n  containers:\n  \
                - &base {name: a, image: busybox}\n  - {<<: *base, name: b}\n";
    let pod = &parse("pod.yaml", text).unwrap()[0].pod;
    assert_eq!(pod.metadata.annotations["app"], "web");
    assert_eq!((pod.spec.containers[1].name.as_str(), pod.spec.containers[1].image.as_str()), ("b", "busybox"));
}

#[test]
fn a_document_that_grows_beyond_all_bounds_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let alias = format!("*a{}", n - 1);
        text += &format!("a{n}: &a{n} [{}]\n", [alias.as_str(); 10].join(", "));
    }
    assert!(faults(&text)[0].ends_with("the document has more than 100000 values"));
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    assert!(faults(&deep)[0].ends_with("lists and maps are nested deeper than 64"), "{:?}", faults(&deep));
}

#[test]
fn what_is_no_yaml_says_where() {
    for (text, expected) in [
        ("a: 1\n\tb: 2\n", "pod.yaml:2:1: YAML does not allow tabs for indentation, use spaces"),
        ("a: &x [*x]\n", "pod.yaml:1:8: the alias is inside of what it stands for"),
        ("just a text\n", "pod.yaml:1:1: a manifest must be an object, not the string \"just a text\""),
        ("[a, b]", "pod.yaml:1:1: a manifest must be an object, not a list"),
        ("a: !custom b", "pod.yaml:1:12: the tag !custom means nothing here"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
    let found = parse_bytes("pod.yaml", b"a: b\nc: \xff\n").unwrap_err();
    assert_eq!(found[0].to_string(), "pod.yaml:2:4: the file is not UTF-8 text: save it as UTF-8");
}

#[test]
fn an_object_from_the_bus_is_checked_as_strictly_as_a_file() {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "a", "image": "i", "tty": "no"}], "hostNetwork": true}});
    let errors: Vec<_> = check(&object).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "spec.containers[0].tty: must be true or false, not the string \"no\"",
            "spec.hostNetwork: is a Kubernetes field that podbus does not support yet",
        ]
    );
}

#[test]
fn a_fault_that_is_found_elsewhere_gets_its_place() {
    let manifest = &parse("pod.yaml", SOUND).unwrap()[0];
    let error = FieldError::new("spec.containers[0].image", "no");
    assert_eq!(manifest.fault(&error).to_string(), "pod.yaml:8:12: spec.containers[0].image: no");
}

/// Values of every type.
fn any_json() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        "[a-zA-Z0-9./:$() -]{0,12}".prop_map(|text| json!(text)),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "a", {}])),
        Just(json!({"name": "a", "cpu": "1"})),
    ]
}

/// A pod that has every supported field.
fn full_pod() -> Json {
    let container = json!({
        "name": "a", "image": "b", "imagePullPolicy": "Never", "command": ["a"], "args": ["b"], "workingDir": "/",
        "env": [{"name": "A", "value": "b"}], "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}],
        "resources": {"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true, "subPath": "s"}],
        "securityContext": {"runAsUser": 1, "runAsGroup": 1, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
        "stdin": true, "stdinOnce": true, "tty": true
    });
    let mut init = container.clone();
    init["name"] = json!("i");
    init["restartPolicy"] = json!("Always");
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "team", "labels": {"a": "b"}, "annotations": {"a": "b c"}},
        "spec": {
            "initContainers": [init], "containers": [container], "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 0, "nodeName": "n", "nodeSelector": {"a": "b"}, "hostname": "h",
            "tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": -1}],
            "shareProcessNamespace": true,
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                {"name": "w", "hostPath": {"path": "/w", "type": "Directory"}}],
            "securityContext": {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false}
        }
    })
}

/// Paths of all values, as JSON pointers.
fn pointers(json: &Json, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match json {
        Json::Array(items) => items.iter().enumerate().for_each(|(i, item)| pointers(item, &format!("{at}/{i}"), all)),
        Json::Object(fields) => fields.iter().for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), all)),
        _ => {}
    }
}

#[test]
fn every_supported_field_reaches_the_model() {
    let pod = check(&full_pod()).unwrap();
    let shown = serde_json::to_value(&pod).unwrap();
    let mut expected = full_pod();
    expected["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = json!("1");
    expected["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("1");
    assert_eq!(shown, expected);
}

/// Pieces that make texts which are nearly manifests.
fn nearly_a_manifest() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("apiVersion: v1\n"),
        Just("kind: Pod\n"),
        Just("metadata:\n"),
        Just("  name: a\n"),
        Just("spec:\n"),
        Just("  containers:\n"),
        Just("  - name: b\n"),
        Just("    image: c\n"),
        Just("    env: &e\n"),
        Just("    args: *e\n"),
        Just("---\n"),
        Just("- "),
        Just("{"),
        Just("}"),
        Just("[\n"),
        Just("]"),
        Just("\t"),
        Just(": "),
        Just("<<: *e\n"),
        Just("'"),
        Just("\""),
        Just("|\n"),
        Just("!!str "),
        Just("    ports: [{containerPort: 1e9}]\n"),
        Just("\u{feff}"),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_stands_in_a_field_is_taken_or_told_never_a_panic(place in any::<proptest::sample::Index>(), value in any_json()) {
        let mut object = full_pod();
        let mut all = Vec::new();
        pointers(&object, "", &mut all);
        *object.pointer_mut(&all[place.index(all.len())]).unwrap() = value;
        if let Err(errors) = check(&object) {
            // The schema knows what the model takes.
            prop_assert!(errors.iter().all(|e| !e.message.starts_with("cannot be read")), "{errors:?}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", nearly in nearly_a_manifest()) {
        let _ = parse("a", &text);
        let _ = parse("b", &nearly);
    }
}
