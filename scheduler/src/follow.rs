//! Before it leads: a scheduler follows the store with a warm snapshot, and takes the lease once it is free.

use std::time::Duration;

use anyhow::bail;
use podbus_common_bus::Bus;
use podbus_scheduler_core::Config;
use podbus_scheduler_leader::{Candidate, Held, Next, Remembered, Snapshot, Stored};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::clock::{boottime, wall};
use crate::lease::attempt;
use crate::service::make_streams;
use crate::store::{Store, StreamState};
use crate::suspicion::{Belief, Suspicion};
use crate::telemetry::Telemetry;
use crate::watch::Watch;

/// How often the lease is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the stream is asked whether it is still the one that is followed; beside each reconnection.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Between two beginnings.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Nothing came for so long though something must: begin again.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A follower that took the lease.
pub(crate) struct Followed {
    pub(crate) held: Held,
    /// All that is stored, up to the write of the lease.
    pub(crate) snapshot: Snapshot,
    /// The stream as it was.
    pub(crate) stream: StreamState,
    /// The connection over which it was seen to be so, before the lease was taken.
    pub(crate) connects: u64,
    /// What was known before the store went back in time, where it did and nobody has led since.
    pub(crate) remembered: Option<Remembered>,
}

/// How following ended.
enum Ended {
    /// Over this connection.
    Took(Held, u64),
    /// What is followed is not what was followed so far.
    StoreWentBack,
}

/// Follows until the lease is taken. `remembered`: what this process knew of a store that went back since.
pub(crate) async fn follow(
    bus: &Bus,
    store: &Store,
    replicas: Option<usize>,
    scheduling: &Config,
    holder: &str,
    mut remembered: Option<Remembered>,
    telemetry: &Telemetry,
) -> anyhow::Result<Followed> {
    loop {
        let mut watch = match Watch::open(store, scheduling).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot read the store yet; trying again");
                sleep(RETRY_EVERY).await;
                // The stream may be gone with its server's disk.
                make_streams(bus, replicas).await?;
                continue;
            }
        };
        let mut follower = Follower::new(holder);
        let ended = follower.campaign(bus, store, &mut watch, telemetry).await;
        match ended {
            Ok(Ended::Took(held, connects)) => {
                let (snapshot, stream) = until_own_lease(store, scheduling, watch, held.revision).await;
                let remembered = remembered.and_then(|remembered| remembered.for_last_of(&held.record.terms));
                return Ok(Followed { held, snapshot, stream, connects, remembered });
            }
            Ok(Ended::StoreWentBack) => {
                tracing::error!(
                    "the store went back in time, or there is another one: following it from its beginning"
                );
                // Only what was read whole is worth remembering, and what is remembered longest is the newest.
                if remembered.is_none() && watch.is_current() {
                    remembered = Some(watch.into_remembered());
                }
                telemetry.starts();
                make_streams(bus, replicas).await?;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "cannot follow the store; beginning again");
                sleep(RETRY_EVERY).await;
            }
        }
    }
}

struct Follower {
    candidate: Candidate,
    told: bool,
}

impl Follower {
    fn new(holder: &str) -> Self {
        Self { candidate: Candidate::new(holder.to_owned()), told: false }
    }

    async fn campaign(
        &mut self,
        bus: &Bus,
        store: &Store,
        watch: &mut Watch,
        telemetry: &Telemetry,
    ) -> anyhow::Result<Ended> {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut checked, mut connects) = (Instant::now(), bus.connects());
        let mut suspicion = Suspicion::default();
        let mut progress = (watch.applied(), Instant::now());
        loop {
            tokio::select! {
                biased;
                _ = look.tick() => {}
                // cancel-safe
                read = watch.next() => {
                    read?;
                    continue;
                }
            }
            if !bus.is_connected() {
                continue;
            }
            if bus.connects() != connects || checked.elapsed() >= CHECK_EVERY {
                let reconnected = bus.connects();
                let Ok(now) = store.state().await else {
                    suspicion.unanswered();
                    continue;
                };
                let contradicted = watch.is_contradicted_by(&now);
                match suspicion.note(contradicted, watch.begun().replicas, Instant::now()) {
                    Belief::Same => {}
                    Belief::Doubtful => continue,
                    Belief::WentBack => return Ok(Ended::StoreWentBack),
                }
                if watch.applied() != progress.0 || now.last_revision <= watch.applied() {
                    progress = (watch.applied(), Instant::now());
                } else if progress.1.elapsed() >= SILENCE_MAX {
                    bail!("nothing came of the store for {} s, though there is more", SILENCE_MAX.as_secs());
                }
                if reconnected != connects {
                    // The leader had no bus either.
                    self.candidate.look_anew();
                }
                (checked, connects) = (Instant::now(), reconnected);
            }
            if !watch.is_current() {
                continue;
            }
            telemetry.follows();
            if let Some(held) = self.look(store, watch.lease().cloned()).await? {
                return Ok(Ended::Took(held, connects));
            }
        }
    }

    async fn look(&mut self, store: &Store, lease: Option<Stored>) -> anyhow::Result<Option<Held>> {
        match self.candidate.heard(lease.as_ref(), boottime(), wall(), || uuid::Uuid::new_v4().to_string())? {
            Next::Lead(held) => Ok(Some(held)),
            Next::Take { record, expected } => {
                let result = attempt(store, &record, expected).await;
                Ok(result.ok().and_then(|revision| self.candidate.acked(revision)))
            }
            Next::Wait => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::info!("the lease is held; following with a warm snapshot");
                }
                Ok(None)
            }
        }
    }
}

/// Reads on up to the write that took the lease; from the beginning again where that does not come.
async fn until_own_lease(
    store: &Store,
    scheduling: &Config,
    mut watch: Watch,
    revision: u64,
) -> (Snapshot, StreamState) {
    loop {
        let error = match timeout(SILENCE_MAX, watch.next()).await {
            _ if watch.applied() >= revision => {
                let stream = watch.begun().clone();
                return (watch.into_snapshot(), stream);
            }
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("the bus went silent"),
        };
        tracing::warn!(error = format!("{error:#}"), "cannot read the store to its end; beginning again");
        watch = loop {
            match Watch::open(store, scheduling).await {
                Ok(watch) => break watch,
                Err(_) => sleep(RETRY_EVERY).await,
            }
        };
    }
}
