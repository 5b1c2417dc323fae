//! What leaves without being waited for: replies to nodes, assignments, watch events.

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use podbus_common::api::WATCH_SEQUENCE_HEADER;
use podbus_scheduler_leader::Outgoing;
use tokio::sync::mpsc;

use crate::telemetry::Telemetry;

/// Messages that wait for the connection. What does not fit is dropped: agents and watchers notice and ask again.
const QUEUE_MAX: usize = 65_536;

pub(crate) struct Outbox {
    queue: mpsc::Sender<Item>,
    telemetry: Telemetry,
}

struct Item {
    subject: Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

impl Outbox {
    pub(crate) fn start(client: Client, telemetry: Telemetry) -> Self {
        let (queue, mut items) = mpsc::channel::<Item>(QUEUE_MAX);
        tokio::spawn(async move {
            while let Some(Item { subject, headers, payload }) = items.recv().await {
                // A closed connection ends the service elsewhere.
                let _ = match headers {
                    Some(headers) => client.publish_with_headers(subject, headers, payload).await,
                    None => client.publish(subject, payload).await,
                };
            }
        });
        Self { queue, telemetry }
    }

    pub(crate) fn send(&self, subject: String, payload: Bytes) {
        self.put(Item { subject: subject.into(), headers: None, payload });
    }

    pub(crate) fn send_watch(&self, message: Outgoing) {
        let mut headers = HeaderMap::new();
        headers.insert(WATCH_SEQUENCE_HEADER, message.sequence.to_string());
        self.put(Item { subject: message.inbox.into(), headers: Some(headers), payload: message.json.into() });
    }

    fn put(&self, item: Item) {
        if let Err(error) = self.queue.try_send(item) {
            self.telemetry.dropped_message();
            tracing::warn!(%error, "a message was dropped: the bus takes no more");
        }
    }
}
