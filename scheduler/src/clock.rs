//! The clocks of this machine.

use std::time::{Duration, Instant};

use podbus_common::model::Timestamp;
use podbus_scheduler_leader::{Boottime, Now};

/// The moment that an input is heard at.
pub(crate) fn now() -> Now {
    Now { instant: Instant::now(), wall: wall() }
}

/// The time of the wall, for what a person reads.
pub(crate) fn wall() -> Timestamp {
    Timestamp::from_unix_ms(jiff::Timestamp::now().as_millisecond())
}

/// The clock that also runs while the machine sleeps.
pub(crate) fn boottime() -> Boottime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Boottime(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
}
