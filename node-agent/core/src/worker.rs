//! What passes between an agent and the worker of one pod, and what a worker concludes from one look at it.

use std::collections::BTreeSet;
use std::sync::Arc;

use podbus_common::model::{Pod, PodPhase, Timestamp};
use podbus_common::proto::PodReport;
use serde_json::value::RawValue;

use crate::chronicle::{Chronicle, RunOf};
use crate::memory::Memory;
use crate::model::{DesiredPod, Observed, Stop};
use crate::plan::{Plan, plan};
use crate::report::report;

/// The reason of a pod that used more than it may, in its status and in its event.
pub const EVICTED: &str = "Evicted";

/// What is wanted of a pod.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The object as assigned.
    pub pod: Arc<Pod>,
    /// The bytes that `pod` was read from.
    pub json: Arc<RawValue>,
    /// Of the object.
    pub generation: u64,
    /// When the node took it.
    pub admitted: Timestamp,
    /// Set once it must end.
    pub stop: Option<Stop>,
    /// Its object is gone: nobody acks its exits any more.
    pub forgotten: bool,
    /// Reason and message of its failure on this node.
    pub failed: Option<(String, String)>,
}

/// What a worker tells the agent.
#[derive(Debug)]
pub enum Update {
    /// A newer report.
    Report(Box<PodReport>),
    /// It ended by itself: it holds no resources any more.
    Finished {
        /// The pod.
        uid: String,
    },
    /// It used more than it may and must end.
    Evict {
        /// The pod.
        uid: String,
        /// Why, for a person.
        message: String,
    },
    /// Nothing of it is left; the worker has ended.
    Gone {
        /// The pod.
        uid: String,
    },
}

/// One look at a pod, and what follows from it.
#[derive(Debug)]
pub struct Sight {
    /// What was wanted then.
    pub wanted: Wanted,
    /// The same, for the plan.
    pub desired: DesiredPod,
    /// What the runtime said.
    pub observed: Observed,
    /// What comes next.
    pub plan: Plan,
}

impl Sight {
    /// Concludes from what is `wanted` and `observed`; `acked` is the sequence of the newest report that the leader
    /// acked.
    pub fn of(
        wanted: Wanted,
        acked: u64,
        observed: Observed,
        chronicle: &mut Chronicle,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Self {
        chronicle.ack(acked, memory);
        if wanted.forgotten {
            memory.acked_exits.extend(observed.containers.iter().map(|run| run.id.clone()));
        }
        let desired = DesiredPod { pod: Arc::clone(&wanted.pod), generation: wanted.generation, stop: wanted.stop };
        let plan = plan(&desired, &observed, memory, now);
        Self { wanted, desired, observed, plan }
    }

    /// The pod's state, if it is another one than the leader was told before.
    pub fn report(&self, chronicle: &mut Chronicle, memory: &Memory) -> Option<PodReport> {
        let mut state = report(&self.desired, &self.observed, memory, &self.plan);
        state.start_time_ms = self.wanted.admitted.unix_ms;
        if let Some((reason, message)) = &self.wanted.failed {
            state.rejected_reason.clone_from(reason);
            state.rejected_message.clone_from(message);
        }
        let ended = self.observed.containers.iter().filter(|run| run.state.exit().is_some());
        chronicle.next_report(state, ended.map(|run| run.id.clone()).collect())
    }

    /// It ended by itself: nothing of it lives, nothing will start again.
    pub fn is_over(&self) -> bool {
        self.plan.finished.is_some_and(PodPhase::is_terminal)
    }

    /// One event BackOff for each time that a container is put off; `told` holds the runs that had theirs.
    pub fn tell_back_off(&self, chronicle: &mut Chronicle, told: &mut BTreeSet<String>, now: Timestamp) {
        for (name, waiting) in &self.plan.waiting {
            let (Some(message), Some(run)) = (&waiting.backoff_event, self.observed.latest(name)) else { continue };
            if told.insert(run.id.clone()) {
                let of = RunOf { pod: &self.wanted.pod, container: name, attempt: run.attempt };
                chronicle.container_event(of, "Warning", "BackOff", message, now);
            }
        }
    }
}
