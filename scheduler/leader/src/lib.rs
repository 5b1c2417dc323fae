//! The leader without a bus, a store or a clock: facts and the time go in, what is to be written and said comes out.
//!
//! [`Leader`] owns all state. It takes one [`Input`] at a time; plain functions turn facts into a plan, writes to make
//! and effects that happen once every write is acknowledged. What leaves it are [`Output`]s. So nothing is answered,
//! assigned or acked before it is durable, and one object has at most one write under way.
//!
//! Whoever runs it keeps three promises:
//! - Outputs are carried out in order, as soon as [`Leader::outputs`] gives them. Each [`Output::Write`] is driven by a
//!   [`Writing`] until its outcome is known, and comes back as [`Input::Written`]; different ones need not wait for
//!   each other.
//! - It is called only while its lease is surely held ([`Held::valid_until`]). What came meanwhile waits; before the
//!   first input after such a gap comes [`Input::Resumed`].
//! - It begins with all that is stored, up to the write that took its lease.

#![expect(clippy::result_large_err, reason = "a refusal is an answer: it is made once a call and not passed far")]

mod binding;
mod cluster;
mod deletion;
mod events;
mod health;
mod input;
mod intake;
mod kept;
mod leader;
mod lease;
mod lineage;
mod nodes;
mod output;
mod plan;
mod query;
mod random;
mod rebuild;
mod record;
mod snapshot;
mod stats;
mod status;
mod sync;
mod watch;
mod writing;

pub use cluster::{Cluster, PodName};
pub use input::{Input, Message, Now};
pub use leader::{Leader, Settings, Start, TICK_EVERY};
pub use lease::{Boottime, Candidate, Held, LeaseLost, Next, RENEW_EVERY};
pub use lineage::Lineage;
pub use output::Output;
pub use plan::{CallId, Object, Write};
pub use query::unavailable;
pub use record::{AgentRecord, NodeRecord, Record, RemovalRecord, StatusRecord};
pub use snapshot::{Remembered, Snapshot};
pub use stats::{Facts, Stats, WAIT_BOUNDS_MS, Waits};
pub use watch::Outgoing;
pub use writing::{Failed, Step, Stored, Writing, Written};
