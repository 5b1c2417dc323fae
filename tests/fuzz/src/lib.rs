//! Fuzzing: what reads a stranger's bytes gets many that are nearly right, each input from a seed.
//!
//! A [`Target`] has samples, words of its format and a check; [`Target::input`] makes one input of a seed by mutation. No
//! coverage guides it, so it needs no instrumented build: it runs as a test on stable Rust, and a seed is the same
//! input on any machine, for one commit.

mod mutate;
mod sample;
mod target;

pub use target::{Target, all};
