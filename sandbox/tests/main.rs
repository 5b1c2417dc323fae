//! The container runtime on a real kernel. Needs root.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod crash;
mod images;
mod network;
mod runtime;
mod security;
mod streaming;
