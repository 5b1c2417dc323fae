//! The cluster: every process and every machine, the bus between them, and one queue of what happens when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use podbus_common::api::Status;
use podbus_common::model::Pod;
use serde_json::Value;

use crate::client::Client;
use crate::clock::{Micros, ms, seconds};
use crate::dice::Dice;
use crate::faults::Fault;
use crate::invariants::Invariants;
use crate::network::Network;
use crate::node::{AgentHears, Node};
use crate::runtime::Call;
use crate::scheduler::{Hears, Process};
use crate::script::Loss;
use crate::store::{Ask, Store};

/// Steps of one run: more is a loop that never rests.
const STEPS_MAX: u64 = 3_000_000;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A scheduler's process begins.
    SchedulerStarts { scheduler: usize },
    /// A process of a scheduler hears something.
    Scheduler { scheduler: usize, life: u64, hears: Box<Hears> },
    /// The store is asked, by a connection to this start of nats-server.
    Store { scheduler: usize, life: u64, request: u64, start: u64, ask: Box<Ask> },
    /// A node's agent begins.
    AgentStarts { node: usize },
    /// A process of an agent hears something.
    Agent { node: usize, life: u64, hears: Box<AgentHears> },
    /// A runtime carries a call out, whoever still waits for it.
    Runtime { node: usize, boot: u64, call: Box<Call>, caller: Option<(u64, String, u64)> },
    /// A container ends by itself.
    Exits { node: usize, boot: u64, id: String, exit_code: i32 },
    /// A disk has synced.
    Synced { node: usize, boot: u64 },
    /// A client does something next.
    Client { name: usize },
    /// A client's patience with a request is over.
    ClientGivesUp { request: u64 },
    /// An answer comes to a client.
    ClientHears { request: u64, result: Box<Result<Value, Status>> },
    /// Somebody speaks to whoever leads.
    ToLeader { message: Box<ToLeader> },
    /// Something breaks, or is mended.
    Fault(Fault),
    /// The next fault is chosen.
    Chaos,
}

/// A message on one of the subjects that leaders subscribe to.
#[derive(Debug, Clone)]
pub(crate) enum ToLeader {
    Call { request: u64, subject: String, payload: Bytes },
    Message { kind: Kind, subject: String, reply: Option<String>, payload: Bytes },
}

/// Which subscription takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Status,
    Sync,
    Heartbeat,
}

#[derive(Debug)]
struct Scheduled {
    at: Micros,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A cluster, and how far it has come.
pub struct World {
    pub(crate) now: Micros,
    numbers: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    pub(crate) network: Network,
    pub(crate) store: Store,
    pub(crate) schedulers: Vec<Process>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Client,
    pub(crate) invariants: Invariants,
    /// For what happens inside machines: how long things take, what fails.
    pub(crate) dice: Dice,
    /// For faults only.
    pub(crate) fault_dice: Dice,
    pub(crate) kinds: Vec<crate::faults::Kind>,
    /// Nothing breaks any more, and nothing exits by itself.
    pub(crate) quiet: bool,
    /// Messages that a script wants to be lost.
    pub(crate) losses: Vec<Loss>,
    steps: u64,
    /// A hash of all that happened: two runs of one seed must have the same.
    digest: u64,
    trace: Option<Vec<String>>,
}

impl World {
    /// A cluster in which nothing breaks but by the script.
    pub fn calm(schedulers: usize, nodes: usize) -> Self {
        let mut world = Self::of(1, schedulers, nodes, Network::calm(), true);
        world.quiet = true;
        world
    }

    /// A cluster that the seed wants to break.
    pub(crate) fn stormy(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "shape");
        let schedulers = 2 + dice.index(2);
        let nodes = 1 + dice.index(4);
        let mut world = Self::of(seed, schedulers, nodes, Network::stormy(seed), false);
        world.kinds = crate::faults::Kind::some(&mut world.fault_dice);
        for name in 0..world.client.len() {
            let at = world.dice.within(0..seconds(5));
            world.after(at, Event::Client { name });
        }
        world.after(seconds(1), Event::Chaos);
        world
    }

    fn of(seed: u64, schedulers: usize, nodes: usize, network: Network, exact: bool) -> Self {
        let mut world = Self {
            now: 0,
            numbers: 0,
            queue: BinaryHeap::new(),
            network,
            store: Store::default(),
            schedulers: (0..schedulers).map(|number| Process::new(seed, number, exact)).collect(),
            nodes: (0..nodes).map(|number| Node::new(seed, number, exact)).collect(),
            client: Client::new(seed),
            invariants: Invariants::default(),
            dice: Dice::new(seed, "machines"),
            fault_dice: Dice::new(seed, "faults"),
            kinds: Vec::new(),
            quiet: false,
            losses: Vec::new(),
            steps: 0,
            digest: 0,
            trace: None,
        };
        for scheduler in 0..schedulers {
            world.after(ms(scheduler as u64 * 7), Event::SchedulerStarts { scheduler });
        }
        for node in 0..nodes {
            world.after(ms(node as u64 * 3), Event::AgentStarts { node });
        }
        world
    }

