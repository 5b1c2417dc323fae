use podbus_common::proto::{ContainerState, ContainerStatus, NodeEvent, SandboxState, SandboxStatus};
use serde_json::json;

use super::*;
use crate::record::Record;

fn stored(deleting: bool) -> Arc<Pod> {
    let mut metadata = json!({"namespace": "default", "name": "web", "uid": "u", "generation": 1});
    if deleting {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let spec = json!({"containers": [{"name": "c"}], "nodeName": "n"});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

fn reported(agent_epoch: u64, sequence: u64, ended: bool) -> Reported {
    let container = ContainerStatus {
        name: "c".into(),
        state: ContainerState::ContainerRunning.into(),
        ready: true,
        started: true,
        ..Default::default()
    };
    let sandbox =
        SandboxStatus { state: SandboxState::SandboxReady.into(), ip: "10.1.0.2".into(), ..Default::default() };
    let report = PodReport {
        uid: "u".into(),
        sequence,
        ended,
        sandbox: Some(sandbox),
        containers: vec![container],
        events: vec![NodeEvent { reason: "Started".into(), ..Default::default() }],
        ..Default::default()
    };
    Reported { batch: 1, node: "n".into(), agent_epoch, report: Arc::new(report) }
}

fn on_report(
    reported: &Reported,
    stored: Option<&Arc<Pod>>,
    status: Option<&Arc<StatusRecord>>,
    node_ip: &str,
    now: Timestamp,
) -> Plan {
    let name = PodName::new("default", "web");
    let asked = stored.map(|pod| Asked { name: &name, uid: &pod.metadata.uid, node: &pod.spec.node_name, pod });
    pod(reported, asked, status, node_ip, now)
}

fn known(agent_epoch: u64, sequence: u64) -> Arc<StatusRecord> {
    Arc::new(StatusRecord { uid: "u".into(), agent_epoch, sequence, ..Default::default() })
}

fn decide(told: (u64, u64), before: (u64, u64)) -> Plan {
    let record = known(before.0, before.1);
    on_report(&reported(told.0, told.1, false), Some(&stored(false)), Some(&record), "", Timestamp::default())
}

fn publishes(plan: &Plan) -> bool {
    plan.effects.iter().any(|effect| matches!(effect, Effect::PublishReported(..)))
}

fn acks(plan: &Plan) -> Vec<pod_ack::Kind> {
    let kinds = plan.effects.iter().filter_map(|effect| match effect {
        Effect::Ack(1, ack) => Some(ack.kind()),
        _ => None,
    });
    kinds.collect()
}

#[test]
fn status_never_goes_back() {
    // (told, known) -> (written, events)
    for (told, before, expected) in [
        ((2, 5), (2, 4), (1, true)),
        ((3, 1), (2, 9), (1, true)),
        ((2, 4), (2, 4), (0, true)),
        ((2, 3), (2, 4), (0, false)),
        ((1, 99), (2, 1), (0, false)),
    ] {
        let plan = decide(told, before);
        assert_eq!((plan.writes.len(), publishes(&plan)), expected, "{told:?} after {before:?}");
        assert_eq!(acks(&plan), [pod_ack::Kind::Ack]);
    }
}

#[test]
fn what_ended_is_purged_intent_first_and_acked_last_even_when_it_is_said_again() {
    for before in [(2, 4), (2, 5)] {
        let plan = on_report(
            &reported(2, 5, true),
            Some(&stored(true)),
            Some(&known(before.0, before.1)),
            "",
            Timestamp::default(),
        );
        let keys: Vec<_> = plan.writes.iter().map(|write| (write.key.as_str(), write.record.is_some())).collect();
        let expected = [("podstatus.default.web", true), ("pods.default.web", false), ("podstatus.default.web", false)];
        assert_eq!(keys, expected);
        assert!(matches!(plan.effects.last(), Some(Effect::Ack(..))));
    }
}

#[test]
fn what_ended_is_purged_by_a_node_that_counts_anew_though_the_store_knows_more_of_its_life() {
    let plan = on_report(&reported(2, 1, true), Some(&stored(true)), Some(&known(2, 4)), "", Timestamp::default());
    let keys: Vec<_> = plan.writes.iter().map(|write| (write.key.as_str(), write.record.is_some())).collect();
    assert_eq!(keys, [("pods.default.web", false), ("podstatus.default.web", false)]);
    assert_eq!(acks(&plan), [pod_ack::Kind::Ack]);
}

#[test]
fn what_ended_without_being_deleted_keeps_its_record() {
    let plan = on_report(&reported(2, 5, true), Some(&stored(false)), None, "", Timestamp::default());
    assert!(plan.writes.iter().all(|write| write.record.is_some()));
}

#[test]
fn a_uid_without_a_record_is_on_hold_and_what_ended_of_it_is_over() {
    let mut other = Pod::clone(&stored(false));
    other.metadata.uid = "another".into();
    for (record, ended, kind) in [
        (None, false, pod_ack::Kind::Hold),
        (Some(other), false, pod_ack::Kind::Hold),
        (None, true, pod_ack::Kind::Ack),
    ] {
        let plan = on_report(&reported(2, 5, ended), record.map(Arc::new).as_ref(), None, "", Timestamp::default());
        assert_eq!((plan.writes.len(), acks(&plan)), (0, vec![kind]));
    }
}

#[test]
fn the_same_report_makes_a_pod_ready_again_after_its_node_was_lost() {
    let first = on_report(&reported(2, 5, false), Some(&stored(false)), None, "", Timestamp::default());
    let Some(Record::Status(ready)) = &first.writes[0].record else { panic!("{first:?}") };
    let lost = node_lost(&stored(false), Some(ready), Timestamp::default());
    let Some(Record::Status(lost)) = &lost.writes[0].record else { panic!("{lost:?}") };
    assert_eq!((lost.agent_epoch, lost.sequence), (2, 5), "the leader uses no number up");
    let again = on_report(&reported(2, 5, false), Some(&stored(false)), Some(lost), "", Timestamp::default());
    let Some(Record::Status(again)) = &again.writes[0].record else { panic!("{again:?}") };
    assert_eq!(again.status, ready.status);
}
