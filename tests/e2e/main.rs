//! What crosses services, on the real thing: real nats-server, real namespaces, real images, the binary that a user
//! runs. Each test has a cluster of its own, made by `podbus up` in a directory of its own, and removes it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where, and that is all there is to say")]

mod access;
mod apart;
mod changes;
mod cluster;
mod drain;
mod errors;
mod exits;
mod faults;
mod foreign_client;
mod handlers;
mod leftovers;
mod life;
mod load;
mod lost_node;
mod observability;
mod purity;
mod runtimes;
mod soak;
mod store_loss;
mod streams;
mod take_over;
mod terminal;
