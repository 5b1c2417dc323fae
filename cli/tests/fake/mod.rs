//! A scheduler that keeps two pods and a node in memory, and a node that answers streams with what tests expect.

#![expect(clippy::unwrap_used, reason = "a test's helper: what fails here is the test")]

use std::sync::{Arc, Mutex};

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::api::{
    ApplyReply, ApplyRequest, ApplyResult, DeleteRequest, GetRequest, ImageProgress, ImageRow, List, ListRequest,
    StatsRow, Status, WATCH_SEQUENCE_HEADER, WatchEvent, WatchEventType, WatchReply, WatchRequest,
};
use podbus_common::model::ListMeta;
use podbus_common::proto::{chunk, client_frame, image_request, open_stream};
use podbus_common::subject::{self, PodStream, Verb};
use podbus_common_bus::stream::{self, ServerStream};
use podbus_common_bus::testing::NatsServer;
use podbus_common_bus::{Bus, BusOptions};
use serde_json::{Value, json};

/// A bus with both on it.
pub(crate) struct Cluster {
    server: NatsServer,
}

impl Cluster {
    /// Starts the bus and subscribes both.
    pub(crate) async fn start() -> Self {
        let server = NatsServer::start();
        let options = BusOptions { url: server.url(), ..Default::default() };
        let bus = Bus::connect(&options).await.unwrap();
        let state = Arc::new(State { objects: Mutex::new(objects()), deletions: Mutex::default(), bus: bus.clone() });
        let mut requests = bus.client().subscribe(subject::API_ALL).await.unwrap();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                state.answer(request).await;
            }
        });
        let subjects = PodStream::ALL.map(|kind| subject::pod_stream_all("node-1", kind));
        for subject in subjects.into_iter().chain([subject::images("node-1")]) {
            let mut requests = bus.client().subscribe(subject).await.unwrap();
            let bus = bus.clone();
            tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    let (request, stream) = stream::accept(&bus, request).await.unwrap();
                    tokio::spawn(serve(request, stream));
                }
            });
        }
        bus.client().flush().await.unwrap();
        Self { server }
    }

    /// Where the bus is.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}

fn objects() -> Vec<Value> {
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "all"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "main", "image": "a"}, {"name": "side", "image": "a"}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"name": "main", "ready": true, "state": {"running": {}}}]},
        })
    };
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let mut web = pod("web");
    web["status"]["containerStatuses"][0]["restartCount"] = json!(0);
    web["spec"]["containers"].as_array_mut().unwrap().truncate(2);
    vec![pod("api"), web, node]
}

struct State {
    objects: Mutex<Vec<Value>>,
    deletions: Mutex<Deletions>,
    bus: Bus,
}

/// What was deleted, in order, and who watches. Every list has revision 1, so a watch is told all of them, also what
/// was deleted between the list and the watch.
#[derive(Default)]
struct Deletions {
    objects: Vec<Value>,
    inboxes: Vec<String>,
}

impl State {
    async fn answer(&self, message: Message) {
        let mut watch = None;
        let (namespace, resource, verb) = subject::parse_api(&message.subject).unwrap();
        let kind = if resource == "pods" { "Pod" } else { "Node" };
        let in_scope =
            |o: &Value| o["kind"] == kind && namespace.is_none_or(|wanted| o["metadata"]["namespace"] == wanted);
        let reply = match verb {
            Verb::List => {
                let request: ListRequest = serde_json::from_slice(&message.payload).unwrap();
                let name = request.field_selector.strip_prefix("metadata.name=");
                let items = self.objects.lock().unwrap().iter().filter(|o| in_scope(o)).cloned().collect::<Vec<_>>();
                let items =
                    items.into_iter().filter(|o| name.is_none_or(|name| o["metadata"]["name"] == name)).collect();
                let metadata = ListMeta { resource_version: "1".into(), ..Default::default() };
                Ok(serde_json::to_value(List {
                    api_version: "v1".into(),
                    kind: format!("{kind}List"),
                    metadata,
                    items,
                })
                .unwrap())
            }
            Verb::Get => {
                let request: GetRequest = serde_json::from_slice(&message.payload).unwrap();
                let objects = self.objects.lock().unwrap();
                let found = objects.iter().find(|o| in_scope(o) && o["metadata"]["name"] == request.name.as_str());
                found.cloned().ok_or_else(|| not_found(resource, &request.name))
            }
            Verb::Apply => {
                let request: ApplyRequest = serde_json::from_slice(&message.payload).unwrap();
                Ok(serde_json::to_value(ApplyReply { result: ApplyResult::Created, object: request.object }).unwrap())
            }
            Verb::Delete => {
                let request: DeleteRequest = serde_json::from_slice(&message.payload).unwrap();
                self.delete(&request).await.ok_or_else(|| not_found(resource, &request.name))
            }
            Verb::Explain => Ok(serde_json::json!({"nodes": [], "conclusion": "There are no nodes."})),
            Verb::Plan => Ok(serde_json::json!({"pods": [{"namespace": "default", "name": "web", "node": "node-1"}]})),
            Verb::Watch => {
                let request: WatchRequest = serde_json::from_slice(&message.payload).unwrap();
                watch = Some(request.inbox);
                Ok(serde_json::to_value(WatchReply { control: "podbus.fake.control".into() }).unwrap())
            }
        };
        let (body, headers) = match reply {
            Ok(body) => (body, HeaderMap::new()),
            Err(status) => {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Service-Error", status.message.as_str());
                headers.insert("Nats-Service-Error-Code", status.code.to_string());
                (serde_json::to_value(status).unwrap(), headers)
            }
        };
        let body = serde_json::to_vec(&body).unwrap().into();
        self.bus.client().publish_with_headers(message.reply.unwrap(), headers, body).await.unwrap();
        if let Some(inbox) = watch {
            let missed = {
                let mut deletions = self.deletions.lock().unwrap();
                deletions.inboxes.push(inbox.clone());
                deletions.objects.clone()
            };
            for (sequence, object) in (1..).zip(missed) {
                self.tell(&inbox, sequence, object).await;
            }
        }
    }

