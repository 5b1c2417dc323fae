//! The node's pods by name, for those who open streams to them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use podbus_common::model::Pod;

/// Written by the agent, read by streams; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Directory {
    pods: Arc<RwLock<BTreeMap<String, Arc<Pod>>>>,
}

impl Directory {
    /// The pod `namespace/name`; with a UID only that one. Of several of one name the newest.
    pub(crate) fn find(&self, namespace: &str, name: &str, uid: &str) -> Option<Arc<Pod>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        let named = pods.values().filter(|pod| pod.metadata.namespace == namespace && pod.metadata.name == name);
        let asked = named.filter(|pod| uid.is_empty() || pod.metadata.uid == uid);
        asked.max_by_key(|pod| pod.metadata.creation_timestamp).cloned()
    }

    pub(super) fn put(&self, uid: &str, pod: &Arc<Pod>) {
        let mut pods = self.pods.write().unwrap_or_else(PoisonError::into_inner);
        pods.insert(uid.to_owned(), Arc::clone(pod));
    }

    pub(super) fn remove(&self, uid: &str) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
