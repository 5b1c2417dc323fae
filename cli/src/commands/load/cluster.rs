//! What a load test sees of the cluster: its pods and its nodes, by watches.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use futures::StreamExt as _;
use podbus_common::api::{Detail, WatchEventType, WatchRequest};
use podbus_common::quantity::Quantity;
use podbus_common_bus::api::{Client, Watched};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// A watch that ended, because it was too slow, is opened again after this.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// What a test reads of a pod: it sees each one several times.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SeenPod {
    metadata: SeenMetadata,
    spec: SeenSpec,
    status: SeenStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenMetadata {
    name: String,
    uid: String,
    resource_version: String,
}

impl Watched for SeenPod {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SeenSpec {
    node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SeenStatus {
    phase: String,
    conditions: Vec<SeenCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SeenCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Something that a watch showed.
#[derive(Debug)]
pub(super) enum Seen {
    /// A pod of the test.
    Pod { index: usize, at: Instant, uid: u64, node: Option<u64>, running: bool, gone: bool },
    /// A node.
    Node { name: String, at: Instant, ready: bool, cpu_millis: i64, memory_bytes: i64, simulated: bool },
}

/// Sees pods with `label=run`, and all nodes, until the receiver is gone.
pub(super) async fn watch(api: Client, namespace: String, selector: String, seen: mpsc::Sender<Seen>) {
    let pods = async {
        loop {
            let (label_selector, detail) = (selector.clone(), Detail::Brief);
            let request = WatchRequest { label_selector, detail, ..WatchRequest::default() };
            let mut events = api.watch_as(Some(&namespace), "pods", request);
            while let Some(Ok(event)) = events.next().await {
                let Some(pod) = pod(&event.object, event.kind == WatchEventType::Deleted) else { continue };
                if seen.send(pod).await.is_err() {
                    return;
                }
            }
            sleep(REOPEN_AFTER).await;
        }
    };
    let nodes = async {
        loop {
            let mut events = api.watch(None, "nodes", WatchRequest::default());
            while let Some(Ok(event)) = events.next().await {
                if seen.send(node(&event.object, event.kind == WatchEventType::Deleted)).await.is_err() {
                    return;
                }
            }
            sleep(REOPEN_AFTER).await;
        }
    };
    tokio::join!(pods, nodes);
}

/// Who a pod is and where: hashes of its UID and its node.
pub(super) fn identity(pod: &SeenPod) -> (u64, Option<u64>) {
    let node = &pod.spec.node_name;
    (hash(&pod.metadata.uid), (!node.is_empty()).then(|| hash(node)))
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

impl SeenPod {
    /// The number of a pod of a test.
    pub(super) fn index(&self) -> Option<usize> {
        index_of(&self.metadata.name)
    }
}

/// The number of a pod of a test, which ends its name.
fn index_of(name: &str) -> Option<usize> {
    name.rsplit('-').next()?.parse().ok()
}

fn pod(pod: &SeenPod, gone: bool) -> Option<Seen> {
    let (uid, node) = identity(pod);
    let ready = |c: &SeenCondition| c.kind == "Ready" && c.status == "True";
    // What ran to its end between two looks has run.
    let running = match pod.status.phase.as_str() {
        "Succeeded" => true,
        "Running" => pod.status.conditions.iter().any(ready),
        _ => false,
    };
    Some(Seen::Pod { index: pod.index()?, at: Instant::now(), uid, node, running, gone })
}

fn node(object: &Value, gone: bool) -> Seen {
    let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    let conditions = object["status"]["conditions"].as_array();
    let amount = |resource: &str| quantity(&object["status"]["allocatable"][resource]);
    Seen::Node {
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        at: Instant::now(),
        ready: !gone && conditions.is_some_and(|all| all.iter().any(ready)),
        cpu_millis: amount("cpu").map_or(0, |amount| amount.milli_value()),
        memory_bytes: amount("memory").map_or(0, |amount| amount.value()),
        simulated: object["metadata"]["labels"]["podbus.dev/simulated"] == "true",
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

/// CPU (thousandths) and memory (bytes) that a pod's regular containers ask for.
pub(super) fn requests(pod: &Value) -> (i64, i64) {
    let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sum = |resource: &str, of: fn(&Quantity) -> i64| {
        let amounts = containers.iter().filter_map(|c| quantity(&c["resources"]["requests"][resource]));
        amounts.map(|amount| of(&amount)).sum()
    };
    (sum("cpu", Quantity::milli_value), sum("memory", Quantity::value))
}

/// The machine and the program, for the report.
pub(super) fn environment(api: &Client) -> BTreeMap<String, String> {
    let of_file = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix(key)?.split_once(':').map(|(_, v)| v.trim().to_owned()));
        line.unwrap_or_default()
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let server = api.bus().client().try_server_info().map(|info| info.version).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let build = if cfg!(debug_assertions) { "debug" } else { "optimised" };
    [
        ("podbus", format!("{} ({build} build)", env!("CARGO_PKG_VERSION"))),
        ("nats-server", server),
        ("kernel", kernel.trim().to_owned()),
        ("CPU of the generator", format!("{cpus} x {}", of_file("/proc/cpuinfo", "model name"))),
        ("memory of the generator", of_file("/proc/meminfo", "MemTotal")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
