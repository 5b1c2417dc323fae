//! The lease of the leader: `leases.scheduler`.
//!
//! No wall clock decides who leads. A lease is free when its revision did not change for its duration, on the clock of
//! whoever waits for it; that clock also runs while the machine sleeps.
//!
//! A [`Candidate`] reads until it may take the lease; what it took is [`Held`], which is renewed each [`RENEW_EVERY`].

use std::time::Duration;

use podbus_common::api::{Lease, LeaseTerm};
use podbus_common::model::Timestamp;

use crate::writing::Stored;

/// How long a lease holds without renewal.
const DURATION: Duration = Duration::from_secs(2);
/// How often it is renewed.
pub const RENEW_EVERY: Duration = Duration::from_millis(500);
/// The leader decides until so long after it sent its last successful renewal.
const DECIDES_FOR: Duration = Duration::from_millis(1500);
/// A call that comes so long after the last renewal would wait in vain.
const OVERDUE: Duration = Duration::from_secs(3);
/// Who has not followed the leader lets those go first that have: they know that nothing is missing.
const DEFERENCE: Duration = Duration::from_millis(500);
/// Terms that are remembered.
pub(crate) const TERMS_MAX: usize = 64;

/// A moment on CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(
    /// Since the machine started.
    pub Duration,
);

impl Boottime {
    fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A lease that this process holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// As it is stored.
    pub record: Lease,
    /// Of its last renewal.
    pub revision: u64,
    /// When that was sent.
    sent: Boottime,
    /// The same of the one before, of which it is known that it passed.
    sent_before: Boottime,
}

/// Why a term ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseLost {
    /// Another process leads.
    #[error("another scheduler ({holder}) took the lease with epoch {epoch}")]
    Taken {
        /// Who it is.
        holder: String,
        /// Of its term.
        epoch: u64,
    },
    /// It is older than it was, or gone, and it is never deleted; or the stream is not the one of before.
    #[error("the store went back in time, or there is another one")]
    StoreWentBack,
    /// There was a leader of whom this store knows nothing.
    #[error("a node saw a leader of epoch {0}: this scheduler ends, to begin anew above it")]
    HigherEpoch(u64),
}

/// What a candidate does next.
#[derive(Debug)]
pub enum Next {
    /// Reads again a little later: it is held.
    Wait,
    /// Writes this lease, under its epoch; tells [`Candidate::acked`], or reads again when it was not acked.
    Take {
        /// What it writes.
        record: Box<Lease>,
        /// The revision that the key must have still.
        expected: u64,
    },
    /// Leads: an attempt passed though its ack was lost.
    Lead(Held),
}

/// Waits until the lease is free.
#[derive(Debug)]
pub struct Candidate {
    holder: String,
    /// The revision that it has, and since when it is known.
    seen: Option<(u64, Boottime)>,
    /// It saw the lease change by another's hand, over the connection that it has now, so it followed from before the last
    /// write of who led then. All else is a cold start.
    has_followed: bool,
    /// The lease that was written last, with the expected revision, and when that was sent first.
    attempt: Option<(Lease, u64, Boottime)>,
}

impl Candidate {
    /// `holder` is the name that others see.
    pub fn new(holder: String) -> Self {
        Self { holder, seen: None, has_followed: false, attempt: None }
    }

    /// What the lease is now. `nonce` makes one that was never given before.
    ///
    /// # Errors
    /// When what is stored is no lease.
    pub fn heard(
        &mut self,
        stored: Option<&Stored>,
        now: Boottime,
        wall: Timestamp,
        nonce: impl FnOnce() -> String,
    ) -> serde_json::Result<Next> {
        let revision = stored.map_or(0, |stored| stored.revision);
        let before: Lease = match stored.and_then(|stored| stored.value.as_ref()) {
            Some(json) => serde_json::from_slice(json)?,
            None => Lease::default(),
        };
        if let Some((record, expected, sent)) = self.attempt.take() {
            if (before.epoch, &before.nonce) == (record.epoch, &record.nonce) {
                return Ok(Next::Lead(Held { record, revision, sent, sent_before: sent }));
            }
            if revision == expected {
                // It may be under way still: the same one again, so that either is known.
                self.attempt = Some((record.clone(), expected, sent));
                return Ok(Next::Take { record: Box::new(record), expected });
            }
        }
        let since = match self.seen {
            Some((known, since)) if known == revision => since,
            earlier => {
                self.has_followed |= earlier.is_some();
                self.seen = Some((revision, now));
                now
            }
        };
        let deference = if self.has_followed || before.duration_ms == 0 { Duration::ZERO } else { DEFERENCE };
        if now.since(since) < Duration::from_millis(before.duration_ms) + deference {
            return Ok(Next::Wait);
        }
        let record = next_term(&before, revision, &self.holder, nonce(), !self.has_followed, wall);
        self.attempt = Some((record.clone(), revision, now));
        Ok(Next::Take { record: Box::new(record), expected: revision })
    }

