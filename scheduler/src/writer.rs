//! Carrying out the leader's writes: a task each, as different ones need not wait for each other.

use std::time::Instant;

use podbus_common_bus::Bus;
use podbus_scheduler_leader::{Input, Object, Step, Write, Writing};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::inputs::Heard;
use crate::lead::is_sure;
use crate::lease::Sure;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// Before it a purge of one key makes consumers of all keys skip what they have not read yet: a follower would miss it.
const PURGES_ONE_KEY_FROM: (u64, u64, u64) = (2, 10, 0);

/// What the writes of one term go through.
#[derive(Clone)]
pub(crate) struct Writer {
    store: Store,
    bus: Bus,
    sure: watch::Receiver<Sure>,
    heard: mpsc::Sender<Heard>,
    telemetry: Telemetry,
    ended: CancellationToken,
}

impl Writer {
    /// `ended` is cancelled when the term is over.
    pub(crate) fn new(
        store: Store,
        bus: Bus,
        sure: watch::Receiver<Sure>,
        heard: mpsc::Sender<Heard>,
        telemetry: Telemetry,
        ended: CancellationToken,
    ) -> Self {
        Self { store, bus, sure, heard, telemetry, ended }
    }

    /// Makes the writes of one decision.
    pub(crate) fn write(&self, object: Object, writes: Vec<(Write, u64)>) {
        let mut writer = self.clone();
        tokio::spawn(async move {
            let ended = writer.ended.clone();
            ended.run_until_cancelled(writer.write_all(object, writes)).await;
        });
    }

    /// Removes markers of purged keys, where nats-server can do that without harm.
    pub(crate) fn compact(&self, markers: Vec<(u64, String)>) {
        if self.bus.server_version().is_none_or(|version| version < PURGES_ONE_KEY_FROM) {
            return;
        }
        let writer = self.clone();
        tokio::spawn(async move {
            writer.ended.run_until_cancelled(writer.compact_all(markers)).await;
        });
    }

    /// One after the other, until the outcome of each is known.
    async fn write_all(&mut self, object: Object, writes: Vec<(Write, u64)>) {
        let mut writing = Writing::new(self.store.epoch(), writes);
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
