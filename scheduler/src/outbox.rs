//! What leaves without being waited for: replies to nodes, assignments, watch events.

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use podbus_common::api::WATCH_SEQUENCE_HEADER;
use podbus_scheduler_leader::Outgoing;
use tokio::sync::mpsc;

use crate::telemetry::Telemetry;

/// Messages that wait for the connection. What does not fit is dropped: agents and watchers notice and ask again.
const QUEUE_MAX: usize = 65_536;
/// What waits is taken out in portions of so many.
const PORTION_MAX: usize = 256;
/// Events for one watcher that wait together are one message of about so many bytes: well below the 1 MiB that
/// nats-server takes by default.
const WATCH_BYTES_MAX: usize = 128 << 10;

pub(crate) struct Outbox {
    queue: mpsc::Sender<Item>,
    telemetry: Telemetry,
}

enum Item {
    Message(Subject, Bytes),
    Watch(Outgoing),
}

impl Outbox {
    pub(crate) fn start(client: Client, telemetry: Telemetry) -> Self {
        let (queue, mut items) = mpsc::channel::<Item>(QUEUE_MAX);
        tokio::spawn(async move {
            let mut portion = Vec::with_capacity(PORTION_MAX);
            while items.recv_many(&mut portion, PORTION_MAX).await > 0 {
                let mut batches = Vec::new();
                for item in portion.drain(..) {
                    match item {
                        // A closed connection ends the service elsewhere.
                        Item::Message(subject, payload) => drop(client.publish(subject, payload).await),
                        Item::Watch(message) => join(&mut batches, message),
                    }
                }
                for Batch { message: Outgoing { inbox, sequence, json }, .. } in batches {
                    let mut headers = HeaderMap::new();
                    headers.insert(WATCH_SEQUENCE_HEADER, sequence.to_string());
                    let _ = client.publish_with_headers(inbox, headers, json.into()).await;
                }
            }
        });
        Self { queue, telemetry }
    }

    pub(crate) fn send(&self, subject: String, payload: Bytes) {
        self.put(Item::Message(subject.into(), payload));
    }

    pub(crate) fn send_watch(&self, message: Outgoing) {
        self.put(Item::Watch(message));
    }

    fn put(&self, item: Item) {
        if let Err(error) = self.queue.try_send(item) {
            self.telemetry.dropped_message();
            tracing::warn!(%error, "a message was dropped: the bus takes no more");
        }
    }
}

/// Events of one watcher as one message: a line each.
struct Batch {
    message: Outgoing,
    /// The number of the event that would be next.
    next: u64,
}

/// Adds an event to the last message for its watcher, or makes it a message of its own: also behind a gap, so that the
/// watcher sees it.
fn join(batches: &mut Vec<Batch>, event: Outgoing) {
    let next = event.sequence + 1;
    match batches.iter_mut().rev().find(|batch| batch.message.inbox == event.inbox) {
        Some(Batch { message, next: expected })
            if *expected == event.sequence && message.json.len() + event.json.len() < WATCH_BYTES_MAX =>
        {
            message.json.push(b'\n');
            message.json.extend_from_slice(&event.json);
            *expected = next;
        }
        _ => batches.push(Batch { message: event, next }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_watcher_that_wait_together_are_one_message_unless_one_is_missing() {
        let mut batches = Vec::new();
        for (inbox, sequence) in [("a", 1), ("b", 7), ("a", 2), ("a", 4), ("a", 5)] {
            join(&mut batches, Outgoing { inbox: inbox.into(), sequence, json: sequence.to_string().into() });
        }
        let told = batches.iter().map(|Batch { message, .. }| (&*message.inbox, message.sequence, &*message.json));
        assert_eq!(told.collect::<Vec<_>>(), [("a", 1, &b"1\n2"[..]), ("b", 7, b"7"), ("a", 4, b"4\n5")]);
    }
}
