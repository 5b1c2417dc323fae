//! Whether a store went back in time: what one look says need not be true of a stream that several servers keep. One of
//! them that begins to lead it tells for a moment how it was, before it has applied all that is agreed on; and one that
//! does not know the stream yet says that there is none. Each election may bring such a moment.

use std::time::Duration;

use tokio::time::Instant;

/// A stream of several servers that says so for so long, whenever it is asked, says so for good.
const CONFIRMED_AFTER: Duration = Duration::from_secs(10);

/// Since when the store seems to have gone back, each time that it was asked.
#[derive(Debug, Default)]
pub(crate) struct Suspicion {
    since: Option<Instant>,
}

/// What a look at the store means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Belief {
    /// It is the one of before.
    Same,
    /// Look again, and rely on nothing meanwhile.
    Doubtful,
    /// It is not.
    WentBack,
}

impl Suspicion {
    /// Takes note of one look. `replicas`: of the stream, as it was known before.
    pub(crate) fn note(&mut self, contradicted: bool, replicas: u64, now: Instant) -> Belief {
        if !contradicted {
            self.since = None;
            return Belief::Same;
        }
        let since = *self.since.get_or_insert(now);
        if replicas <= 1 || now - since >= CONFIRMED_AFTER { Belief::WentBack } else { Belief::Doubtful }
    }

    /// A look had no answer: there is an election, and what was said before it says nothing of what will be said then.
    pub(crate) fn unanswered(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_is_believed_at_once_and_several_when_they_say_it_for_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.note(true, 1, at(0)), Belief::WentBack);
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.note(true, 3, at(0)), Belief::Doubtful);
        assert_eq!(suspicion.note(true, 3, at(9)), Belief::Doubtful);
        assert_eq!(suspicion.note(false, 3, at(10)), Belief::Same, "it has caught up");
        assert_eq!(suspicion.note(true, 3, at(11)), Belief::Doubtful);
        assert_eq!(suspicion.note(true, 3, at(21)), Belief::WentBack);
    }

    #[test]
    fn an_election_between_two_doubtful_looks_is_no_time_that_counts() {
        let start = Instant::now();
        let mut suspicion = Suspicion::default();
        assert_eq!(suspicion.note(true, 3, start), Belief::Doubtful);
        suspicion.unanswered();
        assert_eq!(suspicion.note(true, 3, start + 2 * CONFIRMED_AFTER), Belief::Doubtful);
        assert_eq!(suspicion.note(true, 3, start + 3 * CONFIRMED_AFTER), Belief::WentBack);
    }
}
