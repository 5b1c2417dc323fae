//! The control plane end to end, on simulated nodes: `make bench-scheduler`.
//!
//! Bus, scheduler, nodes and generator run on this one machine. A pod counts when it is stored, bound, started by its
//! (simulated) node and seen Running by a watcher, with events on. The peers are kube-scheduler's CI thresholds. How many
//! messages the bus alone stores is measured in the same run. Rows are added to `target/bench/scheduler.json`.
//!
//! Then comes scale: 10,000 nodes with `PODBUS_BENCH_PODS` pods (50,000) that all run, and what leading them costs; and
//! growth: the same for rising numbers of pods and of nodes, as a plot, `target/bench/growth.html`. `-- growth` (or
//! `rates`, `scale`) measures only that.

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
use podbus_load::page::Growth;
use podbus_test_support::wait::{rest, retry};

use self::report::{Table, succeeded, write_page};

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
const SCALE_NODES: u32 = 10_000;
/// Pods at the largest scale, unless `PODBUS_BENCH_PODS` says how many.
const SCALE_PODS: u32 = 50_000;

/// Growth with pods: on so many nodes.
const GROWTH_NODES: u32 = 1_000;
const GROWTH_PODS: [u32; 4] = [12_500, 25_000, 50_000, 100_000];
/// Growth with nodes: so many of them, with so many pods together.
const GROWTH_BY_NODES: [u32; 4] = [1_000, 2_500, 5_000, 10_000];
const GROWTH_BY_NODES_PODS: u32 = 25_000;

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
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wants = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut table = Table::new("kube-scheduler, threshold");
    if wants("rates") {
        rates(&runtime, &mut table)?;
    }
    if wants("scale") {
        runtime.block_on(scale(&mut table))?;
    }
    if wants("growth") {
        runtime.block_on(growth(&mut table))?;
    }
    table.print();
    table.add_to("scheduler")
}

/// Pods a second, and how long one takes.
fn rates(runtime: &tokio::runtime::Runtime, table: &mut Table) -> anyhow::Result<()> {
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
    Ok(())
}

/// What it takes to lead so many nodes and pods.
struct Size {
    pods: f64,
    nodes: f64,
    pods_a_second: f64,
    scheduler_megabytes: f64,
    recovery_seconds: f64,
    take_over_seconds: f64,
}

/// What grows with pods and with nodes, as a plot.
async fn growth(table: &mut Table) -> anyhow::Result<()> {
    let by_pods = GROWTH_PODS.map(|pods| (GROWTH_NODES, pods));
    let by_nodes = GROWTH_BY_NODES.map(|nodes| (nodes, GROWTH_BY_NODES_PODS));
    let mut charts = Vec::new();
    for (x, sizes) in [("pods, on 1,000 nodes", by_pods), ("nodes, with 25,000 pods", by_nodes)] {
        let mut measured = Vec::new();
        for (nodes, pods) in sizes {
            let mut cluster = Cluster::start(&["--nodes", &nodes.to_string()])?;
            let size = cluster.fill(nodes, pods).await?;
            let of = |what: &str| format!("growth, {nodes} nodes, {pods} pods: {what}");
            table.row(&of("pods/s"), "/s", size.pods_a_second, None);
            table.row(&of("scheduler RSS"), "MB", size.scheduler_megabytes, None);
            table.row(&of("recovery after kill -9"), "s", size.recovery_seconds, None);
            table.row(&of("take-over"), "s", size.take_over_seconds, None);
            measured.push(size);
        }
        let line = |of: fn(&Size) -> f64| {
            let number = |size: &Size| if x.starts_with("pods") { size.pods } else { size.nodes };
            measured.iter().map(|size| (number(size), of(size))).collect::<Vec<_>>()
        };
        let times = vec![
            ("recovery: the only scheduler is killed, another one reads all", line(|size| size.recovery_seconds)),
            ("take-over: a follower takes the lease", line(|size| size.take_over_seconds)),
        ];
        let memory = vec![("scheduler, RSS", line(|size| size.scheduler_megabytes))];
        let rate = vec![("pods/s until seen Running", line(|size| size.pods_a_second))];
        charts.push(Growth { title: "Memory", x, y: "MB", lines: memory });
        charts.push(Growth { title: "Until a new leader takes a pod", x, y: "seconds", lines: times });
        charts.push(Growth { title: "A burst of all pods", x, y: "pods/s", lines: rate });
    }
    let note = "The control plane on simulated nodes, all on one machine; each point is a cluster of its own.";
    write_page("growth", &podbus_load::page::growth("How podbus grows", note, &charts))
}

