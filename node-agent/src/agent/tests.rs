//! An agent on a real bus, with a leader played by the test and a runtime in memory.

use std::collections::BTreeMap;
use std::future::Future;

use async_nats::jetstream;
use podbus_common::digest;
use podbus_common::proto::{
    AssignedPod, Assignment, ContainerState, Heartbeat, Place, PodAck, PodReport, Refusal, Removal, SandboxState,
    SyncRequest, Term, Verdict, pod_ack, refusal, verdict,
};
use podbus_common::subject;
use podbus_common_bus::BusOptions;
use podbus_common_bus::testing::NatsServer;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::runtime::config::POD_UID_LABEL;
use crate::runtime::fake::Fake;
use crate::runtime::watch::follow;
use crate::user_ids::UserIds;

const BUSYBOX: &str = "localhost/busybox:latest";
const PATIENCE: Duration = Duration::from_secs(20);

/// The leader: what it was told, and what it says.
struct Leader {
    bus: Bus,
    syncs: Subscriber,
    statuses: Subscriber,
    heartbeats: Subscriber,
    agent_epoch: u64,
    counter: u64,
    /// The newest report of each pod.
    reports: BTreeMap<String, PodReport>,
    /// Each event that was told, once.
    events: Vec<String>,
    /// Each exit that was told: pod, container, attempt, code.
    exits: BTreeSet<(String, String, u32, i32)>,
    ack: pod_ack::Kind,
    answers: bool,
}

struct World {
    _server: NatsServer,
    leader: Leader,
    runtime: Fake,
    state_dir: tempfile::TempDir,
    agent: JoinHandle<Result<(), Refused>>,
    stop: CancellationToken,
}

fn term() -> Term {
    Term { epoch: 10, nonce: "n".into() }
}

impl World {
    async fn start() -> Self {
        let server = NatsServer::start();
        let bus = bus(&server.url()).await;
        let subscribe = |subject: String| bus.client().subscribe(subject);
        let leader = Leader {
            syncs: subscribe(subject::sync("node-1")).await.unwrap(),
            statuses: subscribe(subject::status("node-1")).await.unwrap(),
            heartbeats: subscribe(subject::heartbeat("node-1")).await.unwrap(),
            bus: bus.clone(),
            agent_epoch: 0,
            counter: 0,
            reports: BTreeMap::new(),
            events: Vec::new(),
            exits: BTreeSet::new(),
            ack: pod_ack::Kind::Ack,
            answers: true,
        };
        bus.client().flush().await.unwrap();
        let state_dir = tempfile::tempdir().unwrap();
        let runtime = Fake::new(&[BUSYBOX]);
        let (agent, stop) = start_agent(&server.url(), &runtime, &state_dir).await;
        let mut world = Self { _server: server, leader, runtime, state_dir, agent, stop };
        world.register(SyncReply::default()).await;
        world
    }

    /// Answers a registration; `reply` says what beside the term.
    async fn register(&mut self, reply: SyncReply) -> SyncRequest {
        self.leader.agent_epoch += 1;
        self.leader.counter = 0;
        self.leader.answer_sync(reply).await
    }

    /// The agent ends, its pods run on.
    async fn stop_agent(&mut self) {
        self.stop.cancel();
        (&mut self.agent).await.unwrap().unwrap();
    }

    async fn start_agent(&mut self) {
        let url = self.leader.bus.url().to_owned();
        (self.agent, self.stop) = start_agent(&url, &self.runtime, &self.state_dir).await;
    }