    /// Gone at once, after the answer: watchers hear of it a little later.
    async fn delete(&self, request: &DeleteRequest) -> Option<Value> {
        let object = {
            let mut objects = self.objects.lock().unwrap();
            let index = objects.iter().position(|o| o["metadata"]["uid"] == request.uid.as_str())?;
            objects.remove(index)
        };
        let (inboxes, sequence) = {
            let mut deletions = self.deletions.lock().unwrap();
            deletions.objects.push(object.clone());
            (deletions.inboxes.clone(), deletions.objects.len())
        };
        for inbox in inboxes {
            self.tell(&inbox, sequence, object.clone()).await;
        }
        Some(object)
    }

    async fn tell(&self, inbox: &str, sequence: usize, object: Value) {
        let event = WatchEvent { kind: WatchEventType::Deleted, object };
        let mut headers = HeaderMap::new();
        headers.insert(WATCH_SEQUENCE_HEADER, sequence.to_string());
        let body = serde_json::to_vec(&event).unwrap().into();
        self.bus.client().publish_with_headers(inbox.to_owned(), headers, body).await.unwrap();
    }
}

fn not_found(resource: &str, name: &str) -> Status {
    Status::failure(404, "NotFound", format!("{resource} \"{name}\" not found"))
}

async fn serve(request: open_stream::Request, stream: ServerStream) {
    let ServerStream { sender, mut receiver } = stream;
    let json = |value: Value| Bytes::from(value.to_string());
    match request {
        open_stream::Request::Logs(logs) => {
            let text = format!("{0} says 1\n{0} says 2\n", logs.container);
            sender.send(chunk::Kind::Stdout, text.into()).await.unwrap();
            sender.finish(0, None).await;
        }
        open_stream::Request::Exec(exec) => {
            while exec.stdin
                && let Some(frame) = receiver.recv().await
            {
                match frame.kind() {
                    client_frame::Kind::Data => sender.send(chunk::Kind::Stdout, frame.data).await.unwrap(),
                    client_frame::Kind::Eof => break,
                    _ => {}
                }
            }
            sender.finish(exec.command[1].parse().unwrap(), None).await;
        }
        open_stream::Request::Attach(attach) => {
            sender.send(chunk::Kind::Stdout, format!("{} goes on\n", attach.container).into()).await.unwrap();
            sender.finish(0, None).await;
        }
        open_stream::Request::PortForward(_) => sender.finish(1, Some(stream::error(410, "the pod is gone"))).await,
        open_stream::Request::Stats(_) => {
            for (container, cpu_millis, mebibytes) in [("main", 5, 20), ("side", 2, 10)] {
                let (namespace, pod) = ("default".into(), "web".into());
                let row =
                    StatsRow { namespace, pod, container: container.into(), cpu_millis, memory_bytes: mebibytes << 20 };
                sender.send(chunk::Kind::Json, json(serde_json::to_value(row).unwrap())).await.unwrap();
            }
            sender.finish(0, None).await;
        }
        open_stream::Request::Image(image) => match image.kind() {
            image_request::Kind::List => {
                let names = vec!["localhost/busybox:latest".into()];
                let row = ImageRow { names, id: "sha256:abc".into(), size_bytes: 2_150_000 };
                sender.send(chunk::Kind::Json, json(serde_json::to_value(row).unwrap())).await.unwrap();
                sender.finish(0, None).await;
            }
            image_request::Kind::Load => {
                let mut bytes = 0;
                while let Some(frame) = receiver.recv().await {
                    bytes += frame.data.len();
                    if frame.kind() == client_frame::Kind::Eof {
                        break;
                    }
                }
                let progress = ImageProgress { names: vec![format!("localhost/loaded:{bytes}")], ..Default::default() };
                sender.send(chunk::Kind::Json, json(serde_json::to_value(progress).unwrap())).await.unwrap();
                sender.finish(0, None).await;
            }
            _ => sender.finish(0, Some(stream::error(404, "no such image"))).await,
        },
    }
}
