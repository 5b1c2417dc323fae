//! The one task that owns the node's state: it feeds the agent of `podbus-node-agent-core` and carries out what that
//! wants.
//!
//! Everything comes to it as a message: assignments and answers of the leader, updates of workers, wake-ups of the
//! runtime.

mod directory;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use futures::future::{BoxFuture, OptionFuture};
use futures::{FutureExt as _, StreamExt as _};
use podbus_common::model::Timestamp;
use podbus_common::proto::{Heartbeat, NodeDescription, StatusReply, StatusRequest, SyncReply, SyncRequest};
use podbus_common::subject;
use podbus_common_bus::{Bus, RequestError};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::admission::NodeOffer;
use podbus_node_agent_core::agent::{self as core, Identity, Input, Now, Output, TICK_EVERY};
pub(crate) use podbus_node_agent_core::agent::{Health, Refused};
use podbus_node_agent_core::desired::DesiredSet;
use podbus_node_agent_core::worker::{Update, Wanted};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use self::directory::Directory;
use crate::journal::Journal;
use crate::recovery;
use crate::runtime::watch::Wake;
use crate::runtime::{Runtime, RuntimeError};
use crate::telemetry::Telemetry;
use crate::worker::{self, Handle, NodeFacts, now as wall};

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Updates of workers that may wait; a worker that finds no place waits too.
const UPDATES_MAX: usize = 1024;

/// What an agent is made of.
pub(crate) struct Parts<R> {
    pub(crate) node: String,
    pub(crate) node_id: String,
    pub(crate) bus: Bus,
    pub(crate) runtime: R,
    pub(crate) set: DesiredSet,
    /// UIDs that only the runtime knew of.
    pub(crate) adopted: BTreeSet<String>,
    pub(crate) journal: Journal,
    pub(crate) description: NodeDescription,
    pub(crate) offer: NodeOffer,
    pub(crate) facts: NodeFacts,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) directory: Directory,
    pub(crate) stop: CancellationToken,
}

/// When the runtime was asked for all that it has, and what it said.
type Listed = (Timestamp, Result<Vec<v1::PodSandbox>, RuntimeError>);

/// The node's state and its owner.
pub(crate) struct Agent<R> {
    core: core::Agent<Journal>,
    node: String,
    bus: Bus,
    runtime: R,
    facts: Arc<NodeFacts>,
    workers: BTreeMap<String, Handle>,
    health: watch::Receiver<Health>,
    directory: Directory,
    updates: (mpsc::Sender<Update>, mpsc::Receiver<Update>),
    sync: Option<BoxFuture<'static, Result<SyncReply, RequestError>>>,
    status: Option<BoxFuture<'static, Result<StatusReply, RequestError>>>,
    /// The runtime is asked for all that it has.
    listing: Option<BoxFuture<'static, Listed>>,
    stop: CancellationToken,
}

impl<R: Runtime> Agent<R> {
    /// Puts an agent together; nothing runs yet.
    pub(crate) fn new(parts: Parts<R>) -> Self {
        let identity =
            Identity { node: parts.node.clone(), node_id: parts.node_id, instance: uuid::Uuid::new_v4().to_string() };
        let (set, adopted) = (parts.set, parts.adopted);
        Self {
            core: core::Agent::new(identity, parts.description, parts.offer, set, adopted, parts.journal, now()),
            node: parts.node,
            bus: parts.bus,
            runtime: parts.runtime,
            facts: Arc::new(parts.facts),
            workers: BTreeMap::new(),
            health: parts.health,
            directory: parts.directory,
            updates: mpsc::channel(UPDATES_MAX),
            sync: None,
            status: None,
            listing: None,
            stop: parts.stop,
        }
    }

    /// Runs until it is stopped, or until the leader refuses this node for good.
    pub(crate) async fn run(
        mut self,
        mut wakes: mpsc::Receiver<Wake>,
        mut assignments: Subscriber,
    ) -> Result<(), Refused> {
        let mut tick = interval(TICK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let own = subject::assign(&self.node);
        loop {
            for output in self.core.outputs() {
                self.carry_out(output).await;
            }
            let wake_at = self.core.wake_at().map(Instant::from_std);
            let sync = OptionFuture::from(self.sync.as_mut());
            let status = OptionFuture::from(self.status.as_mut());
            let listing = OptionFuture::from(self.listing.as_mut());
            // All are cancel-safe: receivers hold what they did not return, the three requests are kept outside.
            let input = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(reply) = sync => self.synced(reply),
                Some(reply) = status => self.status_taken(reply),
                Some(message) = assignments.next() => match message.subject.as_str() == own {
                    true => Input::Assignment(message.payload),
                    // The server delivers what a consumer was told to deliver here: it keeps its own subject.
                    false => continue,
                },
                Some(update) = self.updates.1.recv() => {
                    self.facts.telemetry.heard(&update);
                    Input::Update(update)
                }
                Some(listed) = listing => {
                    self.remove_ended(listed);
                    continue;
                }
                Some(wake) = wakes.recv() => {
                    self.wake(&wake);
                    continue;
                }
                _ = tick.tick() => Input::Tick(self.health.borrow().clone()),
                Some(()) = OptionFuture::from(wake_at.map(sleep_until)) => Input::Wake,
            };
            let registered = self.core.set().agent_epoch();
            self.core.handle(input, now())?;
            let set = self.core.set();
            self.facts.telemetry.registered(set.agent_epoch());
            if set.agent_epoch() != registered && set.agent_epoch() != 0 {
                tracing::info!(agentEpoch = set.agent_epoch(), leaderEpoch = set.leader_epoch(), "registered");
            }
        }
    }

