//! A node: its machine, its disk, its runtime, and the process of its agent with a worker a pod. What
//! `podbus-node-agent` does around the pure agent and the pure plan.

mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use podbus_common::proto::{NodeDescription, StatusReply, SyncReply};
use podbus_common::subject;
use podbus_node_agent_core::admission::NodeOffer;
use podbus_node_agent_core::agent::{Agent, Health, Identity, Input, Now, Output, TICK_EVERY};
use podbus_node_agent_core::desired::DesiredSet;
use podbus_node_agent_core::resources::from_quantities;
use podbus_node_agent_core::worker::{Update, Wanted};
use prost::Message as _;

use self::worker::Worker;
use crate::clock::{Clock, ms, seconds};
use crate::dice::Dice;
use crate::disk::{Disk, OpenJournal};
use crate::runtime::{Outcome, Runtime};
use crate::world::{Event, Kind, ToLeader, World};

/// How long the agent waits for an answer of the leader.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often all that the runtime has is looked at.
const RELIST_EVERY: Duration = Duration::from_secs(60);
/// What each node has for pods.
pub(crate) const CPU_MILLIS: i64 = 1000;

/// Something for an agent's process.
#[derive(Debug, Clone)]
pub(crate) enum AgentHears {
    Assignment(Bytes),
    /// The answer to a request; `None`: there is none.
    Synced {
        request: u64,
        reply: Option<Bytes>,
    },
    StatusTaken {
        request: u64,
        reply: Option<Bytes>,
    },
    Tick,
    /// Look for what is left of pods that ended.
    Relist,
    Wake {
        number: u64,
    },
    /// A worker looks again, if it still has this number of looks.
    Look {
        uid: String,
        number: u64,
    },
    /// Something happened to a pod.
    Woken {
        uid: String,
    },
    /// A call of a worker is over.
    Called {
        uid: String,
        number: u64,
        outcome: Outcome,
    },
    /// A worker said something.
    Says {
        saying: u64,
    },
}

/// An agent that runs.
#[derive(Debug)]
struct Running {
    core: Agent<OpenJournal>,
    workers: BTreeMap<String, Worker>,
    sync: u64,
    status: u64,
    wakes: u64,
    says: BTreeMap<u64, Update>,
}

/// One node, over its boots and its agents' lives.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) clock: Clock,
    pub(crate) linked: bool,
    pub(crate) boot: u64,
    /// The machine runs.
    pub(crate) up: bool,
    pub(crate) life: u64,
    pub(crate) disk: Disk,
    pub(crate) syncing: bool,
    pub(crate) runtime: Runtime,
    /// The newest run of each container that has a log file, by pod.
    logs: BTreeMap<(String, String), u32>,
    running: Option<Running>,
    stopped: Option<VecDeque<AgentHears>>,
    numbers: u64,
    dice: Dice,
}

impl Node {
    pub(crate) fn new(seed: u64, number: usize, exact: bool) -> Self {
        let name = format!("node-{number}");
        let mut dice = Dice::new(seed, &name);
        let clock = if exact { Clock::exact() } else { Clock::poor(&mut dice) };
        Self {
            runtime: Runtime::new(&name),
            name,
            clock,
            linked: true,
            boot: 1,
            up: true,
            life: 0,
            disk: Disk::default(),
            syncing: false,
            logs: BTreeMap::new(),
            running: None,
            stopped: None,
            numbers: 0,
            dice,
        }
    }

    /// What its agent wants to run; `None`: no agent runs.
    pub(crate) fn set(&self) -> Option<&DesiredSet> {
        self.running.as_ref().map(|running| running.core.set())
    }

