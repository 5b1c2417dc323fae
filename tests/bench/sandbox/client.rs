//! A CRI client that takes the time: the same for every runtime.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use podbus_common_cri::runtime::image_service_client::ImageServiceClient;
use podbus_common_cri::runtime::runtime_service_client::RuntimeServiceClient;
use podbus_common_cri::runtime::*;
use podbus_test_support::wait::retry;
use tonic::transport::Channel;

pub(crate) const IMAGE: &str = "localhost/busybox:latest";
const ANSWER: Duration = Duration::from_secs(60);

/// One runtime, as its clients see it.
#[derive(Clone)]
pub(crate) struct Client {
    cri: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// The cgroup of all pods.
    cgroup: String,
}

/// How long each step in the life of a pod with one container took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    pub(crate) run: Duration,
    pub(crate) start: Duration,
    pub(crate) stop: Duration,
}

impl Client {
    /// Connects, and waits until the runtime answers.
    pub(crate) async fn connect(socket: &Path, cgroup: &str) -> anyhow::Result<Self> {
        let connected = retry(ANSWER, async || -> anyhow::Result<_> {
            let channel = podbus_common_cri::connect(socket, ANSWER).await?;
            let mut cri = RuntimeServiceClient::new(channel.clone());
            cri.version(VersionRequest::default()).await?;
            Ok(Self { cri, images: ImageServiceClient::new(channel), cgroup: cgroup.to_owned() })
        });
        connected.await.with_context(|| format!("no runtime answers at {}", socket.display()))
    }

    /// Waits until the runtime knows the image: one that was imported beside CRI shows up a little later.
    pub(crate) async fn wait_for_image(&mut self, name: &str) -> anyhow::Result<()> {
        let spec = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
        retry(ANSWER, async || -> anyhow::Result<_> {
            let request = ImageStatusRequest { image: Some(spec.clone()), verbose: false };
            let known = self.images.image_status(request).await?.into_inner().image;
            known.map(|_| ()).with_context(|| format!("the runtime does not know {name}"))
        })
        .await
    }

    pub(crate) fn config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig { cgroup_parent: self.cgroup.clone(), ..Default::default() }),
            ..PodSandboxConfig::default()
        }
    }

    pub(crate) async fn run_pod(&mut self, name: &str) -> anyhow::Result<String> {
        let request = RunPodSandboxRequest { config: Some(self.config(name)), runtime_handler: String::new() };
        Ok(self.cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// Creates and starts a container that sleeps.
    pub(crate) async fn start_container(&mut self, pod: &str, name: &str) -> anyhow::Result<()> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "sleeper".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() }),
            command: vec!["/bin/busybox".to_owned(), "sleep".to_owned(), "100000".to_owned()],
            linux: Some(LinuxContainerConfig::default()),
            ..ContainerConfig::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.config(name)),
        };
        let container_id = self.cri.create_container(request).await?.into_inner().container_id;
        self.cri.start_container(StartContainerRequest { container_id }).await?;
        Ok(())
    }

    pub(crate) async fn stop_pod(&mut self, pod: &str) -> anyhow::Result<()> {
        self.cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.to_owned() }).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&mut self, pod: &str) -> anyhow::Result<()> {
        self.cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: pod.to_owned() }).await?;
        Ok(())
    }

    /// A pod with one running container, from its birth to its removal.
    pub(crate) async fn live(&mut self, name: &str) -> anyhow::Result<Life> {
        let begin = Instant::now();
        let pod = self.run_pod(name).await?;
        let run = begin.elapsed();
        let begin = Instant::now();
        self.start_container(&pod, name).await?;
        let start = begin.elapsed();
        let begin = Instant::now();
        self.stop_pod(&pod).await?;
        let stop = begin.elapsed();
        self.remove_pod(&pod).await?;
        Ok(Life { run, start, stop })
    }

    /// Runs `count` pods at once, each with a container if asked for. How long until the last one runs, and their ids.
    pub(crate) async fn storm(
        &self,
        prefix: &str,
        count: usize,
        with_container: bool,
    ) -> anyhow::Result<(Duration, Vec<String>)> {
        let begin = Instant::now();
        let pods = (0..count).map(|n| {
            let (mut client, name) = (self.clone(), format!("{prefix}-{n}"));
            tokio::spawn(async move {
                let pod = client.run_pod(&name).await?;
                if with_container {
                    client.start_container(&pod, &name).await?;
                }
                anyhow::Ok(pod)
            })
        });
        let mut ids = Vec::new();
        for pod in pods.collect::<Vec<_>>() {
            ids.push(pod.await??);
        }
        Ok((begin.elapsed(), ids))
    }

    /// Stops and removes these pods, some at a time.
    pub(crate) async fn remove_all(&self, pods: Vec<String>) -> anyhow::Result<()> {
        let places = std::sync::Arc::new(tokio::sync::Semaphore::new(8));
        let removals: Vec<_> = pods
            .into_iter()
            .map(|pod| {
                let (mut client, places) = (self.clone(), places.clone());
                tokio::spawn(async move {
                    let _place = places.acquire_owned().await?;
                    client.stop_pod(&pod).await?;
                    client.remove_pod(&pod).await
                })
            })
            .collect();
        for removal in removals {
            removal.await??;
        }
        Ok(())
    }

    /// Removes what a failed measurement left.
    pub(crate) async fn remove_everything(&mut self) -> anyhow::Result<()> {
        let pods = self.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await?.into_inner().items;
        self.remove_all(pods.into_iter().map(|pod| pod.id).collect()).await
    }
}
