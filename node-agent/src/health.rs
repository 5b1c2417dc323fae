//! Whether the node can run pods, and what its pods use: asked of the runtime every few seconds.

use std::collections::HashMap;
use std::time::Duration;

use podbus_common_cri::runtime as v1;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::agent::Health;
use crate::runtime::Runtime;

/// The runtime is asked so often.
const INTERVAL: Duration = Duration::from_secs(5);
/// A runtime that is away for less is being restarted, and the node stays Ready (the kubelet's grace).
const AWAY_MAX: Duration = Duration::from_secs(30);

/// Whether the runtime works now; nothing is known about use yet.
pub(crate) async fn look<R: Runtime>(runtime: &R) -> Health {
    Health { not_ready: not_ready(runtime).await, ..Health::default() }
}

/// Keeps `health` up to date until `stop`.
pub(crate) async fn watch<R: Runtime>(runtime: R, health: watch::Sender<Health>, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Usage::default();
    let mut worked_at = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {} // cancel-safe (tokio docs)
        }
        let mut not_ready = not_ready(&runtime).await;
        if not_ready.is_empty() {
            worked_at = Instant::now();
        } else if worked_at.elapsed() < AWAY_MAX {
            // What was said at the start stays: a node that never worked is not Ready.
            not_ready.clone_from(&health.borrow().not_ready);
        }
        let stats = runtime.list_pod_sandbox_stats(None).await.unwrap_or_default();
        let usage = Usage::of(&stats);
        let new = Health {
            not_ready,
            used_cpu_millis: usage.cpu_millis_since(&before),
            used_memory_bytes: stats.iter().map(memory_bytes).sum(),
        };
        before = usage;
        health.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }
}

/// Why the runtime cannot run pods, in the words of the Ready condition; empty: it can.
async fn not_ready<R: Runtime>(runtime: &R) -> String {
    let status = match runtime.status().await {
        Ok(reply) => reply.status.unwrap_or_default(),
        Err(error) => return format!("container runtime is down: {error}"),
    };
    let failing = status.conditions.iter().filter(|condition| !condition.status);
    let words =
        failing.map(|c| format!("container runtime not ready: {} reason:{} message:{}", c.r#type, c.reason, c.message));
    words.collect::<Vec<_>>().join("; ")
}

/// CPU time of each pod by sandbox ID, as (when, how much), both in nanoseconds.
#[derive(Debug, Default)]
struct Usage {
    cpu: HashMap<String, (i64, u64)>,
}

impl Usage {
    fn of(stats: &[v1::PodSandboxStats]) -> Self {
        let cpu = stats.iter().filter_map(|pod| {
            let id = pod.attributes.as_ref()?.id.clone();
            let cpu = pod.linux.as_ref()?.cpu.as_ref()?;
            Some((id, (cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value)))
        });
        Self { cpu: cpu.collect() }
    }

    fn cpu_millis_since(&self, before: &Self) -> u64 {
        let millis = |(id, (at, used)): (&String, &(i64, u64))| {
            let (at_before, used_before) = before.cpu.get(id)?;
            let elapsed = u64::try_from(at - at_before).ok().filter(|elapsed| *elapsed > 0)?;
            Some(used.saturating_sub(*used_before).saturating_mul(1000) / elapsed)
        };
        self.cpu.iter().filter_map(millis).sum()
    }
}

fn memory_bytes(pod: &v1::PodSandboxStats) -> u64 {
    let memory = pod.linux.as_ref().and_then(|linux| linux.memory.as_ref());
    memory.and_then(|memory| memory.working_set_bytes.as_ref()).map_or(0, |bytes| bytes.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(of: &[(&str, i64, u64)]) -> Usage {
        Usage { cpu: of.iter().map(|(id, at, used)| ((*id).to_owned(), (*at, *used))).collect() }
    }

    #[test]
    fn cpu_use_is_measured_between_two_looks_at_the_same_pod() {
        let before = usage(&[("a", 0, 0), ("gone", 0, 7)]);
        let after = usage(&[("a", 2_000_000_000, 1_000_000_000), ("new", 2_000_000_000, 9_000_000_000)]);
        assert_eq!(after.cpu_millis_since(&before), 500);
        assert_eq!(after.cpu_millis_since(&after), 0, "no time went by");
    }
}
