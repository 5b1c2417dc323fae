//! `podbus node`: takes a node of this machine away and gives it back, to see what the cluster does.

use std::path::PathBuf;

use crate::cluster;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;
use crate::up::control::{Conversation, Request};
use crate::up::layout::Layout;
use crate::up::{STATE_DIR, require_root};

/// Flags of `podbus node`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// End a node's agent and runtime; its pods run on
    Stop {
        #[command(flatten)]
        which: Which,
        /// By SIGKILL, as a crash would
        #[arg(long)]
        kill: bool,
    },
    /// Start what `stop` ended
    Start {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The node
    #[arg(value_name = "NAME")]
    node: String,
    /// The cluster's state directory, when several run
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// The one that was named, or that of the only cluster that runs, or the usual one.
fn state_dir(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| match cluster::read_all().0.as_slice() {
        [cluster] => cluster.state_dir.clone(),
        _ => STATE_DIR.into(),
    })
}

/// Hands the order to the running `podbus up`.
pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    let (which, request, done) = match args.verb {
        Verb::Stop { which, kill } => {
            let request = Request::NodeStop { node: which.node.clone(), kill };
            (which, request, if kill { "killed" } else { "stopped" })
        }
        Verb::Start { which } => {
            let request = Request::NodeStart { node: which.node.clone() };
            (which, request, "started")
        }
    };
    require_root("podbus node")?;
    let layout = Layout::new(&state_dir(which.state_dir))?;
    let Some(conversation) = Conversation::open(&layout.control_socket(), &request).await else {
        return Err(Failure::local(format!("no `podbus up` runs in {}", layout.state_dir.display()))
            .hint("start one with `podbus up --detach`, or name another with --state-dir"));
    };
    conversation.answer().await?;
    terminal.line(&format!("node/{} {done}", which.node))
}
