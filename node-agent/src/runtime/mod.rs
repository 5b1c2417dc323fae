//! The container runtime, as the agent sees it: CRI and nothing else.

pub(crate) mod config;
pub(crate) mod cri;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod observe;
pub(crate) mod watch;

use std::future::Future;

use futures::stream::BoxStream;
use podbus_common_cri::runtime as v1;
use podbus_common_cri::sandbox::{LoadRequest, LoadResponse, PullResponse};
use tokio::sync::mpsc;
use tonic::Code;

/// The calls that the agent makes, named as CRI names them.
///
/// Every call has a deadline of its own. A dropped call may or may not have happened: the caller observes again.
pub(crate) trait Runtime: Clone + Send + Sync + 'static {
    /// Name and version of the runtime.
    fn version(&self) -> impl Future<Output = Result<v1::VersionResponse, RuntimeError>> + Send;
    /// Its conditions, and with them what it tells about itself.
    fn status(&self) -> impl Future<Output = Result<v1::StatusResponse, RuntimeError>> + Send;
    /// Makes a sandbox whose containers are made by `handler` (empty: the runtime's default), and gives its ID.
    fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// Stops a sandbox and all in it.
    fn stop_pod_sandbox(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Removes a sandbox and all of it.
    fn remove_pod_sandbox(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// One sandbox with its addresses.
    fn pod_sandbox_status(&self, id: &str) -> impl Future<Output = Result<v1::PodSandboxStatus, RuntimeError>> + Send;
    /// The sandboxes of one pod UID, or all.
    fn list_pod_sandbox(
        &self,
        uid: Option<&str>,
    ) -> impl Future<Output = Result<Vec<v1::PodSandbox>, RuntimeError>> + Send;
    /// Makes a container and gives its ID.
    fn create_container(
        &self,
        request: v1::CreateContainerRequest,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// Starts a container.
    fn start_container(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// SIGTERM, and SIGKILL after `grace_seconds`.
    fn stop_container(&self, id: &str, grace_seconds: u32) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Removes a container.
    fn remove_container(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// The containers of one pod UID.
    fn list_containers(&self, uid: &str) -> impl Future<Output = Result<Vec<v1::Container>, RuntimeError>> + Send;
    /// One container with its times and its exit.
    fn container_status(&self, id: &str) -> impl Future<Output = Result<v1::ContainerStatus, RuntimeError>> + Send;
    /// Opens a container's log anew after it was renamed.
    fn reopen_container_log(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// A URL where the command can be joined.
    fn exec(&self, request: v1::ExecRequest) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// A URL where the first process of a container can be joined.
    fn attach(&self, request: v1::AttachRequest) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// A URL where ports of a sandbox can be reached.
    fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// The containers' and pods' use of CPU and memory; of one pod UID, or all.
    fn list_pod_sandbox_stats(
        &self,
        uid: Option<&str>,
    ) -> impl Future<Output = Result<Vec<v1::PodSandboxStats>, RuntimeError>> + Send;
    /// What happens to containers, from now on.
    fn get_container_events(
        &self,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<v1::ContainerEventResponse, RuntimeError>>, RuntimeError>>
    + Send;
    /// The image, if the node has it.
    fn image_status(&self, image: &str) -> impl Future<Output = Result<Option<v1::Image>, RuntimeError>> + Send;
    /// Pulls an image and gives its reference.
    fn pull_image(
        &self,
        image: &str,
        sandbox: Option<v1::PodSandboxConfig>,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;
    /// Pulls an image and tells how far it is. Not part of CRI.
    fn pull(
        &self,
        image: &str,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<PullResponse, RuntimeError>>, RuntimeError>> + Send;
    /// All images of the node.
    fn list_images(&self) -> impl Future<Output = Result<Vec<v1::Image>, RuntimeError>> + Send;
    /// Removes an image.
    fn remove_image(&self, image: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Loads an archive. Not part of CRI.
    fn load(
        &self,
        archive: mpsc::Receiver<LoadRequest>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<LoadResponse, RuntimeError>>, RuntimeError>> + Send;
}

/// A call that the runtime refused, or that did not reach it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RuntimeError {
    /// The gRPC code.
    pub(crate) code: Code,
    /// The runtime's sentence.
    pub(crate) message: String,
    /// There was no answer: the runtime is away.
    pub(crate) lost: bool,
}

impl RuntimeError {
    /// An answer of the runtime, or one in its place.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), lost: false }
    }

    /// Whether what the call was about is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// Whether the runtime itself cannot be reached.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.lost
    }
}

/// Makes a call that may be repeated: what is already gone was removed.
pub(crate) fn ignore_not_found(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
