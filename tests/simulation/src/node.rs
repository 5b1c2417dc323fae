//! A node: its machine, its disk, its runtime, and the process of its agent with a worker a pod. What
//! `podbus-node-agent` does around the pure agent and the pure plan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use podbus_common::proto::{NodeDescription, StatusReply, SyncReply};
use podbus_common::subject;
use podbus_node_agent_core::admission::NodeOffer;
use podbus_node_agent_core::agent::{Agent, Health, Identity, Input, Now, Output, TICK_EVERY};
use podbus_node_agent_core::chronicle::Chronicle;
use podbus_node_agent_core::desired::DesiredSet;
use podbus_node_agent_core::memory::{Memory, StartFailure};
use podbus_node_agent_core::model::{all_containers, find_container};
use podbus_node_agent_core::plan::Action;
use podbus_node_agent_core::resources::from_quantities;
use podbus_node_agent_core::worker::{Sight, Update, Wanted};
use prost::Message as _;

use crate::clock::{Clock, ms, seconds};
use crate::dice::Dice;
use crate::disk::{Disk, OpenJournal};
use crate::runtime::{Call, Outcome, Runtime};
use crate::world::{Event, Kind, ToLeader, World};

/// How long the agent waits for an answer of the leader.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a worker looks at what runs though nothing happened.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// After a call to the runtime that failed.
const RETRY: Duration = Duration::from_millis(500);
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

/// A worker.
#[derive(Debug)]
struct Worker {
    wanted: Wanted,
    acked: u64,
    memory: Memory,
    chronicle: Chronicle,
    told_back_off: BTreeSet<String>,
    finished: bool,
    /// What it carries out, and how far it is.
    acting: Option<Acting>,
    /// Something changed while it acted.
    dirty: bool,
    /// Of its looks and calls: what is older is void.
    number: u64,
}

