//! What the leader was told of a pod and what it acked: sequence numbers, events and exits that wait for their ack.

use podbus_common::model::{Pod, Timestamp};
use podbus_common::proto::{NodeEvent, PodReport};

use crate::memory::Memory;
use crate::model::{ContainerKind, find_container};

/// Events of a pod that wait for the leader; the oldest go first.
const EVENTS_MAX: usize = 100;

/// The reports of one pod.
#[derive(Debug, Default)]
pub struct Chronicle {
    sequence: u64,
    last: Option<PodReport>,
    /// With the sequence of the first report that carried it; 0: none did yet.
    events: Vec<(u64, NodeEvent)>,
    /// Ended containers with the sequence of the first report that told it.
    exits: Vec<(u64, String)>,
}

/// One run of a container, for an event about it.
#[derive(Debug, Clone, Copy)]
pub struct RunOf<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container's name.
    pub container: &'a str,
    /// Of the container.
    pub attempt: u32,
}

/// An event about the node or a pod.
pub(crate) fn node_event(kind: &str, reason: &str, message: &str, now: Timestamp) -> NodeEvent {
    NodeEvent {
        kind: kind.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        at_ms: now.unix_ms,
        ..Default::default()
    }
}

impl Chronicle {
    /// An event about the pod.
    pub fn event(&mut self, kind: &str, reason: &str, message: &str, now: Timestamp) {
        self.push(node_event(kind, reason, message, now));
    }

    /// An event about one run of a container.
    pub fn container_event(&mut self, of: RunOf<'_>, kind: &str, reason: &str, message: &str, now: Timestamp) {
        let RunOf { pod, container, attempt } = of;
        let init = find_container(pod, container).is_some_and(|(kind, _)| kind != ContainerKind::Regular);
        let container = container.to_owned();
        self.push(NodeEvent { container, init, attempt, ..node_event(kind, reason, message, now) });
    }

    fn push(&mut self, event: NodeEvent) {
        if self.events.len() == EVENTS_MAX {
            self.events.remove(0);
        }
        self.events.push((0, event));
    }

    /// The report of `state` if it tells something new: numbered, with all events that were not acked. `exits` are the
    /// IDs of the ended containers in it.
    pub(crate) fn next_report(&mut self, state: PodReport, exits: Vec<String>) -> Option<PodReport> {
        // A list of exits that only became shorter, by an ack, is no news.
        let comparable = PodReport { exits: Vec::new(), ..state.clone() };
        let new_exits: Vec<_> =
            exits.into_iter().filter(|id| !self.exits.iter().any(|(_, known)| known == id)).collect();
        let news = self.events.iter().any(|(sequence, _)| *sequence == 0) || !new_exits.is_empty();
        if !news && self.last.as_ref() == Some(&comparable) {
            return None;
        }
        self.last = Some(comparable);
        self.sequence += 1;
        self.exits.extend(new_exits.into_iter().map(|id| (self.sequence, id)));
        for (sequence, _) in self.events.iter_mut().filter(|(sequence, _)| *sequence == 0) {
            *sequence = self.sequence;
        }
        let events = self.events.iter().map(|(_, event)| event.clone()).collect();
        Some(PodReport { sequence: self.sequence, events, ..state })
    }

    /// The leader acked the report `sequence` and so all before it.
    pub fn ack(&mut self, sequence: u64, memory: &mut Memory) {
        let told = |at: u64| at != 0 && at <= sequence;
        self.events.retain(|(at, _)| !told(*at));
        let acked = self.exits.iter().filter(|(at, _)| told(*at)).map(|(_, id)| id.clone());
        memory.acked_exits.extend(acked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(ip: &str) -> PodReport {
        let sandbox = podbus_common::proto::SandboxStatus { ip: ip.into(), ..Default::default() };
        PodReport { uid: "u".into(), sandbox: Some(sandbox), ..Default::default() }
    }

    #[test]
    fn the_same_state_is_told_once() {
        let mut chronicle = Chronicle::default();
        assert_eq!(chronicle.next_report(state("1"), vec![]).unwrap().sequence, 1);
        assert!(chronicle.next_report(state("1"), vec![]).is_none());
        assert_eq!(chronicle.next_report(state("2"), vec![]).unwrap().sequence, 2);
    }

    #[test]
    fn an_event_is_in_every_report_until_one_of_them_is_acked() {
        let (mut chronicle, mut memory) = (Chronicle::default(), Memory::default());
        chronicle.event("Normal", "Pulling", "a", Timestamp::default());
        assert_eq!(chronicle.next_report(state("1"), vec![]).unwrap().events.len(), 1);
        chronicle.event("Normal", "Pulled", "b", Timestamp::default());
        assert_eq!(chronicle.next_report(state("1"), vec![]).unwrap().events.len(), 2);
        chronicle.ack(1, &mut memory);
        let left = chronicle.next_report(state("2"), vec![]).unwrap().events;
        assert_eq!(left.iter().map(|e| e.reason.as_str()).collect::<Vec<_>>(), ["Pulled"]);
    }

    #[test]
    fn an_exit_is_acked_with_the_report_that_first_told_it() {
        let (mut chronicle, mut memory) = (Chronicle::default(), Memory::default());
        chronicle.next_report(state("1"), vec![]);
        chronicle.next_report(state("1"), vec!["c1".into()]);
        chronicle.ack(1, &mut memory);
        assert!(memory.acked_exits.is_empty());
        chronicle.ack(2, &mut memory);
        assert!(memory.acked_exits.contains("c1"));
        assert!(chronicle.next_report(state("1"), vec!["c1".into()]).is_none(), "an ack is no news");
    }

    #[test]
    fn events_that_nobody_takes_do_not_grow_without_end() {
        let mut chronicle = Chronicle::default();
        for round in 0..1000 {
            chronicle.event("Warning", "BackOff", &round.to_string(), Timestamp::default());
        }
        let events = chronicle.next_report(state("1"), vec![]).unwrap().events;
        assert_eq!((events.len(), events[EVENTS_MAX - 1].message.as_str()), (EVENTS_MAX, "999"));
    }
}
