//! Carrying out the leader's writes: one task publishes them, as many as the bus takes, and hears all their acks at one
//! inbox. What is not acknowledged at the first attempt gets a task of its own, which has time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use podbus_common_bus::Bus;
use podbus_scheduler_leader::{Failed, Input, Object, Step, Write, Writing};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::inputs::Heard;
use crate::lead::is_sure;
use crate::lease::Sure;
use crate::store::{ACK_TIMEOUT, Store, outcome};
use crate::telemetry::Telemetry;

/// Before it a purge of one key makes consumers of all keys skip what they have not read yet: a follower would miss it.
const PURGES_ONE_KEY_FROM: (u64, u64, u64) = (2, 10, 0);
/// Attempts without an ack at once; more wait to be made.
const IN_FLIGHT_MAX: usize = 4_096;
/// How often it is looked for acks that are missing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The writes of one decision.
type Decided = (Object, Vec<(Write, u64)>);

/// What the writes of one term go through.
pub(crate) struct Writer {
    /// As long as the objects that are busy.
    queue: mpsc::UnboundedSender<Decided>,
    patient: Patient,
}

impl Writer {
    pub(crate) async fn start(patient: Patient) -> anyhow::Result<Self> {
        let client = patient.bus.client();
        let inbox = client.new_inbox();
        let acks = client.subscribe(format!("{inbox}.*")).await?;
        let pipeline = Pipeline { patient: patient.clone(), inbox, in_flight: BTreeMap::new(), next: 0 };
        let (queue, decided) = mpsc::unbounded_channel();
        let ended = patient.ended.clone();
        tokio::spawn(async move { ended.run_until_cancelled(pipeline.run(decided, acks)).await });
        Ok(Self { queue, patient })
    }

    /// Makes the writes of one decision.
    pub(crate) fn write(&self, object: Object, writes: Vec<(Write, u64)>) {
        // It ends with the term only.
        let _ = self.queue.send((object, writes));
    }

    /// Removes markers of purged keys, where nats-server can do that without harm.
    pub(crate) fn compact(&self, markers: Vec<(u64, String)>) {
        if self.patient.bus.server_version().is_none_or(|version| version < PURGES_ONE_KEY_FROM) {
            return;
        }
        let patient = self.patient.clone();
        tokio::spawn(async move {
            patient.ended.run_until_cancelled(patient.compact_all(markers)).await;
        });
    }
}

/// First attempts.
struct Pipeline {
    patient: Patient,
    /// Attempt number n is answered at `<inbox>.<n>`.
    inbox: String,
    /// Those without an ack, by number: in the order in which they were published.
    in_flight: BTreeMap<u64, Attempt>,
    /// The number of the next one.
    next: u64,
}

struct Attempt {
    object: Object,
    writing: Writing,
    began: Instant,
}

impl Pipeline {
    async fn run(mut self, mut decided: mpsc::UnboundedReceiver<Decided>, mut acks: Subscriber) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // All are cancel-safe: channels hold what they did not return.
            tokio::select! {
                Some(ack) = acks.next() => self.hear(&ack).await,
                next = decided.recv(), if self.in_flight.len() < IN_FLIGHT_MAX => match next {
                    Some((object, writes)) => {
                        let writing = Writing::new(self.patient.store.epoch(), writes);
                        self.go_on(object, writing).await;
                    }
                    None => return,
                },
                _ = look.tick() => self.give_up(),
            }
        }
    }

    /// Publishes the next write, without waiting for its ack.
    async fn go_on(&mut self, object: Object, mut writing: Writing) {
        let Some(step) = writing.step() else { return self.patient.tell(object, writing).await };
        let Step::Write { key, value, expected } = step else { return self.patient.take_over(object, writing) };
        if !is_sure(&self.patient.sure.borrow_and_update(), &self.patient.bus) {
            // It is not made, and so unknown: that is found out once the lease is surely held again.
            writing.wrote(Err(Failed::Unknown));
            return self.patient.take_over(object, writing);
        }
        let reply = format!("{}.{}", self.inbox, self.next);
        let began = Instant::now();
        match self.patient.store.publish(&key, value, expected, reply).await {
            Ok(()) => {
                self.in_flight.insert(self.next, Attempt { object, writing, began });
                self.next += 1;
            }
            Err(failed) => {
                writing.wrote(Err(failed));
                self.patient.take_over(object, writing);
            }
        }
    }

    async fn hear(&mut self, ack: &Message) {
        let number = ack.subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        // One that was given up comes late: that it was written is found out by its next attempt.
        let Some(attempt) = number.and_then(|number: u64| self.in_flight.remove(&number)) else { return };
        let Attempt { object, mut writing, began } = attempt;
        self.patient.telemetry.wrote(began.elapsed());
        let outcome = outcome(ack);
        if let Ok(revision) = outcome {
            self.patient.store.note_acked(revision);
        }
        writing.wrote(outcome);
        if outcome.is_ok() {
            self.go_on(object, writing).await;
        } else {
            self.patient.take_over(object, writing);
        }
    }

    /// Attempts whose ack did not come: they may have been written.
    fn give_up(&mut self) {
        while let Some(attempt) = self.in_flight.first_entry().filter(|it| it.get().began.elapsed() > ACK_TIMEOUT) {
            let Attempt { object, mut writing, began } = attempt.remove();
            self.patient.telemetry.wrote(began.elapsed());
            writing.wrote(Err(Failed::Unknown));
            self.patient.take_over(object, writing);
        }
    }
}

/// Makes writes that did not succeed at once, step by step.
#[derive(Clone)]
pub(crate) struct Patient {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    pub(crate) sure: watch::Receiver<Sure>,
    /// Where the leader hears of the outcomes.
    pub(crate) heard: mpsc::Sender<Heard>,
    pub(crate) telemetry: Telemetry,
    /// Cancelled when the term is over: then no write of it is attempted any more.
    pub(crate) ended: CancellationToken,
}

impl Patient {
    /// Goes on in a task of its own.
    fn take_over(&self, object: Object, writing: Writing) {
        let mut patient = self.clone();
        tokio::spawn(async move {
            let ended = patient.ended.clone();
            ended.run_until_cancelled(patient.write_all(object, writing)).await;
        });
    }

    /// One after the other, until the outcome of each is known.
    async fn write_all(&mut self, object: Object, mut writing: Writing) {
        while let Some(step) = writing.step() {
            if !writing.delay().is_zero() {
                tokio::time::sleep(writing.delay()).await;
                // A process that was stopped meanwhile must not write into the term of another one.
                while !is_sure(&self.sure.borrow_and_update(), &self.bus) {
                    if self.sure.changed().await.is_err() {
                        return;
                    }
                }
            }
            match step {
                Step::Write { key, value, expected } => {
                    let began = Instant::now();
                    let wrote = self.store.write(&key, value.as_ref(), expected).await;
                    self.telemetry.wrote(began.elapsed());
                    writing.wrote(wrote);
                }
                Step::Read { key } => writing.read(self.store.read(&key).await.ok()),
            }
        }
        self.tell(object, writing).await;
    }

    async fn tell(&self, object: Object, writing: Writing) {
        // The leader ended: its term's end is told by the lease.
        let _ = self.heard.send(Heard::Input(Input::Written { object, outcome: writing.finish() })).await;
    }

    async fn compact_all(&self, markers: Vec<(u64, String)>) {
        for (revision, key) in markers {
            // What is left now is tried again with those that come.
            if self.store.compact(&key, revision).await.is_err()
                || self.heard.send(Heard::Input(Input::Compacted { key, revision })).await.is_err()
            {
                break;
            }
        }
    }
}
