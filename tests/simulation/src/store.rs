//! The KV bucket as JetStream has it: one stream, a revision for all keys, compare-and-set by key.

use std::collections::BTreeMap;

use bytes::Bytes;
use podbus_scheduler_leader::Stored;

/// What a scheduler asks of the store.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// One attempt to write.
    Write { key: String, value: Option<Bytes>, epoch: u64, expected: u64 },
    /// The newest message of a key.
    Read { key: String },
    /// All that is there, once the stream has come to `revision`.
    Load { revision: u64 },
    /// Remove the marker of a purged key.
    Compact { key: String, revision: u64 },
}

/// What the store says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// `None`: the key has another revision.
    Wrote(Option<u64>),
    Read(Option<Stored>),
    Loaded(Vec<(String, Stored)>),
    Compacted,
}

/// A write that passed.
#[derive(Debug, Clone)]
pub(crate) struct Passed {
    pub(crate) key: String,
    pub(crate) stored: Stored,
}

/// The bucket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    keys: BTreeMap<String, Stored>,
    revision: u64,
    /// nats-server runs.
    pub(crate) down: bool,
}

impl Store {
    /// The value of a key.
    pub(crate) fn value(&self, key: &str) -> Option<&Bytes> {
        self.keys.get(key)?.value.as_ref()
    }

    /// All values whose key begins with `prefix`.
    pub(crate) fn values<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Bytes)> {
        self.keys
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, stored)| Some((key, stored.value.as_ref()?)))
    }

    /// Answers; `None`: not yet.
    pub(crate) fn answer(&mut self, ask: Ask) -> (Option<Answer>, Option<Passed>) {
        match ask {
            Ask::Write { key, value, epoch, expected } => {
                if self.keys.get(&key).map_or(0, |stored| stored.revision) != expected {
                    return (Some(Answer::Wrote(None)), None);
                }
                self.revision += 1;
                let stored = Stored { revision: self.revision, value, epoch };
                self.keys.insert(key.clone(), stored.clone());
                (Some(Answer::Wrote(Some(self.revision))), Some(Passed { key, stored }))
            }
            Ask::Read { key } => (Some(Answer::Read(self.keys.get(&key).cloned())), None),
            Ask::Load { revision } => {
                let loaded = (self.revision >= revision).then(|| {
                    let mut all: Vec<_> = self.keys.iter().map(|(key, stored)| (key.clone(), stored.clone())).collect();
                    all.sort_by_key(|(_, stored)| stored.revision);
                    Answer::Loaded(all)
                });
                (loaded, None)
            }
            Ask::Compact { key, revision } => {
                if self.keys.get(&key).is_some_and(|stored| stored.revision <= revision) {
                    self.keys.remove(&key);
                }
                (Some(Answer::Compacted), None)
            }
        }
    }
}
