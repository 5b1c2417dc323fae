use serde_json::json;

use super::*;

#[expect(clippy::needless_pass_by_value, reason = "callers build it on the spot")]
fn pod(spec: serde_json::Value) -> Arc<Pod> {
    let metadata = json!({"namespace": "default", "name": "web", "uid": "old", "generation": 3});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn container(cpu: &str) -> serde_json::Value {
    json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
}

fn sidecar(cpu: &str) -> serde_json::Value {
    let mut container = container(cpu);
    container["restartPolicy"] = json!("Always");
    container
}

#[test]
fn a_pod_takes_what_it_runs_together_or_its_largest_init_container_with_the_sidecars_before_it() {
    for (init, containers, cpu_millis) in [
        (vec![], vec![container("1"), container("500m")], 1500),
        (vec![container("3")], vec![container("1")], 3000),
        (vec![sidecar("1"), container("3")], vec![container("1")], 4000),
        (vec![container("3"), sidecar("1")], vec![container("1")], 3000),
        (vec![sidecar("1"), sidecar("2")], vec![container("1")], 4000),
    ] {
        let pod = pod(json!({"initContainers": init, "containers": containers}));
        assert_eq!(requests(&pod).cpu_millis, cpu_millis, "{:?}", pod.spec);
        assert_eq!(requests(&pod).pods, 1);
    }
}

#[test]
fn a_pod_is_bound_at_most_once() {
    let now = Timestamp::default();
    let unbound = pod(json!({"containers": []}));
    let plan = bind(Some(&unbound), "old", "node-1", None, now);
    let [Write { key, record: Some(Record::Pod(bound)) }] = &plan.writes[..] else { panic!("{plan:?}") };
    assert_eq!((key.as_str(), bound.spec.node_name.as_str()), ("pods.default.web", "node-1"));
    let released = Plan::only(Effect::Release { uid: "old".into() });
    assert_eq!(bind(Some(bound), "old", "node-2", None, now), released, "it has a node");
    assert_eq!(bind(Some(&unbound), "old", "node-1", Some("new"), now).writes.len(), 1);
    let released_new = Plan::only(Effect::Release { uid: "new".into() });
    assert_eq!(
        bind(None, "old", "node-1", Some("new"), now),
        released_new,
        "a place under a new UID is free again too"
    );
    assert_eq!(bind(None, "old", "node-2", None, now), released, "it is gone");
    let released = Plan::only(Effect::Release { uid: "other".into() });
    assert_eq!(bind(Some(&unbound), "other", "node-2", None, now), released, "the name has another UID");
}

#[test]
fn why_a_pod_waits_is_said_once() {
    let pod = pod(json!({"containers": []}));
    let plan = unschedulable(Some(&pod), None, "old", ("no room", ""), Timestamp::default());
    let [Write { record: Some(Record::Status(said)), .. }] = &plan.writes[..] else { panic!("{plan:?}") };
    let again = unschedulable(Some(&pod), Some(&said.status), "old", ("no room", ""), Timestamp::default());
    assert_eq!(again, Plan::default());
    let other = unschedulable(Some(&pod), Some(&said.status), "old", ("no nodes", ""), Timestamp::default());
    assert_eq!(other.writes.len(), 1);
}

#[test]
fn a_pod_leaves_when_the_shortest_of_its_tolerations_ends() {
    let added = Timestamp::from_unix_ms(10_000);
    let key = "node.kubernetes.io/unreachable".to_owned();
    let taint = Taint { key, value: String::new(), effect: TaintEffect::NoExecute, time_added: Some(added) };
    let toleration = |seconds: Option<i64>| json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    for (tolerations, seconds) in [
        (vec![], Some(10)),
        (vec![toleration(Some(5))], Some(15)),
        (vec![toleration(None)], None),
        (vec![toleration(None), toleration(Some(7)), toleration(Some(9))], Some(17)),
        (vec![toleration(Some(-1))], Some(10)),
    ] {
        let pod = pod(json!({"containers": [], "tolerations": tolerations}));
        let at = evicted_at(&pod, std::slice::from_ref(&taint));
        assert_eq!(at, seconds.map(|s| Timestamp::from_unix_ms(s * 1000)), "{tolerations:?}");
    }
    let no_schedule = Taint { effect: TaintEffect::NoSchedule, ..taint };
    assert_eq!(evicted_at(&pod(json!({"containers": []})), &[no_schedule]), None);
}

#[test]
fn what_the_lost_node_must_remove_is_written_before_the_name_gets_its_new_uid() {
    let old = pod(json!({"containers": [container("2")], "nodeName": "node-1"}));
    let plan = evict(Some(&old), "old", "new".into(), false, Timestamp::from_unix_ms(1));
    let keys: Vec<_> = plan.writes.iter().map(|write| write.key.as_str()).collect();
    assert_eq!(keys, ["removals.node-1.old", "pods.default.web", "podstatus.default.web"]);
    let Some(Record::Removal(removal)) = &plan.writes[0].record else { panic!("{plan:?}") };
    assert_eq!(removal.cpu_millis, 2000, "it counts until its node says that it ended");
    let Some(Record::Pod(new)) = &plan.writes[1].record else { panic!("{plan:?}") };
    assert_eq!((new.metadata.uid.as_str(), new.metadata.generation, new.spec.node_name.as_str()), ("new", 1, ""));
    assert_eq!(new.spec.containers, old.spec.containers);
    // Repeated with what is there by then, it does nothing.
    assert_eq!(evict(Some(new), "old", "newer".into(), false, Timestamp::default()), Plan::default());
}

#[test]
fn a_pod_that_must_not_run_again_is_marked_and_not_replaced() {
    let once = pod(json!({"containers": [], "nodeName": "node-1", "restartPolicy": "Never"}));
    let plan = evict(Some(&once), "old", "new".into(), false, Timestamp::default());
    let [Write { record: Some(Record::Pod(marked)), .. }] = &plan.writes[..] else { panic!("{plan:?}") };
    assert_eq!(marked.metadata.uid, "old");
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(evict(Some(marked), "old", "new".into(), false, Timestamp::default()), Plan::default());
}

#[test]
fn a_pod_that_leaves_a_node_that_answers_has_its_grace() {
    let old = pod(json!({"containers": [], "nodeName": "node-1", "terminationGracePeriodSeconds": 7}));
    for (answers, grace) in [(true, 7), (false, 0)] {
        let plan = evict(Some(&old), "old", "new".into(), answers, Timestamp::default());
        let Some(Record::Removal(removal)) = &plan.writes[0].record else { panic!("{plan:?}") };
        assert_eq!(removal.grace_period_seconds, grace);
    }
}
