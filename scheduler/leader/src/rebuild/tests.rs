use podbus_common::api::LeaseTerm;
use serde_json::json;

use super::*;
use crate::record::RemovalRecord;

fn pod(name: &str, uid: &str, node: &str) -> Pod {
    let json = json!({"metadata": {"namespace": "default", "name": name, "uid": uid}, "spec": {"nodeName": node}});
    serde_json::from_value(json).unwrap()
}

fn new_uid() -> String {
    "new".to_owned()
}

fn store(pods: &[(&str, &str, &str, u64)]) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, uid, node, revision) in pods {
        let record = Record::Pod(Arc::new(pod(name, uid, node)));
        cluster.apply(&PodName::new("default", *name).key(), Some(record), *revision);
    }
    cluster
}

/// Terms that began at 1 and at 100, and the one that rebuilds.
fn lineage() -> Lineage {
    let term = |epoch, revision| LeaseTerm { epoch, nonce: epoch.to_string(), revision, cold: false };
    Lineage::new(vec![term(5, 1), term(7, 100), term(9, 0)], 200)
}

fn holds(name: &str, uid: &str, node: &str, epoch: u64, revision: u64) -> HeldPod {
    let json = serde_json::to_vec(&pod(name, uid, node)).unwrap();
    HeldPod { uid: uid.into(), epoch, revision, pod: json.into(), ..Default::default() }
}

fn ended(uid: &str) -> HeldPod {
    HeldPod { uid: uid.into(), ended: true, ..Default::default() }
}

fn told(nodes: &[(&str, &[HeldPod])]) -> BTreeMap<String, Inventory> {
    let mut inventories: BTreeMap<String, Inventory> = BTreeMap::new();
    for (node, held) in nodes {
        inventories.entry((*node).to_owned()).or_default().add(node, held);
    }
    inventories
}

/// What is done, as `uid kind`.
fn done(repairs: &[Repair]) -> Vec<String> {
    let kind = |kind: &Kind| match kind {
        Kind::Restored { node } => format!("restored from {node}"),
        Kind::Ended => "ended".to_owned(),
        Kind::Gated => "gated".to_owned(),
    };
    repairs.iter().map(|repair| format!("{} {}", repair.pod.metadata.uid, kind(&repair.kind))).collect()
}

#[test]
fn what_a_node_holds_newer_than_what_was_remembered_wins() {
    let cluster = store(&[("web", "a", "n1", 201)]);
    let told = told(&[("n1", &[holds("web", "a", "n1", 7, 150)])]);
    for (remembered, repairs) in [((7, 149), 1), ((7, 150), 0), ((8, 120), 0), ((5, 99), 1)] {
        let written_back = [(PodName::new("default", "web"), remembered)].into();
        assert_eq!(merge(&cluster, &lineage(), &written_back, &told, false, new_uid).len(), repairs, "{remembered:?}");
    }
}

#[test]
fn what_a_node_must_remove_is_not_put_back() {
    let mut cluster = store(&[]);
    let removal = RemovalRecord { node: "n1".into(), uid: "a".into(), ..Default::default() };
    cluster.apply("removals.n1.a", Some(Record::Removal(Arc::new(removal))), 120);
    let repairs = merge(
        &cluster,
        &lineage(),
        &HashMap::new(),
        &told(&[("n1", &[holds("web", "a", "n1", 7, 150)])]),
        true,
        new_uid,
    );
    assert!(repairs.is_empty());
}

#[test]
fn a_name_that_was_deleted_since_stays_deleted() {
    let mut cluster = store(&[("web", "b", "", 210)]);
    cluster.apply(&PodName::new("default", "web").key(), None, 220);
    let merged = |epoch| {
        done(&merge(
            &cluster,
            &lineage(),
            &HashMap::new(),
            &told(&[("n1", &[holds("web", "a", "n1", epoch, 150)])]),
            true,
            new_uid,
        ))
    };
    assert!(merged(7).is_empty(), "it was assigned before");
    assert_eq!(merged(0), ["a restored from n1"], "nobody knows when it was assigned");
}

#[test]
fn what_a_node_holds_and_the_store_lost_is_put_back() {
    let repairs = merge(
        &store(&[]),
        &lineage(),
        &HashMap::new(),
        &told(&[("n1", &[holds("web", "a", "n1", 7, 150)])]),
        true,
        new_uid,
    );
    assert_eq!(done(&repairs), ["a restored from n1"]);
    assert_eq!(repairs[0].writes.len(), 1);
}

