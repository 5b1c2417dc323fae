//! What a pod's worker remembers between two plans. Lost with the agent, as the kubelet's is.

use std::collections::{BTreeMap, BTreeSet};

use podbus_common::model::{Container, Timestamp};

use crate::backoff::Backoff;

/// How long a failed start, a failed sandbox or a failed lookup waits for its next try, seconds.
pub const RETRY_SECONDS: i64 = 10;
/// The first and the longest wait after volumes failed, milliseconds: 0.5 s, doubling to 2 min 2 s.
const VOLUME_RETRY_MS: (i64, i64) = (500, 122_000);

/// The worker's memory. The worker writes down what came of each action; [`crate::plan::plan`] only reads.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Windows of container restarts, by container and image.
    pub(crate) restarts: Backoff,
    /// Windows of pulls, by image.
    pub(crate) pulls: Backoff,
    /// The last failed pull of each image.
    pub(crate) pull_failures: BTreeMap<String, PullFailure>,
    /// Why a container's last start failed; gone once it started.
    pub(crate) start_failures: BTreeMap<String, StartFailed>,
    /// Nothing is set up before this: volumes or the sandbox failed.
    pub(crate) setup_retry_at: Option<Timestamp>,
    /// How long the volumes' next failure waits, milliseconds.
    pub(crate) volume_retry_ms: i64,
    /// When what is being stopped now is killed; gone once something is started again.
    pub(crate) kill_deadline: Option<Timestamp>,
    /// The attempt whose coming was announced by the event SandboxChanged.
    pub(crate) announced_attempt: u32,
    /// IDs of the ended containers whose exit the leader has acked.
    pub acked_exits: BTreeSet<String>,
    /// Sandboxes that were stopped by a call; a sandbox that only died still holds its network.
    pub(crate) stopped_sandboxes: BTreeSet<String>,
    /// The attempt that a container begins with at least: one above the newest log file found on disk.
    pub attempts_min: BTreeMap<String, u32>,
}

/// A pull that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PullFailure {
    pub(crate) at: Timestamp,
    pub(crate) reason: String,
    pub(crate) text: String,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// The waiting reason: ErrImagePull, CreateContainerError...
    pub reason: String,
    /// The waiting message.
    pub message: String,
    /// Seconds until the next try.
    pub retry_seconds: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailed {
    pub(crate) failure: StartFailure,
    pub(crate) retry_at: Timestamp,
}

impl StartFailure {
    /// A failure that is tried again after [`RETRY_SECONDS`].
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), retry_seconds: RETRY_SECONDS }
    }
}

impl Memory {
    /// A container was started, after a run of it that ended at `previous_end` if there was one.
    pub fn container_started(&mut self, container: &Container, previous_end: Option<Timestamp>, now: Timestamp) {
        self.start_failures.remove(&container.name);
        self.kill_deadline = None;
        if let Some(ended) = previous_end {
            self.restarts.step(&restart_key(container), ended, now);
        }
    }

    /// A container could not be started.
    pub fn start_failed(&mut self, name: &str, failure: StartFailure, now: Timestamp) {
        let retry_at = now.plus_seconds(failure.retry_seconds);
        self.kill_deadline = None;
        self.start_failures.insert(name.to_owned(), StartFailed { failure, retry_at });
    }

    /// A new sandbox runs.
    pub fn sandbox_started(&mut self) {
        self.setup_retry_at = None;
        self.kill_deadline = None;
        // What failed, failed in the old one.
        self.start_failures.retain(|_, f| f.failure.reason.contains("Image"));
    }

    /// A sandbox could not be made.
    pub fn sandbox_failed(&mut self, now: Timestamp) {
        self.setup_retry_at = Some(now.plus_seconds(RETRY_SECONDS));
    }

    /// Volumes are in place.
    pub fn volumes_prepared(&mut self) {
        self.volume_retry_ms = 0;
    }

    /// Volumes could not be prepared.
    pub fn volumes_failed(&mut self, now: Timestamp) {
        let (min, max) = VOLUME_RETRY_MS;
        self.volume_retry_ms = if self.volume_retry_ms == 0 { min } else { (self.volume_retry_ms * 2).min(max) };
        self.setup_retry_at = Some(Timestamp::from_unix_ms(now.unix_ms + self.volume_retry_ms));
    }

    /// The containers of a dead or finished sandbox are being stopped, until `deadline`.
    pub fn stopping(&mut self, deadline: Timestamp) {
        self.kill_deadline.get_or_insert(deadline);
    }

    /// StopPodSandbox succeeded.
    pub fn sandbox_stopped(&mut self, id: &str) {
        self.stopped_sandboxes.insert(id.to_owned());
    }

    /// The event SandboxChanged was sent for the sandbox that will be `attempt`.
    pub fn announced(&mut self, attempt: u32) {
        self.announced_attempt = attempt;
    }
}

/// Image and resources are part of it: a container that was changed starts without delay.
pub(crate) fn restart_key(container: &Container) -> String {
    format!("{} {}", container.name, container.image)
}
