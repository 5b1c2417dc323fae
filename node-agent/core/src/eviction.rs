//! Whether a pod must end for what it wrote to its node's disk: the limits of Kubernetes for local storage.

use std::collections::BTreeMap;

use podbus_common::effective;
use podbus_common::model::{Container, EmptyDirVolume, Pod};
use podbus_common::quantity::Quantity;

use crate::model::all_containers;
use crate::resources::container_limits;

/// What a pod holds on its node's disk, bytes. What could not be measured is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Of each emptyDir that is not in memory.
    pub volumes: BTreeMap<String, u64>,
    /// Of each container's writable layer.
    pub layers: BTreeMap<String, u64>,
    /// Of each container's logs, with those that were rotated.
    pub logs: BTreeMap<String, u64>,
    /// Of the pod's hosts file, which its containers may write.
    pub hosts: u64,
}

/// The limit of an emptyDir, bytes; none when it is absent or zero, as Kubernetes has it.
pub fn size_limit(empty_dir: &EmptyDirVolume) -> Option<i64> {
    let quantity = empty_dir.size_limit.as_ref().and_then(|text| Quantity::parse(text).ok())?;
    Some(quantity.value()).filter(|bytes| *bytes > 0)
}

/// The emptyDirs that must be measured, each with the bytes above which it breaks every limit that it counts for:
/// nobody needs to know how far above.
pub fn measured_volumes(pod: &Pod) -> BTreeMap<&str, u64> {
    let of_pod = pod_limit(pod);
    let limits = on_disk(pod).filter_map(|(name, empty_dir)| {
        let own = size_limit(empty_dir).map(i64::unsigned_abs);
        Some((name, own.max(of_pod)?))
    });
    limits.collect()
}

/// Whether layers and logs of its containers must be measured.
pub fn measures_containers(pod: &Pod) -> bool {
    pod_limit(pod).is_some()
}

/// Whether anything of the pod must be measured.
pub fn is_limited(pod: &Pod) -> bool {
    measures_containers(pod) || !measured_volumes(pod).is_empty()
}

/// Why the pod must end, for its status; none while it is within its limits. What is to blame is named if it can be: the
/// kubelet looks at the whole pod before its containers, and so never names the only one.
pub fn over_limit(pod: &Pod, disk: &DiskUse) -> Option<String> {
    volume_over_limit(pod, disk).or_else(|| container_over_limit(pod, disk)).or_else(|| pod_over_limit(pod, disk))
}

fn volume_over_limit(pod: &Pod, disk: &DiskUse) -> Option<String> {
    on_disk(pod).find_map(|(name, empty_dir)| {
        let limit = size_limit(empty_dir)?.unsigned_abs();
        (*disk.volumes.get(name)? > limit).then(|| {
            let limit = empty_dir.size_limit.as_deref().unwrap_or_default();
            format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ")
        })
    })
}

fn container_over_limit(pod: &Pod, disk: &DiskUse) -> Option<String> {
    all_containers(pod).find_map(|(_, container)| {
        let limit = container_limit(container)?;
        let of = |part: &BTreeMap<String, u64>| part.get(&container.name).copied().unwrap_or(0);
        let (layer, logs) = (of(&disk.layers), of(&disk.logs));
        (layer.saturating_add(logs) > limit).then(|| {
            let (name, limit, layer, logs) = (&container.name, bytes(limit), bytes(layer), bytes(logs));
            format!(
                "Container {name} exceeded its local ephemeral storage limit \"{limit}\". It has written {layer} to its \
                 file system and {logs} of logs. "
            )
        })
    })
}

