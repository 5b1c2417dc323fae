//! The best node for a pod: filters and scores together.

use std::collections::BTreeMap;

use crate::bitset::Bitset;
use crate::class::{Class, ClassId};
use crate::cluster::Cluster;
use crate::config::Weights;
use crate::filter::FilterReason;
use crate::nodes::{Column, PodId};
use crate::placement::Verdicts;
use crate::score::{SCORE_MAX, normalize, normalize_reverse};
use crate::topology::{NO_DOMAIN, Term, Topology};
use crate::view::{Asks, Views, has_ports, has_room};

/// The scores of one node, 0 to 100 each, before their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Scores {
    pub(crate) resources_fit: u32,
    pub(crate) balanced_allocation: u32,
    pub(crate) image_locality: u32,
    pub(crate) taint_toleration: u32,
    pub(crate) node_affinity: u32,
    pub(crate) topology_spread: u32,
    pub(crate) inter_pod_affinity: u32,
}

/// What other pods do to a class: the counters that matter, looked up once a pod.
struct Neighbours<'a> {
    class: &'a Class,
    topology: &'a Topology,
    /// Terms of pods that do not want this one beside them.
    repelled_by: Vec<&'a Term>,
    /// There are pods that want this one beside them, or away.
    weighed: bool,
    /// It is the first of its kind: required affinity holds anywhere.
    first: bool,
}

impl<'a> Neighbours<'a> {
    fn new(class: &'a Class, topology: &'a Topology) -> Self {
        let counted_in = || class.counted_in.iter().map(|id| topology.term(*id));
        let alone = class.affinity.iter().all(|id| topology.term(*id).matched_total == 0);
        Self {
            class,
            topology,
            repelled_by: counted_in().filter(|term| term.repelling_total > 0).collect(),
            weighed: counted_in().any(|term| term.weight_owners > 0),
            first: class.affinity_of_self && alone,
        }
    }

    /// Whether no node is refused or preferred for its neighbours.
    fn matter(&self) -> bool {
        let class = self.class;
        !(self.repelled_by.is_empty()
            && class.affinity.is_empty()
            && class.anti_affinity.is_empty()
            && class.spread_hard.is_empty())
    }

    fn score(&self) -> bool {
        self.weighed || !self.class.preferred.is_empty() || !self.class.spread_soft.is_empty()
    }

    /// Why the neighbours of a node do not do: PodTopologySpread, then InterPodAffinity.
    fn refuse(&self, slot: u32) -> Option<FilterReason> {
        let in_domain = |term: &Term, counts: &[u32]| {
            let domain = self.topology.domain(term.key.topology, slot);
            counts.get(domain as usize).copied().filter(|_| domain != NO_DOMAIN)
        };
        for spread in &self.class.spread_hard {
            let term = self.topology.term(spread.term);
            let domain = self.topology.domain(term.key.topology, slot);
            if domain == NO_DOMAIN {
                return Some(FilterReason::SpreadLabel);
            }
            let there = term.matched.get(domain as usize).copied().unwrap_or(0) + u32::from(spread.counts_self);
            let skew = i64::from(there) - i64::from(term.fewest(spread.constraint.min_domains));
            if skew > i64::from(spread.constraint.max_skew) {
                return Some(FilterReason::Spread);
            }
        }
        for id in &self.class.affinity {
            let term = self.topology.term(*id);
            let labelled = self.topology.domain(term.key.topology, slot) != NO_DOMAIN;
            let beside = in_domain(term, &term.matched).is_some_and(|count| count > 0);
            if !labelled || !(beside || self.first) {
                return Some(FilterReason::Affinity);
            }
        }
        for id in &self.class.anti_affinity {
            let term = self.topology.term(*id);
            if in_domain(term, &term.matched).is_some_and(|count| count > 0) {
                return Some(FilterReason::AntiAffinity);
            }
        }
        let repelled = self.repelled_by.iter().any(|term| in_domain(term, &term.repelling).is_some_and(|n| n > 0));
        repelled.then_some(FilterReason::ExistingAntiAffinity)
    }
}

