//! Events as a client reads them: those that the bus keeps, then those that come.

use std::collections::HashSet;
use std::collections::VecDeque;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures::{Stream, StreamExt as _};
use podbus_common::model::Event;
use podbus_common::subject;

use crate::{Bus, Denied};

/// Subjects of requests to JetStream.
const JETSTREAM_API: &str = "$JS.API.";
/// Names of events that are remembered to drop repeats.
const NAMES_MAX: usize = 100_000;

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The stream is not there: no scheduler has ever run on this bus, or JetStream is off.
    #[error("the bus at {url} keeps no events: has a scheduler ever run on it?")]
    NoStream {
        /// Of the bus.
        url: String,
        /// Why.
        source: async_nats::jetstream::context::GetStreamError,
    },
    /// The user of this connection has no right to read these.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The consumer cannot be made, or was lost.
    #[error("cannot read the stream of events")]
    Consumer(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Events of a namespace (`None`: of all), oldest first: those that are kept, and with `follow` each new one. Repeats
/// (the same `metadata.name`) are dropped; so is what is no event.
pub async fn subscribe(
    bus: &Bus,
    namespace: Option<&str>,
    follow: bool,
) -> Result<impl Stream<Item = Result<Event, EventsError>> + Unpin + Send + use<>, EventsError> {
    let stream = bus.unless_denied(JETSTREAM_API, bus.jetstream().get_stream(subject::EVENTS_STREAM)).await?;
    let stream = stream.map_err(|source| EventsError::NoStream { url: bus.url().to_owned(), source })?;
    // With a name of its own the request says what is read, so that rights can be given to a part.
    let name = bus.client().new_inbox().rsplit('.').next().map(ToOwned::to_owned);
    let config = OrderedConfig { name, filter_subject: subject::events_of(namespace), ..Default::default() };
    let consumer = bus.unless_denied(JETSTREAM_API, stream.create_consumer(config)).await?;
    let consumer = consumer.map_err(|e| EventsError::Consumer(e.into()))?;
    let kept = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.map_err(|e| EventsError::Consumer(e.into()))?;
    let wanted = if follow { usize::MAX } else { usize::try_from(kept).unwrap_or(usize::MAX) };
    let mut seen = Seen::default();
    Ok(Box::pin(messages.take(wanted).filter_map(move |message| {
        let event = match message {
            Ok(message) => serde_json::from_slice::<Event>(&message.payload).ok().filter(|e| seen.is_new(e)).map(Ok),
            Err(error) => Some(Err(EventsError::Consumer(error.into()))),
        };
        std::future::ready(event)
    })))
}

/// The names of the newest events.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    fn is_new(&mut self, event: &Event) -> bool {
        // A repeat that was folded into a count has its name and a higher count: that is news.
        let name = format!("{}/{}", event.metadata.name, event.count);
        if !self.names.insert(name.clone()) {
            return false;
        }
        self.order.push_back(name);
        if self.order.len() > NAMES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
        true
    }
}
