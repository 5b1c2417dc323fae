//! What breaks: drawn from the seed, a few kinds in each run, so that each kind is also met without the others.

use crate::clock::{Micros, ms, seconds};
use crate::dice::Dice;
use crate::world::{Event, World};

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KillScheduler,
    StopScheduler,
    PartScheduler,
    KillAgent,
    StopAgent,
    PartNode,
    CutPower,
    FullDisk,
    StopStore,
    RestoreStore,
    LoseStore,
    KillContainer,
    KillSandbox,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::KillScheduler,
        Self::StopScheduler,
        Self::PartScheduler,
        Self::KillAgent,
        Self::StopAgent,
        Self::PartNode,
        Self::CutPower,
        Self::FullDisk,
        Self::StopStore,
        Self::RestoreStore,
        Self::LoseStore,
        Self::KillContainer,
        Self::KillSandbox,
    ];

    /// About half of all kinds.
    pub(crate) fn some(dice: &mut Dice) -> Vec<Self> {
        Self::ALL.into_iter().filter(|_| dice.permille(500)).collect()
    }
}

/// One thing that breaks or is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    KillScheduler(usize),
    /// SIGSTOP.
    StopScheduler(usize),
    /// SIGCONT.
    ContinueScheduler(usize),
    /// Its connection to the bus breaks.
    PartScheduler(usize),
    /// It is there again.
    JoinScheduler(usize),
    /// SIGKILL; containers run on.
    KillAgent(usize),
    /// SIGSTOP.
    StopAgent(usize),
    /// SIGCONT.
    ContinueAgent(usize),
    /// Its connection to the bus breaks.
    PartNode(usize),
    /// It is there again.
    JoinNode(usize),
    /// The machine goes down, and its disk loses what was not synced.
    CutPower(usize),
    /// The machine starts again.
    Boot(usize),
    /// The disk takes no writes.
    FillDisk(usize),
    /// It takes writes again.
    FreeDisk(usize),
    /// The pause process of one of its pods ends.
    KillSandbox(usize),
    /// nats-server is gone.
    StopStore,
    /// nats-server is back, with all that it acknowledged.
    StartStore,
    /// Somebody copies nats-server's directory.
    CopyStore,
    /// nats-server starts with the copy that was made last: the store goes back in time.
    RestoreStore,
    /// nats-server starts with an empty directory.
    LoseStore,
}

impl World {
    /// Draws what breaks next, and when it is mended.
    pub(crate) fn choose_fault(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.fault_dice.within(ms(100)..seconds(4));
        self.after(next, Event::Chaos);
        if self.kinds.is_empty() {
            return;
        }
        let kind = self.kinds[self.fault_dice.index(self.kinds.len())];
        let scheduler = self.fault_dice.index(self.schedulers.len());
        let node = self.fault_dice.index(self.nodes.len());
        let (short, long) = (self.fault_dice.within(ms(5)..seconds(2)), self.fault_dice.within(ms(100)..seconds(20)));
        match kind {
            Kind::KillScheduler => {
                self.befall(&Fault::KillScheduler(scheduler));
                self.after(short, Event::SchedulerStarts { scheduler });
            }
            Kind::StopScheduler => {
                self.both(Fault::StopScheduler(scheduler), Fault::ContinueScheduler(scheduler), short * 3);
            }
            Kind::PartScheduler => {
                self.both(Fault::PartScheduler(scheduler), Fault::JoinScheduler(scheduler), short * 3);
            }
            Kind::KillAgent => {
                self.befall(&Fault::KillAgent(node));
                self.after(short, Event::AgentStarts { node });
            }
            Kind::StopAgent => self.both(Fault::StopAgent(node), Fault::ContinueAgent(node), long),
            Kind::PartNode => self.both(Fault::PartNode(node), Fault::JoinNode(node), long),
            Kind::CutPower => self.both(Fault::CutPower(node), Fault::Boot(node), long),
            Kind::FullDisk => self.both(Fault::FillDisk(node), Fault::FreeDisk(node), short * 2),
            Kind::StopStore => self.both(Fault::StopStore, Fault::StartStore, short * 2),
            // Once in a run: who remembers what of several pasts is not promised.
            Kind::RestoreStore | Kind::LoseStore if self.store.went_back => {}
            Kind::RestoreStore if self.fault_dice.permille(700) => self.befall(&Fault::CopyStore),
            Kind::LoseStore if self.fault_dice.permille(800) => {}
            Kind::RestoreStore => self.both(Fault::StopStore, Fault::RestoreStore, short * 2),
            Kind::LoseStore => self.both(Fault::StopStore, Fault::LoseStore, short * 2),
            Kind::KillContainer => self.kill_container(node),
            Kind::KillSandbox => self.befall(&Fault::KillSandbox(node)),
        }
    }

