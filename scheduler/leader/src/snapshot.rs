//! What is stored, and what follows from it for placing: nodes, what is taken on them, and who waits. Pure.
//!
//! Both are kept together key by key, by who follows as by who leads: who takes the lease has nothing left to count.

use std::sync::Arc;

use podbus_common::api::LeaseTerm;
use podbus_common::subject::Key;
use podbus_scheduler_core::{Config, Scheduler};

use crate::binding;
use crate::cluster::{Cluster, PodName};
use crate::kept::KeptPod;
use crate::lineage::Lineage;
use crate::record::Record;
use crate::writing::Stored;

/// What a process knows before it leads. It becomes the leader's memory.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(crate) cluster: Cluster,
    pub(crate) core: Scheduler,
}

impl Snapshot {
    /// Of an empty store.
    pub fn new(scheduling: Config) -> Self {
        Self { cluster: Cluster::default(), core: Scheduler::new(scheduling) }
    }

    /// Takes in what was read from the store.
    pub fn take_in(&mut self, key: &str, stored: &Stored) {
        match stored.value.as_ref().map(|json| Record::from_json(key, json)).transpose() {
            // The lease, or a kind of a later version.
            Ok(Some(None)) => {}
            Ok(record) => apply(&mut self.cluster, &mut self.core, key, record.flatten(), stored.revision),
            // A person wrote it: better one object missing than no scheduler.
            Err(error) => tracing::error!(key, %error, "this key cannot be read and is left alone"),
        }
    }

    /// What is stored.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What a follower knew of a store that went back in time since; `lease` as it was read last.
    pub fn into_remembered(self, lease: Option<&Stored>) -> Remembered {
        Remembered { cluster: self.cluster, lineage: lease.map(Lineage::of_lease).unwrap_or_default() }
    }
}

/// What a process knew of a store that went back in time since.
#[derive(Debug)]
pub struct Remembered {
    /// What was stored.
    pub(crate) cluster: Cluster,
    /// The store's past, up to then.
    pub(crate) lineage: Lineage,
}

impl Remembered {
    /// What is still worth writing back by who took a lease with these terms: nothing once somebody has led since, whom it
    /// saw lead or whose term is not of the past that is remembered.
    pub fn for_last_of(self, terms: &[LeaseTerm]) -> Option<Self> {
        let mut terms = terms.iter().rev();
        let saw_nobody = terms.next().is_none_or(|own| own.cold);
        let of_this_past = terms.next().is_none_or(|before| self.lineage.has(before));
        (saw_nobody && of_this_past).then_some(self)
    }
}

/// Takes in that `key` is `record` (`None`: gone) since `revision`, and counts what follows.
pub(crate) fn apply(cluster: &mut Cluster, core: &mut Scheduler, key: &str, record: Option<Record>, revision: u64) {
    match Key::parse(key) {
        Some(Key::Pod { namespace, name } | Key::PodStatus { namespace, name }) => {
            let name = PodName::new(namespace, name);
            let before = cluster.kept(&name).cloned();
            cluster.apply(key, record, revision);
            count_pod(cluster, core, &name, before.as_deref());
        }
        Some(Key::Node { name }) => {
            cluster.apply(key, record, revision);
            match cluster.node(name) {
                Some(record) => core.upsert_node(binding::core_node(&record.node)),
                None => core.remove_node(name),
            }
        }
        Some(Key::Removal { node, uid }) => {
            cluster.apply(key, record, revision);
            count_removal(cluster, core, node, uid);
        }
        Some(Key::Lease) | None => cluster.apply(key, record, revision),
    }
}

