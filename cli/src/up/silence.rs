//! A bus that runs and takes no writes: nats-server whose disk was full stays so when there is space again, until it is
//! started anew (2.9 and 2.14 alike).

use std::time::Duration;

use tokio::time::Instant;

/// How long the scheduler may give no answer, or none but that it cannot write, until the bus is suspected.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Less than this and a new start would stop at the same place.
const FREE_MIB_MIN: u64 = 16;

/// What to do about a silent cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing but waiting.
    Wait,
    /// A person has to make room: so much is left, in MiB.
    MakeRoom(u64),
    /// The bus is to be started anew.
    Restart,
}

/// Since when nobody answers.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    since: Option<Instant>,
}

impl Silence {
    /// Takes note of one look at the cluster. `excused`: there is a reason to wait, as when the bus is not connected.
    pub(crate) fn note(&mut self, answers: bool, excused: bool, now: Instant, free_mib: impl Fn() -> u64) -> Remedy {
        if answers || excused {
            self.since = None;
            return Remedy::Wait;
        }
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) < SILENCE_MAX {
            return Remedy::Wait;
        }
        match free_mib() {
            free if free < FREE_MIB_MIN => Remedy::MakeRoom(free),
            _ => {
                self.since = None;
                Remedy::Restart
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_started_anew_after_a_long_silence_once_its_disk_has_room() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silence.note(false, false, at(0), || 0), Remedy::Wait);
        assert_eq!(silence.note(false, false, at(9), || 0), Remedy::Wait);
        assert_eq!(silence.note(false, false, at(10), || 3), Remedy::MakeRoom(3));
        assert_eq!(silence.note(false, false, at(20), || 100), Remedy::Restart);
        assert_eq!(silence.note(false, false, at(21), || 100), Remedy::Wait, "it needs time to start");
        assert_eq!(silence.note(false, true, at(40), || 100), Remedy::Wait, "an excuse ends the silence");
        assert_eq!(silence.note(false, false, at(41), || 100), Remedy::Wait);
        assert_eq!(silence.note(true, false, at(60), || 100), Remedy::Wait);
        assert_eq!(silence.note(false, false, at(61), || 100), Remedy::Wait);
    }
}
