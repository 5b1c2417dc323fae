//! Take-overs under load: three schedulers on simulated nodes that are nearly full, while pods come and go, and leader,
//! follower or nats-server is killed at random. `make soak-take-over` does it a hundred times.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::StreamExt as _;
use podbus_common::api::{DeleteRequest, Lease, ListRequest};
use podbus_common::model::Pod;
use podbus_common::proto::Assignment;
use podbus_common::subject::{BUCKET, LEASE_KEY};
use podbus_common_bus::api::{ApiError, Client};
use podbus_common_bus::testing::NatsServer;
use podbus_common_bus::{Bus, BusOptions};
use podbus_test_support::wait;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::PODBUS;

const SCHEDULERS: usize = 3;
const NODES: usize = 10;
/// Pods of a tenth of a CPU on nodes of one.
const PODS_A_NODE: usize = 10;
/// Who creates and deletes pods at the same time.
const CLIENTS: usize = 4;
/// Each keeps so many: together nine tenths of what there is room for.
const PODS_A_CLIENT: usize = NODES * PODS_A_NODE * 9 / 10 / CLIENTS;

/// A process that is killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str], url: &str) -> Self {
        let mut command = Command::new(PODBUS);
        command.args(arguments).env("PODBUS_NATS_URL", url).env("RUST_LOG", "info").stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn scheduler(url: &str) -> Self {
        Self::start(&["scheduler"], url)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Acked {
    /// By name: the UID.
    applied: BTreeMap<String, String>,
    /// Names.
    deleted: BTreeSet<String>,
    /// When the last answer to an apply came.
    at: Option<Instant>,
}

/// Where each UID was seen to be assigned.
type Places = BTreeMap<String, BTreeSet<String>>;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pod_is_lost_bound_twice_or_too_many_whoever_is_killed_under_load() {
    let seed = variable("PODBUS_SEED").unwrap_or_else(rand::random);
    let rounds = variable("PODBUS_TAKE_OVERS").unwrap_or(3);
    println!("PODBUS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut nats = NatsServer::start();
    let url = nats.url();
    let mut schedulers: Vec<_> = (0..SCHEDULERS).map(|_| Process::scheduler(&url)).collect();
    let nodes = NODES.to_string();
    let _nodes = Process::start(&["sim", "--nodes", &nodes, "--cpu", "1", "--memory", "4Gi"], &url);
    let bus = Bus::connect(&BusOptions { url: url.clone(), token: None, name: "soak".into() }).await.unwrap();
    let api = Client::new(bus.clone());
    let acked: Arc<Mutex<Acked>> = Arc::default();
    let places: Arc<Mutex<Places>> = Arc::default();
    let _watch = AbortOnDropHandle::new(tokio::spawn(note_places(bus.clone(), Arc::clone(&places))));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (api, acked) = (api.clone(), Arc::clone(&acked));
            let random = StdRng::seed_from_u64(random.random());
            AbortOnDropHandle::new(tokio::spawn(come_and_go(client, api, acked, random)))
        })
        .collect();
    let replaced = async || acked.lock().unwrap().deleted.len();
    until("pods are replaced", async || replaced().await >= CLIENTS).await;

    let mut gaps = Vec::new();
    for round in 0..rounds {
        let leader = wait::until("somebody leads", async || leader(&bus, &schedulers).await).await;
        // The leader comes first, so that it is killed also where there are few rounds.
        let victim = match if round == 0 { 3 } else { random.random_range(0..6) } {
            0 | 1 => {
                nats.kill();
                "nats-server"
            }
            2 => {
                let follower = (0..SCHEDULERS).filter(|number| *number != leader).choose(&mut random).unwrap();
                schedulers[follower] = Process::scheduler(&url);
                "a follower"
            }
            _ => {
                schedulers[leader] = Process::scheduler(&url);
                "the leader"
            }
        };
        let killed = Instant::now();
        if victim == "nats-server" {
            nats.restart();
        }
        let answered = async || acked.lock().unwrap().at.filter(|at| *at > killed);
        let gap = wait::until("pods are applied again", answered).await - killed;
        println!("round {round}: {victim} was killed, the next pod was taken after {gap:.1?}");
        gaps.push(gap);
        check_listed(&api, &acked, &places).await;
        let before = replaced().await;
        until("pods are replaced again", async || replaced().await >= before + CLIENTS).await;
    }
    drop(clients);
    until("every pod runs that was applied, and no other is left", async || has_converged(&api, &acked, &places).await)
        .await;
    let places = places.lock().unwrap();
    let twice: Vec<_> = places.iter().filter(|(_, nodes)| nodes.len() > 1).collect();
    assert!(twice.is_empty(), "bound twice: {twice:?}");
    let taken = acked.lock().unwrap();
    gaps.sort();
    println!(
        "{rounds} take-overs, {} pods applied, {} deleted; longest gap {:.1?}, median {:.1?}",
        taken.applied.len() + taken.deleted.len(),
        taken.deleted.len(),
        gaps.last().unwrap(),
        gaps[gaps.len() / 2],
    );
}

