//! A runtime in memory, for tests: sandboxes and containers are records, a test ends them as it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use podbus_common_cri::runtime as v1;
use podbus_common_cri::sandbox::{LoadRequest, LoadResponse, PullResponse};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::BroadcastStream;
use tonic::Code;

use super::config::POD_UID_LABEL;
use super::{Runtime, RuntimeError};

/// What happened, for assertions: the calls in their order.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, v1::PodSandbox>,
    pub(crate) containers: BTreeMap<String, v1::ContainerStatus>,
    homes: BTreeMap<String, String>,
    pub(crate) images: BTreeSet<String>,
    pub(crate) calls: Vec<String>,
    /// Whether pods may have user namespaces.
    pub(crate) user_namespaces: bool,
    /// Of each sandbox.
    namespaces: BTreeMap<String, v1::NamespaceOption>,
    /// Calls that fail, with the message.
    pub(crate) failing: BTreeMap<&'static str, String>,
    next: u32,
    now_ns: i64,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

/// Clones share the state, as clients of one daemon do.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// A runtime that has `images`.
    pub(crate) fn new(images: &[&str]) -> Self {
        let state = State {
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            homes: BTreeMap::new(),
            images: images.iter().map(|image| (*image).to_owned()).collect(),
            calls: Vec::new(),
            user_namespaces: true,
            namespaces: BTreeMap::new(),
            failing: BTreeMap::new(),
            next: 0,
            now_ns: 1_000_000_000_000,
            events: broadcast::Sender::new(64),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The records.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends the running container called `name`.
    pub(crate) fn exit(&self, name: &str, exit_code: i32) {
        let mut state = self.state();
        let running = state.containers.values().find(|c| container_name(c) == name && is_running(c));
        let id = running.expect("it runs").id.clone();
        state.exit(&id, exit_code);
    }

    /// Ends the pause process of the newest sandbox, and with it what ran inside.
    pub(crate) fn lose_sandbox(&self) {
        let mut state = self.state();
        let id = state.sandboxes.keys().next_back().unwrap().clone();
        state.stop_sandbox(&id);
    }

    fn call(&self, call: &'static str, what: &str) -> Result<MutexGuard<'_, State>, RuntimeError> {
        let mut state = self.state();
        if !call.contains("Status") && !call.contains("List") {
            state.calls.push(if what.is_empty() { call.to_owned() } else { format!("{call} {what}") });
        }
        match state.failing.get(call) {
            Some(message) => Err(RuntimeError::new(Code::Unknown, message)),
            None => Ok(state),
        }
    }
}

impl State {
    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}-{:04}", self.next)
    }

    fn now(&mut self) -> i64 {
        self.now_ns += 1_000_000;
        self.now_ns
    }

    /// Ends a container.
    pub(crate) fn exit(&mut self, id: &str, exit_code: i32) {
        let now = self.now();
        let Some(container) = self.containers.get_mut(id).filter(|c| is_running(c)) else { return };
        container.state = v1::ContainerState::ContainerExited.into();
        container.exit_code = exit_code;
        container.finished_at = now;
        container.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        let sandbox = self.homes[id].clone();
        self.announce(&sandbox);
    }

    fn stop_sandbox(&mut self, id: &str) {
        let inside: Vec<_> = self.homes.iter().filter(|(_, home)| *home == id).map(|(id, _)| id.clone()).collect();
        for container in inside {
            self.exit(&container, 137);
        }
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready.into();
        }
        self.announce(id);
    }

    pub(crate) fn announce(&self, sandbox: &str) {
        let metadata = self.sandboxes.get(sandbox).and_then(|sandbox| sandbox.metadata.clone());
        let status = v1::PodSandboxStatus { metadata, ..Default::default() };
        let event = v1::ContainerEventResponse { pod_sandbox_status: Some(status), ..Default::default() };
        // Nobody may be listening yet.
        let _ = self.events.send(event);
    }
}

fn is_running(container: &v1::ContainerStatus) -> bool {
    container.state == v1::ContainerState::ContainerRunning as i32
}

fn container_name(container: &v1::ContainerStatus) -> &str {
    container.metadata.as_ref().map_or("", |metadata| &metadata.name)
}

fn not_found(what: &str) -> RuntimeError {
    RuntimeError::new(Code::NotFound, format!("{what} not found"))
}