    /// The connection broke. What was seen of the lease so far counts for nothing: whoever holds it may have had no way to
    /// renew it, and the store may have gone back to just where this process had followed it.
    pub fn look_anew(&mut self) {
        (self.seen, self.has_followed) = (None, false);
    }

    /// The attempt has this revision: it leads.
    pub fn acked(&mut self, revision: u64) -> Option<Held> {
        self.attempt.take().map(|(record, _, sent)| Held { record, revision, sent, sent_before: sent })
    }
}

impl Held {
    /// Until when the leader decides.
    pub fn valid_until(&self) -> Boottime {
        Boottime(self.sent.0 + DECIDES_FOR)
    }

    /// Whether it is not renewed for longer than a short stall of the store explains.
    pub fn is_overdue(&self, now: Boottime) -> bool {
        now.since(self.sent) >= OVERDUE
    }

    /// What it is once it is renewed, by a write that expects its revision and is sent now.
    pub fn renewal(&self, now: Boottime, wall: Timestamp) -> Self {
        let mut renewal = Self { sent: now, sent_before: self.sent, ..self.clone() };
        if let Some(term) = renewal.record.terms.last_mut()
            && term.revision == 0
        {
            term.revision = self.revision;
        }
        renewal.record.renew_time = Some(wall);
        renewal
    }

