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
    /// Which bucket it is, and how far it has come.
    State,
    /// All that is newer than `after`, in order.
    Follow { after: u64 },
    /// Remove the marker of a purged key.
    Compact { key: String, revision: u64 },
}

/// What the store says.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// `None`: the key has another revision.
    Wrote(Option<u64>),
    Read(Option<Stored>),
    State(StreamState),
    Followed(Vec<(String, Stored)>),
    Compacted,
}

/// How the stream behind the bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// Another bucket has another number.
    pub(crate) created: u64,
    pub(crate) revision: u64,
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
    files: Files,
    /// As its directory was at some moment.
    copy: Files,
    /// nats-server does not run.
    pub(crate) down: bool,
    /// How often it was started again.
    pub(crate) starts: u64,
    /// It went back in time.
    pub(crate) went_back: bool,
}

/// nats-server's directory.
#[derive(Debug, Clone, Default)]
struct Files {
    keys: BTreeMap<String, Stored>,
    revision: u64,
    created: u64,
}

impl Store {
    /// Somebody copies the directory.
    pub(crate) fn copy(&mut self) {
        self.copy = self.files.clone();
    }

    /// The directory is replaced by the copy.
    pub(crate) fn restore(&mut self) {
        self.files = self.copy.clone();
        self.went_back = true;
    }

    /// The directory is gone, and the bucket is made anew.
    pub(crate) fn lose(&mut self) {
        let created = self.files.created.max(self.copy.created) + 1;
        self.files = Files { created, ..Files::default() };
        self.went_back = true;
    }

    /// The value of a key.
    pub(crate) fn value(&self, key: &str) -> Option<&Bytes> {
        self.files.keys.get(key)?.value.as_ref()
    }

    /// All values whose key begins with `prefix`.
    pub(crate) fn values<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Bytes)> {
        self.files
            .keys
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(|(key, stored)| Some((key, stored.value.as_ref()?)))
    }

    /// Answers, and says what was written.
    pub(crate) fn answer(&mut self, ask: Ask) -> (Answer, Option<Passed>) {
        match ask {
            Ask::Write { key, value, epoch, expected } => {
                if self.files.keys.get(&key).map_or(0, |stored| stored.revision) != expected {
                    return (Answer::Wrote(None), None);
                }
                self.files.revision += 1;
                let stored = Stored { revision: self.files.revision, value, epoch };
                self.files.keys.insert(key.clone(), stored.clone());
                (Answer::Wrote(Some(self.files.revision)), Some(Passed { key, stored }))
            }
            Ask::Read { key } => (Answer::Read(self.files.keys.get(&key).cloned()), None),
            Ask::State => {
                let Files { created, revision, .. } = self.files;
                (Answer::State(StreamState { created, revision }), None)
            }
            Ask::Follow { after } => {
                let newer = self.files.keys.iter().filter(|(_, stored)| stored.revision > after);
                let mut newer: Vec<_> = newer.map(|(key, stored)| (key.clone(), stored.clone())).collect();
                newer.sort_by_key(|(_, stored)| stored.revision);
                (Answer::Followed(newer), None)
            }
            Ask::Compact { key, revision } => {
                if self.files.keys.get(&key).is_some_and(|stored| stored.revision <= revision) {
                    self.files.keys.remove(&key);
                }
                (Answer::Compacted, None)
            }
        }
    }
}
