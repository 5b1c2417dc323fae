//! `podbus taint`: marks on nodes that keep pods away.

mod changes;

use podbus_common::model::Node;
use serde_json::Value;

use self::changes::Changes;
use super::change::{self, Which, split};
use crate::args::BusArgs;
use crate::bus::Session;
use crate::failure::{Failure, Outcome};
use crate::resource::Kind;
use crate::rows::typed;
use crate::terminal::Terminal;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  podbus taint node node-1 gpu=true:NoSchedule\n  podbus taint node node-1 gpu-\n  \
    podbus taint nodes -l disk=hdd slow:PreferNoSchedule\n\nNoSchedule keeps new pods away, PreferNoSchedule where \
    there is another place, NoExecute also those that\nrun there. A pod bears a taint by its `tolerations`. A taint \
    stays when the node's agent starts again."
)]
pub(crate) struct Args {
    /// `node NAME...` or `nodes` with -l or --all, and then what to change: `KEY=VALUE:EFFECT`, `KEY-`, `KEY:EFFECT-`
    #[arg(required = true, value_name = "NODE|KEY[=VALUE]:EFFECT|KEY[:EFFECT]-")]
    words: Vec<String>,
    /// Replace taints that are there
    #[arg(long)]
    overwrite: bool,
    /// All nodes
    #[arg(long)]
    all: bool,
    /// By labels: `disk=ssd`, `tier!=db`, `key`
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "all")]
    selector: Option<String>,
    #[command(flatten)]
    bus: BusArgs,
}

pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let (words, taints) = split(&args.words, "taint", changes::is_change)?;
    let changes = Changes::parse(taints)?;
    if changes.is_empty() {
        return Err(Failure::local("at least one taint update is required")
            .hint("KEY=VALUE:EFFECT sets one, KEY- takes all of this key away"));
    }
    let which =
        Which { words, namespace: None, selector: args.selector.as_deref(), all: args.all, kinds: &[Kind::Node] };
    let session = Session::connect(&args.bus).await?;
    let mut failures = Vec::new();
    for named in which.find(&session, terminal).await? {
        let edit = |object: &mut Value| {
            let mut node: Node = typed(object)?;
            let done = changes.make(&named.name, &mut node.spec.taints, args.overwrite)?;
            object["spec"]["taints"] = serde_json::to_value(node.spec.taints).map_err(Failure::local)?;
            Ok(done)
        };
        match change::change(&session, &named, edit).await {
            Ok((done, _)) => terminal.line(&format!("{} {done}", named.text()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}
