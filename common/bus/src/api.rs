//! The API as a client asks it: `podbus.api.v1.<namespace>.<resource>.<verb>`, JSON.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Buf as _;
use futures::{Stream, StreamExt as _};
use podbus_common::api::{
    ApplyAllReply, ApplyReply, ApplyRequest, DeleteRequest, Detail, ExplainReply, ExplainRequest, GetRequest,
    ItemReply, List, ListRequest, ObjectList, PlanReply, PlanRequest, Status, WATCH_ALIVE_SECONDS,
    WATCH_SEQUENCE_HEADER, WatchEvent, WatchEventType, WatchReply, WatchRequest,
};
use podbus_common::model::ListMeta;
use podbus_common::subject::{self, Verb};
use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::{Bus, Denied, RequestError};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client waits for a scheduler to take the lease.
const NO_SCHEDULER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts while no scheduler answers.
const RETRY_EVERY: Duration = Duration::from_millis(100);
/// A watch that hears nothing for so long, not even a bookmark, is opened again.
const WATCH_SILENCE_MAX: Duration = Duration::from_secs(3);
/// Header of a micro service's refusal (ADR-32).
const ERROR_CODE_HEADER: &str = "Nats-Service-Error-Code";

/// Why the API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The scheduler refuses.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    /// Nobody serves the API.
    #[error("no scheduler answered `{subject}` within {NO_SCHEDULER_PATIENCE:?} on {url}{}", of_version(.server_version.as_deref()))]
    NoScheduler {
        /// What was asked.
        subject: String,
        /// Of the bus.
        url: String,
        /// Of the bus.
        server_version: Option<String>,
    },
    /// No answer; whether it was carried out is unknown.
    #[error("`{subject}` was not answered within {REQUEST_TIMEOUT:?}; it may have been carried out")]
    Timeout {
        /// What was asked.
        subject: String,
    },
    /// The user of this connection has no right to ask.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The answer is of another schema.
    #[error("the answer to `{subject}` cannot be read: is the scheduler of another version?")]
    Decode {
        /// What was asked.
        subject: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The connection.
    #[error("cannot send `{subject}`")]
    Bus {
        /// What was asked.
        subject: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn of_version(version: Option<&str>) -> String {
    version.map(|version| format!(" (nats-server {version})")).unwrap_or_default()
}

/// Asks the API. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    bus: Bus,
}

impl Client {
    /// On this bus.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The bus.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Creates or updates an object.
    pub async fn apply(
        &self,
        namespace: &str,
        resource: &str,
        object: &Value,
        dry_run: bool,
    ) -> Result<ApplyReply, ApiError> {
        let request = ApplyRequest { dry_run, ..ApplyRequest::new(object) };
        self.request(Some(namespace), resource, Verb::Apply, &request).await
    }

    /// Changes an object that is there and still of this version, or creates one that is not there
    /// ([`VERSION_OF_NOTHING`](podbus_common::api::VERSION_OF_NOTHING)).
    pub async fn apply_to_version(
        &self,
        namespace: &str,
        resource: &str,
        object: &Value,
        resource_version: &str,
    ) -> Result<ApplyReply, ApiError> {
        let request = ApplyRequest { resource_version: resource_version.to_owned(), ..ApplyRequest::new(object) };
        self.request(Some(namespace), resource, Verb::Apply, &request).await
    }

    /// Creates or updates many objects with one request: what became of each, in their order. At most
    /// [`APPLY_OBJECTS_MAX`](podbus_common::api::APPLY_OBJECTS_MAX) of
    /// [`APPLY_BYTES_MAX`](podbus_common::api::APPLY_BYTES_MAX) bytes.
    pub async fn apply_all<Object: DeserializeOwned>(
        &self,
        namespace: &str,
        resource: &str,
        objects: Vec<impl Serialize>,
        dry_run: bool,
        detail: Detail,
    ) -> Result<Vec<Result<ApplyReply<Object>, ApiError>>, ApiError> {
        let count = objects.len();
        let request = ApplyRequest { dry_run, detail, ..ApplyRequest::new(ObjectList::new(objects)) };
        let reply: ApplyAllReply<Object> = self.request(Some(namespace), resource, Verb::Apply, &request).await?;
        let unreadable = || ApiError::Decode {
            subject: subject::api(Some(namespace), resource, Verb::Apply),
            source: serde_json::Error::custom("an object without an answer"),
        };
        if reply.items.len() != count {
            return Err(unreadable());
        }
        let became = |item: ItemReply<Object>| match item {
            ItemReply { error: Some(status), .. } => Err(ApiError::Refused(status)),
            ItemReply { result: Some(result), object: Some(object), .. } => Ok(ApplyReply { result, object }),
            _ => Err(unreadable()),
        };
        Ok(reply.items.into_iter().map(became).collect())
    }

    /// Reads one object; `namespace` is `None` for nodes.
    pub async fn get(&self, namespace: Option<&str>, resource: &str, name: &str) -> Result<Value, ApiError> {
        self.request(namespace, resource, Verb::Get, &GetRequest { name: name.to_owned() }).await
    }

    /// Reads all objects of a namespace (`None`: of all), page by page.
    pub async fn list(&self, namespace: Option<&str>, resource: &str, request: &ListRequest) -> Result<List, ApiError> {
        let mut request = request.clone();
        let mut whole = self.list_page(namespace, resource, &request).await?;
        while !whole.metadata.continue_token.is_empty() {
            request.continue_token = std::mem::take(&mut whole.metadata.continue_token);
            let mut page = self.list_page(namespace, resource, &request).await?;
            whole.items.append(&mut page.items);
            whole.metadata.continue_token = page.metadata.continue_token;
        }
        Ok(whole)
    }

    /// Reads one page: its `continue` is what the request for the next one carries.
    pub async fn list_page<Object: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        resource: &str,
        request: &ListRequest,
    ) -> Result<List<Object>, ApiError> {
        self.request(namespace, resource, Verb::List, request).await
    }

    /// Deletes an object: what it is now, or a `Status` when it is gone at once.
    pub async fn delete(&self, namespace: &str, resource: &str, request: &DeleteRequest) -> Result<Value, ApiError> {
        self.request(Some(namespace), resource, Verb::Delete, request).await
    }

    /// What the scheduler thinks of each node for a pod.
    pub async fn explain(&self, namespace: &str, name: &str) -> Result<ExplainReply, ApiError> {
        self.request(Some(namespace), "pods", Verb::Explain, &ExplainRequest { name: name.to_owned() }).await
    }

    /// What would become of pods that are not stored; `namespace`: of all of them, where they share one.
    pub async fn plan(&self, namespace: Option<&str>, objects: Vec<Value>) -> Result<PlanReply, ApiError> {
        self.request(namespace, "pods", Verb::Plan, &PlanRequest { objects }).await
    }

    /// Follows changes. What the bus loses is asked for again, from the last revision that was seen; when that is too
    /// old the stream ends with a refusal of code 410: list again. Bookmarks are not handed out.
    pub fn watch(
        &self,
        namespace: Option<&str>,
        resource: &str,
        request: WatchRequest,
    ) -> impl Stream<Item = Result<WatchEvent, ApiError>> + Send + Unpin + use<> {
        self.watch_as(namespace, resource, request)
    }

    /// As [`watch`](Self::watch), of who wants to know only some of each object.
    pub fn watch_as<Object: Watched>(
        &self,
        namespace: Option<&str>,
        resource: &str,
        request: WatchRequest,
    ) -> impl Stream<Item = Result<WatchEvent<Object>, ApiError>> + Send + Unpin + use<Object> {
        let watch = Watch {
            client: self.clone(),
            namespace: namespace.map(ToOwned::to_owned),
            resource: resource.to_owned(),
            request,
            open: None,
            ended: false,
        };
        Box::pin(futures::stream::unfold(watch, |mut watch| async move {
            let item = watch.next().await?;
            Some((item, watch))
        }))
    }

    async fn request<Request: Serialize, Reply: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        resource: &str,
        verb: Verb,
        request: &Request,
    ) -> Result<Reply, ApiError> {
        let subject = subject::api(namespace, resource, verb);
        let unreadable = |source| ApiError::Decode { subject: subject.clone(), source };
        let payload = serde_json::to_vec(request).map_err(unreadable)?;
        let reply = self.send(&subject, payload).await?;
        if reply.headers.as_ref().is_some_and(|headers| headers.get(ERROR_CODE_HEADER).is_some()) {
            let status = serde_json::from_slice(&reply.payload).map_err(unreadable)?;
            return Err(ApiError::Refused(Box::new(status)));
        }
        serde_json::from_slice(&reply.payload).map_err(unreadable)
    }

    /// Sends until somebody answers: between two leaders nobody does for a moment.
    async fn send(&self, subject: &str, payload: Vec<u8>) -> Result<async_nats::Message, ApiError> {
        let deadline = Instant::now() + NO_SCHEDULER_PATIENCE;
        let payload = bytes::Bytes::from(payload);
        loop {
            match self.bus.request(subject, payload.clone(), REQUEST_TIMEOUT).await {
                Ok(reply) => return Ok(reply),
                Err(RequestError::NoResponders { .. }) if Instant::now() < deadline => sleep(RETRY_EVERY).await,
                Err(RequestError::NoResponders { subject }) => {
                    let server_version = self.bus.client().try_server_info().map(|info| info.version);
                    return Err(ApiError::NoScheduler { subject, url: self.bus.url().to_owned(), server_version });
                }
                Err(RequestError::Timeout { subject, .. }) => return Err(ApiError::Timeout { subject }),
                Err(RequestError::Denied(denied)) => return Err(denied.into()),
                Err(error) => return Err(ApiError::Bus { subject: subject.to_owned(), source: error.into() }),
            }
        }
    }
}

