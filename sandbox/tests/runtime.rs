//! Pods on a real kernel: the daemon as a process of its own, killed and started again.

mod accounts;
pub(crate) mod cni;
mod death;
pub(crate) mod handlers;
pub(crate) mod host;
mod image_volume;
mod isolation;
mod life;
mod measure;
mod ports;
mod soak;
mod streams;
mod user_namespaces;
