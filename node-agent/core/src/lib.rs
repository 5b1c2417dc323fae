//! The node agent's decisions, pure: facts and time go in, actions and words come out.
//!
//! [`plan::plan`] is the heart: desired pod, observed runtime state, the worker's [`memory::Memory`] and the time give
//! the CRI calls to make next. Nothing here does I/O, reads a clock or keeps state: a worker observes, plans, carries
//! out, writes down what happened in its memory, and begins again. A plan that was cut short is never resumed.
//!
//! [`agent::Agent`] owns the node's pods: it speaks with the leader, keeps the desired set, and says which workers work
//! on what.

pub mod admission;
pub mod agent;
mod backoff;
pub mod chronicle;
pub mod desired;
pub mod environment;
pub mod eviction;
pub mod hash;
pub mod image;
pub mod memory;
pub mod model;
mod outbox;
pub mod plan;
mod report;
pub mod resources;
mod termination;
pub mod worker;

#[cfg(test)]
mod fixtures;
