use serde_json::json;

use super::*;

fn request(object: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({"object": object})).unwrap()
}

fn manifest() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}
    })
}

fn read(namespace: Option<&str>, payload: &[u8], random: impl FnMut() -> usize) -> Result<Asked, Status> {
    read_known(&mut Known::new(300), namespace, payload, random)
}

fn read_known(
    known: &mut Known,
    namespace: Option<&str>,
    payload: &[u8],
    random: impl FnMut() -> usize,
) -> Result<Asked, Status> {
    let request = Request::read(payload)?;
    super::read(known, namespace, &request, request.object, random)
}

fn created(manifest: &Value, toleration_seconds: i64) -> Arc<Pod> {
    let asked = read(Some("default"), &request(manifest), || 0).unwrap();
    Arc::new(create(&asked, "u".into(), toleration_seconds, Timestamp::from_unix_ms(1_000)).unwrap())
}

fn updated(stored: &Arc<Pod>, manifest: &Value, toleration_seconds: i64) -> Plan {
    let asked = read(Some("default"), &request(manifest), || 0).unwrap();
    plan_update(1, stored, &asked, None, toleration_seconds)
}

fn result_of(plan: &Plan) -> Option<ApplyResult> {
    plan.effects.iter().find_map(|effect| match effect {
        Effect::AnswerApplied(_, result, ..) => Some(*result),
        _ => None,
    })
}

#[test]
fn what_only_the_server_says_is_not_taken_from_a_manifest() {
    let mut manifest = manifest();
    manifest["metadata"]["uid"] = json!("mine");
    manifest["metadata"]["resourceVersion"] = json!("7");
    manifest["status"] = json!({"phase": "Running"});
    let pod = created(&manifest, 300);
    assert_eq!((pod.metadata.uid.as_str(), pod.metadata.resource_version.as_str()), ("u", ""));
    assert_eq!(pod.status, None);
    assert_eq!(pod.metadata.generation, 1);
}

#[test]
fn a_name_is_generated_from_a_prefix() {
    let mut manifest = manifest();
    manifest["metadata"] = json!({"generateName": "web-"});
    let mut next = 0..;
    let asked = read(Some("default"), &request(&manifest), || next.next().unwrap()).unwrap();
    assert_eq!(asked.pod.metadata.name, "web-bcdfg");
}

#[test]
fn a_manifest_of_another_namespace_or_kind_is_refused() {
    let mut elsewhere = manifest();
    elsewhere["metadata"]["namespace"] = json!("other");
    assert_eq!(read(Some("default"), &request(&elsewhere), || 0).unwrap_err().code, 400);
    assert_eq!(read(None, &request(&manifest()), || 0).unwrap_err().code, 400);
    let mut service = manifest();
    service["kind"] = json!("Service");
    assert_eq!(read(Some("default"), &request(&service), || 0).unwrap_err().code, 400);
}

#[test]
fn the_same_manifest_changes_nothing_whatever_this_scheduler_would_fill_in() {
    let stored = created(&manifest(), 300);
    for toleration_seconds in [300, 5] {
        let plan = updated(&stored, &manifest(), toleration_seconds);
        assert_eq!((plan.writes.len(), result_of(&plan)), (0, Some(ApplyResult::Unchanged)));
    }
}

#[test]
fn a_new_label_is_no_new_generation_and_a_new_image_is() {
    let stored = created(&manifest(), 300);
    let mut labelled = manifest();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let mut other_image = manifest();
    other_image["spec"]["containers"][0]["image"] = json!("busybox:2");
    for (manifest, generation) in [(labelled, 1), (other_image, 2)] {
        let plan = updated(&stored, &manifest, 300);
        let [Write { record: Some(Record::Pod(pod)), .. }] = &plan.writes[..] else { panic!("{plan:?}") };
        assert_eq!((pod.metadata.generation, result_of(&plan)), (generation, Some(ApplyResult::Configured)));
    }
}

#[test]
fn a_pod_whose_uid_is_in_doubt_is_changed_under_another_one() {
    let stored = created(&manifest(), 300);
    let mut labelled = manifest();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let asked = read(Some("default"), &request(&labelled), || 0).unwrap();
    let plan = plan_update(1, &stored, &asked, Some("new"), 300);
    let [Write { record: Some(Record::Pod(pod)), .. }, Write { record: None, key, .. }] = &plan.writes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!((pod.metadata.uid.as_str(), key.as_str()), ("new", "podstatus.default.web"));
}

#[test]
fn a_dry_run_writes_nothing() {
    let stored = created(&manifest(), 300);
    let mut labelled = manifest();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    let payload = serde_json::to_vec(&json!({"object": labelled, "dryRun": true})).unwrap();
    let asked = read(Some("default"), &payload, || 0).unwrap();
    let plan = plan_update(1, &stored, &asked, None, 300);
    assert!(plan.writes.is_empty());
    assert!(matches!(&plan.effects[..], [Effect::Answer(1, Ok(_))]));
}

#[test]
fn a_spec_that_is_known_is_read_as_it_was_the_first_time_and_what_is_wrong_beside_it_is_found_still() {
    let mut known = Known::new(300);
    let mut read = |manifest: &Value| read_known(&mut known, Some("default"), &request(manifest), || 0);
    let mut manifest = manifest();
    manifest["spec"]["containers"][0]["image"] = json!("busy\u{1F980}box");
    manifest["metadata"]["labels"] = json!({"app": "web"});
    let (first, again) = (read(&manifest).unwrap(), read(&manifest).unwrap());
    assert_eq!(again.pod, first.pod);
    let made = |asked: &Asked| create(asked, "u".into(), 300, Timestamp::default()).unwrap();
    assert_eq!(made(&again), made(&first));
    assert!(first.ready.is_none() && again.ready.is_some());
    assert_eq!(known.specs.len(), 1);

    let mut read = |manifest: &Value| read_known(&mut known, Some("default"), &request(manifest), || 0);
    let with = |path: &str, value: Value| {
        let mut other = manifest.clone();
        other[path.split('.').next().unwrap()][path.split('.').nth(1).unwrap()] = value;
        other
    };
    assert_eq!(read(&with("metadata.annotations", json!({"a": "b"}))).unwrap().pod.metadata.annotations.len(), 1);
    assert_eq!(read(&with("metadata.namespace", json!("other"))).unwrap_err().code, 400);
    for (path, value) in [("metadata.labells", json!({})), ("metadata.labels", json!({"a": 1})), ("spec.x", json!(1))] {
        assert_eq!(read(&with(path, value)).unwrap_err().code, 422, "{path}");
    }
    let bad_name = read(&with("metadata.name", json!("Web!")));
    let refused = bad_name.and_then(|asked| create(&asked, "u".into(), 300, Timestamp::default()).map(|_| ()));
    assert_eq!(refused.unwrap_err().code, 422);
    let other_kind = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "web"}, "spec": manifest["spec"]});
    assert_eq!(read(&other_kind).unwrap_err().code, 400);
}

#[test]
fn specs_that_are_known_do_not_grow_without_end() {
    let mut known = Known::new(300);
    let mut manifest = manifest();
    for image in 0..3 * KNOWN_MAX {
        manifest["spec"]["containers"][0]["image"] = json!(format!("busybox:{image}"));
        read_known(&mut known, Some("default"), &request(&manifest), || 0).unwrap();
        assert!(known.specs.len() <= KNOWN_MAX);
    }
}
