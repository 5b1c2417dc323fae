//! Renewing the lease and giving it back: what [`podbus_scheduler_leader`] decides, carried out.

use std::time::Duration;

use bytes::Bytes;
use podbus_common::api::Lease;
use podbus_common::subject::LEASE_KEY;
use podbus_common_bus::Bus;
use podbus_scheduler_leader::{Failed, Held, LeaseLost, RENEW_EVERY};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::{boottime, wall};
use crate::store::{Store, StreamState};
use crate::suspicion::{Belief, Suspicion};

/// How long one attempt to write it waits for its ack.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the leader may rely on.
#[derive(Debug, Clone)]
pub(crate) struct Sure {
    pub(crate) held: Held,
    /// The connection over which the store was seen to be the one of before: a later one must be checked first.
    pub(crate) connects: u64,
}

/// Renews the lease until `stop`, and tells each success to `sure_tx`. Ends with an error when the term is over.
///
/// `store` has a connection of its own, since behind thousands of messages a renewal comes too late; `bus` is the one that
/// all else goes over. After each reconnection of that it asks first whether the stream is still the one that it was and has all that it had: a store
/// that went back in time is not written to.
pub(crate) async fn keep(
    bus: &Bus,
    store: &Store,
    stream: &StreamState,
    sure_tx: &watch::Sender<Sure>,
    stop: &CancellationToken,
) -> Result<(), LeaseLost> {
    let mut tick = interval(RENEW_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspicion = Suspicion::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // cancel-safe
            _ = tick.tick() => {}
        }
        if !bus.is_connected() {
            // The client would keep a renewal back, and write it into whatever store it finds.
            suspicion.unanswered();
            continue;
        }
        let Sure { held, connects } = sure_tx.borrow().clone();
        let reconnected = bus.connects();
        if reconnected != connects {
            // Known before it is asked: the answer need not tell what is acknowledged meanwhile.
            let acked = store.acked();
            let Ok(Ok(now)) = timeout(PATIENCE, store.state()).await else {
                suspicion.unanswered();
                continue;
            };
            let contradicted = now.created != stream.created || now.last_revision < acked;
            match suspicion.note(contradicted, stream.replicas, Instant::now()) {
                Belief::Same => {}
                Belief::Doubtful => continue,
                Belief::WentBack => return Err(LeaseLost::StoreWentBack),
            }
        }
        match renew(store, &held, reconnected != connects).await {
            Ok(Some(held)) => {
                suspicion = Suspicion::default();
                sure_tx.send_replace(Sure { held, connects: reconnected });
            }
            Ok(None) => suspicion.unanswered(),
            Err(LeaseLost::StoreWentBack)
                if suspicion.note(true, stream.replicas, Instant::now()) == Belief::Doubtful => {}
            Err(lost) => return Err(lost),
        }
    }
}

/// One renewal; `None`: its outcome is unknown. `confirm`: looks first whose lease it is that would be renewed.
async fn renew(store: &Store, held: &Held, confirm: bool) -> Result<Option<Held>, LeaseLost> {
    if confirm {
        let Ok(Ok(stored)) = timeout(PATIENCE, store.read(LEASE_KEY)).await else { return Ok(None) };
        held.confirm(stored.as_ref())?;
    }
    let renewal = held.renewal(boottime(), wall());
    match attempt(store, &renewal.record, held.revision).await {
        Ok(revision) => Ok(Some(renewal.acked(revision))),
        Err(Failed::Unknown) => Ok(None),
        Err(Failed::Conflict) => match store.read(LEASE_KEY).await {
            Ok(stored) => renewal.conflicted(stored.as_ref()).map(Some),
            Err(_) => Ok(None),
        },
    }
}

/// Gives the lease back; `epoch_seen` is the highest that any node saw.
pub(crate) async fn release(store: &Store, held: &Held, epoch_seen: u64) {
    // Without it the next one waits for the lease to run out.
    let _ = attempt(store, &held.release(epoch_seen), held.revision).await;
}

/// One attempt to write the lease, under its own epoch.
pub(crate) async fn attempt(store: &Store, record: &Lease, expected: u64) -> Result<u64, Failed> {
    let value = Bytes::from(serde_json::to_vec(record).unwrap_or_default());
    store.with_epoch(record.epoch).attempt(LEASE_KEY, Some(&value), expected, PATIENCE).await
}
