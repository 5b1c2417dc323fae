//! `podbus top pods|nodes`: the CPU and memory in use.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use podbus_common::api::{ListRequest, StatsRow};
use podbus_common::model::{Node, Pod};
use podbus_common::proto::{self, chunk, open_stream};
use podbus_common::quantity::Quantity;
use podbus_common::subject::{self, PodStream};
use prost::Message as _;

use crate::args::{BusArgs, ScopeArgs};
use crate::bus::{Session, stream_error};
use crate::columns::Growing;
use crate::failure::{Failure, Outcome};
use crate::resource::{nothing_found, pod_name};
use crate::rows::typed;
use crate::terminal::Terminal;

/// A node's agent sends a heartbeat each second; one that is silent for longer has nothing to say.
const HEARTBEAT_WAIT: Duration = Duration::from_millis(1500);
/// An agent that does not answer must not hold up the others.
const STATS_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What pods use
    #[command(visible_aliases = ["pod", "po"])]
    Pods(PodArgs),
    /// What nodes use
    #[command(visible_aliases = ["node", "no"])]
    Nodes(NodeArgs),
}

#[derive(Debug, clap::Args)]
struct PodArgs {
    /// Only this pod
    pod: Option<String>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Pods with these labels
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true)]
    selector: String,
    /// A row a container
    #[arg(long)]
    containers: bool,
    /// A last row with the sum
    #[arg(long)]
    sum: bool,
    /// Sort by cpu or memory, the largest first
    #[arg(long, value_name = "cpu|memory", value_parser = ["cpu", "memory"])]
    sort_by: Option<String>,
    /// Leave the head of the table away
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    bus: BusArgs,
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// Only this node
    node: Option<String>,
    /// Leave the head of the table away
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    match args.what {
        What::Pods(args) => pods(args, terminal).await,
        What::Nodes(args) => nodes(args, terminal).await,
    }
}

async fn pods(args: PodArgs, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    let namespace = args.scope.namespace();
    let wanted: Vec<Pod> = match &args.pod {
        Some(name) => vec![typed(&session.api.get(namespace.or(Some("default")), "pods", &pod_name(name)?).await?)?],
        None => {
            let request = ListRequest { label_selector: args.selector.clone(), ..Default::default() };
            let list = session.api.list(namespace, "pods", &request).await?;
            list.items.iter().map(typed).collect::<Outcome<_>>()?
        }
    };
    let names: Vec<(&str, &str)> =
        wanted.iter().map(|pod| (pod.metadata.namespace.as_str(), pod.metadata.name.as_str())).collect();
    let mut nodes: Vec<&str> = wanted.iter().map(|pod| pod.spec.node_name.as_str()).filter(|n| !n.is_empty()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut asking: FuturesUnordered<_> = nodes.into_iter().map(|node| stats(&session, node, namespace)).collect();
    let (mut uses, mut failures) = (Vec::new(), Vec::new());
    while let Some(answer) = asking.next().await {
        match answer {
            Ok(rows) => {
                uses.extend(rows.into_iter().filter(|r| names.contains(&(r.namespace.as_str(), r.pod.as_str()))));
            }
            Err(failure) => failures.push(failure),
        }
    }
    if uses.is_empty() && failures.is_empty() {
        terminal.note(&nothing_found(namespace));
        return Ok(());
    }
    terminal.print(&pod_table(&args, uses))?;
    Failure::all(failures)
}

/// What all containers of a node use, of one namespace or of all.
async fn stats(session: &Session, node: &str, namespace: Option<&str>) -> Outcome<Vec<StatsRow>> {
    let namespace = namespace.unwrap_or(subject::ANY);
    let subject = subject::pod_stream(node, namespace, PodStream::Stats);
    let request = proto::StatsRequest { namespace: namespace.to_owned(), pod: String::new() };
    let ask = async {
        let mut chunks = session.open(node, &subject, open_stream::Request::Stats(request)).await?;
        let mut rows = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            match chunk.kind() {
                chunk::Kind::Json => rows.push(serde_json::from_slice(&chunk.data).map_err(Failure::local)?),
                chunk::Kind::End if chunk.error.is_some() => {
                    return Err(chunk.error.as_ref().map_or(Failure::Code(1), stream_error));
                }
                _ => {}
            }
        }
        Ok(rows)
    };
    tokio::time::timeout(STATS_WAIT, ask)
        .await
        .unwrap_or_else(|_| Err(Failure::local(format!("{node} did not answer within {} s", STATS_WAIT.as_secs()))))
}

