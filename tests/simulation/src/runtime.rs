//! A node's container runtime: what CRI promises, without containers.

use std::collections::BTreeMap;

use podbus_common::model::{Pod, Timestamp};
use podbus_node_agent_core::desired::DesiredSet;
use podbus_node_agent_core::hash::container_hash;
use podbus_node_agent_core::model::{ContainerObserved, Exit, Observed, RunState, SandboxObserved, find_container};

/// A sandbox, and the pod as it was assigned: its annotation.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) uid: String,
    pub(crate) json: String,
    observed: SandboxObserved,
}

/// A call of CRI.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    RunPodSandbox { uid: String, attempt: u32, json: String },
    StartContainer { uid: String, sandbox: String, name: String, attempt: u32, pod: Box<Pod> },
    StopContainer { id: String },
    StopPodSandbox { id: String },
    RemoveContainer { id: String },
    RemovePodSandbox { id: String },
}

/// What came of a call.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// With the ID of what was made or touched.
    Done(String),
    /// It failed, and changed nothing.
    Failed,
}

/// All that one node runs.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    node: String,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, (String, ContainerObserved)>,
    made: u64,
}

impl Runtime {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    pub(crate) fn observe(&self, uid: &str) -> Observed {
        Observed {
            sandboxes: self.sandboxes.values().filter(|s| s.uid == uid).map(|s| s.observed.clone()).collect(),
            containers: self.containers.values().filter(|(of, _)| of == uid).map(|(_, c)| c.clone()).collect(),
        }
    }

    pub(crate) fn sandboxes(&self) -> impl Iterator<Item = (&String, &Sandbox)> {
        self.sandboxes.iter()
    }

    /// The pod and the container of an ID.
    pub(crate) fn container(&self, id: &str) -> Option<&(String, ContainerObserved)> {
        self.containers.get(id)
    }

    /// Containers that run: pod and ID.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&String, &String)> {
        self.containers.iter().filter(|(_, (_, c))| c.state.may_live()).map(|(id, (uid, _))| (uid, id))
    }

    pub(crate) fn call(&mut self, call: &Call, now: Timestamp) -> Outcome {
        match call {
            Call::RunPodSandbox { uid, attempt, json } => {
                // A sandbox of this name is there: a call whose caller died.
                let same = |s: &&Sandbox| s.uid == *uid && s.observed.attempt == *attempt;
                if let Some(there) = self.sandboxes.values().find(same) {
                    return if there.observed.ready {
                        Outcome::Done(there.observed.id.clone())
                    } else {
                        Outcome::Failed
                    };
                }
                let id = self.new_id("sandbox");
                let observed = SandboxObserved {
                    id: id.clone(),
                    attempt: *attempt,
                    ready: true,
                    created_at: now,
                    ip: Some(format!("10.0.0.{}", self.made)),
                };
                self.sandboxes.insert(id.clone(), Sandbox { uid: uid.clone(), json: json.clone(), observed });
                Outcome::Done(id)
            }
            Call::StartContainer { uid, sandbox, name, attempt, pod } => {
                let same = |c: &ContainerObserved| c.sandbox_id == *sandbox && c.name == *name && c.attempt == *attempt;
                let ready = self.sandboxes.get(sandbox).is_some_and(|sandbox| sandbox.observed.ready);
                if !ready || self.containers.values().any(|(of, c)| of == uid && same(c)) {
                    return Outcome::Failed;
                }
                let Some((_, container)) = find_container(pod, name) else { return Outcome::Failed };
                let id = self.new_id("container");
                let observed = ContainerObserved {
                    id: id.clone(),
                    name: name.clone(),
                    attempt: *attempt,
                    sandbox_id: sandbox.clone(),
                    created_at: now,
                    state: RunState::Running { started_at: now },
                    image: container.image.clone(),
                    image_id: container.image.clone(),
                    spec_hash: Some(container_hash(container)),
                };
                self.containers.insert(id.clone(), (uid.clone(), observed));
                Outcome::Done(id)
            }
            Call::StopContainer { id } => {
                self.exit(id, 137, now);
                Outcome::Done(id.clone())
            }
            Call::StopPodSandbox { id } => {
                self.end_sandbox(id, now);
                Outcome::Done(id.clone())
            }
            Call::RemoveContainer { id } => {
                self.containers.remove(id);
                Outcome::Done(id.clone())
            }
            Call::RemovePodSandbox { id } => {
                self.sandboxes.remove(id);
                self.containers.retain(|_, (_, c)| c.sandbox_id != *id);
                Outcome::Done(id.clone())
            }
        }
    }

    fn new_id(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{}/{kind}-{}", self.node, self.made)
    }

    /// A container ends, if it runs.
    pub(crate) fn exit(&mut self, id: &str, exit_code: i32, now: Timestamp) {
        let Some((_, container)) = self.containers.get_mut(id) else { return };
        if let RunState::Running { started_at } = container.state {
            let (reason, message) = (String::new(), String::new());
            container.state = RunState::Exited(Exit { exit_code, reason, message, started_at, finished_at: now });
        }
    }

    /// The pause process of a sandbox ends, and all that runs in it.
    pub(crate) fn end_sandbox(&mut self, id: &str, now: Timestamp) {
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.observed.ready = false;
        }
        let inside: Vec<_> = self.containers.iter().filter(|(_, (_, c))| c.sandbox_id == *id).collect();
        let inside: Vec<_> = inside.into_iter().map(|(id, _)| id.clone()).collect();
        for id in inside {
            self.exit(&id, 137, now);
        }
    }

    /// Stops and removes the sandboxes of pods that ended.
    pub(crate) fn remove_ended(&mut self, set: &DesiredSet, now: Timestamp) {
        let of_ended = self.sandboxes.iter().filter(|(_, sandbox)| set.ended(&sandbox.uid).is_some());
        let ids: Vec<_> = of_ended.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.call(&Call::StopPodSandbox { id: id.clone() }, now);
            self.call(&Call::RemovePodSandbox { id }, now);
        }
    }

    /// The machine starts again: nothing runs.
    pub(crate) fn reboot(&mut self, now: Timestamp) {
        let ids: Vec<_> = self.sandboxes.keys().cloned().collect();
        for id in ids {
            self.end_sandbox(&id, now);
        }
    }

    /// Pods that have anything here.
    pub(crate) fn uids(&self) -> std::collections::BTreeSet<String> {
        self.sandboxes
            .values()
            .map(|s| s.uid.clone())
            .chain(self.containers.values().map(|(uid, _)| uid.clone()))
            .collect()
    }
}
