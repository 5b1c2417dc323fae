use super::*;

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

fn term(epoch: u64) -> Term {
    Term { epoch, nonce: format!("nonce-{epoch}") }
}

fn assigned(uid: &str, generation: u64, revision: u64) -> AssignedPod {
    let pod = serde_json::json!({
        "metadata": {"name": format!("name-{uid}"), "namespace": "default", "uid": uid, "generation": generation},
        "spec": {"containers": [{"name": "main", "image": "localhost/busybox"}]},
    });
    AssignedPod { uid: uid.into(), generation, revision, pod: pod.to_string().into() }
}

fn assignment(epoch: u64, counter: u64, assigned: Vec<AssignedPod>) -> Assignment {
    Assignment { term: Some(term(epoch)), agent_epoch: 3, counter, assigned, ..Default::default() }
}

fn reply(epoch: u64, counter: u64) -> SyncReply {
    SyncReply { term: Some(term(epoch)), agent_epoch: 3, counter, ..Default::default() }
}

/// Registered as agent epoch 3 in term 10, nothing seen.
fn registered() -> DesiredSet {
    let mut set = DesiredSet::default();
    set.handle_sync_reply(&reply(10, 0), NOW);
    set
}

fn uids(set: &DesiredSet) -> Vec<&str> {
    set.pods().keys().map(String::as_str).collect()
}

/// A set made of the records of `set`, as a restarted agent has it.
fn replayed(records: Vec<Record>) -> DesiredSet {
    let mut again = DesiredSet::default();
    for record in records {
        let line = serde_json::to_string(&record).unwrap();
        again.replay(serde_json::from_str(&line).unwrap());
    }
    again
}

#[test]
fn an_assignment_counts_only_for_this_registration_and_a_term_that_is_not_over() {
    let cases = [
        // (agent epoch, term, counter) -> (taken, sync, refused for)
        ((3, 10, 1), (true, false, None)),
        ((3, 10, 2), (true, true, None)),
        ((3, 11, 1), (true, false, None)),
        ((3, 11, 5), (true, true, None)),
        ((2, 10, 1), (false, false, None)),
        ((4, 10, 1), (false, false, None)),
        ((3, 9, 1), (false, false, Some(10))),
    ];
    for ((agent_epoch, epoch, counter), (taken, sync, refused_for)) in cases {
        let mut set = registered();
        let message = Assignment { agent_epoch, ..assignment(epoch, counter, vec![assigned("a", 1, 5)]) };
        let applied = set.handle_assignment(&message, NOW);
        let case = format!("{agent_epoch} {epoch} {counter}");
        assert_eq!(set.get("a").is_some(), taken, "{case}");
        assert_eq!((applied.sync, applied.refused_for), (sync, refused_for), "{case}");
    }
}

#[test]
fn before_its_registration_an_agent_accepts_no_assignment() {
    let mut set = DesiredSet::default();
    let message = Assignment { agent_epoch: 0, ..assignment(10, 1, vec![assigned("a", 1, 5)]) };
    set.handle_assignment(&message, NOW);
    assert!(set.pods().is_empty());
}

#[test]
fn assignments_in_any_order_and_twice_give_the_newest_generation() {
    let mut set = registered();
    for message in [
        assignment(10, 2, vec![assigned("a", 2, 7)]),
        assignment(10, 1, vec![assigned("a", 1, 5)]),
        assignment(10, 2, vec![assigned("a", 2, 7)]),
    ] {
        set.handle_assignment(&message, NOW);
    }
    assert_eq!(set.get("a").map(|held| (held.generation, held.revision)), Some((2, 7)));
    assert_eq!(set.counter(), 2);
}

#[test]
fn a_uid_that_ended_never_starts_again_and_its_end_is_told_again() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    set.end("a", NOW);
    set.drop_ended("a");
    assert_eq!(set.unacked_ends().count(), 0);
    let applied = set.handle_assignment(&assignment(10, 2, vec![assigned("a", 1, 5)]), NOW);
    assert_eq!(applied.ended, ["a"]);
    assert!(set.pods().is_empty());
    assert_eq!(set.unacked_ends().count(), 1);
}

#[test]
fn the_removal_of_a_pod_that_never_arrived_keeps_it_from_ever_starting() {
    let mut set = registered();
    let removed = vec![Removal { uid: "a".into(), ..Default::default() }];
    let applied = set.handle_assignment(&Assignment { removed, ..assignment(10, 2, vec![]) }, NOW);
    assert_eq!(applied.ended, ["a"]);
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    assert!(set.pods().is_empty());
}

#[test]
fn a_sync_reply_that_assignments_overtook_is_ignored() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    set.handle_assignment(&assignment(10, 2, vec![assigned("b", 1, 6)]), NOW);
    let verdicts = vec![Verdict { uid: "b".into(), kind: verdict::Kind::Remove.into(), ..Default::default() }];
    let applied = set.handle_sync_reply(&SyncReply { verdicts, ..reply(10, 1) }, NOW);
    assert!(applied.sync);
    assert!(!set.get("b").unwrap().must_go());
}

