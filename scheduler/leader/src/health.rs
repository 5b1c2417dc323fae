//! Which nodes are alive: missed heartbeats, and what follows from them. Pure: moments are arguments.

use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use podbus_common::model::Timestamp;

/// A node that misses so many heartbeats is NotReady.
const HEARTBEATS_MISSED_MAX: u32 = 5;
/// How often an agent sends one.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// What differs for so long is told to the agent.
const DIFFERENCE_MAX: Duration = Duration::from_secs(1);
/// An agent that was told is not told again for so long.
const NUDGE_EVERY: Duration = Duration::from_secs(2);
/// Nodes that fell silent within so long of each other did so together.
const TOGETHER_SECONDS: i64 = 30;

/// What this process heard of nodes since its term began. Nothing of it is stored.
#[derive(Debug)]
pub(crate) struct Health {
    nodes: HashMap<String, Heard>,
    /// Since when it listens without a gap: silence counts from then on only.
    listening_since: Instant,
}

/// Of one node.
#[derive(Debug, Clone, Default)]
struct Heard {
    at: Option<Instant>,
    instance: String,
    /// When another instance asked to register and had to wait: the node lives, its agent was started again.
    knocked_at: Option<Instant>,
    /// Of the assignments sent to it in this term.
    counter: u64,
    /// When what it should hold changed last.
    changed_at: Option<Instant>,
    nudged_at: Option<Instant>,
    /// Its reports since it fell silent are wanted.
    wants_states: bool,
}

impl Health {
    pub(crate) fn new(now: Instant) -> Self {
        Self { nodes: HashMap::new(), listening_since: now }
    }

    /// Something was not heard before now: silence begins anew.
    pub(crate) fn listen_anew(&mut self, now: Instant) {
        self.listening_since = now;
    }

    pub(crate) fn heard(&mut self, node: &str, instance: &str, now: Instant) {
        let heard = self.nodes.entry(node.to_owned()).or_default();
        heard.at = Some(now);
        instance.clone_into(&mut heard.instance);
    }

    /// Another instance of a node that is alive must wait for its turn.
    pub(crate) fn knocked(&mut self, node: &str, now: Instant) {
        self.nodes.entry(node.to_owned()).or_default().knocked_at = Some(now);
    }

    /// Whether an instance other than `instance` was heard lately.
    pub(crate) fn other_alive(&self, node: &str, instance: &str, now: Instant) -> bool {
        let alive = |heard: &Heard| heard.at.is_some_and(|at| now - at < grace());
        self.nodes.get(node).is_some_and(|heard| heard.instance != instance && alive(heard))
    }

    /// Whether a node missed too many heartbeats.
    pub(crate) fn is_silent(&self, node: &str, now: Instant) -> bool {
        let last = self.nodes.get(node).and_then(|heard| heard.at.max(heard.knocked_at));
        now - last.map_or(self.listening_since, |at| at.max(self.listening_since)) > grace()
    }

    /// The number of the next assignment to a node.
    pub(crate) fn next_counter(&mut self, node: &str, now: Instant) -> u64 {
        let heard = self.nodes.entry(node.to_owned()).or_default();
        heard.counter += 1;
        heard.changed_at = Some(now);
        heard.counter
    }

    pub(crate) fn counter(&self, node: &str) -> u64 {
        self.nodes.get(node).map_or(0, |heard| heard.counter)
    }

    /// Ask for all states at the next sync.
    pub(crate) fn want_states(&mut self, node: &str) {
        self.nodes.entry(node.to_owned()).or_default().wants_states = true;
    }

    pub(crate) fn wants_states(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|heard| heard.wants_states)
    }

    /// They came.
    pub(crate) fn has_states(&mut self, node: &str) {
        if let Some(heard) = self.nodes.get_mut(node) {
            heard.wants_states = false;
        }
    }

    /// Whether a node was not heard in this term.
    pub(crate) fn is_new(&self, node: &str) -> bool {
        self.nodes.get(node).is_none_or(|heard| heard.at.is_none())
    }

    /// Whether an agent that holds something else than it should must be told to sync now. A difference younger than
    /// the messages that repair it is none, and is not looked for.
    pub(crate) fn nudge(&mut self, node: &str, differs: impl FnOnce() -> bool, now: Instant) -> bool {
        let heard = self.nodes.entry(node.to_owned()).or_default();
        let old = heard.changed_at.is_none_or(|at| now - at > DIFFERENCE_MAX);
        let again = heard.nudged_at.is_none_or(|at| now - at > NUDGE_EVERY);
        let nudge = again && (heard.wants_states || (old && differs()));
        if nudge {
            heard.nudged_at = Some(now);
        }
        nudge
    }
}

fn grace() -> Duration {
    HEARTBEAT_EVERY * HEARTBEATS_MISSED_MAX
}

/// Whether so many nodes fell silent together with one of them that the fault is more likely here: more than one, and
/// more than half of all. `lost_at`: of the node in question; `all`: of each node, `None` for those that answer.
pub(crate) fn fell_together(lost_at: Timestamp, all: &[Option<Timestamp>]) -> bool {
    let with_it = |at: &&Timestamp| at.seconds_since(lost_at).abs() <= TOGETHER_SECONDS;
    let together = all.iter().flatten().filter(with_it).count();
    together > 1 && together * 2 > all.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_silent_after_five_missed_heartbeats_of_a_term_that_listens() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.heard("a", "i", start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!health.is_silent("a", at(5_000)));
        assert!(health.is_silent("a", at(5_001)));
        // The bus was away until now: the node had no way to be heard.
        health.listen_anew(at(10_000));
        assert!(!health.is_silent("a", at(14_000)));
        assert!(health.is_silent("a", at(15_001)));
    }

    #[test]
    fn a_second_instance_is_refused_only_while_the_first_beats() {
        let start = Instant::now();
        let mut health = Health::new(start);
        health.heard("a", "one", start);
        assert!(health.other_alive("a", "two", start + Duration::from_secs(4)));
        assert!(!health.other_alive("a", "one", start + Duration::from_secs(4)));
        assert!(!health.other_alive("a", "two", start + Duration::from_secs(5)));
        // While it waits the node is not lost, though the first one is.
        health.knocked("a", start + Duration::from_secs(4));
        assert!(!health.is_silent("a", start + Duration::from_secs(6)));
        assert!(!health.other_alive("a", "two", start + Duration::from_secs(6)));
    }

    #[test]
    fn nothing_is_replaced_when_most_nodes_fall_silent_together() {
        let at = |seconds: i64| Some(Timestamp::from_unix_ms(seconds * 1000));
        let one = Timestamp::from_unix_ms(100_000);
        for (all, together) in [
            (vec![at(100), None, None], false),
            (vec![at(100), at(101), None], true),
            (vec![at(100), at(101), None, None], false),
            // The other one was lost long before.
            (vec![at(100), at(10), None], false),
            // A single node cannot fall together.
            (vec![at(100)], false),
            (vec![at(100), at(100)], true),
        ] {
            assert_eq!(fell_together(one, &all), together, "{all:?}");
        }
    }

    #[test]
    fn a_young_difference_is_not_told_and_an_old_one_not_twice_at_once() {
        let start = Instant::now();
        let mut health = Health::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        health.next_counter("a", at(0));
        assert!(!health.nudge("a", || true, at(500)));
        assert!(health.nudge("a", || true, at(1_500)));
        assert!(!health.nudge("a", || true, at(2_500)));
        assert!(health.nudge("a", || true, at(4_000)));
        assert!(!health.nudge("a", || false, at(9_000)));
    }
}
