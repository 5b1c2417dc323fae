//! The way of events to the bus.
//!
//! They never slow anything: they pass through a bounded queue at a bounded rate, and what is dropped is counted and
//! said. A pod has four events and two writes, so that without a bound a burst of pods would wait for its events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use podbus_common::model::Event;
use podbus_common::subject;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::telemetry::Telemetry;

/// Events that wait to be published.
const QUEUE_MAX: usize = 16_384;
/// They are published in portions,
const PORTION_EVERY: Duration = Duration::from_millis(10);
/// of so many at most: 4,000 a second, a tenth of what JetStream stores.
const PORTION_MAX: usize = 40;
/// How often it is said that some were dropped.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Hands events to the task that publishes them.
#[derive(Clone)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
    telemetry: Telemetry,
}

impl Publisher {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(client: Client, telemetry: Telemetry) -> Self {
        let (queue, events) = mpsc::channel(QUEUE_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(publish(client, events, Arc::clone(&dropped), telemetry.clone()));
        Self { queue, dropped, telemetry }
    }

    /// How many events it would take now.
    pub(crate) fn room(&self) -> usize {
        self.queue.capacity()
    }

    /// Never waits: when the queue is full the event is dropped and counted.
    pub(crate) fn publish(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.note_dropped(1);
        }
    }

    /// So many were dropped for want of room.
    pub(crate) fn note_dropped(&self, events: u64) {
        if events > 0 {
            self.dropped.fetch_add(events, Ordering::Relaxed);
            self.telemetry.dropped_events(events);
        }
    }
}

async fn publish(client: Client, mut events: mpsc::Receiver<Event>, dropped: Arc<AtomicU64>, telemetry: Telemetry) {
    let mut portions = interval(PORTION_EVERY);
    portions.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut portion = 0;
    let mut told = Instant::now();
    while let Some(event) = events.recv().await {
        portion += 1;
        if portion > PORTION_MAX {
            portions.tick().await;
            portion = 1;
        }
        let subject = subject::event(&event.metadata.namespace, &event.involved_object.name, &event.reason);
        if let Ok(json) = serde_json::to_vec(&event) {
            // The stream stores it; its ack is not waited for. A closed connection ends the service elsewhere.
            let _ = client.publish(subject, json.into()).await;
            telemetry.published();
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let lost = dropped.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "events were dropped: more happened than is published");
            }
        }
    }
}
