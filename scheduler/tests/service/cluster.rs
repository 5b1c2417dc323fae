//! A scheduler under test, and what a client sees of it.

use std::time::Duration;

use futures::StreamExt as _;
use podbus_common::api::{ApplyReply, DeleteRequest, ListRequest};
use podbus_common::model::Pod;
use podbus_common_bus::api::{ApiError, Client};
use podbus_common_bus::testing::NatsServer;
use podbus_common_bus::{Bus, BusOptions};
use podbus_scheduler::Args;
use podbus_test_support::wait::until;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Cluster {
    pub(crate) server: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) api: Client,
    scheduler: Option<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
    /// Of the schedulers that follow it.
    followers: Vec<(JoinHandle<anyhow::Result<()>>, CancellationToken)>,
    toleration: Duration,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(Duration::from_secs(300)).await
    }

    pub(crate) async fn start_with(toleration: Duration) -> Self {
        // Shown of tests that fail. An error means that another test was first.
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter(filter).try_init();
        let server = NatsServer::start();
        let options = BusOptions { url: server.url(), token: None, name: "test".into() };
        let bus = Bus::connect(&options).await.unwrap();
        let api = Client::new(bus.clone());
        let mut cluster = Self { server, bus, api, scheduler: None, followers: Vec::new(), toleration };
        cluster.start_scheduler();
        cluster.until_it_answers().await;
        cluster
    }

    pub(crate) fn start_scheduler(&mut self) {
        self.scheduler = Some(self.spawn_scheduler());
    }

    /// One more, which follows.
    pub(crate) fn start_follower(&mut self) {
        let follower = self.spawn_scheduler();
        self.followers.push(follower);
    }

    /// The leader is killed, and the oldest follower is the scheduler from now on.
    pub(crate) async fn kill_leader(&mut self) {
        self.kill_scheduler().await;
        self.scheduler = Some(self.followers.remove(0));
    }

    fn spawn_scheduler(&self) -> (JoinHandle<anyhow::Result<()>>, CancellationToken) {
        let stop = CancellationToken::new();
        let args = Args {
            nats: self.server.url(),
            token_file: None,
            not_ready_toleration: self.toleration,
            replicas: None,
            config: None,
            metrics: None,
        };
        (tokio::spawn(podbus_scheduler::run(args, stop.clone())), stop)
    }

    /// As SIGTERM does.
    pub(crate) async fn stop_scheduler(&mut self) {
        let (task, stop) = self.scheduler.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    /// As SIGKILL does: the lease stays.
    pub(crate) async fn kill_scheduler(&mut self) {
        let (task, _) = self.scheduler.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn until_it_answers(&self) {
        until("the scheduler answers", async || {
            let answer = self.api.list(None, "nodes", &ListRequest::default()).await;
            answer.inspect_err(|error| tracing::info!("no answer yet: {error}")).ok().map(|_| ())
        })
        .await;
    }

    pub(crate) async fn apply(&self, pod: &Value) -> Result<ApplyReply, ApiError> {
        self.api.apply("default", "pods", pod, false).await
    }

    pub(crate) async fn pod(&self, name: &str) -> Option<Pod> {
        let value = self.api.get(Some("default"), "pods", name).await.ok()?;
        Some(serde_json::from_value(value).unwrap())
    }

    pub(crate) async fn delete(&self, request: DeleteRequest) -> Result<Value, ApiError> {
        self.api.delete("default", "pods", &request).await
    }

    /// Waits until the pod is as `wanted` says.
    pub(crate) async fn until_pod(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        until(what, async || self.pod(name).await.filter(&wanted)).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        until("the pod is gone", async || self.pod(name).await.is_none().then_some(())).await;
    }

    pub(crate) async fn node(&self, name: &str) -> Value {
        self.api.get(None, "nodes", name).await.unwrap_or_default()
    }

    /// The keys of the bucket that have a value.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let bucket = self.bus.jetstream().get_key_value("podbus").await.unwrap();
        let mut keys: Vec<_> = bucket.keys().await.unwrap().map(Result::unwrap).collect().await;
        keys.sort();
        keys
    }

    /// The reasons of all events so far about an object.
    pub(crate) async fn events(&self, object: &str) -> Vec<String> {
        let events = podbus_common_bus::events::subscribe(&self.bus, None, false).await.unwrap();
        let events: Vec<_> = events.map(Result::unwrap).collect().await;
        events.into_iter().filter(|e| e.involved_object.name == object).map(|e| e.reason).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (task, _) in self.scheduler.iter().chain(&self.followers) {
            task.abort();
        }
    }
}

/// A pod of one container that asks for `cpu`.
pub(crate) fn pod(name: &str, cpu: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "localhost/busybox:1", "resources": {"requests": {"cpu": cpu}}}]}
    })
}

pub(crate) fn ready(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    status.conditions.iter().find(|c| c.kind == "Ready").map(|c| c.status.clone())
}

pub(crate) fn phase(pod: &Pod) -> &'static str {
    pod.status.as_ref().map_or("", |status| status.phase.as_str())
}
