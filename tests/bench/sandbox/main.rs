//! The container runtime beside containerd: `make bench-sandbox`.
//!
//! Both serve the same CRI client, one after the other, each started here with a state of its own, on the same image.
//! Prints a table and writes `target/bench/sandbox.json`, a list of `{name, unit, podbus, peer, peer_value, ratio}`.
//! `-- --cycles N` sets how many pods come and go in the last part, `--samples N` how often each call is measured;
//! with `--alone` the peer is left out.

mod client;
mod footprint;
#[path = "../report.rs"]
mod report;
mod runtimes;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use podbus_test_support::wait::{rest, retry};
use tokio::signal::unix::{SignalKind, signal};

use self::client::Client;
use self::footprint::Leftovers;
use self::report::{Table, busybox_archive, milliseconds, percentile};
use self::runtimes::Runtime;

/// Calls of each kind that a median is made of.
const SAMPLES: usize = 60;
/// Pods that come and go to show that nothing is left of them.
const CYCLES: usize = 10_000;
/// Pods that are asked for at once.
const STORM: usize = 200;
/// Between two lives: a node is idle most of the time. What waits for the kernel to come to rest shows after some
/// 0.3 s only, and a pool has time to fill.
const PAUSE: Duration = Duration::from_millis(300);
/// Until what a storm set off is over: the pool is full again, the kernel has ended namespaces.
const SETTLE: Duration = Duration::from_secs(3);
/// Until a daemon that has loaded an image is at rest: allocators keep what was freed for some 10 s.
const COME_TO_REST: Duration = Duration::from_secs(15);
/// How long a daemon at rest is watched.
const REST: Duration = Duration::from_secs(5);
/// Pods in flight while 10,000 come and go.
const AT_ONCE: usize = 4;

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it builds.
    if !has_flag("--bench") {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark makes namespaces: run `make bench-sandbox`");
    let (samples, cycles) = (option("--samples", SAMPLES)?, option("--cycles", CYCLES)?);
    runtimes::remove_leftovers()?;
    let archive = busybox_archive()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let table = runtime.block_on(async {
        tokio::select! {
            measured = measure(&archive, samples, cycles) => measured,
            interrupted = interrupted() => interrupted,
        }
    })?;
    table.print();
    table.write("sandbox")
}

/// Ends with an error when somebody asks the benchmark to end: what it has started ends with what it waits for.
async fn interrupted() -> anyhow::Result<Table> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    anyhow::bail!("interrupted")
}

fn has_flag(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn option(name: &str, default: usize) -> anyhow::Result<usize> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(Ok(default), |text| text.parse().with_context(|| format!("{name} {text}")))
}

/// All figures of one runtime.
struct Figures {
    lives: Lives,
    storm: f64,
    storm_with_containers: f64,
    resident_at_rest: f64,
    resident_with_pods: f64,
    of_a_pod: f64,
    idle: f64,
}

/// Medians.
struct Lives {
    run: Duration,
    start: Duration,
    stop: Duration,
}

async fn measure(archive: &Path, samples: usize, cycles: usize) -> anyhow::Result<Table> {
    let peer = if has_flag("--alone") { None } else { Runtime::containerd(archive).await? };
    let peer = match peer {
        Some(runtime) => {
            let figures = figures(&runtime, samples).await.context("containerd");
            runtime.end().await?;
            Some(figures?)
        }
        None => None,
    };
    let cold = Runtime::podbus(archive, 0).await?;
    let cold_lives = lives(&cold.client, samples).await?;
    cold.end().await?;
    let own = Runtime::podbus(archive, 16).await?;
    let warm = figures(&own, samples).await?;

    let mut table = Table::new("containerd");
    let of = |value: fn(&Figures) -> f64| peer.as_ref().map(value);
    let run = of(|it| milliseconds(it.lives.run));
    table.row("RunPodSandbox p50", "ms", milliseconds(cold_lives.run), run);
    table.row("RunPodSandbox warm p50", "ms", milliseconds(warm.lives.run), run);
    let start = of(|it| milliseconds(it.lives.start));
    table.row("CreateContainer + StartContainer p50", "ms", milliseconds(warm.lives.start), start);
    table.row("StopPodSandbox p50", "ms", milliseconds(warm.lives.stop), of(|it| milliseconds(it.lives.stop)));
    table.row("storm of 200 pods, pods/s", "/s", warm.storm, of(|it| it.storm));
    let with_containers = of(|it| it.storm_with_containers);
    table.row("storm of 200 pods + container, pods/s", "/s", warm.storm_with_containers, with_containers);
    table.row("shim + pause PSS", "MB/pod", warm.of_a_pod, of(|it| it.of_a_pod));
    table.row("daemon RSS at rest", "MB", warm.resident_at_rest, of(|it| it.resident_at_rest));
    table.row("daemon RSS, 200 pods", "MB", warm.resident_with_pods, of(|it| it.resident_with_pods));
    table.row("idle CPU, 200 pods", "ms/s", warm.idle, of(|it| it.idle));
    churn(&own, cycles, &mut table).await?;
    own.end().await?;
    Ok(table)
}

