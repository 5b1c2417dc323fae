//! Reads what the runtime has of one pod.

use std::collections::{HashMap, HashSet};

use podbus_common::model::Timestamp;
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::model::{ContainerObserved, Exit, Observed, RunState, SandboxObserved};

use super::config::CONTAINER_HASH_ANNOTATION;
use super::{Runtime, RuntimeError};

/// What was read before of containers whose state did not change since: a list does not carry times and exit codes.
#[derive(Debug, Default)]
pub(crate) struct StateCache {
    states: HashMap<String, (i32, RunState)>,
}

/// Lists the sandboxes and containers of the pod `uid`.
pub(crate) async fn observe<R: Runtime>(
    runtime: &R,
    uid: &str,
    cache: &mut StateCache,
) -> Result<Observed, RuntimeError> {
    let (sandboxes, containers) =
        futures::try_join!(runtime.list_pod_sandbox(Some(uid)), runtime.list_containers(uid))?;
    let mut observed = Observed::default();
    let newest = sandboxes.iter().map(|s| (sandbox_attempt(s), s.created_at)).max();
    for sandbox in sandboxes {
        // Only the newest one can be in use, so only its address matters.
        let is_newest = newest == Some((sandbox_attempt(&sandbox), sandbox.created_at));
        observed.sandboxes.extend(observe_sandbox(runtime, sandbox, is_newest).await?);
    }
    let ids: HashSet<_> = containers.iter().map(|c| c.id.clone()).collect();
    cache.states.retain(|id, _| ids.contains(id));
    for container in containers {
        observed.containers.extend(observe_container(runtime, container, cache).await?);
    }
    Ok(observed)
}

fn sandbox_attempt(sandbox: &v1::PodSandbox) -> u32 {
    sandbox.metadata.as_ref().map_or(0, |m| m.attempt)
}

async fn observe_sandbox<R: Runtime>(
    runtime: &R,
    sandbox: v1::PodSandbox,
    with_address: bool,
) -> Result<Option<SandboxObserved>, RuntimeError> {
    let mut observed = SandboxObserved {
        attempt: sandbox_attempt(&sandbox),
        ready: sandbox.state == v1::PodSandboxState::SandboxReady as i32,
        created_at: from_unix_ns(sandbox.created_at),
        ip: None,
        id: sandbox.id,
    };
    if with_address && observed.ready {
        let status = match runtime.pod_sandbox_status(&observed.id).await {
            Ok(status) => status,
            // Removed since it was listed.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        observed.ready = status.state == v1::PodSandboxState::SandboxReady as i32;
        observed.ip = status.network.map(|network| network.ip);
    }
    Ok(Some(observed))
}

async fn observe_container<R: Runtime>(
    runtime: &R,
    container: v1::Container,
    cache: &mut StateCache,
) -> Result<Option<ContainerObserved>, RuntimeError> {
    let known = cache.states.get(&container.id).filter(|(state, _)| *state == container.state);
    let state = match known {
        Some((_, state)) => state.clone(),
        None => {
            let status = match runtime.container_status(&container.id).await {
                Ok(status) => status,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            };
            let read = (status.state, run_state(status));
            cache.states.insert(container.id.clone(), read.clone());
            read.1
        }
    };
    let metadata = container.metadata.unwrap_or_default();
    let image = container.image.unwrap_or_default();
    Ok(Some(ContainerObserved {
        name: metadata.name,
        attempt: metadata.attempt,
        sandbox_id: container.pod_sandbox_id,
        created_at: from_unix_ns(container.created_at),
        state,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_id: if container.image_ref.is_empty() { container.image_id } else { container.image_ref },
        spec_hash: container.annotations.get(CONTAINER_HASH_ANNOTATION).cloned(),
        id: container.id,
    }))
}

fn run_state(status: v1::ContainerStatus) -> RunState {
    match status.state() {
        v1::ContainerState::ContainerCreated => RunState::Created,
        v1::ContainerState::ContainerRunning => RunState::Running { started_at: from_unix_ns(status.started_at) },
        v1::ContainerState::ContainerExited => RunState::Exited(Exit {
            exit_code: status.exit_code,
            started_at: from_unix_ns(status.started_at),
            finished_at: from_unix_ns(status.finished_at),
            reason: status.reason,
            message: status.message,
        }),
        v1::ContainerState::ContainerUnknown => RunState::Unknown,
    }
}

/// CRI counts nanoseconds since the Unix epoch.
fn from_unix_ns(nanoseconds: i64) -> Timestamp {
    Timestamp::from_unix_ms(nanoseconds.div_euclid(1_000_000))
}