    /// Keeps what happens, for a person.
    pub(crate) fn keep_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// What happened.
    pub(crate) fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// Notes what happens; the words are made only when somebody reads them.
    pub(crate) fn note(&mut self, words: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>11.6} {}", self.now as f64 / 1e6, words()));
        }
    }

    /// A hash of all that happened.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }

    /// Events that happened.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// `event` happens after `span`.
    pub(crate) fn after(&mut self, span: Micros, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse(Scheduled { at: self.now.saturating_add(span), number: self.numbers, event }));
    }

    /// The next event happens; `false`: a rule was broken, or nothing is left.
    pub(crate) fn step(&mut self) -> bool {
        let Some(Reverse(Scheduled { at, number, event })) = self.queue.pop() else { return false };
        self.now = at;
        self.steps += 1;
        self.digest = (self.digest ^ at ^ (number << 20)).wrapping_mul(0x0100_0000_01b3);
        self.happen(event);
        if self.steps > STEPS_MAX {
            self.invariants.broken.get_or_insert_with(|| format!("no rest after {STEPS_MAX} steps"));
        }
        self.invariants.broken.is_none()
    }

    /// Until `at`, or until a rule is broken.
    pub(crate) fn run_to(&mut self, at: Micros) {
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= at) {
            if !self.step() {
                return;
            }
        }
        self.now = self.now.max(at);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::SchedulerStarts { scheduler } => self.start_scheduler(scheduler),
            Event::Scheduler { scheduler, life, hears } => self.scheduler_hears(scheduler, life, *hears),
            Event::Store { scheduler, life, request, start, ask } => {
                // Whoever asked over a connection that broke gives up in time.
                if !self.store.down && self.store.starts == start {
                    self.ask_store(scheduler, life, request, *ask);
                }
            }
            Event::AgentStarts { node } => self.start_agent(node),
            Event::Agent { node, life, hears } => self.agent_hears(node, life, *hears),
            Event::Runtime { node, boot, call, caller } => self.call_runtime(node, boot, &call, caller),
            Event::Exits { node, boot, id, exit_code } => self.exit(node, boot, &id, exit_code),
            Event::Synced { node, boot } => {
                let node = &mut self.nodes[node];
                if node.boot == boot {
                    node.disk.sync();
                    node.syncing = false;
                }
            }
            Event::Client { name } => self.client_acts(name),
            Event::ClientGivesUp { request } => self.client_gives_up(request),
            Event::ClientHears { request, result } => self.client_hears(request, *result),
            Event::ToLeader { message } => self.tell_leaders(&message),
            Event::Fault(fault) => self.befall(&fault),
            Event::Chaos => self.choose_fault(),
        }
    }

    fn ask_store(&mut self, scheduler: usize, life: u64, request: u64, ask: Ask) {
        let following = matches!(ask, Ask::Follow { .. });
        let (answer, passed) = self.store.answer(ask);
        if let Some(passed) = passed {
            self.note(|| {
                let (key, stored) = (&passed.key, &passed.stored);
                let what = stored.value.as_ref().map_or("purged", |_| "stored");
                let pod = stored.value.as_ref().filter(|_| key.starts_with("pods.")).map(words_of_pod);
                let pod = pod.unwrap_or_default();
                format!("store       {what} {key} r{} by e{}{pod}", stored.revision, stored.epoch)
            });
            self.invariants.stored(&passed, &self.store, &self.client);
        }
        // What is followed comes by an ordered consumer, which begins again when it misses something.
        let hears = Hears::Store { request, answer: Box::new(answer) };
        let event = Event::Scheduler { scheduler, life, hears: Box::new(hears) };
        if following {
            let span = self.dice.within(ms(1)..ms(50));
            self.after(span, event);
        } else {
            self.send(self.schedulers[scheduler].linked, &event);
        }
    }

    /// A message between a machine that is `linked` or not and the bus's other side.
    pub(crate) fn send(&mut self, linked: bool, event: &Event) {
        if self.is_to_be_lost(event) {
            return self.note(|| format!("fault       a message is lost: {event:?}"));
        }
        for span in self.network.deliver(linked) {
            self.after(span, event.clone());
        }
    }

    fn tell_leaders(&mut self, message: &ToLeader) {
        for scheduler in 0..self.schedulers.len() {
            let process = &self.schedulers[scheduler];
            if process.linked && process.subscribes() {
                let hears = Hears::Message(message.clone());
                self.scheduler_hears(scheduler, process.life, hears);
            }
        }
    }
}

/// Which pod it is, and where.
fn words_of_pod(json: &Bytes) -> String {
    let Ok(pod) = serde_json::from_slice::<Pod>(json) else { return String::new() };
    let deleted = if pod.metadata.deletion_timestamp.is_some() { ", deleted" } else { "" };
    let node = if pod.spec.node_name.is_empty() { "no node" } else { &pod.spec.node_name };
    format!(": {} on {node}{deleted}", pod.metadata.uid)
}
