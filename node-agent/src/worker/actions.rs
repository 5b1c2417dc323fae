//! Carries a plan out, step by step, in its order.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use podbus_common::model::Timestamp;
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::chronicle::RunOf;
use podbus_node_agent_core::plan::{Action, Plan, SANDBOX_CHANGED_MESSAGE, StopContainer};
use podbus_node_agent_core::worker::Sight;
use tokio::time::timeout;

use super::{Interruption, Worker, now};
use crate::runtime::config::{SandboxPlace, sandbox_config};
use crate::runtime::observe::observe;
use crate::runtime::{Runtime, RuntimeError, ignore_not_found};
use crate::{cgroups, logs, volumes};

/// Runs whose logs are kept: the newest, and the one before it for `logs --previous`.
const LOGGED_RUNS: usize = 2;
/// How long a pod waits for its turn to start.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);
/// A step that takes longer than this is no reason to keep the leader waiting for news.
const SLOW: Duration = Duration::from_millis(500);

/// The sandbox that containers are started in.
pub(super) struct Home {
    pub(super) id: String,
    pub(super) ip: String,
    pub(super) config: v1::PodSandboxConfig,
    /// The first id of a pod with users of its own.
    pub(super) user_ids: Option<u32>,
}

impl<R: Runtime> Worker<R> {
    /// Carries out the steps of a plan.
    pub(super) async fn carry_out(&mut self, sight: &Sight) -> Result<(), Interruption> {
        if sight.plan.actions.iter().any(|action| matches!(action, Action::RunPodSandbox { .. })) {
            // After the time limit it starts all the same: pods that hang must not keep others waiting.
            let turn = timeout(TURN_WAIT_MAX, Arc::clone(&self.node.starts).acquire_owned()).await;
            self.turn = turn.ok().and_then(Result::ok);
        }
        let done = self.carry_out_steps(sight).await;
        self.turn = None;
        done
    }

    async fn carry_out_steps(&mut self, sight: &Sight) -> Result<(), Interruption> {
        let mut home = match sight.observed.usable_sandbox() {
            Some(sandbox) => {
                let user_ids = self.user_ids(sight).map_err(|error| {
                    tracing::warn!(podUID = %self.uid, %error, "cannot tell the ids of a pod's users");
                    Interruption::Failed { unavailable: false }
                })?;
                Some(Home {
                    id: sandbox.id.clone(),
                    ip: sandbox.ip.clone().unwrap_or_default(),
                    config: self.sandbox_config(sight, sandbox.attempt, user_ids),
                    user_ids,
                })
            }
            None => None,
        };
        for action in &sight.plan.actions {
            match action {
                Action::AnnounceSandboxChange { attempt } => {
                    self.chronicle.event("Normal", "SandboxChanged", SANDBOX_CHANGED_MESSAGE, now());
                    self.memory.announced(*attempt);
                }
                Action::StopContainers { stops, deadline } => self.stop_containers(sight, stops, *deadline).await?,
                Action::StopPodSandbox { id } => self.stop_sandbox(id).await?,
                Action::PrepareVolumes => self.prepare_volumes(sight).await?,
                Action::RunPodSandbox { attempt } => home = Some(self.run_sandbox(sight, *attempt).await?),
                Action::StartContainer { name, kind, attempt, previous_end } => {
                    let Some(home) = &home else { return Err(Interruption::Replan) };
                    self.start(sight, home, name, *kind, *attempt, *previous_end).await?;
                }
                Action::RemoveContainer { id, name, .. } => self.remove_container(id, name).await?,
                Action::RemovePodSandbox { id } => {
                    self.attempt("RemovePodSandbox", ignore_not_found(self.runtime.remove_pod_sandbox(id).await))?;
                }
            }
        }
        Ok(())
    }

    /// A step whose failure means: look again later.
    pub(super) fn attempt<T>(&self, call: &str, result: Result<T, RuntimeError>) -> Result<T, Interruption> {
        result.map_err(|error| {
            tracing::warn!(call, %error, "a call to the runtime failed");
            Interruption::Failed { unavailable: error.is_unavailable() }
        })
    }

