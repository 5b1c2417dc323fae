//! Brings one pod to what is wanted. One task a pod: nobody else calls the runtime for it, and no pod waits for another.
//!
//! ```text
//! observe (CRI) -> plan (pure) -> report, if nothing is left to do or it takes long -> carry out -> observe ...
//! ```
//!
//! A plan that was cut short is never resumed: it is computed anew from what the runtime says.

mod actions;
mod house;
mod image;
mod start;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podbus_common::model::Timestamp;
use podbus_node_agent_core::chronicle::Chronicle;
use podbus_node_agent_core::memory::Memory;
use podbus_node_agent_core::worker::{Sight, Update, Wanted};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::runtime::Runtime;
use crate::runtime::observe::{StateCache, observe};
use crate::telemetry::Telemetry;
use crate::user_ids::UserIds;

/// How long a worker waits before it asks a runtime again that did not answer.
const RUNTIME_RETRY: Duration = Duration::from_millis(300);
/// After a step that failed and has no retry time of its own: at first, and at most.
const FAILURE_RETRY_MIN: Duration = Duration::from_millis(500);
const FAILURE_RETRY_MAX: Duration = Duration::from_secs(10);
/// How often logs are looked at for rotation and volumes for their size (the kubelet's log monitor period).
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);

/// What a worker knows of its node.
#[derive(Debug, Clone)]
pub(crate) struct NodeFacts {
    /// Its name.
    pub(crate) node: String,
    /// The cgroup below which each pod has its own.
    pub(crate) cgroup_root: String,
    /// What the node has, for what is a share of it.
    pub(crate) memory_bytes: i64,
    /// The state directory.
    pub(crate) state_dir: PathBuf,
    /// The turns of pods that start: see [`starts_at_once`].
    pub(crate) starts: Arc<Semaphore>,
    /// What pods with users of their own have.
    pub(crate) user_ids: Arc<UserIds>,
    /// Where its work is counted.
    pub(crate) telemetry: Telemetry,
}

/// Pods that start at the same time; the others wait in the order of their coming. The kernel makes namespaces one after
/// the other anyway, so with all of them at once the first pod would be there hardly earlier than the last.
pub(crate) fn starts_at_once() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// The agent's side of a worker.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Only the newest value counts.
    pub(crate) wanted: watch::Sender<Wanted>,
    /// The sequence of the newest report that the leader acked.
    pub(crate) acked: watch::Sender<u64>,
    /// Look again.
    pub(crate) wake: Arc<Notify>,
}

/// Starts the worker of a pod.
pub(crate) fn spawn<R: Runtime>(
    runtime: R,
    node: Arc<NodeFacts>,
    wanted: Wanted,
    updates: mpsc::Sender<Update>,
    stop: CancellationToken,
) -> Handle {
    let uid = wanted.pod.metadata.uid.clone();
    let metadata = &wanted.pod.metadata;
    let pod = format!("{}/{}", metadata.namespace, metadata.name);
    // An error's span is on whatever the filter: each line says which pod it is about.
    let span = tracing::error_span!(parent: None, "pod", pod, podUID = uid, node = node.node);
    let pod_dir = node.state_dir.join("pods").join(&uid);
    let (wanted_tx, wanted) = watch::channel(wanted);
    let (acked_tx, acked) = watch::channel(0);
    let wake = Arc::new(Notify::new());
    let worker = Worker {
        runtime,
        node,
        uid,
        pod_dir,
        wanted,
        acked,
        wake: Arc::clone(&wake),
        updates,
        memory: Memory::default(),
        cache: StateCache::default(),
        chronicle: Chronicle::default(),
        killing: BTreeSet::new(),
        backing_off: BTreeSet::new(),
        finished: false,
        turn: None,
        retry: FAILURE_RETRY_MIN,
        house_kept: Instant::now(),
    };
    tokio::spawn(worker.run(stop).instrument(span));
    Handle { wanted: wanted_tx, acked: acked_tx, wake }
}

struct Worker<R> {
    runtime: R,
    node: Arc<NodeFacts>,
    uid: String,
    pod_dir: PathBuf,
    wanted: watch::Receiver<Wanted>,
    acked: watch::Receiver<u64>,
    wake: Arc<Notify>,
    updates: mpsc::Sender<Update>,
    memory: Memory,
    cache: StateCache,
    chronicle: Chronicle,
    /// Runs whose event Killing was sent.
    killing: BTreeSet<String>,
    /// Runs whose event BackOff was sent.
    backing_off: BTreeSet<String>,
    finished: bool,
    /// Held while it starts, and nothing of that takes long.
    turn: Option<OwnedSemaphorePermit>,
    retry: Duration,
    /// When logs and volumes were looked at last.
    house_kept: Instant,
}