    /// The renewal has this revision.
    pub fn acked(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// Whether what is stored is this lease, as far as its revision and nonce tell: in a store of another past the same
    /// revision may be another's lease, which a renewal would overwrite.
    ///
    /// # Errors
    /// When the term is over.
    pub fn confirm(&self, stored: Option<&Stored>) -> Result<(), LeaseLost> {
        let stored = stored.filter(|stored| stored.revision >= self.revision).ok_or(LeaseLost::StoreWentBack)?;
        let json = stored.value.as_ref().ok_or(LeaseLost::StoreWentBack)?;
        let record: Lease = serde_json::from_slice(json).map_err(|_| LeaseLost::StoreWentBack)?;
        if (record.epoch, &record.nonce) == (self.record.epoch, &self.record.nonce) {
            return Ok(());
        }
        if stored.revision == self.revision {
            return Err(LeaseLost::StoreWentBack);
        }
        Err(LeaseLost::Taken { holder: record.holder, epoch: record.epoch })
    }

    /// The renewal conflicted with what is stored: with an earlier one of ours whose ack was lost, or the term is over.
    ///
    /// The earlier one does not lengthen the term: others count from when it came to the store, and this process does
    /// not know when that was.
    ///
    /// # Errors
    /// When the term is over.
    pub fn conflicted(self, stored: Option<&Stored>) -> Result<Self, LeaseLost> {
        let stored = stored.filter(|stored| stored.revision > self.revision).ok_or(LeaseLost::StoreWentBack)?;
        self.confirm(Some(stored))?;
        Ok(Self { revision: stored.revision, sent: self.sent_before, ..self })
    }

    /// What is written to give it back, so that the next scheduler need not wait; `epoch_seen` is the highest that any
    /// node saw.
    pub fn release(&self, epoch_seen: u64) -> Lease {
        Lease { duration_ms: 0, epoch: self.record.epoch.max(epoch_seen), ..self.record.clone() }
    }
}

/// The lease of a new term: `before` is what is stored, at `revision`.
fn next_term(before: &Lease, revision: u64, holder: &str, nonce: String, cold: bool, now: Timestamp) -> Lease {
    let wall = u64::try_from(now.unix_ms).unwrap_or(0);
    // Not only stored + 1: a store that went back in time must not issue an epoch twice.
    let epoch = wall.max(before.epoch + 1);
    let mut terms = before.terms.clone();
    if let Some(last) = terms.last_mut().filter(|last| last.revision == 0) {
        // It was never renewed: what is stored is how it began.
        last.revision = revision;
    }
    // Its revision is known after the write: the first renewal adds it.
    terms.push(LeaseTerm { epoch, nonce: nonce.clone(), revision: 0, cold });
    let forgotten = terms.len().saturating_sub(TERMS_MAX);
    terms.drain(..forgotten);
    Lease {
        holder: holder.to_owned(),
        nonce,
        epoch,
        duration_ms: u64::try_from(DURATION.as_millis()).unwrap_or(0),
        terms,
        renew_time: Some(now),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn at(ms: u64) -> Boottime {
        Boottime(Duration::from_millis(ms))
    }

    fn stored(record: &Lease, revision: u64) -> Stored {
        Stored { revision, value: Some(Bytes::from(serde_json::to_vec(record).unwrap())), epoch: record.epoch }
    }

    fn heard(candidate: &mut Candidate, stored: Option<&Stored>, ms: u64) -> Next {
        candidate.heard(stored, at(ms), Timestamp::from_unix_ms(9), || format!("nonce at {ms}")).unwrap()
    }

    /// The lease of a process that took it first, and that process's hold on it.
    fn first() -> (Stored, Held) {
        let mut candidate = Candidate::new("a".into());
        let Next::Take { record, expected: 0 } = heard(&mut candidate, None, 0) else { panic!("it is free") };
        (stored(&record, 1), candidate.acked(1).unwrap())
    }

    #[test]
    fn an_epoch_is_never_issued_twice_even_by_a_store_that_went_back() {
        let now = Timestamp::from_unix_ms(1_000);
        let first = next_term(&Lease::default(), 0, "a", "x".into(), true, now);
        assert_eq!(first.epoch, 1_000);
        // The clock stands still: the stored epoch counts on.
        assert_eq!(next_term(&first, 1, "a", "y".into(), false, now).epoch, 1_001);
        // The store went back: the clock counts on.
        assert_eq!(next_term(&Lease::default(), 0, "a", "y".into(), true, Timestamp::from_unix_ms(2_000)).epoch, 2_000);
    }

    #[test]
    fn the_last_64_terms_are_remembered() {
        let mut lease = Lease::default();
        for n in 0..100 {
            lease = next_term(&lease, 1, "a", n.to_string(), false, Timestamp::from_unix_ms(n));
        }
        assert_eq!(lease.terms.len(), TERMS_MAX);
        assert_eq!(lease.terms.last().map(|t| t.nonce.as_str()), Some("99"));
    }

    #[test]
    fn a_lease_is_free_when_it_did_not_change_for_its_duration() {
        let (before, _) = first();
        let mut candidate = Candidate::new("b".into());
        assert!(matches!(heard(&mut candidate, Some(&before), 100), Next::Wait));
        assert!(matches!(heard(&mut candidate, Some(&before), 2_099), Next::Wait));
        let renewed = Stored { revision: 2, ..before };
        assert!(matches!(heard(&mut candidate, Some(&renewed), 2_100), Next::Wait));
        assert!(matches!(heard(&mut candidate, Some(&renewed), 4_100), Next::Take { expected: 2, .. }));
    }

    #[test]
    fn who_has_not_followed_lets_those_go_first_that_have() {
        let (before, _) = first();
        let mut candidate = Candidate::new("new".into());
        assert!(matches!(heard(&mut candidate, Some(&before), 100), Next::Wait));
        assert!(matches!(heard(&mut candidate, Some(&before), 2_599), Next::Wait));
        assert!(matches!(heard(&mut candidate, Some(&before), 2_600), Next::Take { .. }));
    }

    #[test]
    fn a_start_is_cold_unless_the_leader_before_was_followed() {
        let is_cold = |next| match next {
            Next::Take { record, .. } => record.terms.last().unwrap().cold,
            other => panic!("it is free: {other:?}"),
        };
        let (before, _) = first();
        let mut follower = Candidate::new("follower".into());
        heard(&mut follower, Some(&before), 100);
        heard(&mut follower, Some(&Stored { revision: 2, ..before.clone() }), 500);
        assert!(!is_cold(heard(&mut follower, Some(&Stored { revision: 2, ..before.clone() }), 2_500)));

        // Its own write, whose ack was lost, is nobody's renewal.
        let mut new = Candidate::new("new".into());
        let Next::Take { record, .. } = heard(&mut new, None, 0) else { panic!("it is free") };
        let Next::Lead(held) = heard(&mut new, Some(&stored(&record, 4)), 300) else { panic!("it passed") };
        assert!(held.record.terms.last().unwrap().cold);
    }

    #[test]
    fn a_follower_whose_connection_broke_starts_cold_unless_it_sees_the_leader_again() {
        let (before, held) = first();
        let renewed = |revision| stored(&held.record, revision);
        let taken = |candidate: &mut Candidate, last: &Stored| {
            let mut at = 10_000;
            loop {
                if let Next::Take { record, .. } = heard(candidate, Some(last), at) {
                    return record.terms.last().unwrap().cold;
                }
                at += 500;
            }
        };
        let mut candidate = Candidate::new("b".into());
        heard(&mut candidate, Some(&before), 0);
        heard(&mut candidate, Some(&renewed(2)), 500);
        candidate.look_anew();
        let mut seeing = Candidate { holder: "c".into(), seen: candidate.seen, has_followed: false, attempt: None };
        assert!(taken(&mut candidate, &renewed(2)));
        heard(&mut seeing, Some(&renewed(2)), 1_000);
        assert!(!taken(&mut seeing, &renewed(3)));
    }

    #[test]
    fn a_lease_that_was_given_back_is_free_at_once() {
        let (_, held) = first();
        let released = stored(&held.release(77), 2);
        let mut candidate = Candidate::new("b".into());
        let Next::Take { record, .. } = heard(&mut candidate, Some(&released), 5) else { panic!("it is free") };
        assert_eq!(record.epoch, 78);
    }

    #[test]
    fn an_attempt_without_an_ack_is_repeated_or_found_to_have_passed() {
        let mut candidate = Candidate::new("a".into());
        let Next::Take { record, .. } = heard(&mut candidate, None, 0) else { panic!("it is free") };
        let Next::Take { record: again, expected: 0 } = heard(&mut candidate, None, 300) else { panic!("still free") };
        assert_eq!(record, again);
        let Next::Lead(held) = heard(&mut candidate, Some(&stored(&record, 4)), 600) else { panic!("it passed") };
        assert_eq!((held.revision, held.valid_until()), (4, at(1_500)));
    }

    #[test]
    fn a_term_ends_when_another_one_began() {
        let (_, held) = first();
        let mut other = held.record.clone();
        other.nonce = "other".into();
        let conflicted = held.renewal(at(500), Timestamp::default()).conflicted(Some(&stored(&other, 2)));
        assert!(matches!(conflicted, Err(LeaseLost::Taken { .. })));
    }

    #[test]
    fn a_lease_that_is_gone_or_older_than_it_was_tells_that_the_store_went_back() {
        let (before, held) = first();
        let held = held.acked(9);
        for now in [None, Some(&before), Some(&Stored { value: None, revision: 10, ..before.clone() })] {
            let conflicted = held.renewal(at(500), Timestamp::default()).conflicted(now);
            assert!(matches!(conflicted, Err(LeaseLost::StoreWentBack)), "{now:?}");
        }
        // An earlier renewal of its own whose ack was lost.
        let renewed = Stored { revision: 10, ..before };
        assert_eq!(held.renewal(at(500), Timestamp::default()).conflicted(Some(&renewed)).unwrap().revision, 10);
    }

    #[test]
    fn a_lease_of_the_same_revision_in_a_store_of_another_past_is_not_renewed() {
        let (before, held) = first();
        assert!(held.confirm(Some(&before)).is_ok());
        let other = stored(&Lease { nonce: "other".into(), ..held.record.clone() }, before.revision);
        assert!(matches!(held.confirm(Some(&other)), Err(LeaseLost::StoreWentBack)));
        let later = Stored { revision: before.revision + 1, ..other };
        assert!(matches!(held.confirm(Some(&later)), Err(LeaseLost::Taken { .. })));
    }

    #[test]
    fn a_renewal_whose_ack_was_lost_does_not_lengthen_the_term() {
        let (_, held) = first();
        let lost = stored(&held.renewal(at(500), Timestamp::default()).record, 2);
        let found = held.renewal(at(1_400), Timestamp::default()).conflicted(Some(&lost)).unwrap();
        assert_eq!((found.revision, found.valid_until()), (2, at(1_500)));
        assert_eq!(found.renewal(at(1_450), Timestamp::default()).acked(3).valid_until(), at(2_950));
    }

    #[test]
    fn a_renewal_tells_at_which_revision_its_term_began() {
        let (_, held) = first();
        let renewed = held.renewal(at(500), Timestamp::default()).acked(2).renewal(at(1_000), Timestamp::default());
        assert_eq!(renewed.record.terms.last().map(|term| term.revision), Some(1));
    }
}
