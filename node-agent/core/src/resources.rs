//! What containers and pods ask for, and the cgroup values that follow.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::effective;
use podbus_common::fold::qos;
use podbus_common::model::{Container, Pod};
use podbus_common::quantity::Quantity;
use podbus_common::validation::is_extended_resource;

use crate::model::{ContainerKind, all_containers, init_kind};

/// Shares of what asks for no CPU: the kernel's smallest.
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
/// The period that quotas are counted in, microseconds.
pub(crate) const CPU_PERIOD_US: i64 = 100_000;
/// The kernel takes no smaller quota, microseconds.
const CPU_QUOTA_US_MIN: i64 = 1000;

/// An amount of each resource that is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Bytes.
    pub ephemeral_storage_bytes: i64,
}

/// Values for a cgroup, as CRI's LinuxContainerResources has them; 0: not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CgroupValues {
    /// Relative CPU weight, cgroup v1's unit.
    pub cpu_shares: i64,
    /// Microseconds of CPU in each period.
    pub cpu_quota_us: i64,
    /// Microseconds.
    pub cpu_period_us: i64,
    /// Bytes.
    pub memory_limit_bytes: i64,
    /// -1000 to 1000; of containers only.
    pub oom_score_adj: i64,
}

/// What the scheduler and admission count for `pod`.
pub fn pod_requests(pod: &Pod) -> Amounts {
    effective(pod, container_requests)
}

/// As [`pod_requests`], of resources that nodes name themselves, such as `nvidia.com/gpu`.
pub fn extended_requests(pod: &Pod) -> BTreeMap<String, i64> {
    let containers = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let names = containers().flat_map(|c| c.resources.requests.keys().chain(c.resources.limits.keys()));
    let names: BTreeSet<&String> = names.filter(|name| is_extended_resource(name)).collect();
    let of_resource = |name: &String| {
        let of = |c: &Container| {
            let text = c.resources.requests.get(name).or(c.resources.limits.get(name));
            text.and_then(|text| Quantity::parse(text).ok()).map_or(0, |quantity| quantity.value())
        };
        effective::of_pod(&pod.spec, of, i64::saturating_add, Ord::max)
    };
    names.into_iter().map(|name| (name.clone(), of_resource(name))).collect()
}

/// The resources that a node names itself, of a map of quantities.
pub fn extended_from_quantities(quantities: &BTreeMap<String, String>) -> BTreeMap<String, i64> {
    let own = quantities.iter().filter(|(name, _)| is_extended_resource(name));
    own.map(|(name, text)| (name.clone(), Quantity::parse(text).map_or(0, |quantity| quantity.value()))).collect()
}

/// A container's requests; where one is absent its limit counts.
pub(crate) fn container_requests(container: &Container) -> Amounts {
    let resources = &container.resources;
    amounts(|name| resources.requests.get(name).or(resources.limits.get(name)))
}

/// A container's limits; 0: none.
pub(crate) fn container_limits(container: &Container) -> Amounts {
    amounts(|name| container.resources.limits.get(name))
}

/// From a map of quantities, as a node's allocatable is.
pub fn from_quantities(quantities: &BTreeMap<String, String>) -> Amounts {
    amounts(|name| quantities.get(name))
}

/// The values of a container's cgroup on a node of `node_memory_bytes`.
pub fn container_cgroup(pod: &Pod, container: &Container, node_memory_bytes: i64) -> CgroupValues {
    let limits = container_limits(container);
    CgroupValues {
        cpu_shares: shares(container_requests(container).cpu_millis),
        cpu_quota_us: quota_us(limits.cpu_millis),
        cpu_period_us: if limits.cpu_millis > 0 { CPU_PERIOD_US } else { 0 },
        memory_limit_bytes: limits.memory_bytes,
        oom_score_adj: oom_score_adj(pod, container, node_memory_bytes),
    }
}

/// The values of the pod's cgroup: a limit only where every container has one.
pub fn pod_cgroup(pod: &Pod) -> CgroupValues {
    let limits = effective(pod, container_limits);
    let all_limited = |of: fn(&Amounts) -> i64| all_containers(pod).all(|(_, c)| of(&container_limits(c)) > 0);
    let cpu_millis = if all_limited(|a| a.cpu_millis) { limits.cpu_millis } else { 0 };
    CgroupValues {
        cpu_shares: shares(pod_requests(pod).cpu_millis),
        cpu_quota_us: quota_us(cpu_millis),
        cpu_period_us: if cpu_millis > 0 { CPU_PERIOD_US } else { 0 },
        memory_limit_bytes: if all_limited(|a| a.memory_bytes) { limits.memory_bytes } else { 0 },
        oom_score_adj: 0,
    }
}

/// Who dies first when the node runs out of memory: what uses least beyond its request lives longest.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    match qos(pod) {
        "Guaranteed" => return -997,
        "BestEffort" => return 1000,
        _ => {}
    }
    let own = container_requests(container).memory_bytes;
    let is_sidecar = pod.spec.init_containers.iter().any(|c| c.name == container.name)
        && init_kind(container) == ContainerKind::Sidecar;
    // A sidecar must not be killed before the containers that it serves.
    let smallest = pod.spec.containers.iter().map(|c| container_requests(c).memory_bytes).min().unwrap_or(0);
    let request = if is_sidecar { own.max(smallest) } else { own };
    let used = i128::from(request) * 1000 / i128::from(node_memory_bytes.max(1));
    match 1000 - i64::try_from(used).unwrap_or(1000) {
        score if score < 3 => 3,
        1000 => 999,
        score => score,
    }
}

