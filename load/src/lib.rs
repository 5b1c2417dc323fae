//! Load tests without a cluster: what a scenario asks for, when each pod is due, what became of the pods, and the report
//! of it. Pure: no bus, no clock, no file. `podbus load` is the shell around it.
//!
//! ```text
//! scenario (YAML) -> schedule (when which pod) -> tally (what happened) -> report -> text, page, comparison
//!                                                                         \-> view, while it runs
//! ```

pub mod chance;
pub mod page;
mod plot;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod tally;
pub mod text;
pub mod view;

pub use report::Report;
pub use scenario::Scenario;
