//! What the leader itself costs: pods applied, bound and reported as running, on a store that acknowledges at once, with
//! one watcher. Whatever the bus and nats-server cost comes on top.
//!
//! `leader [PODS [NODES]]`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends where it cannot go on")]

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;
use podbus_common::api::{LeaseTerm, WatchRequest};
use podbus_common::model::Timestamp;
use podbus_common::proto::{
    Assignment, ContainerState, ContainerStatus, Heartbeat, NodeDescription, PodReport, SandboxState, SandboxStatus,
    StatusRequest, SyncRequest, Term,
};
use podbus_common::subject::{self, Verb};
use podbus_scheduler_leader::{Input, Leader, Lineage, Now, Output, Settings, Snapshot, Start, Step, Stored, Writing};
use prost::Message as _;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods in one report of a node.
const REPORT_PODS: usize = 16;

struct Bench {
    leader: Leader,
    revision: u64,
    writes: u64,
    /// By node: pods that were assigned and not reported yet.
    assigned: BTreeMap<String, Vec<PodReport>>,
    /// What was written, in order, where that is kept.
    stored: Option<Vec<(String, Stored)>>,
}

impl Bench {
    fn new(nodes: usize, stored: Option<Vec<(String, Stored)>>) -> Self {
        let leader = start(Snapshot::default());
        let mut bench = Self { leader, revision: 1, writes: 0, assigned: BTreeMap::new(), stored };
        for node in 0..nodes {
            bench.hear(register(&format!("node-{node}")));
        }
        let watch = WatchRequest { inbox: "_INBOX.bench".into(), ..Default::default() };
        let payload = serde_json::to_vec(&watch).unwrap().into();
        bench.hear(Input::Call { call: 0, subject: subject::api(None, "pods", Verb::Watch), payload });
        bench
    }

    /// Applies pods and reports them as running: seconds for either.
    fn run(&mut self, pods: usize) -> (f64, f64) {
        let requests: Vec<_> = (0..pods).map(apply).collect();
        let began = Instant::now();
        for (call, payload) in (1..).zip(requests) {
            self.hear(Input::Call { call, subject: subject::api(Some("default"), "pods", Verb::Apply), payload });
        }
        let applied = began.elapsed().as_secs_f64();
        let began = Instant::now();
        let mut running = 0;
        for (node, reports) in std::mem::take(&mut self.assigned) {
            for chunk in reports.chunks(REPORT_PODS) {
                running += chunk.len();
                let request =
                    StatusRequest { node: node.clone(), agent_epoch: 1, pods: chunk.to_vec(), ..Default::default() };
                self.hear(Input::Status { request: Box::new(request), reply: "reply".into() });
            }
        }
        assert_eq!(running, pods, "each pod was assigned once");
        (applied, began.elapsed().as_secs_f64())
    }

