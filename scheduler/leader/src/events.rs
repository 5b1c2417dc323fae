//! Events: what Kubernetes' Event says of pods and nodes. Repeats are folded into a count.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};

use podbus_common::model::{Event, EventSource, EventType, Node, ObjectMeta, ObjectReference, Pod, Timestamp};
use podbus_common::proto::NodeEvent;
use podbus_common::subject::NODE_EVENTS_NAMESPACE;
use sha2::{Digest, Sha256};

use crate::cluster::PodName;
use crate::kept::KeptPod;
use crate::rebuild;

const SCHEDULER: &str = "podbus-scheduler";
const AGENT: &str = "podbus-node-agent";
/// Events that are remembered so that repeats count (Kubernetes' recorder remembers as many).
const REMEMBERED_MAX: usize = 4096;
/// Kubernetes cuts messages at so many bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

// === What they say ===

/// A pod got a node.
pub(crate) fn scheduled(name: &PodName, pod: &KeptPod, at: Timestamp) -> Event {
    let message = format!("Successfully assigned {}/{} to {}", name.namespace, name.name, pod.node());
    let source = EventSource { component: SCHEDULER.to_owned(), host: pod.node().to_owned() };
    event_of(reference_to(name, &pod.uid), EventType::Normal, "Scheduled", message, source, "", at)
}

/// A pod fits nowhere.
pub(crate) fn failed_scheduling(pod: &Pod, message: &str, now: Timestamp) -> Event {
    of_pod(pod, EventType::Warning, "FailedScheduling", message.to_owned(), now)
}

/// A pod must leave for another one.
pub(crate) fn preempted(pod: &Pod, by: &str, now: Timestamp) -> Event {
    let message = format!("Preempted by pod {by} on node {}", pod.spec.node_name);
    of_pod(pod, EventType::Normal, "Preempted", message, now)
}

/// A pod must leave its node.
pub(crate) fn taint_manager_eviction(pod: &Pod, now: Timestamp) -> Event {
    let ObjectMeta { namespace, name, .. } = &pod.metadata;
    let message = format!("Marking for deletion Pod {namespace}/{name}");
    of_pod(pod, EventType::Normal, "TaintManagerEviction", message, now)
}

/// A pod's node does not answer.
pub(crate) fn pod_node_not_ready(pod: &Pod, now: Timestamp) -> Event {
    of_pod(pod, EventType::Warning, "NodeNotReady", "Node is not ready".to_owned(), now)
}

/// What a node says of a pod on it.
pub(crate) fn of_pod_on_node(name: &PodName, uid: &str, node: &str, event: &NodeEvent) -> Event {
    let field_path = match (event.container.as_str(), event.init) {
        ("", _) => String::new(),
        (name, true) => format!("spec.initContainers{{{name}}}"),
        (name, false) => format!("spec.containers{{{name}}}"),
    };
    let about = ObjectReference { field_path, ..reference_to(name, uid) };
    let at = Timestamp::from_unix_ms(event.at_ms);
    let source = EventSource { component: AGENT.to_owned(), host: node.to_owned() };
    let attempt = event.attempt.to_string();
    event_of(about, kind_of(&event.kind), &event.reason, event.message.clone(), source, &attempt, at)
}

/// What a node says of itself.
pub(crate) fn of_node_by_agent(node: &Node, event: &NodeEvent) -> Event {
    let at = Timestamp::from_unix_ms(event.at_ms);
    let source = EventSource { component: AGENT.to_owned(), host: node.metadata.name.clone() };
    let (kind, message) = (kind_of(&event.kind), event.message.clone());
    event_of(reference_to_node(node), kind, &event.reason, message, source, "", at)
}

/// What the scheduler says of a node.
pub(crate) fn of_node(node: &Node, kind: EventType, reason: &str, message: String, now: Timestamp) -> Event {
    let source = EventSource { component: SCHEDULER.to_owned(), host: node.metadata.name.clone() };
    event_of(reference_to_node(node), kind, reason, message, source, "", now)
}

/// What the scheduler says of the store itself.
pub(crate) fn of_store(kind: EventType, reason: &str, message: String, now: Timestamp) -> Event {
    let about = ObjectReference {
        kind: "Lease".to_owned(),
        api_version: "coordination.k8s.io/v1".to_owned(),
        name: "scheduler".to_owned(),
        ..ObjectReference::default()
    };
    let source = EventSource { component: SCHEDULER.to_owned(), host: String::new() };
    event_of(about, kind, reason, message, source, "", now)
}

/// What became of a pod when the store was rebuilt.
pub(crate) fn of_repair(pod: &Pod, kind: &rebuild::Kind, now: Timestamp) -> Event {
    let (reason, message) = match kind {
        rebuild::Kind::Restored { node } => {
            ("Restored", format!("The store had lost this pod, or a later state of it: put back as {node} holds it"))
        }
        rebuild::Kind::Ended => {
            ("RemovedAgain", "The store had this pod again, and its node knows that it ended".to_owned())
        }
        rebuild::Kind::Gated => (
            "RecoveryUnknown",
            format!(
                "The store went back in time, and nobody knows whether this pod was deleted since: delete it, or apply \
                 it again to take the scheduling gate {} away",
                rebuild::RECOVERED_GATE
            ),
        ),
    };
    of_pod(pod, EventType::Warning, reason, message, now)
}

fn kind_of(text: &str) -> EventType {
    if text == "Warning" { EventType::Warning } else { EventType::Normal }
}

