//! How containers end: the grace that is left, and which ones may be stopped now.

use podbus_common::model::{Pod, Timestamp};

use crate::model::{ContainerKind, ContainerObserved, Observed, find_container, pod_description};
use crate::plan::StopContainer;

/// No container is given less than this between SIGTERM and SIGKILL, seconds.
pub(crate) const GRACE_SECONDS_MIN: u32 = 2;
/// A pod that does not say how long its end may take, seconds.
pub(crate) const GRACE_SECONDS_DEFAULT: u32 = 30;

/// The grace of a pod's spec.
pub(crate) fn spec_grace_seconds(pod: &Pod) -> u32 {
    pod.spec.termination_grace_period_seconds.unwrap_or(GRACE_SECONDS_DEFAULT)
}

/// When a pod whose deletion was seen at `now` is killed: with the deletion's own grace, else the spec's; at least 1 s.
///
/// `before` is the deadline set by an earlier deletion: it can only move nearer.
pub(crate) fn deadline(pod: &Pod, before: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_else(|| spec_grace_seconds(pod)).max(1);
    let new = now.plus_seconds(i64::from(grace));
    before.map_or(new, |before| before.min(new))
}

/// What StopContainer is called with at `now`: whole seconds to the deadline, never under [`GRACE_SECONDS_MIN`].
pub(crate) fn grace_left(deadline: Timestamp, now: Timestamp) -> u32 {
    let left = deadline.seconds_since(now).max(0);
    u32::try_from(left).unwrap_or(u32::MAX).max(GRACE_SECONDS_MIN)
}

/// Which living containers are stopped next, all of them at the same time; empty: none lives.
///
/// Regular containers first. Sidecars serve them, so they go afterwards, the last one first; when the time is up all
/// go together.
pub(crate) fn next_wave(pod: &Pod, observed: &Observed, deadline: Timestamp, now: Timestamp) -> Vec<StopContainer> {
    let living: Vec<_> = observed.containers.iter().filter(|c| c.state.may_live()).collect();
    let stop = |c: &&ContainerObserved| StopContainer {
        id: c.id.clone(),
        name: c.name.clone(),
        grace_seconds: grace_left(deadline, now),
        message: format!("Stopping container {}", c.name),
    };
    if now >= deadline {
        return living.iter().map(stop).collect();
    }
    let (sidecars, others): (Vec<_>, Vec<_>) = living.into_iter().partition(|c| sidecar_index(pod, &c.name).is_some());
    let regular_lives = others.iter().any(|c| !matches!(find_container(pod, &c.name), Some((ContainerKind::Init, _))));
    let mut wave: Vec<_> = others.iter().map(stop).collect();
    if !regular_lives {
        let last = sidecars.iter().filter_map(|c| sidecar_index(pod, &c.name)).max();
        wave.extend(sidecars.iter().filter(|c| sidecar_index(pod, &c.name) == last).map(stop));
    }
    wave
}

fn sidecar_index(pod: &Pod, name: &str) -> Option<usize> {
    let is_sidecar = matches!(find_container(pod, name), Some((ContainerKind::Sidecar, _)));
    pod.spec.init_containers.iter().position(|c| is_sidecar && c.name == name)
}

/// The message of the event BackOff of a container that must wait.
pub(crate) fn backoff_event_message(pod: &Pod, container: &str) -> String {
    format!("Back-off restarting failed container {container} in pod {}", pod_description(pod))
}
