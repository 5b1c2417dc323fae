//! `podbus plan -f FILE`: where the pods of a file would go, what they would push out, or why they would wait.

use std::collections::BTreeSet;

use podbus_common::api::{PlanReply, PlannedPod};
use serde_json::Value;

use crate::args::BusArgs;
use crate::bus::Session;
use crate::columns::Growing;
use crate::failure::{Failure, Outcome};
use crate::manifests::{self, FileArgs};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  podbus plan -f pod.yaml\n  podbus plan -f manifests/ -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    files: FileArgs,
    /// The namespace, for objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default", hide_default_value = true)]
    namespace: String,
    /// Print the answer as JSON
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    if args.files.filename.is_empty() {
        return Err(Failure::local("must specify -f"));
    }
    let (mut objects, mut namespaces): (Vec<Value>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
    for mut manifest in manifests::read(&args.files)? {
        let namespace = &mut manifest.pod.metadata.namespace;
        if namespace.is_empty() {
            namespace.clone_from(&args.namespace);
        }
        namespaces.insert(namespace.clone());
        objects.push(serde_json::to_value(&manifest.pod).map_err(Failure::local)?);
    }
    // Pods of several namespaces see each other only when they are asked about together.
    let only = namespaces.first().filter(|_| namespaces.len() == 1);
    let session = Session::connect(&args.bus).await?;
    let reply = session.api.plan(only.map(String::as_str), objects).await?;
    if args.output.is_some() {
        let json = serde_json::to_string_pretty(&reply).map_err(Failure::local)?;
        return terminal.print(&format!("{json}\n"));
    }
    terminal.print(&text(&reply))
}

/// A table of the pods, then the sum.
fn text(reply: &PlanReply) -> String {
    let several = reply.pods.iter().map(|pod| &pod.namespace).collect::<BTreeSet<_>>().len() > 1;
    let head = ["POD", "NODE", "PREEMPTS", "WHY"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(reply.pods.iter().map(|pod| row(pod, several))).collect();
    let placed = reply.pods.iter().filter(|pod| !pod.node.is_empty()).count();
    let all = reply.pods.len();
    let pushed: usize = reply.pods.iter().map(|pod| pod.preempts.len()).sum();
    let preempts = if pushed > 0 { format!(", once {pushed} of lower priority have left") } else { String::new() };
    let wait = if placed < all { format!(", {} would wait", all - placed) } else { String::new() };
    let sum = format!("{placed} of {all} would have a place{preempts}{wait}. Nothing was changed.");
    format!("{}\n{sum}\n", Growing::default().rows(&rows))
}

fn row(pod: &PlannedPod, several: bool) -> Vec<String> {
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let name = if several { format!("{}/{}", pod.namespace, pod.name) } else { pod.name.clone() };
    vec![name, or_none(&pod.node), or_none(&pod.preempts.join(",")), or_none(&pod.message)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_is_a_row_and_the_sum_ends_it() {
        let pod = |name: &str, node: &str, message: &str| PlannedPod {
            namespace: "default".into(),
            name: name.into(),
            node: node.into(),
            preempts: if name == "big" { vec!["default/small".into()] } else { vec![] },
            message: message.into(),
        };
        let reply = PlanReply {
            pods: vec![pod("web", "node-1", ""), pod("big", "node-2", "no room"), pod("huge", "", "no room")],
        };
        let expected = "POD    NODE     PREEMPTS        WHY\n\
                        web    node-1   <none>          <none>\n\
                        big    node-2   default/small   no room\n\
                        huge   <none>   <none>          no room\n\n\
                        2 of 3 would have a place, once 1 of lower priority have left, 1 would wait. Nothing was changed.\n";
        assert_eq!(text(&reply), expected);
    }
}
