//! How much disk a pod's volumes use: the limit of an emptyDir on disk is kept by measuring.

use std::io;
use std::path::Path;

use podbus_common::model::{EmptyDirVolume, Pod};
use podbus_common_tree::Walk;

use super::{empty_dir_path, size_limit};

/// Counted between two looks at the limit.
const ENTRIES_AT_ONCE: u64 = 1000;

/// The message for the pod's status if one of its volumes is above its limit. Walks them: not for the hot path.
pub(crate) fn over_limit(pod_dir: &Path, pod: &Pod) -> io::Result<Option<String>> {
    for volume in &pod.spec.volumes {
        let Some(empty_dir) = volume.empty_dir.as_ref().filter(|e| is_measured(e)) else { continue };
        let Some(limit) = size_limit(empty_dir) else { continue };
        if uses_more_than(&empty_dir_path(pod_dir, &volume.name), limit.unsigned_abs())? {
            let limit = empty_dir.size_limit.as_deref().unwrap_or_default();
            let name = &volume.name;
            return Ok(Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ")));
        }
    }
    Ok(None)
}

/// Whether the pod has a volume that must be measured at all.
pub(crate) fn has_limits(pod: &Pod) -> bool {
    let volumes = pod.spec.volumes.iter().filter_map(|v| v.empty_dir.as_ref());
    volumes.into_iter().any(|e| is_measured(e) && size_limit(e).is_some())
}

/// The kernel keeps the size of one in memory.
fn is_measured(empty_dir: &EmptyDirVolume) -> bool {
    empty_dir.medium != "Memory"
}

/// Whether a tree occupies more than `bytes` of disk.
fn uses_more_than(root: &Path, bytes: u64) -> io::Result<bool> {
    let mut walk = match Walk::new(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        walk => walk?,
    };
    while walk.holding().bytes <= bytes {
        if walk.advance(ENTRIES_AT_ONCE) {
            return Ok(walk.holding().bytes > bytes);
        }
    }
    Ok(true)
}
