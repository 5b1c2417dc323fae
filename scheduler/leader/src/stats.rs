//! What a leader did and holds: facts, for whoever counts. Pure.

use podbus_scheduler_core::Decision;

/// Upper bounds of [`Waits`], in milliseconds; what took longer is in the last place.
pub const WAIT_BOUNDS_MS: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 30_000, 300_000, 1_800_000];

/// What it did since its term began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Pods for which it found a place.
    pub scheduled: u64,
    /// Pods that it told why they wait.
    pub unschedulable: u64,
    /// Pods for which others were asked to leave.
    pub preemptions: u64,
    /// Pods that were asked to leave for another one.
    pub victims: u64,
    /// Writes that met another one's.
    pub conflicts: u64,
    /// Agents that were told to sync, as they hold something else than they should.
    pub nudges: u64,
    /// Events that were not made, as there was no room for them.
    pub events_dropped: u64,
    /// How long pods waited from their creation until their binding was stored.
    pub waits: Waits,
}

/// How often pods waited how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waits {
    /// Of all of them, in milliseconds.
    pub sum_ms: u64,
    /// How many waited up to each of [`WAIT_BOUNDS_MS`] and longer than the one before it, and longer than all.
    pub counts: [u64; WAIT_BOUNDS_MS.len() + 1],
}

/// What it holds now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Of its term.
    pub epoch: u64,
    /// What it did.
    pub stats: Stats,
    /// Pods in each part of the queue.
    pub queue: podbus_scheduler_core::QueueLengths,
    /// Pods.
    pub pods: usize,
    /// Nodes that are Ready,
    pub nodes_ready: usize,
    /// and those that are not.
    pub nodes_not_ready: usize,
}

impl Stats {
    pub(crate) fn count(&mut self, decision: &Decision) {
        match decision {
            Decision::Bind { .. } => self.scheduled += 1,
            Decision::Unschedulable { .. } => self.unschedulable += 1,
            Decision::Preempt { victims, .. } => {
                self.unschedulable += 1;
                self.preemptions += 1;
                self.victims += victims.len() as u64;
            }
        }
    }
}

impl Waits {
    pub(crate) fn add(&mut self, wait_ms: i64) {
        // Clocks of different machines may disagree.
        let wait_ms = u64::try_from(wait_ms).unwrap_or(0);
        self.sum_ms = self.sum_ms.saturating_add(wait_ms);
        self.counts[WAIT_BOUNDS_MS.partition_point(|bound| *bound < wait_ms)] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_at_the_first_bound_that_it_does_not_exceed() {
        let mut waits = Waits::default();
        for wait_ms in [-7, 5, 6, 1_800_001] {
            waits.add(wait_ms);
        }
        assert_eq!((waits.counts[0], waits.counts[1], waits.counts[12]), (2, 1, 1));
        assert_eq!(waits.sum_ms, 1_800_012);
    }

    #[test]
    fn a_preemption_is_a_pod_without_a_place_and_its_victims() {
        let mut stats = Stats::default();
        let victims = vec!["a".to_owned(), "b".to_owned()];
        stats.count(&Decision::Preempt { uid: "c".into(), node: "n".into(), victims, message: String::new() });
        stats.count(&Decision::Bind { uid: "c".into(), node: "n".into() });
        assert_eq!((stats.scheduled, stats.unschedulable, stats.preemptions, stats.victims), (1, 1, 1, 2));
    }
}
