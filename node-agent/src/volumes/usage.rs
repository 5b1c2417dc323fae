//! How much disk a pod's volumes, logs and hosts file use.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use podbus_common::model::Pod;
use podbus_common_tree::Walk;
use podbus_node_agent_core::eviction::{DiskUse, measured_volumes, measures_containers};
use podbus_node_agent_core::model::all_containers;

use super::{empty_dir_path, etc_hosts_path};
use crate::logs;

/// Counted between two looks at the limit.
const ENTRIES_AT_ONCE: u64 = 1000;
/// What `st_blocks` counts.
const BLOCK_BYTES: u64 = 512;

/// What of a pod counts against a limit: all but the writable layers, which its runtime measures. Walks trees: not for
/// the hot path.
pub(crate) fn disk_use(pod_dir: &Path, pod: &Pod) -> io::Result<DiskUse> {
    let mut volumes = BTreeMap::new();
    for (name, enough) in measured_volumes(pod) {
        volumes.insert(name.to_owned(), measure(&empty_dir_path(pod_dir, name), enough)?);
    }
    let mut disk = DiskUse { volumes, ..DiskUse::default() };
    if measures_containers(pod) {
        for (_, container) in all_containers(pod) {
            let used = measure(&logs::of_container(pod_dir, &container.name), u64::MAX)?;
            disk.logs.insert(container.name.clone(), used);
        }
        disk.hosts = etc_hosts_path(pod_dir).symlink_metadata().map_or(0, |file| file.blocks() * BLOCK_BYTES);
    }
    Ok(disk)
}

/// How much disk a tree occupies, or more than `enough` as soon as it does.
fn measure(root: &Path, enough: u64) -> io::Result<u64> {
    let mut walk = match Walk::new(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        walk => walk?,
    };
    while walk.holding().bytes <= enough && !walk.advance(ENTRIES_AT_ONCE) {}
    Ok(walk.holding().bytes)
}
