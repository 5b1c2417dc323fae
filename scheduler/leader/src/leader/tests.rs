use std::collections::BTreeMap;

use bytes::Bytes;
use podbus_common::api::{LeaseTerm, Status};
use podbus_common::model::Timestamp;
use podbus_common::proto::{Heartbeat, NodeDescription, PodReport, StatusReply, StatusRequest};
use prost::Message as _;
use serde_json::json;

use super::*;
use crate::nodes;
use crate::writing::{Failed, Step, Stored, Writing};

/// A leader, its clock, and a store that takes all.
struct Scene {
    leader: Leader,
    now: Instant,
    revision: u64,
    /// What somebody else purged.
    purged: Vec<&'static str>,
    /// What was published.
    events: Vec<String>,
    /// What was answered.
    answers: Vec<(CallId, Result<Bytes, Status>)>,
    /// What was sent to nodes.
    sent: Vec<Bytes>,
}

impl Scene {
    fn with_node() -> Self {
        Self::with_node_and(Snapshot::default())
    }

    fn with_node_and(snapshot: Snapshot) -> Self {
        let now = Instant::now();
        let term = Term { epoch: 1, nonce: "n".into() };
        let lineage = Lineage::new(vec![LeaseTerm { epoch: 1, nonce: "n".into(), revision: 0, cold: true }], 1);
        let start = Start { snapshot, term, lineage, remembered: None };
        let settings = Settings { toleration_seconds: 300, scheduling: podbus_scheduler_core::Config::default() };
        let leader = Leader::new(start, "control".into(), settings, [7; 32], at(now));
        let mut scene = Self {
            leader,
            now,
            revision: 1,
            purged: Vec::new(),
            events: Vec::new(),
            answers: Vec::new(),
            sent: Vec::new(),
        };
        scene.register("node-1");
        scene
    }

    fn register(&mut self, node: &str) {
        let amounts = [("cpu", "1"), ("memory", "1Gi"), ("pods", "10")];
        let amounts: BTreeMap<_, _> = amounts.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let description = NodeDescription { capacity: amounts.clone(), allocatable: amounts, ..Default::default() };
        let request = SyncRequest {
            node: node.into(),
            node_id: "id".into(),
            instance: "i".into(),
            description: Some(description),
            last_page: true,
            ..Default::default()
        };
        self.hear(Input::Sync { request: Box::new(request), reply: "reply".into() });
        let heartbeat = Heartbeat { node: node.into(), instance: "i".into(), agent_epoch: 1, ..Heartbeat::default() };
        self.hear(Input::Heartbeat(Box::new(heartbeat)));
    }

    fn hear(&mut self, input: Input) {
        self.leader.handle(input, at(self.now)).unwrap();
        for output in self.leader.outputs() {
            match &output {
                Output::Publish(event) => self.events.push(event.reason.clone()),
                Output::Answer(call, answer) => self.answers.push((*call, answer.clone())),
                Output::Send { payload, .. } => self.sent.push(payload.clone()),
                _ => {}
            }
            if let Output::Write { object, writes } = output {
                let mut writing = Writing::new(1, writes);
                while let Some(step) = writing.step() {
                    match step {
                        Step::Write { key, .. } if self.purged.contains(&&*key) => writing.wrote(Err(Failed::Conflict)),
                        Step::Write { .. } => {
                            self.revision += 1;
                            writing.wrote(Ok(self.revision));
                        }
                        Step::Read { .. } => writing.read(Some(None)),
                    }
                }
                self.hear(Input::Written { object, outcome: writing.finish() });
            }
        }
    }

    fn tick_for(&mut self, time: Duration, caught_up: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK_EVERY;
            self.hear(Input::Tick { caught_up });
        }
    }

    fn node_is(&self) -> &str {
        nodes::status_of(&self.leader.cluster.node("node-1").unwrap().node)
    }
}

fn at(instant: Instant) -> Now {
    Now { instant, wall: Timestamp::from_unix_ms(1_700_000_000_000) }
}