#[test]
fn the_highest_epoch_and_revision_wins_a_name() {
    for (held, stored, wins) in [
        ((7, 150), 40, true),
        // The same term, and a later revision.
        ((5, 60), 40, true),
        ((5, 30), 40, false),
        // The revision is lower and the term is later: the store restarted its count.
        ((8, 3), 150, true),
        ((5, 9_000), 150, false),
    ] {
        let told = told(&[("n1", &[holds("web", "new", "n1", held.0, held.1)])]);
        let repairs = merge(&store(&[("web", "old", "n2", stored)]), &lineage(), &HashMap::new(), &told, true, new_uid);
        assert_eq!(!repairs.is_empty(), wins, "{held:?} against {stored}");
    }
    let two: [(&str, &[HeldPod]); 2] =
        [("n1", &[holds("web", "a", "n1", 5, 90)]), ("n2", &[holds("web", "b", "n2", 7, 20)])];
    assert_eq!(
        done(&merge(&store(&[]), &lineage(), &HashMap::new(), &told(&two), true, new_uid)),
        ["b restored from n2"]
    );
}

#[test]
fn a_ledger_deletes_what_came_back_and_absence_deletes_nothing() {
    let stored = store(&[("gone", "a", "n1", 40), ("kept", "b", "n1", 41), ("silent", "c", "n2", 42)]);
    let repairs = merge(&stored, &lineage(), &HashMap::new(), &told(&[("n1", &[ended("a")])]), true, new_uid);
    assert_eq!(done(&repairs), ["a ended"]);
}

#[test]
fn a_name_whose_pod_ended_goes_to_the_one_that_runs_even_if_the_store_wrote_the_ended_one_later() {
    let stored = store(&[("web", "a", "n1", 240)]);
    let told = told(&[("n1", &[ended("a")]), ("n2", &[holds("web", "b", "n2", 7, 150)])]);
    assert_eq!(done(&merge(&stored, &lineage(), &HashMap::new(), &told, true, new_uid)), ["b restored from n2"]);
}

#[test]
fn a_pod_without_a_node_waits_for_a_person_unless_all_is_remembered() {
    let stored = store(&[("old", "a", "", 40), ("fresh", "b", "", 210)]);
    let repairs = merge(&stored, &lineage(), &HashMap::new(), &BTreeMap::new(), true, new_uid);
    assert_eq!(done(&repairs), ["new gated"]);
    let Some(Record::Pod(pod)) = &repairs[0].writes[0].record else { panic!("a pod") };
    assert_eq!(pod.spec.scheduling_gates[0].name, RECOVERED_GATE);
    assert!(merge(&stored, &lineage(), &HashMap::new(), &BTreeMap::new(), false, new_uid).is_empty());
    // It was placed since.
    let told = told(&[("n1", &[holds("old", "a", "n1", 7, 150)])]);
    assert_eq!(done(&merge(&stored, &lineage(), &HashMap::new(), &told, true, new_uid)), ["a restored from n1"]);
}

#[test]
fn a_node_claims_only_what_is_bound_to_it() {
    let told = told(&[("n1", &[holds("web", "a", "n2", 7, 150)])]);
    assert!(merge(&store(&[]), &lineage(), &HashMap::new(), &told, true, new_uid).is_empty());
}

#[test]
fn what_is_remembered_replaces_what_the_store_says() {
    let stored = store(&[("changed", "old", "", 10), ("deleted", "x", "n1", 11), ("same", "s", "n1", 12)]);
    let remembered = store(&[("changed", "new", "n1", 70), ("lost", "y", "n1", 71), ("same", "s", "n1", 12)]);
    let writes = write_back(&stored, &remembered, new_uid);
    let keys: Vec<_> = writes.values().flatten().map(|write| (write.key.as_str(), write.record.is_some())).collect();
    assert_eq!(keys, [("pods.default.changed", true), ("pods.default.deleted", false), ("pods.default.lost", true)]);
}

#[test]
fn a_pod_that_waited_is_written_back_under_another_uid_as_it_may_have_been_bound_since() {
    let writes = write_back(&store(&[]), &store(&[("waits", "a", "", 70), ("runs", "b", "n1", 71)]), new_uid);
    let uids = writes.values().flatten().filter_map(|write| match &write.record {
        Some(Record::Pod(pod)) => Some(pod.metadata.uid.as_str()),
        _ => None,
    });
    assert_eq!(uids.collect::<Vec<_>>(), ["b", "new"]);
}
