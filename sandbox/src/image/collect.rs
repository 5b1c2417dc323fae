//! Collecting images on a node: looks at the disk and at what is used, and removes what the plan says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::digest::Digest;
use super::gc::{Candidate, Disk, plan};
use super::{Store, StoreError};

/// How often one looks, besides each time that an image has come: as the kubelet.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// Keeps a store's disk from filling up. Ends with the runtime.
pub async fn keep(store: Store) {
    let came = Arc::clone(&store.inner.came);
    loop {
        let collecting = store.clone();
        match tokio::task::spawn_blocking(move || collecting.collect(now())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot collect images");
            }
            Err(_) => return, // the runtime is ending
        }
        tokio::select! {
            () = came.notified() => {} // cancel-safe; one that came meanwhile is told at once
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

impl Store {
    /// Looks once, at the time `now` in milliseconds since 1970.
    pub(super) fn collect(&self, now: i64) -> Result<(), StoreError> {
        let (images, held) = self.candidates(now);
        let disk = self.disk()?;
        let plan = plan(&self.inner.settings.gc, disk, &images, &held, now);
        for id in &plan.images {
            tracing::info!(image = %id, "the disk fills: removing an image that nothing uses");
            self.remove_if_unused(id)?;
        }
        if plan.missing > 0 {
            tracing::warn!(
                available_bytes = disk.available,
                missing_bytes = plan.missing,
                "the disk of the images is too full, and no image is left to remove"
            );
        }
        self.sweep() // also what a container has left that ended since
    }

    /// Notes that something uses an image now.
    pub(crate) fn note_use(&self, id: &str) {
        if let Ok(id) = id.parse() {
            self.used().insert(id, now());
        }
    }

    fn candidates(&self, now: i64) -> (Vec<Candidate>, HashSet<Digest>) {
        let catalog = self.catalog();
        let held = self.inner.layers.held();
        let mut used = self.used();
        used.retain(|id, _| catalog.by_id(id).is_some());
        let candidate = |image: &super::Stored| {
            let record = &image.record;
            let layers: Vec<(Digest, u64)> = record.layers.iter().map(|layer| (layer.diff_id, layer.bytes)).collect();
            // One whose layers are all in use brings nothing; one that is in use is such a one.
            let is_used = layers.iter().all(|(layer, _)| held.contains(layer));
            if is_used {
                used.insert(record.id, now);
            }
            Candidate {
                id: record.id,
                layers,
                came: record.came,
                used: used.get(&record.id).copied().unwrap_or(record.came),
                is_kept: is_used || record.digests.is_empty() || self.is_pinned(record),
            }
        };
        (catalog.images().map(candidate).collect(), held)
    }

    /// True if the node's owner wants to keep the image.
    pub(super) fn is_pinned(&self, record: &super::Record) -> bool {
        let pinned = &self.inner.settings.pinned;
        pinned.iter().any(|name| record.tags.contains(name) || record.digests.contains(name))
    }

    fn disk(&self) -> Result<Disk, StoreError> {
        let dir = &self.inner.dir;
        let found = rustix::fs::statvfs(dir)
            .map_err(|errno| StoreError::Directory { dir: dir.clone(), source: errno.into() })?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        // What is kept for root counts as used, as df and the kubelet have it.
        Ok(Disk { capacity: bytes(found.f_blocks), available: bytes(found.f_bavail) })
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