#[derive(Debug)]
struct Acting {
    sight: Sight,
    next: usize,
    home: Option<String>,
    /// Calls of a wave that are under way.
    waits_for: usize,
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
        let mut ended = Vec::new();
        for (id, sandbox) in node.runtime.sandboxes() {
            if set.ended(&sandbox.uid).is_some() {
                ended.push(id.clone());
            } else if adopt(&mut set, &sandbox.uid, &sandbox.json, node, at) {
                adopted.insert(sandbox.uid.clone());
            }
        }
        for id in ended {
            let wall = node.clock.wall(at);
            node.runtime.call(&Call::StopPodSandbox { id: id.clone() }, wall);
            node.runtime.call(&Call::RemovePodSandbox { id }, wall);
        }
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
                if running.workers.get(&uid).is_some_and(|w| w.number == number && w.acting.is_none()) {
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
                    let reply = format!("reply.{index}.{life}.{number}.sync");
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
                let reply = format!("reply.{index}.{life}.{number}.status");
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
                let logs = &node.logs;
                let worker = running.workers.entry(uid.clone()).or_insert_with(|| {
                    let next = |name: &str| Some(logs.get(&(uid.clone(), name.to_owned()))? + 1);
                    let names = all_containers(&wanted.pod).map(|(_, container)| container.name.clone());
                    let mut memory = Memory::default();
                    memory.attempts_min = names.filter_map(|name| Some((name.clone(), next(&name)?))).collect();
                    Worker {
                        wanted: (*wanted).clone(),
                        acked: 0,
                        memory,
                        chronicle: Chronicle::default(),
                        told_back_off: BTreeSet::new(),
                        finished: false,
                        acting: None,
                        dirty: false,
                        number: 0,
                    }
                });
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
        let (node, life, hears) = if parts.next() == Some("reply") {
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

// === Workers ===

impl World {
    /// A worker observes, concludes, and begins to act.
    fn look(&mut self, index: usize, uid: &str) {
        let at = self.now;
        let node = &mut self.nodes[index];
        let (wall, number) = (node.clock.wall(at), node.number());
        let Some(worker) = node.running.as_mut().and_then(|running| running.workers.get_mut(uid)) else { return };
        if worker.acting.is_some() {
            worker.dirty = true;
            return;
        }
        worker.number = number;
        worker.dirty = false;
        let observed = node.runtime.observe(uid);
        let (chronicle, memory) = (&mut worker.chronicle, &mut worker.memory);
        let sight = Sight::of(worker.wanted.clone(), worker.acked, observed, chronicle, memory, wall);
        sight.tell_back_off(&mut worker.chronicle, &mut worker.told_back_off, wall);
        if sight.plan.gone {
            node.logs.retain(|(of, _), _| of != uid);
            return self.says(index, Update::Gone { uid: uid.to_owned() });
        }
        if sight.plan.actions.is_empty() {
            let report = sight.report(&mut worker.chronicle, &worker.memory);
            let over = sight.is_over() && !std::mem::replace(&mut worker.finished, sight.is_over());
            let due = sight.plan.wake_at.map(|at| at.unix_ms.saturating_sub(wall.unix_ms).max(1));
            let due = due.map(|due| Duration::from_millis(u64::try_from(due).unwrap_or(1)));
            let runs = sight.observed.containers.iter().any(|run| run.state.may_live());
            let due = if runs { Some(due.map_or(HOUSEKEEPING, |due| due.min(HOUSEKEEPING))) } else { due };
            if let Some(report) = report {
                self.says(index, Update::Report(Box::new(report)));
            }
            if over {
                self.says(index, Update::Finished { uid: uid.to_owned() });
            }
            if let Some(due) = due {
                self.agent_later(index, due, AgentHears::Look { uid: uid.to_owned(), number });
            }
            return;
        }
        let home = sight.observed.usable_sandbox().map(|sandbox| sandbox.id.clone());
        worker.acting = Some(Acting { sight, next: 0, home, waits_for: 0 });
        self.act(index, uid);
    }

    fn says(&mut self, index: usize, update: Update) {
        let node = &mut self.nodes[index];
        let saying = node.number();
        let Some(running) = &mut node.running else { return };
        running.says.insert(saying, update);
        self.agent_later(index, Duration::ZERO, AgentHears::Says { saying });
    }

    /// Begins with the next step of the plan, or looks again when there is none.
    fn act(&mut self, index: usize, uid: &str) {
        let node = &mut self.nodes[index];
        let Some(worker) = node.running.as_mut().and_then(|running| running.workers.get_mut(uid)) else { return };
        let Some(acting) = &mut worker.acting else { return };
        let Some(action) = acting.sight.plan.actions.get(acting.next).cloned() else {
            worker.acting = None;
            return self.look(index, uid);
        };
        acting.next += 1;
        let pod = std::sync::Arc::clone(&acting.sight.wanted.pod);
        let id_of_uid = uid.to_owned();
        let calls = match action {
            Action::AnnounceSandboxChange { attempt } => {
                worker.memory.announced(attempt);
                return self.act(index, uid);
            }
            Action::PrepareVolumes => {
                worker.memory.volumes_prepared();
                return self.act(index, uid);
            }
            Action::StopContainers { stops, deadline } => {
                if acting.sight.desired.stop.is_none() {
                    worker.memory.stopping(deadline);
                }
                stops.into_iter().map(|stop| Call::StopContainer { id: stop.id }).collect()
            }
            Action::StopPodSandbox { id } => vec![Call::StopPodSandbox { id }],
            Action::RunPodSandbox { attempt } => {
                let json = acting.sight.wanted.json.get().to_owned();
                vec![Call::RunPodSandbox { uid: id_of_uid, attempt, json }]
            }
            Action::StartContainer { name, attempt, .. } => {
                let Some(sandbox) = acting.home.clone() else {
                    worker.acting = None;
                    return self.look(index, uid);
                };
                node.logs.insert((id_of_uid.clone(), name.clone()), attempt);
                let pod = Box::new((*pod).clone());
                vec![Call::StartContainer { uid: id_of_uid, sandbox, name, attempt, pod }]
            }
            Action::RemoveContainer { id, .. } => {
                let forgotten = acting.sight.wanted.forgotten;
                self.invariants.removes(uid, &id, node.runtime.container(&id), forgotten);
                vec![Call::RemoveContainer { id }]
            }
            Action::RemovePodSandbox { id } => vec![Call::RemovePodSandbox { id }],
        };
        acting.waits_for = calls.len();
        let (number, life, boot) = (worker.number, node.life, node.boot);
        for call in calls {
            let node = &mut self.nodes[index];
            let slow = !self.quiet && node.dice.permille(20);
            let span = if slow { node.dice.within(ms(500)..seconds(4)) } else { node.dice.within(ms(1)..ms(30)) };
            let caller = Some((life, uid.to_owned(), number));
            let event = Event::Runtime { node: index, boot, call: Box::new(call), caller };
            self.after(span, event);
        }
    }

    /// The runtime carries a call out.
    pub(crate) fn call_runtime(&mut self, index: usize, boot: u64, call: &Call, caller: Option<(u64, String, u64)>) {
        let at = self.now;
        let node = &mut self.nodes[index];
        if node.boot != boot || !node.up {
            return;
        }
        let wall = node.clock.wall(at);
        let fails = !self.quiet && node.dice.permille(15);
        let outcome = if fails { Outcome::Failed } else { node.runtime.call(call, wall) };
        if let (Outcome::Done(id), Call::StartContainer { uid, pod, name, .. }) = (&outcome, call) {
            let exits = exits_in(&mut node.dice, pod, self.quiet);
            let (id, name) = (id.clone(), name.clone());
            self.note(|| format!("node-{index}      starts {name} of {uid} as {id}"));
            self.invariants.starts(index, uid, pod, &self.nodes);
            if let Some((span, exit_code)) = exits {
                self.after(span, Event::Exits { node: index, boot, id, exit_code });
            }
        }
        if let (Outcome::Done(_), Call::RunPodSandbox { uid, .. }) = (&outcome, call) {
            self.note(|| format!("node-{index}      runs a sandbox of {uid}"));
            self.invariants.runs_sandbox(index, uid);
        }
        if let Some((life, uid, number)) = caller {
            let hears = AgentHears::Called { uid, number, outcome };
            self.agent_hears(index, life, hears);
        }
    }

    fn called(&mut self, index: usize, uid: &str, number: u64, outcome: &Outcome) {
        let at = self.now;
        let node = &mut self.nodes[index];
        let wall = node.clock.wall(at);
        let Some(worker) = node.running.as_mut().and_then(|running| running.workers.get_mut(uid)) else { return };
        if worker.number != number {
            return;
        }
        let Some(acting) = &mut worker.acting else { return };
        acting.waits_for = acting.waits_for.saturating_sub(1);
        let action = acting.sight.plan.actions.get(acting.next.saturating_sub(1));
        let pod = std::sync::Arc::clone(&acting.sight.wanted.pod);
        let go_on = match (action, outcome) {
            (Some(Action::RunPodSandbox { .. }), Outcome::Done(id)) => {
                acting.home = Some(id.clone());
                worker.memory.sandbox_started();
                true
            }
            (Some(Action::RunPodSandbox { .. }), Outcome::Failed) => {
                worker.memory.sandbox_failed(wall);
                false
            }
            (Some(Action::StartContainer { name, previous_end, .. }), Outcome::Done(_)) => {
                if let Some((_, container)) = find_container(&pod, name) {
                    worker.memory.container_started(container, *previous_end, wall);
                }
                true
            }
            (Some(Action::StartContainer { name, .. }), Outcome::Failed) => {
                let failure = StartFailure::new("RunContainerError", "it did not start");
                worker.memory.start_failed(name, failure, wall);
                true
            }
            (Some(Action::StopPodSandbox { id }), Outcome::Done(_)) => {
                worker.memory.sandbox_stopped(id);
                true
            }
            (_, Outcome::Done(_)) => true,
            (_, Outcome::Failed) => false,
        };
        if acting.waits_for > 0 && go_on {
            return;
        }
        let wanted_anew = worker.dirty && node.dice.permille(500);
        if go_on && !wanted_anew {
            return self.act(index, uid);
        }
        worker.acting = None;
        if go_on {
            return self.look(index, uid);
        }
        self.agent_later(index, RETRY, AgentHears::Look { uid: uid.to_owned(), number });
    }

    /// A container ends by itself.
    pub(crate) fn exit(&mut self, index: usize, boot: u64, id: &str, exit_code: i32) {
        let at = self.now;
        let node = &mut self.nodes[index];
        if node.boot != boot || !node.up {
            return;
        }
        let wall = node.clock.wall(at);
        node.runtime.exit(id, exit_code, wall);
        if let Some((uid, _)) = node.runtime.container(id) {
            let uid = uid.clone();
            self.note(|| format!("node-{index}      {id} of {uid} exits with {exit_code}"));
            self.wake_worker(index, uid);
        }
    }

    /// The runtime tells the agent that something happened, most times.
    pub(crate) fn wake_worker(&mut self, index: usize, uid: String) {
        let node = &mut self.nodes[index];
        if self.quiet || !node.dice.permille(100) {
            self.agent_later(index, Duration::from_millis(2), AgentHears::Woken { uid });
        }
    }
}

/// When a container will end by itself, if it will.
fn exits_in(dice: &mut Dice, pod: &podbus_common::model::Pod, quiet: bool) -> Option<(u64, i32)> {
    let job = pod.spec.restart_policy != podbus_common::model::RestartPolicy::Always;
    if job {
        return Some((dice.within(ms(200)..seconds(8)), i32::from(!quiet && dice.permille(300))));
    }
    (!quiet && dice.permille(200)).then(|| (dice.within(ms(50)..seconds(10)), i32::from(dice.permille(700))))
}
