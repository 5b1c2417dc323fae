//! The writes of one decision, until the outcome of each is known.
//!
//! A missing ack is unknown and not failed: the write is repeated with the same expected revision, and a conflict is
//! resolved by comparing what is stored. So a [`Writing`] ends only once everything is known, however long the bus is
//! away.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::plan::Write;
use crate::record::Record;

/// Between two attempts, at first
const DELAY: Duration = Duration::from_millis(10);
/// and at most.
const DELAY_MAX: Duration = Duration::from_millis(500);

/// The newest message of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the stream.
    pub revision: u64,
    /// `None`: a marker that the key was purged.
    pub value: Option<Bytes>,
    /// Of its writer.
    pub epoch: u64,
}

/// Why one attempt to write did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// The key has another revision.
    Conflict,
    /// No ack: it may have been written.
    Unknown,
}

/// How the writes of one decision went.
#[derive(Debug, Clone)]
pub struct Written {
    pub(crate) acked: Vec<Acked>,
    /// Somebody else wrote a key: what is there now of all keys that were not written.
    pub(crate) conflict: Option<Vec<(String, Option<Record>, u64)>>,
}

/// What was written.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    pub(crate) write: Write,
    /// That it has.
    pub(crate) revision: u64,
    /// As it is stored; `None`: it was purged.
    pub(crate) value: Option<Bytes>,
}

/// What is asked of the store next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One attempt to write; tell [`Writing::wrote`].
    Write {
        /// The key.
        key: String,
        /// `None`: purge it.
        value: Option<Bytes>,
        /// The revision that the key must have still, 0 for one that never was.
        expected: u64,
    },
    /// Read from the stream's leader and never from a replica; tell [`Writing::read`].
    Read {
        /// The key.
        key: String,
    },
}

/// Drives the writes of one decision.
#[derive(Debug)]
pub struct Writing {
    epoch: u64,
    rest: VecDeque<(Write, u64)>,
    /// As it is stored: of the first of `rest`, once it was attempted.
    value: Option<Bytes>,
    state: State,
    /// Before the next step.
    delay: Option<Duration>,
    written: Written,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Attempt,
    /// The attempt conflicted: was it with an earlier one of ours?
    Compare,
    /// Another writer was there: these keys are left to be read.
    Lost(VecDeque<String>),
}

impl Writing {
    /// Of a leader with `epoch`: each write with the revision that it expects.
    pub fn new(epoch: u64, writes: Vec<(Write, u64)>) -> Self {
        let written = Written { acked: Vec::new(), conflict: None };
        Self { epoch, rest: writes.into(), value: None, state: State::Attempt, delay: None, written }
    }

    /// What comes next, after [`delay`](Self::delay); `None`: it is done.
    pub fn step(&mut self) -> Option<Step> {
        if let State::Lost(keys) = &self.state {
            return keys.front().map(|key| Step::Read { key: key.clone() });
        }
        let (write, expected) = self.rest.front()?;
        if self.state == State::Compare {
            return Some(Step::Read { key: write.key.clone() });
        }
        if self.value.is_none() {
            self.value = write.record.as_ref().map(|record| Bytes::from(record.to_json()));
        }
        // A key that was written just now: a final status, before it is purged.
        let acked = self.written.acked.iter().rev().find(|acked| acked.write.key == write.key);
        let expected = acked.map_or(*expected, |acked| acked.revision);
        Some(Step::Write { key: write.key.clone(), value: self.value.clone(), expected })
    }

    /// How long to wait before the next step.
    pub fn delay(&self) -> Duration {
        self.delay.unwrap_or_default()
    }

    /// How an attempt went.
    pub fn wrote(&mut self, result: Result<u64, Failed>) {
        match result {
            Ok(revision) => self.acked(revision),
            Err(Failed::Conflict) => {
                self.state = State::Compare;
                self.delay = None;
            }
            Err(Failed::Unknown) => self.wait(),
        }
    }

