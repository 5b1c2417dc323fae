//! Many seeds, or one: `PODBUS_SEED` replays one and prints all that happens, `PODBUS_SEEDS` is how many to try.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use podbus_simulation::{Failure, run};

/// Seeds that are tried when nobody says how many.
const SEEDS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_seed_breaks_a_rule() {
    if let Some(seed) = number("PODBUS_SEED") {
        let outcome = run(seed, true);
        if let Err(failure) = &outcome {
            panic!("{}\nseed {seed}: {}", failure.trace.join("\n"), failure.rule);
        }
        return;
    }
    let (next, seeds) = (AtomicU64::new(0), number("PODBUS_SEEDS").unwrap_or(SEEDS));
    let failed: Mutex<Vec<Failure>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    if let Err(failure) = run(seed, false) {
                        failed.lock().unwrap().push(*failure);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let lines: Vec<_> = failed.iter().map(|failure| format!("seed {}: {}", failure.seed, failure.rule)).collect();
    let (count, all) = (lines.len(), lines.join("\n"));
    assert!(lines.is_empty(), "{all}\n{count} of {seeds} seeds broke a rule; replay one: `make simulate SEED=...`");
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..5 {
        assert_eq!(run(seed, false).ok(), run(seed, false).ok(), "seed {seed}");
    }
}
