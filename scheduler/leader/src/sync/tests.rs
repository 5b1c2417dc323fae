use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::record::{Record, RemovalRecord};

fn put_pod(cluster: &mut Cluster, name: &str, uid: &str, node: &str) {
    let metadata = json!({"namespace": "default", "name": name, "uid": uid, "generation": 1});
    let pod = json!({"metadata": metadata, "spec": {"nodeName": node}});
    let revision = cluster.revision() + 1;
    let record = Record::Pod(Arc::new(serde_json::from_value(pod).unwrap()));
    cluster.apply(&format!("pods.default.{name}"), Some(record), revision);
}

fn held(name: &str, uid: &str, revision: u64) -> HeldPod {
    let (namespace, name, uid) = ("default".to_owned(), name.to_owned(), uid.to_owned());
    HeldPod { uid, namespace, name, generation: 1, revision, ..Default::default() }
}

fn verdicts(cluster: &Cluster, pods: &[HeldPod]) -> Vec<verdict::Kind> {
    reply(cluster, &Lineage::default(), "n", pods, Term::default(), 1, 0).verdicts.iter().map(Verdict::kind).collect()
}

#[test]
fn only_a_record_removes_a_pod() {
    let mut cluster = Cluster::default();
    put_pod(&mut cluster, "kept", "kept", "n");
    put_pod(&mut cluster, "moved", "new", "other");
    let removal =
        RemovalRecord { node: "n".into(), uid: "forced".into(), grace_period_seconds: 3, ..Default::default() };
    cluster.apply("removals.n.forced", Some(Record::Removal(Arc::new(removal))), 9);
    for (pod, kind) in [
        (held("kept", "kept", 1), verdict::Kind::Keep),
        (held("moved", "old", 1), verdict::Kind::Remove),
        // It saw something newer than what is stored: the store went back, or the name was given anew there.
        (held("moved", "old", 7), verdict::Kind::Hold),
        (held("forced", "forced", 1), verdict::Kind::Remove),
        (held("unknown", "unknown", 1), verdict::Kind::Hold),
    ] {
        assert_eq!(verdicts(&cluster, std::slice::from_ref(&pod)), [kind], "{pod:?}");
    }
}

#[test]
fn a_pod_whose_name_was_deleted_later_is_removed_where_it_is_known_when_it_was_assigned() {
    let mut cluster = Cluster::default();
    put_pod(&mut cluster, "web", "new", "other");
    cluster.apply("pods.default.web", None, 9);
    let lineage =
        Lineage::new(vec![podbus_common::api::LeaseTerm { epoch: 5, nonce: "n".into(), revision: 1, cold: true }], 1);
    let verdict = |pod| judge(&cluster, &lineage, "n", &pod).kind();
    assert_eq!(verdict(HeldPod { epoch: 5, ..held("web", "old", 3) }), verdict::Kind::Remove);
    assert_eq!(verdict(HeldPod { epoch: 7, ..held("web", "old", 3) }), verdict::Kind::Hold);
    assert_eq!(verdict(held("web", "old", 3)), verdict::Kind::Hold);
}

#[test]
fn an_agent_is_told_what_it_misses_or_holds_as_it_was() {
    let mut cluster = Cluster::default();
    put_pod(&mut cluster, "a", "a", "n");
    put_pod(&mut cluster, "b", "b", "n");
    put_pod(&mut cluster, "c", "c", "other");
    let missing = |pods: &[HeldPod]| -> Vec<String> {
        reply(&cluster, &Lineage::default(), "n", pods, Term::default(), 1, 0)
            .missing
            .into_iter()
            .map(|pod| pod.uid)
            .collect()
    };
    assert_eq!(missing(&[]), ["a", "b"]);
    assert_eq!(missing(&[held("a", "a", 1)]), ["b"]);
    assert_eq!(missing(&[held("a", "a", 0), held("b", "b", 2)]), ["a"]);
    let ended = HeldPod { ended: true, ..held("a", "a", 0) };
    assert_eq!(missing(&[ended]), ["b"], "what ended never starts again");
}

#[test]
fn a_long_answer_comes_in_parts() {
    let mut cluster = Cluster::default();
    for n in 0..3_000 {
        let (name, uid) = (format!("p{n}"), format!("u{n}"));
        let metadata = json!({"namespace": "default", "name": name, "uid": uid, "annotations": {"a": "x".repeat(500)}});
        let pod = Record::Pod(Arc::new(
            serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": "n"}})).unwrap(),
        ));
        cluster.apply(&format!("pods.default.{name}"), Some(pod), n + 1);
    }
    let (mut pods, mut parts) = (Vec::new(), 0);
    loop {
        let part = reply(&cluster, &Lineage::default(), "n", &pods, Term::default(), 1, 0);
        assert!(prost::Message::encoded_len(&part) < 1 << 20);
        pods.extend(part.missing.iter().map(|pod| HeldPod {
            generation: pod.generation,
            revision: pod.revision,
            ..held(&pod.uid.replace('u', "p"), &pod.uid, 0)
        }));
        parts += 1;
        if !part.more {
            break;
        }
    }
    assert_eq!(pods.len(), 3_000);
    assert!(parts > 1);
}
