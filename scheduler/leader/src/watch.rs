//! Watches: who follows which objects, and what changed lately, so that a watch that was interrupted goes on where it
//! was. Pure: what is to be sent is returned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podbus_common::api::{Detail, Status, WATCH_ALIVE_SECONDS, WatchEvent, WatchEventType, WatchRequest};
use podbus_common::model::ListMeta;
use podbus_common::subject::is_inbox;
use serde::Serialize;
use serde_json::json;

use crate::cluster::SeenPod;
use crate::query::{self, Filter, Resource};
use crate::record::{BYTES_USUAL, NodeRecord};

/// Changes that are remembered.
const RING_MAX: usize = 100_000;
/// Watches at once.
const WATCHES_MAX: usize = 1_000;
/// A watcher that did not say that it is there for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_ALIVE_SECONDS * 3);

/// An object as it was. It is copied only for a watcher that is told of it: most changes interest nobody.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shown {
    Pod(SeenPod),
    Node(Arc<NodeRecord>, u64),
}

impl Shown {
    fn resource(&self) -> Resource {
        match self {
            Self::Pod(_) => Resource::Pods,
            Self::Node(..) => Resource::Nodes,
        }
    }

    /// Its resourceVersion.
    pub(crate) fn revision(&self) -> u64 {
        match self {
            Self::Pod(seen) => seen.revision,
            Self::Node(_, revision) => *revision,
        }
    }

    fn taken_by(&self, filter: &Filter) -> bool {
        match self {
            Self::Pod(seen) => filter.takes_pod(seen),
            Self::Node(record, _) => filter.takes_node(&record.node.metadata),
        }
    }

    /// What a watcher is told of it, under another revision.
    fn told(&self, kind: WatchEventType, revision: u64, detail: Detail) -> Vec<u8> {
        let revision = revision.to_string();
        match self {
            Self::Pod(seen) if detail == Detail::Brief => {
                let mut object = seen.brief();
                object.metadata.resource_version = revision;
                json_of(&WatchEvent { kind, object })
            }
            Self::Pod(seen) => {
                let mut object = seen.shown();
                object.metadata.resource_version = revision;
                json_of(&WatchEvent { kind, object })
            }
            Self::Node(record, _) => {
                let mut object = record.node.clone();
                object.metadata.resource_version = revision;
                json_of(&WatchEvent { kind, object })
            }
        }
    }
}

fn json_of(event: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(BYTES_USUAL);
    // A value with string keys is JSON.
    serde_json::to_writer(&mut json, event).map(|()| json).unwrap_or_default()
}

/// What happened to one object.
#[derive(Debug, Clone)]
struct Change {
    revision: u64,
    before: Option<Shown>,
    after: Option<Shown>,
}

impl Change {
    fn resource(&self) -> Option<Resource> {
        self.after.as_ref().or(self.before.as_ref()).map(Shown::resource)
    }

    /// What a watch with `filter` is told.
    fn told<'a>(&'a self, filter: &Filter, detail: Detail) -> Option<Vec<u8>> {
        let taken = |shown: &'a Option<Shown>| shown.as_ref().filter(|shown| shown.taken_by(filter));
        let (kind, object) = match (taken(&self.before), taken(&self.after)) {
            (None, Some(after)) => (WatchEventType::Added, after),
            (Some(_), Some(after)) => (WatchEventType::Modified, after),
            (Some(before), None) => (WatchEventType::Deleted, before),
            (None, None) => return None,
        };
        Some(object.told(kind, self.revision, detail))
    }
}

/// All watches, and the ring of changes.
#[derive(Debug)]
pub(crate) struct Watches {
    ring: VecDeque<Change>,
    /// Changes up to this revision are not in the ring.
    floor: u64,
    open: BTreeMap<u64, Watch>,
    opened: u64,
}

#[derive(Debug)]
struct Watch {
    inbox: String,
    resource: Resource,
    filter: Filter,
    detail: Detail,
    sequence: u64,
    heard: Instant,
}

/// A message for a watcher.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where to.
    pub inbox: String,
    /// Its number: a gap tells the watcher that something was lost.
    pub sequence: u64,
    /// A watch event.
    pub json: Vec<u8>,
}

impl Watch {
    fn message(&mut self, json: Vec<u8>) -> Outgoing {
        self.sequence += 1;
        Outgoing { inbox: self.inbox.clone(), sequence: self.sequence, json }
    }
}

impl Watches {
    /// `floor`: what is known, and nothing before it.
    pub(crate) fn new(floor: u64) -> Self {
        Self { ring: VecDeque::new(), floor, open: BTreeMap::new(), opened: 0 }
    }

