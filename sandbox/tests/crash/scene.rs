//! The requests of CRI that change something, each with what it needs, and what is true before and after it.

use podbus_common_cri::runtime::image_service_client::ImageServiceClient;
use podbus_common_cri::runtime::*;
use podbus_common_cri::sandbox::LoadRequest;
use podbus_common_cri::sandbox::image_archive_client::ImageArchiveClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::images::pack::{Archive, docker_archive};
use crate::images::server::Server;
use crate::runtime::host::{Host, container, pod};

/// A request that may be cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    UpdateContainerResources,
    ReopenContainerLog,
    ExecSync,
    PullImage,
    Load,
    RemoveImage,
}

const POD: &str = "web";
const HOST_PORT: i32 = 8000;
const LOADED: &str = "localhost/loaded:latest";
const MEMORY_BYTES: i64 = 64 << 20;
const MORE_MEMORY_BYTES: i64 = 96 << 20;
/// Ends at the stop signal.
const SCRIPT: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";

/// What a request is about.
pub(crate) struct Scene {
    request: Request,
    sandbox_config: PodSandboxConfig,
    container_config: ContainerConfig,
    sandbox: String,
    container: String,
    registry: Option<Server>,
}

/// What the node says of the scene.
#[derive(Debug)]
struct Seen {
    /// Those of the scene.
    sandboxes: Vec<(String, PodSandboxState)>,
    container: Option<ContainerStatus>,
    /// Whether the scene's image is there.
    image: bool,
}

impl Scene {
    /// Brings the node to where the request is next. The node is empty but for its image.
    pub(crate) async fn set(host: &mut Host, request: Request) -> Self {
        use Request::*;
        let volume = host.path("volume");
        std::fs::create_dir_all(&volume).unwrap();
        let mapping = PortMapping { container_port: 80, host_port: HOST_PORT, ..PortMapping::default() };
        let logs = host.path("logs").display().to_string();
        let sandbox_config = PodSandboxConfig { port_mappings: vec![mapping], log_directory: logs, ..pod(POD) };
        let mount =
            Mount { host_path: volume.display().to_string(), container_path: "/volume".into(), ..Mount::default() };
        let resources = LinuxContainerResources { memory_limit_in_bytes: MEMORY_BYTES, ..Default::default() };
        let linux = Some(LinuxContainerConfig { resources: Some(resources), ..Default::default() });
        let container_config = ContainerConfig { mounts: vec![mount], linux, ..container("main", SCRIPT) };
        let mut scene = Self {
            request,
            sandbox_config,
            container_config,
            sandbox: String::new(),
            container: String::new(),
            registry: None,
        };
        match request {
            RunPodSandbox | Load => {}
            PullImage => scene.registry = Some(registry(host)),
            RemoveImage => load(host).await.unwrap(),
            _ => {
                scene.run_sandbox(host).await.unwrap();
                if request != CreateContainer {
                    scene.create_container(host).await.unwrap();
                }
                if !matches!(request, CreateContainer | StartContainer) {
                    scene.start_container(host).await.unwrap();
                    host.wait_for_log(&scene.container).await;
                }
            }
        }
        scene
    }