    fn synced(&mut self, reply: Result<SyncReply, RequestError>) -> Input {
        self.sync = None;
        if let Err(error) = &reply {
            tracing::debug!(%error, "the leader did not answer a sync");
        }
        Input::Synced(reply.ok().map(Box::new))
    }

    fn status_taken(&mut self, reply: Result<StatusReply, RequestError>) -> Input {
        self.status = None;
        if let Err(error) = &reply {
            tracing::debug!(%error, "the leader did not take the status");
        }
        Input::StatusTaken(reply.ok())
    }

    fn wake(&mut self, wake: &Wake) {
        match wake {
            Wake::Pod(uid) => {
                if let Some(worker) = self.workers.get(uid) {
                    worker.wake.notify_one();
                }
            }
            Wake::All => {
                self.workers.values().for_each(|worker| worker.wake.notify_one());
                let (runtime, listed_at) = (self.runtime.clone(), wall());
                let listing = || async move { (listed_at, runtime.list_pod_sandbox(None).await) }.boxed();
                self.listing.get_or_insert_with(listing);
            }
        }
    }

    /// A sandbox of a pod that ended has no worker that would look at it.
    fn remove_ended(&mut self, (listed_at, listed): Listed) {
        self.listing = None;
        // Without an answer now, the next one tells.
        let sandboxes = listed.unwrap_or_default().into_iter();
        for sandbox in sandboxes.filter(|sandbox| recovery::is_of_ended(sandbox, self.core.set(), listed_at)) {
            let runtime = self.runtime.clone();
            tokio::spawn(async move {
                if let Err(error) = recovery::remove_ended(&runtime, &sandbox).await {
                    tracing::warn!(%error, "it cannot be removed yet, trying again in a minute");
                }
            });
        }
    }

    async fn carry_out(&mut self, output: Output) {
        match output {
            Output::Sync(pages) => {
                self.facts.telemetry.syncs();
                self.sync = Some(send_sync(self.bus.clone(), subject::sync(&self.node), pages).boxed());
            }
            Output::Status(request) => {
                let telemetry = self.facts.telemetry.clone();
                self.status =
                    Some(send_status(self.bus.clone(), subject::status(&self.node), request, telemetry).boxed());
            }
            Output::Heartbeat(heartbeat) => {
                send_heartbeat(self.bus.clone(), subject::heartbeat(&self.node), &heartbeat).await;
            }
            Output::Work { uid, wanted } => self.work(uid, *wanted),
            Output::Acked { uid, sequence } => {
                if let Some(worker) = self.workers.get(&uid) {
                    worker.acked.send_replace(sequence);
                }
            }
            Output::Holds { uid, pod } => {
                self.facts.telemetry.holds(&uid, &pod);
                self.directory.put(&uid, &pod);
            }
            Output::Ended { uid } => {
                self.facts.telemetry.ended(&uid);
                self.directory.remove(&uid);
                self.workers.remove(&uid);
            }
        }
    }

    fn work(&mut self, uid: String, wanted: Wanted) {
        match self.workers.get(&uid) {
            Some(worker) => {
                worker.wanted.send_replace(wanted);
            }
            None => {
                let updates = self.updates.0.clone();
                let (runtime, facts) = (self.runtime.clone(), Arc::clone(&self.facts));
                let handle = worker::spawn(runtime, facts, wanted, updates, self.stop.child_token());
                self.workers.insert(uid, handle);
            }
        }
    }
}

fn now() -> Now {
    Now { instant: std::time::Instant::now(), wall: wall() }
}

/// No answer is awaited: the next one goes out in a second.
async fn send_heartbeat(bus: Bus, subject: String, heartbeat: &Heartbeat) {
    if !bus.is_connected() {
        return; // Buffered ones would arrive late and say what is no longer so.
    }
    if let Err(error) = bus.client().publish(subject, heartbeat.encode_to_vec().into()).await {
        tracing::debug!(%error, "a heartbeat was not sent");
    }
}

async fn send_status(
    bus: Bus,
    subject: String,
    request: Arc<StatusRequest>,
    telemetry: Telemetry,
) -> Result<StatusReply, RequestError> {
    let began = Instant::now();
    let reply = bus.request_proto(&subject, &*request, REQUEST_TIMEOUT).await;
    telemetry.told_status(began.elapsed(), reply.is_ok());
    reply
}

/// Sends all pages; the answer to the last one counts.
async fn send_sync(bus: Bus, subject: String, pages: Vec<SyncRequest>) -> Result<SyncReply, RequestError> {
    let mut reply = SyncReply::default();
    for page in pages {
        reply = bus.request_proto(&subject, &page, REQUEST_TIMEOUT).await?;
    }
    Ok(reply)
}

#[cfg(test)]
mod tests;