#[test]
fn a_node_that_says_nothing_is_lost_unless_it_may_not_have_been_heard() {
    let mut scene = Scene::with_node();
    assert_eq!(scene.node_is(), "True");
    // The leader is behind with what it was told: what the node said may still be waiting.
    scene.tick_for(Duration::from_secs(20), false);
    scene.tick_for(Duration::from_secs(4), true);
    assert_eq!(scene.node_is(), "True");
    scene.tick_for(Duration::from_secs(2), true);
    assert_eq!(scene.node_is(), "Unknown");
}

#[test]
fn the_place_of_a_pod_that_a_dead_leader_removed_late_is_free_and_its_status_goes() {
    let pod = |name: &str, uid: &str, node: &str| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name, "uid": uid},
            "spec": {"nodeName": node, "containers": [container]}})
    };
    let mut snapshot = Snapshot::default();
    let stored = |json: serde_json::Value| Stored { revision: 1, value: Some(json.to_string().into()), epoch: 1 };
    snapshot.take_in("pods.default.old", &stored(pod("old", "u", "node-1")));
    snapshot.take_in("podstatus.default.old", &stored(json!({"uid": "u", "sequence": 1})));
    let mut scene = Scene::with_node_and(snapshot);
    let call = |call, verb: &str, request: serde_json::Value| Input::Call {
        call,
        subject: format!("podbus.api.v1.default.pods.{verb}"),
        payload: request.to_string().into(),
    };

    scene.hear(call(1, "apply", json!({"object": pod("new", "", "")})));
    let new = PodName { namespace: "default".into(), name: "new".into() };
    let node_of_new = |scene: &Scene| scene.leader.cluster.kept(&new).unwrap().node().to_owned();
    assert_eq!(node_of_new(&scene), "", "the old one has the whole node");

    scene.purged.push("pods.default.old");
    scene.hear(call(2, "delete", json!({"name": "old"})));
    scene.tick_for(Duration::from_secs(1), true);
    assert_eq!(node_of_new(&scene), "node-1");
    assert!(!scene.leader.cluster.holds("podstatus.default.old"));
}

#[test]
fn events_without_room_are_counted_and_not_made() {
    let mut scene = Scene::with_node();
    let container = json!({"name": "c", "image": "i"});
    let apply = |scene: &mut Scene, name: &str, room: usize| {
        let object =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}});
        let payload = json!({"object": object}).to_string().into();
        scene.leader.set_events_room(room);
        scene.events.clear();
        scene.hear(Input::Call { call: 1, subject: "podbus.api.v1.default.pods.apply".into(), payload });
        (scene.events.clone(), scene.leader.stats().events_dropped)
    };
    let scheduled = vec!["Scheduled".to_owned()];
    assert_eq!(apply(&mut scene, "one", 1), (scheduled.clone(), 0));
    assert_eq!(apply(&mut scene, "two", 0), (vec![], 1));
    assert_eq!(apply(&mut scene, "three", 2), (scheduled, 1), "what was dropped left nothing behind");
}

#[test]
fn a_list_is_answered_once_with_what_became_of_each_object_in_its_order() {
    let mut scene = Scene::with_node();
    let pod = |name: &str, cpu: &str| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}})
    };
    let list = |items: &[serde_json::Value]| json!({"apiVersion": "v1", "kind": "List", "items": items});
    let apply = |scene: &mut Scene, object: &serde_json::Value| {
        let payload = json!({"object": object, "detail": "brief"}).to_string().into();
        scene.answers.clear();
        scene.hear(Input::Call { call: 5, subject: "podbus.api.v1.default.pods.apply".into(), payload });
        let [(5, answer)] = &scene.answers[..] else { panic!("one answer, not {:?}", scene.answers) };
        answer.clone().map(|json| serde_json::from_slice::<serde_json::Value>(&json).unwrap())
    };
    let items =
        [pod("one", "100m"), pod("Bad!", "100m"), pod("two", "100m"), pod("one", "100m"), json!({"kind": "Job"})];
    let answer = apply(&mut scene, &list(&items)).unwrap();
    let told = |item: &serde_json::Value| match &item["error"]["code"] {
        serde_json::Value::Null => (item["result"].to_string(), item["object"]["metadata"]["name"].to_string()),
        code => (code.to_string(), String::new()),
    };
    let told: Vec<_> = answer["items"].as_array().unwrap().iter().map(told).collect();
    let expected = [("\"created\"", "\"one\""), ("422", ""), ("\"created\"", "\"two\""), ("\"unchanged\"", "\"one\"")];
    let expected = expected.into_iter().chain([("400", "")]).map(|(what, name)| (what.to_owned(), name.to_owned()));
    assert_eq!(told, expected.collect::<Vec<_>>());
    assert_eq!(scene.leader.cluster.pods_len(), 2);

    assert_eq!(apply(&mut scene, &list(&[])).unwrap(), json!({"items": []}));
    let many = vec![pod("p", "1m"); podbus_common::api::APPLY_OBJECTS_MAX + 1];
    assert_eq!(apply(&mut scene, &list(&many)).unwrap_err().code, 413);
}

