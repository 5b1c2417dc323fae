//! One simulated pod: its worker, and what a container runtime would have of it. Pure: no process, no task, no disk.
//!
//! It looks and plans as the worker of a real pod does. A plan that starts or stops something takes its time first and
//! takes effect at once afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podbus_common::model::Timestamp;
use podbus_node_agent_core::agent::Now;
use podbus_node_agent_core::chronicle::{Chronicle, RunOf};
use podbus_node_agent_core::hash::container_hash;
use podbus_node_agent_core::image::already_present_message;
use podbus_node_agent_core::memory::Memory;
use podbus_node_agent_core::model::{ContainerObserved, Exit, Observed, RunState, SandboxObserved, find_container};
use podbus_node_agent_core::plan::{Action, SANDBOX_CHANGED_MESSAGE};
use podbus_node_agent_core::resources::{Amounts, pod_requests};
use podbus_node_agent_core::worker::{Sight, Update, Wanted};

use podbus_load::chance::{Chance, Distribution};

/// Plans in a row that take no time. A pod needs a handful: more would be a plan that undoes itself.
const PLANS_MAX: usize = 32;
/// Then it is left alone for so long.
const PLANS_PAUSE: Duration = Duration::from_secs(1);
/// What takes longer than this is reported before it is done, as a real worker does.
const SLOW: Duration = Duration::from_millis(500);
/// What SIGTERM leaves: 128 + 15.
const EXIT_TERMINATED: i32 = 143;

/// How simulated pods behave.
#[derive(Debug, Clone)]
pub(super) struct Behaviour {
    /// From the assignment until all containers of a pod run, and the same for a container that is started again.
    pub(super) start_latency: Distribution,
    /// From the order to stop until containers have ended.
    pub(super) stop_latency: Distribution,
    /// Crashes of a container in an hour of running.
    pub(super) crashes_per_hour: f64,
    /// How long a container runs before it ends with 0; `None`: for ever.
    pub(super) run_time: Option<Distribution>,
}

/// What a worker takes from its node.
pub(super) struct Surroundings<'a> {
    pub(super) behaviour: &'a Behaviour,
    pub(super) chance: &'a mut Chance,
    /// Runtime IDs given so far.
    pub(super) ids: &'a mut u64,
    /// Everything takes so many times longer.
    pub(super) slowness: f64,
    /// The pod's address, should it get one.
    pub(super) address: &'a dyn Fn(u64) -> String,
}

/// A pod of a simulated node.
#[derive(Debug)]
pub(super) struct Worker {
    wanted: Wanted,
    /// What it uses while it runs: what it asks for.
    requests: Amounts,
    memory: Memory,
    chronicle: Chronicle,
    /// What the runtime has.
    records: Observed,
    /// When running containers end by themselves, and how.
    ends: Vec<End>,
    /// When the work under way is done.
    done_at: Option<Instant>,
    acked: u64,
    killing: BTreeSet<String>,
    backing_off: BTreeSet<String>,
    finished: bool,
}

#[derive(Debug)]
struct End {
    id: String,
    at: Instant,
    exit_code: i32,
}