/// Why the worker stopped what it did, to look again.
#[derive(Debug)]
enum Interruption {
    /// Something else is wanted, or a step failed and the memory says when to try again.
    Replan,
    /// A step failed; the runtime may be away.
    Failed {
        /// The runtime did not answer.
        unavailable: bool,
    },
}

/// The time of the wall.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_unix_ms(jiff::Timestamp::now().as_millisecond())
}

impl<R: Runtime> Worker<R> {
    async fn run(mut self, stop: CancellationToken) {
        self.memory.attempts_min = start::attempts_on_disk(&self.pod_dir, &self.wanted.borrow().pod);
        tokio::select! {
            biased;
            // The agent ends, its pods run on: what a dropped call leaves half-made, the next agent finds.
            () = stop.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let acked = *self.acked.borrow_and_update();
            let began = Instant::now();
            let observed = observe(&self.runtime, &self.uid, &mut self.cache).await;
            self.node.telemetry.looked(began.elapsed());
            let observed = match observed {
                Ok(observed) => observed,
                Err(error) => {
                    tracing::debug!(%error, "the runtime cannot be asked");
                    self.wait(Some(RUNTIME_RETRY)).await;
                    continue;
                }
            };
            let sight = Sight::of(wanted, acked, observed, &mut self.chronicle, &mut self.memory, now());
            sight.tell_back_off(&mut self.chronicle, &mut self.backing_off, now());
            if sight.plan.gone {
                if self.clean_up().await {
                    return;
                }
                continue;
            }
            if sight.plan.actions.is_empty() {
                self.settle(&sight).await;
                continue;
            }
            let began = Instant::now();
            let carried_out = self.carry_out(&sight).await;
            self.node.telemetry.worked(began.elapsed());
            match carried_out {
                Ok(()) => self.retry = FAILURE_RETRY_MIN,
                Err(Interruption::Replan) => {}
                Err(Interruption::Failed { unavailable: true }) => self.wait(Some(RUNTIME_RETRY)).await,
                Err(Interruption::Failed { unavailable: false }) => {
                    self.report(&sight).await;
                    let retry = self.retry;
                    self.retry = (retry * 2).min(FAILURE_RETRY_MAX);
                    self.wait(Some(retry)).await;
                }
            }
        }
    }

    /// Nothing to do: says so, and waits until something changes.
    async fn settle(&mut self, sight: &Sight) {
        self.report(sight).await;
        if sight.is_over() && !self.finished {
            self.finished = true;
            self.send(Update::Finished { uid: self.uid.clone() }).await;
        }
        self.keep_house(&sight.wanted, &sight.observed).await;
        let due = sight.plan.wake_at.map(|at| at.unix_ms.saturating_sub(now().unix_ms).max(1));
        let due = due.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(1)));
        let runs = sight.observed.containers.iter().any(|run| run.state.may_live());
        self.wait(if runs {
            Some(due.map_or(HOUSEKEEPING_INTERVAL, |due| due.min(HOUSEKEEPING_INTERVAL)))
        } else {
            due
        })
        .await;
    }

    /// Waits until something changes or `due` is over.
    async fn wait(&mut self, due: Option<Duration>) {
        let timer = async {
            match due {
                Some(due) => sleep(due).await,
                None => std::future::pending().await,
            }
        };
        // All are cancel-safe (tokio docs), and each only says: look again.
        tokio::select! {
            changed = self.wanted.changed() => if changed.is_err() { std::future::pending().await },
            changed = self.acked.changed() => if changed.is_err() { std::future::pending().await },
            () = self.wake.notified() => {}
            () = timer => {}
        }
    }

    /// Tells the leader the pod's state, if it is another one than it was told before.
    async fn report(&mut self, sight: &Sight) {
        if let Some(report) = sight.report(&mut self.chronicle, &self.memory) {
            self.send(Update::Report(Box::new(report))).await;
        }
    }

    async fn send(&self, update: Update) {
        // The agent ends: nobody listens, and nobody needs to.
        let _ = self.updates.send(update).await;
    }
}
