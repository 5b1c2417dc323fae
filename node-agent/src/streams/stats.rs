//! What containers use now: a row for each that runs.

use std::collections::HashMap;

use podbus_common::api::StatsRow;
use podbus_common::proto::{StatsRequest, chunk};
use podbus_common::subject;
use podbus_common_bus::stream::{self, ServerStream};
use podbus_common_cri::runtime as v1;
use tokio::time::{Duration, sleep};

use super::{Refusal, Streams, finish};
use crate::runtime::Runtime;
use crate::runtime::config::{POD_NAME_LABEL, POD_NAMESPACE_LABEL};

/// Between two looks, where the runtime counts CPU time only.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

impl<R: Runtime> Streams<R> {
    pub(super) async fn stats(&self, request: StatsRequest, stream: ServerStream) {
        match self.stats_rows(&request).await {
            Err(error) => finish(stream, error).await,
            Ok(rows) => {
                for row in rows {
                    let Ok(json) = serde_json::to_vec(&row) else { continue };
                    if stream.sender.send(chunk::Kind::Json, json.into()).await.is_err() {
                        return;
                    }
                }
                stream.sender.finish(0, None).await;
            }
        }
    }

    async fn stats_rows(&self, request: &StatsRequest) -> Result<Vec<StatsRow>, Refusal> {
        let before = self.container_stats(request).await?;
        let counted_only = before.iter().any(|(_, stats)| nano_cores(stats).is_none());
        if !counted_only {
            return Ok(rows(&before, &HashMap::new()));
        }
        sleep(SAMPLE_INTERVAL).await;
        let after = self.container_stats(request).await?;
        let before: HashMap<_, _> =
            before.iter().filter_map(|(_, stats)| Some((id(stats)?, cpu_time(stats)?))).collect();
        Ok(rows(&after, &before))
    }

    async fn container_stats(
        &self,
        request: &StatsRequest,
    ) -> Result<Vec<(v1::PodSandboxStats, v1::ContainerStats)>, Refusal> {
        let pods = self.runtime.list_pod_sandbox_stats(None).await;
        let pods = pods.map_err(|error| stream::error(500, format!("the container runtime: {error}")))?;
        let asked = pods.into_iter().filter(|pod| {
            let namespace = label(pod, POD_NAMESPACE_LABEL);
            (request.namespace == subject::ANY || request.namespace == namespace)
                && (request.pod.is_empty() || request.pod == label(pod, POD_NAME_LABEL))
        });
        let containers = asked.flat_map(|mut pod| {
            let containers = pod.linux.as_mut().map(|linux| std::mem::take(&mut linux.containers)).unwrap_or_default();
            containers.into_iter().map(move |container| (pod.clone(), container))
        });
        Ok(containers.collect())
    }
}

fn rows(stats: &[(v1::PodSandboxStats, v1::ContainerStats)], before: &HashMap<String, (i64, u64)>) -> Vec<StatsRow> {
    let row = |(pod, container): &(v1::PodSandboxStats, v1::ContainerStats)| StatsRow {
        namespace: label(pod, POD_NAMESPACE_LABEL).to_owned(),
        pod: label(pod, POD_NAME_LABEL).to_owned(),
        container: name(container).to_owned(),
        cpu_millis: cpu_millis(container, before),
        memory_bytes: memory_bytes(container),
    };
    stats.iter().map(row).collect()
}

fn label<'a>(pod: &'a v1::PodSandboxStats, key: &str) -> &'a str {
    let label = pod.attributes.as_ref().and_then(|attributes| attributes.labels.get(key));
    label.map_or("", String::as_str)
}

fn name(container: &v1::ContainerStats) -> &str {
    let metadata = container.attributes.as_ref().and_then(|attributes| attributes.metadata.as_ref());
    metadata.map_or("", |metadata| &metadata.name)
}

fn id(container: &v1::ContainerStats) -> Option<String> {
    container.attributes.as_ref().map(|attributes| attributes.id.clone())
}

fn nano_cores(container: &v1::ContainerStats) -> Option<u64> {
    container.cpu.as_ref()?.usage_nano_cores.as_ref().map(|cores| cores.value)
}

/// When, and how much CPU time, in nanoseconds.
fn cpu_time(container: &v1::ContainerStats) -> Option<(i64, u64)> {
    let cpu = container.cpu.as_ref()?;
    Some((cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value))
}

fn cpu_millis(container: &v1::ContainerStats, before: &HashMap<String, (i64, u64)>) -> u64 {
    if let Some(nano_cores) = nano_cores(container) {
        return nano_cores.div_ceil(1_000_000);
    }
    let between = || {
        let (at, used) = cpu_time(container)?;
        let (at_before, used_before) = before.get(&id(container)?)?;
        let elapsed = u64::try_from(at - at_before).ok().filter(|elapsed| *elapsed > 0)?;
        Some(used.saturating_sub(*used_before).saturating_mul(1000).div_ceil(elapsed))
    };
    between().unwrap_or(0)
}

fn memory_bytes(container: &v1::ContainerStats) -> u64 {
    let memory = container.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    memory.map_or(0, |bytes| bytes.value)
}
