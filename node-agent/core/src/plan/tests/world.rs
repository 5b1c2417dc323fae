//! A node in memory that does what plans say, while a hostile one lets things die: whatever happens, no plan does harm,
//! and when it stops happening the pod becomes what is wanted.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{Exit, all_containers};

/// Steps in which everything must have settled.
const STEPS_MAX: usize = 200;

struct World {
    desired: DesiredPod,
    observed: Observed,
    memory: Memory,
    now: Timestamp,
    next_id: u32,
    /// Runs that ever were, to see that no number is used twice.
    ran: BTreeSet<(String, u32)>,
    finished: bool,
}

/// What may go wrong.
#[derive(Debug, Clone)]
enum Fault {
    ContainerExits {
        which: usize,
        code: i32,
    },
    ContainerLost {
        which: usize,
    },
    SandboxDies,
    /// The next plan is cut short after so many actions.
    CutAfter {
        actions: usize,
    },
    AgentRestarts,
    ImageChanges,
    TimePasses {
        seconds: i64,
    },
    Acked,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => (0..6usize, prop_oneof![Just(0), Just(1), Just(137)])
            .prop_map(|(which, code)| Fault::ContainerExits { which, code }),
        1 => (0..6usize).prop_map(|which| Fault::ContainerLost { which }),
        2 => Just(Fault::SandboxDies),
        2 => (0..6usize).prop_map(|actions| Fault::CutAfter { actions }),
        1 => Just(Fault::AgentRestarts),
        1 => Just(Fault::ImageChanges),
        3 => (1..700i64).prop_map(|seconds| Fault::TimePasses { seconds }),
        2 => Just(Fault::Acked),
    ]
}

impl World {
    fn new(pod: Pod) -> Self {
        Self {
            desired: desired(pod),
            observed: Observed::default(),
            memory: Memory::default(),
            now: at(0),
            next_id: 0,
            ran: BTreeSet::new(),
            finished: false,
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.desired, &self.observed, &self.memory, self.now)
    }

    /// Observes, plans, carries out; says whether there was anything to do now or later.
    fn step(&mut self, actions_max: usize) -> bool {
        let plan = self.plan();
        let idle = plan.actions.is_empty();
        self.finished |= plan.finished.is_some();
        for action in plan.actions.into_iter().take(actions_max) {
            self.carry_out(action);
        }
        match plan.wake_at {
            Some(at) if idle => {
                assert!(at > self.now, "woken for nothing");
                self.now = at;
                true
            }
            _ => !idle,
        }
    }

    fn carry_out(&mut self, action: Action) {
        self.next_id += 1;
        match action {
            Action::AnnounceSandboxChange { attempt } => self.memory.announced(attempt),
            Action::StopContainers { stops, deadline } => {
                self.memory.stopping(deadline);
                for stop in stops {
                    assert!(stop.grace_seconds >= 2);
                    self.end_run(|run| run.id == stop.id, 137);
                }
            }
            Action::StopPodSandbox { id } => {
                let sandbox = self.observed.sandboxes.iter_mut().find(|s| s.id == id).expect("stops a sandbox that is");
                sandbox.ready = false;
                self.memory.sandbox_stopped(&id);
                self.end_run(|run| run.sandbox_id == id, 137);
            }
            Action::PrepareVolumes => self.memory.volumes_prepared(),
            Action::RunPodSandbox { attempt } => {
                assert!(self.observed.sandboxes.iter().all(|s| !s.ready && s.attempt < attempt), "two sandboxes");
                self.observed.sandboxes.push(sandbox(attempt, true));
                self.memory.sandbox_started();
            }
            Action::StartContainer { name, kind: _, attempt, previous_end } => self.start(&name, attempt, previous_end),
            Action::RemoveContainer { id, .. } => {
                let run = self.observed.containers.iter().find(|c| c.id == id).expect("removes a run that is");
                assert!(!run.state.may_live(), "removes what lives");
                let acked = run.state.exit().is_none() || self.memory.acked_exits.contains(&id);
                assert!(acked, "removes an exit that nobody knows");
                self.observed.containers.retain(|c| c.id != id);
            }
            Action::RemovePodSandbox { id } => {
                assert!(self.observed.containers.iter().all(|c| c.sandbox_id != id), "removes a sandbox in use");
                self.observed.sandboxes.retain(|s| s.id != id);
            }
        }
    }

    fn start(&mut self, name: &str, attempt: u32, previous_end: Option<Timestamp>) {
        assert!(!self.finished, "{name} starts in a finished pod");
        assert!(self.desired.stop.is_none(), "{name} starts in a pod that ends");
        let sandbox = self.observed.usable_sandbox().expect("starts in a sandbox that lives").id.clone();
        let lives = self.observed.containers.iter().any(|c| c.name == name && c.state.may_live());
        assert!(!lives, "{name} runs twice");
        assert!(self.ran.insert((name.to_owned(), attempt)), "{name}#{attempt} was there before");
        self.init_is_through(name);
        let (_, container) = crate::model::find_container(&self.desired.pod, name).unwrap();
        self.memory.container_started(container, previous_end, self.now);
        let spec_hash = Some(container_hash(container));
        let state = RunState::Running { started_at: self.now };
        let template = run(name, attempt, 0, state);
        let id = format!("{name}-{attempt}-{}", self.next_id);
        let created_at = self.now;
        self.observed.containers.push(ContainerObserved { id, sandbox_id: sandbox, spec_hash, created_at, ..template });
    }

