//! What a benchmark prints and writes: a row for each figure, beside that of a peer.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

/// The rows of one benchmark.
pub(crate) struct Table {
    /// The peer's name, as the heading of its column.
    peer: &'static str,
    rows: Vec<Value>,
}

impl Table {
    pub(crate) fn new(peer: &'static str) -> Self {
        Self { peer, rows: Vec::new() }
    }

    /// Adds a figure. The ratio says how many times better we are: of a rate, whose unit begins with `/`, more is
    /// better, and less of everything else.
    pub(crate) fn row(&mut self, name: &str, unit: &str, podbus: f64, value: Option<f64>) {
        let ratio = value.map(|value| if unit.starts_with('/') { podbus / value } else { value / podbus });
        let peer = value.map(|_| self.peer);
        let ratio = ratio.filter(|ratio| ratio.is_finite());
        self.rows.push(
            json!({"name": name, "unit": unit, "podbus": podbus, "peer": peer, "peer_value": value, "ratio": ratio}),
        );
    }

    pub(crate) fn print(&self) {
        println!("{:<56}{:>20}{:>26}{:>10}", "", "podbus", self.peer, "ratio");
        for row in &self.rows {
            let unit = row["unit"].as_str().unwrap_or_default();
            let cell = |value: &Value, unit: &str| {
                value.as_f64().map_or_else(|| "-".to_owned(), |v| format!("{} {unit}", short(v)))
            };
            let name = row["name"].as_str().unwrap_or_default();
            println!(
                "{name:<56}{:>20}{:>26}{:>10}",
                cell(&row["podbus"], unit),
                cell(&row["peer_value"], unit),
                cell(&row["ratio"], "x")
            );
        }
    }

    /// Writes `target/bench/<name>.json`.
    pub(crate) fn write(&self, name: &str) -> anyhow::Result<()> {
        let directory = target_directory().join("bench");
        std::fs::create_dir_all(&directory)?;
        let file = directory.join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_string_pretty(&self.rows)?)?;
        println!("written to {}", file.display());
        Ok(())
    }

    /// As [`Self::write`], but rows of other names stay: another benchmark has written them.
    pub(crate) fn add_to(mut self, name: &str) -> anyhow::Result<()> {
        let file = target_directory().join("bench").join(format!("{name}.json"));
        let before = std::fs::read(&file).ok().and_then(|json| serde_json::from_slice::<Vec<Value>>(&json).ok());
        let mut rows = before.unwrap_or_default();
        rows.retain(|row| !self.rows.iter().any(|new| new["name"] == row["name"]));
        rows.append(&mut self.rows);
        self.rows = rows;
        self.write(name)
    }
}

/// Writes `target/bench/<name>.html`.
pub(crate) fn write_page(name: &str, page: &str) -> anyhow::Result<()> {
    let directory = target_directory().join("bench");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join(format!("{name}.html"));
    std::fs::write(&file, page)?;
    println!("written to {}", file.display());
    Ok(())
}

/// Three digits that count.
fn short(value: f64) -> String {
    if value.abs() < 1.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}

/// `target/`, which cargo tags as it does `target/<triple>/`, from the place of its directory for temporary files in
/// either.
fn target_directory() -> PathBuf {
    let is_tagged = |directory: &&Path| directory.join("CACHEDIR.TAG").exists();
    let above = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors();
    let target = above.skip_while(|directory| !is_tagged(directory)).take_while(is_tagged).last();
    target.map_or_else(|| "target".into(), Path::to_owned)
}

/// Builds the image that all benchmarks run.
pub(crate) fn busybox_archive() -> anyhow::Result<PathBuf> {
    let archive = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox-bench.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/build-busybox-image.sh");
    succeeded(Command::new("sh").arg(script).arg(&archive))?;
    Ok(archive)
}

pub(crate) fn succeeded(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The smallest value that `percent` of all are not above.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * percent).div_ceil(100).saturating_sub(1)]
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
