//! What a pod needs next: the kubelet's `computePodActions`, with time as an argument.
//!
//! The pause container is the pod's vital sign. Without a usable sandbox everything that lives is stopped and a new
//! attempt is made, or, if nothing may start again, the pod is finished. With one, init containers run one after the
//! other, then the regular ones together; what exited comes back as the restart policy and the back-off say.
//!
//! A plan is carried out in order. After an error the worker observes and plans again, so each plan stands alone:
//! stopping goes in waves, and a plan ends after a wave that does not cover all that lives.

use std::collections::BTreeMap;

use podbus_common::model::{Container, PodPhase, RestartPolicy, Timestamp};

use crate::backoff::window_text;
use crate::hash::container_hash;
use crate::memory::{Memory, restart_key};
use crate::model::{
    AfterStop, ContainerKind, ContainerObserved, DesiredPod, Observed, RunState, SandboxObserved, Stop, may_restart,
};
use crate::termination::{backoff_event_message, grace_left, next_wave, spec_grace_seconds};

mod init;

/// The words of the event SandboxChanged.
pub const SANDBOX_CHANGED_MESSAGE: &str = "Pod sandbox changed, it will be killed and re-created.";

/// The next steps, in order, and what is known beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be carried out in order; an error ends the plan, but see [`Action::StartContainer`].
    pub actions: Vec<Action>,
    /// When to plan again though nothing happened.
    pub wake_at: Option<Timestamp>,
    /// Containers whose start is put off, and why. Those that are absent here and not yet created wait for their
    /// turn: ContainerCreating or PodInitializing.
    pub waiting: BTreeMap<String, Waiting>,
    /// The pod has ended by itself, nothing of it lives and nothing will start again.
    pub finished: Option<PodPhase>,
    /// The pod was to be removed and the runtime has nothing of it any more: volumes and directories may go.
    pub gone: bool,
}

/// One step, named as the CRI call that carries it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say that the sandbox will be made again: event SandboxChanged, then [`Memory::announced`].
    AnnounceSandboxChange {
        /// The attempt to come.
        attempt: u32,
    },
    /// One wave: all at once, waiting for all. Before it, [`Memory::stopping`] with `deadline`.
    StopContainers {
        /// Whom.
        stops: Vec<StopContainer>,
        /// When this pod's containers are killed at the latest.
        deadline: Timestamp,
    },
    /// Release what a sandbox holds; then [`Memory::sandbox_stopped`].
    StopPodSandbox {
        /// The runtime's ID.
        id: String,
    },
    /// Make the volumes; then [`Memory::volumes_prepared`] or [`Memory::volumes_failed`].
    PrepareVolumes,
    /// Make a sandbox; then [`Memory::sandbox_started`] or [`Memory::sandbox_failed`]. Later steps use this one.
    RunPodSandbox {
        /// Its number.
        attempt: u32,
    },
    /// Image, CreateContainer, StartContainer; then [`Memory::container_started`] or [`Memory::start_failed`].
    /// When an init container fails to start the plan ends; after a sidecar or a regular one it goes on.
    StartContainer {
        /// Which.
        name: String,
        /// What it is to the pod.
        kind: ContainerKind,
        /// The restart count to create it with.
        attempt: u32,
        /// When the run before ended, for the back-off.
        previous_end: Option<Timestamp>,
    },
    /// Drop the record of a run.
    RemoveContainer {
        /// The runtime's ID.
        id: String,
        /// Which container.
        name: String,
        /// Which run.
        attempt: u32,
    },
    /// Drop a stopped sandbox.
    RemovePodSandbox {
        /// The runtime's ID.
        id: String,
    },
}

/// One container to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopContainer {
    /// The runtime's ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Seconds from the stop signal to SIGKILL.
    pub grace_seconds: u32,
    /// The text of the event Killing.
    pub message: String,
}

/// Why a container is not started now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// CrashLoopBackOff, ErrImagePull...
    pub reason: String,
    /// For the status.
    pub message: String,
    /// The message of a Warning event BackOff, to be sent when this is new.
    pub backoff_event: Option<String>,
}

/// Names the steps that a pod needs next. No actions and no `wake_at`: nothing to do until something changes.
pub fn plan(desired: &DesiredPod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut planner = Planner { desired, observed, memory, now, plan: Plan::default() };
    match (desired.stop, observed.usable_sandbox()) {
        (Some(stop), _) => planner.end(stop),
        (None, Some(sandbox)) => planner.run_in(sandbox),
        (None, None) => planner.renew_sandbox(),
    }
    planner.plan
}

struct Planner<'a> {
    desired: &'a DesiredPod,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

