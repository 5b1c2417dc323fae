//! What an agent shows of itself: metrics by the kubelet's names, and whether it is ready.

mod cadvisor;
mod pods;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use podbus_common::model::Pod;
use podbus_common_bus::Bus;
use podbus_common_telemetry::{
    Address, Counter, Endpoints, Family, Gauge, Histogram, Latencies, Registry, Samples, Server, latencies, latency,
    register_reader, wait,
};
use podbus_node_agent_core::worker::Update;
use tokio::sync::watch;

use self::pods::Pods;
use crate::agent::Health;
use crate::runtime::cri::Cri;
use crate::worker::now;

type Operations = Family<[(&'static str, &'static str); 1], Counter>;

/// What all tasks of an agent count into. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    bus: OnceLock<Bus>,
    health: OnceLock<watch::Receiver<Health>>,
    agent_epoch: AtomicU64,
    pods: Mutex<Pods>,
    operations: Operations,
    operation_errors: Operations,
    operation_seconds: Latencies<1>,
    worker_seconds: Latencies<1>,
    look_seconds: Histogram,
    pod_start_seconds: Histogram,
    pod_start_sli_seconds: Histogram,
    syncs: Counter,
    status_seconds: Histogram,
    status_unanswered: Counter,
}

impl Telemetry {
    pub(crate) fn new(node: &str) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            bus: OnceLock::new(),
            health: OnceLock::new(),
            agent_epoch: AtomicU64::new(0),
            pods: Mutex::new(Pods::new(now())),
            operations: Operations::default(),
            operation_errors: Operations::default(),
            operation_seconds: latencies(),
            worker_seconds: latencies(),
            look_seconds: latency(),
            pod_start_seconds: wait(),
            pod_start_sli_seconds: wait(),
            syncs: Counter::default(),
            status_seconds: latency(),
            status_unanswered: Counter::default(),
        }))
    }

    /// Shows it at `address` from now on, to the end of the process.
    pub(crate) async fn serve(&self, address: &Address, runtime: &Cri) -> anyhow::Result<()> {
        let server = Server::bind(address).await?;
        tracing::info!(address = %server.address(), "serving metrics");
        tokio::spawn(server.run(self.endpoints(runtime)));
        Ok(())
    }

    fn endpoints(&self, runtime: &Cri) -> Endpoints {
        let (runtime, telemetry) = (runtime.clone(), self.clone());
        let check = |check: fn(&Shared) -> Result<(), String>| {
            let shared = Arc::clone(&self.0);
            move || check(&shared)
        };
        Endpoints::new(telemetry.registry())
            .page("/metrics/cadvisor", move || cadvisor::page(runtime.clone()))
            .ready(
                "nats",
                check(|shared| match shared.bus.get() {
                    Some(bus) if bus.is_connected() => Ok(()),
                    _ => Err("not connected to nats-server".to_owned()),
                }),
            )
            .ready(
                "runtime",
                check(|shared| match shared.health.get().map(|health| health.borrow().not_ready.clone()) {
                    None => Err("waiting for the container runtime".to_owned()),
                    Some(why) if !why.is_empty() => Err(why),
                    Some(_) => Ok(()),
                }),
            )
            .ready(
                "registered",
                check(|shared| match shared.agent_epoch.load(Ordering::Relaxed) {
                    0 => Err("no leader took this node yet".to_owned()),
                    _ => Ok(()),
                }),
            )
    }

    fn registry(&self) -> Registry {
        let (mut registry, shared) = (Registry::default(), &self.0);
        let bus = Arc::clone(shared);
        podbus_common_bus::telemetry::register(&mut registry, move || bus.bus.get().cloned());
        let telemetry = self.clone();
        register_reader(&mut registry, move |samples| telemetry.read(samples));
        let name = Family::<[(&'static str, String); 1], Gauge>::default();
        name.get_or_create(&[("node", shared.node.clone())]).set(1);
        registry.register("kubelet_node_name", "The node's name", name);
        let help = "Calls to the container runtime";
        registry.register("kubelet_runtime_operations", help, shared.operations.clone());
        let help = "Calls to the container runtime that failed";
        registry.register("kubelet_runtime_operations_errors", help, shared.operation_errors.clone());
        let help = "Time of calls to the container runtime";
        registry.register("kubelet_runtime_operations_duration_seconds", help, shared.operation_seconds.clone());
        let help = "Time to carry out what one pod needs next";
        registry.register("kubelet_pod_worker_duration_seconds", help, shared.worker_seconds.clone());
        let help = "Time for one look at what the runtime has of a pod";
        registry.register("kubelet_pleg_relist_duration_seconds", help, shared.look_seconds.clone());
        let help = "Time from the moment at which the node holds a pod until all of its containers run";
        registry.register("kubelet_pod_start_duration_seconds", help, shared.pod_start_seconds.clone());
        let help = "Time from a pod's creation until all of its containers run, for pods without init containers; \
                    pulls are included, and creation is told in whole seconds";
        registry.register("kubelet_pod_start_sli_duration_seconds", help, shared.pod_start_sli_seconds.clone());
        let help = "Registrations and requests for what the desired set lacks";
        registry.register("podbus_agent_syncs", help, shared.syncs.clone());
        let help = "Time from a status request to the leader's answer, which says that it is stored";
        registry.register("podbus_agent_status_duration_seconds", help, shared.status_seconds.clone());
        let help = "Status requests that no leader answered";
        registry.register("podbus_agent_status_unanswered", help, shared.status_unanswered.clone());
        registry
    }

    fn read(&self, samples: &mut Samples) {
        self.pods().read(samples);
        let health = self.0.health.get().map(|health| health.borrow().clone()).unwrap_or_default();
        let epoch = self.0.agent_epoch.load(Ordering::Relaxed);
        pods::gauge(samples, "podbus_agent_epoch", "Epoch of this agent; 0: not registered.", epoch);
        let help = "Thousandths of a CPU that the node's pods use.";
        pods::gauge(samples, "podbus_agent_used_cpu_millis", help, health.used_cpu_millis);
        let help = "Bytes of memory that the node's pods use.";
        pods::gauge(samples, "podbus_agent_used_memory_bytes", help, health.used_memory_bytes);
    }

    fn pods(&self) -> MutexGuard<'_, Pods> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner) // each call leaves it whole
    }
}