    /// What a read found; `None`: it could not be read.
    pub fn read(&mut self, found: Option<Option<Stored>>) {
        let Some(found) = found else {
            if self.state == State::Compare {
                self.state = State::Attempt;
            }
            return self.wait();
        };
        self.delay = None;
        if let State::Lost(keys) = &mut self.state {
            let Some(key) = keys.pop_front() else { return };
            let revision = found.as_ref().map_or(0, |stored| stored.revision);
            // What cannot be read is as good as gone; the next write replaces it.
            let json = found.and_then(|stored| stored.value);
            let record = json.and_then(|json| Record::from_json(&key, &json).ok().flatten());
            self.written.conflict.get_or_insert_default().push((key, record, revision));
            return;
        }
        match found {
            Some(now) if now.epoch == self.epoch && now.value == self.value => self.acked(now.revision),
            _ => {
                self.written.conflict = Some(Vec::new());
                self.state = State::Lost(self.rest.drain(..).map(|(write, _)| write.key).collect());
            }
        }
    }

    /// How it went, once no step is left.
    pub fn finish(self) -> Written {
        self.written
    }

    fn acked(&mut self, revision: u64) {
        if let Some((write, _)) = self.rest.pop_front() {
            self.written.acked.push(Acked { write, revision, value: self.value.take() });
        }
        (self.value, self.state, self.delay) = (None, State::Attempt, None);
    }

    fn wait(&mut self) {
        self.delay = Some(self.delay.map_or(DELAY, |delay| (delay * 2).min(DELAY_MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A purge of `pods.a.web`, then one of `podstatus.a.web`.
    fn two() -> Writing {
        Writing::new(7, vec![(Write::purge("pods.a.web".into()), 3), (Write::purge("podstatus.a.web".into()), 4)])
    }

    fn marker(epoch: u64, revision: u64) -> Option<Option<Stored>> {
        Some(Some(Stored { revision, value: None, epoch }))
    }

    fn expected(writing: &mut Writing) -> Option<u64> {
        match writing.step() {
            Some(Step::Write { expected, .. }) => Some(expected),
            _ => None,
        }
    }

    #[test]
    fn a_write_without_an_ack_is_repeated_with_the_same_revision_and_waits_longer_each_time() {
        let mut writing = two();
        for delay_ms in [10, 20, 40, 80, 160, 320, 500, 500] {
            assert_eq!(expected(&mut writing), Some(3));
            writing.wrote(Err(Failed::Unknown));
            assert_eq!(writing.delay(), Duration::from_millis(delay_ms));
        }
        writing.wrote(Ok(9));
        assert_eq!((expected(&mut writing), writing.delay()), (Some(4), Duration::ZERO));
    }

    #[test]
    fn a_conflict_with_an_attempt_of_its_own_is_an_ack() {
        let mut writing = two();
        writing.wrote(Err(Failed::Conflict));
        assert_eq!(writing.step(), Some(Step::Read { key: "pods.a.web".into() }));
        writing.read(marker(7, 9));
        writing.wrote(Ok(10));
        assert_eq!(writing.step(), None);
        let written = writing.finish();
        assert_eq!(written.acked.iter().map(|acked| acked.revision).collect::<Vec<_>>(), [9, 10]);
        assert!(written.conflict.is_none());
    }

    #[test]
    fn after_a_conflict_with_another_writer_all_that_was_not_written_is_read() {
        let mut writing = two();
        writing.wrote(Ok(9));
        writing.wrote(Err(Failed::Conflict));
        writing.read(marker(8, 11));
        // That told who won; what is there now is read once more.
        writing.read(None);
        assert_eq!(writing.step(), Some(Step::Read { key: "podstatus.a.web".into() }));
        writing.read(marker(8, 11));
        assert_eq!(writing.step(), None);
        let written = writing.finish();
        assert_eq!(written.acked.len(), 1);
        assert_eq!(written.conflict, Some(vec![("podstatus.a.web".to_owned(), None, 11)]));
    }
}
