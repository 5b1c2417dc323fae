//! The flaw classes of container runtimes, each with the test that shows its defence. docs/SECURITY.md lists them.

mod cgroups;
mod context;
mod descriptors;
mod exhaustion;
mod hostile_image;
mod identity;
mod kernel_views;
mod mounts;
mod names;
mod processes;
mod seccomp;