impl Cluster {
    fn asks(&self, class: ClassId) -> Asks<'_> {
        let class = self.classes.get(class);
        let profile = &self.config.profiles[class.profile.unwrap_or(0)];
        Asks { class, profile, verdicts: self.placements.get(class.placement) }
    }

    /// The best node for a pod of `class`; `own` is the pod itself, whose nomination does not stand in its way.
    pub(crate) fn best(&mut self, class: ClassId, own: Option<PodId>) -> Option<u32> {
        // The views are the one part that changes: they stand beside what they look at.
        let mut views = std::mem::take(&mut self.views);
        let best = self.best_by(&mut views, class, own);
        self.views = views;
        best
    }

    fn best_by(&self, views: &mut Views, class: ClassId, own: Option<PodId>) -> Option<u32> {
        let asks = self.asks(class);
        asks.class.profile?;
        let neighbours = Neighbours::new(asks.class, &self.topology);
        let matter = neighbours.matter();
        let mut takes = |slot: u32| {
            (!matter || neighbours.refuse(slot).is_none())
                && (self.nodes.nominated_total == 0 || self.has_room_beside_nominated(class, slot, own))
        };
        let Verdicts { few, reluctance, attraction, .. } = asks.verdicts;
        let feasible: Vec<(u32, u32)> = if let Some(few) = few {
            let values = few.iter().map(|slot| (*slot, asks.value(&self.nodes, *slot)));
            values.filter(|(slot, value)| *value > 0 && takes(*slot)).collect()
        } else {
            let view = views.current(&asks, &self.nodes);
            if !neighbours.score() && reluctance.is_empty() && attraction.is_empty() {
                return view.best(&mut takes);
            }
            let values = (0..).zip(view.values().iter().copied());
            values.filter(|(slot, value)| *value > 0 && takes(*slot)).collect()
        };
        self.best_of(class, &feasible)
    }

    /// The best of nodes that do; of equals the first. Each comes with one more than its own score.
    fn best_of(&self, class: ClassId, feasible: &[(u32, u32)]) -> Option<u32> {
        let slots: Vec<u32> = feasible.iter().map(|(slot, _)| *slot).collect();
        let weights = &self.asks(class).profile.weights;
        let mut totals: Vec<u32> = feasible.iter().map(|(_, value)| *value).collect();
        let graded = self.grade(class, &slots);
        for (scores, weight) in graded.with_weights(weights) {
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
        }
        let mut best: Option<(u32, u32)> = None;
        for (total, slot) in totals.into_iter().zip(slots) {
            if best.is_none_or(|(highest, _)| total > highest) {
                best = Some((total, slot));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// The scores that are relative to the other nodes that do.
    fn grade(&self, class: ClassId, slots: &[u32]) -> Graded {
        let Asks { class, verdicts, .. } = self.asks(class);
        Graded {
            taint_toleration: relative(&verdicts.reluctance, slots, normalize_reverse),
            node_affinity: relative(&verdicts.attraction, slots, normalize),
            topology_spread: self.grade_spread(class, slots),
            inter_pod_affinity: self.grade_neighbours(class, slots),
        }
    }

    /// InterPodAffinity: what the pod wants, and what those that are there want of it.
    fn grade_neighbours(&self, class: &Class, slots: &[u32]) -> Vec<u32> {
        let others = class.counted_in.iter().map(|id| self.topology.term(*id)).filter(|term| term.weight_owners > 0);
        let others: Vec<_> = others.collect();
        if others.is_empty() && class.preferred.is_empty() {
            return Vec::new();
        }
        let mut pulls = vec![0_i64; slots.len()];
        for (weight, id) in &class.preferred {
            let term = self.topology.term(*id);
            self.add_by_domain(term.key.topology, slots, &mut pulls, |domain| {
                weight * i64::from(term.matched.get(domain).copied().unwrap_or(0))
            });
        }
        for term in others {
            self.add_by_domain(term.key.topology, slots, &mut pulls, |domain| {
                term.weight.get(domain).copied().unwrap_or(0)
            });
        }
        let min = pulls.iter().copied().min().unwrap_or(0);
        let span = u64::try_from(pulls.iter().copied().max().unwrap_or(0) - min).unwrap_or(0);
        if span == 0 {
            return Vec::new();
        }
        let score = |pull: &i64| match (u32::try_from(pull - min), u32::try_from(span)) {
            // As above: 32 bits are quicker.
            (Ok(pull), Ok(span)) if span < u32::MAX / 200 => 100 * pull / span,
            _ => small(normalize(u64::try_from(pull - min).unwrap_or(0), span)),
        };
        pulls.iter().map(score).collect()
    }

    fn add_by_domain(&self, key: u32, slots: &[u32], sums: &mut [i64], of: impl Fn(usize) -> i64) {
        let domains = self.topology.domains_of(key);
        for (sum, slot) in sums.iter_mut().zip(slots) {
            // No domain is beyond every count.
            *sum += of(domains.get(*slot as usize).copied().unwrap_or(NO_DOMAIN) as usize);
        }
    }

    /// PodTopologySpread, of constraints that may be broken: the emptier a node's domains the better; a node without
    /// one of the labels comes last.
    fn grade_spread(&self, class: &Class, slots: &[u32]) -> Vec<u32> {
        if class.spread_soft.is_empty() {
            return Vec::new();
        }
        let mut labelled = vec![true; slots.len()];
        for spread in &class.spread_soft {
            let domains = self.topology.domains_of(self.topology.term(spread.term).key.topology);
            for (labelled, slot) in labelled.iter_mut().zip(slots) {
                *labelled &= domains.get(*slot as usize).is_some_and(|domain| *domain != NO_DOMAIN);
            }
        }
        let mut crowds = vec![0.0_f64; slots.len()];
        for spread in &class.spread_soft {
            let term = self.topology.term(spread.term);
            let domains = self.topology.domains_of(term.key.topology);
            let mut seen = Bitset::default();
            let there = slots.iter().zip(&labelled).filter(|(_, labelled)| **labelled);
            there.for_each(|(slot, _)| seen.insert(domains[*slot as usize]));
            #[expect(clippy::cast_precision_loss, reason = "counts of domains are far below 2^52")]
            let weight = (seen.len() as f64 + 2.0).ln();
            let skew = f64::from(spread.constraint.max_skew - 1);
            for ((crowd, slot), _) in crowds.iter_mut().zip(slots).zip(&labelled).filter(|(_, labelled)| **labelled) {
                let there = term.matched.get(domains[*slot as usize] as usize).copied().unwrap_or(0);
                *crowd += f64::from(there) * weight + skew;
            }
        }
        // Rounded by hand: a call of `round` for each node costs more than all the rest. What is beyond 32 bits saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; a cast saturates")]
        let crowds: Vec<u32> = crowds.into_iter().map(|crowd| (crowd + 0.5) as u32).collect();
        let (mut max, mut min) = (0, u32::MAX);
        for (crowd, _) in crowds.iter().zip(&labelled).filter(|(_, labelled)| **labelled) {
            (max, min) = (max.max(*crowd), min.min(*crowd));
        }
        // Divisions of 32 bits are far quicker, and enough but for clusters of many millions of pods.
        let narrow = max < u32::MAX / 400;
        let score = |(crowd, labelled): (&u32, &bool)| match (*labelled, max) {
            (false, _) => 0,
            (true, 0) => small(SCORE_MAX),
            (true, max) if narrow => 100 * (max + min - crowd) / max,
            (true, max) => small(100 * (u64::from(max) + u64::from(min) - u64::from(*crowd)) / u64::from(max)),
        };
        crowds.iter().zip(&labelled).map(score).collect()
    }

    /// Whether the pod has room also when those are there for which others were asked to leave, as far as they have
    /// at least its priority.
    fn has_room_beside_nominated(&self, class: ClassId, slot: u32, own: Option<PodId>) -> bool {
        let nominated = &self.nodes.nominated[slot as usize];
        nominated.is_empty() || self.shortages(class, slot, own).is_empty()
    }

    /// NodeResourcesFit, each reason; nominated pods counted.
    fn shortages(&self, class: ClassId, slot: u32, own: Option<PodId>) -> Vec<FilterReason> {
        let (class, index) = (self.classes.get(class), slot as usize);
        let (mut extra, mut extra_extended) = (crate::Resources::default(), vec![0_u64; class.extended.len()]);
        for other in self.nodes.nominated[index].iter().filter(|other| Some(**other) != own) {
            let other = self.classes.get(self.pod(*other).class);
            if other.spec.priority < class.spec.priority {
                continue;
            }
            extra += other.spec.shape.requests;
            for (sum, (column, _)) in extra_extended.iter_mut().zip(&class.extended) {
                *sum += other.extended.iter().filter(|(c, _)| c == column).map(|(_, amount)| amount).sum::<u64>();
            }
        }
        let requests = class.spec.shape.requests;
        let mut reasons = Vec::new();
        if !self.nodes.pods.fits(index, requests.pods, extra.pods) {
            reasons.push(FilterReason::TooManyPods);
        }
        let mut check = |name: &str, column: &Column, request: u64, extra: u64| {
            if request > 0 && !column.fits(index, request, extra) {
                reasons.push(FilterReason::Insufficient(name.to_owned()));
            }
        };
        check("cpu", &self.nodes.cpu, requests.cpu_millis, extra.cpu_millis);
        check("memory", &self.nodes.memory, requests.memory_bytes, extra.memory_bytes);
        let storage = extra.ephemeral_storage_bytes;
        check("ephemeral-storage", &self.nodes.storage, requests.ephemeral_storage_bytes, storage);
        for ((column, amount), extra) in class.extended.iter().zip(extra_extended) {
            check(self.nodes.extended_name(*column), &self.nodes.extended[*column], *amount, extra);
        }
        reasons
    }

    /// All reasons why a known node cannot take a pod: none means that it can. The first filter that refuses ends the
    /// search, and only NodeResourcesFit gives several reasons, as in kube-scheduler.
    pub(crate) fn refuse(&self, class: ClassId, slot: u32, own: Option<PodId>) -> Vec<FilterReason> {
        let Asks { class: held, verdicts, .. } = self.asks(class);
        if let Some(reason) = verdicts.reason(&self.nodes.records[slot as usize]) {
            return vec![reason];
        }
        if !has_ports(&held.spec.shape, &self.nodes, slot) {
            return vec![FilterReason::Ports];
        }
        let shortages = self.shortages(class, slot, own);
        if !shortages.is_empty() {
            return shortages;
        }
        Neighbours::new(held, &self.topology).refuse(slot).into_iter().collect()
    }

    /// Whether a node could take a pod of `class` now.
    pub(crate) fn takes(&self, class: ClassId, slot: u32, own: Option<PodId>) -> bool {
        let Asks { class: held, verdicts, .. } = self.asks(class);
        verdicts.fine.holds(slot)
            && has_room(&held.spec.shape, &held.extended, &self.nodes, slot)
            && has_ports(&held.spec.shape, &self.nodes, slot)
            && self.has_room_beside_nominated(class, slot, own)
            && Neighbours::new(held, &self.topology).refuse(slot).is_none()
    }

    /// How many nodes refuse for which reason.
    pub(crate) fn reasons(&self, class: ClassId) -> BTreeMap<FilterReason, usize> {
        let mut reasons = BTreeMap::new();
        for slot in self.nodes.known.iter() {
            for reason in self.refuse(class, slot, None) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        reasons
    }

    /// All scores of nodes that do, before their weights.
    pub(crate) fn scores(&self, class: ClassId, slots: &[u32]) -> Vec<Scores> {
        let (asks, graded) = (self.asks(class), self.grade(class, slots));
        let of = |index: usize, slot: u32| {
            let [resources_fit, balanced_allocation, image_locality] = asks.own_scores(&self.nodes, slot);
            let at = |scores: &Vec<u32>, otherwise: u32| scores.get(index).copied().unwrap_or(otherwise);
            Scores {
                resources_fit,
                balanced_allocation,
                image_locality,
                // Where no node has such a taint, all are equally fine.
                taint_toleration: at(&graded.taint_toleration, small(SCORE_MAX)),
                node_affinity: at(&graded.node_affinity, 0),
                topology_spread: at(&graded.topology_spread, 0),
                inter_pod_affinity: at(&graded.inter_pod_affinity, 0),
            }
        };
        slots.iter().enumerate().map(|(index, slot)| of(index, *slot)).collect()
    }
}

/// Scores by node; empty where a score is the same for all.
struct Graded {
    taint_toleration: Vec<u32>,
    node_affinity: Vec<u32>,
    topology_spread: Vec<u32>,
    inter_pod_affinity: Vec<u32>,
}

impl Graded {
    fn with_weights(&self, weights: &Weights) -> [(&Vec<u32>, u32); 4] {
        [
            (&self.taint_toleration, weights.taint_toleration),
            (&self.node_affinity, weights.node_affinity),
            (&self.topology_spread, weights.topology_spread),
            (&self.inter_pod_affinity, weights.inter_pod_affinity),
        ]
    }
}

/// Counts of nodes as scores, relative to the highest.
fn relative(counts: &[u32], slots: &[u32], normalize: fn(u64, u64) -> u64) -> Vec<u32> {
    if counts.is_empty() {
        return Vec::new();
    }
    let at = |slot: &u32| u64::from(counts.get(*slot as usize).copied().unwrap_or(0));
    let most = slots.iter().map(at).max().unwrap_or(0);
    slots.iter().map(|slot| small(normalize(at(slot), most))).collect()
}

fn small(score: u64) -> u32 {
    u32::try_from(score).unwrap_or(0)
}
