//! What a pod needs now and then: small logs, its disk within its limits, and in the end nothing left of it.

use std::collections::BTreeMap;

use podbus_node_agent_core::eviction::{self, DiskUse};
use podbus_node_agent_core::model::Observed;
use podbus_node_agent_core::worker::{EVICTED, Update, Wanted};
use tokio::time::Instant;

use super::{HOUSEKEEPING_INTERVAL, Worker, now};
use crate::runtime::Runtime;
use crate::{cgroups, logs, volumes};

impl<R: Runtime> Worker<R> {
    /// Rotates logs and measures what the pod wrote, if it is time.
    pub(super) async fn keep_house(&mut self, wanted: &Wanted, observed: &Observed) {
        if self.house_kept.elapsed() < HOUSEKEEPING_INTERVAL {
            return;
        }
        self.house_kept = Instant::now();
        for run in observed.containers.iter().filter(|run| run.state.may_live()) {
            self.rotate(&run.id, &run.name, run.attempt).await;
        }
        if wanted.stop.is_none() && eviction::is_limited(&wanted.pod) {
            self.measure_disk(wanted).await;
        }
    }

    async fn rotate(&self, id: &str, name: &str, attempt: u32) {
        let log = logs::path(&self.pod_dir, name, attempt);
        let rotated = match logs::rotate_if_large(&log, jiff::Timestamp::now()) {
            Ok(Some(rotated)) => rotated,
            Ok(None) => return,
            Err(error) => return tracing::warn!(log = %log.display(), %error, "cannot rotate a log"),
        };
        if let Err(error) = self.runtime.reopen_container_log(id).await {
            tracing::warn!(log = %log.display(), %error, "the runtime did not reopen a log, its rotation is undone");
            if let Err(error) = rotated.undo() {
                tracing::error!(log = %log.display(), %error, "cannot undo the rotation of a log");
            }
        }
    }

    async fn measure_disk(&mut self, wanted: &Wanted) {
        let (pod_dir, pod) = (self.pod_dir.clone(), wanted.pod.clone());
        let disk = match tokio::task::spawn_blocking(move || volumes::disk_use(&pod_dir, &pod)).await {
            Ok(Ok(disk)) => disk,
            Ok(Err(error)) => return tracing::warn!(%error, "cannot measure what a pod wrote"),
            Err(error) => return tracing::warn!(%error, "cannot measure what a pod wrote"),
        };
        let disk = DiskUse { layers: self.measure_layers(wanted).await, ..disk };
        if let Some(message) = eviction::over_limit(&wanted.pod, &disk) {
            self.chronicle.event("Warning", EVICTED, &message, now());
            let _ = self.updates.send(Update::Evict { uid: self.uid.clone(), message }).await;
        }
    }

    /// What the writable layers of the containers that run hold, as their runtime measured it.
    async fn measure_layers(&self, wanted: &Wanted) -> BTreeMap<String, u64> {
        if !eviction::measures_containers(&wanted.pod) {
            return BTreeMap::new();
        }
        let pods = self.runtime.list_pod_sandbox_stats(Some(&self.uid)).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the runtime does not say what containers wrote");
            Vec::new()
        });
        let containers = pods.into_iter().filter_map(|pod| pod.linux).flat_map(|linux| linux.containers);
        let layers = containers.filter_map(|container| {
            let bytes = container.writable_layer?.used_bytes?.value;
            Some((container.attributes?.metadata?.name, bytes))
        });
        layers.collect()
    }

    /// Removes what the runtime does not know of; says whether nothing is left.
    pub(super) async fn clean_up(&mut self) -> bool {
        let pod_dir = self.pod_dir.clone();
        let cgroup = cgroups::of_pod(&self.node.cgroup_root, &self.wanted.borrow().pod);
        let remove = move || volumes::teardown(&pod_dir).and_then(|()| cgroups::remove(&cgroup));
        let removed = tokio::task::spawn_blocking(remove).await;
        let error = match removed {
            Ok(Ok(())) => {
                self.node.user_ids.release(&self.uid);
                let _ = self.updates.send(Update::Gone { uid: self.uid.clone() }).await;
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%error, "cannot remove a pod's directory or cgroup, trying again");
        let retry = self.retry;
        self.retry = (retry * 2).min(super::FAILURE_RETRY_MAX);
        self.wait(Some(retry)).await;
        false
    }
}