/// A watch, and what it needs to open itself again.
struct Watch {
    client: Client,
    namespace: Option<String>,
    resource: String,
    /// Its resource version is the last one seen.
    request: WatchRequest,
    open: Option<OpenWatch>,
    ended: bool,
}

struct OpenWatch {
    events: async_nats::Subscriber,
    sequence: u64,
    /// Of the last message: the events that are not handed out yet, a line each.
    rest: bytes::Bytes,
    /// Says that the watcher lives; ends with the watch.
    alive: tokio::task::JoinHandle<()>,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.alive.abort();
    }
}

impl Watch {
    async fn next<Object: Watched>(&mut self) -> Option<Result<WatchEvent<Object>, ApiError>> {
        while !self.ended {
            match self.try_next().await {
                Ok(Some(event)) => return Some(Ok(event)),
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// The next event; `None`: a bookmark, or the watch must be opened again.
    async fn try_next<Object: Watched>(&mut self) -> Result<Option<WatchEvent<Object>>, ApiError> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(open_watch(&self.client, &self.namespace, &self.resource, &mut self.request).await?),
        };
        if open.rest.is_empty() {
            let Ok(Some(message)) = timeout(WATCH_SILENCE_MAX, open.events.next()).await else {
                self.open = None;
                return Ok(None);
            };
            let first = message.headers.as_ref().and_then(|headers| headers.get(WATCH_SEQUENCE_HEADER));
            if first.and_then(|text| text.as_str().parse().ok()) != Some(open.sequence + 1) {
                self.open = None;
                return Ok(None);
            }
            open.rest = message.payload;
        }
        open.sequence += 1;
        let end = open.rest.iter().position(|byte| *byte == b'\n').unwrap_or(open.rest.len());
        let line = open.rest.split_to(end);
        open.rest.advance(1.min(open.rest.len()));
        let unreadable = |source| ApiError::Decode { subject: self.request.inbox.clone(), source };
        match serde_json::from_slice::<Told<Object>>(&line).map_err(unreadable)? {
            Told::Change(event) => {
                event.object.resource_version().clone_into(&mut self.request.resource_version);
                Ok(Some(event))
            }
            Told::Bookmark(revision) => {
                self.request.resource_version = revision;
                Ok(None)
            }
            Told::Error(status) => Err(ApiError::Refused(status)),
        }
    }
}

/// An object that can be watched.
pub trait Watched: DeserializeOwned {
    /// Its `metadata.resourceVersion`: where a watch that was interrupted goes on.
    fn resource_version(&self) -> &str;
}

impl Watched for Value {
    fn resource_version(&self) -> &str {
        self["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }
}

/// A message of a watch, read in one go.
enum Told<Object> {
    Change(WatchEvent<Object>),
    Bookmark(String),
    Error(Box<Status>),
}

/// What a bookmark holds.
#[derive(Deserialize)]
struct Versioned {
    metadata: ListMeta,
}

impl<'de, Object: Watched> Deserialize<'de> for Told<Object> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ToldVisitor(PhantomData))
    }
}

