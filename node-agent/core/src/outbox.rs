//! What the leader must still hear of this node's pods: pure. One request is in flight; the newest report of a pod
//! replaces the one before, and is sent again until it is acked.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::proto::{NodeEvent, PodAck, PodReport, StatusReply, StatusRequest, pod_ack};
use prost::Message as _;

/// Below the 1 MiB that nats-server takes by default, with room for what surrounds a report.
const REQUEST_BYTES_MAX: usize = 512 << 10;
/// Pods in one request: the leader writes each one.
const REQUEST_PODS_MAX: usize = 256;
/// Events about the node that wait for the leader; the oldest go first.
const NODE_EVENTS_MAX: usize = 64;

/// Reports by UID.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: BTreeMap<String, Entry>,
    due: BTreeSet<String>,
    node_events: Vec<NodeEvent>,
    node_events_in_flight: usize,
}

#[derive(Debug, Default)]
struct Entry {
    report: PodReport,
    acked: u64,
}

/// What the leader said of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acked {
    /// The pod.
    pub(crate) uid: String,
    /// The report that was acked, and so all before it.
    pub(crate) sequence: u64,
    /// It was the pod's last report.
    pub(crate) ended: bool,
}

impl Outbox {
    /// A newer report of a pod.
    pub(crate) fn put(&mut self, report: PodReport) {
        let uid = report.uid.clone();
        let entry = self.entries.entry(uid.clone()).or_default();
        if entry.report.uid.is_empty() || report.sequence > entry.report.sequence {
            entry.report = report;
            self.due.insert(uid);
        }
    }

    /// The sequence of the newest report of a pod; 0: none.
    pub(crate) fn sequence(&self, uid: &str) -> u64 {
        self.entries.get(uid).map_or(0, |entry| entry.report.sequence)
    }

    /// The newest report of a pod.
    pub(crate) fn report(&self, uid: &str) -> Option<&PodReport> {
        self.entries.get(uid).map(|entry| &entry.report)
    }

    /// An event about the node itself.
    pub(crate) fn put_node_event(&mut self, event: NodeEvent) {
        if self.node_events.len() == NODE_EVENTS_MAX {
            self.node_events.remove(0);
            self.node_events_in_flight = self.node_events_in_flight.saturating_sub(1);
        }
        self.node_events.push(event);
    }

    /// Everything is to be sent, acked or not: a leader that asks for all states, or a new registration.
    pub(crate) fn all_due(&mut self) {
        self.due = self.entries.keys().cloned().collect();
    }

    /// One report is to be sent again.
    pub(crate) fn make_due(&mut self, uid: &str) {
        if self.entries.contains_key(uid) {
            self.due.insert(uid.to_owned());
        }
    }

    /// Whether there is something to send.
    pub(crate) fn is_due(&self) -> bool {
        !self.due.is_empty() || !self.node_events.is_empty()
    }

    /// What to send next; the caller has no other request in flight.
    pub(crate) fn next_request(&mut self, node: &str, agent_epoch: u64) -> Option<StatusRequest> {
        if !self.is_due() {
            return None;
        }
        let mut request = StatusRequest { node: node.to_owned(), agent_epoch, ..Default::default() };
        let mut bytes = 0;
        while let Some(uid) = self.due.first() {
            let Some(entry) = self.entries.get(uid) else {
                self.due.pop_first();
                continue;
            };
            bytes += entry.report.encoded_len();
            let full = bytes > REQUEST_BYTES_MAX || request.pods.len() == REQUEST_PODS_MAX;
            if full && !request.pods.is_empty() {
                break;
            }
            request.pods.push(entry.report.clone());
            self.due.pop_first();
        }
        request.node_events = self.node_events.clone();
        self.node_events_in_flight = self.node_events.len();
        Some(request)
    }

    /// Takes in the answer to `request`; what it does not ack is due again. `None`: there was no answer.
    ///
    /// A pod on hold is not due: its next change, or the leader, brings it up again.
    pub(crate) fn handle_reply(&mut self, request: &StatusRequest, reply: Option<&StatusReply>) -> Vec<Acked> {
        let mut acked = Vec::new();
        let acks = reply.map(|reply| reply.acks.as_slice()).unwrap_or_default();
        // Who only puts it off has taken nothing.
        if reply.is_some_and(|reply| reply.retry_after_ms == 0 || !reply.acks.is_empty()) {
            self.node_events.drain(..self.node_events_in_flight.min(self.node_events.len()));
        }
        self.node_events_in_flight = 0;
        for sent in &request.pods {
            let ack = acks.iter().find(|ack| ack.uid == sent.uid && ack.sequence >= sent.sequence);
            match ack.map(PodAck::kind) {
                Some(pod_ack::Kind::Ack) => acked.extend(self.take_ack(sent)),
                Some(pod_ack::Kind::Hold) => {}
                Some(pod_ack::Kind::Retry) | None => self.make_due(&sent.uid),
            }
        }
        acked
    }