    /// Opens a watch; `now_there`: all objects of its kind, for a watch without a revision. Returns its number and
    /// the first messages. `applied`: the last revision applied in order.
    pub(crate) fn open(
        &mut self,
        resource: Resource,
        namespace: Option<&str>,
        request: &WatchRequest,
        now_there: impl Iterator<Item = Shown>,
        applied: u64,
        now: Instant,
    ) -> Result<(u64, Vec<Outgoing>), Status> {
        let namespace = namespace.filter(|_| resource == Resource::Pods);
        let filter = Filter::new(namespace, &request.label_selector, &request.field_selector)?;
        if !is_inbox(&request.inbox) {
            return Err(query::bad_request("a watch needs an inbox to send events to: _INBOX.<something>"));
        }
        if self.open.len() >= WATCHES_MAX {
            return Err(query::unavailable("too many watches are open"));
        }
        let detail = request.detail;
        let events: Vec<Vec<u8>> = if request.resource_version.is_empty() {
            let taken = now_there.filter(|shown| shown.taken_by(&filter));
            taken.map(|shown| shown.told(WatchEventType::Added, shown.revision(), detail)).collect()
        } else {
            let since = self.since(&request.resource_version, applied)?;
            let changes = self.ring.range(since..).filter(|change| change.resource() == Some(resource));
            changes.filter_map(|change| change.told(&filter, detail)).collect()
        };
        let mut watch = Watch { inbox: request.inbox.clone(), resource, filter, detail, sequence: 0, heard: now };
        let messages = events.into_iter().map(|event| watch.message(event)).collect();
        self.opened += 1;
        self.open.insert(self.opened, watch);
        Ok((self.opened, messages))
    }

    /// Where in the ring a watch goes on that saw `revision` last.
    fn since(&self, revision: &str, applied: u64) -> Result<usize, Status> {
        let refused = || query::bad_request(format!("resourceVersion {revision:?} is none"));
        let seen: u64 = revision.parse().map_err(|_| refused())?;
        // Changes are in the order in which they were applied, which need not be that of their revisions: a revision
        // that was sent is a place in the ring; any other is one up to which everything was applied.
        if let Some(index) = self.ring.iter().rposition(|change| change.revision == seen) {
            return Ok(index + 1);
        }
        if seen < self.floor || seen > applied.max(self.floor) {
            let message = format!("too old resource version: {seen} ({})", self.floor);
            return Err(Status::failure(410, "Expired", message));
        }
        Ok(self.ring.iter().position(|change| change.revision > seen).unwrap_or(self.ring.len()))
    }

    /// An object changed. A pod under its old name with a new UID is gone, then there.
    pub(crate) fn changed(&mut self, revision: u64, before: Option<Shown>, after: Option<Shown>) -> Vec<Outgoing> {
        if before == after {
            return Vec::new();
        }
        let changes = match (&before, &after) {
            (Some(Shown::Pod(old)), Some(Shown::Pod(new))) if old.pod.uid != new.pod.uid => {
                vec![Change { revision, before, after: None }, Change { revision, before: None, after }]
            }
            _ => vec![Change { revision, before, after }],
        };
        let mut messages = Vec::new();
        for change in changes {
            for watch in self.open.values_mut().filter(|watch| change.resource() == Some(watch.resource)) {
                if let Some(event) = change.told(&watch.filter, watch.detail) {
                    messages.push(watch.message(event));
                }
            }
            self.remember(change);
        }
        messages
    }

    fn remember(&mut self, change: Change) {
        self.ring.push_back(change);
        if self.ring.len() > RING_MAX
            && let Some(oldest) = self.ring.pop_front()
        {
            self.floor = self.floor.max(oldest.revision);
        }
    }

    /// Each second: a bookmark to everybody; who went silent is forgotten.
    pub(crate) fn tick(&mut self, applied: u64, now: Instant) -> Vec<Outgoing> {
        self.open.retain(|_, watch| now - watch.heard <= SILENCE_MAX);
        let metadata = ListMeta { resource_version: applied.to_string(), continue_token: String::new() };
        self.open
            .values_mut()
            .map(|watch| {
                let kind = if watch.resource == Resource::Pods { "Pod" } else { "Node" };
                let object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
                watch.message(json_of(&WatchEvent { kind: WatchEventType::Bookmark, object }))
            })
            .collect()
    }

    /// A watcher says that it is there, or that it leaves.
    pub(crate) fn heard(&mut self, id: u64, leaves: bool, now: Instant) {
        if leaves {
            self.open.remove(&id);
        } else if let Some(watch) = self.open.get_mut(&id) {
            watch.heard = now;
        }
    }
}

#[cfg(test)]
mod tests;
