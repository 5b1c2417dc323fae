//! The core alone: how many placements a second, beside the thresholds of kube-scheduler's own benchmark.
//!
//! The shapes, their names, nodes and pods are those of kubernetes/kubernetes, test/integration/scheduler_perf, 2025-26.
//! Theirs run an API server and etcd as well, and a threshold is an alarm, set below the usual run: so the two columns
//! say how far placement is from being the bottleneck, not that one program is so many times faster than the other.
//! Timed is all that the core does for a pod: taking it in, deciding, and counting it on its node.
//!
//! Figures go to `target/bench/scheduler.json`, a list of `{name, unit, podbus, peer, peer_value, ratio}`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that cannot go on has failed; it prints")]

mod parts;
mod report;
mod shapes;

use report::Report;

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut report = Report::new(filter, if quick { 50 } else { 1 });
    shapes::identical(&mut report);
    shapes::scheduler_perf(&mut report);
    if !quick {
        report.write();
    }
}