/// What it costs to lead many nodes and pods: memory, CPU time while nothing happens, and a new leader.
async fn scale(table: &mut Table) -> anyhow::Result<()> {
    let pods = std::env::var("PODBUS_BENCH_PODS").ok().map(|pods| pods.parse()).transpose()?.unwrap_or(SCALE_PODS);
    let mut cluster = Cluster::start(&["--nodes", &SCALE_NODES.to_string()])?;
    let of = |what: &str| format!("10,000 nodes, {pods} pods: {what}");
    table.row(&of("pods/s"), "/s", cluster.burst(SCALE_NODES, pods).await?, None);
    let processes = [&cluster.scheduler, &cluster.nodes];
    let before = processes.map(Process::cpu_seconds);
    rest(IDLE).await;
    for (process, before) in processes.into_iter().zip(before) {
        let share = (process.cpu_seconds()? - before?) / IDLE.as_secs_f64();
        table.row(&of(&format!("{} CPU, idle", process.name)), "% of a core", share * 100.0, None);
        table.row(&of(&format!("{} RSS", process.name)), "MB", process.resident_bytes()? / 1e6, None);
    }
    table.row(&of("recovery after kill -9"), "s", cluster.recover().await?, None);
    table.row(&of("take-over"), "s", cluster.take_over().await?, None);
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

    /// Brings so many pods at once, and says how many a second came to run.
    async fn burst(&self, nodes: u32, pods: u32) -> anyhow::Result<f64> {
        self.ready(nodes.try_into()?).await?;
        rate(&self.load(&burst(pods), &["--keep"])?, "running")
    }

    /// Fills it, and measures what that costs and what a new leader takes.
    async fn fill(&mut self, nodes: u32, pods: u32) -> anyhow::Result<Size> {
        Ok(Size {
            pods: pods.into(),
            nodes: nodes.into(),
            pods_a_second: self.burst(nodes, pods).await?,
            scheduler_megabytes: self.scheduler.resident_bytes()? / 1e6,
            recovery_seconds: self.recover().await?,
            take_over_seconds: self.take_over().await?,
        })
    }

    /// Seconds from the death of the only scheduler until another one takes a pod.
    async fn recover(&mut self) -> anyhow::Result<f64> {
        let begin = Instant::now();
        self.replace_scheduler()?;
        self.takes_a_pod("recovered").await?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Seconds from the death of the leader until its follower takes a pod.
    async fn take_over(&mut self) -> anyhow::Result<f64> {
        let follower = self.start_scheduler()?;
        // It follows once its CPU time stands still: all is read.
        let has_read_all = async || -> anyhow::Result<()> {
            let before = follower.cpu_seconds()?;
            rest(Duration::from_secs(1)).await;
            ensure!(follower.cpu_seconds()? - before <= 0.05, "the follower still reads");
            Ok(())
        };
        retry(READY_MAX, has_read_all).await?;
        let begin = Instant::now();
        self.scheduler = follower;
        self.takes_a_pod("taken-over").await?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Waits until a pod can be applied.
    async fn takes_a_pod(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client().await?;
        let spec = serde_json::json!({"containers": [{"name": "main", "image": "busybox"}]});
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let taken =
            async || -> anyhow::Result<()> { Ok(client.apply("default", "pods", &pod, false).await.map(|_| ())?) };
        retry(READY_MAX, taken).await.context("no pod was taken")
    }

    /// Waits until so many nodes are Ready.
    async fn ready(&self, nodes: usize) -> anyhow::Result<()> {
        let client = self.client().await?;
        let is_ready = |condition: &serde_json::Value| condition["type"] == "Ready" && condition["status"] == "True";
        retry(READY_MAX, async || -> anyhow::Result<()> {
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