    fn both(&mut self, breaks: Fault, mends: Fault, span: Micros) {
        self.befall(&breaks);
        self.after(span, Event::Fault(mends));
    }

    /// Something breaks, or is mended.
    pub fn befall(&mut self, fault: &Fault) {
        self.note(|| format!("fault       {fault:?}"));
        match *fault {
            Fault::KillScheduler(scheduler) => self.kill_scheduler(scheduler),
            Fault::StopScheduler(scheduler) => self.stop_scheduler(scheduler),
            Fault::ContinueScheduler(scheduler) => self.continue_scheduler(scheduler),
            Fault::PartScheduler(scheduler) => self.schedulers[scheduler].linked = false,
            Fault::JoinScheduler(scheduler) => {
                let process = &mut self.schedulers[scheduler];
                process.connects += u64::from(!process.linked);
                process.linked = true;
            }
            Fault::KillAgent(node) => self.kill_agent(node),
            Fault::StopAgent(node) => self.stop_agent(node),
            Fault::ContinueAgent(node) => self.continue_agent(node),
            Fault::PartNode(node) => self.nodes[node].linked = false,
            Fault::JoinNode(node) => self.nodes[node].linked = true,
            Fault::CutPower(node) => {
                if self.nodes[node].up {
                    self.cut_power(node);
                }
            }
            Fault::Boot(node) => self.boot(node),
            Fault::FillDisk(node) => self.nodes[node].disk.set_full(true),
            Fault::FreeDisk(node) => self.nodes[node].disk.set_full(false),
            Fault::KillSandbox(node) => self.kill_sandbox(node),
            Fault::StopStore => self.store.down = true,
            Fault::StartStore => self.start_store(),
            Fault::CopyStore => self.store.copy(),
            Fault::RestoreStore | Fault::LoseStore if self.store.went_back => self.start_store(),
            Fault::RestoreStore => {
                self.store.down = true;
                self.store.restore();
                self.store_went_back();
                self.start_store();
            }
            Fault::LoseStore => {
                self.store.down = true;
                self.store.lose();
                self.store_went_back();
                self.start_store();
            }
        }
    }

    fn start_store(&mut self) {
        if std::mem::replace(&mut self.store.down, false) {
            self.store.starts += 1;
            self.schedulers.iter_mut().for_each(|process| process.connects += 1);
        }
    }

    fn store_went_back(&mut self) {
        self.invariants.store_went_back();
        self.client.store_went_back();
    }

    fn kill_container(&mut self, index: usize) {
        let ids: Vec<_> = self.nodes[index].runtime.running().map(|(_, id)| id.clone()).collect();
        if let Some(id) = ids.get(self.fault_dice.index(ids.len())) {
            let boot = self.nodes[index].boot;
            self.exit(index, boot, id, 137);
        }
    }

    fn kill_sandbox(&mut self, index: usize) {
        let at = self.now;
        let node = &mut self.nodes[index];
        let all: Vec<_> = node.runtime.sandboxes().map(|(id, sandbox)| (id.clone(), sandbox.uid.clone())).collect();
        if let Some((id, uid)) = all.get(self.fault_dice.index(all.len())).cloned() {
            let wall = node.clock.wall(at);
            node.runtime.end_sandbox(&id, wall);
            self.note(|| format!("fault       the pause process of {id} of {uid} dies"));
            self.wake_worker(index, uid);
        }
    }

    /// Everything is mended, and nothing breaks any more.
    pub(crate) fn mend(&mut self) {
        self.note(|| "all is mended".to_owned());
        self.quiet = true;
        self.client.rests = true;
        self.network.calm_down();
        self.befall(&Fault::StartStore);
        for scheduler in 0..self.schedulers.len() {
            self.befall(&Fault::JoinScheduler(scheduler));
            self.befall(&Fault::ContinueScheduler(scheduler));
            self.after(0, Event::SchedulerStarts { scheduler });
        }
        for node in 0..self.nodes.len() {
            for fault in [Fault::JoinNode(node), Fault::FreeDisk(node), Fault::ContinueAgent(node), Fault::Boot(node)] {
                self.befall(&fault);
            }
            self.after(0, Event::AgentStarts { node });
        }
    }
}