/// Whether everything that lives is covered by the wave that was planned.
#[derive(PartialEq, Eq)]
enum Wave {
    All,
    Partial,
}

// === The three situations ===

impl<'a> Planner<'a> {
    /// The pod must end, whatever it does.
    fn end(&mut self, stop: Stop) {
        let lives = self.anything_lives();
        if self.stop_wave(stop.deadline) == Wave::Partial {
            return;
        }
        self.stop_sandboxes(None);
        if lives {
            return; // The exits must be seen, and acked, before their records go.
        }
        match stop.then {
            AfterStop::Keep => self.plan.finished = Some(PodPhase::Failed),
            AfterStop::Remove => self.remove_all(),
        }
    }

    /// No sandbox to run in: there is none, or it died.
    fn renew_sandbox(&mut self) {
        let attempt = self.observed.newest_sandbox().map_or(0, |s| s.attempt.saturating_add(1));
        let spec = &self.desired.pod.spec;
        let seen = !self.observed.containers.is_empty();
        let starts: Vec<_> = spec.containers.iter().filter(|c| !self.ended_well_for_good(c)).collect();
        let regular_seen = spec.containers.iter().any(|c| self.observed.latest(&c.name).is_some());
        let never_again = spec.restart_policy == RestartPolicy::Never && attempt != 0 && seen;
        if never_again || (starts.is_empty() && regular_seen) {
            return self.finish();
        }
        if attempt > 0 && self.memory.announced_attempt < attempt {
            self.plan.actions.push(Action::AnnounceSandboxChange { attempt });
        }
        if self.stop_wave(self.kill_deadline()) == Wave::Partial {
            return;
        }
        self.stop_sandboxes(None);
        if self.setup_must_wait() {
            return;
        }
        self.plan.actions.extend([Action::PrepareVolumes, Action::RunPodSandbox { attempt }]);
        match spec.init_containers.first() {
            Some(first) => self.start(crate::model::init_kind(first), first),
            None => starts.into_iter().for_each(|c| self.start(ContainerKind::Regular, c)),
        }
    }

    /// The sandbox is fine: bring its containers to what is wanted.
    fn run_in(&mut self, sandbox: &'a SandboxObserved) {
        if self.stop_strays(sandbox) {
            return;
        }
        self.stop_sandboxes(Some(&sandbox.id));
        let progress = init::progress(self.desired, self.observed, &sandbox.id);
        if progress.failed {
            return self.finish();
        }
        let regular = self.regular_steps();
        // A sidecar must not keep a finished pod alive; nor may one that was stopped with it be started again.
        if regular.iter().all(|(step, _)| *step == Step::Done) {
            return self.finish();
        }
        for (kind, step, container) in progress.steps {
            self.carry(kind, step, container);
        }
        for (step, container) in regular.into_iter().filter(|_| progress.initialized) {
            self.carry(ContainerKind::Regular, step, container);
        }
        self.prepare_volumes_before_starts();
        self.collect_garbage(sandbox);
    }
}

/// What one container of a usable sandbox needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It runs.
    Keep,
    /// It has ended and stays so.
    Done,
    /// Start it.
    Start,
    /// Its definition changed.
    Restart,
    /// The runtime lost track of it.
    KillUnknown,
}

// === Containers ===

impl<'a> Planner<'a> {
    fn regular_steps(&self) -> Vec<(Step, &'a Container)> {
        let desired = self.desired;
        desired.pod.spec.containers.iter().map(|c| (self.regular_step(c), c)).collect()
    }

    fn regular_step(&self, container: &Container) -> Step {
        let Some(run) = self.observed.latest(&container.name) else { return Step::Start };
        match &run.state {
            RunState::Running { .. } if definition_changed(container, run) => Step::Restart,
            RunState::Running { .. } => Step::Keep,
            RunState::Created => Step::Start,
            RunState::Unknown => Step::KillUnknown,
            RunState::Exited(exit) if may_restart(&self.desired.pod, container, exit.exit_code) => Step::Start,
            RunState::Exited(_) => Step::Done,
        }
    }

    fn carry(&mut self, kind: ContainerKind, step: Step, container: &'a Container) {
        let prefix = if kind == ContainerKind::Regular { "Container" } else { "Init container" };
        match step {
            Step::Keep | Step::Done => {}
            Step::Start => self.start(kind, container),
            Step::Restart => {
                let message = match kind {
                    ContainerKind::Regular => {
                        format!("Container {} definition changed, will be restarted", container.name)
                    }
                    _ => format!("Init container {} definition changed", container.name),
                };
                self.kill_and_start(kind, container, message);
            }
            Step::KillUnknown => {
                let message = format!("{prefix} is in \"unknown\" state, try killing it before restart");
                self.kill_and_start(kind, container, message);
            }
        }
    }

