//! Starts one container: image, config, CreateContainer, StartContainer.

use std::collections::BTreeMap;
use std::path::Path;

use podbus_common::model::{Container, Pod, Timestamp};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::chronicle::RunOf;
use podbus_node_agent_core::environment::hostname;
use podbus_node_agent_core::memory::StartFailure;
use podbus_node_agent_core::model::{ContainerKind, all_containers, find_container};
use podbus_node_agent_core::worker::Sight;

use super::actions::Home;
use super::{Interruption, Worker, now};
use crate::runtime::config::{ContainerPlace, container_config};
use crate::runtime::{Runtime, RuntimeError};
use crate::{logs, volumes};

/// One run of a container, to be started.
pub(super) struct Run<'a> {
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) attempt: u32,
    pub(super) home: &'a Home,
}

/// Why a container was not started.
pub(super) enum NotStarted {
    /// The worker has to look again first.
    Interrupted(Interruption),
    /// It will be tried again later.
    Failed(StartFailure),
}

impl NotStarted {
    /// The runtime did not answer: that is not the container's fault.
    pub(super) fn unavailable() -> Self {
        Self::Interrupted(Interruption::Failed { unavailable: true })
    }

    fn from_call(reason: &str, error: RuntimeError) -> Self {
        if error.is_unavailable() {
            return Self::unavailable();
        }
        Self::Failed(StartFailure::new(reason, error.message))
    }
}

impl From<Interruption> for NotStarted {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

impl<R: Runtime> Worker<R> {
    /// Starts a run; a failure is remembered, and ends the plan when an init container had it.
    pub(super) async fn start(
        &mut self,
        sight: &Sight,
        home: &Home,
        name: &str,
        kind: ContainerKind,
        attempt: u32,
        previous_end: Option<Timestamp>,
    ) -> Result<(), Interruption> {
        let pod = sight.wanted.pod.clone();
        let Some((_, container)) = find_container(&pod, name) else { return Ok(()) };
        let run = Run { pod: &pod, container, attempt, home };
        match self.try_start(sight, &run).await {
            Ok(()) => {
                self.memory.container_started(container, previous_end, now());
                Ok(())
            }
            Err(NotStarted::Interrupted(interruption)) => Err(interruption),
            Err(NotStarted::Failed(failure)) => {
                self.memory.start_failed(name, failure, now());
                if kind == ContainerKind::Init { Err(Interruption::Replan) } else { Ok(()) }
            }
        }
    }

    async fn try_start(&mut self, sight: &Sight, run: &Run<'_>) -> Result<(), NotStarted> {
        let image = self.ensure_image(sight, run).await?;
        let config = match self.config(run, &image) {
            Ok(config) => config,
            Err(failure) => {
                self.tell(run, "Warning", "Failed", &format!("Error: {}", failure.message));
                return Err(NotStarted::Failed(failure));
            }
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: run.home.id.clone(),
            config: Some(config),
            sandbox_config: Some(run.home.config.clone()),
        };
        let id = match self.runtime.create_container(request).await {
            Ok(id) => id,
            Err(error) => return Err(self.call_failed(run, "CreateContainerError", error)),
        };
        self.tell(run, "Normal", "Created", "Container created");
        if let Err(error) = self.runtime.start_container(&id).await {
            return Err(self.call_failed(run, "RunContainerError", error));
        }
        self.tell(run, "Normal", "Started", "Container started");
        Ok(())
    }

    fn call_failed(&mut self, run: &Run<'_>, reason: &str, error: RuntimeError) -> NotStarted {
        if !error.is_unavailable() {
            self.tell(run, "Warning", "Failed", &format!("Error: {error}"));
        }
        NotStarted::from_call(reason, error)
    }

    /// An event about a run.
    pub(super) fn tell(&mut self, run: &Run<'_>, kind: &str, reason: &str, message: &str) {
        let of = RunOf { pod: run.pod, container: &run.container.name, attempt: run.attempt };
        self.chronicle.container_event(of, kind, reason, message, now());
    }

    fn config(&self, run: &Run<'_>, image: &v1::Image) -> Result<v1::ContainerConfig, StartFailure> {
        let refuse = |error: String| StartFailure::new("CreateContainerConfigError", error);
        let mounts = volumes::mounts(&self.pod_dir, run.pod, run.container).map_err(|e| refuse(e.to_string()))?;
        let etc_hosts = volumes::write_etc_hosts(&self.pod_dir, &hostname(run.pod), &run.home.ip)
            .map_err(|error| refuse(error.to_string()))?;
        let log = logs::path(&self.pod_dir, &run.container.name, run.attempt);
        if let Some(directory) = log.parent() {
            fs_err::create_dir_all(directory).map_err(|error| refuse(error.to_string()))?;
        }
        let place = ContainerPlace {
            attempt: run.attempt,
            image,
            mounts,
            etc_hosts: Some(etc_hosts),
            node_memory_bytes: self.node.memory_bytes,
            user_ids: run.home.user_ids,
        };
        container_config(run.pod, run.container, &place)
    }
}

/// The attempt that each container begins with at least: one above its newest log. A runtime that lost its records
/// must not make a second run of the same number.
pub(super) fn attempts_on_disk(pod_dir: &Path, pod: &Pod) -> BTreeMap<String, u32> {
    let next = |container: &Container| {
        let newest = *logs::attempts(pod_dir, &container.name).ok()?.last()?;
        Some((container.name.clone(), newest.saturating_add(1)))
    };
    all_containers(pod).filter_map(|(_, container)| next(container)).collect()
}
