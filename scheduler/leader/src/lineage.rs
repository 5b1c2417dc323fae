//! The store's past as the lease tells it: which terms there were, and at which revision each began. Pure.

use podbus_common::api::{Lease, LeaseTerm};
use podbus_common::proto::Mark;

use crate::lease::TERMS_MAX;
use crate::writing::Stored;

/// The terms of the lease, this one last.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    terms: Vec<LeaseTerm>,
}

impl Lineage {
    /// `terms` as the lease has them, and the revision of the write that took it.
    pub fn new(mut terms: Vec<LeaseTerm>, began: u64) -> Self {
        if let Some(own) = terms.last_mut() {
            own.revision = began;
        }
        Self { terms }
    }

    /// As a lease tells it that another process may hold.
    pub(crate) fn of_lease(stored: &Stored) -> Self {
        let lease: Option<Lease> = stored.value.as_ref().and_then(|json| serde_json::from_slice(json).ok());
        let terms = lease.unwrap_or_default().terms;
        // One that was not renewed yet is as it began.
        let began = terms.last().map_or(0, |last| last.revision);
        Self::new(terms, if began == 0 { stored.revision } else { began })
    }

    /// Whether there was this term.
    pub(crate) fn has(&self, term: &LeaseTerm) -> bool {
        self.terms.iter().any(|known| (known.epoch, &known.nonce) == (term.epoch, &term.nonce))
    }

    /// Where this term began.
    pub(crate) fn began(&self) -> u64 {
        self.terms.last().map_or(0, |own| own.revision)
    }

    /// From where on nothing is missing in the store: where the last cold start was.
    pub(crate) fn is_whole_since(&self) -> u64 {
        self.last_cold().map_or(0, |at| self.terms[at].revision)
    }

    fn last_cold(&self) -> Option<usize> {
        self.terms.iter().rposition(|term| term.cold)
    }

    /// What is stored at `revision` counts as this against what is stored elsewhere: the epoch of the term that it fell
    /// into (0: one before those that are remembered), and the revision.
    pub(crate) fn rank_of(&self, revision: u64) -> (u64, u64) {
        let term = self.terms.iter().rev().find(|term| term.revision <= revision);
        (term.map_or(0, |term| term.epoch), revision)
    }

    /// Whether a node saw what this store never had: a term that is not among its terms, or a revision at or beyond the end
    /// of one before the last cold start. From that on each leader followed the one before: a revision beyond the end of
    /// such a term is of a leader that wrote a moment longer.
    pub(crate) fn is_contradicted_by(&self, mark: &Mark) -> bool {
        let Some(seen) = mark.term.as_ref().filter(|seen| seen.epoch > 0) else { return false };
        let known = self.terms.iter().position(|term| (term.epoch, &term.nonce) == (seen.epoch, &seen.nonce));
        match known {
            // The next term began above all that this one wrote, with a write of its own.
            Some(at) => {
                let may_be_missing = self.last_cold().is_some_and(|cold| at < cold);
                may_be_missing && mark.revision >= self.terms[at + 1].revision
            }
            // Older than all that are remembered: nobody can tell.
            None => {
                let forgotten = self.terms.len() >= TERMS_MAX;
                !(forgotten && self.terms.first().is_some_and(|oldest| seen.epoch < oldest.epoch))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use podbus_common::proto::Term;

    use super::*;

    fn term(epoch: u64, revision: u64) -> LeaseTerm {
        LeaseTerm { epoch, nonce: format!("n{epoch}"), revision, cold: false }
    }

    fn cold(epoch: u64, revision: u64) -> LeaseTerm {
        LeaseTerm { cold: true, ..term(epoch, revision) }
    }

    fn mark(epoch: u64, nonce: &str, revision: u64) -> Mark {
        Mark { term: Some(Term { epoch, nonce: nonce.into() }), revision }
    }

    #[test]
    fn a_mark_that_this_store_never_made_tells_that_it_went_back() {
        let lineage = Lineage::new(vec![cold(5, 1), term(7, 40), cold(9, 0)], 90);
        for (mark, contradicts) in [
            (Mark::default(), false),
            (mark(5, "n5", 39), false),
            // Of that revision this store has the beginning of the next term.
            (mark(5, "n5", 40), true),
            (mark(7, "n7", 89), false),
            (mark(7, "n7", 90), true),
            (mark(9, "n9", 1_000), false),
            // A term that was never, and one with the number of another.
            (mark(6, "n6", 1), true),
            (mark(7, "other", 1), true),
            (mark(2, "n2", 1), true),
        ] {
            assert_eq!(lineage.is_contradicted_by(&mark), contradicts, "{mark:?}");
        }
    }

    #[test]
    fn what_a_cold_start_did_not_know_is_missing_for_who_follows_it_too() {
        let lineage = Lineage::new(vec![cold(5, 1), cold(7, 40), term(9, 0)], 90);
        assert_eq!(lineage.is_whole_since(), 40);
        assert!(lineage.is_contradicted_by(&mark(5, "n5", 41)));
        assert!(lineage.is_contradicted_by(&mark(6, "n6", 1)));
        // A leader that was followed, and wrote a moment longer.
        assert!(!lineage.is_contradicted_by(&mark(7, "n7", 91)));
    }

    #[test]
    fn a_term_older_than_all_that_are_remembered_tells_nothing() {
        let terms: Vec<_> = (0..64).map(|n| term(100 + n, n + 1)).collect();
        let lineage = Lineage::new(terms, 64);
        assert!(!lineage.is_contradicted_by(&mark(7, "n7", 9_999)));
        assert!(lineage.is_contradicted_by(&mark(120, "other", 1)));
    }

    #[test]
    fn a_revision_has_the_epoch_of_the_term_that_it_fell_into() {
        let lineage = Lineage::new(vec![term(5, 10), term(7, 40), term(9, 0)], 90);
        let epochs = [1, 10, 39, 40, 89, 90, 200].map(|revision| lineage.rank_of(revision).0);
        assert_eq!(epochs, [0, 5, 5, 7, 7, 9, 9]);
    }
}
