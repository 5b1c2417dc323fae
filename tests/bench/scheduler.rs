//! The control plane end to end, on simulated nodes: `make bench-scheduler`.
//!
//! Bus, scheduler, nodes and generator run on this one machine. A pod counts when it is stored, bound, started by its
//! (simulated) node and seen Running by a watcher, with events on. The peers are kube-scheduler's CI thresholds. How many
//! messages the bus alone stores is measured in the same run. Rows are added to `target/bench/scheduler.json`.
//!
//! Last comes scale: 10,000 nodes with `PODBUS_BENCH_PODS` pods (50,000) that all run, and what leading them costs.

mod report;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use podbus_common::api::ListRequest;
use podbus_common_bus::testing::NatsServer;
use podbus_common_bus::{Bus, BusOptions, api};
use podbus_load::Report;

use self::report::{Table, retry, succeeded};

const PODBUS: &str = env!("CARGO_BIN_EXE_podbus");
/// Messages of the size of a pod that the bus alone stores.
const RAW_MESSAGES: usize = 100_000;
const RAW_BYTES: usize = 1500;
/// Of them at most so many wait for their ack.
const RAW_IN_FLIGHT: usize = 5000;
/// How long nodes may take to be Ready, and a scheduler to lead.
const READY_MAX: Duration = Duration::from_secs(180);
/// How long the cluster is watched while nothing happens.
const IDLE: Duration = Duration::from_secs(15);
/// At the largest scale.
const SCALE_NODES: &str = "10000";
/// Pods at the largest scale, unless `PODBUS_BENCH_PODS` says how many.
const SCALE_PODS: u32 = 50_000;

const STEADY: &str = include_str!("../../examples/load/steady.yaml");
const BASIC: &str = include_str!("../../examples/load/scheduling-basic.yaml");

/// So many pods at once.
fn burst(pods: u32) -> String {
    format!(
        "name: burst-{pods}
timeout: 30m
arrival: [{{pattern: burst, count: {pods}}}]
pods: [{{spec: {{containers: [{{name: main, image: busybox, resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}}}]}}}}]
"
    )
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut table = Table::new("kube-scheduler, threshold");
    {
        let cluster = Cluster::start(&["--nodes", "1000"])?;
        table.row("JetStream alone, 1,500 bytes", "/s", runtime.block_on(raw(&cluster.nats.url()))?, None);
        runtime.block_on(cluster.ready(1000))?;
        let steady = cluster.load(STEADY, &[])?;
        let running = steady.latency("running").context("pods ran")?;
        table.row("created -> running p50, 1,000 pods/s", "ms", running.p50_ms, None);
        table.row("created -> running p99, 1,000 pods/s", "ms", running.p99_ms, None);
        let burst = cluster.load(&burst(100_000), &["--keep"])?;
        table.row("end to end, pods/s", "/s", rate(&burst, "running")?, None);
        for process in [&cluster.scheduler, &cluster.nodes] {
            table.row(&format!("{} RSS, 100,000 pods", process.name), "MB", process.resident_bytes()? / 1e6, None);
            table.row(&format!("{} CPU, all of it", process.name), "s", process.cpu_seconds()?, None);
        }
    }
    {
        let cluster = Cluster::start(&["--nodes", "5000", "--cpu", "4", "--memory", "32Gi"])?;
        runtime.block_on(cluster.ready(5000))?;
        let basic = cluster.load(BASIC, &["--keep"])?;
        table.row("SchedulingBasic, bound durably", "/s", rate(&basic, "bound")?, Some(810.0));
    }
    runtime.block_on(scale(&mut table))?;
    table.print();
    table.add_to("scheduler")
}

