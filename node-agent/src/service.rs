//! From the command line to a running agent, and to its end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use podbus_common::subject;
use podbus_common_bus::Bus;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::agent::{Agent, Directory, Parts};
use crate::args::Args;
use crate::journal::Journal;
use crate::runtime::Runtime;
use crate::runtime::cri::Cri;
use crate::runtime::watch::follow;
use crate::state_dir::StateDir;
use crate::telemetry::Telemetry;
use crate::user_ids::UserIds;
use crate::worker::{NodeFacts, starts_at_once};
use crate::{health, machine, recovery, streams};

/// Wake-ups that may wait for the agent.
const WAKES_MAX: usize = 256;
/// A runtime that is not up yet is asked so often.
const RUNTIME_POLL: Duration = Duration::from_millis(50);
/// Threads for what blocks: volumes, disks.
const BLOCKING_THREADS_MAX: usize = 8;

/// Runs the agent until SIGTERM or SIGINT. Its pods run on.
pub fn main(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context("cannot start the threads of the node agent")?
        .block_on(async {
            // An error's span is on whatever the filter: each line says which node it is about.
            let span = tracing::error_span!("node_agent", node = %args.node);
            run(args).instrument(span).await
        })
}

async fn run(args: Args) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let state_dir = StateDir::open(&args.state_dir)?;
    let (mut journal, mut set) = Journal::open(&state_dir.journal())?;
    let telemetry = Telemetry::new(&args.node);
    let runtime = Cri::new(&args.runtime, telemetry.clone());
    if let Some(address) = &args.metrics {
        telemetry.serve(address, &runtime).await?;
    }
    let bus = Bus::connect_lazy(&args.bus.options(format!("podbus-node-agent {}", args.node))?).await?;
    telemetry.has_bus(&bus);
    let Some(runtime_version) = wait_for_runtime(&runtime, &args, &stop).await else { return Ok(()) };
    let adopted = recovery::recover(&runtime, &state_dir, &mut set).await;
    let adopted = adopted.context("cannot list what the container runtime runs")?;
    journal.append(&mut set)?;

    let description = machine::describe(&args, state_dir.path(), &runtime_version)
        .context("cannot find out what this machine has")?;
    let capacity = description.capacity.clone();
    let offer = args.own.offer(&args.node, &description);
    let facts = NodeFacts {
        node: args.node.clone(),
        cgroup_root: cgroup_root(&args, &state_dir),
        memory_bytes: machine::amount(&capacity, "memory"),
        state_dir: state_dir.path().to_owned(),
        starts: Arc::new(Semaphore::new(starts_at_once())),
        user_ids: Arc::new(
            UserIds::open(args.user_ids, &state_dir.pods()).context("cannot read which pods have user ids")?,
        ),
        telemetry: telemetry.clone(),
    };
    let (health_tx, health) = watch::channel(health::look(&runtime).await);
    telemetry.has_health(&health);
    let directory = Directory::default();
    let assignments =
        bus.client().subscribe(subject::assign(&args.node)).await.context("cannot subscribe on the bus")?;
    let (wakes_tx, wakes) = mpsc::channel(WAKES_MAX);

    tracing::info!(bus = bus.url(), runtime = %runtime_version, pods = set.pods().len(), "node agent starts");
    tokio::spawn(follow(runtime.clone(), wakes_tx, stop.clone()).in_current_span());
    tokio::spawn(health::watch(runtime.clone(), health_tx, stop.clone()).in_current_span());
    let serving = streams::Streams {
        node: args.node.clone(),
        bus: bus.clone(),
        runtime: runtime.clone(),
        directory: directory.clone(),
        state_dir: Arc::from(state_dir.path()),
    };
    let served = tokio::spawn(serving.serve(stop.clone()).in_current_span());
    let agent = Agent::new(Parts {
        node: args.node.clone(),
        node_id: state_dir.node_id().to_owned(),
        bus,
        runtime,
        set,
        adopted,
        journal,
        description,
        offer,
        facts,
        health,
        directory,
        stop: stop.clone(),
    });
    let ended = agent.run(wakes, assignments).await;
    stop.cancel();
    // Streams end with the agent; what they were asked for is the client's to repeat.
    let _ = served.await;
    tracing::info!("node agent ends; its pods run on");
    Ok(ended?)
}

/// `name://version` of the runtime, once it answers; `None`: the agent was stopped before.
async fn wait_for_runtime<R: Runtime>(runtime: &R, args: &Args, stop: &CancellationToken) -> Option<String> {
    let mut told = false;
    loop {
        match runtime.version().await {
            Ok(version) => return Some(format!("{}://{}", version.runtime_name, version.runtime_version)),
            Err(error) if !told => {
                told = true;
                tracing::warn!(socket = %args.runtime.display(), %error, "waiting for the container runtime");
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = sleep(RUNTIME_POLL) => {}
        }
    }
}

/// The cgroup of all pods of this node: named after the state directory, so that nodes of one machine never share one.
fn cgroup_root(args: &Args, state_dir: &StateDir) -> String {
    if !args.cgroup_root.is_empty() {
        return format!("/{}", args.cgroup_root.trim_matches('/'));
    }
    let hash = Sha256::digest(state_dir.path().as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("/podbus-{name}")
}

pub(crate) fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}