    fn now(&self, at: u64) -> Now {
        Now { instant: self.clock.instant(at), wall: self.clock.wall(at) }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

// === Life ===

impl World {
    pub(crate) fn start_agent(&mut self, index: usize) {
        let at = self.now;
        let node = &mut self.nodes[index];
        if !node.up || node.running.is_some() {
            return;
        }
        node.life += 1;
        let (mut journal, mut set) = node.disk.open();
        let mut adopted = BTreeSet::new();
        for (_, sandbox) in node.runtime.sandboxes() {
            if adopt(&mut set, &sandbox.uid, &sandbox.json, node, at) {
                adopted.insert(sandbox.uid.clone());
            }
        }
        let wall = node.clock.wall(at);
        node.runtime.remove_ended(&set, wall);
        if podbus_node_agent_core::agent::Journal::append(&mut journal, &mut set).is_err() {
            // As the service: it ends, and is started again.
            return self.after(seconds(1), Event::AgentStarts { node: index });
        }
        let identity = Identity {
            node: node.name.clone(),
            node_id: format!("id of {}", node.name),
            instance: format!("{}.{}", node.name, node.life),
        };
        let allocatable = [("cpu", "1"), ("memory", "1Gi"), ("pods", "20")];
        let allocatable: BTreeMap<_, _> = allocatable.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into();
        let offer = NodeOffer {
            allocatable: from_quantities(&allocatable),
            pods: 20,
            name: node.name.clone(),
            ..NodeOffer::default()
        };
        let description = NodeDescription { capacity: allocatable.clone(), allocatable, ..Default::default() };
        let core = Agent::new(identity, description, offer, set, adopted, journal, node.now(at));
        let (workers, says) = (BTreeMap::new(), BTreeMap::new());
        node.running = Some(Running { core, workers, sync: 0, status: 0, wakes: 0, says });
        node.stopped = None;
        let life = node.life;
        self.note(|| format!("node-{index}      its agent starts (life {life})"));
        self.agent_outputs(index);
        self.agent_later(index, Duration::ZERO, AgentHears::Tick);
        self.agent_later(index, RELIST_EVERY, AgentHears::Relist);
    }

    /// A call of an agent that died may have been carried out since.
    fn remove_ended(&mut self, index: usize) {
        let at = self.now;
        let node = &mut self.nodes[index];
        let Some(running) = &node.running else { return };
        let wall = node.clock.wall(at);
        node.runtime.remove_ended(running.core.set(), wall);
    }

    /// SIGKILL of the agent: containers run on.
    pub(crate) fn kill_agent(&mut self, index: usize) {
        self.nodes[index].running = None;
        self.nodes[index].stopped = None;
        if self.nodes[index].disk.is_owed() {
            self.invariants.forgets_term(index);
        }
    }

    /// SIGSTOP of the agent.
    pub(crate) fn stop_agent(&mut self, index: usize) {
        if self.nodes[index].running.is_some() {
            self.nodes[index].stopped.get_or_insert_default();
        }
    }

    /// SIGCONT of the agent.
    pub(crate) fn continue_agent(&mut self, index: usize) {
        let life = self.nodes[index].life;
        for hears in self.nodes[index].stopped.take().unwrap_or_default() {
            self.agent_hears(index, life, hears);
        }
    }

    /// The machine goes down: nothing of it runs, and its disk may lose what was not synced.
    pub(crate) fn cut_power(&mut self, index: usize) {
        self.kill_agent(index);
        let at = self.now;
        let node = &mut self.nodes[index];
        node.up = false;
        node.boot += 1;
        node.syncing = false;
        let wall = node.clock.wall(at);
        node.runtime.reboot(wall);
        node.disk.cut_power(&mut node.dice);
        self.invariants.forgets_term(index);
    }

    pub(crate) fn boot(&mut self, index: usize) {
        if !self.nodes[index].up {
            self.nodes[index].up = true;
            self.after(ms(10), Event::AgentStarts { node: index });
        }
    }

    fn agent_later(&mut self, index: usize, span: Duration, hears: AgentHears) {
        let node = &self.nodes[index];
        let event = Event::Agent { node: index, life: node.life, hears: Box::new(hears) };
        self.after(node.clock.truly(span), event);
    }

    pub(crate) fn agent_hears(&mut self, index: usize, life: u64, hears: AgentHears) {
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        if let Some(waiting) = &mut node.stopped {
            return waiting.push_back(hears);
        }
        let Some(running) = &mut node.running else { return };
        match hears {
            AgentHears::Assignment(payload) => self.feed(index, Input::Assignment(payload)),
            AgentHears::Synced { request, reply } => {
                if running.sync == request {
                    running.sync = 0;
                    let reply = reply.and_then(|reply| SyncReply::decode(reply).ok()).map(Box::new);
                    self.feed(index, Input::Synced(reply));
                }
            }
            AgentHears::StatusTaken { request, reply } => {
                if running.status == request {
                    running.status = 0;
                    let reply = reply.and_then(|reply| StatusReply::decode(reply).ok());
                    self.feed(index, Input::StatusTaken(reply));
                }
            }
            AgentHears::Tick => {
                self.feed(index, Input::Tick(Health::default()));
                self.agent_later(index, TICK_EVERY, AgentHears::Tick);
            }
            AgentHears::Relist => {
                self.remove_ended(index);
                self.agent_later(index, RELIST_EVERY, AgentHears::Relist);
            }
            AgentHears::Wake { number } => {
                if running.wakes == number {
                    self.feed(index, Input::Wake);
                }
            }
            AgentHears::Says { saying } => {
                if let Some(update) = running.says.remove(&saying) {
                    self.feed(index, Input::Update(update));
                }
            }
            AgentHears::Look { uid, number } => {
                if running.workers.get(&uid).is_some_and(|worker| worker.awaits(number)) {
                    self.look(index, &uid);
                }
            }
            AgentHears::Woken { uid } => self.look(index, &uid),
            AgentHears::Called { uid, number, outcome } => self.called(index, &uid, number, &outcome),
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        let at = self.now;
        let node = &mut self.nodes[index];
        let now = node.now(at);
        let Some(running) = &mut node.running else { return };
        let handled = running.core.handle(input, now);
        let epoch = running.core.set().leader_epoch();
        self.invariants.hears_term(index, epoch);
        self.agent_outputs(index);
        if let Err(refused) = handled {
            self.note(|| format!("node-{index}      its agent ends: {refused}"));
            self.kill_agent(index);
            self.after(seconds(1), Event::AgentStarts { node: index });
        }
    }

    fn agent_outputs(&mut self, index: usize) {
        let Some(running) = &mut self.nodes[index].running else { return };
        for output in running.core.outputs() {
            self.agent_output(index, output);
        }
        let at = self.now;
        let node = &mut self.nodes[index];
        if !node.disk.is_synced() && !node.syncing {
            node.syncing = true;
            let span = node.dice.within(ms(1)..ms(80));
            let boot = node.boot;
            self.after(span, Event::Synced { node: index, boot });
        }
        let node = &mut self.nodes[index];
        let (number, now) = (node.number(), node.now(at));
        let Some(running) = &mut node.running else { return };
        if let Some(wake_at) = running.core.wake_at() {
            running.wakes = number;
            let span = wake_at.saturating_duration_since(now.instant);
            self.agent_later(index, span, AgentHears::Wake { number });
        }
    }

    fn agent_output(&mut self, index: usize, output: Output) {
        let node = &mut self.nodes[index];
        let (number, linked, life) = (node.number(), node.linked, node.life);
        let name = node.name.clone();
        let Some(running) = &mut node.running else { return };
        match output {
            Output::Sync(pages) => {
                running.sync = number;
                for page in pages {
                    let reply = format!("_INBOX.{index}.{life}.{number}.sync");
                    self.tell_leader(
                        linked,
                        Kind::Sync,
                        subject::sync(&name),
                        Some(reply),
                        page.encode_to_vec().into(),
                    );
                }
                self.agent_later(index, PATIENCE, AgentHears::Synced { request: number, reply: None });
            }
            Output::Status(request) => {
                running.status = number;
                self.invariants.reports(&request);
                let reply = format!("_INBOX.{index}.{life}.{number}.status");
                let payload = request.encode_to_vec().into();
                self.tell_leader(linked, Kind::Status, subject::status(&name), Some(reply), payload);
                self.agent_later(index, PATIENCE, AgentHears::StatusTaken { request: number, reply: None });
            }
            Output::Heartbeat(heartbeat) => {
                if linked && !self.store.down {
                    let payload = heartbeat.encode_to_vec().into();
                    self.tell_leader(linked, Kind::Heartbeat, subject::heartbeat(&name), None, payload);
                }
            }
            Output::Work { uid, wanted } => {
                let born = || Worker::new(&uid, Wanted::clone(&wanted), &node.logs);
                let worker = running.workers.entry(uid.clone()).or_insert_with(born);
                worker.wanted = *wanted;
                self.agent_later(index, Duration::ZERO, AgentHears::Woken { uid });
            }
            Output::Acked { uid, sequence } => {
                if let Some(worker) = running.workers.get_mut(&uid) {
                    worker.acked = sequence;
                    self.agent_later(index, Duration::ZERO, AgentHears::Woken { uid });
                }
            }
            Output::Ended { uid } => {
                running.workers.remove(&uid);
            }
            Output::Holds { .. } => {}
        }
    }

    fn tell_leader(&mut self, linked: bool, kind: Kind, subject: String, reply: Option<String>, payload: Bytes) {
        let message = Box::new(ToLeader::Message { kind, subject, reply, payload });
        self.send(linked, &Event::ToLeader { message });
    }

    /// What a leader sends: an assignment, or the reply to a request.
    pub(crate) fn send_to_agent(&mut self, linked: bool, subject: &str, payload: Bytes) {
        let mut parts = subject.split('.');
        let (node, life, hears) = if parts.next() == Some("_INBOX") {
            let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
            let (node, life, request) = (number(), number(), number());
            let reply = Some(payload);
            let hears = match parts.next() {
                Some("sync") => AgentHears::Synced { request, reply },
                _ => AgentHears::StatusTaken { request, reply },
            };
            (usize::try_from(node).unwrap_or(0), life, hears)
        } else {
            let named = |node: &Node| subject::assign(&node.name) == subject;
            let Some(node) = self.nodes.iter().position(named) else { return };
            (node, self.nodes[node].life, AgentHears::Assignment(payload))
        };
        let linked = linked && self.nodes[node].linked;
        self.send(linked, &Event::Agent { node, life, hears: Box::new(hears) });
    }
}

fn adopt(set: &mut DesiredSet, uid: &str, json: &str, node: &Node, at: u64) -> bool {
    let Ok(pod) = serde_json::from_str::<podbus_common::model::Pod>(json) else { return false };
    set.adopt(uid, json, pod.metadata.generation, 0, node.clock.wall(at))
}