/// Counts the pod that has the name now. `before`: which had it.
pub(crate) fn count_pod(cluster: &Cluster, core: &mut Scheduler, name: &PodName, before: Option<&KeptPod>) {
    let pod = cluster.kept(name);
    if let Some(before) = before.filter(|before| pod.is_none_or(|pod| pod.uid != before.uid)) {
        core.release(&before.uid);
        core.dequeue(&before.uid);
        count_removal(cluster, core, before.node(), &before.uid);
    }
    let Some(pod) = pod else { return };
    let before = before.filter(|before| before.uid == pod.uid);
    let changed = before.is_some_and(|before| !Arc::ptr_eq(before.template(), pod.template()));
    if pod.node().is_empty() {
        // One whose binding is under way has a place already, and keeps it.
        if changed || !core.holds(&pod.uid) {
            match binding::pending(&pod.uid, pod.template()) {
                Some(pending) => core.enqueue(&pending),
                None => core.dequeue(&pod.uid),
            }
        }
        return;
    }
    if is_over(cluster, name) {
        return core.release(&pod.uid);
    }
    let relabelled = changed && before.is_some_and(|before| !before.node().is_empty());
    if relabelled || !core.is_on(&pod.uid, pod.node()) {
        core.release(&pod.uid);
        core.assume(&pod.uid, pod.node(), &binding::spec(pod.template()));
    }
    if pod.is_terminating() {
        core.set_terminating(&pod.uid);
    }
}

/// Counts what a node must still remove, once it has no other record.
fn count_removal(cluster: &Cluster, core: &mut Scheduler, node: &str, uid: &str) {
    match cluster.removal(node, uid) {
        _ if cluster.name_of(uid).is_some() => {}
        Some(removal) => core.assume(uid, node, &removal.spec()),
        None => core.release(uid),
    }
}

