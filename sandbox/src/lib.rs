//! The container runtime of podbus: a CRI v1 server on a unix socket.
//!
//! ```text
//!   agent ──CRI──> cri ──> runtime ──> spawner, link ──> shim (a pod) ──> pause, containers
//!                           │  ├─ record    what is, on disk, before it is
//!                           │  ├─ cgroup    limits, accounts, killing
//!                           │  └─ plan      what the shim is told
//!                           ├─ image        layers
//!                           ├─ network      a namespace and an address for each pod
//!                           └─ cni          the same by plugins, for nodes that bring their own
//! ```
//!
//! The daemon may die at any time: what runs is the shims' to keep, and a new daemon takes it over.

mod capability;
mod cgroup;
mod cni;
mod cri;
mod daemon;
mod files;
mod handler;
pub mod image;
mod image_volume;
mod link;
mod metrics;
pub mod network;
mod plan;
mod pool;
mod process;
mod program;
mod ready;
mod record;
mod runtime;
mod seccomp;
mod spawner;
mod stats;
mod streaming;
mod sysctl;
mod telemetry;
mod user;
mod userns;
mod volume;

pub use daemon::{Args, WARM_NETWORKS, destroy, main};