    /// Start, unless a failure or the back-off says not yet.
    fn start(&mut self, kind: ContainerKind, container: &Container) {
        if let Some(failed) = self.memory.start_failures.get(&container.name)
            && self.now < failed.retry_at
        {
            let waiting = Waiting {
                reason: failed.failure.reason.clone(),
                message: failed.failure.message.clone(),
                backoff_event: None,
            };
            self.plan.waiting.insert(container.name.clone(), waiting);
            return self.wake_at(failed.retry_at);
        }
        let previous_end = self.observed.latest_exit(&container.name).map(|(_, exit)| exit.finished_at);
        if let Some(ended) = previous_end
            && let Err(refused) = self.memory.restarts.check(&restart_key(container), ended, self.now)
        {
            let window = window_text(refused.window_seconds);
            let (name, pod) = (&container.name, self.desired.description());
            let waiting = Waiting {
                reason: "CrashLoopBackOff".to_owned(),
                message: format!("back-off {window} restarting failed container={name} pod={pod}"),
                backoff_event: Some(backoff_event_message(&self.desired.pod, name)),
            };
            self.plan.waiting.insert(container.name.clone(), waiting);
            return self.wake_at(refused.until);
        }
        self.start_now(kind, container, previous_end);
    }

    fn start_now(&mut self, kind: ContainerKind, container: &Container, previous_end: Option<Timestamp>) {
        let name = container.name.clone();
        let min = self.memory.attempts_min.get(&name).copied().unwrap_or(0);
        let attempt = match self.observed.latest(&name) {
            None => min,
            // The agent died between create and start: this run never was, its number is free again.
            Some(run) if run.state == RunState::Created => {
                let (id, name) = (run.id.clone(), name.clone());
                self.plan.actions.push(Action::RemoveContainer { id, name, attempt: run.attempt });
                run.attempt
            }
            Some(run) => min.max(run.attempt.saturating_add(1)),
        };
        self.plan.actions.push(Action::StartContainer { name, kind, attempt, previous_end });
    }

    /// A new image is a new container: neither policy nor back-off are asked.
    fn kill_and_start(&mut self, kind: ContainerKind, container: &Container, message: String) {
        let Some(run) = self.observed.latest(&container.name) else { return };
        let deadline = self.now.plus_seconds(i64::from(spec_grace_seconds(&self.desired.pod)));
        let grace_seconds = grace_left(deadline, self.now);
        let stop = StopContainer { id: run.id.clone(), name: container.name.clone(), grace_seconds, message };
        self.plan.actions.push(Action::StopContainers { stops: vec![stop], deadline });
        self.start_now(kind, container, None);
    }

    /// Under `OnFailure`, what exited 0 stays down also in a new sandbox.
    fn ended_well_for_good(&self, container: &Container) -> bool {
        let policy = container.restart_policy.unwrap_or(self.desired.pod.spec.restart_policy);
        let ended_well = |run: &ContainerObserved| run.state.exit().is_some_and(|e| e.exit_code == 0);
        policy == RestartPolicy::OnFailure && self.observed.latest(&container.name).is_some_and(ended_well)
    }
}

pub(crate) fn definition_changed(container: &Container, run: &ContainerObserved) -> bool {
    run.spec_hash.as_ref().is_some_and(|hash| *hash != container_hash(container))
}

// === Ends ===