    /// Takes what the agent sends until `done`.
    async fn until(&mut self, what: &str, mut done: impl FnMut(&Leader, &Fake) -> bool) {
        let waiting = async {
            while !done(&self.leader, &self.runtime) {
                self.leader.step().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            let state = self.runtime.state();
            panic!("{what}\nreports: {:#?}\ncalls: {:#?}", self.leader.reports, state.calls);
        }
    }

    async fn until_running(&mut self, uid: &str, attempt: u32) {
        let running = |leader: &Leader, _: &Fake| {
            leader.container(uid).is_some_and(|c| c.state() == ContainerState::ContainerRunning && c.attempt == attempt)
        };
        self.until("it runs", running).await;
    }
}

async fn bus(url: &str) -> Bus {
    Bus::connect(&BusOptions { url: url.into(), token: None, name: "test".into() }).await.unwrap()
}

async fn start_agent(
    url: &str,
    runtime: &Fake,
    state_dir: &tempfile::TempDir,
) -> (JoinHandle<Result<(), Refused>>, CancellationToken) {
    let bus = bus(url).await;
    let stop = CancellationToken::new();
    let (journal, set) = Journal::open(&state_dir.path().join("desired.log")).unwrap();
    let (wakes_tx, wakes) = mpsc::channel(16);
    let assignments = bus.client().subscribe(subject::assign("node-1")).await.unwrap();
    tokio::spawn(follow(runtime.clone(), wakes_tx, stop.clone()));
    let allocatable = [("cpu", "1"), ("memory", "1Gi")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let offer = NodeOffer {
        allocatable: podbus_node_agent_core::resources::from_quantities(&allocatable),
        pods: 10,
        ..NodeOffer::default()
    };
    let pods = state_dir.path().join("pods");
    std::fs::create_dir_all(&pods).unwrap();
    let user_ids = UserIds::open("65536:131072".parse().unwrap(), &pods).unwrap();
    let agent = Agent::new(Parts {
        node: "node-1".into(),
        node_id: "id-1".into(),
        bus,
        runtime: runtime.clone(),
        set,
        adopted: BTreeSet::new(),
        journal,
        description: NodeDescription::default(),
        offer,
        facts: NodeFacts {
            node: "node-1".into(),
            cgroup_root: "/podbus-test".into(),
            memory_bytes: 1 << 30,
            state_dir: state_dir.path().to_owned(),
            starts: Arc::new(Semaphore::new(1)),
            user_ids: Arc::new(user_ids),
            telemetry: Telemetry::new("node-1"),
        },
        health: watch::channel(Health::default()).1,
        directory: Directory::default(),
        stop: stop.clone(),
    });
    (tokio::spawn(agent.run(wakes, assignments)), stop)
}

impl Leader {
    async fn answer_sync(&mut self, reply: SyncReply) -> SyncRequest {
        let message = within(self.syncs.next()).await.unwrap();
        let request = SyncRequest::decode(message.payload).unwrap();
        let reply = SyncReply { term: Some(term()), agent_epoch: self.agent_epoch, counter: self.counter, ..reply };
        self.bus.client().publish(message.reply.unwrap(), reply.encode_to_vec().into()).await.unwrap();
        request
    }

    async fn assign(&mut self, assigned: Vec<AssignedPod>, removed: Vec<Removal>) {
        self.send(Assignment { assigned, removed, ..Assignment::default() }).await;
    }

    async fn send(&mut self, message: Assignment) {
        self.counter += 1;
        let (term, agent_epoch, counter) = (Some(term()), self.agent_epoch, self.counter);
        let message = Assignment { term, agent_epoch, counter, ..message };
        self.bus.client().publish(subject::assign("node-1"), message.encode_to_vec().into()).await.unwrap();
    }

    /// Takes one status request.
    async fn step(&mut self) {
        let message = self.statuses.next().await.unwrap();
        if !self.answers {
            return;
        }
        let request = StatusRequest::decode(message.payload).unwrap();
        let mut reply = StatusReply { term: Some(term()), ..Default::default() };
        for report in request.pods {
            reply.acks.push(PodAck { uid: report.uid.clone(), sequence: report.sequence, kind: self.ack.into() });
            self.take(report);
        }
        self.bus.client().publish(message.reply.unwrap(), reply.encode_to_vec().into()).await.unwrap();
    }

    fn take(&mut self, report: PodReport) {
        for event in &report.events {
            let line = format!("{} {} {}", event.at_ms, event.reason, event.container);
            if !self.events.contains(&line) {
                self.events.push(line);
            }
        }
        for exit in &report.exits {
            let end = exit.exit.clone().unwrap();
            self.exits.insert((report.uid.clone(), exit.container.clone(), end.attempt, end.exit_code));
        }
        self.reports.insert(report.uid.clone(), report);
    }

    fn container(&self, uid: &str) -> Option<&podbus_common::proto::ContainerStatus> {
        self.reports.get(uid)?.containers.first()
    }

    fn reasons(&self) -> Vec<&str> {
        self.events.iter().map(|line| line.split(' ').nth(1).unwrap()).collect()
    }

    fn ended(&self, uid: &str) -> bool {
        self.reports.get(uid).is_some_and(|report| report.ended)
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it happens in time")
}

fn pod(uid: &str, spec: serde_json::Value) -> AssignedPod {
    pod_of(uid, 1, spec, &serde_json::json!({}))
}

fn pod_of(uid: &str, generation: u64, spec: serde_json::Value, more: &serde_json::Value) -> AssignedPod {
    let mut metadata = serde_json::json!({
        "name": format!("name-{uid}"), "namespace": "default", "uid": uid, "generation": generation,
    });
    metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut spec = spec;
    spec["containers"] = serde_json::json!([{
        "name": "main", "image": BUSYBOX, "resources": spec["resources"].take(),
    }]);
    if spec["containers"][0]["resources"].is_null() {
        spec["containers"][0]["resources"] = serde_json::json!({});
    }
    spec.as_object_mut().unwrap().remove("resources");
    let pod = serde_json::json!({"metadata": metadata, "spec": spec});
    AssignedPod { uid: uid.into(), generation, revision: 5 + generation, pod: pod.to_string().into() }
}

fn deleted(uid: &str) -> AssignedPod {
    deleted_of(uid, serde_json::json!({}))
}

fn deleted_of(uid: &str, spec: serde_json::Value) -> AssignedPod {
    let more = serde_json::json!({"deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 7});
    pod_of(uid, 2, spec, &more)
}

fn plain(uid: &str) -> AssignedPod {
    pod(uid, serde_json::json!({}))
}

fn requests(cpu: &str) -> serde_json::Value {
    serde_json::json!({"resources": {"requests": {"cpu": cpu}}})
}

fn asking(uid: &str, cpu: &str) -> AssignedPod {
    pod(uid, requests(cpu))
}

#[tokio::test]
async fn an_assigned_pod_runs_and_its_life_is_told_in_order() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    let report = &world.leader.reports["u1"];
    let sandbox = report.sandbox.as_ref().unwrap();
    assert_eq!((sandbox.state(), sandbox.ip.as_str()), (SandboxState::SandboxReady, "10.0.0.2"));
    assert_eq!(report.sequence, 1, "one report, one write of the leader's");
    assert_eq!(world.leader.reasons(), ["Pulled", "Created", "Started"]);
    assert_eq!(world.runtime.state().calls, ["RunPodSandbox 0", "CreateContainer main 0", "StartContainer"]);
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_waits_where_the_runtime_would_give_it_those_of_the_node() {
    let mut world = World::start().await;
    world.runtime.state().user_namespaces = false;
    world.leader.assign(vec![pod("u1", serde_json::json!({"hostUsers": false})), plain("u2")], vec![]).await;
    world.until("it is refused", |leader, _| leader.reasons().contains(&"FailedCreatePodSandBox")).await;
    world.until_running("u2", 0).await;
    assert!(world.runtime.state().sandboxes.values().all(|sandbox| sandbox.labels[POD_UID_LABEL] == "u2"));
}

#[tokio::test]
async fn the_ids_of_a_pod_that_is_gone_are_given_to_the_next() {
    let mut world = World::start().await;
    let own_users = || serde_json::json!({"hostUsers": false});
    for uid in ["u1", "u2", "u3"] {
        world.leader.assign(vec![pod(uid, own_users())], vec![]).await;
        world.until_running(uid, 0).await;
        let ids = std::fs::read_to_string(world.state_dir.path().join("pods").join(uid).join("user-ids")).unwrap();
        assert_eq!(ids, if uid == "u2" { "131072\n" } else { "65536\n" });
        if uid == "u2" {
            world.leader.assign(vec![deleted_of("u1", own_users())], vec![]).await;
            world.until("it ended", |leader, _| leader.ended("u1")).await;
        }
    }
}

#[tokio::test]
async fn heartbeats_carry_the_digest_of_what_was_assigned() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    let expected = digest::desired_set([("u1", 1, false)]);
    let beat = async {
        loop {
            let beat = Heartbeat::decode(world.leader.heartbeats.next().await.unwrap().payload).unwrap();
            if beat.digest == expected.as_slice() {
                return beat;
            }
        }
    };
    let beat = within(beat).await;
    assert_eq!((beat.agent_epoch, beat.leader_epoch, beat.counter), (1, 10, 1));
}

#[tokio::test]
async fn a_deleted_pod_ends_gracefully_and_is_gone_before_its_end_is_told() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    world.leader.assign(vec![deleted("u1")], vec![]).await;
    world.until("it ended", |leader, _| leader.ended("u1")).await;
    let state = world.runtime.state();
    assert!(state.sandboxes.is_empty() && state.containers.is_empty());
    let stops: Vec<_> = state.calls.iter().filter(|call| call.starts_with("StopContainer")).collect();
    assert!(["StopContainer 7", "StopContainer 6"].contains(&stops[0].as_str()), "{stops:?}");
    assert!(!world.state_dir.path().join("pods/u1").exists());
    assert!(world.leader.exits.contains(&("u1".into(), "main".into(), 0, 143)), "{:?}", world.leader.exits);
    assert!(world.leader.reasons().contains(&"Killing"));
}

#[tokio::test]
async fn a_dead_container_is_kept_until_its_exit_was_acked() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    world.leader.ack = pod_ack::Kind::Retry;
    world.leader.assign(vec![deleted("u1")], vec![]).await;
    world.until("the exit is told", |leader, _| !leader.exits.is_empty()).await;
    // Told, not acked: told again, and nothing is removed.
    world.leader.step().await;
    assert_eq!(world.runtime.state().containers.len(), 1);
    world.leader.ack = pod_ack::Kind::Ack;
    world.until("it ended", |leader, _| leader.ended("u1")).await;
}

#[tokio::test]
async fn a_container_that_exits_is_started_again_and_its_exit_told() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    world.runtime.exit("main", 3);
    world.until_running("u1", 1).await;
    assert!(world.leader.exits.contains(&("u1".into(), "main".into(), 0, 3)));
    assert_eq!(world.leader.container("u1").unwrap().exit.as_ref().unwrap().exit_code, 3);
}

#[tokio::test]
async fn without_its_sandbox_a_pod_is_made_again() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    world.runtime.lose_sandbox();
    world.until_running("u1", 1).await;
    assert_eq!(world.leader.reports["u1"].sandbox.as_ref().unwrap().attempt, 1);
    assert!(world.leader.reasons().contains(&"SandboxChanged"));
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs_and_tells_what_happened_meanwhile() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1"), pod("u2", serde_json::json!({"restartPolicy": "Never"}))], vec![]).await;
    world.until_running("u1", 0).await;
    world.until_running("u2", 0).await;
    world.stop_agent().await;
    // One of the two runs on, the other ends while nobody looks.
    let id = {
        let state = world.runtime.state();
        state.containers.values().find(|c| c.labels["io.kubernetes.pod.uid"] == "u2").unwrap().id.clone()
    };
    world.runtime.state().exit(&id, 42);
    world.runtime.state().calls.clear();
    world.leader.reports.clear();
    world.start_agent().await;
    let request = world.register(SyncReply { send_all_states: true, ..Default::default() }).await;
    assert_eq!(request.agent_epoch_seen, 1);
    assert_eq!(request.held.len(), 2);
    world.until_running("u1", 0).await;
    world.until("the exit is told", |leader, _| leader.exits.contains(&("u2".into(), "main".into(), 0, 42))).await;
    let calls = world.runtime.state().calls.clone();
    assert!(
        !calls.iter().any(|call| call.starts_with("RunPodSandbox") || call.starts_with("CreateContainer")),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_lost_disk_is_read_back_from_the_runtime() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    let (_, mut set) = Journal::open(&world.state_dir.path().join("elsewhere.log")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let state_dir = crate::state_dir::StateDir::open(dir.path()).unwrap();
    recovery::recover(&world.runtime, &state_dir, &mut set).await.unwrap();
    let held = set.get("u1").expect("it runs, so it is held");
    assert_eq!((held.generation, held.admitted.is_some()), (1, true));
}

#[tokio::test]
async fn a_sandbox_that_a_dead_agent_asked_for_is_removed_though_its_pod_ended_meanwhile() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    let made = world.runtime.state().sandboxes.values().next().unwrap().clone();
    world.leader.assign(vec![deleted("u1")], vec![]).await;
    world.until("it ended", |leader, _| leader.ended("u1")).await;
    {
        let mut state = world.runtime.state();
        state.sandboxes.insert("late".into(), v1::PodSandbox { id: "late".into(), ..made });
        // The runtime says that something happened, and not where.
        state.announce("nothing");
    }
    within(async {
        // The agent has nothing to tell of it.
        while !world.runtime.state().sandboxes.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_does_not_fit_is_refused_and_one_that_will_fit_waits() {
    let mut world = World::start().await;
    world.leader.assign(vec![asking("u1", "600m")], vec![]).await;
    world.until_running("u1", 0).await;
    world.leader.assign(vec![asking("u2", "600m")], vec![]).await;
    world
        .until("it is refused", |leader, _| {
            leader.reports.get("u2").is_some_and(|report| report.rejected_reason == "OutOfcpu")
        })
        .await;
    assert!(world.leader.reasons().contains(&"OutOfcpu"));
    // While the first one ends, its place is not free yet, and the third one waits for it.
    world.leader.answers = false;
    world.leader.assign(vec![deleted_of("u1", requests("600m")), asking("u3", "600m")], vec![]).await;
    world
        .until("the first one is stopped", |_, runtime| runtime.state().calls.iter().any(|c| c.starts_with("StopPod")))
        .await;
    world.leader.answers = true;
    world.until_running("u3", 0).await;
    assert!(world.leader.ended("u1"));
}

#[tokio::test]
async fn a_pod_is_admitted_by_the_labels_that_the_leader_tells() {
    let mut world = World::start().await;
    let choosy = |uid: &str| vec![pod(uid, serde_json::json!({"nodeSelector": {"disk": "ssd"}}))];
    let place = Place { labels: [("disk".to_owned(), "ssd".to_owned())].into(), ..Place::default() };
    world.leader.send(Assignment { assigned: choosy("u1"), place: Some(place), ..Assignment::default() }).await;
    world.until_running("u1", 0).await;
    world.leader.assign(choosy("u2"), vec![]).await;
    world
        .until("it is refused", |leader, _| {
            leader.reports.get("u2").is_some_and(|report| report.rejected_reason == "NodeAffinity")
        })
        .await;
}

#[tokio::test]
async fn a_removal_ends_a_pod_without_waiting_for_acks_and_its_end_is_told_until_it_is_acked() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    world.leader.ack = pod_ack::Kind::Hold;
    let removal = Removal { uid: "u1".into(), grace_period_seconds: 1, ..Default::default() };
    world.leader.assign(vec![], vec![removal]).await;
    world.until("it ended", |leader, _| leader.ended("u1")).await;
    assert!(world.runtime.state().sandboxes.is_empty());
}

#[tokio::test]
async fn a_verdict_to_remove_ends_a_pod_and_one_to_hold_lets_it_run() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1"), plain("u2")], vec![]).await;
    world.until_running("u1", 0).await;
    world.until_running("u2", 0).await;
    let nudge = Assignment { term: Some(term()), agent_epoch: 1, counter: 2, nudge: true, ..Default::default() };
    world.leader.counter = 2;
    world.leader.bus.client().publish(subject::assign("node-1"), nudge.encode_to_vec().into()).await.unwrap();
    let verdict =
        |uid: &str, kind: verdict::Kind| Verdict { uid: uid.into(), kind: kind.into(), grace_period_seconds: 1 };
    let verdicts = vec![verdict("u1", verdict::Kind::Remove), verdict("u2", verdict::Kind::Hold)];
    world.leader.answer_sync(SyncReply { verdicts, ..Default::default() }).await;
    world.until("it ended", |leader, _| leader.ended("u1")).await;
    assert_eq!(world.runtime.state().sandboxes.len(), 1);
}

#[tokio::test]
async fn what_a_consumer_delivers_to_a_nodes_subject_is_no_assignment() {
    let mut world = World::start().await;
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until_running("u1", 0).await;
    let removal = Removal { uid: "u1".into(), grace_period_seconds: 1, ..Default::default() };
    let forged =
        Assignment { term: Some(term()), agent_epoch: 1, counter: 2, removed: vec![removal], ..Default::default() };
    let jetstream = world.leader.bus.jetstream().clone();
    let config =
        jetstream::stream::Config { name: "FORGED".into(), subjects: vec!["forged".into()], ..Default::default() };
    let stream = jetstream.create_stream(config).await.unwrap();
    jetstream.publish("forged", forged.encode_to_vec().into()).await.unwrap().await.unwrap();
    let config = jetstream::consumer::push::Config {
        deliver_subject: subject::assign("node-1"),
        ack_policy: jetstream::consumer::AckPolicy::None,
        ..Default::default()
    };
    let mut consumer = stream.create_consumer(config).await.unwrap();
    while consumer.info().await.unwrap().delivered.stream_sequence == 0 {}
    world.leader.assign(vec![plain("u2")], vec![]).await;
    world.until_running("u2", 0).await;
    assert_eq!(world.runtime.state().sandboxes.len(), 2, "the forged removal came first, and did nothing");
}

#[tokio::test]
async fn an_image_that_cannot_be_had_is_told_and_tried_again_later() {
    let mut world = World::start().await;
    world.runtime.state().images.clear();
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world
        .until("it waits", |leader, _| leader.container("u1").is_some_and(|c| c.waiting_reason == "ErrImageNeverPull"))
        .await;
    assert!(!world.runtime.state().calls.iter().any(|call| call.starts_with("PullImage")));
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_is_an_event_and_not_the_end() {
    let mut world = World::start().await;
    world.runtime.state().failing.insert("RunPodSandbox", "no network".into());
    world.leader.assign(vec![plain("u1")], vec![]).await;
    world.until("it is told", |leader, _| leader.reasons().contains(&"FailedCreatePodSandBox")).await;
}

#[tokio::test]
async fn a_taken_name_ends_the_agent() {
    let server = NatsServer::start();
    let bus = bus(&server.url()).await;
    let mut syncs = bus.client().subscribe(subject::sync("node-1")).await.unwrap();
    bus.client().flush().await.unwrap();
    let state_dir = tempfile::tempdir().unwrap();
    let (agent, _stop) = start_agent(&server.url(), &Fake::new(&[]), &state_dir).await;
    let message = within(syncs.next()).await.unwrap();
    let refusal = Refusal { reason: refusal::Reason::NodeIdTaken.into(), message: "id-2 has it".into() };
    let reply = SyncReply { refusal: Some(refusal), ..Default::default() };
    bus.client().publish(message.reply.unwrap(), reply.encode_to_vec().into()).await.unwrap();
    assert!(matches!(within(agent).await.unwrap(), Err(Refused::NameTaken { .. })));
}
