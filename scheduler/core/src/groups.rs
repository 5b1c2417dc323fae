//! Pod groups: who belongs to which, how many are placed.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use crate::pod::PodSpec;

/// All groups of which a pod waits or is bound.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// By namespace and name.
    ids: HashMap<(String, String), u32>,
    groups: FxHashMap<u32, Group>,
    last: u32,
}

#[derive(Debug)]
struct Group {
    name: String,
    wanted: usize,
    bound: usize,
    /// Those that wait too.
    pods: usize,
}

impl Groups {
    /// The group of a pod.
    pub(crate) fn of(&self, spec: &PodSpec) -> Option<u32> {
        let group = spec.group.as_ref()?;
        self.ids.get(&(spec.namespace.clone(), group.name.clone())).copied()
    }

    /// A pod came. What the last pod says of the size holds.
    pub(crate) fn enter(&mut self, spec: &PodSpec) {
        let Some(group) = &spec.group else { return };
        let id = *self.ids.entry((spec.namespace.clone(), group.name.clone())).or_insert_with(|| {
            self.last = self.last.wrapping_add(1);
            self.last
        });
        let name = || format!("{}/{}", spec.namespace, group.name);
        let held = self.groups.entry(id).or_insert_with(|| Group { name: name(), wanted: 0, bound: 0, pods: 0 });
        held.wanted = group.min_member as usize;
        held.pods += 1;
    }

    /// A pod is gone.
    pub(crate) fn exit(&mut self, spec: &PodSpec) {
        let Some(id) = self.of(spec) else { return };
        let Some(held) = self.groups.get_mut(&id) else { return };
        held.pods -= 1;
        if held.pods == 0
            && let Some(group) = &spec.group
        {
            self.groups.remove(&id);
            self.ids.remove(&(spec.namespace.clone(), group.name.clone()));
        }
    }

    /// A pod was placed, or its place is free again.
    pub(crate) fn bound(&mut self, spec: &PodSpec, placed: bool) {
        if let Some(held) = self.of(spec).and_then(|id| self.groups.get_mut(&id)) {
            held.bound = if placed { held.bound + 1 } else { held.bound - 1 };
        }
    }

    /// A group's name, how many of it are placed together, and how many are.
    pub(crate) fn state(&self, id: u32) -> (String, usize, usize) {
        self.groups.get(&id).map(|group| (group.name.clone(), group.wanted, group.bound)).unwrap_or_default()
    }
}
