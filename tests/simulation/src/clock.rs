//! Time: one true time that nobody knows, and the clocks of machines, which are set wrongly and drift.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use podbus_common::model::Timestamp;
use podbus_scheduler_leader::Boottime;

use crate::dice::Dice;

/// Microseconds since the simulation began.
pub(crate) type Micros = u64;

/// So many microseconds.
pub(crate) const fn ms(milliseconds: u64) -> Micros {
    milliseconds * 1000
}

/// So many microseconds.
pub(crate) const fn seconds(seconds: u64) -> Micros {
    seconds * 1_000_000
}

/// What the wall clock says in the beginning: some day in 2027.
const WALL_MS: i64 = 1_800_000_000_000;

/// The clocks of one machine.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// Seconds of this machine in a million true ones.
    rate: u64,
    wall_offset_ms: i64,
    /// The machine ran so long before.
    uptime: Micros,
}

impl Clock {
    /// A clock that is right.
    pub(crate) fn exact() -> Self {
        Self { rate: 1_000_000, wall_offset_ms: 0, uptime: seconds(1000) }
    }

    /// A clock that is up to 5 % too fast or too slow and up to 1.5 s wrong.
    pub(crate) fn poor(dice: &mut Dice) -> Self {
        let wall_offset_ms = i64::try_from(dice.within(0..3000)).unwrap_or(0) - 1500;
        Self { rate: dice.within(950_000..1_050_000), wall_offset_ms, uptime: seconds(dice.within(0..1_000_000)) }
    }

    fn local(&self, at: Micros) -> Micros {
        at / 1_000_000 * self.rate + at % 1_000_000 * self.rate / 1_000_000
    }

    /// CLOCK_BOOTTIME.
    pub(crate) fn boottime(&self, at: Micros) -> Boottime {
        Boottime(Duration::from_micros(self.uptime + self.local(at)))
    }

    /// CLOCK_MONOTONIC.
    pub(crate) fn instant(&self, at: Micros) -> Instant {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        // Only differences count, so a run is the same whenever it begins.
        *BEGINNING.get_or_init(Instant::now) + Duration::from_micros(self.uptime + self.local(at))
    }

    /// The time of the wall.
    pub(crate) fn wall(&self, at: Micros) -> Timestamp {
        let ms = i64::try_from(self.local(at) / 1000).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(WALL_MS + self.wall_offset_ms + ms)
    }

    /// How long it truly takes until `span` has passed on this machine.
    pub(crate) fn truly(&self, span: Duration) -> Micros {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX / 2);
        (micros.saturating_mul(1_000_000) / self.rate).saturating_add(1)
    }
}
