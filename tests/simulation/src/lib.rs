//! A whole cluster in one thread, from a seed.
//!
//! The leader (`podbus-scheduler-leader`) and the agents (`podbus-node-agent-core`) are the ones that production runs.
//! Around them are a store, a bus, disks, runtimes and clocks that obey the same promises as the real ones and no
//! better: messages are lost, doubled, late and out of order, processes are killed and stopped, machines lose power,
//! and no two clocks agree. After each step the invariants of the design are checked; in the end all is mended, and
//! what was acknowledged must come true.

mod client;
mod clock;
mod convergence;
mod dice;
mod disk;
mod faults;
mod invariants;
mod network;
mod node;
mod runtime;
mod scheduler;
mod script;
mod store;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use faults::Fault;
pub use script::Receiver;
pub use world::World;

use clock::seconds;

/// How long things break.
const STORM: u64 = seconds(60);
/// How long it may take until all is well: a crash loop's back-off is five minutes.
const CALM: u64 = seconds(900);

/// A run in which nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Events that happened.
    pub steps: u64,
    /// A hash of all of them: another run of the seed has the same.
    pub digest: u64,
}

/// A run in which a rule was broken.
#[derive(Debug)]
pub struct Failure {
    /// What it began with.
    pub seed: u64,
    /// Which rule.
    pub rule: String,
    /// What happened, if it was kept.
    pub trace: Vec<String>,
}

/// Runs a seed; `trace`: keeps what happens.
///
/// # Errors
/// The rule that was broken.
pub fn run(seed: u64, trace: bool) -> Result<Run, Box<Failure>> {
    let mut world = World::stormy(seed);
    if trace {
        world.keep_trace();
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| weather(&mut world)));
    let rule = match outcome {
        Ok(None) => return Ok(Run { steps: world.steps(), digest: world.digest() }),
        Ok(Some(rule)) => rule,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|words| (*words).to_owned()));
            format!("a panic: {}", words.unwrap_or_default())
        }
    };
    Err(Box::new(Failure { seed, rule, trace: world.trace().to_vec() }))
}

/// Lets things break, mends them, and waits until all is well. The rule that was broken.
fn weather(world: &mut World) -> Option<String> {
    world.run_to(STORM);
    if world.invariants.broken.is_some() {
        return world.invariants.broken.take();
    }
    world.mend();
    world.settle(CALM)
}