impl Worker {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            requests: pod_requests(&wanted.pod),
            wanted,
            memory: Memory::default(),
            chronicle: Chronicle::default(),
            records: Observed::default(),
            ends: Vec::new(),
            done_at: None,
            acked: 0,
            killing: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            finished: false,
        }
    }

    /// Something else is wanted of it: look again.
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.requests = pod_requests(&wanted.pod);
        self.wanted = wanted;
    }

    /// The leader acked the report `sequence`. Whether that changes what comes next.
    pub(super) fn ack(&mut self, sequence: u64) -> bool {
        self.acked = self.acked.max(sequence);
        self.chronicle.ack(self.acked, &mut self.memory);
        self.records.containers.iter().any(|run| run.state.exit().is_some())
    }

    /// What it uses.
    pub(super) fn usage(&self) -> Amounts {
        if self.runs() { self.requests } else { Amounts::default() }
    }

    /// Whether a container runs.
    pub(super) fn runs(&self) -> bool {
        self.records.containers.iter().any(|run| matches!(run.state, RunState::Running { .. }))
    }

    /// Looks, plans and carries out until there is nothing to do or something takes time. When to look again; `None`:
    /// when something changes.
    pub(super) fn look(
        &mut self,
        now: Now,
        around: &mut Surroundings<'_>,
        updates: &mut Vec<Update>,
    ) -> Option<Instant> {
        for _ in 0..PLANS_MAX {
            self.end_what_is_due(now);
            if let Some(at) = self.done_at.filter(|at| *at > now.instant) {
                return Some(self.ends.iter().map(|end| end.at).fold(at, Instant::min));
            }
            let sight = Sight::of(
                self.wanted.clone(),
                self.acked,
                self.records.clone(),
                &mut self.chronicle,
                &mut self.memory,
                now.wall,
            );
            sight.tell_back_off(&mut self.chronicle, &mut self.backing_off, now.wall);
            if sight.plan.gone {
                updates.push(Update::Gone { uid: self.uid().to_owned() });
                return None;
            }
            if sight.plan.actions.is_empty() {
                self.report(&sight, updates);
                return self.next_look(&sight, now);
            }
            let takes = if self.done_at.take().is_some() { Duration::ZERO } else { takes(&sight.plan.actions, around) };
            if takes > Duration::ZERO {
                if takes > SLOW {
                    self.report(&sight, updates);
                }
                self.done_at = Some(now.instant + takes);
                continue;
            }
            for action in &sight.plan.actions {
                self.carry_out(action, &sight, now, around);
            }
        }
        Some(now.instant + PLANS_PAUSE)
    }

    fn uid(&self) -> &str {
        &self.wanted.pod.metadata.uid
    }

    fn report(&mut self, sight: &Sight, updates: &mut Vec<Update>) {
        if let Some(report) = sight.report(&mut self.chronicle, &self.memory) {
            updates.push(Update::Report(Box::new(report)));
        }
        if sight.is_over() && !self.finished {
            self.finished = true;
            updates.push(Update::Finished { uid: self.uid().to_owned() });
        }
    }

    fn next_look(&self, sight: &Sight, now: Now) -> Option<Instant> {
        let wait = |at: Timestamp| {
            let ms = at.unix_ms.saturating_sub(now.wall.unix_ms).max(1);
            now.instant + Duration::from_millis(u64::try_from(ms).unwrap_or(1))
        };
        self.ends.iter().map(|end| end.at).chain(sight.plan.wake_at.map(wait)).min()
    }

    fn end_what_is_due(&mut self, now: Now) {
        let due: Vec<_> = self.ends.extract_if(.., |end| end.at <= now.instant).collect();
        for end in due {
            self.exit(&end.id, end.exit_code, now.wall);
        }
    }
}

/// How long a plan takes.
fn takes(actions: &[Action], around: &mut Surroundings<'_>) -> Duration {
    let stops = actions.iter().any(|action| matches!(action, Action::StopContainers { .. }));
    let starts =
        actions.iter().any(|action| matches!(action, Action::RunPodSandbox { .. } | Action::StartContainer { .. }));
    let mut time = Duration::ZERO;
    if stops {
        time += around.behaviour.stop_latency.draw(around.chance);
    }
    if starts {
        time += around.behaviour.start_latency.draw(around.chance);
    }
    time.mul_f64(around.slowness)
}

// === What the runtime would do ===

