//! What the scheduler thinks of each node, and what it would do, without doing it.

use crate::class::ClassId;
use crate::cluster::PodState;
use crate::nodes::PodId;
use crate::pod::PodSpec;
use crate::scheduler::Scheduler;

/// Every node's verdict on one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Those that can take it first, the best at the top; then the others, by name.
    pub nodes: Vec<NodeVerdict>,
    /// All in one plain sentence.
    pub conclusion: String,
}

/// One node's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVerdict {
    /// Its name.
    pub node: String,
    /// The filter that refuses, and why; empty: it can take the pod.
    pub refusals: Vec<(&'static str, String)>,
    /// Of a node that can take it.
    pub scores: Vec<PluginScore>,
    /// The sum of scores times weights.
    pub total: u32,
}

/// One score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PluginScore {
    /// kube-scheduler's name of it.
    pub plugin: &'static str,
    /// 0 to 100.
    pub score: u32,
    /// How much it counts.
    pub weight: u32,
}

/// What would become of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPod {
    /// Where it would go; `None`: it would wait.
    pub node: Option<String>,
    /// UIDs of the pods that would be asked to leave for it.
    pub preempts: Vec<String>,
    /// Why it would wait, or has no place until others leave.
    pub message: String,
}

impl Scheduler {
    /// Every node's verdict on a pod, as if it had no node yet. `uid`: itself, where it is bound or waits already.
    pub fn explain(&mut self, uid: &str, spec: &PodSpec) -> Explanation {
        let (own, class) = (self.cluster.pod_of(uid), self.cluster.class_of(spec));
        let place = own.and_then(|id| match self.cluster.pod(id).state {
            PodState::Bound { slot, .. } => Some((id, slot)),
            PodState::Waits => None,
        });
        if let Some((id, slot)) = place {
            self.cluster.count(id, slot, false);
        }
        let nodes = self.verdicts(class, own);
        let waits = if self.cluster.nodes.known_len() == 0 || nodes.first().is_none_or(|n| !n.refusals.is_empty()) {
            Some(self.message(class))
        } else {
            None
        };
        if let Some((id, slot)) = place {
            self.cluster.count(id, slot, true);
        }
        let on = place.map(|(_, slot)| self.cluster.nodes.records[slot as usize].name.clone());
        let conclusion = conclude(&nodes, on.as_deref(), waits);
        Explanation { nodes, conclusion }
    }

    fn verdicts(&mut self, class: ClassId, own: Option<PodId>) -> Vec<NodeVerdict> {
        let (mut able, mut refused) = (Vec::new(), Vec::new());
        for slot in self.cluster.nodes.known.iter() {
            let node = self.cluster.nodes.records[slot as usize].name.clone();
            let reasons = self.cluster.refuse(class, slot, own);
            if reasons.is_empty() {
                able.push(slot);
            } else {
                let refusals = reasons.iter().map(|reason| (reason.plugin(), reason.to_string())).collect();
                refused.push(NodeVerdict { node, refusals, scores: Vec::new(), total: 0 });
            }
        }
        let weights = self.cluster.config.profiles[self.cluster.classes.get(class).profile.unwrap_or(0)].weights;
        let scores = self.cluster.scores(class, &able);
        let mut verdicts: Vec<_> = able
            .iter()
            .zip(scores)
            .map(|(slot, s)| {
                let scores = [
                    ("NodeResourcesFit", s.resources_fit, weights.resources_fit),
                    ("NodeResourcesBalancedAllocation", s.balanced_allocation, weights.balanced_allocation),
                    ("ImageLocality", s.image_locality, weights.image_locality),
                    ("TaintToleration", s.taint_toleration, weights.taint_toleration),
                    ("NodeAffinity", s.node_affinity, weights.node_affinity),
                    ("PodTopologySpread", s.topology_spread, weights.topology_spread),
                    ("InterPodAffinity", s.inter_pod_affinity, weights.inter_pod_affinity),
                ];
                let total = scores.iter().map(|(_, score, weight)| score * weight).sum();
                let scores = scores.map(|(plugin, score, weight)| PluginScore { plugin, score, weight }).into();
                let node = self.cluster.nodes.records[*slot as usize].name.clone();
                NodeVerdict { node, refusals: Vec::new(), scores, total }
            })
            .collect();
        // A stable sort: of equals the first comes first, as it would be chosen.
        verdicts.sort_by_key(|verdict| std::cmp::Reverse(verdict.total));
        refused.sort_by(|a, b| a.node.cmp(&b.node));
        verdicts.extend(refused);
        verdicts
    }

