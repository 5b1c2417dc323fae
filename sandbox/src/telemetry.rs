//! What the daemon shows of itself: its calls, what it holds, and whether it can run pods.

use std::sync::Arc;
use std::time::Duration;

use podbus_common_telemetry::{
    Address, Counter, Endpoints, Family, Kind, Latencies, Registry, Samples, Server, latencies, register_reader,
};
use tonic::Code;

use crate::cri::conditions;
use crate::runtime::Runtime;

/// Where calls are counted. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    seconds: SharedLatencies,
    errors: Family<[(&'static str, String); 2], Counter>,
}

#[derive(Debug, Clone)]
struct SharedLatencies(Latencies<1>);

impl Default for SharedLatencies {
    fn default() -> Self {
        Self(latencies())
    }
}

impl Calls {
    pub(crate) fn called(&self, path: &str, took: Duration, code: Code) {
        let operation = operation(path);
        self.seconds.0.get_or_create(&[("operation", operation)]).observe(took.as_secs_f64());
        if code != Code::Ok {
            self.errors.get_or_create(&[("operation", operation.to_owned()), ("code", format!("{code:?}"))]).inc();
        }
    }
}

/// The calls that change something, by their name in CRI; all others are one.
fn operation(path: &str) -> &'static str {
    const NAMED: [&str; 12] = [
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "UpdateContainerResources",
        "ExecSync",
        "PullImage",
        "RemoveImage",
        "Status",
    ];
    let name = path.rsplit('/').next().unwrap_or_default();
    NAMED.into_iter().find(|named| *named == name).unwrap_or("other")
}

/// Shows the daemon at `address` from now on, to the end of the process.
pub(crate) async fn serve(address: &Address, runtime: Arc<Runtime>, calls: &Calls) -> anyhow::Result<()> {
    let server = Server::bind(address).await?;
    tracing::info!(address = %server.address(), "serving metrics");
    let mut registry = Registry::default();
    let help = "Time of CRI calls; of those that wait for a container to end, this waiting too";
    registry.register("podbus_sandbox_operation_duration_seconds", help, calls.seconds.0.clone());
    registry.register("podbus_sandbox_operation_errors", "CRI calls that were refused", calls.errors.clone());
    let (held, asked) = (Arc::clone(&runtime), runtime);
    register_reader(&mut registry, move |samples| read(&held, samples));
    let endpoints = Endpoints::new(registry).ready("runtime", move || {
        let failing = conditions(&asked).into_iter().find(|condition| !condition.status);
        failing.map_or(Ok(()), |it| Err(format!("{}: {} {}", it.r#type, it.reason, it.message)))
    });
    tokio::spawn(server.run(endpoints));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn read(runtime: &Runtime, samples: &mut Samples) {
    let (sandboxes, containers) = (runtime.sandboxes(), runtime.containers());
    let ready = sandboxes.iter().filter(|sandbox| sandbox.is_ready()).count();
    let running = containers.iter().filter(|container| container.is_running()).count();
    for (name, help, states) in [
        (
            "podbus_sandbox_sandboxes",
            "Pod sandboxes, by their state.",
            [("ready", ready), ("not_ready", sandboxes.len() - ready)],
        ),
        (
            "podbus_sandbox_containers",
            "Containers, by their state.",
            [("running", running), ("not_running", containers.len() - running)],
        ),
    ] {
        samples.family(Kind::Gauge, name, help);
        for (state, count) in states {
            samples.add(name, vec![("state".into(), state.to_owned())], count as f64);
        }
    }
    let name = "podbus_sandbox_warm_networks";
    samples.family(Kind::Gauge, name, "Pod networks made in advance that wait for a pod.");
    samples.add(name, Vec::new(), runtime.warm_networks() as f64);
}

#[cfg(test)]
mod tests {
    use podbus_common_telemetry::encode;
    use tonic::codegen::{Service as _, http};
    use tonic::{Status, body::Body};

    use super::*;
    use crate::cri::CallLayer;

    #[tokio::test]
    async fn a_call_counts_with_its_name_and_a_refusal_with_its_code() {
        let refuse = tower::service_fn(|_: http::Request<()>| async {
            Ok::<_, std::convert::Infallible>(Status::not_found("no sandbox x").into_http::<Body>())
        });
        let calls = Calls::default();
        let mut service = tower::Layer::layer(&CallLayer(calls.clone()), refuse);
        for path in ["/runtime.v1.RuntimeService/StopPodSandbox", "/whatever/anyone/asks"] {
            service.call(http::Request::builder().uri(path).body(()).unwrap()).await.unwrap();
        }
        let mut registry = Registry::default();
        registry.register("seconds", "Time", calls.seconds.0.clone());
        registry.register("errors", "Refusals", calls.errors.clone());
        let text = encode(&registry);
        for line in [
            "seconds_count{operation=\"StopPodSandbox\"} 1",
            "seconds_count{operation=\"other\"} 1",
            "errors_total{operation=\"StopPodSandbox\",code=\"NotFound\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
