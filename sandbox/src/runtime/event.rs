//! Events: each is the whole pod at that moment, for every client that listens.

use std::sync::Mutex;

use podbus_common_cri::runtime::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;

use super::{Runtime, Sandbox, lock, now};

/// What a client may fall behind by, before its stream ends and it has to list again.
const EVENTS_MAX: usize = 1024;

/// Where events go.
pub(crate) struct Events {
    sender: broadcast::Sender<ContainerEventResponse>,
    /// Never goes back, also where the clock does: clients drop what is older than what they know.
    last: Mutex<i64>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { sender: broadcast::channel(EVENTS_MAX).0, last: Mutex::new(0) }
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<ContainerEventResponse> {
        self.sender.subscribe()
    }
}

impl Runtime {
    /// Tells that `id`, a container of `sandbox` or itself, has changed.
    pub(super) fn tell(&self, sandbox: &Sandbox, id: &str, kind: ContainerEventType) {
        if self.events.sender.receiver_count() == 0 {
            return;
        }
        let mut last = lock(&self.events.last); // until it is sent: no event may overtake an earlier one
        *last = now().max(*last);
        let statuses = self.containers_of(&sandbox.body.id).iter().map(|it| it.status()).collect();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            created_at: *last,
            pod_sandbox_status: Some(sandbox.status()),
            containers_statuses: statuses,
        };
        let _ = self.events.sender.send(event); // nobody listens: nobody needs it
    }
}
