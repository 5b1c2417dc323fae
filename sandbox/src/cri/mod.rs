//! The RuntimeService of CRI v1: requests in, answers out; what they mean is in [`crate::runtime`].

mod call;
mod filter;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use podbus_common_cri::runtime::runtime_service_server::RuntimeService;
use podbus_common_cri::runtime::*;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

pub(crate) use self::call::CallLayer;
pub(crate) use self::status::conditions;
use crate::metrics;
use crate::runtime::{Container, Runtime, RuntimeError, Sandbox};
use crate::streaming::Streaming;

/// Items of a list in one message of a stream.
const STREAM_ITEMS: usize = 256;

type Reply<T> = Result<Response<T>, Status>;
type Items<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub(crate) struct Cri {
    runtime: Arc<Runtime>,
    streaming: Streaming,
    /// The daemon's configuration, for people: JSON.
    config: String,
}

impl Cri {
    pub(crate) fn new(runtime: Arc<Runtime>, streaming: Streaming, config: String) -> Self {
        Self { runtime, streaming, config }
    }

    /// Runs what changes something to its end, also when the client has gone: nothing is left half-made.
    async fn to_the_end<T: Send + 'static>(
        work: impl Future<Output = Result<T, RuntimeError>> + Send + 'static,
    ) -> Result<T, Status> {
        match tokio::spawn(work).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Status::internal(format!("the request failed inside: {error}"))),
        }
    }

    fn sandbox_if_any(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.runtime.sandbox(id).ok()
    }

    fn container_if_any(&self, id: &str) -> Option<Arc<Container>> {
        self.runtime.container(id).ok()
    }

    fn listed_sandboxes(&self, filter: Option<&PodSandboxFilter>) -> Vec<PodSandbox> {
        let all = self.runtime.sandboxes();
        all.iter()
            .map(|it| it.item())
            .filter(|item| filter.is_none_or(|filter| filter::sandbox(filter, item)))
            .collect()
    }

    fn listed_containers(&self, filter: Option<&ContainerFilter>) -> Vec<podbus_common_cri::runtime::Container> {
        let all = self.runtime.containers();
        all.iter()
            .map(|it| it.item())
            .filter(|item| filter.is_none_or(|filter| filter::container(filter, item)))
            .collect()
    }

    async fn listed_stats(&self, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>, Status> {
        self.measure(move |runtime| {
            let all = runtime.containers();
            let wanted =
                |it: &&Arc<Container>| filter.as_ref().is_none_or(|filter| filter::container_stats(filter, &it.item()));
            all.iter().filter(wanted).map(|it| runtime.container_stats(it)).collect()
        })
        .await
    }

    async fn listed_sandbox_stats(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Status> {
        self.measure(move |runtime| {
            let all = runtime.sandboxes();
            let is_asked_for = |it: &Sandbox| filter.as_ref().is_none_or(|f| filter::sandbox_stats(f, &it.item()));
            let wanted = all.iter().filter(|it| it.is_ready() && is_asked_for(it));
            wanted.map(|it| runtime.sandbox_stats(it)).collect()
        })
        .await
    }

    async fn listed_metrics(&self) -> Result<Vec<PodSandboxMetrics>, Status> {
        self.measure(|runtime| {
            let all = runtime.sandboxes();
            all.iter().filter(|it| it.is_ready()).map(|it| runtime.metrics(it)).collect()
        })
        .await
    }

    /// Reads the accounts of many cgroups: some ten files each, off the async workers.
    async fn measure<T: Send + 'static>(&self, work: impl FnOnce(&Runtime) -> T + Send + 'static) -> Result<T, Status> {
        let runtime = Arc::clone(&self.runtime);
        let measured = tokio::task::spawn_blocking(move || work(&runtime)).await;
        measured.map_err(|error| Status::internal(format!("the measurement failed inside: {error}")))
    }
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the request has no {what}"))
}

fn unsupported<T>(what: &str) -> Reply<T> {
    Err(Status::unimplemented(format!("{what} is not supported by this runtime")))
}

