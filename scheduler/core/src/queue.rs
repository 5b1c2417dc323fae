//! The queue of pods that wait for a place: an active part, one that rests after a failure, and one that waits until an
//! event can help. Pods of a class wait together, because what refuses one refuses all.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use crate::class::ClassId;
use crate::nodes::PodId;

/// What waits together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum UnitId {
    /// Pods of one class.
    Class(ClassId),
    /// Pods that are placed all or none.
    Group(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// With its key's sequence.
    Active(u64),
    Resting(Rest),
    Parked,
    /// It is being tried.
    Out,
}

/// Until when a unit rests, in the order in which those that rest are taken. As in kube-scheduler's back-off queue, what
/// ends in the same second goes by priority, then by who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rest {
    second: u64,
    priority: Reverse<i32>,
    sequence: u64,
    until_ms: u64,
}

/// Pods that wait together.
#[derive(Debug)]
pub(crate) struct Unit {
    /// By the order in which they came.
    pub(crate) waiting: BTreeMap<u64, PodId>,
    priority: i32,
    part: Part,
    /// Those before it were tried since the last event.
    cursor: u64,
    /// Failures since the last success.
    attempts: u32,
    failed_at_ms: u64,
    /// Why it was parked: it holds for those that come too.
    failure: Option<String>,
}

/// Units in their parts.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    units: FxHashMap<UnitId, Unit>,
    /// Highest priority first, then who came first.
    active: BTreeSet<(Reverse<i32>, u64, UnitId)>,
    resting: BTreeSet<(Rest, UnitId)>,
    parked: BTreeSet<UnitId>,
}

/// Pods that wait for a place, by the part of the queue that they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLengths {
    /// They are tried next.
    pub active: usize,
    /// They rest after a failure.
    pub backoff: usize,
    /// They wait for an event that can help.
    pub unschedulable: usize,
}

impl Queue {
    /// Counts pods by part: one step a unit.
    pub(crate) fn lengths(&self) -> QueueLengths {
        let mut lengths = QueueLengths::default();
        for unit in self.units.values() {
            match unit.part {
                Part::Active(_) | Part::Out => lengths.active += unit.waiting.len(),
                Part::Resting(_) => lengths.backoff += unit.waiting.len(),
                Part::Parked => lengths.unschedulable += unit.waiting.len(),
            }
        }
        lengths
    }

    /// Adds a pod. Returns why it cannot be placed where that is known already.
    pub(crate) fn push(&mut self, id: UnitId, pod: PodId, sequence: u64, priority: i32) -> Option<String> {
        let unit = self.units.entry(id).or_insert_with(|| Unit {
            waiting: BTreeMap::new(),
            priority,
            part: Part::Out,
            cursor: 0,
            attempts: 0,
            failed_at_ms: 0,
            failure: None,
        });
        unit.waiting.insert(sequence, pod);
        match unit.part {
            Part::Parked if unit.failure.is_some() => return unit.failure.clone(),
            Part::Parked | Part::Out => self.activate(id),
            Part::Active(_) | Part::Resting(_) => {}
        }
        None
    }

