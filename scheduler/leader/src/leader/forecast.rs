//! What the scheduler thinks, without doing it: `explain` and `plan`.

use bytes::Bytes;
use podbus_common::api::{
    ExplainReply, ExplainRequest, ExplainedNode, PlanReply, PlanRequest, PlannedPod, Refused, Scored, Status,
};
use podbus_common::model::Pod;
use podbus_scheduler_core::NodeVerdict;

use super::Leader;
use crate::cluster::PodName;
use crate::{binding, intake, query};

/// Pods of one plan.
const PLAN_MAX: usize = 10_000;

impl Leader {
    /// What each node thinks of a pod.
    pub(super) fn explain(&mut self, namespace: Option<&str>, request: &ExplainRequest) -> Result<Bytes, Status> {
        let name = PodName::new(query::namespace_of(namespace)?, request.name.as_str());
        let pod = self.cluster.pod(&name).ok_or_else(|| query::not_found("pods", &name.name))?;
        let explained = self.core.explain(&pod.metadata.uid, &binding::spec(&pod));
        let conclusion = match self.why_not_considered(&pod) {
            Some(why) => format!("{why} As the cluster is now: {}", explained.conclusion),
            None => explained.conclusion,
        };
        let nodes = explained.nodes.into_iter().map(shown).collect();
        query::to_json(&ExplainReply { nodes, conclusion })
    }

    /// Why the scheduler does not even look for a place.
    fn why_not_considered(&self, pod: &Pod) -> Option<String> {
        if !pod.spec.node_name.is_empty() {
            return None;
        }
        let gates: Vec<_> = pod.spec.scheduling_gates.iter().map(|gate| gate.name.as_str()).collect();
        if !gates.is_empty() {
            return Some(format!("It waits until its scheduling gates are taken away: {}.", gates.join(", ")));
        }
        let name = &pod.spec.scheduler_name;
        let profiles = &self.settings.scheduling.profiles;
        let ours = profiles.iter().any(|profile| profile.scheduler_name == *name);
        (!ours).then(|| format!("It waits for a scheduler named {name:?}, and this one has no such profile."))
    }

    /// What would become of pods that are not stored.
    pub(super) fn plan_pods(&mut self, namespace: Option<&str>, request: &PlanRequest) -> Result<Bytes, Status> {
        if request.objects.len() > PLAN_MAX {
            return Err(query::bad_request(format!("a plan holds at most {PLAN_MAX} pods")));
        }
        let mut pods = Vec::new();
        for object in &request.objects {
            let own = object["metadata"]["namespace"].as_str().filter(|own| !own.is_empty());
            let namespace = namespace.or(own).unwrap_or(podbus_common::defaults::NAMESPACE);
            let asked = intake::read_object(Some(namespace), object, false, || 0)?;
            pods.push(intake::create(&asked, String::new(), self.settings.toleration_seconds, self.now.wall)?);
        }
        let specs: Vec<_> = pods.iter().map(binding::spec).collect();
        let planned = self.core.plan(&specs);
        let planned = pods.iter().zip(planned).map(|(pod, planned)| {
            let named = |uid: &String| {
                self.cluster
                    .name_of(uid)
                    .map_or_else(|| uid.clone(), |name| format!("{}/{}", name.namespace, name.name))
            };
            let there = !pod.metadata.name.is_empty() && self.cluster.kept(&PodName::of(pod)).is_some();
            let message = match self.why_not_considered(pod) {
                Some(why) => why,
                None if there => "there is a pod of this name already, which would be changed".to_owned(),
                None if !pod.spec.node_name.is_empty() => "it names its node, and goes around the scheduler".to_owned(),
                None => planned.message,
            };
            let waits = self.why_not_considered(pod).is_some();
            let node = if pod.spec.node_name.is_empty() {
                planned.node.unwrap_or_default()
            } else {
                pod.spec.node_name.clone()
            };
            PlannedPod {
                namespace: pod.metadata.namespace.clone(),
                name: if pod.metadata.name.is_empty() {
                    pod.metadata.generate_name.clone()
                } else {
                    pod.metadata.name.clone()
                },
                node: if waits { String::new() } else { node },
                preempts: planned.preempts.iter().map(named).collect(),
                message,
            }
        });
        query::to_json(&PlanReply { pods: planned.collect() })
    }
}

fn shown(verdict: NodeVerdict) -> ExplainedNode {
    let refused = |(filter, reason): (&str, String)| Refused { filter: filter.to_owned(), reason };
    let scored = |s: podbus_scheduler_core::PluginScore| Scored {
        plugin: s.plugin.to_owned(),
        score: s.score,
        weight: s.weight,
    };
    ExplainedNode {
        node: verdict.node,
        refusals: verdict.refusals.into_iter().map(refused).collect(),
        scores: verdict.scores.into_iter().map(scored).collect(),
        total: verdict.total,
    }
}
