//! What clients open at a node: logs, exec, attach, port-forward, stats and images, as streams with credits.

mod command;
mod forward;
mod images;
mod join;
mod logs;
mod stats;

use std::path::Path;
use std::sync::Arc;

use async_nats::Message;
use futures::StreamExt as _;
use podbus_common::model::Pod;
use podbus_common::proto::{self, open_stream::Request};
use podbus_common::subject::{self, PodStream};
use podbus_common_bus::Bus;
use podbus_common_bus::stream::{self, ServerStream};
use podbus_node_agent_core::model::{ContainerObserved, find_container};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::agent::Directory;
use crate::runtime::Runtime;
use crate::runtime::observe::{StateCache, observe};

/// Streams that are open at once; who comes later is told to come again.
const STREAMS_MAX: usize = 256;

/// What streams need to know of their node.
#[derive(Debug, Clone)]
pub(crate) struct Streams<R> {
    pub(crate) node: String,
    pub(crate) bus: Bus,
    pub(crate) runtime: R,
    pub(crate) directory: Directory,
    pub(crate) state_dir: Arc<Path>,
}

/// An error for the client.
type Refusal = proto::StreamError;

impl<R: Runtime> Streams<R> {
    /// Serves until `stop`, which ends the open streams too.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let mut subjects: Vec<_> = PodStream::ALL.map(|kind| subject::pod_stream_all(&self.node, kind)).into();
        subjects.push(subject::images(&self.node));
        let mut requests = Vec::new();
        for subject in subjects {
            match self.bus.client().subscribe(subject).await {
                Ok(subscription) => requests.push(subscription),
                Err(error) => return tracing::error!(%error, "cannot serve streams"),
            }
        }
        let mut requests = futures::stream::select_all(requests);
        let places = Arc::new(Semaphore::new(STREAMS_MAX));
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => return,
                message = requests.next() => message, // cancel-safe (futures: StreamExt::next)
            };
            let Some(message) = message else { return };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                stream::refuse(&self.bus, &message, 503, "this node has too many open streams, try again later").await;
                continue;
            };
            let (streams, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let _place = place;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = streams.open(message) => {}
                }
            });
        }
    }

    async fn open(self, message: Message) {
        let asked_at = message.subject.clone();
        // An error was told to the client already, or there is none any more.
        let Ok((request, stream)) = stream::accept(&self.bus, message).await else { return };
        if self.subject_of(&request) != *asked_at {
            let text = "the request asks for something else than its subject says";
            return finish(stream, stream::error(403, text)).await;
        }
        match request {
            Request::Logs(request) => self.logs(request, stream).await,
            Request::Exec(request) => self.exec(request, stream).await,
            Request::Attach(request) => self.attach(request, stream).await,
            Request::PortForward(request) => self.port_forward(request, stream).await,
            Request::Stats(request) => self.stats(request, stream).await,
            Request::Image(request) => self.images(request, stream).await,
        }
    }

    /// Where a request has to come in. Rights are rights to subjects, so that what is asked must be what the subject
    /// says, kind and namespace.
    fn subject_of(&self, request: &Request) -> String {
        let of_pod = |namespace: &str, kind| subject::pod_stream(&self.node, namespace, kind);
        match request {
            Request::Logs(request) => of_pod(&request.namespace, PodStream::Logs),
            Request::Exec(request) => of_pod(&request.namespace, PodStream::Exec),
            Request::Attach(request) => of_pod(&request.namespace, PodStream::Attach),
            Request::PortForward(request) => of_pod(&request.namespace, PodStream::PortForward),
            Request::Stats(request) => of_pod(&request.namespace, PodStream::Stats),
            Request::Image(_) => subject::images(&self.node),
        }
    }

    /// The pod that a client means, and its container: the named one, or the first.
    fn find(&self, namespace: &str, name: &str, uid: &str, container: &str) -> Result<(Arc<Pod>, String), Refusal> {
        let Some(pod) = self.directory.find(namespace, name, uid) else {
            return Err(stream::error(404, format!("pods \"{name}\" not found on node {}", self.node)));
        };
        let first = pod.spec.containers.first().map(|c| c.name.clone()).unwrap_or_default();
        let container = if container.is_empty() { first } else { container.to_owned() };
        if find_container(&pod, &container).is_none() {
            return Err(stream::error(400, format!("container {container} is not valid for pod {name}")));
        }
        Ok((pod, container))
    }

    /// All runs of a container that the runtime has.
    async fn runs(&self, uid: &str, container: &str) -> Result<Vec<ContainerObserved>, Refusal> {
        let observed = observe(&self.runtime, uid, &mut StateCache::default()).await;
        let observed = observed.map_err(|error| stream::error(500, format!("the container runtime: {error}")))?;
        Ok(observed.containers.into_iter().filter(|run| run.name == container).collect())
    }
}

/// Ends a stream that failed.
async fn finish(stream: ServerStream, error: Refusal) {
    stream.sender.finish(1, Some(error)).await;
}

#[cfg(test)]
mod tests;
