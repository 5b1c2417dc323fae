//! What pods need and nobody has asked for yet, made in advance while the node has nothing else to do.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How long nobody may have taken one before more are made: a storm of pods needs the processors itself, and so do the
/// containers of a pod, which follow its sandbox within these.
const QUIET: Duration = Duration::from_millis(20);
/// After a failure, which the next pod will meet and tell.
const RETRY: Duration = Duration::from_secs(10);

/// The things that wait for a pod. They live in memory and as descriptors: a daemon that dies leaves none behind.
pub(crate) struct Pool<T> {
    ready: Mutex<VecDeque<T>>,
    wanted: usize,
    taken: Notify,
}

impl<T> Pool<T> {
    /// An empty one, which [`Pool::fill`] keeps at `wanted`.
    pub(crate) fn new(wanted: usize) -> Self {
        Self { ready: Mutex::default(), wanted, taken: Notify::new() }
    }

    /// One that is ready.
    pub(crate) fn take(&self) -> Option<T> {
        let ready = self.ready().pop_front();
        self.taken.notify_one();
        ready
    }

    /// How many are ready.
    pub(crate) fn len(&self) -> usize {
        self.ready().len()
    }

    /// Makes what is missing, one after the other, for as long as `make` has something to make it with.
    pub(crate) async fn fill<E: Error + 'static, F>(&self, make: impl Fn() -> F)
    where
        F: Future<Output = Option<Result<T, E>>>,
    {
        loop {
            while self.ready().len() < self.wanted {
                if tokio::time::timeout(QUIET, self.taken.notified()).await.is_ok() {
                    continue; // not quiet yet
                }
                match make().await {
                    Some(Ok(made)) => self.ready().push_back(made),
                    Some(Err(error)) => {
                        tracing::debug!(error = &error as &dyn Error, "cannot make in advance what pods need");
                        tokio::time::sleep(RETRY).await;
                    }
                    None => return,
                }
            }
            self.taken.notified().await;
        }
    }

    fn ready(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner) // whole things go in and out
    }
}
