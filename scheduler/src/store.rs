//! The KV bucket: attempts to write by compare-and-set, and reads for the few cases that memory cannot answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, HeaderMap, Message, header};
use bytes::Bytes;
use podbus_common::subject::{BUCKET, BUCKET_STREAM};
use podbus_scheduler_leader::{Failed, Stored};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

/// Which leader wrote a record.
const EPOCH_HEADER: &str = "Podbus-Epoch";
/// Marks of ADR-8: what a key's last message is.
const OPERATION_HEADER: &str = "KV-Operation";
const PURGE: &str = "PURGE";
/// JetStream's code for a stream that is not there.
const STREAM_NOT_FOUND: u64 = 10_059;
/// JetStream's code for a key that has another revision than the one expected.
const WRONG_LAST_SEQUENCE: u64 = 10_071;
/// How long one attempt waits for its ack.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How the stream behind the bucket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// When it was created: another one has another moment.
    pub(crate) created: String,
    /// Of its newest message.
    pub(crate) last_revision: u64,
    /// How many it has.
    pub(crate) messages: u64,
    /// On how many servers it is kept.
    pub(crate) replicas: u64,
}

/// Writes under one term's epoch. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
    jetstream: jetstream::Context,
    stream: Stream<()>,
    epoch: u64,
    /// Of all that was acknowledged to this process.
    acked: Arc<AtomicU64>,
}

impl Store {
    /// The bucket must exist.
    pub(crate) async fn open(jetstream: jetstream::Context, epoch: u64) -> anyhow::Result<Self> {
        let stream = jetstream.get_stream_no_info(BUCKET_STREAM).await?;
        Ok(Self { client: jetstream.client(), jetstream, stream, epoch, acked: Arc::default() })
    }

    /// The same bucket, written under another epoch.
    pub(crate) fn with_epoch(&self, epoch: u64) -> Self {
        Self { epoch, ..self.clone() }
    }

    /// The same bucket over another connection.
    pub(crate) async fn over(&self, jetstream: jetstream::Context) -> anyhow::Result<Self> {
        let stream = jetstream.get_stream_no_info(BUCKET_STREAM).await?;
        Ok(Self { client: jetstream.client(), jetstream, stream, ..self.clone() })
    }

    /// The stream behind the bucket.
    pub(crate) fn stream(&self) -> &Stream<()> {
        &self.stream
    }

    /// Under which it writes.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The highest revision that was acknowledged: a stream with less went back in time.
    pub(crate) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// What was acknowledged so far counts for nothing: this is another store.
    pub(crate) fn forget_acked(&self) {
        self.acked.store(0, Ordering::Relaxed);
    }

    /// One attempt to write `value` (`None`: to purge the key) if the key's revision is still `expected`, 0 for a key
    /// that never was.
    pub(crate) async fn write(&self, key: &str, value: Option<&Bytes>, expected: u64) -> Result<u64, Failed> {
        self.attempt(key, value, expected, ACK_TIMEOUT).await
    }

    /// One attempt that waits for its ack as long as `patience`.
    pub(crate) async fn attempt(
        &self,
        key: &str,
        value: Option<&Bytes>,
        expected: u64,
        patience: Duration,
    ) -> Result<u64, Failed> {
        let message = PublishMessage::build()
            .payload(value.cloned().unwrap_or_default())
            .headers(self.headers(value.is_none(), expected));
        let acked = timeout(patience, async {
            self.jetstream.send_publish(format!("$KV.{BUCKET}.{key}"), message).await?.await
        });
        match acked.await {
            Ok(Ok(ack)) => {
                self.note_acked(ack.sequence);
                Ok(ack.sequence)
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => Err(Failed::Conflict),
            Ok(Err(_)) | Err(_) => Err(Failed::Unknown),
        }
    }

    /// Publishes one attempt; its ack goes to `reply`, and [`outcome`] reads it.
    pub(crate) async fn publish(
        &self,
        key: &str,
        value: Option<Bytes>,
        expected: u64,
        reply: String,
    ) -> Result<(), Failed> {
        let headers = self.headers(value.is_none(), expected);
        let subject = format!("$KV.{BUCKET}.{key}");
        let sent = self.client.publish_with_reply_and_headers(subject, reply, headers, value.unwrap_or_default());
        sent.await.map_err(|_| Failed::Unknown)
    }

    fn headers(&self, purge: bool, expected: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(EPOCH_HEADER, self.epoch.to_string());
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        if purge {
            // Without a rollup: a key has one message anyway, and the purge that nats-server makes of a rollup has 2.9
            // skip what consumers of all keys have not read yet.
            headers.insert(OPERATION_HEADER, PURGE);
        }
        headers
    }

    /// A write was acknowledged to this process.
    pub(crate) fn note_acked(&self, revision: u64) {
        self.acked.fetch_max(revision, Ordering::Relaxed);
    }

    /// The newest message of a key, from the stream's leader and never from a replica.
    pub(crate) async fn read(&self, key: &str) -> anyhow::Result<Option<Stored>> {
        match self.stream.get_last_raw_message_by_subject(&format!("$KV.{BUCKET}.{key}")).await {
            Ok(message) => Ok(Some(stored(message.sequence, Some(&message.headers), message.payload))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// How the stream is now.
    pub(crate) async fn state(&self) -> anyhow::Result<StreamState> {
        // As a bare value: async-nats' own type has fields that nats-server 2.9 does not send.
        let answer: Response<Value> =
            self.jetstream.request(format!("STREAM.INFO.{BUCKET_STREAM}"), &json!({})).await?;
        let info = match answer {
            Response::Ok(info) => info,
            // The stream is not there: the store is another one.
            Response::Err { error } if error.error_code().0 == STREAM_NOT_FOUND => Value::Null,
            Response::Err { error } => return Err(error.into()),
        };
        let number = |name: &str| info["state"][name].as_u64().unwrap_or(0);
        let created = info["created"].as_str().unwrap_or_default().to_owned();
        let replicas = info["config"]["num_replicas"].as_u64().unwrap_or(1);
        Ok(StreamState { created, last_revision: number("last_seq"), messages: number("messages"), replicas })
    }

    /// Removes the marker of a purged key, if it is still what the key ends in.
    pub(crate) async fn compact(&self, key: &str, marker_revision: u64) -> anyhow::Result<()> {
        self.stream.purge().sequence(marker_revision + 1).filter(format!("$KV.{BUCKET}.{key}")).await?;
        Ok(())
    }
}

/// What JetStream says of a write.
#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    #[serde(default)]
    err_code: u64,
}

/// The revision that a write got, of its ack.
pub(crate) fn outcome(ack: &Message) -> Result<u64, Failed> {
    match serde_json::from_slice(&ack.payload) {
        Ok(Ack { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => Err(Failed::Conflict),
        Ok(Ack { error: None, seq }) if seq > 0 => Ok(seq),
        // Nobody serves the stream at the moment, or not as it should.
        _ => Err(Failed::Unknown),
    }
}

/// A message of the bucket's stream.
pub(crate) fn stored(revision: u64, headers: Option<&HeaderMap>, payload: Bytes) -> Stored {
    let header = |name: &str| headers.and_then(|headers| headers.get(name)).map(async_nats::HeaderValue::as_str);
    let gone = header(OPERATION_HEADER).is_some();
    let epoch = header(EPOCH_HEADER).and_then(|text| text.parse().ok()).unwrap_or(0);
    Stored { revision, value: (!gone).then_some(payload), epoch }
}