impl Runtime for Fake {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        Ok(v1::VersionResponse { runtime_name: "fake".into(), runtime_version: "1".into(), ..Default::default() })
    }

    async fn status(&self) -> Result<v1::StatusResponse, RuntimeError> {
        let features =
            v1::RuntimeHandlerFeatures { user_namespaces: self.state().user_namespaces, ..Default::default() };
        let handler = v1::RuntimeHandler { name: String::new(), features: Some(features) };
        Ok(v1::StatusResponse { runtime_handlers: vec![handler], ..Default::default() })
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, RuntimeError> {
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut state = self.call("RunPodSandbox", &metadata.attempt.to_string())?;
        let id = state.id("sandbox");
        let sandbox = v1::PodSandbox {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at: state.now(),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: handler.to_owned(),
        };
        state.sandboxes.insert(id.clone(), sandbox);
        let security = config.linux.and_then(|linux| linux.security_context);
        let namespaces = security.and_then(|security| security.namespace_options).unwrap_or_default();
        state.namespaces.insert(id.clone(), namespaces);
        state.announce(&id);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("StopPodSandbox", "")?.stop_sandbox(id);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("RemovePodSandbox", "")?.sandboxes.remove(id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        let state = self.state();
        let sandbox = state.sandboxes.get(id).ok_or_else(|| not_found(id))?;
        Ok(v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            network: Some(v1::PodSandboxNetworkStatus { ip: "10.0.0.2".into(), ..Default::default() }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: state.namespaces.get(id).cloned() }),
            }),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let state = self.state();
        let all = state.sandboxes.values();
        Ok(all.filter(|s| uid.is_none_or(|uid| s.labels[POD_UID_LABEL] == uid)).cloned().collect())
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<String, RuntimeError> {
        let config = request.config.unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut state = self.call("CreateContainer", &format!("{} {}", metadata.name, metadata.attempt))?;
        let id = state.id("container");
        let container = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::ContainerState::ContainerCreated.into(),
            created_at: state.now(),
            image: config.image,
            labels: config.labels,
            annotations: config.annotations,
            ..Default::default()
        };
        state.containers.insert(id.clone(), container);
        state.homes.insert(id.clone(), request.pod_sandbox_id);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.call("StartContainer", "")?;
        let now = state.now();
        let container = state.containers.get_mut(id).ok_or_else(|| not_found(id))?;
        container.state = v1::ContainerState::ContainerRunning.into();
        container.started_at = now;
        let sandbox = state.homes[id].clone();
        state.announce(&sandbox);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_seconds: u32) -> Result<(), RuntimeError> {
        self.call("StopContainer", &grace_seconds.to_string())?.exit(id, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.call("RemoveContainer", "")?.containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, uid: &str) -> Result<Vec<v1::Container>, RuntimeError> {
        let state = self.call("ListContainers", "")?;
        let all = state.containers.values().filter(|c| c.labels[POD_UID_LABEL] == uid);
        let listed = all.map(|c| v1::Container {
            id: c.id.clone(),
            pod_sandbox_id: state.homes[&c.id].clone(),
            metadata: c.metadata.clone(),
            image: c.image.clone(),
            state: c.state,
            created_at: c.created_at,
            labels: c.labels.clone(),
            annotations: c.annotations.clone(),
            ..Default::default()
        });
        Ok(listed.collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        self.state().containers.get(id).cloned().ok_or_else(|| not_found(id))
    }

    async fn reopen_container_log(&self, _: &str) -> Result<(), RuntimeError> {
        self.call("ReopenContainerLog", "").map(|_| ())
    }

    async fn exec(&self, _: v1::ExecRequest) -> Result<String, RuntimeError> {
        Err(not_found("exec"))
    }

    async fn attach(&self, _: v1::AttachRequest) -> Result<String, RuntimeError> {
        Err(not_found("attach"))
    }

    async fn port_forward(&self, _: v1::PortForwardRequest) -> Result<String, RuntimeError> {
        Err(not_found("port_forward"))
    }

    async fn list_pod_sandbox_stats(&self, _: Option<&str>) -> Result<Vec<v1::PodSandboxStats>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn get_container_events(
        &self,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, RuntimeError>>, RuntimeError> {
        let events = BroadcastStream::new(self.state().events.subscribe());
        Ok(events.map(|event| event.map_err(|_| not_found("an event that came too fast"))).boxed())
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, RuntimeError> {
        let state = self.state();
        let image = state.images.get(image);
        Ok(image.map(|image| v1::Image { id: image.clone(), repo_tags: vec![image.clone()], ..Default::default() }))
    }

    async fn pull_image(&self, image: &str, _: Option<v1::PodSandboxConfig>) -> Result<String, RuntimeError> {
        self.call("PullImage", image)?.images.insert(image.to_owned());
        Ok(image.to_owned())
    }

    async fn pull(&self, _: &str) -> Result<BoxStream<'static, Result<PullResponse, RuntimeError>>, RuntimeError> {
        Err(RuntimeError::new(Code::Unimplemented, "no progress"))
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        self.call("RemoveImage", image)?.images.remove(image);
        Ok(())
    }

    async fn load(
        &self,
        _: mpsc::Receiver<LoadRequest>,
    ) -> Result<BoxStream<'static, Result<LoadResponse, RuntimeError>>, RuntimeError> {
        Err(RuntimeError::new(Code::Unimplemented, "no archives"))
    }
}
