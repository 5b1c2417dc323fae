//! The node agent: holds what the leader assigned to this node and drives a container runtime through CRI.
//!
//! What it decides is `podbus-node-agent-core`, which is pure. `agent` is the one task that owns the node's state: the
//! desired set, what was reported, who runs. A `worker` per pod carries out plans. Everything durable is in the state directory.

mod agent;
mod args;
mod cgroups;
mod health;
mod journal;
mod logs;
mod machine;
mod recovery;
mod runtime;
mod service;
pub mod sim;
mod state_dir;
mod streams;
mod telemetry;
mod user_ids;
mod volumes;
mod worker;

pub use args::Args;
pub use logs::fuzzing;
pub use service::main;
