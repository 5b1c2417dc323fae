//! `podbus explain POD`: what the scheduler thinks of each node for a pod.

use podbus_common::api::{ExplainReply, ExplainedNode};

use crate::args::{BusArgs, NamespaceArgs};
use crate::bus::Session;
use crate::columns::Growing;
use crate::failure::Outcome;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus explain web\n  podbus explain pod/web -n team-a -o json")]
pub(crate) struct Args {
    /// The pod
    #[arg(value_name = "POD")]
    pod: String,
    /// Print the answer as JSON
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    let name = ["pod/", "pods/", "po/"].iter().find_map(|kind| args.pod.strip_prefix(kind)).unwrap_or(&args.pod);
    let reply = session.api.explain(&args.namespace.namespace, name).await?;
    if args.output.is_some() {
        let json = serde_json::to_string_pretty(&reply).map_err(crate::failure::Failure::local)?;
        return terminal.print(&format!("{json}\n"));
    }
    terminal.print(&text(&reply))
}

/// A table of the nodes, then the sentence.
fn text(reply: &ExplainReply) -> String {
    if reply.nodes.is_empty() {
        return format!("{}\n", reply.conclusion);
    }
    let head = ["NODE", "SCORE", "WHY"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(reply.nodes.iter().map(row)).collect();
    format!("{}\n{}\n", Growing::default().rows(&rows), reply.conclusion)
}

fn row(node: &ExplainedNode) -> Vec<String> {
    if node.refusals.is_empty() {
        let counts = node.scores.iter().filter(|scored| scored.score > 0 && scored.weight > 0);
        let why: Vec<_> = counts.map(|s| format!("{} {}x{}", s.plugin, s.score, s.weight)).collect();
        return vec![node.node.clone(), node.total.to_string(), why.join(", ")];
    }
    let why: Vec<_> = node.refusals.iter().map(|refused| format!("{}: {}", refused.filter, refused.reason)).collect();
    vec![node.node.clone(), "-".to_owned(), why.join(", ")]
}

#[cfg(test)]
mod tests {
    use podbus_common::api::{Refused, Scored};

    use super::*;

    #[test]
    fn each_node_is_a_row_and_one_sentence_ends_it() {
        let scored = |plugin: &str, score, weight| Scored { plugin: plugin.into(), score, weight };
        let fits = ExplainedNode {
            node: "node-1".into(),
            scores: vec![scored("NodeResourcesFit", 90, 1), scored("TaintToleration", 100, 3)],
            total: 390,
            ..ExplainedNode::default()
        };
        let refusal = Refused { filter: "NodeResourcesFit".into(), reason: "Insufficient cpu".into() };
        let refused = ExplainedNode { node: "node-22".into(), refusals: vec![refusal], ..ExplainedNode::default() };
        let reply = ExplainReply { nodes: vec![fits, refused], conclusion: "It goes to node-1.".into() };
        let expected = "NODE      SCORE   WHY\n\
                        node-1    390     NodeResourcesFit 90x1, TaintToleration 100x3\n\
                        node-22   -       NodeResourcesFit: Insufficient cpu\n\n\
                        It goes to node-1.\n";
        assert_eq!(text(&reply), expected);
    }
}