    /// What would become of pods that come now together: in the order of their priorities, each seeing those before
    /// it. The answers are in the order of `specs`. Nothing is changed by it.
    pub fn plan(&mut self, specs: &[PodSpec]) -> Vec<PlannedPod> {
        let mut order: Vec<usize> = (0..specs.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(specs[*index].priority));
        let (mut planned, mut placed, mut gone) = (vec![None; specs.len()], Vec::new(), Vec::new());
        for index in order {
            // No UID looks so.
            let id = self.cluster.add_pod(&format!("plan {index}"), &specs[index]);
            placed.push(id);
            planned[index] = Some(self.plan_one(id, &mut gone));
        }
        for id in placed {
            self.cluster.unbind(id);
            self.cluster.remove_pod(id);
        }
        for (victim, slot) in gone {
            self.cluster.bind(victim, slot);
        }
        planned.into_iter().flatten().collect()
    }

    fn plan_one(&mut self, id: PodId, gone: &mut Vec<(PodId, u32)>) -> PlannedPod {
        let class = self.cluster.pod(id).class;
        if self.cluster.classes.get(class).profile.is_none() {
            let name = &self.cluster.spec_of(id).scheduler_name;
            let message = format!("no profile of this scheduler is named {name:?}");
            return PlannedPod { node: None, preempts: Vec::new(), message };
        }
        let name = |slot: u32, scheduler: &Self| scheduler.cluster.nodes.records[slot as usize].name.clone();
        if let Some(slot) = self.cluster.best(class, Some(id)) {
            self.cluster.bind(id, slot);
            return PlannedPod { node: Some(name(slot, self)), preempts: Vec::new(), message: String::new() };
        }
        let message = self.message(class);
        match self.cluster.preempt(class, id) {
            Ok(candidate) => {
                let preempts = candidate.victims.iter().map(|id| self.cluster.pod(*id).uid.to_string()).collect();
                for victim in candidate.victims {
                    self.cluster.unbind(victim);
                    gone.push((victim, candidate.slot));
                }
                self.cluster.bind(id, candidate.slot);
                PlannedPod { node: Some(name(candidate.slot, self)), preempts, message }
            }
            Err(preemption) if self.cluster.nodes.known_len() > 0 => {
                PlannedPod { node: None, preempts: Vec::new(), message: format!("{message} {preemption}") }
            }
            Err(_) => PlannedPod { node: None, preempts: Vec::new(), message },
        }
    }
}

/// One sentence for a person.
fn conclude(nodes: &[NodeVerdict], on: Option<&str>, waits: Option<String>) -> String {
    let able = nodes.iter().filter(|node| node.refusals.is_empty()).count();
    let of = if able == 1 { "the only node that can".to_owned() } else { format!("the best of {able} nodes that can") };
    match (nodes.first(), on, waits) {
        (_, Some(on), Some(why)) => {
            format!("It is on {on}; if it had to be placed again now, no node could take it: {why}")
        }
        (_, None, Some(why)) => format!("It waits, because no node can take it: {why}"),
        (Some(best), Some(on), None) if best.node == on => {
            format!("It is on {on}, which is {of} take it now, with a score of {}.", best.total)
        }
        (Some(best), Some(on), None) => {
            let score = nodes.iter().find(|node| node.node == on).map_or(0, |node| node.total);
            format!(
                "It is on {on} (score {score}); if it had to be placed again now, it would go to {}, {of} take it, \
                 with a score of {}.",
                best.node, best.total
            )
        }
        (Some(best), None, None) => {
            format!("It goes to {}, {of} take it, with a score of {}.", best.node, best.total)
        }
        (None, _, None) => "There are no nodes.".to_owned(),
    }
}
