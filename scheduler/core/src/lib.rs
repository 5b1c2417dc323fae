//! The scheduler's decisions: which node a pod goes to, or why it must wait. Pure: no tokio, no NATS, no clock, no
//! randomness.
//!
//! [`Scheduler`] is fed with what changes (nodes, bindings, pods that wait) and hands out [`Decision`]s. Filters and
//! scores have kube-scheduler's names and meaning.
//!
//! Inside, pods with the same spec are a `class`. What a class asks of a node's record alone is a `placement`, computed
//! once for all nodes; what it asks of a node's room is a `view`, which follows the nodes that changed and has the best
//! one at hand; what it asks of other pods is answered by `topology`, counters by label value that follow each binding.
//! `cluster` is the state behind them, `place` puts the three together, `preempt` and `groups` are what their names
//! say, and `queue` holds who waits.

mod bitset;
mod class;
mod cluster;
mod config;
mod explain;
mod filter;
mod groups;
mod labels;
mod node;
mod nodes;
mod place;
mod placement;
mod pod;
mod preempt;
mod queue;
mod resources;
mod scheduler;
mod score;
mod selector;
mod topology;
mod view;

pub use config::{Config, ConfigError, Profile, ResourceName, Strategy, Weights};
pub use explain::{Explanation, NodeVerdict, PlannedPod, PluginScore};
pub use filter::{FilterReason, tolerates};
pub use node::Node;
pub use pod::{HostPort, PendingPod, Placement, PodGroup, PodSpec, Shape};
pub use queue::QueueLengths;
pub use resources::Resources;
pub use scheduler::{Decision, Scheduler};
