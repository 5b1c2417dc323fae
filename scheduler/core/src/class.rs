//! Classes: pods with the same spec, and what is known of them together.

use std::sync::Arc;

use foldhash::HashMap;
use podbus_common::model::TopologySpreadConstraint;

use crate::placement::PlacementId;
use crate::pod::{PodSpec, Shape};
use crate::topology::{Owner, TermId};

/// A class by its place in the table.
pub(crate) type ClassId = u32;

/// Pods with the same spec.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) placement: PlacementId,
    /// The number of its shape: classes that differ elsewhere may share it.
    pub(crate) shape: u64,
    /// Columns and amounts of resources that nodes name themselves.
    pub(crate) extended: Vec<(usize, u64)>,
    /// The profile that places it; `None`: another scheduler does.
    pub(crate) profile: Option<usize>,
    /// Terms that count a pod of this class.
    pub(crate) counted_in: Vec<TermId>,
    /// Terms that a pod of this class owns.
    pub(crate) owns: Vec<(TermId, Owner)>,
    /// It must be beside pods of each of these, and they are counted when all terms take them.
    pub(crate) affinity: Vec<TermId>,
    /// It takes itself: the first of its kind may be anywhere.
    pub(crate) affinity_of_self: bool,
    pub(crate) anti_affinity: Vec<TermId>,
    pub(crate) preferred: Vec<(i64, TermId)>,
    /// `DoNotSchedule`.
    pub(crate) spread_hard: Vec<Spread>,
    /// `ScheduleAnyway`.
    pub(crate) spread_soft: Vec<Spread>,
    /// All terms that it holds.
    pub(crate) held: Vec<TermId>,
    /// Pods that wait or are bound.
    pub(crate) pods: usize,
}

/// A constraint and its counters.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    pub(crate) term: TermId,
    pub(crate) constraint: TopologySpreadConstraint,
    /// The pod itself counts.
    pub(crate) counts_self: bool,
}

/// Numbers for what pods take.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// Number and users.
    numbers: HashMap<Shape, (u64, usize)>,
    last: u64,
}

impl Shapes {
    /// One more user of a shape.
    pub(crate) fn hold(&mut self, shape: &Shape) -> u64 {
        if let Some((number, users)) = self.numbers.get_mut(shape) {
            *users += 1;
            return *number;
        }
        self.last += 1;
        self.numbers.insert(shape.clone(), (self.last, 1));
        self.last
    }

    /// One user less.
    pub(crate) fn let_go(&mut self, shape: &Shape) {
        if let Some((_, users)) = self.numbers.get_mut(shape) {
            *users -= 1;
            if *users == 0 {
                self.numbers.remove(shape);
            }
        }
    }
}

/// All classes in use, and some that were.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    pub(crate) ids: HashMap<Arc<PodSpec>, ClassId>,
    pub(crate) table: Vec<Option<Class>>,
    pub(crate) free: Vec<ClassId>,
    /// Classes without a pod: kept for a while, because the next pod of the kind may be near.
    pub(crate) idle: usize,
}

impl Classes {
    #[expect(clippy::expect_used, reason = "a pod holds its class: an id without one is a bug")]
    pub(crate) fn get(&self, id: ClassId) -> &Class {
        self.table[id as usize].as_ref().expect("a class in use")
    }

    #[expect(clippy::expect_used, reason = "a pod holds its class: an id without one is a bug")]
    pub(crate) fn get_mut(&mut self, id: ClassId) -> &mut Class {
        self.table[id as usize].as_mut().expect("a class in use")
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClassId, &Class)> {
        (0..).zip(&self.table).filter_map(|(id, class)| Some((id, class.as_ref()?)))
    }

    /// A place for a class.
    pub(crate) fn insert(&mut self, class: Class) -> ClassId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            #[expect(clippy::cast_possible_truncation, reason = "classes fit in memory, so in 32 bits")]
            let id = (self.table.len() - 1) as ClassId;
            id
        });
        self.ids.insert(Arc::clone(&class.spec), id);
        self.table[id as usize] = Some(class);
        id
    }

    pub(crate) fn remove(&mut self, id: ClassId) -> Option<Class> {
        let class = self.table[id as usize].take()?;
        self.ids.remove(&class.spec);
        self.free.push(id);
        Some(class)
    }
}
