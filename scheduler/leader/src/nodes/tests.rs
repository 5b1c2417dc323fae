use serde_json::json;

use super::*;

fn request(node_id: &str, instance: &str, seen: u64) -> SyncRequest {
    let taints = json!([{"key": "gpu", "effect": "NoSchedule"}]).to_string().into_bytes();
    let description = NodeDescription {
        allocatable: [("cpu".to_owned(), "4".to_owned())].into(),
        taints: taints.into(),
        internal_ip: "10.0.0.1".into(),
        ..Default::default()
    };
    SyncRequest {
        node: "node-1".into(),
        node_id: node_id.into(),
        instance: instance.into(),
        agent_epoch_seen: seen,
        description: Some(description),
        ..Default::default()
    }
}

fn record(plan: &Plan) -> Arc<NodeRecord> {
    match &plan.writes[..] {
        [Write { record: Some(Record::Node(record)), .. }] => Arc::clone(record),
        other => panic!("{other:?}"),
    }
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn reasons(plan: &Plan) -> Vec<&str> {
    fn of(effect: &Effect) -> Option<&str> {
        match effect {
            Effect::Publish(event) => Some(event.reason.as_str()),
            _ => None,
        }
    }
    plan.effects.iter().filter_map(of).collect()
}

#[test]
fn each_registration_gets_a_higher_agent_epoch_than_was_ever_given() {
    let first = register(1, &request("id", "a", 0), None, at(0));
    assert_eq!(record(&first).agent.epoch, 1);
    assert_eq!(reasons(&first), ["RegisteredNode", "NodeReady"]);
    let second = register(2, &request("id", "b", 0), Some(&record(&first)), at(0));
    assert_eq!(record(&second).agent.epoch, 2);
    assert_eq!(reasons(&second), [""; 0]);
    // The store went back; the agent remembers.
    assert_eq!(record(&register(3, &request("id", "c", 7), Some(&record(&first)), at(0))).agent.epoch, 8);
}

#[test]
fn a_name_belongs_to_one_machine_and_to_one_living_agent() {
    let stored = record(&register(1, &request("id", "a", 0), None, at(0)));
    let refused = |node_id, instance, alive| {
        refuse(&request(node_id, instance, 0), Some(&stored), alive).map(|refusal| refusal.reason())
    };
    assert_eq!(refused("id", "a", false), None);
    assert_eq!(refused("id", "b", false), None);
    assert_eq!(refused("id", "b", true), Some(refusal::Reason::InstanceAlive));
    assert_eq!(refused("other", "b", false), Some(refusal::Reason::NodeIdTaken));
    let nameless = SyncRequest { node: "Node 1".into(), ..request("id", "a", 0) };
    assert_eq!(refuse(&nameless, None, false).map(|r| r.reason()), Some(refusal::Reason::Invalid));
}

#[test]
fn readiness_brings_and_takes_its_own_taints_only() {
    let ready = record(&register(1, &request("id", "a", 0), None, at(1_000)));
    let keys = |record: &NodeRecord| {
        let taints = record.node.spec.taints.iter();
        taints.map(|t| (t.key.clone(), t.effect.as_str())).collect::<Vec<_>>()
    };
    let own = ("gpu".to_owned(), "NoSchedule");
    assert_eq!(keys(&ready), std::slice::from_ref(&own));
    let plan = change(&ready, &Readiness::Unknown, at(2_000));
    assert_eq!(reasons(&plan), ["NodeNotReady"]);
    let lost = record(&plan);
    let unreachable = |effect| (TAINT_UNREACHABLE.to_owned(), effect);
    assert_eq!(keys(&lost), [own.clone(), unreachable("NoSchedule"), unreachable("NoExecute")]);
    assert_eq!(lost.node.spec.taints[2].time_added, Some(at(2_000)));
    assert_eq!(change(&lost, &Readiness::Unknown, at(9_000)), Plan::default(), "said already");
    let plan = change(&lost, &Readiness::Ready, at(9_000));
    assert_eq!((keys(&record(&plan)), reasons(&plan)), (vec![own], vec!["NodeReady"]));
}

/// What becomes of a node that a client applies.
#[expect(clippy::needless_pass_by_value, reason = "so that callers write json!({...})")]
fn applied(stored: &Arc<NodeRecord>, object: serde_json::Value) -> Plan {
    let request = serde_json::from_value(json!({"object": object})).unwrap();
    update(1, stored, 7, &request, at(5_000))
}

fn refused(plan: &Plan) -> (u16, String) {
    match &plan.effects[..] {
        [Effect::Answer(_, Err(status))] => (status.code, status.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_changes_what_it_says_and_nothing_else() {
    let node = record(&register(1, &request("id", "a", 0), None, at(0)));
    let cordon = |unschedulable: bool| json!({"spec": {"unschedulable": unschedulable}});
    let plan = applied(&node, cordon(true));
    assert!(matches!(&plan.effects[..], [Effect::NodeChanged { .. }, Effect::Answer(1, Ok(_))]));
    let cordoned = record(&plan);
    assert!(cordoned.node.spec.unschedulable);
    assert_eq!(cordoned.node.metadata, node.node.metadata);
    assert!(applied(&cordoned, cordon(true)).writes.is_empty());
    assert!(!record(&applied(&cordoned, cordon(false))).node.spec.unschedulable);
    let labelled = record(&applied(&cordoned, json!({"metadata": {"labels": {"disk": "ssd"}}})));
    assert!(labelled.node.spec.unschedulable && labelled.node.spec.taints == node.node.spec.taints);
    assert_eq!(labelled.node.metadata.labels, [("disk".to_owned(), "ssd".to_owned())].into());
    let dry = ApplyRequest { dry_run: true, ..serde_json::from_value(json!({"object": cordon(false)})).unwrap() };
    assert!(update(1, &cordoned, 7, &dry, at(0)).writes.is_empty());
}

#[test]
fn a_node_of_another_version_is_not_changed() {
    let node = record(&register(1, &request("id", "a", 0), None, at(0)));
    for (version, code) in [("7", None), ("6", Some(409)), ("x", Some(409))] {
        let asked = json!({"object": {"metadata": {"labels": {}}}, "resourceVersion": version});
        let plan = update(1, &node, 7, &serde_json::from_value(asked).unwrap(), at(0));
        assert_eq!(plan.writes.is_empty().then(|| refused(&plan).0), code, "{version}");
    }
}

#[test]
fn what_a_person_may_not_say_of_a_node_is_refused() {
    let ready = record(&register(1, &request("id", "a", 0), None, at(0)));
    let lost = record(&change(&ready, &Readiness::Unknown, at(1)));
    for (asked, why) in [
        (json!({"metadata": {"labels": {"a b": "1"}}}), "Node \"node-1\" is invalid: metadata.labels: Invalid value"),
        (json!({"spec": {"taints": [{"key": "/x", "effect": "NoSchedule"}]}}), "spec.taints[0].key: Invalid value"),
        (json!({"spec": {"taints": []}}), "spec.taints: Forbidden: the scheduler itself adds and removes"),
    ] {
        let (code, message) = refused(&applied(&lost, asked));
        assert!(code == 422 && message.contains(why), "{message}");
    }
}

#[test]
fn what_a_person_said_of_a_node_stays_when_its_agent_starts_again() {
    let told = |labels: &[(&str, &str)], keys: &[&str]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let taints: Vec<_> = keys.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        let taints = serde_json::Value::from(taints).to_string().into_bytes().into();
        let description = Some(NodeDescription { labels, taints, ..Default::default() });
        SyncRequest { description, ..request("id", "a", 0) }
    };
    let first = told(&[("zone", "a"), ("disk", "hdd"), ("old", "1"), ("dropped", "1")], &["gpu", "old"]);
    let node = record(&register(1, &first, None, at(0)));
    let node = record(&applied(
        &node,
        json!({
            "metadata": {"labels": {"zone": "a", "disk": "ssd", "old": "1", "mine": "1"}, "annotations": {"note": "x"}},
            "spec": {"unschedulable": true, "taints": [{"key": "old", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]},
        }),
    ));
    let again = told(&[("zone", "b"), ("disk", "hdd"), ("dropped", "1"), ("new", "1")], &["gpu"]);
    let node = record(&register(2, &again, Some(&node), at(9_000)));
    let mut labels = node.node.metadata.labels.clone();
    labels.remove("kubernetes.io/hostname");
    let expected = [("disk", "ssd"), ("mine", "1"), ("new", "1"), ("zone", "b")];
    assert_eq!(labels, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let taints: Vec<_> = node.node.spec.taints.iter().map(|taint| (taint.key.as_str(), taint.time_added)).collect();
    assert_eq!(taints, [("mine", Some(at(5_000)))]);
    assert_eq!(node.node.metadata.annotations["note"], "x");
    assert!(node.node.spec.unschedulable);
}

#[test]
fn an_agent_is_told_what_a_person_changed_and_nothing_that_it_knows() {
    let node = record(&register(1, &request("id", "a", 0), None, at(0)));
    assert_eq!(place(&node), None);
    assert_eq!(place(&record(&change(&node, &Readiness::Unknown, at(1)))), None);
    let labelled = record(&applied(&node, json!({"metadata": {"labels": {"disk": "ssd"}}})));
    let told = place(&labelled).unwrap();
    assert_eq!(told.labels["disk"], "ssd");
    assert_eq!(serde_json::from_slice::<Vec<Taint>>(&told.taints).unwrap(), node.node.spec.taints);
    assert!(place(&record(&applied(&node, json!({"spec": {"taints": []}})))).unwrap().taints == "[]");
}