async fn figures(runtime: &Runtime, samples: usize) -> anyhow::Result<Figures> {
    rest(COME_TO_REST).await;
    let resident_at_rest = footprint::resident(runtime.pid());
    let client = &runtime.client;
    let lives = lives(client, samples).await?;
    let (took, pods) = client.storm("container", STORM, true).await?;
    let storm_with_containers = a_second(STORM, took);
    client.remove_all(pods).await?;
    let (took, pods) = client.storm("storm", STORM, false).await?;
    let shims = runtime.shims_and_pauses();
    ensure!(shims.len() >= 2 * STORM, "{} processes for {STORM} pods", shims.len());
    let of_a_pod = footprint::proportional(&shims) / number(STORM);
    let resident_with_pods = footprint::resident(runtime.pid());
    rest(SETTLE).await;
    let idle = footprint::idle_milliseconds_a_second(runtime.pid(), REST).await;
    client.remove_all(pods).await?;
    Ok(Figures {
        lives,
        storm: a_second(STORM, took),
        storm_with_containers,
        resident_at_rest,
        resident_with_pods,
        of_a_pod,
        idle,
    })
}

/// Lives, one after the other.
async fn lives(client: &Client, samples: usize) -> anyhow::Result<Lives> {
    let mut client = client.clone();
    let mut rows = [const { Vec::new() }; 3];
    for n in 0..samples + 3 {
        rest(PAUSE).await;
        let life = client.live(&format!("life-{n}")).await?;
        if n >= 3 {
            // The first ones pay for what is read from disk for the first time.
            rows[0].push(life.run);
            rows[1].push(life.start);
            rows[2].push(life.stop);
        }
    }
    let [run, start, stop] = rows.map(|mut row| percentile(&mut row, 50));
    Ok(Lives { run, start, stop })
}

/// Many pods come and go: what there is more of afterwards.
async fn churn(runtime: &Runtime, cycles: usize, table: &mut Table) -> anyhow::Result<()> {
    let Some(instance) = &runtime.instance else { return Ok(()) };
    live_many(&runtime.client, "warm", 200).await?; // what is allocated once is
    rest(SETTLE).await;
    let count = || Leftovers::count(runtime.pid(), runtime.directory(), instance);
    let (before, resident) = (count(), footprint::resident(runtime.pid()));
    live_many(&runtime.client, "churn", cycles).await?;
    let mut after = count();
    // The kernel ends namespaces when it finds the time.
    let gone = retry(Duration::from_secs(20), async || {
        after = count();
        ensure!(after.since(&before) == 0, "before: {before:?}\nafter:  {after:?}");
        Ok(())
    });
    if let Err(left) = gone.await {
        eprintln!("{left}");
    }
    let grown = footprint::resident(runtime.pid()) - resident;
    table.row(&format!("{cycles} cycles, things left"), "", number(after.since(&before)), None);
    table.row(&format!("{cycles} cycles, daemon RSS grown"), "MB", grown, None);
    Ok(())
}

async fn live_many(client: &Client, prefix: &str, count: usize) -> anyhow::Result<()> {
    let workers: Vec<_> = (0..AT_ONCE)
        .map(|worker| {
            let (mut client, prefix) = (client.clone(), format!("{prefix}-{worker}"));
            tokio::spawn(async move {
                for n in 0..count / AT_ONCE {
                    client.live(&format!("{prefix}-{n}")).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(())
}

fn a_second(count: usize, took: Duration) -> f64 {
    number(count) / took.as_secs_f64()
}

/// Counts here are far below 2^32.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
