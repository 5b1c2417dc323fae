//! Exponential back-off of restarts and of image pulls, as the kubelet counts it.
//!
//! One entry a key. A step is taken when something is tried; the window is measured from the end of that try.

use std::collections::BTreeMap;

use podbus_common::model::Timestamp;

/// The first window, seconds.
pub(crate) const WINDOW_SECONDS_MIN: i64 = 10;
/// The longest window, seconds.
pub(crate) const WINDOW_SECONDS_MAX: i64 = 300;
/// An entry whose last step is longer ago than this when the next failure comes is forgotten, seconds: what ran for
/// ten minutes is healthy.
pub(crate) const FORGET_SECONDS: i64 = 600;

/// The windows of one kind of thing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    window_seconds: i64,
    last_step: Timestamp,
}

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The window that is not over.
    pub(crate) window_seconds: i64,
    /// When it is over.
    pub(crate) until: Timestamp,
}

impl Backoff {
    /// Whether the next try must wait at `now`, the last one having ended at `ended`.
    pub(crate) fn check(&self, key: &str, ended: Timestamp, now: Timestamp) -> Result<(), Refused> {
        let Some(entry) = self.entries.get(key).filter(|e| !e.is_forgotten(ended)) else { return Ok(()) };
        let until = ended.plus_seconds(entry.window_seconds);
        // A wall clock that went back must not hold a container for hours.
        let clock_went_back = now < ended;
        if now >= until || clock_went_back {
            return Ok(());
        }
        Err(Refused { window_seconds: entry.window_seconds, until })
    }

    /// Notes a try at `now` after one that ended at `ended`: the next window is twice as long.
    pub(crate) fn step(&mut self, key: &str, ended: Timestamp, now: Timestamp) {
        let window_seconds = match self.entries.get(key).filter(|e| !e.is_forgotten(ended)) {
            None => WINDOW_SECONDS_MIN,
            Some(entry) => (entry.window_seconds * 2).min(WINDOW_SECONDS_MAX),
        };
        self.entries.insert(key.to_owned(), Entry { window_seconds, last_step: now });
    }

    /// Forgets `key`: what it stood for went well.
    pub(crate) fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

impl Entry {
    fn is_forgotten(&self, ended: Timestamp) -> bool {
        ended.seconds_since(self.last_step) > FORGET_SECONDS
    }
}

/// A window as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub(crate) fn window_text(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::default().plus_seconds(seconds)
    }

    #[test]
    fn windows_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = Backoff::default();
        let (mut now, mut delays) = (at(1000), Vec::new());
        for _ in 0..9 {
            let exit = now.plus_seconds(1);
            let start = match backoff.check("web", exit, exit) {
                Ok(()) => exit,
                Err(refused) => refused.until,
            };
            delays.push(start.seconds_since(exit));
            backoff.step("web", exit, start);
            now = start;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_run_of_more_than_ten_minutes_starts_the_count_anew() {
        let mut backoff = Backoff::default();
        for start in [at(0), at(100), at(200)] {
            backoff.step("web", start, start);
        }
        assert!(backoff.check("web", at(800), at(801)).is_err(), "600 s are not more than 600 s");
        assert_eq!(backoff.check("web", at(801), at(801)), Ok(()));
        backoff.step("web", at(801), at(801));
        let refused = backoff.check("web", at(802), at(803)).unwrap_err();
        assert_eq!(refused, Refused { window_seconds: 10, until: at(812) });
    }

    #[test]
    fn keys_are_apart_and_a_reset_one_waits_for_nothing() {
        let mut backoff = Backoff::default();
        backoff.step("a", at(0), at(0));
        assert_eq!(backoff.check("b", at(1), at(1)), Ok(()));
        backoff.reset("a");
        assert_eq!(backoff.check("a", at(1), at(1)), Ok(()));
    }

    #[test]
    fn a_clock_that_went_back_refuses_nothing() {
        let mut backoff = Backoff::default();
        backoff.step("a", at(5000), at(5000));
        assert_eq!(backoff.check("a", at(5001), at(100)), Ok(()));
    }

    #[test]
    fn windows_read_as_the_kubelet_prints_them() {
        let texts: Vec<_> = [10, 20, 40, 80, 160, 300].map(window_text).into();
        assert_eq!(texts, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s"]);
    }
}