/// CPU shares of a request.
fn shares(cpu_millis: i64) -> i64 {
    cpu_millis.saturating_mul(1024).checked_div(1000).unwrap_or(0).clamp(SHARES_MIN, SHARES_MAX)
}

/// The quota of a limit; 0: none.
fn quota_us(cpu_millis: i64) -> i64 {
    match cpu_millis {
        0 => 0,
        millis => (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(CPU_QUOTA_US_MIN),
    }
}

fn effective(pod: &Pod, of: fn(&Container) -> Amounts) -> Amounts {
    effective::of_pod(&pod.spec, of, Amounts::plus, Amounts::max)
}

fn amounts<'a>(get: impl Fn(&str) -> Option<&'a String>) -> Amounts {
    // What does not parse was refused when the pod was applied.
    let quantity = |name| get(name).and_then(|text| Quantity::parse(text).ok()).unwrap_or_default();
    Amounts {
        cpu_millis: quantity("cpu").milli_value(),
        memory_bytes: quantity("memory").value(),
        ephemeral_storage_bytes: quantity("ephemeral-storage").value(),
    }
}

impl Amounts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            ephemeral_storage_bytes: self.ephemeral_storage_bytes.saturating_add(other.ephemeral_storage_bytes),
        }
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.max(other.cpu_millis),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            ephemeral_storage_bytes: self.ephemeral_storage_bytes.max(other.ephemeral_storage_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{pod, with_resources};

    const GIB: i64 = 1 << 30;

    #[test]
    fn shares_and_quotas_follow_the_table() {
        let cases = [
            // millis, shares, quota
            (0, 2, 0),
            (1, 2, 1000),
            (10, 10, 1000),
            (100, 102, 10_000),
            (500, 512, 50_000),
            (1000, 1024, 100_000),
            (4000, 4096, 400_000),
            (64_000, 65_536, 6_400_000),
            (1_000_000, 262_144, 100_000_000),
        ];
        for (millis, expected_shares, expected_quota) in cases {
            assert_eq!(shares(millis), expected_shares, "{millis}m");
            assert_eq!(quota_us(millis), expected_quota, "{millis}m");
        }
    }

    #[test]
    fn oom_scores_follow_the_table() {
        let score = |request: &str| {
            let mut pod = pod(&["a"]);
            with_resources(&mut pod.spec.containers[0], &[("memory", request), ("cpu", "1m")], &[]);
            oom_score_adj(&pod, &pod.spec.containers[0], 8 * GIB)
        };
        let cases = [("0", 999), ("8Mi", 999), ("256Mi", 969), ("1Gi", 875), ("8589934591", 3)];
        for (request, expected) in cases {
            assert_eq!(score(request), expected, "{request}");
        }
    }

    #[test]
    fn a_sidecar_is_not_killed_before_the_containers_that_it_serves() {
        for (own, expected) in [("4000M", 500), ("100M", 875)] {
            let mut pod = pod(&["a"]);
            with_resources(&mut pod.spec.containers[0], &[("memory", "1000M")], &[]);
            let mut sidecar = crate::fixtures::sidecar("s");
            with_resources(&mut sidecar, &[("memory", own)], &[]);
            pod.spec.init_containers.push(sidecar.clone());
            assert_eq!(oom_score_adj(&pod, &sidecar, 8_000_000_000), expected, "{own}");
        }
    }

    #[test]
    fn the_class_decides_the_extremes() {
        let mut guaranteed = pod(&["a"]);
        with_resources(&mut guaranteed.spec.containers[0], &[], &[("cpu", "1"), ("memory", "1Gi")]);
        assert_eq!(oom_score_adj(&guaranteed, &guaranteed.spec.containers[0], GIB), -997);
        let best_effort = pod(&["a"]);
        assert_eq!(oom_score_adj(&best_effort, &best_effort.spec.containers[0], GIB), 1000);
    }

    #[test]
    fn a_pod_needs_the_most_of_its_phases() {
        let mut pod = pod(&["a", "b"]);
        for container in &mut pod.spec.containers {
            with_resources(container, &[("cpu", "100m"), ("memory", "10Mi")], &[]);
        }
        let mut sidecar = crate::fixtures::sidecar("s");
        with_resources(&mut sidecar, &[("cpu", "50m"), ("memory", "5Mi")], &[]);
        let mut init = crate::fixtures::container("i");
        with_resources(&mut init, &[("cpu", "240m"), ("memory", "1Mi")], &[]);
        // After the sidecar: it runs beside it. Before: it does not.
        pod.spec.init_containers = vec![sidecar.clone(), init.clone()];
        assert_eq!(pod_requests(&pod).cpu_millis, 290);
        assert_eq!(pod_requests(&pod).memory_bytes, 25 << 20);
        pod.spec.init_containers = vec![init, sidecar];
        assert_eq!(pod_requests(&pod).cpu_millis, 250);
    }

    #[test]
    fn the_pods_cgroup_is_limited_only_when_every_container_is() {
        let mut pod = pod(&["a", "b"]);
        with_resources(&mut pod.spec.containers[0], &[], &[("cpu", "100m"), ("memory", "10Mi")]);
        let values = pod_cgroup(&pod);
        assert_eq!((values.cpu_quota_us, values.memory_limit_bytes, values.cpu_shares), (0, 0, 102));
        with_resources(&mut pod.spec.containers[1], &[], &[("memory", "10Mi")]);
        let values = pod_cgroup(&pod);
        assert_eq!((values.cpu_quota_us, values.memory_limit_bytes), (0, 20 << 20));
    }
}
