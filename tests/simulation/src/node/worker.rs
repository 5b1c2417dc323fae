//! What a worker does for its pod: looks, and carries out what the plan says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podbus_common::model::{Pod, RestartPolicy};
use podbus_node_agent_core::chronicle::Chronicle;
use podbus_node_agent_core::memory::{Memory, StartFailure};
use podbus_node_agent_core::model::{all_containers, find_container};
use podbus_node_agent_core::plan::Action;
use podbus_node_agent_core::worker::{Sight, Update, Wanted};

use super::AgentHears;
use crate::clock::{ms, seconds};
use crate::dice::Dice;
use crate::runtime::{Call, Outcome};
use crate::world::{Event, World};

/// How often a worker looks at what runs though nothing happened.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// After a call to the runtime that failed.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) wanted: Wanted,
    pub(super) acked: u64,
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

impl Worker {
    /// `logs` has the newest run of each container that has a log file.
    pub(super) fn new(uid: &str, wanted: Wanted, logs: &BTreeMap<(String, String), u32>) -> Self {
        let names = all_containers(&wanted.pod).map(|(_, container)| container.name.clone());
        let next = |name: String| Some((name.clone(), logs.get(&(uid.to_owned(), name))? + 1));
        let mut memory = Memory::default();
        memory.attempts_min = names.filter_map(next).collect();
        Self {
            wanted,
            acked: 0,
            memory,
            chronicle: Chronicle::default(),
            told_back_off: BTreeSet::new(),
            finished: false,
            acting: None,
            dirty: false,
            number: 0,
        }
    }

    /// Whether the look of this number is due.
    pub(super) fn awaits(&self, number: u64) -> bool {
        self.number == number && self.acting.is_none()
    }
}

impl World {
    /// A worker observes, concludes, and begins to act.
    pub(super) fn look(&mut self, index: usize, uid: &str) {
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

    pub(super) fn called(&mut self, index: usize, uid: &str, number: u64, outcome: &Outcome) {
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
fn exits_in(dice: &mut Dice, pod: &Pod, quiet: bool) -> Option<(u64, i32)> {
    let job = pod.spec.restart_policy != RestartPolicy::Always;
    if job {
        return Some((dice.within(ms(200)..seconds(8)), i32::from(!quiet && dice.permille(300))));
    }
    (!quiet && dice.permille(200)).then(|| (dice.within(ms(50)..seconds(10)), i32::from(dice.permille(700))))
}
