//! Words for scripts: what a found bug becomes.

use std::collections::BTreeSet;

use crate::clock::{Micros, ms, seconds};
use crate::world::{Event, World};

/// A message that will be lost.
#[derive(Debug)]
pub(crate) struct Loss {
    to: Receiver,
    /// So many before it arrive.
    after: usize,
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// A scheduler: what the store answers it.
    Scheduler(usize),
    /// A node: what the leader says to its agent.
    Node(usize),
}

impl World {
    /// So many messages to `to` still arrive, and the next one is lost.
    pub fn loses_message(&mut self, to: Receiver, after: usize) {
        self.losses.push(Loss { to, after });
    }

    /// Whether a script wants it to be lost.
    pub(crate) fn is_to_be_lost(&mut self, event: &Event) -> bool {
        let receiver = match event {
            Event::Scheduler { scheduler, .. } => Receiver::Scheduler(*scheduler),
            Event::Agent { node, .. } => Receiver::Node(*node),
            _ => return false,
        };
        let Some(at) = self.losses.iter().position(|loss| loss.to == receiver) else { return false };
        if self.losses[at].after > 0 {
            self.losses[at].after -= 1;
            return false;
        }
        self.losses.remove(at);
        true
    }

    /// A scheduler that was killed is started again.
    pub fn starts_scheduler(&mut self, scheduler: usize) {
        self.start_scheduler(scheduler);
    }

    /// Containers that run, on all nodes.
    pub fn running(&self) -> usize {
        self.nodes.iter().map(|node| node.runtime.running().count()).sum()
    }

    /// The IDs of the containers that run, on all nodes.
    pub fn containers(&self) -> BTreeSet<String> {
        self.nodes.iter().flat_map(|node| node.runtime.running().map(|(_, id)| id.clone())).collect()
    }

    /// What happens from now on is shown where a script fails.
    #[must_use]
    pub fn traced(mut self) -> Self {
        self.keep_trace();
        self
    }

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