fn of_pod(pod: &Pod, kind: EventType, reason: &str, message: String, now: Timestamp) -> Event {
    let source = EventSource { component: SCHEDULER.to_owned(), host: pod.spec.node_name.clone() };
    event_of(reference_to(&PodName::of(pod), &pod.metadata.uid), kind, reason, message, source, "", now)
}

fn reference_to(name: &PodName, uid: &str) -> ObjectReference {
    ObjectReference {
        kind: "Pod".to_owned(),
        api_version: "v1".to_owned(),
        name: name.name.to_string(),
        namespace: name.namespace.to_string(),
        uid: uid.to_owned(),
        field_path: String::new(),
    }
}

fn reference_to_node(node: &Node) -> ObjectReference {
    ObjectReference {
        kind: "Node".to_owned(),
        api_version: "v1".to_owned(),
        name: node.metadata.name.clone(),
        uid: node.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The name is a hash of what happened, so that a reader drops what is delivered twice.
fn event_of(
    about: ObjectReference,
    kind_of: EventType,
    reason: &str,
    mut message: String,
    source: EventSource,
    attempt: &str,
    at: Timestamp,
) -> Event {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX - 4).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push_str(" ...");
    }
    let at_ms = at.unix_ms.to_string();
    let name = format!("{}.{}", about.name, hash([&about.uid, &about.field_path, attempt, reason, &message, &at_ms]));
    let namespace = if about.namespace.is_empty() { NODE_EVENTS_NAMESPACE.to_owned() } else { about.namespace.clone() };
    Event {
        api_version: "v1".to_owned(),
        kind: "Event".to_owned(),
        metadata: ObjectMeta { name, namespace, creation_timestamp: Some(at), ..ObjectMeta::default() },
        involved_object: about,
        reason: reason.to_owned(),
        message,
        kind_of,
        source,
        first_timestamp: Some(at),
        last_timestamp: Some(at),
        count: 1,
    }
}

fn hash(parts: [&str; 6]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize().iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

// === Repeats ===

/// Folds repeats: the same thing said again keeps the name and the first time of the first, and counts on.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// By a hash of what makes two events the same. Of so few no two meet by chance, and nobody can choose them to.
    known: HashMap<u64, Known>,
    order: VecDeque<u64>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Known {
    /// Of the first.
    name: String,
    first: Option<Timestamp>,
    count: u32,
    /// Of the last, unless it is the first.
    last_name: Option<String>,
    last: Option<Timestamp>,
}

impl Recorder {
    /// `event`, as it is published; `None` for a second delivery: a node repeats what was not acked to it yet.
    pub(crate) fn record(&mut self, mut event: Event) -> Option<Event> {
        let ObjectReference { kind, namespace, name, uid, field_path, .. } = &event.involved_object;
        let said = (&event.reason, &event.message, &event.source.host);
        let repeat = self.hasher.hash_one((kind, namespace, name, uid, field_path, said));
        if let Some(known) = self.known.get_mut(&repeat) {
            let last_name = known.last_name.as_ref().unwrap_or(&known.name);
            if *last_name == event.metadata.name || event.last_timestamp <= known.last {
                return None;
            }
            known.count += 1;
            known.last = event.last_timestamp;
            known.last_name = Some(std::mem::replace(&mut event.metadata.name, known.name.clone()));
            event.first_timestamp = known.first;
            event.count = known.count;
            return Some(event);
        }
        let known = Known {
            name: event.metadata.name.clone(),
            first: event.first_timestamp,
            count: 1,
            last_name: None,
            last: event.last_timestamp,
        };
        self.known.insert(repeat, known);
        self.order.push_back(repeat);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "web", "uid": "u"}, "spec": {}})).unwrap()
    }

    fn backoff(at_ms: i64) -> Event {
        let event = NodeEvent {
            kind: "Warning".into(),
            reason: "BackOff".into(),
            message: "Back-off restarting failed container".into(),
            container: "c".into(),
            at_ms,
            ..Default::default()
        };
        of_pod_on_node(&PodName::new("a", "web"), "u", "node-1", &event)
    }

    #[test]
    fn a_repeat_counts_on_under_the_name_of_the_first() {
        let mut recorder = Recorder::default();
        let first = recorder.record(backoff(1_000)).unwrap();
        let second = recorder.record(backoff(2_000)).unwrap();
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(first.metadata.name, second.metadata.name);
        assert_eq!(second.first_timestamp, Some(Timestamp::from_unix_ms(1_000)));
        assert_eq!(second.last_timestamp, Some(Timestamp::from_unix_ms(2_000)));
    }

    #[test]
    fn a_second_delivery_is_not_published() {
        let mut recorder = Recorder::default();
        recorder.record(backoff(1_000));
        recorder.record(backoff(2_000));
        for again in [2_000, 1_000] {
            assert_eq!(recorder.record(backoff(again)), None);
        }
        assert_eq!(recorder.record(backoff(3_000)).unwrap().count, 3);
    }

    #[test]
    fn an_event_names_the_container_as_kubernetes_does() {
        let event = backoff(1);
        assert_eq!(event.involved_object.field_path, "spec.containers{c}");
        assert_eq!(event.source.host, "node-1");
        assert_eq!(event.metadata.namespace, "a");
    }

    #[test]
    fn a_long_message_is_cut() {
        let event = failed_scheduling(&pod(), &"é".repeat(2000), Timestamp::default());
        assert!(event.message.len() <= MESSAGE_BYTES_MAX && event.message.ends_with(" ..."));
    }
}
