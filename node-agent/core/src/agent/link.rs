//! The agent's side of the protocol with the leader: registration, sync, heartbeats.

use std::time::{Duration, Instant};

use podbus_common::proto::{Heartbeat, HeldPod, NodeDescription, SyncReply, SyncRequest, refusal};

use super::{Health, Identity};
use crate::desired::{Applied, DesiredSet};

/// After a request that failed.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// After a status of which the leader did not ack everything.
pub(super) const UNACKED_INTERVAL: Duration = Duration::from_millis(100);
/// Pods in one page of a sync.
const PAGE_PODS_MAX: usize = 2000;
/// Objects of pods in one page: with what surrounds them below the 1 MiB that nats-server takes by default.
const PAGE_BYTES_MAX: usize = 512 << 10;
/// How long another living instance of this node is waited for: it counts as gone after 5 missed heartbeats.
const INSTANCE_WAIT: Duration = Duration::from_secs(10);

/// The leader does not want this agent.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another machine has the node's name.
    #[error("the scheduler refuses this node: {message}")]
    NameTaken {
        /// For a person.
        message: String,
    },
    /// Another agent of this node lives.
    #[error("the scheduler refuses this node: {message}")]
    InstanceAlive {
        /// For a person.
        message: String,
    },
    /// What it says of itself makes no sense.
    #[error("the scheduler refuses this node: {message}")]
    Invalid {
        /// For a person.
        message: String,
    },
}

/// What is asked of the leader, and when.
#[derive(Debug)]
pub(super) struct Link {
    identity: Identity,
    description: NodeDescription,
    in_flight: bool,
    /// The leader asked for everything.
    inventory: bool,
    /// A sync is wanted, not before this.
    wanted: Option<Instant>,
    /// The epoch for which assignments were refused, until a message of it comes; 0: none.
    higher_epoch: u64,
    /// Since when another instance keeps this one out.
    kept_out: Option<Instant>,
    silent: bool,
}

impl Link {
    pub(super) fn new(identity: Identity, description: NodeDescription, now: Instant) -> Self {
        Self {
            identity,
            description,
            in_flight: false,
            inventory: false,
            wanted: Some(now),
            higher_epoch: 0,
            kept_out: None,
            silent: false,
        }
    }

    /// The node's name.
    pub(super) fn node(&self) -> &str {
        &self.identity.node
    }