/// Rows by namespace and name, or by size.
fn pod_table(args: &PodArgs, uses: Vec<StatsRow>) -> String {
    // Pod, container (empty: the pod's sum), thousandths of a CPU, bytes.
    let mut sums: BTreeMap<(String, String, String), (u64, u64)> = BTreeMap::new();
    for row in uses {
        let container = if args.containers { row.container } else { String::new() };
        let sum = sums.entry((row.namespace, row.pod, container)).or_default();
        *sum = (sum.0 + row.cpu_millis, sum.1 + row.memory_bytes);
    }
    let total = sums.values().fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let mut sorted: Vec<_> = sums.into_iter().collect();
    match args.sort_by.as_deref() {
        Some("cpu") => sorted.sort_by_key(|(_, (cpu, _))| std::cmp::Reverse(*cpu)),
        Some(_) => sorted.sort_by_key(|(_, (_, memory))| std::cmp::Reverse(*memory)),
        None => {}
    }
    let line = |namespace: &str, pod: &str, container: &str, cpu: &str, memory: &str| {
        let mut row = Vec::new();
        row.extend(args.scope.all_namespaces.then(|| namespace.to_owned()));
        row.push(pod.to_owned());
        row.extend(args.containers.then(|| container.to_owned()));
        row.extend([cpu.to_owned(), memory.to_owned()]);
        row
    };
    let mut rows = Vec::new();
    if !args.no_headers {
        let (pod, name) = if args.containers { ("POD", "NAME") } else { ("NAME", "") };
        rows.push(line("NAMESPACE", pod, name, "CPU(cores)", "MEMORY(bytes)"));
    }
    for ((namespace, pod, container), (cpu, memory)) in &sorted {
        rows.push(line(namespace, pod, container, &cores(*cpu), &mebibytes(*memory)));
    }
    if args.sum {
        rows.push(line("", "", "", "________", "________"));
        rows.push(line("", "", "", &cores(total.0), &mebibytes(total.1)));
    }
    Growing::default().rows(&rows)
}

async fn nodes(args: NodeArgs, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    let mut heartbeats = session.bus.client().subscribe(subject::HEARTBEAT_ALL).await.map_err(Failure::local)?;
    let nodes: Vec<Node> = match &args.node {
        Some(name) => vec![typed(&session.api.get(None, "nodes", name).await?)?],
        None => session
            .api
            .list(None, "nodes", &ListRequest::default())
            .await?
            .items
            .iter()
            .map(typed)
            .collect::<Outcome<_>>()?,
    };
    if nodes.is_empty() {
        terminal.note(&nothing_found(None));
        return Ok(());
    }
    let mut used: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let all_heard = async {
        while nodes.iter().any(|node| !used.contains_key(&node.metadata.name)) {
            let Some(message) = heartbeats.next().await else { break };
            if let Ok(beat) = proto::Heartbeat::decode(message.payload) {
                used.insert(beat.node, (beat.used_cpu_millis, beat.used_memory_bytes));
            }
        }
    };
    // Nodes that stay silent are shown as unknown.
    let _ = tokio::time::timeout(HEARTBEAT_WAIT, all_heard).await;
    terminal.print(&node_table(&nodes, &used, !args.no_headers))
}

fn node_table(nodes: &[Node], used: &BTreeMap<String, (u64, u64)>, head: bool) -> String {
    let mut rows = Vec::new();
    if head {
        rows.push(["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"].map(str::to_owned).to_vec());
    }
    for node in nodes {
        let name = node.metadata.name.clone();
        let Some(&(cpu, memory)) = used.get(&name) else {
            let unknown = || "<unknown>".to_owned();
            rows.push(vec![name, unknown(), unknown(), unknown(), unknown()]);
            continue;
        };
        let offered = |resource: &str| {
            let quantity = node.status.allocatable.get(resource).and_then(|text| Quantity::parse(text).ok());
            quantity.map_or(0, |quantity| i128::from(quantity.milli_value()))
        };
        rows.push(vec![
            name,
            cores(cpu),
            percent(i128::from(cpu), offered("cpu")),
            mebibytes(memory),
            percent(i128::from(memory) * 1000, offered("memory")),
        ]);
    }
    Growing::default().rows(&rows)
}

fn cores(millis: u64) -> String {
    format!("{millis}m")
}

fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

/// Of what the node offers to pods.
fn percent(used: i128, offered: i128) -> String {
    if offered > 0 { format!("{}%", used * 100 / offered) } else { "<unknown>".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_silent_node_is_shown_as_unknown() {
        let node = |name: &str| -> Node {
            let allocatable = json!({"cpu": "2", "memory": "1Gi"});
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})).unwrap()
        };
        let used = BTreeMap::from([("a".to_owned(), (500, 256 << 20))]);
        assert_eq!(
            node_table(&[node("a"), node("b")], &used, true),
            "NAME   CPU(cores)   CPU(%)      MEMORY(bytes)   MEMORY(%)\n\
             a      500m         25%         256Mi           25%\n\
             b      <unknown>    <unknown>   <unknown>       <unknown>\n"
        );
    }
}