    /// Waits for something slow and keeps reporting meanwhile; gives up when something else is wanted.
    pub(super) async fn patiently<T>(
        &mut self,
        sight: &Sight,
        work: impl Future<Output = T>,
    ) -> Result<T, Interruption> {
        tokio::pin!(work);
        // What is over at once is told with its outcome: one write of the leader's less.
        if let Ok(done) = timeout(SLOW, &mut work).await {
            return Ok(done);
        }
        self.turn = None;
        self.report(sight).await;
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                // cancel-safe (tokio docs); `work` may be dropped: every call may be repeated
                changed = self.wanted.changed() => if changed.is_ok() { return Err(Interruption::Replan) },
                () = self.wake.notified() => {}
            }
            if let Ok(observed) = observe(&self.runtime, &self.uid, &mut self.cache).await {
                let plan = Plan { waiting: sight.plan.waiting.clone(), ..Plan::default() };
                let (wanted, desired) = (sight.wanted.clone(), sight.desired.clone());
                self.report(&Sight { wanted, desired, observed, plan }).await;
            }
        }
    }

    async fn stop_containers(
        &mut self,
        sight: &Sight,
        stops: &[StopContainer],
        deadline: Timestamp,
    ) -> Result<(), Interruption> {
        if sight.desired.stop.is_none() {
            self.memory.stopping(deadline);
        }
        for stop in stops.iter().filter(|stop| self.killing.insert(stop.id.clone())) {
            let attempt = sight.observed.latest(&stop.name).map_or(0, |run| run.attempt);
            let of = RunOf { pod: &sight.wanted.pod, container: &stop.name, attempt };
            self.chronicle.container_event(of, "Normal", "Killing", &stop.message, now());
        }
        let runtime = self.runtime.clone();
        let calls = stops.iter().map(|stop| runtime.stop_container(&stop.id, stop.grace_seconds));
        let results = self.patiently(sight, join_all(calls)).await?;
        for result in results {
            self.attempt("StopContainer", ignore_not_found(result))?;
        }
        Ok(())
    }

    async fn stop_sandbox(&mut self, id: &str) -> Result<(), Interruption> {
        self.attempt("StopPodSandbox", ignore_not_found(self.runtime.stop_pod_sandbox(id).await))?;
        self.memory.sandbox_stopped(id);
        Ok(())
    }

    async fn remove_container(&mut self, id: &str, name: &str) -> Result<(), Interruption> {
        self.attempt("RemoveContainer", ignore_not_found(self.runtime.remove_container(id).await))?;
        if let Err(error) = logs::prune(&self.pod_dir, name, LOGGED_RUNS) {
            tracing::warn!(containerName = name, %error, "cannot remove old logs");
        }
        Ok(())
    }

    async fn prepare_volumes(&mut self, sight: &Sight) -> Result<(), Interruption> {
        let (pod_dir, pod, memory_bytes) = (self.pod_dir.clone(), sight.wanted.pod.clone(), self.node.memory_bytes);
        if pod.spec.volumes.is_empty() {
            self.memory.volumes_prepared();
            return Ok(());
        }
        let made = tokio::task::spawn_blocking(move || volumes::prepare(&pod_dir, &pod, memory_bytes));
        let error = match made.await {
            Ok(Ok(())) => {
                self.memory.volumes_prepared();
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.chronicle.event("Warning", "FailedMount", &error, now());
        self.memory.volumes_failed(now());
        Err(Interruption::Replan)
    }

    async fn run_sandbox(&mut self, sight: &Sight, attempt: u32) -> Result<Home, Interruption> {
        match self.make_sandbox(sight, attempt).await {
            Ok((id, config, user_ids)) => {
                self.memory.sandbox_started();
                let status = self.attempt("PodSandboxStatus", self.runtime.pod_sandbox_status(&id).await)?;
                Ok(Home { id, ip: status.network.map(|network| network.ip).unwrap_or_default(), config, user_ids })
            }
            Err(error) if error.is_unavailable() => self.attempt("RunPodSandbox", Err(error)),
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                self.chronicle.event("Warning", "FailedCreatePodSandBox", &message, now());
                self.memory.sandbox_failed(now());
                Err(Interruption::Replan)
            }
        }
    }

    /// Makes a sandbox: its id, its config, and the ids of a pod with users of its own.
    async fn make_sandbox(
        &self,
        sight: &Sight,
        attempt: u32,
    ) -> Result<(String, v1::PodSandboxConfig, Option<u32>), RuntimeError> {
        let internal = |error: io::Error| RuntimeError::new(tonic::Code::Internal, error.to_string());
        let handler = &sight.wanted.pod.spec.runtime_class_name;
        if has_own_users(sight) {
            require_user_namespaces(&self.runtime.status().await?, handler)?;
        }
        let user_ids = self.user_ids(sight).map_err(internal)?;
        let config = self.sandbox_config(sight, attempt, user_ids);
        fs_err::create_dir_all(&config.log_directory).map_err(internal)?;
        let id = self.runtime.run_pod_sandbox(config.clone(), handler).await?;
        Ok((id, config, user_ids))
    }

    /// The first id of a pod with users of its own.
    fn user_ids(&self, sight: &Sight) -> io::Result<Option<u32>> {
        has_own_users(sight).then(|| self.node.user_ids.of(&self.pod_dir, &self.uid)).transpose()
    }

    fn sandbox_config(&self, sight: &Sight, attempt: u32, user_ids: Option<u32>) -> v1::PodSandboxConfig {
        let pod = &sight.wanted.pod;
        let place = SandboxPlace {
            attempt,
            pod_dir: &self.pod_dir,
            cgroup_parent: cgroups::of_pod(&self.node.cgroup_root, pod),
            pod_json: sight.wanted.json.get().to_owned(),
            user_ids,
        };
        sandbox_config(pod, &place)
    }
}

fn has_own_users(sight: &Sight) -> bool {
    sight.wanted.pod.spec.host_users == Some(false)
}

/// A runtime that does not know of them would make the pod's root that of the node, and not say so.
fn require_user_namespaces(status: &v1::StatusResponse, handler: &str) -> Result<(), RuntimeError> {
    let features = status.runtime_handlers.iter().find(|it| it.name == handler).and_then(|it| it.features);
    match features.is_some_and(|features| features.user_namespaces) {
        true => Ok(()),
        false => Err(RuntimeError::new(
            tonic::Code::Unimplemented,
            format!("hostUsers: false needs user namespaces, which the runtime has not for handler {handler:?}"),
        )),
    }
}