    /// When the next request goes out; `None`: none is wanted, or one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.wanted.filter(|_| !self.in_flight)
    }

    /// What is due: the pages of a registration or a sync.
    pub(super) fn ask(&mut self, set: &DesiredSet, now: Instant) -> Option<Vec<SyncRequest>> {
        self.due().filter(|due| *due <= now)?;
        self.wanted = None;
        self.in_flight = true;
        let registers = set.agent_epoch() == 0;
        let request = SyncRequest {
            node: self.identity.node.clone(),
            node_id: self.identity.node_id.clone(),
            instance: self.identity.instance.clone(),
            agent_epoch: set.agent_epoch(),
            agent_epoch_seen: set.agent_epoch_seen(),
            mark: Some(set.mark()),
            earlier_mark: set.earlier_mark(),
            inventory: self.inventory,
            description: registers.then(|| self.description.clone()),
            counter: set.counter(),
            ..Default::default()
        };
        let held = if std::mem::take(&mut self.inventory) { set.inventory() } else { set.held() };
        Some(pages(&request, held))
    }

    /// Takes the answer; `None`: there is nothing in it for the set. An error: this agent must end.
    pub(super) fn handle_reply(
        &mut self,
        reply: Option<Box<SyncReply>>,
        set: &mut DesiredSet,
        now: Instant,
    ) -> Result<Option<Box<SyncReply>>, Refused> {
        self.in_flight = false;
        let Some(reply) = reply else {
            if !self.silent {
                tracing::warn!("no scheduler answers, trying again; pods run on");
            }
            self.silent = true;
            self.ask_after(RETRY_INTERVAL, now);
            return Ok(None);
        };
        self.silent = false;
        if reply.send_inventory {
            tracing::warn!("the scheduler asks for all that this node holds: the store went back in time, or was lost");
            self.inventory = true;
            self.ask_after(Duration::ZERO, now);
            return Ok(None);
        }
        if reply.retry_after_ms > 0 {
            self.ask_after(Duration::from_millis(u64::from(reply.retry_after_ms)), now);
            return Ok(None);
        }
        if let Some(refusal) = reply.refusal.as_ref().filter(|refusal| refusal.reason() != refusal::Reason::None) {
            self.handle_refusal(refusal.reason(), &refusal.message, set, now)?;
            return Ok(None);
        }
        self.kept_out = None;
        Ok(Some(reply))
    }

    /// What a message of the leader means for the next request.
    pub(super) fn note(&mut self, applied: &Applied, now: Instant) {
        self.higher_epoch = applied.refused_for.unwrap_or(0);
        if applied.sync {
            self.ask_after(Duration::ZERO, now);
        } else if applied.refused_for.is_some() {
            self.ask_after(RETRY_INTERVAL, now);
        }
    }

    fn handle_refusal(
        &mut self,
        reason: refusal::Reason,
        message: &str,
        set: &mut DesiredSet,
        now: Instant,
    ) -> Result<(), Refused> {
        let message = message.to_owned();
        match reason {
            refusal::Reason::NodeIdTaken => return Err(Refused::NameTaken { message }),
            refusal::Reason::Invalid => return Err(Refused::Invalid { message }),
            refusal::Reason::AgentEpochStale => set.deregister(),
            refusal::Reason::InstanceAlive | refusal::Reason::None => {
                if self.kept_out.is_none() {
                    tracing::info!("the agent before this one still counts as alive, trying again; pods run on");
                }
                let since = *self.kept_out.get_or_insert(now);
                if now - since >= INSTANCE_WAIT {
                    return Err(Refused::InstanceAlive { message });
                }
            }
        }
        self.ask_after(RETRY_INTERVAL, now);
        Ok(())
    }

    fn ask_after(&mut self, wait: Duration, now: Instant) {
        let at = now + wait;
        self.wanted = Some(self.wanted.map_or(at, |before| before.min(at)));
    }

    /// Tells the leader that the node lives. What its pods may have together is as it was registered.
    pub(super) fn heartbeat(&self, set: &DesiredSet, health: &Health, not_ready: String) -> Heartbeat {
        Heartbeat {
            node: self.identity.node.clone(),
            instance: self.identity.instance.clone(),
            agent_epoch: set.agent_epoch(),
            leader_epoch: set.leader_epoch(),
            counter: set.counter(),
            digest: set.digest().to_vec().into(),
            used_cpu_millis: health.used_cpu_millis,
            used_memory_bytes: health.used_memory_bytes,
            higher_epoch: self.higher_epoch,
            not_ready_message: not_ready,
            mark: Some(set.mark()),
            earlier_mark: set.earlier_mark(),
            ..Default::default()
        }
    }
}

/// The pages of a sync: all but the first are needed for a long list only.
fn pages(request: &SyncRequest, held: Vec<HeldPod>) -> Vec<SyncRequest> {
    let mut pages = vec![Vec::new()];
    let mut bytes = 0;
    for pod in held {
        bytes += pod.pod.len();
        let page = pages.last().map_or(0, Vec::len);
        if page > 0 && (page == PAGE_PODS_MAX || bytes > PAGE_BYTES_MAX) {
            bytes = pod.pod.len();
            pages.push(Vec::new());
        }
        if let Some(page) = pages.last_mut() {
            page.push(pod);
        }
    }
    let last = pages.len() - 1;
    let page = |(number, held): (usize, Vec<HeldPod>)| SyncRequest {
        held,
        page: u32::try_from(number).unwrap_or(u32::MAX),
        last_page: number == last,
        ..request.clone()
    };
    pages.into_iter().enumerate().map(page).collect()
}