    fn hear(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.leader.handle(input, now()).unwrap();
            for output in self.leader.outputs() {
                match output {
                    Output::Write { object, writes } => {
                        let mut writing = Writing::new(1, writes);
                        while let Some(step) = writing.step() {
                            let Step::Write { key, value, .. } = step else { panic!("nobody else writes") };
                            (self.revision, self.writes) = (self.revision + 1, self.writes + 1);
                            if let Some(stored) = &mut self.stored {
                                stored.push((key, Stored { revision: self.revision, value, epoch: 1 }));
                            }
                            writing.wrote(Ok(self.revision));
                        }
                        inputs.push(Input::Written { object, outcome: writing.finish() });
                    }
                    Output::Send { subject, payload } if subject.ends_with(".assign") => self.assign(&subject, payload),
                    Output::Answer(_, answer) => assert!(answer.is_ok(), "{answer:?}"),
                    _ => {}
                }
            }
        }
    }

    fn assign(&mut self, subject: &str, payload: Bytes) {
        let node = subject.split('.').nth(2).unwrap().to_owned();
        let reports = Assignment::decode(payload).unwrap().assigned.into_iter().map(|pod| PodReport {
            uid: pod.uid,
            generation: pod.generation,
            sequence: 1,
            sandbox: Some(SandboxStatus {
                state: SandboxState::SandboxReady.into(),
                ip: "10.0.0.1".into(),
                ..Default::default()
            }),
            containers: vec![ContainerStatus {
                name: "main".into(),
                state: ContainerState::ContainerRunning.into(),
                id: "c".into(),
                ready: true,
                started: true,
                ..Default::default()
            }],
            start_time_ms: 1,
            ..Default::default()
        });
        self.assigned.entry(node).or_default().extend(reports);
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::from_unix_ms(1_700_000_000_000) }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (pods, nodes) = (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(1_000));
    let rate = |seconds: f64| f64::from(u32::try_from(pods).unwrap()) / seconds;
    let mut bench = Bench::new(nodes, None);
    let before = resident_bytes();
    let (applied, folded) = bench.run(pods);
    println!("leader alone, {nodes} nodes, {pods} pods, {} writes", bench.writes);
    println!("  applied and bound   {:>9.0} pods/s", rate(applied));
    println!("  running, folded     {:>9.0} pods/s", rate(folded));
    println!("  both                {:>9.0} pods/s", rate(applied + folded));
    let grown = resident_bytes().saturating_sub(before);
    println!("  memory a pod        {:>9} bytes", grown / u64::try_from(pods).unwrap());
    drop(bench);

    let mut bench = Bench::new(nodes, Some(Vec::new()));
    bench.run(pods);
    let stored = bench.stored.unwrap();
    drop(bench.leader);
    let began = Instant::now();
    let mut snapshot = Snapshot::default();
    stored.iter().for_each(|(key, stored)| snapshot.take_in(key, stored));
    println!("  read by a follower  {:>9.0} pods/s", rate(began.elapsed().as_secs_f64()));
    let began = Instant::now();
    let mut leader = start(snapshot);
    println!("  takes over in       {:>9.2} ms", began.elapsed().as_secs_f64() * 1e3);
    let began = Instant::now();
    for node in 0..nodes {
        leader.handle(heartbeat(&format!("node-{node}")), now()).unwrap();
    }
    println!("  hears each node in  {:>9.2} ms", began.elapsed().as_secs_f64() * 1e3);
}

fn start(snapshot: Snapshot) -> Leader {
    let term = Term { epoch: 1, nonce: "n".into() };
    let lineage = Lineage::new(vec![LeaseTerm { epoch: 1, nonce: "n".into(), revision: 0, cold: true }], 1);
    let start = Start { snapshot, term, lineage, remembered: None };
    let settings = Settings { toleration_seconds: 300, scheduling: podbus_scheduler_core::Config::default() };
    Leader::new(start, "control".into(), settings, [7; 32], now())
}

fn register(node: &str) -> Input {
    let amounts = [("cpu", "320"), ("memory", "1280Gi"), ("pods", "2000")];
    let amounts: BTreeMap<_, _> = amounts.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let description = NodeDescription { capacity: amounts.clone(), allocatable: amounts, ..Default::default() };
    let request = SyncRequest {
        node: node.to_owned(),
        node_id: node.to_owned(),
        instance: "i".into(),
        description: Some(description),
        last_page: true,
        ..Default::default()
    };
    Input::Sync { request: Box::new(request), reply: "reply".into() }
}

fn heartbeat(node: &str) -> Input {
    let (node, instance) = (node.to_owned(), "i".to_owned());
    Input::Heartbeat(Box::new(Heartbeat { node, instance, agent_epoch: 1, ..Default::default() }))
}

fn apply(number: usize) -> Bytes {
    let requests = json!({"cpu": "100m", "memory": "500Mi"});
    let container = json!({"name": "main", "image": "localhost/busybox:1", "command": ["sleep", "3600"],
                           "resources": {"requests": requests}});
    let object = json!({"apiVersion": "v1", "kind": "Pod",
                        "metadata": {"name": format!("pod-{number}"), "labels": {"app": "bench"}},
                        "spec": {"containers": [container]}});
    serde_json::to_vec(&json!({"object": object})).unwrap().into()
}

/// Of this process (`VmRSS`).
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