struct ToldVisitor<Object>(PhantomData<Object>);

impl<'de, Object: Watched> Visitor<'de> for ToldVisitor<Object> {
    type Value = Told<Object>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a watch event")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // The type comes first: what the object is depends on it.
        let Some(("type", kind)) = map.next_entry::<&str, WatchEventType>()? else {
            return Err(A::Error::missing_field("type"));
        };
        let Some("object") = map.next_key::<&str>()? else { return Err(A::Error::missing_field("object")) };
        let told = match kind {
            WatchEventType::Bookmark => Told::Bookmark(map.next_value::<Versioned>()?.metadata.resource_version),
            WatchEventType::Error => Told::Error(map.next_value()?),
            kind => Told::Change(WatchEvent { kind, object: map.next_value()? }),
        };
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(told)
    }
}

async fn open_watch(
    client: &Client,
    namespace: &Option<String>,
    resource: &str,
    request: &mut WatchRequest,
) -> Result<OpenWatch, ApiError> {
    let nats = client.bus.client();
    request.inbox = nats.new_inbox();
    let events = nats.subscribe(request.inbox.clone()).await;
    let events = events.map_err(|e| ApiError::Bus { subject: request.inbox.clone(), source: e.into() })?;
    let reply: WatchReply = client.request(namespace.as_deref(), resource, Verb::Watch, request).await?;
    let nats = nats.clone();
    let alive = tokio::spawn(async move {
        let mut tick = interval(Duration::from_secs(WATCH_ALIVE_SECONDS));
        loop {
            tick.tick().await;
            // A connection that is gone ends the watch by silence.
            let _ = nats.publish(reply.control.clone(), bytes::Bytes::new()).await;
        }
    });
    Ok(OpenWatch { events, sequence: 0, rest: bytes::Bytes::new(), alive })
}
