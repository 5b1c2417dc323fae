//! The desired set as lines of a journal: what each change writes down, and what is read back.

use podbus_common::model::Timestamp;
use podbus_common::proto::{Mark, Term};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{DesiredSet, EndedPod, Held, read_pod};

/// One durable change of the desired set: a line of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Record {
    /// Registered with this agent epoch.
    Agent {
        /// Given by the leader.
        agent_epoch: u64,
    },
    /// The newest that was seen of the store.
    Mark {
        /// Of the leader.
        epoch: u64,
        /// Of its term.
        nonce: String,
        /// The highest of that term.
        revision: u64,
    },
    /// A leader has judged what was seen of earlier terms.
    Judged,
    /// A pod as assigned.
    Pod {
        /// The pod.
        uid: String,
        /// Of the object.
        generation: u64,
        /// The KV revision of the object.
        revision: u64,
        /// Of the leader that assigned it; 0: not known any more.
        #[serde(default)]
        epoch: u64,
        /// The object.
        pod: Box<RawValue>,
    },
    /// It fits, and counts from now on.
    Admitted {
        /// The pod.
        uid: String,
        /// When.
        unix_ms: i64,
    },
    /// It ended on the node's own decision and never starts again here: refused or evicted.
    Failed {
        /// The pod.
        uid: String,
        /// One word.
        reason: String,
        /// For a person.
        message: String,
    },
    /// A record of the leader's says that it must go, though its object is gone.
    Removal {
        /// The pod.
        uid: String,
        /// How long it may take to end.
        grace_period_seconds: u32,
    },
    /// When its containers are killed at the latest.
    Deadline {
        /// The pod.
        uid: String,
        /// When.
        unix_ms: i64,
    },
    /// Nothing of it is left on the node; to be reported.
    Ended {
        /// The pod.
        uid: String,
        /// Of the pod.
        namespace: String,
        /// Of the pod.
        name: String,
        /// When.
        unix_ms: i64,
    },
    /// The leader knows that it ended.
    Dropped {
        /// The pod.
        uid: String,
    },
}

impl DesiredSet {
    /// What happened since the last call, to be written down before anything is done about it.
    pub fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// The set as the shortest list of records.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = vec![Record::Agent { agent_epoch: self.agent_epoch_seen }];
        for Mark { term, revision } in self.earlier.clone().into_iter().chain([self.mark()]) {
            let Term { epoch, nonce } = term.unwrap_or_default();
            records.push(Record::Mark { epoch, nonce, revision });
        }
        for (uid, ended) in &self.ended {
            let (namespace, name) = (ended.namespace.clone(), ended.name.clone());
            records.push(Record::Ended { uid: uid.clone(), namespace, name, unix_ms: ended.at.unix_ms });
            if ended.acked {
                records.push(Record::Dropped { uid: uid.clone() });
            }
        }
        for (uid, held) in &self.pods {
            records.extend(held_records(uid, held));
        }
        records
    }

    /// Takes in what was written down before.
    pub fn replay(&mut self, record: Record) {
        match record {
            Record::Agent { agent_epoch } => self.agent_epoch_seen = self.agent_epoch_seen.max(agent_epoch),
            Record::Mark { epoch, nonce, revision } => {
                self.enter_term(Term { epoch, nonce });
                self.revision = revision;
            }
            Record::Judged => self.earlier = None,
            Record::Pod { uid, generation, revision, epoch, pod } => {
                if let Some((pod, json)) = read_pod(pod.get().as_bytes(), &uid) {
                    self.insert(&uid, pod, json, (generation, epoch, revision));
                }
            }
            Record::Ended { uid, namespace, name, unix_ms } => {
                self.pods_mut().remove(&uid);
                let at = Timestamp::from_unix_ms(unix_ms);
                self.ended.insert(uid, EndedPod { namespace, name, at, acked: false });
            }
            Record::Dropped { uid } => {
                if let Some(ended) = self.ended.get_mut(&uid) {
                    ended.acked = true;
                }
            }
            Record::Admitted { uid, unix_ms } => {
                self.change(&uid, |held| held.admitted = Some(Timestamp::from_unix_ms(unix_ms)));
            }
            Record::Failed { uid, reason, message } => self.change(&uid, |held| held.failed = Some((reason, message))),
            Record::Removal { uid, grace_period_seconds } => {
                self.change(&uid, |held| held.removal = Some(grace_period_seconds));
            }
            Record::Deadline { uid, unix_ms } => {
                self.change(&uid, |held| held.deadline = Some(Timestamp::from_unix_ms(unix_ms)));
            }
        }
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.pods_mut().get_mut(uid) {
            change(held);
        }
    }
}

pub(super) fn held_records(uid: &str, held: &Held) -> Vec<Record> {
    let uid = uid.to_owned();
    let pod = RawValue::to_owned(&held.json);
    let (generation, revision) = (held.generation, held.revision);
    let mut records = vec![Record::Pod { uid: uid.clone(), generation, revision, epoch: held.epoch, pod }];
    if let Some(at) = held.admitted {
        records.push(Record::Admitted { uid: uid.clone(), unix_ms: at.unix_ms });
    }
    if let Some((reason, message)) = held.failed.clone() {
        records.push(Record::Failed { uid: uid.clone(), reason, message });
    }
    if let Some(grace_period_seconds) = held.removal {
        records.push(Record::Removal { uid: uid.clone(), grace_period_seconds });
    }
    if let Some(deadline) = held.deadline {
        records.push(Record::Deadline { uid, unix_ms: deadline.unix_ms });
    }
    records
}
