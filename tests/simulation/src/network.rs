//! The bus: how long a message takes, how often it comes, and whether it comes at all.

use crate::clock::{Micros, ms, seconds};
use crate::dice::Dice;

/// How bad the bus is.
#[derive(Debug)]
pub(crate) struct Network {
    dice: Dice,
    /// Messages of a thousand that are lost.
    lost: u64,
    /// Messages of a thousand that come twice.
    doubled: u64,
    /// Messages of a thousand that take up to half a second.
    slow: u64,
    /// Messages of a thousand that take up to eight seconds: buffers of a process that was stopped.
    late: u64,
    /// The last message of clients: they speak in order, as over one connection.
    calls_until: Micros,
}

impl Network {
    pub(crate) fn calm() -> Self {
        Self { dice: Dice::new(1, "network"), lost: 0, doubled: 0, slow: 0, late: 0, calls_until: 0 }
    }

    pub(crate) fn stormy(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "network");
        let mut some = |most: u64| if dice.permille(500) { dice.within(0..most) } else { 0 };
        let (lost, doubled, slow, late) = (some(100), some(100), some(200), some(20));
        Self { dice, lost, doubled, slow, late, calls_until: 0 }
    }

    /// From now on every message comes, soon and once.
    pub(crate) fn calm_down(&mut self) {
        (self.lost, self.doubled, self.slow, self.late) = (0, 0, 0, 0);
    }

    /// When one message arrives: never, once, or more than once.
    pub(crate) fn deliver(&mut self, linked: bool) -> Vec<Micros> {
        if !linked || self.dice.permille(self.lost) {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.dice.permille(self.doubled));
        (0..copies).map(|_| self.span()).collect()
    }

    /// When a call of a client arrives, if it does. One comes after the other and none comes twice, as on one
    /// connection to one server: what a client gave up must not be done after what it asked for later.
    pub(crate) fn deliver_call(&mut self, now: Micros) -> Option<Micros> {
        if self.dice.permille(self.lost) {
            return None;
        }
        let at = (now + self.span().min(seconds(2))).max(self.calls_until + 1);
        self.calls_until = at;
        Some(at - now)
    }

    fn span(&mut self) -> Micros {
        if self.dice.permille(self.late) {
            self.dice.within(ms(500)..seconds(8))
        } else if self.dice.permille(self.slow) {
            self.dice.within(ms(2)..ms(500))
        } else {
            self.dice.within(50..ms(2))
        }
    }
}
