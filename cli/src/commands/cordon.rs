//! `podbus cordon`, `uncordon` and `drain`: nodes that take no new pods, and nodes that have none.

use std::time::Duration;

use podbus_common::api::{ApplyResult, ListRequest};
use podbus_common::subject;
use serde_json::json;

use super::delete::{self, Doomed, Grace};
use crate::args::{self, BusArgs};
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::{Kind, Target};
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    bus: BusArgs,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: podbus drain node-1 --force\n\nThe nodes take no new pods, and lose those that they have, \
                  each with its grace. Nobody makes a pod\nanew that was deleted: so --force is needed where there are any. \
                  `podbus uncordon` lets pods come again."
)]
pub(crate) struct DrainArgs {
    /// The nodes
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Delete pods though nobody makes them anew
    #[arg(long)]
    force: bool,
    /// Seconds from SIGTERM to SIGKILL; by default, and with -1, what the pod says
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_negative_numbers = true, hide_default_value = true)]
    grace_period: i64,
    /// How long to wait until the pods are gone; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = args::duration, hide_default_value = true)]
    timeout: Duration,
    #[command(flatten)]
    bus: BusArgs,
}

/// Whether the nodes take no new pods from now on, or do again.
pub(crate) async fn run(args: Args, unschedulable: bool, terminal: &Terminal) -> Outcome {
    let session = Session::connect(&args.bus).await?;
    for_each(&args.nodes, async |node| cordon(&session, node, unschedulable, terminal).await).await
}

pub(crate) async fn drain(args: DrainArgs, terminal: &Terminal) -> Outcome {
    let seconds = match u32::try_from(args.grace_period) {
        // 0 and no --force: nobody loses what it did not mean to, as `delete` has it.
        Ok(seconds) => Some(seconds.max(1)),
        Err(_) if args.grace_period < 0 => None,
        Err(_) => return Err(Failure::local("--grace-period is too long")),
    };
    let grace = Grace { seconds, force: false };
    let session = Session::connect(&args.bus).await?;
    for_each(&args.nodes, async |node| {
        cordon(&session, node, true, terminal).await?;
        let pods = pods_of(&session, node).await?;
        if !pods.is_empty() && !args.force {
            let names: Vec<_> = pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
            let why = "cannot delete Pods that declare no controller (use --force to override)";
            let text = format!("unable to drain node \"{node}\" due to error: {why}: {}", names.join(", "));
            return Err(Failure::local(text));
        }
        for pod in &pods {
            match delete::delete(&session, pod, grace).await {
                Err(failure) if !failure.is_not_found() => return Err(failure),
                _ => terminal.line(&format!("pod/{} deleted", pod.name))?,
            }
        }
        delete::wait_until_gone(&session, pods, args.timeout).await?;
        terminal.line(&format!("node/{node} drained"))
    })
    .await
}

/// One after the other; what fails for one node is no reason to leave out the next.
async fn for_each(nodes: &[String], act: impl AsyncFn(&str) -> Outcome) -> Outcome {
    let mut failures = Vec::new();
    for node in nodes {
        let done = match node_name(node) {
            Ok(node) => act(&node).await,
            Err(failure) => Err(failure),
        };
        failures.extend(done.err());
    }
    Failure::all(failures)
}

/// `node-1`, `node/node-1`.
fn node_name(text: &str) -> Outcome<String> {
    if !text.contains('/') {
        return Ok(text.to_owned());
    }
    match Target::parse(&[text.to_owned()])? {
        Target::Objects(objects) if objects.len() == 1 && objects[0].0 == Kind::Node => Ok(objects[0].1.clone()),
        _ => Err(Failure::local(format!("`{text}` is no node"))),
    }
}

async fn cordon(session: &Session, name: &str, unschedulable: bool, terminal: &Terminal) -> Outcome {
    // What is not said stays as it is.
    let object = json!({"metadata": {"name": name}, "spec": {"unschedulable": unschedulable}});
    let reply = session.api.apply(subject::ANY, "nodes", &object, false).await?;
    let done = if unschedulable { "cordoned" } else { "uncordoned" };
    let already = if reply.result == ApplyResult::Unchanged { "already " } else { "" };
    terminal.line(&format!("node/{name} {already}{done}"))
}

async fn pods_of(session: &Session, node: &str) -> Outcome<Vec<Doomed>> {
    let request = ListRequest { field_selector: format!("spec.nodeName={node}"), ..Default::default() };
    let list = session.api.list(None, "pods", &request).await?;
    list.items.iter().map(delete::doomed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_in_other_verbs() {
        assert_eq!(node_name("node-1").unwrap(), "node-1");
        assert_eq!(node_name("node/node-1").unwrap(), "node-1");
        for text in ["pod/web", "node/", "deploy/x"] {
            assert!(node_name(text).is_err(), "{text}");
        }
    }
}