    /// Takes a pod out.
    pub(crate) fn remove(&mut self, id: UnitId, sequence: u64) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        if unit.waiting.remove(&sequence).is_none() {
            return;
        }
        if unit.waiting.is_empty() {
            self.leave(id);
            self.units.remove(&id);
        } else if let Part::Active(at) = unit.part
            && at == sequence
        {
            self.leave(id);
            self.activate(id);
        }
    }

    /// The next unit to try. It is in no part until it is [`activate`](Self::activate)d or [`park`](Self::park)ed.
    ///
    /// What rests is taken before its time when nothing else is to be done, as kube-scheduler does since 1.33.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<UnitId> {
        while let Some((rest, id)) = self.resting.first().copied()
            && (rest.until_ms <= now_ms || self.active.is_empty())
        {
            self.leave(id);
            self.activate(id);
        }
        let id = self.active.first()?.2;
        self.leave(id);
        Some(id)
    }

    /// The first pod of a unit that was not tried since the last event.
    pub(crate) fn front(&self, id: UnitId) -> Option<(u64, PodId)> {
        let unit = self.units.get(&id)?;
        unit.waiting.range(unit.cursor..).next().map(|(sequence, pod)| (*sequence, *pod))
    }

    /// The first pod is left aside until the next event.
    pub(crate) fn skip(&mut self, id: UnitId, sequence: u64) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.cursor = sequence + 1;
        }
    }

    pub(crate) fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(&id)
    }

    /// A unit may be tried (again); one without an untried pod is parked.
    pub(crate) fn activate(&mut self, id: UnitId) {
        let Some((sequence, _)) = self.front(id) else { return self.park(id, None, 0) };
        if let Some(unit) = self.units.get_mut(&id) {
            self.parked.remove(&id);
            unit.part = Part::Active(sequence);
            self.active.insert((Reverse(unit.priority), sequence, id));
        }
    }

    /// A pod of a unit was placed: what follows does not rest.
    pub(crate) fn succeeded(&mut self, id: UnitId) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.attempts = 0;
        }
    }

    /// A unit waits for an event. `failure`: what holds for those that come too.
    pub(crate) fn park(&mut self, id: UnitId, failure: Option<String>, now_ms: u64) {
        self.leave(id);
        let Some(unit) = self.units.get_mut(&id) else { return };
        if failure.is_some() {
            unit.attempts += 1;
            unit.failed_at_ms = now_ms;
        }
        unit.failure = failure;
        unit.part = Part::Parked;
        unit.cursor = 0;
        self.parked.insert(id);
    }

    /// An event may help a parked unit.
    pub(crate) fn wake(&mut self, id: UnitId, now_ms: u64, initial_ms: u64, max_ms: u64) {
        let Some(unit) = self.units.get_mut(&id).filter(|unit| unit.part == Part::Parked) else { return };
        self.parked.remove(&id);
        unit.failure = None;
        unit.cursor = 0;
        unit.part = Part::Out;
        let doublings = unit.attempts.saturating_sub(1).min(16);
        let rest = initial_ms.saturating_mul(1 << doublings).min(max_ms);
        let until_ms = unit.failed_at_ms.saturating_add(rest);
        if unit.attempts > 0 && until_ms > now_ms {
            let (priority, sequence) = (Reverse(unit.priority), unit.waiting.keys().next().copied().unwrap_or(0));
            let rest = Rest { second: until_ms / 1_000, priority, sequence, until_ms };
            unit.part = Part::Resting(rest);
            self.resting.insert((rest, id));
        } else {
            self.activate(id);
        }
    }

    /// Units that wait for an event.
    pub(crate) fn parked(&self) -> impl Iterator<Item = UnitId> + '_ {
        self.parked.iter().copied()
    }

    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Units that may be tried now.
    pub(crate) fn ready(&self) -> usize {
        self.active.len() + self.resting.len()
    }

    fn leave(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        match std::mem::replace(&mut unit.part, Part::Out) {
            Part::Active(sequence) => {
                self.active.remove(&(Reverse(unit.priority), sequence, id));
            }
            Part::Resting(rest) => {
                self.resting.remove(&(rest, id));
            }
            Part::Parked => {
                self.parked.remove(&id);
            }
            Part::Out => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_goes_first_then_who_came_first() {
        let mut queue = Queue::default();
        queue.push(UnitId::Class(1), 1, 1, 0);
        queue.push(UnitId::Class(2), 2, 2, 5);
        queue.push(UnitId::Class(3), 3, 3, 0);
        let order: Vec<_> = std::iter::from_fn(|| queue.next(0)).collect();
        assert_eq!(order, [UnitId::Class(2), UnitId::Class(1), UnitId::Class(3)]);
    }

    #[test]
    fn a_failed_unit_rests_longer_each_time_and_behind_those_that_do_not() {
        let (mut queue, failed, fresh) = (Queue::default(), UnitId::Class(1), UnitId::Class(2));
        queue.push(failed, 1, 1, 0);
        for (now, rest) in [(0, 1000), (5_000, 2000), (50_000, 4000), (500_000, 8000), (5_000_000, 10_000)] {
            assert_eq!(queue.next(now), Some(failed));
            queue.park(failed, Some("no room".into()), now);
            assert_eq!(queue.next(now + 100_000), None, "no event came");
            queue.wake(failed, now, 1000, 10_000);
            queue.push(fresh, 2, 2, 0);
            assert_eq!(queue.next(now + rest - 1), Some(fresh));
            queue.activate(fresh);
            assert_eq!(queue.next(now + rest), Some(failed), "its rest of {rest} ms is over");
            queue.activate(failed);
            queue.remove(fresh, 2);
        }
    }

    #[test]
    fn of_those_that_rest_until_the_same_second_the_more_important_goes_first() {
        let (mut queue, units) = (Queue::default(), [(UnitId::Class(1), 0), (UnitId::Class(2), 5)]);
        for ((unit, priority), sequence) in units.into_iter().zip(1..) {
            queue.push(unit, 1, sequence, priority);
        }
        for (unit, _) in units {
            queue.next(0);
            queue.park(unit, Some("no node".into()), 0);
        }
        units.into_iter().for_each(|(unit, _)| queue.wake(unit, 0, 1000, 10_000));
        assert_eq!(queue.next(0), Some(UnitId::Class(2)));
        assert_eq!(queue.next(0), Some(UnitId::Class(1)));
    }

    #[test]
    fn what_is_known_of_a_class_holds_for_those_that_come() {
        let (mut queue, class) = (Queue::default(), UnitId::Class(1));
        queue.push(class, 1, 1, 0);
        queue.next(0);
        queue.park(class, Some("no room".into()), 0);
        assert_eq!(queue.push(class, 2, 2, 0), Some("no room".to_owned()));
        assert_eq!(queue.lengths(), QueueLengths { unschedulable: 2, ..QueueLengths::default() });
    }
}
