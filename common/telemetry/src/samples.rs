//! Families whose samples are known only when somebody looks: those of pods that come and go, and facts that a pure core
//! tells.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::endpoints::encode;

/// Names and values of labels.
pub type Labels = Vec<(Cow<'static, str>, String)>;

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends in `_total`.
    Counter,
    /// It goes up and down, or is a counter whose old name does not end in `_total`.
    Gauge,
    /// How often each size was seen.
    Histogram,
}

#[derive(Debug)]
enum Value {
    Number(f64),
    Histogram { sum: f64, buckets: Vec<(f64, u64)> },
}

/// Samples by family, in the order in which families were first named.
#[derive(Debug, Default)]
pub struct Samples {
    families: Vec<FamilyOfSamples>,
    by_name: HashMap<Cow<'static, str>, usize>,
}

#[derive(Debug)]
struct FamilyOfSamples {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    kind: Kind,
    samples: Vec<(Labels, Value)>,
}

impl Samples {
    /// Names a family; a second time changes nothing.
    pub fn family(&mut self, kind: Kind, name: impl Into<Cow<'static, str>>, help: impl Into<Cow<'static, str>>) {
        let name = name.into();
        if !self.by_name.contains_key(&name) {
            self.by_name.insert(name.clone(), self.families.len());
            self.families.push(FamilyOfSamples { name, help: help.into(), kind, samples: Vec::new() });
        }
    }

    /// Adds a sample to a family that was named; to another one it adds nothing.
    pub fn add(&mut self, name: &str, labels: Labels, value: f64) {
        self.put(name, labels, Value::Number(value));
    }

    /// Adds a histogram: the sum of all that was seen, and how much was seen up to each upper bound and above the one
    /// before it.
    pub fn add_histogram(&mut self, name: &str, labels: Labels, sum: f64, buckets: Vec<(f64, u64)>) {
        self.put(name, labels, Value::Histogram { sum, buckets });
    }

    fn put(&mut self, name: &str, labels: Labels, value: Value) {
        if let Some(index) = self.by_name.get(name) {
            self.families[*index].samples.push((labels, value));
        }
    }

    /// All of them as Prometheus reads them; families without a sample are left out.
    pub fn into_text(mut self) -> String {
        self.families.retain(|family| !family.samples.is_empty());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        encode(&registry)
    }
}

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.families {
            // The encoder adds it to counters.
            let counter = family.name.strip_suffix("_total").filter(|_| family.kind == Kind::Counter);
            let kind = match family.kind {
                Kind::Histogram => MetricType::Histogram,
                _ if counter.is_some() => MetricType::Counter,
                _ => MetricType::Gauge,
            };
            let name = counter.unwrap_or(&family.name);
            let mut metrics = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for (labels, value) in &family.samples {
                let mut metric = metrics.encode_family(labels)?;
                match value {
                    Value::Number(value) if kind == MetricType::Counter => ConstCounter::new(*value).encode(metric)?,
                    Value::Number(value) => ConstGauge::new(*value).encode(metric)?,
                    Value::Histogram { sum, buckets } => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Makes samples with each look at `/metrics`.
pub(crate) struct Reader<F>(pub(crate) F);

impl<F> fmt::Debug for Reader<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl<F: Fn(&mut Samples) + Send + Sync + 'static> Collector for Reader<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples::default();
        (self.0)(&mut samples);
        samples.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_with_their_family_and_values_are_escaped() {
        let mut samples = Samples::default();
        samples.family(Kind::Gauge, "kube_pod_info", "Of a pod.");
        samples.family(Kind::Counter, "container_oom_events_total", "Of a container.");
        samples.family(Kind::Counter, "container_memory_failcnt", "An old name.");
        samples.family(Kind::Gauge, "empty", "Nothing.");
        samples.add("kube_pod_info", vec![("pod".into(), "a\"b\n".to_owned())], 1.0);
        samples.add("container_oom_events_total", vec![("pod".into(), "a".to_owned())], 2.0);
        samples.add("kube_pod_info", vec![("pod".into(), "c".to_owned())], 1.5);
        samples.add("container_memory_failcnt", Vec::new(), 3.0);
        samples.add("unknown", Vec::new(), 3.0);
        samples.family(Kind::Histogram, "wait_seconds", "How long.");
        samples.add_histogram("wait_seconds", Vec::new(), 7.5, vec![(0.5, 1), (1.0, 2), (f64::INFINITY, 1)]);
        assert_eq!(
            samples.into_text(),
            "# HELP kube_pod_info Of a pod.\n# TYPE kube_pod_info gauge\n\
             kube_pod_info{pod=\"a\\\"b\\n\"} 1.0\nkube_pod_info{pod=\"c\"} 1.5\n\
             # HELP container_oom_events_total Of a container.\n# TYPE container_oom_events_total counter\n\
             container_oom_events_total{pod=\"a\"} 2.0\n\
             # HELP container_memory_failcnt An old name.\n# TYPE container_memory_failcnt gauge\n\
             container_memory_failcnt 3.0\n\
             # HELP wait_seconds How long.\n# TYPE wait_seconds histogram\n\
             wait_seconds_bucket{le=\"0.5\"} 1\nwait_seconds_bucket{le=\"1\"} 3\nwait_seconds_bucket{le=\"+Inf\"} 4\n\
             wait_seconds_sum 7.5\nwait_seconds_count 4\n"
        );
    }
}
