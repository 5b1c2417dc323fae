//! Processor time a second, from the readings of requests: nothing is read while nobody asks.

use std::sync::Mutex;

use crate::runtime::lock;

/// Readings closer together than this tell nothing about a rate.
const APART_MIN: i64 = 1_000_000_000;

/// The last reading of one counter, and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    last: Mutex<Last>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    /// Nanoseconds since 1970, and of processor time.
    reading: Option<(i64, u64)>,
    nanocores: Option<u64>,
}

impl Rate {
    /// The rate in billionths of a processor, given a counter's value at a time; `None` until two readings are a second apart.
    pub(crate) fn nanocores(&self, at: i64, nanos: u64) -> Option<u64> {
        let mut last = lock(&self.last);
        let Some((before, used)) = last.reading else {
            last.reading = Some((at, nanos));
            return None;
        };
        let apart = at.saturating_sub(before);
        if apart >= APART_MIN {
            let rate = u128::from(nanos.saturating_sub(used)) * 1_000_000_000 / u128::from(apart.unsigned_abs());
            *last = Last { reading: Some((at, nanos)), nanocores: u64::try_from(rate).ok() };
        } else if apart < 0 {
            *last = Last { reading: Some((at, nanos)), nanocores: last.nanocores }; // the clock went back
        }
        last.nanocores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_a_second_apart() {
        let rate = Rate::default();
        let at = |millis: i64| millis * 1_000_000;
        assert_eq!(rate.nanocores(at(0), 0), None);
        assert_eq!(rate.nanocores(at(500), 400_000_000), None);
        assert_eq!(rate.nanocores(at(2000), 1_000_000_000), Some(500_000_000));
        assert_eq!(rate.nanocores(at(2100), 1_100_000_000), Some(500_000_000));
        assert_eq!(rate.nanocores(at(1000), 5), Some(500_000_000));
        assert_eq!(rate.nanocores(at(2000), 1_000_000_005), Some(1_000_000_000));
    }
}
