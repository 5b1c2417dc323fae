//! What may die at any step, and what is there afterwards: all of it and right, or nothing.

mod daemon;
mod scene;
mod shim;
pub(crate) mod tracer;
mod truth;