/// What it costs to lead many nodes and pods: memory, CPU time while nothing happens, and a new leader.
async fn scale(table: &mut Table) -> anyhow::Result<()> {
    let pods = std::env::var("PODBUS_BENCH_PODS").ok().map(|pods| pods.parse()).transpose()?.unwrap_or(SCALE_PODS);
    let mut cluster = Cluster::start(&["--nodes", SCALE_NODES])?;
    cluster.ready(SCALE_NODES.parse()?).await?;
    let of = |what: &str| format!("10,000 nodes, {pods} pods: {what}");
    let report = cluster.load(&burst(pods), &["--keep"])?;
    table.row(&of("pods/s"), "/s", rate(&report, "running")?, None);
    let processes = [&cluster.scheduler, &cluster.nodes];
    let before = processes.map(Process::cpu_seconds);
    tokio::time::sleep(IDLE).await;
    for (process, before) in processes.into_iter().zip(before) {
        let share = (process.cpu_seconds()? - before?) / IDLE.as_secs_f64();
        table.row(&of(&format!("{} CPU, idle", process.name)), "% of a core", share * 100.0, None);
        table.row(&of(&format!("{} RSS", process.name)), "MB", process.resident_bytes()? / 1e6, None);
    }
    let begin = Instant::now();
    cluster.replace_scheduler()?;
    cluster.takes_a_pod("recovered").await?;
    table.row(&of("recovery after kill -9"), "s", begin.elapsed().as_secs_f64(), None);
    let follower = cluster.start_scheduler()?;
    // It follows once its CPU time stands still: all is read.
    let mut before = -1.0;
    while follower.cpu_seconds()? - before > 0.05 {
        before = follower.cpu_seconds()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let begin = Instant::now();
    cluster.scheduler = follower;
    cluster.takes_a_pod("taken-over").await?;
    table.row(&of("take-over"), "s", begin.elapsed().as_secs_f64(), None);
    Ok(())
}

fn rate(report: &Report, moment: &str) -> anyhow::Result<f64> {
    report.throughput.get(moment).copied().with_context(|| format!("no pod came to {moment}"))
}

/// How many messages a second the bus stores when nobody else uses it.
async fn raw(url: &str) -> anyhow::Result<f64> {
    let bus = Bus::connect(&BusOptions { url: url.to_owned(), token: None, name: "bench".into() }).await?;
    let config = async_nats::jetstream::stream::Config {
        name: "RAW".into(),
        subjects: vec!["raw.>".into()],
        ..Default::default()
    };
    bus.jetstream().create_stream(config).await?;
    let payload = bytes::Bytes::from(vec![b'x'; RAW_BYTES]);
    let begin = Instant::now();
    let publish = |n| {
        let (bus, payload) = (bus.clone(), payload.clone());
        async move { anyhow::Ok(bus.jetstream().publish(format!("raw.{n}"), payload).await?.await?) }
    };
    let mut acks = futures::stream::iter((0..RAW_MESSAGES).map(publish)).buffer_unordered(RAW_IN_FLIGHT);
    while let Some(ack) = acks.next().await {
        ack?;
    }
    let took = begin.elapsed().as_secs_f64();
    bus.jetstream().delete_stream("RAW").await?;
    Ok(f64::from(u32::try_from(RAW_MESSAGES)?) / took)
}

/// A service that ends when it is dropped.
struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(name: &'static str, arguments: &[&str], url: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(PODBUS);
        command.arg(name).args(arguments).env("PODBUS_NATS_URL", url).env("RUST_LOG", "error").stdin(Stdio::null());
        Ok(Self { name, child: command.spawn()? })
    }

    fn resident_bytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(line.context("a process has a size")?.trim().parse::<f64>()? * 1024.0)
    }
}

impl Process {
    /// What it has used so far.
    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Behind the name, which may hold anything: user and system time are the 12th and 13th, in ticks of 10 ms.
        let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        Ok(ticks / 100.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Services end before their bus does.
struct Cluster {
    nodes: Process,
    scheduler: Process,
    nats: NatsServer,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn start(nodes: &[&str]) -> anyhow::Result<Self> {
        let nats = NatsServer::start();
        let scheduler = Process::start("scheduler", &[], &nats.url())?;
        let nodes = Process::start("sim", nodes, &nats.url())?;
        Ok(Self { nodes, scheduler, directory: tempfile::tempdir()?, nats })
    }

    fn start_scheduler(&self) -> anyhow::Result<Process> {
        Process::start("scheduler", &[], &self.nats.url())
    }

    /// Kills the one that leads, and starts another one with nothing in memory.
    fn replace_scheduler(&mut self) -> anyhow::Result<()> {
        self.scheduler.child.kill()?;
        self.scheduler = self.start_scheduler()?;
        Ok(())
    }

    async fn client(&self) -> anyhow::Result<api::Client> {
        let options = BusOptions { url: self.nats.url(), token: None, name: "bench".into() };
        Ok(api::Client::new(Bus::connect(&options).await?))
    }

    /// Waits until a pod can be applied.
    async fn takes_a_pod(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client().await?;
        let spec = serde_json::json!({"containers": [{"name": "main", "image": "busybox"}]});
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let taken = async || Ok(client.apply("default", "pods", &pod, false).await.map(|_| ())?);
        retry(READY_MAX, Duration::from_millis(10), taken).await.context("no pod was taken")
    }

    /// Waits until so many nodes are Ready.
    async fn ready(&self, nodes: usize) -> anyhow::Result<()> {
        let client = self.client().await?;
        let is_ready = |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "True";
        retry(READY_MAX, Duration::from_millis(200), async || {
            let list = client.list(None, "nodes", &ListRequest::default()).await?;
            let conditions = list.items.iter().filter_map(|node| node["status"]["conditions"].as_array());
            let ready = conditions.filter(|all| all.iter().any(is_ready)).count();
            ensure!(ready == nodes, "{ready} of {nodes} nodes are Ready");
            Ok(())
        })
        .await
    }

    /// Runs a scenario to its report.
    fn load(&self, scenario: &str, arguments: &[&str]) -> anyhow::Result<Report> {
        let file = self.directory.path().join("scenario.yaml");
        // What it expects is a row of the table here, not the end.
        let expectations =
            scenario.lines().filter(|line| !line.starts_with("expect:") && !line.starts_with("- {latency:"));
        std::fs::write(&file, expectations.collect::<Vec<_>>().join("\n"))?;
        let out = self.directory.path().join("out");
        let mut command = Command::new(PODBUS);
        command.arg("load").arg(&file).arg("-o").arg(&out).args(arguments).env("PODBUS_NATS_URL", self.nats.url());
        succeeded(&mut command)?;
        newest_report(&out)
    }
}

/// The one report of a folder, which is then empty for the next.
fn newest_report(directory: &Path) -> anyhow::Result<Report> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let report = serde_json::from_slice(&std::fs::read(&path)?)?;
            std::fs::remove_file(&path)?;
            return Ok(report);
        }
    }
    anyhow::bail!("podbus load wrote no report")
}