fn is_over(cluster: &Cluster, name: &PodName) -> bool {
    cluster.kept_status_of(name).is_some_and(|status| status.phase().is_terminal())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use podbus_scheduler_core::Resources;
    use serde_json::{Value, json};

    use super::*;
    use crate::random::Random;

    const NODES: [&str; 2] = ["n0", "n1"];

    fn pod(name: &str, uid: &str, node: &str, app: &str, deleted: bool) -> Value {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}});
        let deletion = deleted.then_some("2026-01-01T00:00:00Z");
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "d", "name": name, "uid": uid, "labels": {"app": app}, "deletionTimestamp": deletion},
            "spec": {"nodeName": node, "containers": [container]}})
    }

    fn status(uid: &str, phase: &str) -> Value {
        json!({"uid": uid, "status": {"phase": phase}})
    }

    /// One pod's life, by chance: what a leader may write next of it.
    struct Life {
        name: String,
        lives: usize,
        uid: String,
        node: &'static str,
        app: &'static str,
        deleted: bool,
        /// Uids that a node must still remove.
        owed: Vec<(&'static str, String)>,
    }

    impl Life {
        fn next(&mut self, dice: &mut Random) -> Vec<(String, Option<Value>)> {
            let (key, status_key) = (format!("pods.d.{}", self.name), format!("podstatus.d.{}", self.name));
            let removal_key = |node: &str, uid: &str| format!("removals.{node}.{uid}");
            if self.uid.is_empty() {
                self.lives += 1;
                self.uid = format!("{}-{}", self.name, self.lives);
                (self.node, self.deleted) = (["", NODES[dice.number() % 2]][dice.number() % 2], false);
                return vec![(key, Some(pod(&self.name, &self.uid, self.node, self.app, false)))];
            }
            match (dice.number() % 8, self.node) {
                (0 | 1, "") => {
                    self.node = NODES[dice.number() % 2];
                    vec![(key, Some(pod(&self.name, &self.uid, self.node, self.app, self.deleted)))]
                }
                (2, node) if !node.is_empty() => {
                    self.deleted = true;
                    vec![(key, Some(pod(&self.name, &self.uid, node, self.app, true)))]
                }
                (3, _) => {
                    self.app = ["a", "b", "c"][dice.number() % 3];
                    vec![(key, Some(pod(&self.name, &self.uid, self.node, self.app, self.deleted)))]
                }
                (4, node) if !node.is_empty() => {
                    let uid = std::mem::take(&mut self.uid);
                    self.owed.push((node, uid.clone()));
                    let removal = json!({"node": node, "uid": uid, "cpuMillis": 100});
                    vec![(removal_key(node, &uid), Some(removal)), (key, None), (status_key, None)]
                }
                (5, node) if !node.is_empty() => {
                    let phase = ["Running", "Failed", "Succeeded"][dice.number() % 3];
                    vec![(status_key, Some(status(&self.uid, phase)))]
                }
                (6, _) => {
                    self.uid.clear();
                    vec![(key, None), (status_key, None)]
                }
                _ => self.owed.pop().map(|(node, uid)| (removal_key(node, &uid), None)).into_iter().collect(),
            }
        }
    }

    fn accounts(snapshot: &Snapshot, uids: &[String]) -> (Vec<Resources>, usize, Vec<Option<usize>>) {
        let on = |uid: &String| NODES.iter().position(|node| snapshot.core.is_on(uid, node));
        let used = NODES.map(|node| snapshot.core.used(node)).to_vec();
        (used, snapshot.core.queue_lengths().active, uids.iter().map(on).collect())
    }

    #[test]
    fn who_follows_from_any_moment_on_counts_the_same_as_who_reads_what_is_left() {
        for seed in 0..200 {
            let mut dice = Random::new([seed; 32]);
            let life = |n: usize| Life {
                name: format!("p{n}"),
                lives: 0,
                uid: String::new(),
                node: "",
                app: "a",
                deleted: false,
                owed: Vec::new(),
            };
            let mut lives: Vec<_> = (0..4).map(life).collect();
            let (mut follower, mut revision, mut uids) = (Snapshot::default(), 0, Vec::new());
            // Of each key the last message, as the store has them.
            let mut store: BTreeMap<String, Stored> = BTreeMap::new();
            for _ in 0..60 {
                let life = &mut lives[dice.number() % 4];
                for (key, value) in life.next(&mut dice) {
                    revision += 1;
                    let stored = Stored { revision, value: value.map(|json| json.to_string().into()), epoch: 1 };
                    follower.take_in(&key, &stored);
                    store.insert(key, stored);
                }
                uids.push(life.uid.clone());
                let mut left: Vec<_> = store.iter().collect();
                left.sort_by_key(|(_, stored)| stored.revision);
                let mut reader = Snapshot::default();
                left.into_iter().for_each(|(key, stored)| reader.take_in(key, stored));
                assert_eq!(accounts(&follower, &uids), accounts(&reader, &uids), "seed {seed}, revision {revision}");
                let orphans = |snapshot: &Snapshot| snapshot.cluster.orphaned_statuses().cloned().collect::<Vec<_>>();
                assert_eq!(orphans(&follower), orphans(&reader), "seed {seed}, revision {revision}");
            }
        }
    }

    #[test]
    fn what_a_node_must_remove_counts_until_it_says_so_and_what_ended_does_not() {
        let mut snapshot = Snapshot::default();
        let mut revision = 0;
        let mut used = |key: &str, value: Option<Value>| {
            revision += 1;
            snapshot.take_in(key, &Stored { revision, value: value.map(|json| json.to_string().into()), epoch: 1 });
            snapshot.core.used("n0").cpu_millis
        };
        assert_eq!(used("pods.d.p", Some(pod("p", "u", "n0", "a", false))), 100);
        assert_eq!(used("removals.n0.u", Some(json!({"node": "n0", "uid": "u", "cpuMillis": 100}))), 100);
        assert_eq!(used("pods.d.p", Some(pod("p", "v", "n0", "a", false))), 200);
        assert_eq!(used("podstatus.d.p", Some(status("v", "Succeeded"))), 100);
        assert_eq!(used("removals.n0.u", None), 0);
    }

    #[test]
    fn a_memory_is_worth_nothing_once_somebody_has_led_since() {
        let term = |epoch, cold| LeaseTerm { epoch, nonce: format!("n{epoch}"), revision: epoch, cold };
        let past = Lineage::new(vec![term(5, true), term(7, false)], 7);
        for (terms, is_worth) in [
            (vec![term(9, true)], true),
            (vec![term(5, true), term(9, true)], true),
            (vec![term(5, true), term(7, false), term(9, true)], true),
            // It saw another one lead.
            (vec![term(5, true), term(7, false), term(9, false)], false),
            // One led that is not of this past.
            (vec![term(5, true), term(8, true), term(9, true)], false),
        ] {
            let remembered = Remembered { cluster: Cluster::default(), lineage: past.clone() };
            assert_eq!(remembered.for_last_of(&terms).is_some(), is_worth, "{terms:?}");
        }
    }
}
