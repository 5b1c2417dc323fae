//! One simulated node: the agent's core, its workers, and what fault scripts do to it. Pure: the bus and the clock are
//! the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podbus_common::proto::{Heartbeat, NodeDescription, StatusReply, StatusRequest, SyncReply, SyncRequest};
use podbus_node_agent_core::admission::NodeOffer;
use podbus_node_agent_core::agent::{Agent, Health, Identity, Input, Journal, Now, Output, Refused, TICK_EVERY};
use podbus_node_agent_core::desired::DesiredSet;
use podbus_node_agent_core::resources::Amounts;

use super::worker::{Behaviour, Surroundings, Worker};
use podbus_load::chance::Chance;

/// A request that nobody can hear is given up after so long.
const UNHEARD_AFTER: Duration = Duration::from_secs(3);

/// What all nodes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) behaviour: Behaviour,
    pub(super) seed: u64,
}

/// Who a node is and what it offers.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) node_id: String,
    pub(super) description: NodeDescription,
    pub(super) offer: NodeOffer,
    /// The first two of the three numbers after the 10 of its pods' addresses.
    pub(super) network: u16,
}

/// What the caller sends for a node.
#[derive(Debug)]
pub(super) enum Message {
    /// To `podbus.node.<node>.sync`, one after the other; the answer to the last counts.
    Sync(Vec<SyncRequest>),
    /// To `podbus.status.<node>`.
    Status(Arc<StatusRequest>),
    /// To `podbus.node.<node>.heartbeat`.
    Heartbeat(Box<Heartbeat>),
}

/// What came for a node.
#[derive(Debug)]
pub(super) enum Heard {
    Assignment(bytes::Bytes),
    Synced(Option<Box<SyncReply>>),
    StatusTaken(Option<StatusReply>),
}

/// A node's disk: what it wrote is what its agent holds, so nothing needs to be kept twice.
#[derive(Debug)]
struct Memory;

impl Journal for Memory {
    fn append(&mut self, set: &mut DesiredSet) -> Result<(), String> {
        set.take_records();
        Ok(())
    }
}

/// A simulated node.
#[derive(Debug)]
pub(super) struct Node {
    shared: Arc<Shared>,
    profile: Profile,
    chance: Chance,
    agent: Agent<Memory>,
    /// Boxed, as a map moves what it holds.
    workers: BTreeMap<String, Box<Worker>>,
    /// When workers want to look.
    looks: BTreeSet<(Instant, String)>,
    next_tick: Instant,
    ids: u64,
    boots: u32,
    /// Its process and its pods are gone.
    dead: bool,
    cut_off: bool,
    slowness: f64,
    /// Requests that a partition swallowed, and when they are given up.
    unheard: Vec<(Instant, Heard)>,
    messages: Vec<Message>,
}

impl Node {
    /// A node that starts `at`; its heartbeats keep that phase.
    pub(super) fn new(shared: Arc<Shared>, profile: Profile, stream: u64, now: Now, at: Instant) -> Self {
        let chance = Chance::new(shared.seed, stream);
        let agent = new_agent(&profile, 0, DesiredSet::default(), now);
        let mut node = Self {
            shared,
            profile,
            chance,
            agent,
            workers: BTreeMap::new(),
            looks: BTreeSet::new(),
            next_tick: at,
            ids: 0,
            boots: 0,
            dead: false,
            cut_off: false,
            slowness: 1.0,
            unheard: Vec::new(),
            messages: Vec::new(),
        };
        // What the agent wants at once it gets at its start.
        node.carry_out(now);
        node
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.profile.name
    }

    /// Whether the leader knows it.
    pub(super) fn is_registered(&self) -> bool {
        !self.dead && self.agent.set().agent_epoch() != 0
    }

    /// Its pods of which a container runs.
    pub(super) fn running(&self) -> usize {
        self.workers.values().filter(|worker| worker.runs()).count()
    }

    /// Its pods use what they ask for: nothing is measured.
    fn health(&self) -> Health {
        let of = |amount: fn(Amounts) -> i64| {
            let sum: i64 = self.workers.values().map(|worker| amount(worker.usage())).sum();
            u64::try_from(sum).unwrap_or(0)
        };
        Health {
            used_cpu_millis: of(|amounts| amounts.cpu_millis),
            used_memory_bytes: of(|amounts| amounts.memory_bytes),
            ..Health::default()
        }
    }

    /// What is to be sent, in this order.
    pub(super) fn messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// When it wants [`Self::advance`]; `None`: it is dead.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.dead {
            return None;
        }
        let looks = self.looks.first().map(|(at, _)| *at);
        let unheard = self.unheard.iter().map(|(at, _)| *at).min();
        [looks, self.agent.wake_at(), unheard].into_iter().flatten().chain([self.next_tick]).min()
    }

    /// Does what is due.
    ///
    /// # Errors
    /// When the leader refuses this node for good.
    pub(super) fn advance(&mut self, now: Now) -> Result<(), Refused> {
        if self.dead {
            return Ok(());
        }
        while let Some(index) = self.unheard.iter().position(|(at, _)| *at <= now.instant) {
            let (_, heard) = self.unheard.swap_remove(index);
            self.handle(input(heard), now)?;
        }
        if self.next_tick <= now.instant {
            // After a pause one heartbeat is enough.
            self.next_tick = (self.next_tick + TICK_EVERY).max(now.instant);
            self.handle(Input::Tick(self.health()), now)?;
        }
        if self.agent.wake_at().is_some_and(|at| at <= now.instant) {
            self.handle(Input::Wake, now)?;
        }
        while let Some((_, uid)) = self.looks.first().filter(|(at, _)| *at <= now.instant).cloned() {
            self.looks.pop_first();
            self.look(&uid, now);
        }
        Ok(())
    }

    /// Takes in what came; what a dead or cut-off node is told is lost.
    ///
    /// # Errors
    /// When the leader refuses this node for good.
    pub(super) fn hear(&mut self, heard: Heard, now: Now) -> Result<(), Refused> {
        if self.dead {
            return Ok(());
        }
        match heard {
            Heard::Assignment(_) if self.cut_off => Ok(()),
            Heard::Synced(_) if self.cut_off => {
                self.lose(Heard::Synced(None), now);
                Ok(())
            }
            Heard::StatusTaken(_) if self.cut_off => {
                self.lose(Heard::StatusTaken(None), now);
                Ok(())
            }
            heard => self.handle(input(heard), now),
        }
    }

    /// A request that a partition swallowed: its end comes later.
    fn lose(&mut self, end: Heard, now: Now) {
        self.unheard.push((now.instant + UNHEARD_AFTER, end));
    }
}

