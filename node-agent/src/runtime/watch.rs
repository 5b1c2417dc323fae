//! Tells each pod's worker when to look again: the runtime's events, and a list each minute as the net.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Runtime, RuntimeError};

/// Every worker looks again this often, event or not.
const RELIST_INTERVAL: Duration = Duration::from_secs(60);
/// Where the runtime has no events, as the kubelet without them.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// After a lost stream.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Some servers answer GetContainerEvents only with the first event: the list does not wait for longer than this.
const SUBSCRIBE_WAIT: Duration = Duration::from_millis(500);

/// Who should look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wake {
    /// One pod, by UID.
    Pod(String),
    /// Every pod, and the list of pods itself.
    All,
}

/// Follows the runtime until `stop`. An event is state, not news: it only says whose state to read.
pub(crate) async fn follow<R: Runtime>(runtime: R, wakes: mpsc::Sender<Wake>, stop: CancellationToken) {
    let mut seen_lost = false;
    loop {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = follow_once(&runtime, &wakes) => ended,
        };
        let wait = match &ended {
            Err(error) if error.code == tonic::Code::Unimplemented => POLL_INTERVAL,
            Err(error) => {
                if !seen_lost {
                    tracing::warn!(%error, "the container runtime's events are lost, trying again");
                }
                seen_lost = true;
                RETRY_INTERVAL
            }
            Ok(()) => {
                seen_lost = false;
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        if wakes.send(Wake::All).await.is_err() {
            return;
        }
    }
}

/// One subscription, from its start to its end.
async fn follow_once<R: Runtime>(runtime: &R, wakes: &mpsc::Sender<Wake>) -> Result<(), RuntimeError> {
    let subscribe = runtime.get_container_events();
    tokio::pin!(subscribe);
    let early = timeout(SUBSCRIBE_WAIT, &mut subscribe).await;
    // Subscribed first, listed then: nothing can fall between.
    let _ = wakes.send(Wake::All).await;
    let mut relist_at = Instant::now() + RELIST_INTERVAL;
    let mut events = match early {
        Ok(events) => events?,
        Err(_) => loop {
            tokio::select! {
                events = &mut subscribe => break events?,
                () = sleep_until(relist_at) => {
                    relist_at = Instant::now() + RELIST_INTERVAL;
                    let _ = wakes.send(Wake::All).await;
                }
            }
        },
    };
    loop {
        let event = tokio::select! {
            event = events.next() => event, // cancel-safe (futures: StreamExt::next)
            () = sleep_until(relist_at) => {
                relist_at = Instant::now() + RELIST_INTERVAL;
                let _ = wakes.send(Wake::All).await;
                continue;
            }
        };
        let Some(event) = event else { return Ok(()) };
        let uid = event?.pod_sandbox_status.and_then(|status| status.metadata).map(|metadata| metadata.uid);
        // Without the pod's status nobody knows whose event it is.
        let _ = wakes.send(uid.map_or(Wake::All, Wake::Pod)).await;
    }
}
