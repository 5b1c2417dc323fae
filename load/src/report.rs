//! The report of a load test: what is written as JSON, and what the page and the tables are made of.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// A load test and its figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Of the scenario.
    pub name: String,
    /// When it began, RFC 3339.
    pub started: String,
    /// The scenario file, as it was read.
    pub scenario: String,
    /// Where it ran, as pairs for a person.
    pub environment: BTreeMap<String, String>,
    /// Pods asked for, and those that were there before.
    pub asked: u64,
    /// Pods that were there before the measurement.
    pub before: u64,
    /// Pods that came to run.
    pub ran: u64,
    /// Pods that a fault replaced under a new UID.
    pub replaced: u64,
    /// Requests that failed and were sent again, by their words.
    pub failed_requests: BTreeMap<String, u64>,
    /// Pods a second from the first that was due to the last, for each moment.
    pub throughput: BTreeMap<String, f64>,
    /// From when a pod was due.
    pub latencies: Vec<Latency>,
    /// One for each phase of the arrivals.
    pub phases: Vec<PhaseFigures>,
    /// About ten a second.
    pub samples: Vec<Sample>,
    /// What happened to the cluster meanwhile.
    pub faults: Vec<FaultSeen>,
    /// CPU time of the generator itself, as a share of one CPU.
    pub generator_cpu: f64,
    /// What the scenario expected and did not get.
    pub missed: Vec<String>,
}

/// A distribution of latencies, milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// `created`, `bound`, `running`, `created -> bound`, `bound -> running`, `deleted`.
    pub name: String,
    /// How many pods.
    pub count: u64,
    /// Mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// 99.9th percentile.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The HDR histogram, so that reports can be merged: (microseconds, pods).
    pub recorded: Vec<(u64, u64)>,
}

/// One phase of the arrivals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PhaseFigures {
    /// As the scenario says it.
    pub pattern: String,
    /// Pods due in it.
    pub pods: u64,
    /// Pods due a second; 0: a burst.
    pub offered_per_second: f64,
    /// Median until running.
    pub p50_ms: f64,
    /// 99th percentile until running.
    pub p99_ms: f64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sample {
    /// After the start.
    pub seconds: f64,
    /// Pods that should have left by now.
    pub due: u64,
    /// Pods whose creation was answered.
    pub created: u64,
    /// Pods that have a node.
    pub bound: u64,
    /// Pods seen running.
    pub running: u64,
    /// Pods seen gone.
    pub deleted: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Share of the nodes' CPU that bound pods ask for.
    pub cpu_share: f64,
    /// Share of the nodes' memory that bound pods ask for.
    pub memory_share: f64,
    /// Nodes that are Ready.
    pub nodes_ready: u64,
}

/// Something that happened to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultSeen {
    /// After the start.
    pub seconds: f64,
    /// For a person.
    pub what: String,
}

impl Latency {
    /// Of a histogram in microseconds.
    pub fn of(name: &str, histogram: &Histogram<u64>) -> Self {
        let percentile = |percent: f64| milliseconds(histogram.value_at_percentile(percent));
        Self {
            name: name.to_owned(),
            count: histogram.len(),
            mean_ms: histogram.mean() / 1e3,
            p50_ms: percentile(50.0),
            p90_ms: percentile(90.0),
            p95_ms: percentile(95.0),
            p99_ms: percentile(99.0),
            p999_ms: percentile(99.9),
            max_ms: milliseconds(histogram.max()),
            recorded: histogram.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect(),
        }
    }

    /// The latency below which `percent` of the pods are, milliseconds.
    pub fn percentile(&self, percent: f64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
        let wanted = percent / 100.0 * self.count as f64;
        let mut below = 0.0;
        for (micros, count) in &self.recorded {
            #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
            let pods = *count as f64;
            below += pods;
            if below >= wanted {
                return milliseconds(*micros);
            }
        }
        self.max_ms
    }

    /// The curve: (share of the pods, milliseconds), for percentiles that are spaced evenly on a logarithmic tail.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let steps = (0..=80_u32).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0));
        #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
        let resolved = |share: &f64| (1.0 - share) * self.count as f64 >= 0.5;
        steps.take_while(resolved).map(|share| (share, self.percentile(share * 100.0))).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "an hour in microseconds is far below 2^52")]
pub(crate) fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

impl Report {
    /// One of its latencies.
    pub fn latency(&self, name: &str) -> Option<&Latency> {
        self.latencies.iter().find(|latency| latency.name == name && latency.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::{histogram, record};

    #[test]
    fn a_report_keeps_what_its_percentiles_are_made_of() {
        let mut all = histogram();
        (1..=1000).for_each(|ms| record(&mut all, Duration::from_millis(ms)));
        let latency = Latency::of("running", &all);
        for percent in [50.0, 90.0, 99.0] {
            let exact = percent * 10.0;
            assert!((latency.percentile(percent) - exact).abs() <= exact / 500.0, "{percent}");
        }
        assert_eq!(latency.percentile(99.0), latency.p99_ms);
        let json = serde_json::to_string(&latency).unwrap();
        assert_eq!(serde_json::from_str::<Latency>(&json).unwrap(), latency);
        let curve = latency.curve();
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert!(curve.last().unwrap().0 <= 0.9995, "1,000 pods say nothing of the 99.99th percentile");
    }
}
