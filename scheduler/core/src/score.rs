//! kube-scheduler's scores, 0 to 100 each: the arithmetic of one node.

use crate::config::{Profile, ResourceName, Strategy};
use crate::nodes::{Nodes, scored};
use crate::pod::Shape;

/// The highest score of a plugin.
pub(crate) const SCORE_MAX: u64 = 100;
/// A pod without a request counts as this much, so that such pods spread too (kube-scheduler's non-zero requests).
pub(crate) const CPU_MILLIS_DEFAULT: u64 = 100;
/// As [`CPU_MILLIS_DEFAULT`].
pub(crate) const MEMORY_BYTES_DEFAULT: u64 = 200 << 20;

const MIB: u64 = 1 << 20;
/// ImageLocality: what is smaller is no gain, what is larger is one at most.
const IMAGE_BYTES_MIN: u64 = 23 * MIB;
const IMAGE_BYTES_MAX: u64 = 1000 * MIB;

/// NodeResourcesFit: by how full the node would be.
pub(crate) fn resources_fit(profile: &Profile, shape: &Shape, nodes: &Nodes, slot: usize) -> u64 {
    let (cpu, memory) = scored(shape.requests);
    let (mut sum, mut weights) = (0, 0);
    for (resource, weight) in &profile.resources {
        let (used, all) = match resource {
            ResourceName::Cpu => (nodes.scored_cpu[slot].saturating_add(cpu), nodes.cpu.all[slot]),
            ResourceName::Memory => (nodes.scored_memory[slot].saturating_add(memory), nodes.memory.all[slot]),
            ResourceName::EphemeralStorage => {
                let request = shape.requests.ephemeral_storage_bytes;
                (nodes.storage.used[slot].saturating_add(request), nodes.storage.all[slot])
            }
            ResourceName::Extended(name) => {
                // As in kube-scheduler, what the pod does not ask for does not count.
                let Some(request) = shape.extended.get(name) else { continue };
                let Some(column) = nodes.extended_column(name) else { continue };
                (column.used[slot].saturating_add(*request), column.all[slot])
            }
        };
        if all == 0 {
            continue;
        }
        sum += of_strategy(&profile.strategy, used, all) * weight;
        weights += weight;
    }
    sum.checked_div(weights).unwrap_or(0)
}

fn of_strategy(strategy: &Strategy, used: u64, all: u64) -> u64 {
    match strategy {
        Strategy::LeastAllocated => share(all.saturating_sub(used), all),
        Strategy::MostAllocated => share(used.min(all), all),
        Strategy::RequestedToCapacityRatio(shape) => {
            broken_line(shape, if used > all { SCORE_MAX } else { share(used, all) })
        }
    }
}

/// The score at `utilization` on a line through points of (utilization, score), as kube-scheduler's
/// `BuildBrokenLinearFunction`.
fn broken_line(points: &[(u64, u64)], utilization: u64) -> u64 {
    let Some(next) = points.iter().position(|(at, _)| utilization <= *at) else {
        return points.last().map_or(0, |(_, score)| *score);
    };
    if next == 0 {
        return points[0].1;
    }
    let ((from, low), (to, high)) = (points[next - 1], points[next]);
    let (done, whole) = (utilization - from, to - from);
    if high >= low { low + (high - low) * done / whole } else { low - (low - high) * done / whole }
}

/// NodeResourcesBalancedAllocation: the less the used shares of CPU and memory differ, the better. For two resources
/// the standard deviation is half their difference.
pub(crate) fn balanced_allocation(shape: &Shape, nodes: &Nodes, slot: usize) -> u64 {
    let (cpu, memory) = scored(shape.requests);
    let of = |used: u64, all: u64| if all == 0 { SCORE_MAX } else { share(used.min(all), all) };
    let cpu = of(nodes.scored_cpu[slot].saturating_add(cpu), nodes.cpu.all[slot]);
    let memory = of(nodes.scored_memory[slot].saturating_add(memory), nodes.memory.all[slot]);
    SCORE_MAX - cpu.abs_diff(memory) / 2
}

/// ImageLocality: by the bytes that are there already, each image counted by the share of nodes that have it, so that
/// pods do not pile up on the only one.
pub(crate) fn image_locality(shape: &Shape, nodes: &Nodes, slot: usize) -> u64 {
    let there = &nodes.records[slot].images;
    let all = nodes.known_len().max(1) as u64;
    let bytes = |name: &String| {
        let size = there.get(name).copied().unwrap_or(0);
        let spread = nodes.images.get(name).copied().unwrap_or(0);
        u64::try_from(u128::from(size) * u128::from(spread) / u128::from(all)).unwrap_or(u64::MAX)
    };
    let sum = shape.images.iter().map(bytes).fold(0_u64, u64::saturating_add);
    let most = IMAGE_BYTES_MAX * shape.images.len().max(1) as u64;
    SCORE_MAX * (sum.clamp(IMAGE_BYTES_MIN, most) - IMAGE_BYTES_MIN) / (most - IMAGE_BYTES_MIN)
}

/// `part` of `all` in hundredths; `all` is not 0 and `part` at most `all`.
fn share(part: u64, all: u64) -> u64 {
    match part.checked_mul(SCORE_MAX) {
        Some(product) => product / all,
        None => u64::try_from(u128::from(part) * u128::from(SCORE_MAX) / u128::from(all)).unwrap_or(SCORE_MAX),
    }
}

/// Counts where more is better, as 0 to 100.
pub(crate) fn normalize(value: u64, most: u64) -> u64 {
    (value * SCORE_MAX).checked_div(most).unwrap_or(0)
}

/// Counts where less is better, as 0 to 100.
pub(crate) fn normalize_reverse(value: u64, most: u64) -> u64 {
    SCORE_MAX - normalize(value, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_line_runs_through_its_points_and_stays_level_outside() {
        let up = [(0, 0), (50, 100), (100, 60)];
        let scores: Vec<_> = [0, 25, 50, 75, 100].map(|at| broken_line(&up, at)).into();
        assert_eq!(scores, [0, 50, 100, 80, 60]);
        assert_eq!((broken_line(&[(20, 10), (60, 30)], 5), broken_line(&[(20, 10), (60, 30)], 99)), (10, 30));
    }
}
