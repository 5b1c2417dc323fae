//! `podbus down`: ends a cluster of this machine and removes all of it.

mod mounts;

use std::path::PathBuf;
use std::time::Duration;

use fs_err as fs;
use tokio::time::{Instant, sleep};

use crate::failure::{Failure, Outcome};
use crate::terminal::Terminal;
use crate::up::control::{Conversation, Request};
use crate::up::layout::Layout;
use crate::up::pods::Fate;
use crate::up::supervisor::sandboxes_only;
use crate::up::{STATE_DIR, foreground, host, own_program, require_root, stale, state};

/// How long `up` may take to end its pods and processes.
const END_MAX: Duration = Duration::from_secs(120);
const RETRY: Duration = Duration::from_millis(20);

/// Flags of `podbus down`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The cluster's state directory
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    /// Keep images and objects: the next `podbus up` starts the same pods again
    #[arg(long)]
    keep_state: bool,
}

/// Stops pods and processes, and removes what they leave.
pub(crate) async fn run(args: Args, terminal: &Terminal) -> Outcome {
    require_root("podbus down")?;
    let layout = Layout::new(&args.state_dir)?;
    if !state::exists(&layout) {
        foreground::forget(&layout);
        terminal.note(&format!("there is no cluster in {}", layout.state_dir.display()));
        return Ok(());
    }
    state::check(&layout)?;
    let fate = if args.keep_state { Fate::Stop } else { Fate::Remove };
    let supervised = ask_up(&layout, fate, terminal).await?;
    let Some(_lock) = state::lock(&layout)? else {
        return Err(
            Failure::local(format!("another podbus just took {}", layout.state_dir.display())).hint("try again")
        );
    };
    end_the_unsupervised(&layout, supervised, fate, terminal).await?;
    foreground::forget(&layout);
    remove_traces(&layout, args.keep_state).await?;
    host::forget_if_last().await?;
    if args.keep_state {
        terminal.line(&format!("stopped; images and objects are kept in {}", layout.state_dir.display()))
    } else {
        terminal.line(&format!("removed the cluster in {}", layout.state_dir.display()))
    }
}

/// Has a running `up` end everything. The number of nodes it had; 0 when none runs.
async fn ask_up(layout: &Layout, fate: Fate, terminal: &Terminal) -> Outcome<u16> {
    if !state::is_held(layout) {
        return Ok(0);
    }
    terminal.note("stopping pods, each within its grace period, and processes");
    let nodes = state::read_settings(layout)?.map_or(0, |settings| settings.nodes);
    // One that ends already opens no conversation; then there is only to wait.
    if let Some(conversation) = Conversation::open(&layout.control_socket(), &Request::Stop { pods: fate }).await {
        conversation.answer().await?;
    }
    let deadline = Instant::now() + END_MAX;
    while state::is_held(layout) {
        if Instant::now() > deadline {
            return Err(Failure::local(format!("`podbus up` does not end within {} s", END_MAX.as_secs())).hint(
                format!(
                    "see {}; when `podbus up` is killed, `podbus down` goes on without it",
                    layout.file("up.log").display()
                ),
            ));
        }
        sleep(RETRY).await;
    }
    Ok(nodes)
}

/// Services without a supervisor, and the pods of nodes that no supervisor ended.
async fn end_the_unsupervised(layout: &Layout, supervised: u16, fate: Fate, terminal: &Terminal) -> Outcome {
    stale::end(stale::find(&layout.state_dir)).await;
    let orphans: Vec<u16> = layout.nodes_on_disk().into_iter().filter(|number| *number > supervised).collect();
    let Some(settings) = state::read_settings(layout)?.filter(|_| !orphans.is_empty()) else { return Ok(()) };
    terminal.note("stopping pods that were left running");
    foreground::make_run_dir(layout)?;
    let supervisor = sandboxes_only(&own_program(), layout, settings.pod_cidr, &orphans);
    if let Err(failure) = supervisor.end(fate, None).await {
        // Their processes end by their cgroups, and the rest is removed below.
        terminal.note(failure.text().trim_end());
    }
    Ok(())
}

async fn remove_traces(layout: &Layout, keep_state: bool) -> Outcome {
    let instances: Vec<String> =
        layout.nodes_on_disk().into_iter().map(|number| layout.node(number).instance).collect();
    for instance in instances {
        // It blocks, and has an async runtime of its own; an error of the join would be its panic.
        let destroyed = tokio::task::spawn_blocking(move || podbus_sandbox::destroy(&instance)).await;
        destroyed.unwrap_or_else(|error| Err(error.into()))?;
    }
    mounts::unmount_below(&layout.file("nodes"))?;
    if keep_state {
        return Ok(());
    }
    // It may be a mount point of the user's: then only its content goes.
    for entry in fs::read_dir(&layout.state_dir)? {
        let entry = entry?;
        // Last, so that what is interrupted here is still known as ours.
        if entry.file_name() != "version" {
            remove(&entry.path())?;
        }
    }
    remove(&layout.file("version"))?;
    match std::fs::remove_dir(&layout.state_dir) {
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        other => Ok(other?),
    }
}

fn remove(path: &std::path::Path) -> std::io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}
