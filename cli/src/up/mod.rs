//! `podbus up`: a bus, a scheduler and some nodes on this machine, as processes that are kept running.

pub(crate) mod cidr;
pub(crate) mod control;
pub(crate) mod foreground;
pub(crate) mod host;
pub(crate) mod layout;
pub(crate) mod nats;
pub(crate) mod pods;
pub(crate) mod process;
mod progress;
mod second;
mod silence;
pub(crate) mod stale;
mod start;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod supervisor;
mod watcher;

use std::path::{Path, PathBuf};

use podbus_common::quantity::Quantity;

use self::layout::{Layout, NODES_MAX};
use self::nats::Sync;
use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;

/// Where a cluster's state is when nothing else is said.
pub(crate) const STATE_DIR: &str = "/var/lib/podbus";

/// `--nats`, for the process in the background.
const URL_VARIABLE: &str = "PODBUS_UP_NATS_URL";

/// Flags of `podbus up`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How many nodes; by default as many as before, or 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// How many schedulers, of which one leads; by default as many as before, or 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    schedulers: Option<u16>,
    /// Where the cluster keeps its state
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Return when all is Ready; the cluster runs on in the background
    #[arg(long)]
    detach: bool,
    /// Use this NATS server and start none; a token may stand before an @
    // The variable is how `--detach` hands it on: arguments can be read by everybody.
    #[arg(long, value_name = "URL", env = URL_VARIABLE, hide_env = true)]
    nats: Option<String>,
    /// How long a pod stays bound to a node that is not Ready, unless it says so itself
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = toleration)]
    not_ready_toleration: String,
    /// CPU that each node offers; by default its share of the machine
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    cpu: Option<String>,
    /// Memory that each node offers; by default its share of the machine
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    memory: Option<String>,
    /// How soon what is stored is on the disk
    #[arg(long, value_enum, default_value = "1s")]
    sync: Sync,
    /// Set by `--detach` for the process in the background
    #[arg(long, hide = true)]
    background: bool,
}

fn toleration(text: &str) -> Result<String, String> {
    let duration = crate::args::duration(text)?;
    // As the scheduler reads it, which takes no bare number.
    Ok(if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    })
}

fn quantity(text: &str) -> Result<String, String> {
    text.parse::<Quantity>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Starts the cluster, or says how the one that runs does.
pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    require_root("podbus up")?;
    let layout = Layout::new(&args.state_dir)?;
    state::check(&layout)?;
    if state::is_held(&layout) && second::show_running(&layout, terminal).await? {
        return Ok(());
    }
    // What can be known to be wrong is said before anything is made.
    let server = match &args.nats {
        None => Some(nats::find()?),
        Some(url) => {
            foreground::check_external(url).await?;
            None
        }
    };
    state::check_space(&layout)?;
    if args.detach {
        return second::run_in_background(&args, &layout, terminal).await;
    }
    if args.background {
        // Away from the terminal, whose end would end us. It fails only for a group's leader, which nobody starts.
        let _ = nix::unistd::setsid();
    }
    foreground::run(&args, &layout, server, terminal).await
}

/// Fails for anyone but root.
pub(crate) fn require_root(what: &str) -> Outcome {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::local(format!("{what} needs root: it makes namespaces, cgroups and network links"))
        .hint(format!("sudo {what} ...")))
}

/// This program's file, also when it was replaced since it was started.
pub(crate) fn own_program() -> PathBuf {
    // The link in /proc opens the file that runs, whatever has become of its name.
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| Path::new("/proc/self/exe").to_owned())
}
