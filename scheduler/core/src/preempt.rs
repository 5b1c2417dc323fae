//! DefaultPreemption: whom a pod of higher priority may push out, so that it has a place.

use std::cmp::Reverse;

use crate::class::ClassId;
use crate::cluster::Cluster;
use crate::nodes::PodId;

/// Candidates are looked for until there are so many, or a tenth of the nodes (kube-scheduler's
/// `minCandidateNodesAbsolute` and `minCandidateNodesPercentage`).
const CANDIDATES_MIN: usize = 100;

/// Who must leave, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) slot: u32,
    pub(crate) victims: Vec<PodId>,
}

impl Cluster {
    /// The node on which the least is lost, or kube-scheduler's words why there is none.
    pub(crate) fn preempt(&mut self, class: ClassId, own: PodId) -> Result<Candidate, String> {
        let spec = &self.classes.get(class).spec;
        if spec.never_preempts {
            return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let priority = spec.priority;
        let known = self.nodes.known.clone();
        let wanted = CANDIDATES_MIN.max(self.nodes.known_len() / 10);
        let mut candidates = Vec::new();
        if self.nodes.lowest_priority().is_some_and(|lowest| lowest < priority) {
            for slot in known.iter() {
                if self.nodes.lowest_priority_on(slot).is_some_and(|lowest| lowest < priority)
                    && self.refuse(class, slot, Some(own)).iter().all(crate::FilterReason::is_resolvable)
                    && let Some(victims) = self.victims(class, own, priority, slot)
                {
                    candidates.push(Candidate { slot, victims });
                    if candidates.len() >= wanted {
                        break;
                    }
                }
            }
        }
        let best = candidates.into_iter().min_by_key(|candidate| self.loss(candidate));
        best.ok_or_else(|| self.no_victims(class, own))
    }

    /// The pods of lower priority that must leave `slot`, as few and as unimportant as can be. `None`: that would not
    /// help.
    fn victims(&mut self, class: ClassId, own: PodId, priority: i32, slot: u32) -> Option<Vec<PodId>> {
        let bound = &self.nodes.bound[slot as usize];
        let mut lower: Vec<_> = bound.iter().copied().filter(|id| self.spec_of(*id).priority < priority).collect();
        // The more important come back first: higher priority, then who came first.
        lower.sort_by_key(|id| (Reverse(self.spec_of(*id).priority), self.pod(*id).sequence));
        lower.iter().for_each(|id| self.count(*id, slot, false));
        let mut victims = Vec::new();
        let helps = self.takes(class, slot, Some(own));
        for id in lower {
            self.count(id, slot, true);
            if helps && !self.takes(class, slot, Some(own)) {
                self.count(id, slot, false);
                victims.push(id);
            }
        }
        victims.iter().for_each(|id| self.count(*id, slot, true));
        helps.then_some(victims)
    }

    /// What a candidate costs, the least first: the highest priority that is lost, then their sum, then how many;
    /// then rather those that came last.
    fn loss(&self, candidate: &Candidate) -> (i32, i64, usize, Reverse<u64>, u32) {
        let priority = |id: &PodId| self.spec_of(*id).priority;
        let highest = candidate.victims.iter().map(priority).max().unwrap_or(i32::MIN);
        // As in kube-scheduler, shifted so that more victims of negative priority are no gain.
        let sum = candidate.victims.iter().map(|id| i64::from(priority(id)) - i64::from(i32::MIN)).sum();
        let top = candidate.victims.iter().filter(|id| priority(id) == highest);
        let first = top.map(|id| self.pod(*id).sequence).min().unwrap_or(0);
        (highest, sum, candidate.victims.len(), Reverse(first), candidate.slot)
    }

    fn no_victims(&self, class: ClassId, own: PodId) -> String {
        let nodes = self.nodes.known_len();
        let (mut resolvable, mut hopeless) = (0, 0);
        for slot in self.nodes.known.iter() {
            if self.refuse(class, slot, Some(own)).iter().all(crate::FilterReason::is_resolvable) {
                resolvable += 1;
            } else {
                hopeless += 1;
            }
        }
        let told = [
            (resolvable, "No preemption victims found for incoming pod"),
            (hopeless, "Preemption is not helpful for scheduling"),
        ];
        let mut told: Vec<_> = told.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
        told.sort();
        format!("preemption: 0/{nodes} nodes are available: {}.", told.join(", "))
    }
}