impl Worker {
    fn carry_out(&mut self, action: &Action, sight: &Sight, now: Now, around: &mut Surroundings<'_>) {
        let wall = now.wall;
        match action {
            Action::AnnounceSandboxChange { attempt } => {
                self.chronicle.event("Normal", "SandboxChanged", SANDBOX_CHANGED_MESSAGE, wall);
                self.memory.announced(*attempt);
            }
            Action::StopContainers { stops, deadline } => {
                if sight.desired.stop.is_none() {
                    self.memory.stopping(*deadline);
                }
                for stop in stops {
                    if self.killing.insert(stop.id.clone()) {
                        let attempt = sight.observed.latest(&stop.name).map_or(0, |run| run.attempt);
                        self.tell("Killing", &stop.message, &stop.name, attempt, wall);
                    }
                    self.exit(&stop.id, EXIT_TERMINATED, wall);
                }
            }
            Action::StopPodSandbox { id } => {
                self.lose_sandbox(id, wall);
                self.memory.sandbox_stopped(id);
            }
            Action::PrepareVolumes => self.memory.volumes_prepared(),
            Action::RunPodSandbox { attempt } => {
                let id = new_id(around.ids);
                let ip = Some((around.address)(*around.ids));
                self.records.sandboxes.push(SandboxObserved {
                    id,
                    attempt: *attempt,
                    ready: true,
                    created_at: wall,
                    ip,
                });
                self.memory.sandbox_started();
            }
            Action::StartContainer { name, attempt, previous_end, .. } => {
                self.start(name, *attempt, *previous_end, now, around);
            }
            Action::RemoveContainer { id, .. } => {
                self.records.containers.retain(|run| run.id != *id);
                self.killing.remove(id);
                self.backing_off.remove(id);
            }
            Action::RemovePodSandbox { id } => self.records.sandboxes.retain(|sandbox| sandbox.id != *id),
        }
    }

    fn start(
        &mut self,
        name: &str,
        attempt: u32,
        previous_end: Option<Timestamp>,
        now: Now,
        around: &mut Surroundings<'_>,
    ) {
        let pod = std::sync::Arc::clone(&self.wanted.pod);
        let Some((_, container)) = find_container(&pod, name) else { return };
        let Some(sandbox_id) = self.records.usable_sandbox().map(|sandbox| sandbox.id.clone()) else { return };
        self.tell("Pulled", &already_present_message(&container.image), name, attempt, now.wall);
        self.tell("Created", "Container created", name, attempt, now.wall);
        self.tell("Started", "Container started", name, attempt, now.wall);
        let id = new_id(around.ids);
        self.ends.extend(end_of(&id, now.instant, around));
        self.records.containers.push(ContainerObserved {
            id,
            name: name.to_owned(),
            attempt,
            sandbox_id,
            created_at: now.wall,
            state: RunState::Running { started_at: now.wall },
            image: container.image.clone(),
            image_id: String::new(),
            spec_hash: Some(container_hash(container)),
        });
        self.memory.container_started(container, previous_end, now.wall);
    }

    fn tell(&mut self, reason: &str, message: &str, container: &str, attempt: u32, wall: Timestamp) {
        let of = RunOf { pod: &self.wanted.pod, container, attempt };
        self.chronicle.container_event(of, "Normal", reason, message, wall);
    }

    fn exit(&mut self, id: &str, exit_code: i32, wall: Timestamp) {
        self.ends.retain(|end| end.id != id);
        let Some(run) = self.records.containers.iter_mut().find(|run| run.id == id) else { return };
        let RunState::Running { started_at } = run.state else { return };
        let reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        let (message, finished_at) = (String::new(), wall);
        run.state = RunState::Exited(Exit { exit_code, reason, message, started_at, finished_at });
    }

    fn lose_sandbox(&mut self, id: &str, wall: Timestamp) {
        let inside = self.records.containers.iter().filter(|run| run.sandbox_id == id).map(|run| run.id.clone());
        for container in inside.collect::<Vec<_>>() {
            self.exit(&container, EXIT_TERMINATED, wall);
        }
        if let Some(sandbox) = self.records.sandboxes.iter_mut().find(|sandbox| sandbox.id == id) {
            sandbox.ready = false;
        }
    }
}

fn new_id(ids: &mut u64) -> String {
    *ids += 1;
    format!("sim-{ids:x}")
}

/// When a container that starts now ends by itself.
fn end_of(id: &str, now: Instant, around: &mut Surroundings<'_>) -> Option<End> {
    let behaviour = around.behaviour;
    let crash = (behaviour.crashes_per_hour > 0.0).then(|| {
        let hours = around.chance.exponential() / behaviour.crashes_per_hour;
        (Duration::try_from_secs_f64(hours * 3600.0).unwrap_or(Duration::MAX), 1)
    });
    let complete = behaviour.run_time.map(|time| (time.draw(around.chance), 0));
    let (after, exit_code) = crash.into_iter().chain(complete).min()?;
    // Beyond what the clock can name it never ends.
    Some(End { id: id.to_owned(), at: now.checked_add(after)?, exit_code })
}

#[cfg(test)]
mod tests;