#[test]
fn a_busy_leader_asks_nodes_to_gather_what_they_report() {
    let apply = |name: &str| {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let payload = json!({"object": object}).to_string().into();
        Input::Call { call: 1, subject: "podbus.api.v1.default.pods.apply".into(), payload }
    };
    let gathers = |scene: &mut Scene, sequence: u64| {
        let name = PodName { namespace: "default".into(), name: "web".into() };
        let uid = scene.leader.cluster.kept(&name).unwrap().uid.to_string();
        let report = PodReport { uid, sequence, ..PodReport::default() };
        let request = StatusRequest { node: "node-1".into(), agent_epoch: 1, pods: vec![report], ..Default::default() };
        scene.sent.clear();
        scene.hear(Input::Status { request: Box::new(request), reply: "_INBOX.a".into() });
        let [payload] = &scene.sent[..] else { panic!("one answer, not {:?}", scene.sent) };
        let reply = StatusReply::decode(payload.clone()).unwrap();
        assert_eq!(reply.acks.len(), 1, "it is stored all the same");
        reply.retry_after_ms > 0
    };
    let mut scene = Scene::with_node();
    scene.hear(apply("web"));
    assert!(!gathers(&mut scene, 1));
    for number in 0..BUSY_MIN {
        scene.leader.handle(apply(&format!("pod-{number}")), at(scene.now)).unwrap();
    }
    // Their writes are under way and stay so.
    scene.leader.outputs();
    assert!(!gathers(&mut scene, 2), "one node may say at once all that it has to say");
    (2..8).for_each(|number| scene.register(&format!("node-{number}")));
    assert!(gathers(&mut scene, 3));
}

#[test]
fn an_apply_that_is_meant_for_one_version_changes_no_other() {
    let mut scene = Scene::with_node();
    let mut apply = |tier: &str, version: &str| {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"tier": tier}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let payload = json!({"object": object, "resourceVersion": version}).to_string().into();
        scene.hear(Input::Call { call: 1, subject: "podbus.api.v1.default.pods.apply".into(), payload });
        let answer = scene.answers.pop().unwrap().1.map_err(|status| status.code)?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        Ok(answer["object"]["metadata"]["resourceVersion"].as_str().unwrap().to_owned())
    };
    assert_eq!(apply("a", "3"), Err(404), "it does not come back when it was deleted meanwhile");
    let first: String = apply("a", "0").unwrap();
    assert_eq!(apply("b", "0"), Err(409), "it is there");
    let second = apply("b", &first).unwrap();
    assert_ne!(first, second);
    assert_eq!(apply("c", &first), Err(409));
    apply("c", &second).unwrap();
}

#[test]
fn the_subject_of_a_namespace_changes_no_node() {
    let mut scene = Scene::with_node();
    for (namespace, changes) in [("_", true), ("team-a", false)] {
        let payload = json!({"object": {"metadata": {"name": "node-1"}, "spec": {"unschedulable": true}}});
        let subject = format!("podbus.api.v1.{namespace}.nodes.apply");
        scene.hear(Input::Call { call: 1, subject, payload: payload.to_string().into() });
        assert_eq!(scene.answers.pop().unwrap().1.is_ok(), changes, "{namespace}");
    }
}