    /// Sends the request.
    pub(crate) async fn send(&mut self, host: &mut Host) -> Result<(), Status> {
        let (pod_sandbox_id, container_id) = (self.sandbox.clone(), self.container.clone());
        match self.request {
            Request::RunPodSandbox => self.run_sandbox(host).await,
            Request::StopPodSandbox => {
                host.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await.map(drop)
            }
            Request::RemovePodSandbox => {
                host.cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.map(drop)
            }
            Request::CreateContainer => self.create_container(host).await,
            Request::StartContainer => self.start_container(host).await,
            Request::StopContainer => {
                host.cri.stop_container(StopContainerRequest { container_id, timeout: 1 }).await.map(drop)
            }
            Request::RemoveContainer => {
                host.cri.remove_container(RemoveContainerRequest { container_id }).await.map(drop)
            }
            Request::UpdateContainerResources => {
                let resources =
                    LinuxContainerResources { memory_limit_in_bytes: MORE_MEMORY_BYTES, ..Default::default() };
                let request =
                    UpdateContainerResourcesRequest { container_id, linux: Some(resources), ..Default::default() };
                host.cri.update_container_resources(request).await.map(drop)
            }
            Request::ReopenContainerLog => {
                host.cri.reopen_container_log(ReopenContainerLogRequest { container_id }).await.map(drop)
            }
            Request::ExecSync => {
                let cmd = ["sh", "-c", "echo hi; exit 3"].map(str::to_owned).to_vec();
                let answer = host.cri.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 10 }).await?.into_inner();
                let is_right = (answer.stdout.as_slice(), answer.exit_code) == (&b"hi\n"[..], 3);
                is_right.then_some(()).ok_or_else(|| Status::aborted(format!("the command was killed: {answer:?}")))
            }
            Request::PullImage => {
                let request = PullImageRequest { image: Some(self.image()), ..Default::default() };
                images(host).pull_image(request).await.map(drop)
            }
            Request::Load => load(host).await,
            Request::RemoveImage => {
                let request = RemoveImageRequest { image: Some(self.image()) };
                images(host).remove_image(request).await.map(drop)
            }
        }
    }

    async fn run_sandbox(&mut self, host: &mut Host) -> Result<(), Status> {
        let request =
            RunPodSandboxRequest { config: Some(self.sandbox_config.clone()), runtime_handler: host.handler.clone() };
        self.sandbox = host.cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        Ok(())
    }

    async fn create_container(&mut self, host: &mut Host) -> Result<(), Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: self.sandbox.clone(),
            config: Some(self.container_config.clone()),
            sandbox_config: Some(self.sandbox_config.clone()),
        };
        self.container = host.cri.create_container(request).await?.into_inner().container_id;
        Ok(())
    }

    async fn start_container(&self, host: &mut Host) -> Result<(), Status> {
        host.cri.start_container(StartContainerRequest { container_id: self.container.clone() }).await.map(drop)
    }

    /// The image that the scene is about.
    fn image(&self) -> ImageSpec {
        let pulled = self.registry.as_ref().map(|registry| format!("{}/app:1", registry.address));
        ImageSpec { image: pulled.unwrap_or_else(|| LOADED.to_owned()), ..ImageSpec::default() }
    }

    /// Looks at a node whose daemon has been killed and started again: what is there is whole, and as it was either
    /// before the request or after it. After it, if the request was `answered`.
    pub(crate) async fn check(&mut self, host: &mut Host, answered: bool) {
        use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        use PodSandboxState::{SandboxNotready, SandboxReady};
        let seen = self.see(host).await;
        let is_whole = !matches!(self.request, Request::PullImage | Request::Load | Request::RemoveImage);
        assert!(!is_whole || seen.sandboxes.len() <= 1, "the sandbox is there twice: {seen:?}");
        let sandbox = seen.sandboxes.first().map(|(_, state)| *state);
        let state = seen.container.as_ref().map(ContainerStatus::state);
        let (before, after) = match self.request {
            Request::RunPodSandbox => (sandbox.is_none(), sandbox == Some(SandboxReady)),
            Request::StopPodSandbox => {
                let is_dead = sandbox == Some(SandboxNotready) && state == Some(ContainerExited);
                (sandbox.is_some() && state.is_some(), is_dead)
            }
            // What it removes it removes one after the other.
            Request::RemovePodSandbox => (sandbox.is_some(), sandbox.is_none()),
            Request::CreateContainer => (state.is_none(), state == Some(ContainerCreated)),
            Request::StartContainer => (state == Some(ContainerCreated), state == Some(ContainerRunning)),
            Request::StopContainer => (state == Some(ContainerRunning), state == Some(ContainerExited)),
            Request::RemoveContainer => (matches!(state, Some(ContainerRunning | ContainerExited)), state.is_none()),
            Request::UpdateContainerResources => {
                let limit = seen.limit();
                (limit == Some(MEMORY_BYTES), limit == Some(MORE_MEMORY_BYTES))
            }
            Request::ReopenContainerLog | Request::ExecSync => {
                let runs = state == Some(ContainerRunning);
                (runs, runs)
            }
            Request::PullImage | Request::Load => (!seen.image, seen.image),
            Request::RemoveImage => (seen.image, !seen.image),
        };
        assert!(after || !answered && before, "answered: {answered}, and then: {seen:?}");
        if let Some(code) = seen.container.as_ref().filter(|it| it.state() == ContainerExited).map(|it| it.exit_code) {
            assert!([7, 137].contains(&code), "an exit code that nothing gave: {seen:?}");
        }
    }

    /// Looks at a node where a shim, its maker or a child of it died amid the request, and the daemon saw it.
    pub(crate) async fn check_survivors(&mut self, host: &mut Host, answered: bool) {
        use ContainerState::{ContainerExited, ContainerRunning};
        let seen = self.see(host).await;
        let is_ready = seen.sandboxes.iter().any(|(_, state)| *state == PodSandboxState::SandboxReady);
        let state = seen.container.as_ref().map(ContainerStatus::state);
        let is_right = match self.request {
            Request::RunPodSandbox => answered != seen.sandboxes.is_empty(),
            // A start is not tried again, and nothing runs without its sandbox.
            Request::StartContainer if answered && is_ready => {
                matches!(state, Some(ContainerRunning | ContainerExited))
            }
            Request::StartContainer | Request::StopPodSandbox => state == Some(ContainerExited),
            Request::StopContainer if answered => state == Some(ContainerExited),
            _ => is_ready == (state == Some(ContainerRunning)) || state == Some(ContainerExited),
        };
        assert!(is_right, "answered: {answered}, and then: {seen:?}");
        if is_ready {
            assert_eq!(host.output(&seen.sandboxes[0].0, "probe", "echo alive").await, "alive\n");
        } else if self.request == Request::RunPodSandbox && !answered {
            self.run_sandbox(host).await.unwrap();
        }
    }

    /// Sends the request again, which has to do what it says.
    pub(crate) async fn repeat(&mut self, host: &mut Host) {
        let seen = self.see(host).await;
        if self.request == Request::RunPodSandbox {
            let found = seen.sandboxes.first().map(|(id, _)| id.clone());
            self.send(host).await.unwrap();
            assert!(found.is_none_or(|found| found == self.sandbox), "another sandbox of the same name");
        } else if self.request == Request::CreateContainer {
            let found = seen.container.as_ref().map(|it| it.id.clone());
            self.send(host).await.unwrap();
            assert!(found.is_none_or(|found| found == self.container), "another container of the same name");
        } else if self.request != Request::StartContainer || seen.is_created() {
            self.send(host).await.unwrap();
        }
        self.check(host, true).await;
        // What is ready is of use.
        let seen = self.see(host).await;
        if seen.sandboxes.iter().any(|(_, state)| *state == PodSandboxState::SandboxReady) {
            assert_eq!(host.output(&seen.sandboxes[0].0, "probe", "echo alive").await, "alive\n");
        }
    }

    /// Removes what the scene made.
    pub(crate) async fn clear(&self, host: &mut Host) {
        let seen = self.see(host).await;
        for (sandbox, _) in &seen.sandboxes {
            host.remove_pod(sandbox).await;
        }
        if seen.image {
            images(host).remove_image(RemoveImageRequest { image: Some(self.image()) }).await.unwrap();
        }
        let _ = std::fs::remove_dir_all(host.path("logs")); // which are the client's to remove
    }

    async fn see(&self, host: &mut Host) -> Seen {
        let sandboxes = host.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        let listed = host.cri.list_containers(ListContainersRequest::default()).await.unwrap().into_inner().containers;
        let of_scene = listed.iter().find(|it| it.metadata.as_ref().unwrap().name == "main").map(|it| it.id.clone());
        let container = match of_scene {
            Some(id) => Some(host.status(&id).await),
            None => None,
        };
        let status = ImageStatusRequest { image: Some(self.image()), verbose: false };
        let image = images(host).image_status(status).await.unwrap().into_inner().image;
        let of_scene = sandboxes.into_iter().filter(|it| it.metadata.as_ref().unwrap().name == POD);
        let sandboxes = of_scene.map(|it| (it.id.clone(), it.state())).collect();
        Seen { sandboxes, container, image: image.is_some() }
    }
}

