//! Rows: printed as they are measured, written at the end.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

/// What is compared with.
const PEER: &str = "kube-scheduler, CI threshold";

pub(crate) struct Report {
    filter: String,
    /// Sizes are divided by it.
    pub(crate) divisor: usize,
    rows: Vec<Value>,
}

impl Report {
    pub(crate) fn new(filter: String, divisor: usize) -> Self {
        println!("{:<58} {:>12}  {:>28} {:>8}", "core alone, one thread", "podbus", PEER, "ratio");
        Self { filter, divisor, rows: Vec::new() }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    /// Placements a second; `threshold`: of the peer, in pods a second.
    pub(crate) fn rate(&mut self, name: &str, pods: usize, took: Duration, threshold: Option<f64>) {
        #[expect(clippy::cast_precision_loss, reason = "counts of pods are far below 2^52")]
        let rate = pods as f64 / took.as_secs_f64();
        self.row(name, "pods/s", rate, threshold, threshold.map(|threshold| rate / threshold));
    }

    /// Milliseconds for each of `count`; `threshold`: of the peer.
    pub(crate) fn each(&mut self, name: &str, count: usize, took: Duration, threshold: f64) {
        #[expect(clippy::cast_precision_loss, reason = "counts of groups are far below 2^52")]
        let each = took.as_secs_f64() * 1000.0 / count as f64;
        self.row(name, "ms a group", each, Some(threshold), Some(threshold / each));
    }

    fn row(&mut self, name: &str, unit: &str, podbus: f64, peer: Option<f64>, ratio: Option<f64>) {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
        let digits = if podbus < 10.0 { 4 } else { 0 };
        println!("{name:<58} {podbus:>12.digits$}  {:>28} {:>7}x {unit}", shown(peer), shown(ratio));
        self.rows.push(json!({
            "name": name, "unit": unit, "podbus": podbus,
            "peer": peer.map(|_| PEER), "peer_value": peer, "ratio": ratio,
        }));
    }

    /// Replaces the rows of the same names in the file, so that other parts of the benchmark may add theirs.
    pub(crate) fn write(self) {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
        let path = target.join("bench/scheduler.json");
        let before = std::fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Vec<Value>>(&json).ok());
        let mut rows = before.unwrap_or_default();
        rows.retain(|row| !self.rows.iter().any(|new| new["name"] == row["name"]));
        rows.extend(self.rows);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, serde_json::to_vec_pretty(&rows).unwrap()).unwrap();
        println!("\nfigures: {}", path.display());
    }
}
