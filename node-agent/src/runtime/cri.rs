//! [`Runtime`] over gRPC: any CRI v1 server on a unix socket.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::BoxStream;
use podbus_common_cri::runtime as v1;
use podbus_common_cri::runtime::image_service_client::ImageServiceClient;
use podbus_common_cri::runtime::runtime_service_client::RuntimeServiceClient;
use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;
use podbus_common_cri::sandbox::{LoadRequest, LoadResponse, PullRequest, PullResponse};
use podbus_common_cri::{MESSAGE_BYTES_MAX, connect_lazy};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::config::POD_UID_LABEL;
use super::{Runtime, RuntimeError};
use crate::telemetry::Telemetry;

/// How long the socket may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The kubelet's deadline of a CRI call (`runtimeRequestTimeout`).
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// RunPodSandbox may have to wait for a network plugin: the kubelet gives it twice the time.
const RUN_SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// A pull ends by progress or not at all; this only bounds a runtime that hangs.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

/// A runtime on a unix socket. Reconnects by itself; meanwhile calls fail as unavailable.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    archive: ImageArchiveClient<Channel>,
    telemetry: Telemetry,
}

impl Cri {
    /// Connects at the first call. Calls are counted.
    pub(crate) fn new(socket: &Path, telemetry: Telemetry) -> Self {
        let channel = connect_lazy(socket, CONNECT_TIMEOUT);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            image: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            archive: ImageArchiveClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            telemetry,
        }
    }

    /// What the metrics of containers are called and mean.
    pub(crate) async fn metric_descriptors(&self) -> Result<Vec<v1::MetricDescriptor>, RuntimeError> {
        let mut client = self.runtime.clone();
        let call = client.list_metric_descriptors(v1::ListMetricDescriptorsRequest {});
        Ok(self.within(CALL_TIMEOUT, "ListMetricDescriptors", call).await?.descriptors)
    }

    /// The metrics of all pods.
    pub(crate) async fn pod_sandbox_metrics(&self) -> Result<Vec<v1::PodSandboxMetrics>, RuntimeError> {
        let mut client = self.runtime.clone();
        let call = client.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {});
        Ok(self.within(CALL_TIMEOUT, "ListPodSandboxMetrics", call).await?.pod_metrics)
    }

    /// Bounds a call, so that a runtime that hangs does not hang a worker.
    async fn within<T>(
        &self,
        timeout: Duration,
        call: &'static str,
        future: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, RuntimeError> {
        let began = Instant::now();
        let result = match tokio::time::timeout(timeout, future).await {
            Ok(result) => result.map(Response::into_inner).map_err(RuntimeError::from),
            Err(_) => Err(RuntimeError {
                code: Code::DeadlineExceeded,
                message: format!("the runtime did not answer {call} within {} s", timeout.as_secs()),
                lost: false,
            }),
        };
        self.telemetry.called(operation_type(call), began.elapsed(), result.is_err());
        result
    }
}

/// The kubelet's names of calls, which dashboards know.
fn operation_type(call: &str) -> &'static str {
    match call {
        "Version" => "version",
        "Status" => "status",
        "RunPodSandbox" => "run_podsandbox",
        "StopPodSandbox" => "stop_podsandbox",
        "RemovePodSandbox" => "remove_podsandbox",
        "PodSandboxStatus" => "podsandbox_status",
        "ListPodSandbox" => "list_podsandbox",
        "ListPodSandboxStats" => "list_podsandbox_stats",
        "ListPodSandboxMetrics" => "list_podsandbox_metrics",
        "ListMetricDescriptors" => "list_metric_descriptors",
        "CreateContainer" => "create_container",
        "StartContainer" => "start_container",
        "StopContainer" => "stop_container",
        "RemoveContainer" => "remove_container",
        "ListContainers" => "list_containers",
        "ContainerStatus" => "container_status",
        "ReopenContainerLog" => "reopen_container_log",
        "Exec" => "exec",
        "Attach" => "attach",
        "PortForward" => "port_forward",
        "ImageStatus" => "image_status",
        "PullImage" => "pull_image",
        "ListImages" => "list_images",
        "RemoveImage" => "remove_image",
        _ => "other",
    }
}

impl From<Status> for RuntimeError {
    fn from(status: Status) -> Self {
        // What the runtime itself answers came over the wire and has no source; a registry that cannot be reached is
        // `Unavailable` too.
        let lost = std::error::Error::source(&status).is_some();
        Self { code: status.code(), message: status.message().to_owned(), lost }
    }
}

fn uid_selector(uid: &str) -> HashMap<String, String> {
    HashMap::from([(POD_UID_LABEL.to_owned(), uid.to_owned())])
}

fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

fn missing(what: &str) -> RuntimeError {
    RuntimeError::new(Code::Internal, format!("the runtime's answer has no {what}"))
}

