//! What the leader wants done.

use bytes::Bytes;
use podbus_common::api::Status;
use podbus_common::model::Event;

use crate::plan::{CallId, Object, Write};
use crate::watch::Outgoing;

/// Something to do. All that rests on a write comes after the [`Input::Written`](crate::Input::Written) of that write,
/// so an output may be carried out as soon as it is there.
#[derive(Debug)]
pub enum Output {
    /// Make these writes, one after the other, each with the revision that it expects.
    Write {
        /// What they are about.
        object: Object,
        /// The writes of one decision.
        writes: Vec<(Write, u64)>,
    },
    /// Answer a call with this JSON.
    Answer(CallId, Result<Bytes, Status>),
    /// Publish a protobuf message to a node.
    Send {
        /// Where to.
        subject: String,
        /// The message.
        payload: Bytes,
    },
    /// Tell a watcher.
    Watch(Outgoing),
    /// Publish an event.
    Publish(Box<Event>),
    /// Remove markers of purged keys from the store, and say of each that is gone
    /// [`Input::Compacted`](crate::Input::Compacted).
    Compact(Vec<(u64, String)>),
}