impl Planner<'_> {
    /// Nothing will start again: stop what is left and say how the pod ended.
    fn finish(&mut self) {
        let lives = self.anything_lives();
        if self.stop_wave(self.kill_deadline()) == Wave::Partial {
            return;
        }
        self.stop_sandboxes(None);
        if !lives {
            self.plan.finished = Some(self.terminal_phase());
        }
    }

    fn terminal_phase(&self) -> PodPhase {
        let spec = &self.desired.pod.spec;
        let ended_well = |c: &Container| {
            self.observed.latest(&c.name).and_then(|run| run.state.exit()).is_some_and(|e| e.exit_code == 0)
        };
        let init = spec.init_containers.iter().filter(|c| crate::model::init_kind(c) == ContainerKind::Init);
        let init_failed = init.clone().any(|c| self.observed.latest(&c.name).is_some() && !ended_well(c));
        match !init_failed && spec.containers.iter().all(ended_well) {
            true => PodPhase::Succeeded,
            false => PodPhase::Failed,
        }
    }

    fn anything_lives(&self) -> bool {
        self.observed.containers.iter().any(|c| c.state.may_live())
    }

    fn kill_deadline(&self) -> Timestamp {
        let grace = i64::from(spec_grace_seconds(&self.desired.pod));
        self.memory.kill_deadline.unwrap_or_else(|| self.now.plus_seconds(grace))
    }

    fn stop_wave(&mut self, deadline: Timestamp) -> Wave {
        let stops = next_wave(&self.desired.pod, self.observed, deadline, self.now);
        let living = self.observed.containers.iter().filter(|c| c.state.may_live()).count();
        let wave = if stops.len() == living { Wave::All } else { Wave::Partial };
        if !stops.is_empty() {
            self.plan.actions.push(Action::StopContainers { stops, deadline });
        }
        wave
    }

    /// Containers that live outside the pod's sandbox have no network of the pod's, and one that an agent asked for before
    /// it died may have been started beside its next run: stop them first.
    fn stop_strays(&mut self, sandbox: &SandboxObserved) -> bool {
        let deadline = self.kill_deadline();
        let is_latest = |c: &ContainerObserved| self.observed.latest(&c.name).is_some_and(|latest| latest.id == c.id);
        let is_stray = |c: &&ContainerObserved| c.state.may_live() && (c.sandbox_id != sandbox.id || !is_latest(c));
        let stops: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(is_stray)
            .map(|c| StopContainer {
                id: c.id.clone(),
                name: c.name.clone(),
                grace_seconds: grace_left(deadline, self.now),
                message: format!("Stopping container {}", c.name),
            })
            .collect();
        let any = !stops.is_empty();
        if any {
            self.plan.actions.push(Action::StopContainers { stops, deadline });
        }
        any
    }

    /// Stops every sandbox but `keep`, unless a call did so before. One that merely died still holds its address.
    fn stop_sandboxes(&mut self, keep: Option<&str>) {
        let stopped = |id: &String| self.memory.stopped_sandboxes.contains(id);
        let others = self.observed.sandboxes.iter().filter(|s| keep != Some(&s.id) && (s.ready || !stopped(&s.id)));
        self.plan.actions.extend(others.map(|s| Action::StopPodSandbox { id: s.id.clone() }));
    }

    /// Removes every record once the leader knows every exit.
    fn remove_all(&mut self) {
        let unacked = |c: &ContainerObserved| c.state.exit().is_some() && !self.memory.acked_exits.contains(&c.id);
        if self.observed.containers.iter().any(unacked) {
            return; // The ack wakes the worker.
        }
        for container in &self.observed.containers {
            self.plan.actions.push(remove_container(container));
        }
        for sandbox in &self.observed.sandboxes {
            self.plan.actions.push(Action::RemovePodSandbox { id: sandbox.id.clone() });
        }
        self.plan.gone = self.observed.containers.is_empty() && self.observed.sandboxes.is_empty();
    }

    /// Drops runs that have a successor, and then the sandboxes that only they needed. The last end of each container
    /// in this sandbox stays: it is `lastState`, should the leader ask again.
    fn collect_garbage(&mut self, sandbox: &SandboxObserved) {
        let mut kept_sandboxes = vec![&sandbox.id];
        for run in &self.observed.containers {
            let newer = self.observed.containers.iter().filter(|c| c.name == run.name && c.attempt > run.attempt);
            let ended = run.state.exit().is_none() || self.memory.acked_exits.contains(&run.id);
            let successors_needed = if run.sandbox_id == sandbox.id { 2 } else { 1 };
            if !run.state.may_live() && ended && newer.count() >= successors_needed {
                self.plan.actions.push(remove_container(run));
            } else {
                kept_sandboxes.push(&run.sandbox_id);
            }
        }
        let unneeded = self.observed.sandboxes.iter().filter(|s| !kept_sandboxes.contains(&&s.id));
        self.plan.actions.extend(unneeded.map(|s| Action::RemovePodSandbox { id: s.id.clone() }));
    }

    fn prepare_volumes_before_starts(&mut self) {
        let is_start = |a: &Action| matches!(a, Action::StartContainer { .. });
        if !self.plan.actions.iter().any(is_start) {
            return;
        }
        if self.setup_must_wait() {
            self.plan.actions.retain(|a| !is_start(a));
            return;
        }
        let first = self.plan.actions.iter().position(is_start).unwrap_or(0);
        self.plan.actions.insert(first, Action::PrepareVolumes);
    }

    fn setup_must_wait(&mut self) -> bool {
        let until = self.memory.setup_retry_at.filter(|at| self.now < *at);
        until.into_iter().for_each(|at| self.wake_at(at));
        until.is_some()
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |before| before.min(at)));
    }
}

fn remove_container(run: &ContainerObserved) -> Action {
    Action::RemoveContainer { id: run.id.clone(), name: run.name.clone(), attempt: run.attempt }
}

#[cfg(test)]
mod tests;
