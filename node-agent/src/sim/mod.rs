//! Simulated nodes: agents on a runtime that has no containers, to load a cluster's control plane from one machine.
//!
//! The agent's core, its plan, its admission, its reports and every message on the bus are those of a real node; only
//! what stands between them and Linux is not there. A real node has a task for each pod and calls a runtime over CRI;
//! here all of that is state in `worker`, moved by `node`, and one task (`shard`) carries thousands of nodes: a pod
//! costs a few KiB and no task, so a million of them fit.
//!
//! ```text
//! bus <-> shard (one connection, one task) -> node (agent's core) -> worker (a pod: plan, records of the runtime)
//! ```

mod args;
mod node;
mod script;
mod shard;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use podbus_common::model::NodeSystemInfo;
use podbus_common::proto::NodeDescription;
use podbus_common_bus::Bus;
use podbus_load::chance::Chance;
use podbus_node_agent_core::agent::Now;
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

pub use self::args::Args;
use self::node::{Node, Profile, Shared};
use self::script::Step;
use self::shard::{Counts, Parts, Shard};
use self::worker::Behaviour;
use crate::service::stop_on_signal;

/// Nodes do not all start at once: so many a second, so that their heartbeats are spread too.
const STARTS_PER_SECOND: u32 = 2000;
/// How often it is told what the nodes do, while that changes.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The streams of chance: which nodes a fault hits; those of the nodes follow.
const FAULTS_STREAM: u64 = 0;
const NODES_STREAM: u64 = 1;

/// Runs simulated nodes until SIGTERM or SIGINT; their pods end with them.
pub fn main(args: Args) -> anyhow::Result<()> {
    // One thread: what a message costs is less than to wake another thread for it.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime of the simulated nodes")?
        .block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let faults = read_faults(&args)?;
    let started = Instant::now();
    let steps = script::timeline(&faults, args.nodes as usize, &mut Chance::new(args.seed, FAULTS_STREAM));

    let mut tasks = JoinSet::new();
    let mut counts = Vec::new();
    for connection in 0..args.connections.min(args.nodes) {
        let name = format!("podbus-sim {}/{}", args.prefix, connection);
        let bus = Bus::connect_lazy(&args.bus.options(name)?).await?;
        let shard = Arc::new(Counts::default());
        counts.push(Arc::clone(&shard));
        let parts = Parts {
            bus,
            nodes: nodes_of(&args, connection, started),
            steps: steps_of(&steps, args.connections.min(args.nodes) as usize, connection as usize, started),
            counts: shard,
        };
        tasks.spawn(Shard::new(parts).run(stop.clone()));
    }
    tracing::info!(nodes = args.nodes, seed = args.seed, faults = faults.len(), "simulated nodes start");
    let told = tokio::spawn(tell(counts, args.nodes as usize, stop.clone()));
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err() || matches!(ended, Ok(Err(_))) {
            stop.cancel();
        }
        ended.context("a task of the simulated nodes ended early")??;
    }
    told.await?
}

fn read_faults(args: &Args) -> anyhow::Result<Vec<script::Fault>> {
    let Some(path) = &args.faults else { return Ok(Vec::new()) };
    let text = fs_err::read_to_string(path)?;
    let name = path.display().to_string();
    script::parse(&name, &text).map_err(|mistakes| {
        let lines: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
        anyhow::anyhow!("{name} is not a valid fault script{lines}")
    })
}

/// The nodes of one connection: every so many-th, so that each connection has nodes of all zones.
fn nodes_of(args: &Args, connection: u32, started: Instant) -> Vec<(Instant, Node)> {
    let shared = Arc::new(Shared {
        behaviour: Behaviour {
            start_latency: args.start_latency,
            stop_latency: args.stop_latency,
            crashes_per_hour: args.crash_rate,
            run_time: args.run_time,
        },
        seed: args.seed,
    });
    let now = Now { instant: started, wall: crate::worker::now() };
    let own = (connection..args.nodes).step_by(args.connections.min(args.nodes) as usize);
    own.map(|index| {
        let starts = started + Duration::from_secs(1) * index / STARTS_PER_SECOND;
        let stream = NODES_STREAM + u64::from(index);
        (starts, Node::new(Arc::clone(&shared), profile(args, index), stream, now, starts))
    })
    .collect()
}

/// What a script does to the nodes of one of `connections` connections.
fn steps_of(
    steps: &[(Duration, usize, Step)],
    connections: usize,
    connection: usize,
    started: Instant,
) -> VecDeque<(Instant, usize, Step)> {
    let own = steps.iter().filter(|(_, node, _)| node % connections == connection);
    own.map(|(at, node, step)| (started + *at, node / connections, *step)).collect()
}

fn profile(args: &Args, index: u32) -> Profile {
    let name = format!("{}-{index:05}", args.prefix);
    let capacity = args.own.capacity([("cpu", args.cpu.to_string()), ("memory", args.memory.to_string())]);
    let labels = args.own.labels([
        ("kubernetes.io/hostname", name.clone()),
        ("kubernetes.io/os", "linux".to_owned()),
        ("podbus.dev/simulated", "true".to_owned()),
        ("topology.kubernetes.io/zone", format!("zone-{}", index % args.zones)),
    ]);
    let info = NodeSystemInfo {
        os_image: "simulated".to_owned(),
        container_runtime_version: format!("sim://{}", env!("CARGO_PKG_VERSION")),
        kubelet_version: format!("podbus-{}", env!("CARGO_PKG_VERSION")),
        operating_system: "linux".to_owned(),
        ..NodeSystemInfo::default()
    };
    let json = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default().into();
    let network = u16::try_from(index).unwrap_or(u16::MAX);
    let description = NodeDescription {
        capacity: capacity.clone(),
        allocatable: capacity,
        labels,
        taints: json(serde_json::to_vec(&args.own.taints)),
        pod_cidr: format!("10.{}.{}.0/24", network >> 8, network & 255),
        node_info: json(serde_json::to_vec(&info)),
        internal_ip: "127.0.0.1".to_owned(),
        ..NodeDescription::default()
    };
    let offer = args.own.offer(&name, &description);
    // Not random: a simulated node that is started again is the same one, with an empty disk.
    Profile { node_id: format!("{name}-seed-{}", args.seed), name, description, offer, network }
}

/// Tells what the nodes do, and ends all when the leader wants none of them.
async fn tell(counts: Vec<Arc<Counts>>, nodes: usize, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(1));
    let sum = |of: fn(&Counts) -> &std::sync::atomic::AtomicUsize| -> usize {
        counts.iter().map(|counts| of(counts).load(Ordering::Relaxed)).sum()
    };
    let (mut told, mut told_at) = ((0, 0), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {} // cancel-safe (tokio docs)
        }
        if sum(|counts| &counts.refused) == nodes {
            stop.cancel();
            anyhow::bail!("the scheduler refuses all {nodes} nodes: do they run already? Choose another --prefix");
        }
        let state = (sum(|counts| &counts.registered), sum(|counts| &counts.running));
        let all_there = state.0 == nodes && told.0 != nodes;
        if state != told && (all_there || told_at.elapsed() >= TELL_EVERY) {
            tracing::info!(registered = state.0, pods_running = state.1, "simulated nodes");
            (told, told_at) = (state, Instant::now());
        }
    }
}
