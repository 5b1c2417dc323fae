use serde_json::json;

use super::*;
use crate::plan::Write;

fn pod(node: &str) -> Arc<Pod> {
    let metadata = json!({"namespace": "default", "name": "web", "uid": "u", "generation": 1});
    let spec = json!({"containers": [], "nodeName": node, "terminationGracePeriodSeconds": 30});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn web() -> PodName {
    PodName::new("default", "web")
}

fn request(force: bool) -> DeleteRequest {
    DeleteRequest { name: "web".into(), force, ..Default::default() }
}

fn keys(plan: &Plan) -> Vec<(&str, bool)> {
    plan.writes.iter().map(|write| (write.key.as_str(), write.record.is_some())).collect()
}

#[test]
fn a_bound_pod_is_marked_and_its_node_told() {
    let plan = delete(7, &web(), Some(&pod("n")), &request(false), true, Timestamp::from_unix_ms(5_000));
    let [Write { record: Some(Record::Pod(marked)), .. }] = &plan.writes[..] else { panic!("{plan:?}") };
    assert_eq!(marked.metadata.deletion_timestamp, Some(Timestamp::from_unix_ms(35_000)));
    assert_eq!((marked.metadata.generation, marked.metadata.deletion_grace_period_seconds), (2, Some(30)));
    assert_eq!(plan.effects, [Effect::Assign(web()), Effect::AnswerPod(7, web())]);
}

#[test]
fn a_repeated_deletion_writes_nothing_and_a_shorter_one_counts_from_the_first() {
    let marked = |stored: &Arc<Pod>, grace, now| {
        let plan = mark(stored, grace_of(stored, grace), Timestamp::from_unix_ms(now));
        plan.writes.into_iter().next().map(|write| match write.record {
            Some(Record::Pod(pod)) => pod,
            other => panic!("{other:?}"),
        })
    };
    let first = marked(&pod("n"), None, 5_000).unwrap();
    assert_eq!(marked(&first, None, 9_000), None);
    assert_eq!(marked(&first, Some(60), 9_000), None);
    let shorter = marked(&first, Some(10), 9_000).unwrap();
    assert_eq!(shorter.metadata.deletion_timestamp, Some(Timestamp::from_unix_ms(15_000)));
    assert_eq!(shorter.metadata.generation, 3);
}

#[test]
fn by_force_what_the_node_must_remove_is_written_first() {
    let plan = delete(7, &web(), Some(&pod("n")), &request(true), true, Timestamp::default());
    assert_eq!(keys(&plan), [("removals.n.u", true), ("pods.default.web", false), ("podstatus.default.web", false)]);
}

#[test]
fn nobody_is_waited_for_where_nobody_can_answer() {
    for node in ["", "never-registered"] {
        let plan = delete(7, &web(), Some(&pod(node)), &request(false), false, Timestamp::default());
        assert_eq!(keys(&plan), [("pods.default.web", false), ("podstatus.default.web", false)]);
    }
}
