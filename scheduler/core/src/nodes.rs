//! The nodes as a struct of arrays, and the journal of those that changed.

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::bitset::Bitset;
use crate::labels::LabelIndex;
use crate::node::Node;
use crate::pod::{HostPort, Shape};
use crate::resources::Resources;
use crate::score::{CPU_MILLIS_DEFAULT, MEMORY_BYTES_DEFAULT};

/// A pod, as a place in the slab of all pods.
pub(crate) type PodId = u32;

/// One resource: what each node has of it, and what is taken.
#[derive(Debug, Default)]
pub(crate) struct Column {
    pub(crate) all: Vec<u64>,
    pub(crate) used: Vec<u64>,
}

impl Column {
    fn grow(&mut self, slots: usize) {
        self.all.resize(slots, 0);
        self.used.resize(slots, 0);
    }

    #[inline]
    pub(crate) fn fits(&self, slot: usize, request: u64, extra: u64) -> bool {
        self.used[slot].saturating_add(request).saturating_add(extra) <= self.all[slot]
    }
}

/// All nodes. A slot is never given to another name, so what is bound to a node that is away stays counted.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    slots: HashMap<String, u32>,
    /// Registered; without a record for a name that only bound pods know.
    pub(crate) known: Bitset,
    pub(crate) records: Vec<Node>,
    pub(crate) cpu: Column,
    pub(crate) memory: Column,
    pub(crate) storage: Column,
    pub(crate) pods: Column,
    /// Resources that nodes name themselves.
    pub(crate) extended: Vec<Column>,
    extended_names: Vec<String>,
    /// Requests with a default where nothing is asked, by which nodes are compared.
    pub(crate) scored_cpu: Vec<u64>,
    pub(crate) scored_memory: Vec<u64>,
    /// The pods on each node.
    pub(crate) bound: Vec<Vec<PodId>>,
    pub(crate) ports: Vec<Vec<HostPort>>,
    /// How many pods of each priority a node has; few differ.
    priorities: Vec<Vec<(i32, u32)>>,
    /// The same of all nodes.
    priorities_of_all: BTreeMap<i32, usize>,
    /// Waiting pods for which others were asked to leave.
    pub(crate) nominated: Vec<Vec<PodId>>,
    pub(crate) nominated_total: usize,
    pub(crate) labels: LabelIndex,
    /// How many nodes have an image.
    pub(crate) images: HashMap<String, u64>,
    /// Counts changes of images: each concerns the scores of all nodes.
    pub(crate) image_changes: u64,
    /// Slots whose resources or labels changed, oldest first, and how many were dropped before them.
    journal: Vec<u32>,
    journal_dropped: u64,
}

impl Nodes {
    pub(crate) fn slot(&self, name: &str) -> Option<u32> {
        self.slots.get(name).copied()
    }