#[test]
fn what_was_seen_before_leaders_that_never_answered_counts_until_one_does() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    for epoch in [11, 12] {
        set.handle_assignment(&assignment(epoch, 1, vec![]), NOW);
        assert_eq!(set.earlier_mark(), Some(Mark { term: Some(term(10)), revision: 5 }));
    }
    set.handle_sync_reply(&reply(12, 1), NOW);
    assert_eq!(set.earlier_mark(), None);
}

#[test]
fn a_leader_of_an_older_term_cannot_register_a_node_that_saw_a_newer_one() {
    let mut set = registered();
    set.deregister();
    let applied = set.handle_sync_reply(&SyncReply { agent_epoch: 4, ..reply(9, 0) }, NOW);
    assert_eq!((applied.refused_for, set.agent_epoch(), set.leader_epoch()), (Some(10), 0, 10));
}

#[test]
fn verdicts_keep_remove_and_hold() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, ["a", "b", "c"].map(|uid| assigned(uid, 1, 5)).into()), NOW);
    let verdict =
        |uid: &str, kind: verdict::Kind| Verdict { uid: uid.into(), kind: kind.into(), grace_period_seconds: 7 };
    let verdicts =
        vec![verdict("a", verdict::Kind::Keep), verdict("b", verdict::Kind::Remove), verdict("c", verdict::Kind::Hold)];
    let applied = set.handle_sync_reply(&SyncReply { verdicts, ..reply(10, 1) }, NOW);
    assert_eq!(applied.changed, ["b"]);
    assert_eq!(set.get("b").unwrap().removal, Some(7));
    assert!(!set.get("c").unwrap().must_go(), "without a record nothing is removed");
    assert_eq!(set.digest(), digest::desired_set([("a", 1, false)]), "the leader has no object of the others");
}

#[test]
fn a_pod_on_hold_counts_again_once_the_leader_assigns_it() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    let verdicts = vec![Verdict { uid: "a".into(), kind: verdict::Kind::Hold.into(), ..Default::default() }];
    set.handle_sync_reply(&SyncReply { verdicts, ..reply(10, 1) }, NOW);
    set.handle_assignment(&assignment(10, 2, vec![assigned("a", 1, 5)]), NOW);
    assert_eq!(set.digest(), digest::desired_set([("a", 1, false)]));
}

#[test]
fn a_refusal_changes_nothing() {
    let mut set = DesiredSet::default();
    let refusal =
        podbus_common::proto::Refusal { reason: refusal::Reason::InstanceAlive.into(), message: String::new() };
    set.handle_sync_reply(&SyncReply { refusal: Some(refusal), ..reply(10, 4) }, NOW);
    assert_eq!((set.agent_epoch(), set.leader_epoch()), (0, 0));
}

#[test]
fn a_deadline_only_moves_nearer() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5)]), NOW);
    set.set_deadline("a", NOW.plus_seconds(30));
    set.set_deadline("a", NOW.plus_seconds(60));
    assert_eq!(set.get("a").unwrap().deadline, Some(NOW.plus_seconds(30)));
    set.set_deadline("a", NOW.plus_seconds(5));
    assert_eq!(set.get("a").unwrap().deadline, Some(NOW.plus_seconds(5)));
}

#[test]
fn records_and_the_snapshot_both_give_the_same_set_again() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, ["a", "b", "c", "d"].map(|uid| assigned(uid, 1, 5)).into()), NOW);
    set.handle_assignment(&assignment(10, 2, vec![assigned("a", 2, 9)]), NOW);
    set.admit("a", NOW);
    set.fail("b", "OutOfcpu", "no");
    let removed = vec![Removal { uid: "c".into(), grace_period_seconds: 1, ..Default::default() }];
    set.handle_assignment(&Assignment { removed, ..assignment(10, 3, vec![]) }, NOW);
    set.set_deadline("c", NOW.plus_seconds(1));
    set.end("d", NOW);
    let by_records = replayed(set.take_records());
    let by_snapshot = replayed(set.snapshot());
    for again in [by_records, by_snapshot] {
        assert_eq!(uids(&again), ["a", "b", "c"]);
        assert_eq!(again.digest(), set.digest());
        assert_eq!(again.held(), set.held());
        assert_eq!(again.mark(), set.mark());
        assert_eq!((again.agent_epoch(), again.agent_epoch_seen()), (0, 3), "a restart registers anew");
        assert_eq!(again.get("a").unwrap().admitted, Some(NOW));
        assert_eq!(again.get("b").unwrap().failed, Some(("OutOfcpu".into(), "no".into())));
        assert_eq!(again.get("c").unwrap().removal, Some(1));
        assert_eq!(again.get("c").unwrap().deadline, Some(NOW.plus_seconds(1)));
        assert_eq!(again.ended("d"), set.ended("d"));
    }
}

#[test]
fn an_end_is_forgotten_after_seven_days_but_not_before_it_was_acked() {
    let mut set = registered();
    set.handle_assignment(&assignment(10, 1, vec![assigned("a", 1, 5), assigned("b", 1, 6)]), NOW);
    set.end("a", NOW);
    set.end("b", NOW);
    set.drop_ended("a");
    set.forget_old_ends(NOW.plus_seconds(LEDGER_SECONDS - 1));
    assert!(set.ended("a").is_some());
    set.forget_old_ends(NOW.plus_seconds(LEDGER_SECONDS));
    assert!(set.ended("a").is_none() && set.ended("b").is_some());
}
