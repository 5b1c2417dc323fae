//! Waiting: until a condition holds, or while nothing is asked of the machine.

use std::time::{Duration, Instant};

/// How long a test waits for what has to come: a machine that is busy with many tests is slow.
pub const PATIENCE: Duration = Duration::from_secs(90);

const PAUSE_MIN: Duration = Duration::from_millis(3);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Looks until there is something.
///
/// # Panics
///
/// When there is nothing within [`PATIENCE`], also because a look does not end.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = tokio::time::timeout(PATIENCE, look()).await.ok().flatten() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        rest(pause(begin.elapsed())).await;
    }
}

/// Looks until all is well; after `patience` the answer is what is wrong.
///
/// # Errors
///
/// That of the last look.
pub async fn retry<T, E>(patience: Duration, mut look: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    loop {
        match look().await {
            Err(_) if begin.elapsed() < patience => rest(pause(begin.elapsed())).await,
            outcome => return outcome,
        }
    }
}

/// [`retry`] for those who have no runtime.
///
/// # Errors
///
/// That of the last look.
pub fn retry_blocking<T, E>(patience: Duration, mut look: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    loop {
        match look() {
            Err(_) if begin.elapsed() < patience => std::thread::sleep(pause(begin.elapsed())),
            outcome => return outcome,
        }
    }
}

/// Lets the machine be for a while: what is measured is what it does meanwhile, or has to be over before.
pub async fn rest(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Between two looks: what comes soon is seen soon, and a long wait takes little of the processor.
fn pause(waited: Duration) -> Duration {
    (waited / 4).clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_until_all_is_well() {
        let mut looks = 0;
        let found = retry_blocking(PATIENCE, || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(found, Ok(3));
    }

    #[tokio::test]
    async fn what_is_wrong_at_the_end_is_the_answer() {
        let mut looks = 0;
        let wrong = retry(Duration::ZERO, async || {
            looks += 1;
            Err::<(), _>(looks)
        });
        assert_eq!(wrong.await, Err(1));
    }
}