    /// How many slots there are, of nodes that are away too.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn known_len(&self) -> usize {
        self.known.len()
    }

    /// The slot of a name, made where there is none.
    pub(crate) fn slot_of(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.slot(name) {
            return slot;
        }
        #[expect(clippy::cast_possible_truncation, reason = "names of nodes fit in memory, so in 32 bits")]
        let slot = self.records.len() as u32;
        self.slots.insert(name.to_owned(), slot);
        self.records.push(Node { name: name.to_owned(), ..Node::default() });
        let slots = self.records.len();
        let fixed = [&mut self.cpu, &mut self.memory, &mut self.storage, &mut self.pods];
        fixed.into_iter().chain(&mut self.extended).for_each(|column| column.grow(slots));
        self.scored_cpu.resize(slots, 0);
        self.scored_memory.resize(slots, 0);
        self.bound.resize_with(slots, Vec::new);
        self.ports.resize_with(slots, Vec::new);
        self.priorities.resize_with(slots, Vec::new);
        self.nominated.resize_with(slots, Vec::new);
        slot
    }

    /// Replaces a node's record. Labels and images are indexed only while it is known.
    pub(crate) fn replace(&mut self, slot: u32, node: Option<Node>) {
        let index = slot as usize;
        if self.known.holds(slot) {
            let before = std::mem::take(&mut self.records[index]);
            self.labels.remove(slot, &before.labels);
            self.count_images(&before.images, false);
            self.records[index].name = before.name;
        }
        self.known.set(slot, node.is_some());
        if let Some(node) = node {
            self.labels.add(slot, &node.labels);
            self.count_images(&node.images, true);
            self.set_amounts(index, node.allocatable, &node.extended);
            self.records[index] = node;
        }
        self.changed(slot);
    }

    fn set_amounts(&mut self, index: usize, allocatable: Resources, extended: &BTreeMap<String, u64>) {
        self.cpu.all[index] = allocatable.cpu_millis;
        self.memory.all[index] = allocatable.memory_bytes;
        self.storage.all[index] = allocatable.ephemeral_storage_bytes;
        self.pods.all[index] = allocatable.pods;
        self.extended.iter_mut().for_each(|column| column.all[index] = 0);
        for (name, amount) in extended {
            let column = self.extended_of(name);
            self.extended[column].all[index] = *amount;
        }
    }

    fn count_images(&mut self, images: &BTreeMap<String, u64>, there: bool) {
        for name in images.keys() {
            let count = self.images.entry(name.clone()).or_default();
            *count = if there { *count + 1 } else { count.saturating_sub(1) };
        }
        self.image_changes += u64::from(!images.is_empty());
    }

    /// The column of a resource, made where there is none.
    pub(crate) fn extended_of(&mut self, name: &str) -> usize {
        if let Some(index) = self.extended_names.iter().position(|known| known == name) {
            return index;
        }
        let mut column = Column::default();
        column.grow(self.records.len());
        self.extended.push(column);
        self.extended_names.push(name.to_owned());
        self.extended.len() - 1
    }

    /// The column of a resource, where any node or pod ever named it.
    pub(crate) fn extended_column(&self, name: &str) -> Option<&Column> {
        self.extended_names.iter().position(|known| known == name).map(|index| &self.extended[index])
    }

    pub(crate) fn extended_name(&self, column: usize) -> &str {
        &self.extended_names[column]
    }

    /// Counts what a pod takes. `extended`: columns and amounts.
    pub(crate) fn take(&mut self, slot: u32, shape: &Shape, extended: &[(usize, u64)]) {
        let index = slot as usize;
        let Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes, pods } = shape.requests;
        self.cpu.used[index] = self.cpu.used[index].saturating_add(cpu_millis);
        self.memory.used[index] = self.memory.used[index].saturating_add(memory_bytes);
        self.storage.used[index] = self.storage.used[index].saturating_add(ephemeral_storage_bytes);
        self.pods.used[index] = self.pods.used[index].saturating_add(pods);
        let (cpu, memory) = scored(shape.requests);
        self.scored_cpu[index] = self.scored_cpu[index].saturating_add(cpu);
        self.scored_memory[index] = self.scored_memory[index].saturating_add(memory);
        for (column, amount) in extended {
            let used = &mut self.extended[*column].used[index];
            *used = used.saturating_add(*amount);
        }
        self.ports[index].extend(shape.ports.iter().cloned());
    }

    /// Undoes [`Self::take`].
    pub(crate) fn give_back(&mut self, slot: u32, shape: &Shape, extended: &[(usize, u64)]) {
        let index = slot as usize;
        let Resources { cpu_millis, memory_bytes, ephemeral_storage_bytes, pods } = shape.requests;
        self.cpu.used[index] = self.cpu.used[index].saturating_sub(cpu_millis);
        self.memory.used[index] = self.memory.used[index].saturating_sub(memory_bytes);
        self.storage.used[index] = self.storage.used[index].saturating_sub(ephemeral_storage_bytes);
        self.pods.used[index] = self.pods.used[index].saturating_sub(pods);
        let (cpu, memory) = scored(shape.requests);
        self.scored_cpu[index] = self.scored_cpu[index].saturating_sub(cpu);
        self.scored_memory[index] = self.scored_memory[index].saturating_sub(memory);
        for (column, amount) in extended {
            let used = &mut self.extended[*column].used[index];
            *used = used.saturating_sub(*amount);
        }
        for port in &shape.ports {
            if let Some(position) = self.ports[index].iter().position(|taken| taken == port) {
                self.ports[index].swap_remove(position);
            }
        }
    }

    /// What is taken of the resources that every node has.
    pub(crate) fn used(&self, slot: u32) -> Resources {
        let index = slot as usize;
        Resources {
            cpu_millis: self.cpu.used[index],
            memory_bytes: self.memory.used[index],
            ephemeral_storage_bytes: self.storage.used[index],
            pods: self.pods.used[index],
        }
    }
}

/// CPU and memory by which nodes are compared: what is asked, or a default, so that pods that ask nothing spread too.
pub(crate) fn scored(requests: Resources) -> (u64, u64) {
    let or = |amount, default| if amount == 0 { default } else { amount };
    (or(requests.cpu_millis, CPU_MILLIS_DEFAULT), or(requests.memory_bytes, MEMORY_BYTES_DEFAULT))
}

// === Priorities ===

impl Nodes {
    /// A pod of this priority came to a node, or left.
    pub(crate) fn count_priority(&mut self, slot: u32, priority: i32, comes: bool) {
        let (here, all) = (&mut self.priorities[slot as usize], self.priorities_of_all.entry(priority).or_default());
        match (here.iter().position(|(other, _)| *other == priority), comes) {
            (Some(index), true) => here[index].1 += 1,
            (None, true) => here.push((priority, 1)),
            (Some(index), false) if here[index].1 > 1 => here[index].1 -= 1,
            (Some(index), false) => {
                here.swap_remove(index);
            }
            (None, false) => {}
        }
        *all = if comes { *all + 1 } else { all.saturating_sub(1) };
        if *all == 0 {
            self.priorities_of_all.remove(&priority);
        }
    }

    /// The lowest priority of any pod on a node.
    pub(crate) fn lowest_priority(&self) -> Option<i32> {
        self.priorities_of_all.keys().next().copied()
    }

    /// The lowest priority of the pods of one node.
    pub(crate) fn lowest_priority_on(&self, slot: u32) -> Option<i32> {
        self.priorities[slot as usize].iter().map(|(priority, _)| *priority).min()
    }
}

// === The journal ===

impl Nodes {
    /// Notes that what was computed of a node is old.
    pub(crate) fn changed(&mut self, slot: u32) {
        if self.journal.len() >= self.records.len().max(1024) {
            self.journal_dropped += self.journal.len() as u64;
            self.journal.clear();
        }
        self.journal.push(slot);
    }

    /// The generation: how many changes there were.
    pub(crate) fn generation(&self) -> u64 {
        self.journal_dropped + self.journal.len() as u64
    }

    /// What changed since `generation`; `None`: too much, look at all.
    pub(crate) fn changed_since(&self, generation: u64) -> Option<&[u32]> {
        let skip = generation.checked_sub(self.journal_dropped)?;
        self.journal.get(usize::try_from(skip).ok()?..)
    }
}
