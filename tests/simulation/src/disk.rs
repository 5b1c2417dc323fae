//! A node's disk: the journal of its desired set. What was synced survives everything; what was only written survives
//! a killed agent, and not always a power cut.

use std::cell::RefCell;
use std::rc::Rc;

use podbus_node_agent_core::agent::Journal;
use podbus_node_agent_core::desired::{DesiredSet, Record};

use crate::dice::Dice;

/// The disk; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Rc<RefCell<Content>>);

#[derive(Debug, Default)]
struct Content {
    lines: Vec<String>,
    synced: usize,
    full: bool,
    owed: bool,
}

impl Disk {
    /// Reads the journal, and writes it anew without what is over, as an agent does at its start.
    pub(crate) fn open(&self) -> (OpenJournal, DesiredSet) {
        let mut content = self.0.borrow_mut();
        let mut set = DesiredSet::default();
        for line in &content.lines {
            let record: Record = serde_json::from_str(line).expect("the journal holds what was written");
            set.replay(record);
        }
        content.lines = lines(&set.snapshot());
        content.synced = content.lines.len();
        (OpenJournal { disk: self.clone(), unwritten: Vec::new() }, set)
    }

    /// A sync is over.
    pub(crate) fn sync(&self) {
        let mut content = self.0.borrow_mut();
        content.synced = content.lines.len();
    }

    /// Whether all that was written is synced.
    pub(crate) fn is_synced(&self) -> bool {
        let content = self.0.borrow();
        content.synced == content.lines.len()
    }

    /// Some of what was not synced is gone.
    pub(crate) fn cut_power(&self, dice: &mut Dice) {
        let mut content = self.0.borrow_mut();
        let kept = content.synced + dice.index(content.lines.len() - content.synced + 1);
        content.lines.truncate(kept);
    }

    /// An agent waits for room to write down what it heard.
    pub(crate) fn is_owed(&self) -> bool {
        self.0.borrow().owed
    }

    /// It takes nothing while it is full.
    pub(crate) fn set_full(&self, full: bool) {
        self.0.borrow_mut().full = full;
    }
}

/// The journal of an agent that runs.
#[derive(Debug)]
pub(crate) struct OpenJournal {
    disk: Disk,
    unwritten: Vec<String>,
}

impl Journal for OpenJournal {
    fn append(&mut self, set: &mut DesiredSet) -> Result<(), String> {
        self.unwritten.append(&mut lines(&set.take_records()));
        let mut content = self.disk.0.borrow_mut();
        if content.full && !self.unwritten.is_empty() {
            content.owed = true;
            return Err("No space left on device".to_owned());
        }
        content.owed = false;
        content.lines.append(&mut self.unwritten);
        Ok(())
    }
}

fn lines(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| serde_json::to_string(record).expect("a record is JSON")).collect()
}