    /// A regular container runs only after each init container succeeded, in this sandbox.
    fn init_is_through(&self, name: &str) {
        let is_regular = self.desired.pod.spec.containers.iter().any(|c| c.name == name);
        let sandbox = &self.observed.usable_sandbox().unwrap().id;
        let regular_ran =
            self.desired.pod.spec.containers.iter().any(|c| self.observed.latest_in(sandbox, &c.name).is_some());
        if !is_regular || regular_ran {
            return;
        }
        for (kind, container) in all_containers(&self.desired.pod) {
            if kind == ContainerKind::Init {
                let latest = self.observed.latest_in(sandbox, &container.name);
                let succeeded = latest.and_then(|run| run.state.exit()).is_some_and(Exit::succeeded);
                assert!(succeeded, "{name} starts before {} is through", container.name);
            }
        }
    }

    fn end_run(&mut self, which: impl Fn(&ContainerObserved) -> bool, exit_code: i32) {
        let finished_at = self.now;
        for run in self.observed.containers.iter_mut().filter(|c| which(c) && c.state.may_live()) {
            let started_at = run.created_at;
            let (reason, message) = (String::new(), String::new());
            run.state = RunState::Exited(Exit { exit_code, reason, message, started_at, finished_at });
        }
    }

    fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::ContainerExits { which, code } => {
                let living: Vec<_> = self.living();
                if let Some(id) = living.get(which % living.len().max(1)) {
                    self.end_run(|run| run.id == *id, *code);
                }
            }
            Fault::ContainerLost { which } => {
                let living: Vec<_> = self.living();
                let id = living.get(which % living.len().max(1)).cloned();
                let lost = self.observed.containers.iter_mut().find(|c| Some(&c.id) == id.as_ref());
                lost.into_iter().for_each(|run| run.state = RunState::Unknown);
            }
            Fault::SandboxDies => self.observed.sandboxes.iter_mut().for_each(|s| s.ready = false),
            Fault::CutAfter { actions } => drop(self.step(*actions)),
            Fault::AgentRestarts => {
                let acked_exits = std::mem::take(&mut self.memory.acked_exits);
                self.memory = Memory { acked_exits, ..Memory::default() };
            }
            Fault::ImageChanges if !self.finished => {
                std::sync::Arc::make_mut(&mut self.desired.pod).spec.containers[0].image.push('x');
            }
            Fault::ImageChanges => {}
            Fault::TimePasses { seconds } => self.now = self.now.plus_seconds(*seconds),
            Fault::Acked => self.ack_all(),
        }
        self.step(usize::MAX);
    }

    fn living(&self) -> Vec<String> {
        self.observed.containers.iter().filter(|c| c.state.may_live()).map(|c| c.id.clone()).collect()
    }

    fn ack_all(&mut self) {
        let exited = self.observed.containers.iter().filter(|c| c.state.exit().is_some());
        self.memory.acked_exits.extend(exited.map(|c| c.id.clone()));
    }

    /// Lets init containers succeed and everything be acked until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            self.ack_all();
            let init: BTreeSet<_> = all_containers(&self.desired.pod)
                .filter(|(kind, _)| *kind == ContainerKind::Init)
                .map(|(_, c)| c.name.clone())
                .collect();
            let ends = self.observed.containers.iter().any(|c| init.contains(&c.name) && c.state.may_live());
            self.end_run(|run| init.contains(&run.name), 0);
            if !self.step(usize::MAX) && !ends {
                return;
            }
        }
        panic!("never settles: {:?}", self.plan());
    }

    fn is_as_wanted(&self) -> bool {
        let policy = self.desired.pod.spec.restart_policy;
        let regular_settled = self.desired.pod.spec.containers.iter().all(|c| {
            self.observed.latest(&c.name).is_some_and(|run| match &run.state {
                RunState::Running { .. } => !definition_changed(c, run),
                RunState::Exited(exit) => !may_restart(&self.desired.pod, c, exit.exit_code),
                _ => false,
            })
        });
        (self.finished && self.living().is_empty())
            || (regular_settled && (policy != Always || self.observed.usable_sandbox().is_some()))
    }
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let shape = prop_oneof![Just(Base::A), Just(Base::B), Just(Base::C), Just(Base::D)];
    let policy = prop_oneof![Just(Always), Just(OnFailure), Just(Never)];
    (shape, policy).prop_map(|(shape, policy)| base(shape, policy))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_plan_does_harm_and_the_pod_becomes_what_is_wanted(
        pod in any_pod(),
        faults in proptest::collection::vec(fault(), 0..40),
    ) {
        let mut world = World::new(pod);
        world.step(usize::MAX);
        for fault in &faults {
            world.suffer(fault);
        }
        world.settle();
        prop_assert!(world.is_as_wanted(), "{:?} {:?}", world.observed, world.plan());
    }

    #[test]
    fn a_deleted_pod_is_gone_in_the_end(
        pod in any_pod(),
        faults in proptest::collection::vec(fault(), 0..20),
        grace in 0..40i64,
    ) {
        let mut world = World::new(pod);
        world.step(usize::MAX);
        for fault in &faults {
            world.suffer(fault);
        }
        let deadline = world.now.plus_seconds(grace);
        world.desired.stop = Some(Stop { deadline, then: AfterStop::Remove });
        world.settle();
        prop_assert!(world.plan().gone, "{:?}", world.observed);
    }
}