    fn take_ack(&mut self, sent: &PodReport) -> Option<Acked> {
        let entry = self.entries.get_mut(&sent.uid)?;
        if sent.sequence <= entry.acked && !sent.ended {
            return None;
        }
        entry.acked = entry.acked.max(sent.sequence);
        if entry.report.sequence == sent.sequence {
            // Who asks for the state again wants no event again.
            entry.report.events = Vec::new();
        }
        if sent.ended {
            self.entries.remove(&sent.uid);
            self.due.remove(&sent.uid);
        }
        Some(Acked { uid: sent.uid.clone(), sequence: sent.sequence, ended: sent.ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(uid: &str, sequence: u64) -> PodReport {
        PodReport { uid: uid.into(), sequence, ..Default::default() }
    }

    fn reply(request: &StatusRequest, kind: pod_ack::Kind) -> StatusReply {
        let acks = request.pods.iter();
        let acks = acks.map(|p| PodAck { uid: p.uid.clone(), sequence: p.sequence, kind: kind.into() }).collect();
        StatusReply { acks, ..Default::default() }
    }

    fn sequences(request: &Option<StatusRequest>) -> Vec<(&str, u64)> {
        request.iter().flat_map(|r| &r.pods).map(|p| (p.uid.as_str(), p.sequence)).collect()
    }

    #[test]
    fn events_of_the_node_were_taken_unless_the_request_was_put_off_as_a_whole() {
        let mut outbox = Outbox::default();
        outbox.put_node_event(NodeEvent { reason: "Starting".into(), ..Default::default() });
        outbox.put(report("a", 1));
        let request = outbox.next_request("node-1", 1).unwrap();
        outbox.handle_reply(&request, Some(&StatusReply { retry_after_ms: 500, ..Default::default() }));
        let request = outbox.next_request("node-1", 1).unwrap();
        assert_eq!(request.node_events.len(), 1);
        let patient = StatusReply { retry_after_ms: 500, ..reply(&request, pod_ack::Kind::Ack) };
        outbox.handle_reply(&request, Some(&patient));
        assert!(!outbox.is_due());
    }

    #[test]
    fn only_the_newest_report_of_a_pod_is_sent() {
        let mut outbox = Outbox::default();
        outbox.put(report("a", 1));
        outbox.put(report("a", 3));
        outbox.put(report("a", 2));
        assert_eq!(sequences(&outbox.next_request("n", 1)), [("a", 3)]);
        assert!(outbox.next_request("n", 1).is_none());
    }

    #[test]
    fn what_is_not_acked_is_sent_again_and_what_is_on_hold_is_not() {
        let cases = [(Some(pod_ack::Kind::Ack), false), (Some(pod_ack::Kind::Retry), true), (None, true)];
        for (kind, again) in cases.into_iter().chain([(Some(pod_ack::Kind::Hold), false)]) {
            let mut outbox = Outbox::default();
            outbox.put(report("a", 1));
            let request = outbox.next_request("n", 1).unwrap();
            let reply = kind.map(|kind| reply(&request, kind));
            let acked = outbox.handle_reply(&request, reply.as_ref());
            assert_eq!(acked.len(), usize::from(kind == Some(pod_ack::Kind::Ack)), "{kind:?}");
            assert_eq!(outbox.is_due(), again, "{kind:?}");
        }
    }

    #[test]
    fn a_report_that_came_while_another_was_in_flight_is_not_taken_for_acked() {
        let mut outbox = Outbox::default();
        outbox.put(report("a", 1));
        let request = outbox.next_request("n", 1).unwrap();
        outbox.put(report("a", 2));
        let acked = outbox.handle_reply(&request, Some(&reply(&request, pod_ack::Kind::Ack)));
        assert_eq!(acked, [Acked { uid: "a".into(), sequence: 1, ended: false }]);
        assert_eq!(sequences(&outbox.next_request("n", 1)), [("a", 2)]);
    }

    #[test]
    fn events_that_were_acked_are_not_sent_with_the_state_again() {
        let mut outbox = Outbox::default();
        outbox.put(PodReport { events: vec![NodeEvent::default()], ..report("a", 1) });
        for (kind, events) in [(pod_ack::Kind::Retry, 1), (pod_ack::Kind::Ack, 0)] {
            let request = outbox.next_request("n", 1).unwrap();
            outbox.handle_reply(&request, Some(&reply(&request, kind)));
            outbox.all_due();
            assert_eq!(outbox.next_request("n", 1).unwrap().pods[0].events.len(), events);
            outbox.all_due();
        }
    }

    #[test]
    fn the_last_report_of_a_pod_stays_until_it_is_acked() {
        let mut outbox = Outbox::default();
        outbox.put(PodReport { ended: true, ..report("a", 4) });
        let request = outbox.next_request("n", 1).unwrap();
        outbox.handle_reply(&request, None);
        let request = outbox.next_request("n", 1).unwrap();
        let acked = outbox.handle_reply(&request, Some(&reply(&request, pod_ack::Kind::Ack)));
        assert!(acked[0].ended);
        outbox.all_due();
        assert!(!outbox.is_due(), "nothing is left of it");
    }

    #[test]
    fn a_request_stays_below_what_the_bus_takes() {
        let mut outbox = Outbox::default();
        for pod in 0..1000 {
            outbox.put(PodReport { rejected_message: "x".repeat(5000), ..report(&format!("pod-{pod}"), 1) });
        }
        let mut pods = 0;
        while let Some(request) = outbox.next_request("n", 1) {
            assert!(request.encoded_len() <= REQUEST_BYTES_MAX + 6000);
            pods += request.pods.len();
        }
        assert_eq!(pods, 1000);
    }

    #[test]
    fn a_node_event_is_sent_until_a_request_was_answered() {
        let mut outbox = Outbox::default();
        outbox.put_node_event(NodeEvent { reason: "Starting".into(), ..Default::default() });
        let request = outbox.next_request("n", 1).unwrap();
        outbox.handle_reply(&request, None);
        let request = outbox.next_request("n", 1).unwrap();
        assert_eq!(request.node_events.len(), 1);
        outbox.handle_reply(&request, Some(&StatusReply::default()));
        assert!(outbox.next_request("n", 1).is_none());
    }
}
