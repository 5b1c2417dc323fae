//! How long it takes from typing to running: `make bench-e2e`.
//!
//! Starts a cluster of three nodes as a user does, and measures on it with the client that the command line uses. The
//! peer is `docker run` of one container of the same image, by a dockerd that is started here where none answers. Prints
//! a table and writes `target/bench/e2e.json`, a list of `{name, unit, podbus, peer, peer_value, ratio}`.

mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use podbus_common::api::{DeleteRequest, WatchEventType, WatchRequest};
use podbus_common_bus::{Bus, BusOptions, api};
use podbus_test_support::wait::retry_blocking;
use serde_json::{Value, json};

use self::report::{Table, busybox_archive, milliseconds, path, percentile, succeeded};

const PODBUS: &str = env!("CARGO_BIN_EXE_podbus");
/// Clusters that are started to measure how long that takes.
const STARTS: usize = 5;
/// Pods that are run one after the other.
const SINGLE_PODS: usize = 50;
/// Pods that are applied at once, and how often.
const BURST_PODS: usize = 100;
const BURSTS: usize = 3;
/// Containers that docker runs one after the other.
const DOCKER_RUNS: usize = 50;
/// How long a dockerd may take to start.
const DOCKER_READY: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark makes namespaces: run `make bench-e2e`");
    let image = busybox_archive()?;
    let docker = Docker::find(&image)?;
    let mut table = Table::new("docker run, 1 container");

    let mut ready = Vec::new();
    for _ in 0..STARTS {
        let cluster = Cluster::start()?;
        ready.push(cluster.ready_after);
    }
    table.row("nodes Ready", "ms", milliseconds(percentile(&mut ready, 50)), None);

    let cluster = Cluster::start()?;
    cluster.podbus(&["image", "load", path(&image)])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&cluster, docker.as_ref(), &mut table))?;
    table.print();
    table.write("e2e")
}

async fn measure(cluster: &Cluster, docker: Option<&Docker>, table: &mut Table) -> anyhow::Result<()> {
    let bus = Bus::connect(&BusOptions { url: cluster.url.clone(), token: None, name: "bench".into() }).await?;
    let client = api::Client::new(bus);
    // The first pod pays for what is read from disk for the first time.
    run_pods(&client, "warm", 3).await?;

    let mut single = Vec::new();
    for n in 0..SINGLE_PODS {
        single.extend(run_pods(&client, &format!("single-{n}"), 1).await?);
    }
    let mut docker_runs = docker.map(Docker::measure).transpose()?;
    for percent in [50, 99] {
        let peer = docker_runs.as_mut().map(|runs| milliseconds(percentile(runs, percent)));
        table.row(&format!("apply -> Running p{percent}"), "ms", milliseconds(percentile(&mut single, percent)), peer);
    }
    let mut burst = Vec::new();
    for n in 0..BURSTS {
        burst.extend(run_pods(&client, &format!("burst-{n}"), BURST_PODS).await?);
    }
    for percent in [50, 99] {
        let value = milliseconds(percentile(&mut burst, percent));
        table.row(&format!("apply -> Running p{percent}, {BURST_PODS} pods"), "ms", value, None);
    }
    for (process, bytes) in cluster.resident() {
        table.row(&format!("{process} RSS"), "MB", bytes / 1e6, None);
    }
    Ok(())
}

/// Applies `count` pods of two containers at once; for each, how long until a watcher sees it Running and Ready. Then
/// deletes them and waits until they are gone.
async fn run_pods(client: &api::Client, prefix: &str, count: usize) -> anyhow::Result<Vec<Duration>> {
    let names: Vec<_> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
    let mut watch = client.watch(Some("default"), "pods", WatchRequest::default());
    let mut applied = BTreeMap::new();
    let mut requests = futures::stream::iter(names.iter().map(|name| async move {
        let at = Instant::now();
        client.apply("default", "pods", &pod(name), false).await.map(|_| (name.clone(), at))
    }))
    .buffer_unordered(count);
    let mut running = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    while running.len() < count {
        tokio::select! {
            Some(done) = requests.next() => {
                let (name, at) = done?;
                applied.insert(name, at);
            }
            Some(event) = watch.next() => {
                let object = event?.object;
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                if names.iter().any(|n| n == name) && is_ready(&object) {
                    running.entry(name.to_owned()).or_insert_with(Instant::now);
                }
            }
            () = tokio::time::sleep_until(deadline) => anyhow::bail!("{} of {count} pods run after 120 s", running.len()),
        }
    }
    while let Some(done) = requests.next().await {
        let (name, at) = done?;
        applied.insert(name, at);
    }
    for name in &names {
        let request = DeleteRequest { name: name.clone(), grace_period_seconds: Some(0), ..Default::default() };
        client.delete("default", "pods", &request).await?;
    }
    let mut left = count;
    while left > 0 {
        let event = watch.next().await.context("the watch ended")??;
        let name = event.object["metadata"]["name"].as_str().unwrap_or_default();
        if event.kind == WatchEventType::Deleted && names.iter().any(|n| n == name) {
            left -= 1;
        }
    }
    Ok(names.iter().map(|name| running[name].duration_since(applied[name])).collect())
}

fn is_ready(pod: &Value) -> bool {
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    pod["status"]["phase"] == "Running"
        && pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(ready))
}