impl Runtime for Cri {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        self.within(CALL_TIMEOUT, "Version", self.runtime.clone().version(request)).await
    }

    async fn status(&self) -> Result<v1::StatusResponse, RuntimeError> {
        self.within(CALL_TIMEOUT, "Status", self.runtime.clone().status(v1::StatusRequest { verbose: true })).await
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String, RuntimeError> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let call =
            self.within(RUN_SANDBOX_TIMEOUT, "RunPodSandbox", self.runtime.clone().run_pod_sandbox(request)).await?;
        Ok(call.pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.within(CALL_TIMEOUT, "StopPodSandbox", self.runtime.clone().stop_pod_sandbox(request)).await?;
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.within(CALL_TIMEOUT, "RemovePodSandbox", self.runtime.clone().remove_pod_sandbox(request)).await?;
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let reply =
            self.within(CALL_TIMEOUT, "PodSandboxStatus", self.runtime.clone().pod_sandbox_status(request)).await?;
        reply.status.ok_or_else(|| missing("sandbox status"))
    }

    async fn list_pod_sandbox(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let filter = uid.map(|uid| v1::PodSandboxFilter { label_selector: uid_selector(uid), ..Default::default() });
        let request = v1::ListPodSandboxRequest { filter };
        Ok(self.within(CALL_TIMEOUT, "ListPodSandbox", self.runtime.clone().list_pod_sandbox(request)).await?.items)
    }

    async fn create_container(&self, request: v1::CreateContainerRequest) -> Result<String, RuntimeError> {
        let reply =
            self.within(CALL_TIMEOUT, "CreateContainer", self.runtime.clone().create_container(request)).await?;
        Ok(reply.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.within(CALL_TIMEOUT, "StartContainer", self.runtime.clone().start_container(request)).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace_seconds: u32) -> Result<(), RuntimeError> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: i64::from(grace_seconds) };
        let timeout = CALL_TIMEOUT + Duration::from_secs(u64::from(grace_seconds));
        self.within(timeout, "StopContainer", self.runtime.clone().stop_container(request)).await?;
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        self.within(CALL_TIMEOUT, "RemoveContainer", self.runtime.clone().remove_container(request)).await?;
        Ok(())
    }

    async fn list_containers(&self, uid: &str) -> Result<Vec<v1::Container>, RuntimeError> {
        let filter = Some(v1::ContainerFilter { label_selector: uid_selector(uid), ..Default::default() });
        let request = v1::ListContainersRequest { filter };
        Ok(self.within(CALL_TIMEOUT, "ListContainers", self.runtime.clone().list_containers(request)).await?.containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let reply =
            self.within(CALL_TIMEOUT, "ContainerStatus", self.runtime.clone().container_status(request)).await?;
        reply.status.ok_or_else(|| missing("container status"))
    }

    async fn reopen_container_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.within(CALL_TIMEOUT, "ReopenContainerLog", self.runtime.clone().reopen_container_log(request)).await?;
        Ok(())
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String, RuntimeError> {
        Ok(self.within(CALL_TIMEOUT, "Exec", self.runtime.clone().exec(request)).await?.url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String, RuntimeError> {
        Ok(self.within(CALL_TIMEOUT, "Attach", self.runtime.clone().attach(request)).await?.url)
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String, RuntimeError> {
        Ok(self.within(CALL_TIMEOUT, "PortForward", self.runtime.clone().port_forward(request)).await?.url)
    }

    async fn list_pod_sandbox_stats(&self, uid: Option<&str>) -> Result<Vec<v1::PodSandboxStats>, RuntimeError> {
        let selector =
            uid.map(|uid| v1::PodSandboxStatsFilter { label_selector: uid_selector(uid), ..Default::default() });
        let request = v1::ListPodSandboxStatsRequest { filter: selector };
        let mut client = self.runtime.clone();
        Ok(self.within(CALL_TIMEOUT, "ListPodSandboxStats", client.list_pod_sandbox_stats(request)).await?.stats)
    }

    async fn get_container_events(
        &self,
    ) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse, RuntimeError>>, RuntimeError> {
        let mut client = self.runtime.clone();
        // No deadline: some servers send their headers with the first event only.
        let events = client.get_container_events(v1::GetEventsRequest {}).await?.into_inner();
        Ok(events.map(|event| event.map_err(RuntimeError::from)).boxed())
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        Ok(self.within(CALL_TIMEOUT, "ImageStatus", self.image.clone().image_status(request)).await?.image)
    }

    async fn pull_image(&self, image: &str, sandbox: Option<v1::PodSandboxConfig>) -> Result<String, RuntimeError> {
        let request = v1::PullImageRequest { image: Some(image_spec(image)), auth: None, sandbox_config: sandbox };
        Ok(self.within(PULL_TIMEOUT, "PullImage", self.image.clone().pull_image(request)).await?.image_ref)
    }

    async fn pull(&self, image: &str) -> Result<BoxStream<'static, Result<PullResponse, RuntimeError>>, RuntimeError> {
        let request = PullRequest { image: image.to_owned() };
        let progress = self.archive.clone().pull(request).await?.into_inner();
        Ok(progress.map(|message| message.map_err(RuntimeError::from)).boxed())
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        let request = v1::ListImagesRequest::default();
        Ok(self.within(CALL_TIMEOUT, "ListImages", self.image.clone().list_images(request)).await?.images)
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveImageRequest { image: Some(image_spec(image)) };
        self.within(CALL_TIMEOUT, "RemoveImage", self.image.clone().remove_image(request)).await?;
        Ok(())
    }

    async fn load(
        &self,
        archive: mpsc::Receiver<LoadRequest>,
    ) -> Result<BoxStream<'static, Result<LoadResponse, RuntimeError>>, RuntimeError> {
        let progress = self.archive.clone().load(ReceiverStream::new(archive)).await?.into_inner();
        Ok(progress.map(|message| message.map_err(RuntimeError::from)).boxed())
    }
}