/// One client: has its number of pods, and replaces one after the other.
async fn come_and_go(client: usize, api: Client, acked: Arc<Mutex<Acked>>, mut random: StdRng) {
    let mut own = BTreeSet::new();
    for number in 0.. {
        let name = format!("soak-{client}-{number}");
        let uid = apply(&api, &name).await;
        {
            let mut acked = acked.lock().unwrap();
            acked.applied.insert(name.clone(), uid);
            acked.at = Some(Instant::now());
        }
        own.insert(name);
        if own.len() > PODS_A_CLIENT {
            let name = own.iter().choose(&mut random).cloned().unwrap();
            own.remove(&name);
            // While its deletion is asked for nobody knows whether it is there.
            acked.lock().unwrap().applied.remove(&name);
            delete(&api, &name).await;
            acked.lock().unwrap().deleted.insert(name);
        }
    }
}

/// Applies a pod until that is acknowledged; its UID.
async fn apply(api: &Client, name: &str) -> String {
    let requests = json!({"cpu": "100m"});
    let container = json!({"name": "main", "image": "busybox", "resources": {"requests": requests}});
    let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 1});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    let reply = wait::until("a pod is applied", async || api.apply("default", "pods", &pod, false).await.ok()).await;
    reply.object["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn delete(api: &Client, name: &str) {
    let request = DeleteRequest { name: name.to_owned(), ..DeleteRequest::default() };
    until("a pod is deleted", async || match api.delete("default", "pods", &request).await {
        Ok(_) => true,
        Err(ApiError::Refused(status)) => status.code == 404,
        Err(_) => false,
    })
    .await;
}

/// Notes where pods are assigned to.
async fn note_places(bus: Bus, places: Arc<Mutex<Places>>) {
    let mut assignments = bus.client().subscribe("podbus.node.*.assign").await.unwrap();
    while let Some(message) = assignments.next().await {
        let node = message.subject.split('.').nth(2).unwrap_or_default().to_owned();
        let assignment = Assignment::decode(message.payload).unwrap();
        let mut places = places.lock().unwrap();
        for pod in assignment.assigned {
            places.entry(pod.uid).or_default().insert(node.clone());
        }
    }
}

/// Which of the schedulers leads, as the lease says; `None`: one that was killed still does.
async fn leader(bus: &Bus, schedulers: &[Process]) -> Option<usize> {
    let bucket = bus.jetstream().get_key_value(BUCKET).await.ok()?;
    let lease: Lease = serde_json::from_slice(&bucket.get(LEASE_KEY).await.ok()??).ok()?;
    let process: u32 = lease.holder.rsplit_once('_')?.1.parse().ok()?;
    schedulers.iter().position(|scheduler| scheduler.0.id() == process)
}

async fn pods(api: &Client) -> Option<Vec<Pod>> {
    let (mut request, mut pods) = (ListRequest::default(), Vec::new());
    loop {
        let page = api.list(Some("default"), "pods", &request).await.ok()?;
        pods.extend(page.items.into_iter().map(|pod| serde_json::from_value::<Pod>(pod).unwrap()));
        request.continue_token = page.metadata.continue_token;
        if request.continue_token.is_empty() {
            return Some(pods);
        }
    }
}

/// Nothing that was acknowledged is missing, nothing was refused, and no node has too much. A pod that was bound has its
/// UID still; one that waited when a scheduler led that had not followed gets another one with its node.
async fn check_listed(api: &Client, acked: &Mutex<Acked>, places: &Mutex<Places>) {
    // What is acknowledged before the list must be in it, unless its deletion has been asked for by then.
    let before = acked.lock().unwrap().applied.clone();
    let listed = wait::until("pods are listed", async || pods(api).await).await;
    let after = acked.lock().unwrap().applied.clone();
    let uids: BTreeMap<_, _> = listed.iter().map(|pod| (&pod.metadata.name, &pod.metadata.uid)).collect();
    for (name, uid) in before.iter().filter(|(name, _)| after.contains_key(*name)) {
        let now = uids.get(name).unwrap_or_else(|| panic!("{name} ({uid}) is lost"));
        let was_bound = places.lock().unwrap().contains_key(uid);
        assert!(*now == uid || !was_bound, "{name} ({uid}) was bound, and is {now} now");
    }
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in listed.iter().filter(|pod| !pod.spec.node_name.is_empty()) {
        let is_over = pod.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        // One that is being deleted ends before it is gone.
        assert!(!is_over || pod.metadata.deletion_timestamp.is_some(), "{}: {:?}", pod.metadata.name, pod.status);
        *on_node.entry(&pod.spec.node_name).or_default() += usize::from(!is_over);
    }
    assert!(on_node.values().all(|pods| *pods <= PODS_A_NODE), "over-committed: {on_node:?}");
}

async fn has_converged(api: &Client, acked: &Mutex<Acked>, places: &Mutex<Places>) -> bool {
    let Some(listed) = pods(api).await else { return false };
    check_listed(api, acked, places).await;
    let acked = acked.lock().unwrap();
    let runs = |pod: &Pod| {
        let ready = |status: &podbus_common::model::PodStatus| {
            status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
        };
        pod.status.as_ref().is_some_and(ready)
    };
    let deleted = |pod: &Pod| acked.deleted.contains(&pod.metadata.name);
    let known = |pod: &&Pod| acked.applied.contains_key(&pod.metadata.name);
    listed.iter().filter(known).count() == acked.applied.len()
        && listed.iter().filter(known).all(runs)
        && !listed.iter().any(deleted)
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    wait::until(what, || async { condition().await.then_some(()) }).await;
}
