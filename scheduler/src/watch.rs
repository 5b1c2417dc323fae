//! The ordered watch of the whole bucket: from the first message on, a snapshot that stays warm.

use anyhow::{Context as _, bail};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use futures::StreamExt as _;
use podbus_common::subject::{BUCKET, LEASE_KEY};
use podbus_scheduler_core::Config;
use podbus_scheduler_leader::{Remembered, Snapshot, Stored};

use crate::store::{Store, StreamState, stored};

/// What was read so far, and what comes.
pub(crate) struct Watch {
    messages: Ordered,
    snapshot: Snapshot,
    lease: Option<Stored>,
    /// Up to here.
    applied: u64,
    /// The stream as it was at the beginning.
    begun: StreamState,
}

impl Watch {
    /// Begins at the first message. One unfiltered consumer: to create one that asks for the last message of each key
    /// takes nats-server 10 to 22 s at 2 million keys.
    pub(crate) async fn open(store: &Store, scheduling: &Config) -> anyhow::Result<Self> {
        let begun = store.state().await.context("cannot ask for the bucket's stream")?;
        let config = OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
        let consumer = store.stream().create_consumer(config).await.context("cannot create a consumer")?;
        let messages = consumer.messages().await.context("cannot read the bucket's stream")?;
        Ok(Self { messages, snapshot: Snapshot::new(scheduling.clone()), lease: None, applied: 0, begun })
    }

    /// Takes the next message in. It may be dropped at any time.
    pub(crate) async fn next(&mut self) -> anyhow::Result<()> {
        let Some(message) = self.messages.next().await else { bail!("the consumer ended") };
        let message = message?;
        let revision = message.info().map_err(|error| anyhow::anyhow!("{error}"))?.stream_sequence;
        if let Some(key) = message.subject.strip_prefix("$KV.").and_then(|rest| rest.strip_prefix(BUCKET)) {
            let key = key.trim_start_matches('.');
            let stored = stored(revision, message.headers.as_ref(), message.payload.clone());
            self.snapshot.take_in(key, &stored);
            if key == LEASE_KEY {
                self.lease = Some(stored);
            }
        }
        self.applied = revision;
        Ok(())
    }

    /// Whether all is read that was there at the beginning.
    pub(crate) fn is_current(&self) -> bool {
        self.begun.messages == 0 || self.applied >= self.begun.last_revision
    }

    /// Whether `now` cannot be a later state of the same stream.
    pub(crate) fn is_contradicted_by(&self, now: &StreamState) -> bool {
        now.created != self.begun.created || now.last_revision < self.applied.max(self.begun.last_revision)
    }

    /// Up to where it has read.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// The lease as it was read last.
    pub(crate) fn lease(&self) -> Option<&Stored> {
        self.lease.as_ref()
    }

    /// What is remembered when the store is another one now.
    pub(crate) fn into_remembered(self) -> Remembered {
        self.snapshot.into_remembered(self.lease.as_ref())
    }

    /// What is stored, as far as it was read.
    pub(crate) fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }

    /// The stream as it was when the watch began.
    pub(crate) fn begun(&self) -> &StreamState {
        &self.begun
    }
}