// === What is told ===

impl Telemetry {
    pub(crate) fn has_bus(&self, bus: &Bus) {
        // Set once: a process has one.
        let _ = self.0.bus.set(bus.clone());
    }

    pub(crate) fn has_health(&self, health: &watch::Receiver<Health>) {
        // Set once: a process has one.
        let _ = self.0.health.set(health.clone());
    }

    /// 0: the node is not registered.
    pub(crate) fn registered(&self, agent_epoch: u64) {
        self.0.agent_epoch.store(agent_epoch, Ordering::Relaxed);
    }

    /// The node holds a pod.
    pub(crate) fn holds(&self, uid: &str, pod: &Pod) {
        self.pods().hold(uid, pod, now());
    }

    /// Nothing of a pod is left.
    pub(crate) fn ended(&self, uid: &str) {
        self.pods().end(uid);
    }

    /// A worker says something.
    pub(crate) fn heard(&self, update: &Update) {
        let Update::Report(report) = update else { return };
        let Some(start) = self.pods().report(report, now()) else { return };
        self.0.pod_start_seconds.observe(start.since_held.as_secs_f64());
        if let Some(since_created) = start.since_created {
            self.0.pod_start_sli_seconds.observe(since_created.as_secs_f64());
        }
    }

    /// A call to the runtime is over; `call` is the kubelet's name of it.
    pub(crate) fn called(&self, call: &'static str, took: Duration, failed: bool) {
        let labels = [("operation_type", call)];
        self.0.operations.get_or_create(&labels).inc();
        self.0.operation_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        if failed {
            self.0.operation_errors.get_or_create(&labels).inc();
        }
    }

    /// A worker carried out what its pod needed.
    pub(crate) fn worked(&self, took: Duration) {
        self.0.worker_seconds.get_or_create(&[("operation_type", "sync")]).observe(took.as_secs_f64());
    }

    /// A worker has looked at its pod.
    pub(crate) fn looked(&self, took: Duration) {
        self.0.look_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn syncs(&self) {
        self.0.syncs.inc();
    }

    /// A status request is over.
    pub(crate) fn told_status(&self, took: Duration, answered: bool) {
        if answered {
            self.0.status_seconds.observe(took.as_secs_f64());
        } else {
            self.0.status_unanswered.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use podbus_common_telemetry::encode;

    use super::*;

    #[test]
    fn calls_are_counted_by_the_kubelets_names() {
        let telemetry = Telemetry::new("node-1");
        telemetry.called("run_podsandbox", Duration::from_millis(3), false);
        telemetry.called("run_podsandbox", Duration::from_millis(3), true);
        let text = encode(&telemetry.registry());
        for line in [
            "kubelet_node_name{node=\"node-1\"} 1",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"run_podsandbox\"} 2",
            "kubelet_running_pods 0.0",
            "podbus_bus_connected 0.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