/// A list as a stream of messages, none of them empty.
fn pieces<T: Send + 'static, M: 'static>(list: Vec<T>, message: impl Fn(Vec<T>) -> M + Send + 'static) -> Items<M> {
    let mut list = list.into_iter();
    Box::pin(stream::iter(std::iter::from_fn(move || {
        let piece: Vec<T> = list.by_ref().take(STREAM_ITEMS).collect();
        (!piece.is_empty()).then(|| Ok(message(piece)))
    })))
}

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, _: Request<VersionRequest>) -> Reply<VersionResponse> {
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(), // of this message, as every runtime answers
            runtime_name: "podbus".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Reply<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("config"))?;
        let runtime = Arc::clone(&self.runtime);
        let made = Self::to_the_end(async move { runtime.run_sandbox(config, &request.runtime_handler).await });
        Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id: made.await? }))
    }

    async fn stop_pod_sandbox(&self, request: Request<StopPodSandboxRequest>) -> Reply<StopPodSandboxResponse> {
        if let Some(sandbox) = self.sandbox_if_any(&request.into_inner().pod_sandbox_id) {
            let runtime = Arc::clone(&self.runtime);
            Self::to_the_end(async move { runtime.stop_sandbox(&sandbox).await }).await?;
        }
        Ok(Response::new(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(&self, request: Request<RemovePodSandboxRequest>) -> Reply<RemovePodSandboxResponse> {
        if let Some(sandbox) = self.sandbox_if_any(&request.into_inner().pod_sandbox_id) {
            let runtime = Arc::clone(&self.runtime);
            Self::to_the_end(async move { runtime.remove_sandbox(&sandbox).await }).await?;
        }
        Ok(Response::new(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(&self, request: Request<PodSandboxStatusRequest>) -> Reply<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        let mut answer = PodSandboxStatusResponse { status: Some(sandbox.status()), ..Default::default() };
        if request.verbose {
            answer.info.insert("info".to_owned(), sandbox.info().to_string());
        }
        Ok(Response::new(answer))
    }

    async fn list_pod_sandbox(&self, request: Request<ListPodSandboxRequest>) -> Reply<ListPodSandboxResponse> {
        let items = self.listed_sandboxes(request.into_inner().filter.as_ref());
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Items<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        let list = self.listed_sandboxes(request.into_inner().filter.as_ref());
        Ok(Response::new(pieces(list, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Reply<CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| missing("config"))?;
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        let runtime = Arc::clone(&self.runtime);
        let made = Self::to_the_end(async move { runtime.create_container(&sandbox, config).await });
        Ok(Response::new(CreateContainerResponse { container_id: made.await? }))
    }

    async fn start_container(&self, request: Request<StartContainerRequest>) -> Reply<StartContainerResponse> {
        let container = self.runtime.container(&request.into_inner().container_id)?;
        let runtime = Arc::clone(&self.runtime);
        Self::to_the_end(async move { runtime.start_container(&container).await }).await?;
        Ok(Response::new(StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Reply<StopContainerResponse> {
        let request = request.into_inner();
        if let Some(container) = self.container_if_any(&request.container_id) {
            let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
            let runtime = Arc::clone(&self.runtime);
            Self::to_the_end(async move { runtime.stop_container(&container, grace).await }).await?;
        }
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Reply<RemoveContainerResponse> {
        if let Some(container) = self.container_if_any(&request.into_inner().container_id) {
            let runtime = Arc::clone(&self.runtime);
            Self::to_the_end(async move { runtime.remove_container(&container).await }).await?;
        }
        Ok(Response::new(RemoveContainerResponse {}))
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Reply<ListContainersResponse> {
        let containers = self.listed_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(ListContainersResponse { containers }))
    }

    type StreamContainersStream = Items<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        let list = self.listed_containers(request.into_inner().filter.as_ref());
        Ok(Response::new(pieces(list, |containers| StreamContainersResponse { containers })))
    }

    async fn container_status(&self, request: Request<ContainerStatusRequest>) -> Reply<ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        let mut answer = ContainerStatusResponse { status: Some(container.status()), ..Default::default() };
        if request.verbose {
            answer.info.insert("info".to_owned(), container.info().to_string());
        }
        Ok(Response::new(answer))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        if let Some(change) = &request.linux {
            self.runtime.update_container(&container, change)?;
        }
        Ok(Response::new(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Reply<ReopenContainerLogResponse> {
        let container = self.runtime.container(&request.into_inner().container_id)?;
        self.runtime.reopen_log(&container).await?;
        Ok(Response::new(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        // Dropped with the request: a client that leaves takes its command along.
        let (stdout, stderr, exit_code) = self.runtime.exec_sync(&container, &request.cmd, timeout).await?;
        Ok(Response::new(ExecSyncResponse { stdout, stderr, exit_code }))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Reply<ExecResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        Ok(Response::new(ExecResponse { url: self.streaming.exec(container, request)? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Reply<AttachResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id)?;
        Ok(Response::new(AttachResponse { url: self.streaming.attach(container, request)? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Reply<PortForwardResponse> {
        let request = request.into_inner();
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        Ok(Response::new(PortForwardResponse { url: self.streaming.port_forward(sandbox, request.port)? }))
    }

    async fn container_stats(&self, request: Request<ContainerStatsRequest>) -> Reply<ContainerStatsResponse> {
        let container = self.runtime.container(&request.into_inner().container_id)?;
        let stats = self.measure(move |runtime| runtime.container_stats(&container)).await?;
        Ok(Response::new(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Reply<ListContainerStatsResponse> {
        let stats = self.listed_stats(request.into_inner().filter).await?;
        Ok(Response::new(ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Items<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        let list = self.listed_stats(request.into_inner().filter).await?;
        Ok(Response::new(pieces(list, |container_stats| StreamContainerStatsResponse { container_stats })))
    }

    async fn pod_sandbox_stats(&self, request: Request<PodSandboxStatsRequest>) -> Reply<PodSandboxStatsResponse> {
        let sandbox = self.runtime.sandbox(&request.into_inner().pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Status::unavailable(format!("the sandbox {} is not ready", sandbox.body.id)));
        }
        let stats = self.measure(move |runtime| runtime.sandbox_stats(&sandbox)).await?;
        Ok(Response::new(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Reply<ListPodSandboxStatsResponse> {
        let stats = self.listed_sandbox_stats(request.into_inner().filter).await?;
        Ok(Response::new(ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Items<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        let list = self.listed_sandbox_stats(request.into_inner().filter).await?;
        Ok(Response::new(pieces(list, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Reply<UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config);
        if let Some(network) = config.filter(|network| !network.pod_cidr.is_empty()) {
            // The pod CIDR is a flag of this daemon: what a client thinks of it changes nothing.
            tracing::debug!(podCIDR = network.pod_cidr, "a client announced a pod CIDR");
        }
        Ok(Response::new(UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        let conditions = self.measure(conditions).await?;
        let info = || {
            let warm_networks = self.runtime.warm_networks().to_string();
            [("config".to_owned(), self.config.clone()), ("warmNetworks".to_owned(), warm_networks)]
        };
        let info = request.into_inner().verbose.then(info);
        let handler = |name: &str| {
            let user_namespaces = self.runtime.has_user_namespaces(name);
            let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces };
            RuntimeHandler { name: name.to_owned(), features: Some(features) }
        };
        Ok(Response::new(StatusResponse {
            status: Some(RuntimeStatus { conditions }),
            info: info.into_iter().flatten().collect(),
            runtime_handlers: self.runtime.handlers.names().map(handler).collect(),
            features: Some(RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
                mount_options: true,
            }),
        }))
    }

    async fn checkpoint_container(&self, _: Request<CheckpointContainerRequest>) -> Reply<CheckpointContainerResponse> {
        unsupported("checkpointing")
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Reply<CheckpointPodResponse> {
        unsupported("checkpointing")
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
        unsupported("checkpointing")
    }

    type GetContainerEventsStream = Items<ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<GetEventsRequest>) -> Reply<Self::GetContainerEventsStream> {
        let events = BroadcastStream::new(self.runtime.events.subscribe()).map(|event| {
            // The client lists again, and knows more than the events that it missed would have told.
            event.map_err(|lagged| Status::data_loss(format!("the client is too slow: {lagged}")))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Reply<ListMetricDescriptorsResponse> {
        Ok(Response::new(ListMetricDescriptorsResponse { descriptors: metrics::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Reply<ListPodSandboxMetricsResponse> {
        Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics: self.listed_metrics().await? }))
    }

    type StreamPodSandboxMetricsStream = Items<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        let list = self.listed_metrics().await?;
        Ok(Response::new(pieces(list, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics })))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Reply<RuntimeConfigResponse> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
        Ok(Response::new(RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        // The pod's cgroup is its client's: what it tells of it is kept for people who look at the sandbox.
        let request = request.into_inner();
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id)?;
        sandbox.keep_resources(request.overhead, request.resources);
        Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
    }
}
