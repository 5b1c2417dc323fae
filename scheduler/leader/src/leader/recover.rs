//! A store that went back in time, or was lost: what is remembered is written back, the nodes are asked, and what they
//! hold is put back. Until then no request is taken in, nothing is placed and nothing is replaced.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podbus_common::model::EventType;
use podbus_common::proto::{HeldPod, Mark, SyncReply};

use super::Leader;
use super::ops::Op;
use crate::cluster::PodName;
use crate::events;
use crate::nodes;
use crate::plan::Object;
use crate::rebuild::{self, Inventory, Kind};
use crate::snapshot::Remembered;

/// How long nodes have to say what they hold. Those that come later are asked by their sync.
const ASK_FOR: Duration = Duration::from_secs(10);
/// When who must wait asks again, milliseconds.
pub(super) const RETRY_AFTER_MS: u32 = 500;
/// What a client is told meanwhile.
pub(super) const REBUILDING: &str =
    "the store went back in time, or was lost: it is being rebuilt from what is remembered and from the nodes";

/// A rebuild under way.
pub(super) struct Recovery {
    phase: Phase,
    /// All that was acknowledged is remembered: no unbound pod is doubtful.
    remembered: bool,
    /// Of pods that were written back: the epoch and the revision that they had in the store that was.
    written_back: HashMap<PodName, (u64, u64)>,
    inventories: BTreeMap<String, Inventory>,
    /// Pods written back, restored, ended and gated.
    counts: Counts,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Until what is remembered is stored.
    WritesBack,
    /// Until all nodes have answered, or long enough.
    Asks { since: Instant },
    /// Until what they hold is stored.
    Merges,
}

#[derive(Default)]
struct Counts {
    written_back: usize,
    restored: usize,
    ended: usize,
    gated: usize,
}

impl Leader {
    /// Whether the store is being rebuilt.
    pub(super) fn recovers(&self) -> bool {
        self.recovery.is_some()
    }

    /// Begins to rebuild: from what is `remembered`, if there is something, and from the nodes.
    pub(super) fn begin_recovery(&mut self, why: &str, remembered: Option<&Remembered>) {
        tracing::error!(why, remembered = remembered.is_some(), "{REBUILDING}");
        let message =
            format!("{why}. It is rebuilt from what is remembered and from the nodes; no running pod is touched");
        self.publish(events::of_store(EventType::Warning, "StoreWentBack", message, self.now.wall));
        let mut recovery = Recovery {
            phase: Phase::WritesBack,
            remembered: remembered.is_some(),
            written_back: HashMap::new(),
            inventories: BTreeMap::new(),
            counts: Counts::default(),
        };
        let mut writes = BTreeMap::new();
        if let Some(Remembered { cluster, lineage }) = remembered {
            writes = rebuild::write_back(&self.cluster, cluster, || self.random.uid());
            let pods =
                writes.keys().filter_map(|object| if let Object::Pod(name) = object { Some(name) } else { None });
            let rank = |name| lineage.rank_of(cluster.pod_revision(name));
            recovery.written_back = pods.map(|name| (name.clone(), rank(name))).collect();
        }
        recovery.counts.written_back = writes.len();
        self.recovery = Some(recovery);
        for (object, writes) in writes {
            self.submit(object, Op::Restore(writes));
        }
    }

    /// What a node saw last, of this and of the term before. On a cold start it may be what the store never had.
    pub(super) fn hear_marks(&mut self, node: &str, marks: [Option<&Mark>; 2]) {
        if self.recovers() || self.taken_stock.contains(node) {
            return;
        }
        let Some(mark) = marks.into_iter().flatten().find(|mark| self.lineage.is_contradicted_by(mark)) else { return };
        let epoch = mark.term.as_ref().map_or(0, |term| term.epoch);
        let why = format!(
            "The store went back in time: node {node} has seen revision {} of epoch {epoch}, which the store never had",
            mark.revision
        );
        self.begin_recovery(&why, None);
    }

    /// The answer to a node that registers or syncs meanwhile.
    pub(super) fn take_stock(&mut self, node: &str, held: &[HeldPod], is_inventory: bool, reply: String) {
        let Some(recovery) = &mut self.recovery else { return };
        let asked = is_inventory || recovery.inventories.contains_key(node);
        if is_inventory {
            let mut inventory = Inventory::default();
            inventory.add(node, held);
            recovery.inventories.insert(node.to_owned(), inventory);
            self.taken_stock.insert(node.to_owned());
        }
        let retry_after_ms = if asked { RETRY_AFTER_MS } else { 0 };
        let term = Some(self.term.clone());
        self.send(reply, &SyncReply { term, send_inventory: !asked, retry_after_ms, ..Default::default() });
    }

