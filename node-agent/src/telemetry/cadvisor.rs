//! `/metrics/cadvisor`: what the runtime says of pods and containers (KEP-2371), as the kubelet passes it on.

use podbus_common_cri::runtime::{Metric, MetricDescriptor, MetricType, PodSandboxMetrics};
use podbus_common_telemetry::{Kind, Samples};

use crate::machine;
use crate::runtime::cri::Cri;

/// Asks the runtime. One that has no such metrics says so.
pub(super) async fn page(runtime: Cri) -> Result<String, String> {
    let told = |error| format!("the container runtime: {error}");
    let descriptors = runtime.metric_descriptors().await.map_err(told)?;
    let pods = runtime.pod_sandbox_metrics().await.map_err(told)?;
    Ok(text(&descriptors, &pods))
}

fn text(descriptors: &[MetricDescriptor], pods: &[PodSandboxMetrics]) -> String {
    let mut samples = Samples::default();
    add_machine(&mut samples);
    let metrics = || {
        pods.iter().flat_map(|pod| pod.metrics.iter().chain(pod.container_metrics.iter().flat_map(|it| &it.metrics)))
    };
    for descriptor in descriptors {
        for metric in metrics().filter(|metric| metric.name == descriptor.name) {
            add(descriptor, metric, &mut samples);
        }
    }
    samples.into_text()
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn add(descriptor: &MetricDescriptor, metric: &Metric, samples: &mut Samples) {
    let kind = match metric.metric_type() {
        MetricType::Counter => Kind::Counter,
        MetricType::Gauge => Kind::Gauge,
    };
    samples.family(kind, descriptor.name.clone(), descriptor.help.clone());
    let keys = descriptor.label_keys.iter().map(|key| key.clone().into());
    let labels = keys.zip(metric.label_values.iter().cloned()).collect();
    samples.add(&descriptor.name, labels, metric.value.as_ref().map_or(0, |value| value.value) as f64);
}

/// Of the machine itself, as cAdvisor has it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn add_machine(samples: &mut Samples) {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    samples.family(Kind::Gauge, "machine_cpu_cores", "CPUs of the machine.");
    samples.add("machine_cpu_cores", Vec::new(), cpus as f64);
    // What cannot be read is not told.
    if let Ok(kib) = machine::memory_kib() {
        samples.family(Kind::Gauge, "machine_memory_bytes", "Memory of the machine in bytes.");
        samples.add("machine_memory_bytes", Vec::new(), (kib * 1024) as f64);
    }
}

#[cfg(test)]
mod tests {
    use podbus_common_cri::runtime::{ContainerMetrics, UInt64Value};

    use super::*;

    #[test]
    fn a_runtimes_metrics_get_their_labels_by_position() {
        let descriptor = MetricDescriptor {
            name: "container_oom_events_total".into(),
            help: "Processes killed for want of memory.".into(),
            label_keys: vec!["container".into(), "pod".into()],
        };
        let metric = Metric {
            name: descriptor.name.clone(),
            metric_type: MetricType::Counter.into(),
            label_values: vec!["main".into(), "web".into()],
            value: Some(UInt64Value { value: 2 }),
            ..Default::default()
        };
        let container = ContainerMetrics { metrics: vec![metric], ..Default::default() };
        let pod = PodSandboxMetrics { container_metrics: vec![container], ..Default::default() };
        let text = text(&[descriptor], &[pod]);
        assert!(text.contains(
            "# TYPE container_oom_events_total counter\ncontainer_oom_events_total{container=\"main\",pod=\"web\"} 2.0\n"
        ));
        assert!(text.contains("\nmachine_cpu_cores "), "{text}");
    }
}
