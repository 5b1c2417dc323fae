//! What time brings: nodes that fell silent, pods whose toleration ran out, bookmarks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podbus_common::model::{EventType, Node, Timestamp};

use super::Leader;
use super::ops::Op;
use crate::cluster::PodName;
use crate::kept::KeptPod;
use crate::nodes::{self, Readiness};
use crate::output::Output;
use crate::plan::Object;
use crate::{binding, events, health};

/// Ticks in a second.
const TICKS_PER_SECOND: u64 = 4;
/// How often markers of purged keys are compacted.
const COMPACT_EVERY_TICKS: u64 = 60 * TICKS_PER_SECOND;
/// A marker is kept for so long: who watched the bucket itself has seen it by then.
const MARKER_AGE: Duration = Duration::from_secs(600);
/// Markers in one go.
const MARKERS_MAX: usize = 1_000;

impl Leader {
    pub(super) fn tick(&mut self, caught_up: bool) {
        let now = self.now.instant;
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_SECOND) {
            for message in self.watches.tick(self.applied(), now) {
                self.tell(message);
            }
        }
        if !caught_up || self.recovers() {
            // Nobody can be heard, or not in time: that is no node's fault. While the store is rebuilt nobody is judged.
            return self.health.listen_anew(now);
        }
        self.look_for_silence(now);
        self.evict();
        if self.ticks.is_multiple_of(COMPACT_EVERY_TICKS) {
            self.compact(now);
        }
    }

    /// Removes old markers of purged keys. A key that is created meanwhile conflicts once, and is created then.
    fn compact(&mut self, now: Instant) {
        self.ages.push_back((now, self.cluster.revision()));
        let mut until = 0;
        while let Some((_, revision)) = self.ages.front().filter(|(at, _)| now - *at >= MARKER_AGE) {
            until = *revision;
            self.ages.pop_front();
        }
        let markers = self.cluster.markers_until(until).take(MARKERS_MAX);
        let markers: Vec<(u64, String)> = markers.map(|(revision, key)| (revision, key.clone())).collect();
        self.outputs.push(Output::Compact(markers));
    }

    fn look_for_silence(&mut self, now: Instant) {
        let asked = |node: &Node| nodes::status_of(node) != "Unknown";
        let nodes =
            self.cluster.nodes().filter(|(name, record)| asked(&record.node) && self.health.is_silent(name, now));
        let silent: Vec<String> = nodes.map(|(name, _)| name.to_owned()).collect();
        for node in silent {
            let object = Object::Node(node);
            if !self.busy.contains_key(&object) {
                self.submit(object, Op::Readiness(Readiness::Unknown));
            }
        }
    }

    /// Takes pods away from nodes whose taints they bore long enough.
    fn evict(&mut self) {
        let now = self.now.wall;
        let all: Vec<_> = self.cluster.nodes().map(|(_, record)| lost_at(&record.node)).collect();
        let (mut leaving, mut held_back) = (Vec::new(), Vec::new());
        for (name, record) in self.cluster.nodes().filter(|(_, record)| !record.node.spec.taints.is_empty()) {
            let due = |(_, pod): &(&PodName, &Arc<KeptPod>)| {
                !pod.is_terminating()
                    && binding::evicted_at(pod.template(), &record.node.spec.taints).is_some_and(|at| at <= now)
            };
            let mut due = self.cluster.pods_on(name).filter(due).peekable();
            if due.peek().is_some() && lost_at(&record.node).is_some_and(|at| health::fell_together(at, &all)) {
                held_back.push(record.node.clone());
                continue;
            }
            leaving.extend(due.map(|(name, pod)| (name.clone(), pod.uid.to_string())));
        }
        self.say_held_back(&held_back, now);
        for (name, uid) in leaving {
            let object = Object::Pod(name);
            if !self.busy.contains_key(&object) {
                let new_uid = self.random.uid();
                self.submit(object, Op::Evict { uid, new_uid });
            }
        }
    }

    /// Says once that nothing is replaced.
    fn say_held_back(&mut self, nodes: &[Node], now: Timestamp) {
        let before = std::mem::replace(&mut self.held_back, !nodes.is_empty());
        if before || nodes.is_empty() {
            return;
        }
        let message = "More than half of the nodes fell silent together: their pods are not replaced, because the bus \
                       or the scheduler is more likely at fault than all of them";
        tracing::warn!(nodes = nodes.len(), "{message}");
        for node in nodes {
            self.publish(events::of_node(node, EventType::Warning, "EvictionHeldBack", message.to_owned(), now));
        }
    }
}

/// Since when a node is silent; `None`: it answers.
fn lost_at(node: &Node) -> Option<Timestamp> {
    let condition = node.status.conditions.iter().find(|c| c.kind == "Ready")?;
    condition.last_transition_time.filter(|_| condition.status == "Unknown")
}
