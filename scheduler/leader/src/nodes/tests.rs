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

#[test]
fn a_cordoned_node_stays_so_when_its_agent_starts_again() {
    let node = record(&register(1, &request("id", "a", 0), None, at(0)));
    let cordoned = cordon(2, &node, true, false);
    assert!(record(&cordoned).node.spec.unschedulable);
    assert!(matches!(&cordoned.effects[..], [Effect::NodeChanged { .. }, Effect::Answer(2, Ok(_))]));
    let again = record(&register(3, &request("id", "b", 0), Some(&record(&cordoned)), at(1)));
    assert!(again.node.spec.unschedulable);
    assert!(!record(&cordon(4, &again, false, false)).node.spec.unschedulable);
    for (unschedulable, dry_run) in [(true, false), (false, true)] {
        assert!(cordon(5, &again, unschedulable, dry_run).writes.is_empty());
    }
}
