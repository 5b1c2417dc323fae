//! Networks of pods made in advance, while the node has nothing else to do: a new pod takes one instead of waiting some
//! 2 ms for its own.
//!
//! They are held as descriptors only, and their addresses are leased in memory: a daemon that dies leaves none behind.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Attached, Network, NetworkError};

/// How long nobody may have taken one before more are made: a storm of pods needs the processors itself.
const QUIET: Duration = Duration::from_millis(5);
/// After a failure, which the next pod will meet and tell.
const RETRY: Duration = Duration::from_secs(10);

/// The networks that wait for a pod.
pub(crate) struct Pool {
    network: Network,
    ready: Mutex<VecDeque<Attached>>,
    wanted: usize,
    taken: Notify,
}

impl Pool {
    /// Keeps `wanted` networks ready from now on. To be called on the async runtime, with which it ends.
    pub(crate) fn start(network: Network, wanted: usize) -> Arc<Self> {
        let pool = Arc::new(Self { network, ready: Mutex::default(), wanted, taken: Notify::new() });
        if wanted > 0 {
            tokio::spawn(Arc::clone(&pool).fill());
        }
        pool
    }

    /// One that is ready, or else one made now.
    pub(crate) async fn take(&self) -> Result<Attached, NetworkError> {
        let ready = self.ready().pop_front();
        self.taken.notify_one();
        match ready {
            Some(attached) => Ok(attached),
            None => self.make().await,
        }
    }

    async fn fill(self: Arc<Self>) {
        loop {
            while self.ready().len() < self.wanted {
                if tokio::time::timeout(QUIET, self.taken.notified()).await.is_ok() {
                    continue; // not quiet yet
                }
                match self.make().await {
                    Ok(attached) => self.ready().push_back(attached),
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "cannot make a network in advance");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
            self.taken.notified().await;
        }
    }

    async fn make(&self) -> Result<Attached, NetworkError> {
        let network = self.network.clone();
        let made = tokio::task::spawn_blocking(move || network.attach()).await;
        made.unwrap_or_else(|error| {
            Err(NetworkError::Kernel { action: "make the network".to_owned(), source: io::Error::other(error) })
        })
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<Attached>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner) // whole networks go in and out
    }
}
