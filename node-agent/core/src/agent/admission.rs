//! The node admits last: the scheduler may have counted with an older state.

use std::sync::Arc;

use super::{Agent, Journal};
use crate::admission::{self, Admission, admit};

impl<J: Journal> Agent<J> {
    /// Admits a pod, refuses it, or lets it wait for pods that are ending.
    pub(super) fn admit(&mut self, uid: &str) {
        if !self.unheard.is_empty() {
            return; // What runs may have finished while the agent was away: their workers say so first.
        }
        let Some(held) = self.set.get(uid) else { return };
        let others: Vec<_> = self
            .set
            .pods()
            .iter()
            // The pod itself is not admitted yet.
            .filter(|(_, held)| held.admitted.is_some())
            .map(|(other, held)| admission::Held {
                claim: Arc::clone(&held.claim),
                terminating: held.must_go(),
                finished: self.finished.contains(other),
            })
            .collect();
        match admit(&self.offer, &others, &held.pod) {
            Admission::Admit => self.set.admit(uid, self.now.wall),
            Admission::Wait => {}
            Admission::Reject { reason, message } => self.set.fail(uid, &reason, &message),
        }
    }

    /// Something became free: asks again for those that wait.
    pub(super) fn admit_waiting(&mut self) {
        let waiting = self.set.pods().iter().filter(|(_, held)| held.admitted.is_none() && held.failed.is_none());
        let waiting: Vec<_> = waiting.map(|(uid, _)| uid.clone()).collect();
        if !waiting.is_empty() {
            self.unsettled.extend(waiting);
            self.settle();
        }
    }
}
