use super::*;
use crate::cluster::PodName;
use crate::kept::{KeptPod, Templates};

fn pod(uid: &str, label: &str) -> Shown {
    let metadata = json!({"namespace": "a", "name": "web", "uid": uid, "labels": {"app": label}});
    let pod = serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap();
    let pod = KeptPod::new(Arc::new(pod), "".into(), &mut Templates::default());
    Shown::Pod(SeenPod { name: PodName::new("a", "web"), pod: Arc::new(pod), status: None, revision: 0 })
}

fn open(watches: &mut Watches, labels: &str, revision: &str) -> Result<Vec<(String, u64)>, u16> {
    let request = WatchRequest {
        inbox: "_INBOX.test".into(),
        label_selector: labels.into(),
        resource_version: revision.into(),
        ..Default::default()
    };
    let opened = watches.open(Resource::Pods, Some("a"), &request, std::iter::empty(), 100, Instant::now());
    opened.map(|(_, messages)| summary(&messages)).map_err(|status| status.code)
}

fn summary(messages: &[Outgoing]) -> Vec<(String, u64)> {
    let one = |message: &Outgoing| {
        let event: serde_json::Value = serde_json::from_slice(&message.json).unwrap();
        let revision = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        (event["type"].as_str().unwrap().to_owned(), revision)
    };
    messages.iter().map(one).collect()
}

fn event(kind: &str, revision: u64) -> (String, u64) {
    (kind.to_owned(), revision)
}

#[test]
fn a_watch_is_told_what_enters_changes_and_leaves_its_selection() {
    let mut watches = Watches::new(0);
    open(&mut watches, "app=x", "").unwrap();
    let steps = [
        (None, Some(pod("u", "y")), vec![]),
        (Some(pod("u", "y")), Some(pod("u", "x")), vec![event("ADDED", 2)]),
        (Some(pod("u", "x")), None, vec![event("DELETED", 3)]),
    ];
    for (revision, (before, after, told)) in (1..).zip(steps) {
        assert_eq!(summary(&watches.changed(revision, before, after)), told);
    }
}

#[test]
fn a_name_with_a_new_uid_is_gone_and_then_there() {
    let mut watches = Watches::new(0);
    open(&mut watches, "", "").unwrap();
    let told = watches.changed(7, Some(pod("old", "x")), Some(pod("new", "x")));
    assert_eq!(summary(&told), [event("DELETED", 7), event("ADDED", 7)]);
    assert_eq!(told.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_watch_goes_on_where_it_was_even_when_revisions_came_out_of_order() {
    let mut watches = Watches::new(5);
    for revision in [7, 6, 9] {
        watches.changed(revision, None, Some(pod(&revision.to_string(), "x")));
    }
    // 7 was sent, and 6 came after it.
    assert_eq!(open(&mut watches, "", "7"), Ok(vec![event("ADDED", 6), event("ADDED", 9)]));
    // Up to 8 all was applied.
    assert_eq!(open(&mut watches, "", "8"), Ok(vec![event("ADDED", 9)]));
    assert_eq!(open(&mut watches, "", "5"), Ok(vec![event("ADDED", 7), event("ADDED", 6), event("ADDED", 9)]));
    assert_eq!(open(&mut watches, "", "4"), Err(410), "older than the ring");
    assert_eq!(open(&mut watches, "", "101"), Err(410), "ahead of the stream");
    assert_eq!(open(&mut watches, "", "x"), Err(400));
}

#[test]
fn a_watcher_that_goes_silent_is_forgotten() {
    let mut watches = Watches::new(0);
    let start = Instant::now();
    open(&mut watches, "", "").unwrap();
    assert_eq!(watches.tick(3, start + Duration::from_secs(14)).len(), 1);
    watches.heard(1, false, start + Duration::from_secs(14));
    assert_eq!(watches.tick(3, start + Duration::from_secs(28)).len(), 1);
    assert_eq!(watches.tick(3, start + Duration::from_secs(31)).len(), 0);
}