    /// Whether a node that lives must still be asked.
    pub(super) fn lacks_inventory(&self, node: &str) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| !recovery.inventories.contains_key(node))
    }

    /// Goes on with the rebuild as far as it can.
    pub(super) fn recover(&mut self) {
        let Some(recovery) = &self.recovery else { return };
        let now = self.now.instant;
        match recovery.phase {
            Phase::WritesBack if self.busy.is_empty() => self.set_phase(Phase::Asks { since: now }),
            Phase::Asks { since } if now - since >= ASK_FOR || self.all_answered() => self.put_back(),
            Phase::Merges if self.busy.is_empty() => self.end_recovery(),
            Phase::WritesBack | Phase::Asks { .. } | Phase::Merges => {}
        }
    }

    fn set_phase(&mut self, phase: Phase) {
        if let Some(recovery) = &mut self.recovery {
            recovery.phase = phase;
        }
    }

    /// Whether there is nobody left to wait for: only who remembers knows which nodes there are.
    fn all_answered(&self) -> bool {
        let mut alive = self.cluster.nodes().filter(|(_, record)| nodes::is_ready(&record.node));
        let remembered = self.recovery.as_ref().is_some_and(|recovery| recovery.remembered);
        remembered && alive.all(|(name, _)| !self.lacks_inventory(name))
    }

    fn put_back(&mut self) {
        let Some(recovery) = &mut self.recovery else { return };
        recovery.phase = Phase::Merges;
        let gate = !recovery.remembered;
        let Recovery { written_back, inventories, .. } = &*recovery;
        let repairs =
            rebuild::merge(&self.cluster, &self.lineage, written_back, inventories, gate, || self.random.uid());
        for repair in &repairs {
            let count = match repair.kind {
                Kind::Restored { .. } => &mut recovery.counts.restored,
                Kind::Ended => &mut recovery.counts.ended,
                Kind::Gated => &mut recovery.counts.gated,
            };
            *count += 1;
        }
        for repair in repairs {
            self.publish(events::of_repair(&repair.pod, &repair.kind, self.now.wall));
            self.submit(repair.object, Op::Restore(repair.writes));
        }
    }

    /// Leads as after any start, with what is stored now.
    fn end_recovery(&mut self) {
        let Some(recovery) = self.recovery.take() else { return };
        let silent = self.cluster.nodes().filter(|(name, _)| !recovery.inventories.contains_key(*name));
        let silent: Vec<_> = silent.map(|(name, _)| name).collect();
        let message = summary(&recovery, &silent);
        tracing::warn!("{message}");
        self.publish(events::of_store(EventType::Warning, "StoreRebuilt", message, self.now.wall));
        self.health.listen_anew(self.now.instant);
        for (node, _) in self.cluster.nodes() {
            self.health.want_states(node);
            let uids = self.cluster.pods_on(node).map(|(_, pod)| Arc::clone(&pod.uid));
            self.unreported.insert(node.to_owned(), uids.collect());
        }
        self.begin();
    }
}

/// What was rebuilt, and what nobody knows.
fn summary(recovery: &Recovery, silent: &[&str]) -> String {
    let Counts { written_back, restored, ended, gated } = recovery.counts;
    let mut text = String::from("The store is rebuilt:");
    let mut say = |text_of: String| {
        // Writing to a String cannot fail.
        let _ = write!(text, " {text_of}");
    };
    if recovery.remembered {
        say(format!("{written_back} objects from what the scheduler remembered,"));
    }
    say(format!("{restored} pods from {} nodes that hold them;", recovery.inventories.len()));
    say(format!("{ended} pods that came back were removed again, as they had ended."));
    if !recovery.remembered {
        say(format!(
            "Not known: pods that had no node yet and are not in the store; whether {gated} pods that are were deleted \
             (they have the scheduling gate {}: delete them, or apply them again);",
            rebuild::RECOVERED_GATE
        ));
        say("changes of pods that their nodes had not heard of.".to_owned());
    }
    if !silent.is_empty() {
        say(format!("Nodes that did not answer, and are asked when they return: {}.", silent.join(", ")));
    }
    text
}
