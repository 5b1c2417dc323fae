//! What the tests and benchmarks of several crates share.

pub mod cgroups;
pub mod containerd;
pub mod program;
pub mod wait;