fn pod_over_limit(pod: &Pod, disk: &DiskUse) -> Option<String> {
    let limit = pod_limit(pod)?;
    let used = [&disk.volumes, &disk.layers, &disk.logs].into_iter().flat_map(BTreeMap::values);
    (used.fold(disk.hosts, |all, bytes| all.saturating_add(*bytes)) > limit).then(|| {
        let limit = bytes(limit);
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn container_limit(container: &Container) -> Option<u64> {
    Some(container_limits(container).ephemeral_storage_bytes.unsigned_abs()).filter(|bytes| *bytes > 0)
}

/// The sum of the containers' limits. As in Kubernetes it holds for the whole pod even where a container has none.
fn pod_limit(pod: &Pod) -> Option<u64> {
    let limit = |container: &Container| container_limit(container).unwrap_or(0);
    Some(effective::of_pod(&pod.spec, limit, u64::saturating_add, Ord::max)).filter(|bytes| *bytes > 0)
}

/// The kernel keeps the size of those in memory.
fn on_disk(pod: &Pod) -> impl Iterator<Item = (&str, &EmptyDirVolume)> {
    let empty_dirs = pod.spec.volumes.iter().filter_map(|v| Some((v.name.as_str(), v.empty_dir.as_ref()?)));
    empty_dirs.filter(|(_, empty_dir)| empty_dir.medium != "Memory")
}

/// As a quantity, in whole KiB or more.
fn bytes(bytes: u64) -> String {
    let kib = format!("{}Ki", bytes.div_ceil(1024));
    Quantity::parse(&kib).map_or(kib, |quantity| quantity.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Containers `a` and `b` with these limits, and volumes `v` (on disk) and `m` (in memory).
    fn pod(a: Option<&str>, b: Option<&str>, volume: Option<&str>) -> Pod {
        let container = |name: &str, limit: Option<&str>| {
            let limits = limit.map_or(json!({}), |limit| json!({"ephemeral-storage": limit}));
            json!({"name": name, "image": "i", "resources": {"limits": limits}})
        };
        let volume = volume.map_or(json!({}), |limit| json!({"sizeLimit": limit}));
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {
                "containers": [container("a", a), container("b", b)],
                "volumes": [
                    {"name": "v", "emptyDir": volume},
                    {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                    {"name": "h", "hostPath": {"path": "/srv"}},
                ],
            },
        }))
        .unwrap()
    }

    fn used(layers: [u64; 2], logs: [u64; 2], volume: u64) -> DiskUse {
        let each = |[a, b]: [u64; 2]| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let volumes = BTreeMap::from([("v".to_owned(), volume)]);
        DiskUse { volumes, layers: each(layers), logs: each(logs), hosts: 0 }
    }

    #[test]
    fn a_pod_is_evicted_for_what_it_wrote_beyond_a_limit() {
        let container = "Container a exceeded its local ephemeral storage limit \"5Mi\". ";
        let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers ";
        let volume = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
        let cases = [
            // limits of a, b and the volume; layers, logs and volume in MiB; what is said
            (None, None, None, ([99, 99], [99, 99], 99), None),
            (Some("5Mi"), Some("5Mi"), None, ([5, 0], [0, 0], 0), None),
            (Some("5Mi"), Some("5Mi"), None, ([5, 0], [1, 0], 0), Some(container)),
            (Some("5Mi"), Some("5Mi"), None, ([0, 0], [6, 0], 0), Some(container)),
            (Some("5Mi"), Some("5Mi"), None, ([4, 4], [0, 0], 3), Some(of_pod)),
            (Some("5Mi"), None, None, ([0, 6], [0, 0], 0), Some(of_pod)),
            (Some("5Mi"), None, None, ([6, 0], [0, 0], 0), Some(container)),
            (None, None, Some("1Mi"), ([99, 0], [0, 0], 1), None),
            (None, None, Some("1Mi"), ([0, 0], [0, 0], 2), Some(volume)),
            (Some("5Mi"), None, Some("1Mi"), ([9, 0], [0, 0], 2), Some(volume)),
            (Some("0"), None, Some("0"), ([9, 0], [0, 0], 9), None),
        ];
        for (a, b, v, (layers, logs, volume), expected) in cases {
            let disk = used(layers.map(|mib| mib * MIB), logs.map(|mib| mib * MIB), volume * MIB);
            let said = over_limit(&pod(a, b, v), &disk);
            let is_so = said.as_ref().map_or(expected.is_none(), |said| expected.is_some_and(|e| said.starts_with(e)));
            assert!(is_so, "{a:?} {b:?} {v:?} {layers:?} {logs:?} {volume}: {said:?}");
        }
    }

    #[test]
    fn the_message_names_container_limit_and_usage() {
        let disk = used([20 * MIB + 1, 0], [12 << 10, 0], 0);
        let said = over_limit(&pod(Some("5Mi"), None, None), &disk).unwrap();
        let expected = "Container a exceeded its local ephemeral storage limit \"5Mi\". It has written 20481Ki to its file \
                        system and 12Ki of logs. ";
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_not_there_or_not_known_breaks_no_limit() {
        assert_eq!(over_limit(&pod(Some("5Mi"), None, Some("1Mi")), &DiskUse::default()), None);
    }

    #[test]
    fn the_hosts_file_counts_for_the_pod() {
        let said = over_limit(&pod(Some("5Mi"), None, None), &DiskUse { hosts: 6 * MIB, ..DiskUse::default() });
        assert!(said.is_some_and(|said| said.starts_with("Pod ephemeral local storage usage exceeds")));
    }

    #[test]
    fn only_what_a_limit_counts_is_measured() {
        let cases = [
            (pod(None, None, None), None, false),
            (pod(None, None, Some("1Mi")), Some(MIB), false),
            (pod(Some("5Mi"), Some("2Mi"), None), Some(7 * MIB), true),
            (pod(Some("5Mi"), None, Some("9Mi")), Some(9 * MIB), true),
        ];
        for (pod, volume, containers) in cases {
            let measured = measured_volumes(&pod);
            assert_eq!(measured, volume.map(|bytes| ("v", bytes)).into_iter().collect());
            assert_eq!(measures_containers(&pod), containers);
            assert_eq!(is_limited(&pod), containers || volume.is_some());
        }
    }
}
