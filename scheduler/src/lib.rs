//! The scheduler: takes manifests in, decides where pods go, folds what nodes report into status, and is the only
//! writer of everything that is stored.
//!
//! What it decides is `podbus-scheduler-leader`, which is pure; here is what connects that to the bus, the store and
//! the clock. One task, `lead`, feeds it inputs and carries its outputs out; others take the lease and renew it.

mod args;
mod calls;
mod clock;
mod follow;
mod inputs;
mod kube_state;
mod lead;
mod lease;
mod outbox;
mod publisher;
mod service;
mod store;
mod suspicion;
mod telemetry;
mod watch;
mod writer;

pub use args::Args;
pub use service::run;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Runs the scheduler until SIGTERM or SIGINT.
///
/// # Errors
/// When the bus cannot be used as it is, or another scheduler takes the lease.
pub fn main(args: Args) -> anyhow::Result<()> {
    // One thread: the leader is one task, and what surrounds it costs less than waking another thread for each message.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .thread_name("scheduler")
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let on_signal = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            on_signal.cancel();
        });
        run(args, stop).await
    })
}
