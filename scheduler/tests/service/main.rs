//! The scheduler on a real nats-server, with agents that only talk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod agent;
mod cluster;
mod deletion;
mod life;
mod loss;
mod refusal;
mod restart;
mod scheduling;
mod take_over;