fn input(heard: Heard) -> Input {
    match heard {
        Heard::Assignment(payload) => Input::Assignment(payload),
        Heard::Synced(reply) => Input::Synced(reply),
        Heard::StatusTaken(reply) => Input::StatusTaken(reply),
    }
}

fn new_agent(profile: &Profile, boots: u32, set: DesiredSet, now: Now) -> Agent<Memory> {
    let identity = Identity {
        node: profile.name.clone(),
        node_id: profile.node_id.clone(),
        instance: uuid::Uuid::new_v4().to_string(),
    };
    let boot_id = format!("{}-boot-{boots}", profile.node_id);
    let description = NodeDescription { boot_id, ..profile.description.clone() };
    Agent::new(identity, description, profile.offer.clone(), set, BTreeSet::new(), Memory, now)
}

// === Faults ===

impl Node {
    /// Its process, its pods and its kernel are gone. The disk stays.
    pub(super) fn die(&mut self) {
        self.dead = true;
        self.workers.clear();
        self.looks.clear();
        self.unheard.clear();
        self.messages.clear();
    }

    /// Boots: a new agent reads the disk and finds no container.
    pub(super) fn boot(&mut self, now: Now) {
        if !self.dead {
            return;
        }
        let mut disk = DesiredSet::default();
        for record in self.agent.set().snapshot() {
            disk.replay(record);
        }
        self.boots += 1;
        self.dead = false;
        self.next_tick = now.instant;
        self.agent = new_agent(&self.profile, self.boots, disk, now);
        self.carry_out(now);
    }

    /// From now on nothing reaches it and nothing comes from it, or all does again.
    pub(super) fn cut_off(&mut self, cut_off: bool) {
        self.cut_off = cut_off;
    }

    /// Starts and stops take so many times longer from now on.
    pub(super) fn slow_down(&mut self, factor: f64) {
        self.slowness = factor;
    }
}

// === The agent and its workers ===

impl Node {
    fn handle(&mut self, input: Input, now: Now) -> Result<(), Refused> {
        self.agent.handle(input, now)?;
        self.carry_out(now);
        Ok(())
    }

    fn look(&mut self, uid: &str, now: Now) {
        self.look_at(uid, now);
        self.carry_out(now);
    }

    /// Lets a worker look, and tells the agent what it says.
    fn look_at(&mut self, uid: &str, now: Now) {
        let mut updates = Vec::new();
        let Some(worker) = self.workers.get_mut(uid) else { return };
        let network = self.profile.network;
        let mut around = Surroundings {
            behaviour: &self.shared.behaviour,
            chance: &mut self.chance,
            ids: &mut self.ids,
            slowness: self.slowness,
            address: &|id| format!("10.{}.{}.{}", network >> 8, network & 255, 2 + id % 253),
        };
        if let Some(at) = worker.look(now, &mut around, &mut updates) {
            self.looks.insert((at, uid.to_owned()));
        }
        for update in updates {
            // Only the leader refuses a node.
            let _ = self.agent.handle(Input::Update(update), now);
        }
    }

    /// Carries out what the agent wants, and what follows from that.
    fn carry_out(&mut self, now: Now) {
        loop {
            let outputs = self.agent.outputs();
            if outputs.is_empty() {
                return;
            }
            let mut looks = Vec::new();
            for output in outputs {
                match output {
                    Output::Sync(_) if self.cut_off => self.lose(Heard::Synced(None), now),
                    Output::Status(_) if self.cut_off => self.lose(Heard::StatusTaken(None), now),
                    Output::Heartbeat(_) if self.cut_off => {}
                    Output::Sync(pages) => self.messages.push(Message::Sync(pages)),
                    Output::Status(status) => self.messages.push(Message::Status(status)),
                    Output::Heartbeat(heartbeat) => self.messages.push(Message::Heartbeat(heartbeat)),
                    Output::Work { uid, wanted } => {
                        match self.workers.get_mut(&uid) {
                            Some(worker) => worker.want(*wanted),
                            None => drop(self.workers.insert(uid.clone(), Box::new(Worker::new(*wanted)))),
                        }
                        looks.push(uid);
                    }
                    Output::Acked { uid, sequence } => {
                        if self.workers.get_mut(&uid).is_some_and(|worker| worker.ack(sequence)) {
                            looks.push(uid);
                        }
                    }
                    Output::Holds { .. } => {}
                    Output::Ended { uid } => drop(self.workers.remove(&uid)),
                }
            }
            for uid in looks {
                self.look_at(&uid, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
