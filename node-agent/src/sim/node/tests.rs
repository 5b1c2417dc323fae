use podbus_common::model::Timestamp;
use podbus_common::proto::{AssignedPod, Assignment, PodAck, PodReport, SyncReply, Term, pod_ack};
use prost::Message as _;

use super::*;
use podbus_load::chance::Distribution;

/// A node and its leader, with a clock that the test moves.
struct World {
    node: Node,
    start: Instant,
    ms: u64,
    counter: u64,
}

fn term() -> Option<Term> {
    Some(Term { epoch: 10, nonce: "n".into() })
}

impl World {
    fn new() -> Self {
        let constant = Distribution::Constant(Duration::from_millis(20));
        let behaviour =
            Behaviour { start_latency: constant, stop_latency: constant, crashes_per_hour: 0.0, run_time: None };
        let allocatable = Amounts { cpu_millis: 1000, memory_bytes: 1 << 30, ..Amounts::default() };
        let offer = NodeOffer { allocatable, pods: 10, name: "sim-0".into(), ..NodeOffer::default() };
        let profile = Profile {
            name: "sim-0".into(),
            node_id: "id".into(),
            description: NodeDescription::default(),
            offer,
            network: 258,
        };
        let start = Instant::now();
        let now = Now { instant: start, wall: Timestamp::from_unix_ms(0) };
        let node = Node::new(Arc::new(Shared { behaviour, seed: 7 }), profile, 1, now, start);
        Self { node, start, ms: 0, counter: 0 }
    }

    fn now(&self) -> Now {
        let wall = Timestamp::from_unix_ms(i64::try_from(self.ms).unwrap());
        Now { instant: self.start + Duration::from_millis(self.ms), wall }
    }

    fn pass(&mut self, ms: u64) -> Vec<Message> {
        self.ms += ms;
        self.node.advance(self.now()).unwrap();
        self.node.messages()
    }

    fn hear(&mut self, heard: Heard) -> Vec<Message> {
        self.node.hear(heard, self.now()).unwrap();
        self.node.messages()
    }

    fn register(&mut self) {
        assert!(matches!(self.node.messages()[..], [Message::Sync(_)]));
        let messages = self.registered(1);
        // The node's own event of its start.
        assert!(self.take_status(&messages).is_empty());
    }

    fn registered(&mut self, agent_epoch: u64) -> Vec<Message> {
        let reply = SyncReply { term: term(), agent_epoch, counter: self.counter, ..Default::default() };
        self.hear(Heard::Synced(Some(Box::new(reply))))
    }

    fn assign(&mut self, uid: &str) -> Vec<Message> {
        self.counter += 1;
        let pod = serde_json::json!({
            "metadata": {"name": uid, "namespace": "default", "uid": uid, "generation": 1},
            "spec": {"containers": [
                {"name": "main", "image": "busybox", "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}}},
            ]},
        });
        let pod = AssignedPod { uid: uid.into(), generation: 1, revision: 5, pod: pod.to_string().into() };
        let (assigned, counter) = (vec![pod], self.counter);
        let message = Assignment { term: term(), agent_epoch: 1, counter, assigned, ..Default::default() };
        self.hear(Heard::Assignment(message.encode_to_vec().into()))
    }

    /// The pods of the status request among `messages`, all acked.
    fn take_status(&mut self, messages: &[Message]) -> Vec<(String, String)> {
        let Some(Message::Status(request)) = messages.iter().find(|m| matches!(m, Message::Status(_))) else {
            return Vec::new();
        };
        let told = |p: &PodReport| (p.uid.clone(), p.sandbox.clone().unwrap_or_default().ip);
        let pods = request.pods.iter().map(told).collect();
        let ack = |p: &PodReport| PodAck { uid: p.uid.clone(), sequence: p.sequence, kind: pod_ack::Kind::Ack.into() };
        let acks = request.pods.iter().map(ack).collect();
        let reply = StatusReply { term: term(), acks, ..Default::default() };
        self.hear(Heard::StatusTaken(Some(reply)));
        pods
    }
}

#[test]
fn an_assigned_pod_runs_after_its_latency_and_is_reported_as_by_a_real_node() {
    let mut world = World::new();
    world.register();
    world.pass(0);
    world.assign("u1");
    assert_eq!(world.node.running(), 0);
    let messages = world.pass(20);
    assert_eq!(world.take_status(&messages), [("u1".to_owned(), "10.1.2.3".to_owned())]);
    assert_eq!(world.node.running(), 1);
}

#[test]
fn a_heartbeat_goes_out_each_second_once_the_node_is_registered() {
    let mut world = World::new();
    let beats = |messages: Vec<Message>| messages.iter().filter(|m| matches!(m, Message::Heartbeat(_))).count();
    assert_eq!(beats(world.pass(0)), 0);
    world.registered(1);
    assert_eq!((beats(world.pass(1000)), beats(world.pass(500)), beats(world.pass(500))), (1, 0, 1));
}

#[test]
fn the_heartbeat_says_that_running_pods_use_what_they_ask_for() {
    let mut world = World::new();
    world.register();
    let used = |messages: Vec<Message>| {
        let beat = messages.into_iter().find_map(|m| if let Message::Heartbeat(beat) = m { Some(beat) } else { None });
        beat.map(|beat| (beat.used_cpu_millis, beat.used_memory_bytes))
    };
    world.pass(0);
    world.assign("u1");
    world.assign("u2");
    world.pass(20);
    assert_eq!(used(world.pass(980)), Some((500, 128 << 20)));
    world.node.die();
    assert_eq!(world.node.health().used_cpu_millis, 0);
}

#[test]
fn nothing_passes_to_or_from_a_node_that_is_cut_off() {
    let mut world = World::new();
    world.register();
    world.pass(0);
    world.node.cut_off(true);
    assert!(world.assign("u1").is_empty());
    assert!(world.pass(5000).is_empty(), "not even a heartbeat");
    world.node.cut_off(false);
    let messages = world.pass(1000);
    assert!(messages.iter().any(|m| matches!(m, Message::Heartbeat(_))));
    // The assignment is lost for good: the leader sees it by the digest.
    assert_eq!(world.node.running(), 0);
}

#[test]
fn a_dead_node_is_silent_and_boots_with_its_disk_and_without_containers() {
    let mut world = World::new();
    world.register();
    world.assign("u1");
    world.pass(20);
    world.node.die();
    assert_eq!((world.node.due(), world.pass(5000).len(), world.node.running()), (None, 0, 0));
    let now = world.now();
    world.node.boot(now);
    let messages = world.node.messages();
    let Some(Message::Sync(pages)) = messages.first() else { panic!("it registers: {messages:?}") };
    assert_eq!((pages[0].agent_epoch, pages[0].agent_epoch_seen, pages[0].held.len()), (0, 1, 1));
    // What its disk says runs again in a new sandbox, even before a leader answers.
    world.pass(20);
    assert_eq!(world.node.running(), 1);
}