impl Seen {
    fn limit(&self) -> Option<i64> {
        let resources = self.container.as_ref()?.resources.as_ref()?;
        Some(resources.linux.as_ref()?.memory_limit_in_bytes)
    }

    fn is_created(&self) -> bool {
        self.container.as_ref().is_some_and(|it| it.state() == ContainerState::ContainerCreated)
    }
}

fn images(host: &Host) -> ImageServiceClient<Channel> {
    ImageServiceClient::new(host.channel())
}

/// Loads an image of two layers.
async fn load(host: &Host) -> Result<(), Status> {
    let layers = [b'1', b'2'].map(|mark| Archive::new().file(&format!("file-{mark}"), &[mark; 5000]).layer());
    let chunk = docker_archive(LOADED, &layers).into();
    let requests = tokio_stream::iter([LoadRequest { name: String::new(), chunk }]);
    let mut answers = ImageArchiveClient::new(host.channel()).load(requests).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// A registry on the node's loopback with an image of two layers.
fn registry(host: &Host) -> Server {
    let started = std::thread::scope(|scope| {
        let start = || {
            host.enter_network();
            Server::start()
        };
        scope.spawn(start).join().unwrap()
    });
    let layers = [b'1', b'2'].map(|mark| Archive::new().file(&format!("file-{mark}"), &[mark; 5000]).layer());
    started.serve_layers(&layers, |layer| layer.bytes.clone());
    started
}
