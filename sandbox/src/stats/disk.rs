//! How much a writable layer holds. Walking it takes as long as there are files: a large one is walked in the
//! background, and a request gets what the last walk found.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podbus_common_tree::{Holding, Walk};
use tokio::sync::Semaphore;

use crate::runtime::lock;

/// How old a figure may be before it is measured again: as containerd has it.
const AGE_MAX: Duration = Duration::from_secs(10);
/// What a request walks itself: some milliseconds. An image's writable layer is seldom larger.
const ENTRIES_AT_ONCE: u64 = 2000;
/// Walks in the background at a time, of all containers: they take the disk from the containers themselves.
static WALKS: Semaphore = Semaphore::const_new(2);

/// The last figure of one directory.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    holding: Option<Holding>,
    at: Option<Instant>,
    is_walking: bool,
}

impl Meter {
    /// What `dir` held at the last walk; `None` until the first one of a large directory has ended.
    pub(crate) fn read(self: &Arc<Self>, dir: &Path) -> Option<Holding> {
        {
            let mut last = lock(&self.last);
            let is_fresh = last.at.is_some_and(|at| at.elapsed() < AGE_MAX);
            if is_fresh || last.is_walking {
                return last.holding;
            }
            last.is_walking = true;
        }
        match Walk::new(dir) {
            Err(_) => self.ended(Holding::default()), // one that is not there holds nothing
            Ok(mut walk) => match walk.advance(ENTRIES_AT_ONCE) {
                true => self.ended(walk.holding()),
                false => self.walk_on(walk),
            },
        }
        lock(&self.last).holding
    }

    /// Without a free turn the figure stays as it was, and the next request tries again.
    fn walk_on(self: &Arc<Self>, mut walk: Walk) {
        let Ok(turn) = WALKS.try_acquire() else {
            lock(&self.last).is_walking = false;
            return;
        };
        let meter = Arc::clone(self);
        std::thread::spawn(move || {
            let _turn = turn;
            walk.advance(u64::MAX);
            meter.ended(walk.holding());
        });
    }

    fn ended(&self, holding: Holding) {
        *lock(&self.last) = Last { holding: Some(holding), at: Some(Instant::now()), is_walking: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_directory_is_measured_at_once_and_one_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "x").unwrap();
        let held = Arc::new(Meter::default()).read(dir.path()).unwrap();
        assert_eq!(held.inodes, 1);
        assert_eq!(Arc::new(Meter::default()).read(&dir.path().join("none")), Some(Holding::default()));
    }
}
