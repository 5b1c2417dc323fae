//! Words for scripts: what a found bug becomes.

use crate::clock::{Micros, ms, seconds};
use crate::world::World;

impl World {
    /// Time passes.
    ///
    /// # Panics
    /// When a rule is broken.
    pub fn milliseconds_pass(&mut self, milliseconds: u64) {
        self.run_to(self.now + ms(milliseconds));
        assert_eq!(self.invariants.broken, None, "{}", self.trace().join("\n"));
    }

    /// Until all is as it must be.
    ///
    /// # Panics
    /// When it is not within 15 minutes, or a rule is broken.
    pub fn all_is_well(&mut self) {
        let wrong = self.settle(seconds(900));
        assert_eq!(wrong, None, "{}", self.trace().join("\n"));
    }

    /// Runs until all is well for a while, for `patience` at most; what is wrong then.
    pub(crate) fn settle(&mut self, patience: Micros) -> Option<String> {
        let end = self.now + patience;
        let mut well = 0;
        loop {
            self.run_to(self.now + seconds(1));
            if let Some(rule) = self.invariants.broken.take() {
                return Some(rule);
            }
            let unsettled = self.unsettled();
            well = if unsettled.is_none() { well + 1 } else { 0 };
            if well == 3 {
                return None;
            }
            if self.now >= end {
                return unsettled.map(|what| format!("in the end: {what}"));
            }
        }
    }
}