fn pod(name: &str) -> Value {
    let container =
        |name: &str| json!({"name": name, "image": "localhost/busybox:latest", "command": ["sleep", "3600"]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container("one"), container("two")]}
    })
}

struct Cluster {
    directory: tempfile::TempDir,
    url: String,
    ready_after: Duration,
}

impl Cluster {
    fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("podbus-bench-").tempdir()?;
        let mut cluster = Self { directory, url: String::new(), ready_after: Duration::ZERO };
        let begin = Instant::now();
        cluster.podbus(&["up", "--detach", "--nodes", "3", "--state-dir", &cluster.state_dir()])?;
        cluster.ready_after = begin.elapsed();
        let url = cluster.podbus(&["url", "--state-dir", &cluster.state_dir()])?;
        cluster.url = String::from_utf8(url.stdout)?.trim().to_owned();
        Ok(cluster)
    }

    fn state_dir(&self) -> String {
        format!("{}/state", self.directory.path().display())
    }

    fn podbus(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(PODBUS);
        command.args(arguments).stdin(Stdio::null());
        if !self.url.is_empty() {
            command.env("PODBUS_NATS_URL", &self.url);
        }
        succeeded(&mut command)
    }

    /// Resident bytes of each service; the mean where there are several of one kind.
    fn resident(&self) -> BTreeMap<&'static str, f64> {
        let services = ["nats-server", "scheduler", "node-agent", "sandbox", "up"];
        let mut found: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if !line.contains(&self.state_dir()) {
                continue;
            }
            let mut arguments = line.split('\0');
            let program = Path::new(arguments.next().unwrap_or_default()).file_name();
            let subcommand = arguments.next().unwrap_or_default();
            let service = services.into_iter().find(|s| *s == subcommand || program == Some((*s).as_ref()));
            let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
            let resident =
                status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            if let (Some(service), Some(kilobytes)) = (service, resident) {
                found.entry(service).or_default().push(kilobytes * 1024.0);
            }
        }
        found
            .into_iter()
            .map(|(service, all)| (service, all.iter().sum::<f64>() / u32::try_from(all.len()).map_or(1.0, f64::from)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.podbus(&["down", "--state-dir", &self.state_dir()]) {
            eprintln!("warning: {error:#}");
        }
    }
}

/// dockerd: the one that answers, or one that was started for the measurement.
struct Docker {
    started: Option<Dockerd>,
}

/// A dockerd with a root of its own, in a network namespace of its own, where its bridge and rules disturb nobody.
/// Dropping it ends it.
struct Dockerd {
    process: Child,
    directory: tempfile::TempDir,
}

impl Dockerd {
    fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("podbus-bench-docker-").tempdir()?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let script = "ip link set lo up; \
            exec dockerd --data-root \"$0/data\" --exec-root \"$0/exec\" --pidfile \"$0/pid\" --host \"unix://$0/s\"";
        let process = Command::new("unshare")
            .args(["--net", "sh", "-c", script, path(directory.path())])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { process, directory })
    }

    fn host(&self) -> String {
        format!("unix://{}/s", self.directory.path().display())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        if self.process.wait().is_err() {
            eprintln!("warning: dockerd did not end");
        }
    }
}

impl Docker {
    /// `None`: the host has none, so there is no peer.
    fn find(image: &Path) -> anyhow::Result<Option<Self>> {
        let mut docker = Self { started: None };
        if !docker.answers() {
            let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
            if !has("docker") || !has("dockerd") {
                eprintln!("no docker here (package docker.io): the peer's column stays empty");
                return Ok(None);
            }
            docker.started = Some(Dockerd::start()?);
            if retry_blocking(DOCKER_READY, || docker.answers().then_some(()).ok_or(())).is_err() {
                eprintln!("dockerd does not answer: the peer's column stays empty");
                return Ok(None);
            }
        }
        let root = tempfile::tempdir()?;
        // The same single layer, as docker takes it from every version.
        let script = format!(
            "tar -xf {} -C {root} && layer=$(ls -S {root}/blobs/sha256/* | head -n 1) && (gzip -dc $layer 2>/dev/null || cat $layer) > {root}/layer",
            path(image),
            root = path(root.path()),
        );
        succeeded(Command::new("sh").args(["-c", &script]))?;
        succeeded(docker.client().arg("import").arg(root.path().join("layer")).arg("podbus-bench:latest"))?;
        Ok(Some(docker))
    }

    fn answers(&self) -> bool {
        let mut info = self.client();
        info.arg("info").stdout(Stdio::null()).stderr(Stdio::null());
        info.status().is_ok_and(|status| status.success())
    }

    fn client(&self) -> Command {
        let mut command = Command::new("docker");
        if let Some(started) = &self.started {
            command.env("DOCKER_HOST", started.host());
        }
        command
    }

    fn measure(&self) -> anyhow::Result<Vec<Duration>> {
        let run = |_| {
            let begin = Instant::now();
            let command = ["run", "-d", "podbus-bench:latest", "/bin/busybox", "sleep", "3600"];
            let output = succeeded(self.client().args(command))?;
            let took = begin.elapsed();
            let id = String::from_utf8(output.stdout)?.trim().to_owned();
            succeeded(self.client().args(["rm", "-f", &id]))?;
            Ok(took)
        };
        (0..DOCKER_RUNS).map(run).collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // The image is small, and a daemon that is gone keeps it.
        let _ = self.client().args(["image", "rm", "podbus-bench:latest"]).output();
    }
}
