//! Pods as memory keeps them: a few hundred bytes each.
//!
//! Pods are alike. What is a pod's own (names, moments, addresses) is kept beside a template, which is the rest, and
//! which all that have the same share. Taken together they are what was put in.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::mem;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use foldhash::{HashSet, HashSetExt as _};
use podbus_common::model::{ObjectMeta, Pod, PodPhase, PodSpec, PodStatus, Timestamp};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::cluster::PodName;
use crate::record::StatusRecord;

/// Fewer templates are not searched for such as nobody has any more.
const SWEEP_MIN: usize = 1_024;

/// Templates, each as long as somebody has it.
#[derive(Debug)]
pub(crate) struct Templates<T> {
    all: HashSet<Arc<T>>,
    /// The last one that was shared: what comes in a row is mostly alike.
    last: Option<Arc<T>>,
    /// How many there may be until those without a user are looked for.
    sweep_at: usize,
}

impl<T> Default for Templates<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), last: None, sweep_at: SWEEP_MIN }
    }
}

impl<T: Eq + Hash> Templates<T> {
    fn share(&mut self, template: T) -> Arc<T> {
        if let Some(last) = self.last.as_ref().filter(|last| ***last == template) {
            return Arc::clone(last);
        }
        let shared = self.shared(template);
        self.last = Some(Arc::clone(&shared));
        shared
    }

    fn shared(&mut self, template: T) -> Arc<T> {
        if let Some(there) = self.all.get(&template) {
            return Arc::clone(there);
        }
        if self.all.len() >= self.sweep_at {
            self.all.retain(|template| Arc::strong_count(template) > 1);
            self.sweep_at = SWEEP_MIN.max(2 * self.all.len());
        }
        let template = Arc::new(template);
        self.all.insert(Arc::clone(&template));
        template
    }
}

/// What was asked of a pod. Its name is what it is kept under.
#[derive(Debug, PartialEq)]
pub(crate) struct KeptPod {
    pub(crate) uid: Arc<str>,
    /// Empty: none.
    node: Arc<str>,
    pub(crate) generation: u64,
    created: Option<Timestamp>,
    deletion: Option<Timestamp>,
    grace_seconds: Option<u32>,
    /// All else.
    template: Arc<PodTemplate>,
}

/// What pods have in common that are alike.
#[derive(Debug)]
pub(crate) struct PodTemplate {
    pod: Pod,
    /// The fields of its spec: it is said often, and is most of what is said.
    spec_json: OnceLock<Fields>,
}

/// Of a JSON object.
type Fields = BTreeMap<Box<str>, Box<RawValue>>;

impl Deref for PodTemplate {
    type Target = Pod;

    fn deref(&self) -> &Pod {
        &self.pod
    }
}

impl PartialEq for PodTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.pod == other.pod
    }
}

impl Eq for PodTemplate {}

impl Hash for PodTemplate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pod.hash(state);
    }
}

/// A pod as JSON, without a copy of its spec.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodJson<'a> {
    api_version: &'a str,
    kind: &'a str,
    pub(crate) metadata: ObjectMeta,
    spec: SpecJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<PodStatus>,
}

/// A spec, and the node beside it.
#[derive(Debug)]
enum SpecJson<'a> {
    Known { node: &'a str, fields: &'a Fields },
    Own(Box<PodSpec>),
}

impl Serialize for SpecJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (node, fields) = match self {
            Self::Own(spec) => return spec.serialize(serializer),
            Self::Known { node, fields } => (node, fields),
        };
        let mut map = serializer.serialize_map(None)?;
        if !node.is_empty() {
            map.serialize_entry("nodeName", node)?;
        }
        for (name, value) in fields.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl KeptPod {
    /// `node`: of the pod, as it is shared.
    pub(crate) fn new(pod: Arc<Pod>, node: Arc<str>, templates: &mut Templates<PodTemplate>) -> Self {
        let mut template = Arc::unwrap_or_clone(pod);
        template.spec.node_name = String::new();
        let own = &mut template.metadata;
        own.name = String::new();
        Self {
            uid: mem::take(&mut own.uid).into(),
            node,
            generation: mem::take(&mut own.generation),
            created: own.creation_timestamp.take(),
            deletion: own.deletion_timestamp.take(),
            grace_seconds: own.deletion_grace_period_seconds.take(),
            template: templates.share(PodTemplate { pod: template, spec_json: OnceLock::new() }),
        }
    }

    /// As it was put in.
    pub(crate) fn pod(&self, name: &PodName) -> Pod {
        Pod { metadata: self.metadata(name), spec: self.spec(), ..self.template.pod.clone() }
    }

    /// As it was put in, to be written.
    pub(crate) fn json(&self, name: &PodName) -> PodJson<'_> {
        let Pod { api_version, kind, spec, .. } = &self.template.pod;
        // Templates that one pod has alone are not worth the memory: two more have it, the set of all and this one.
        let known = if Arc::strong_count(&self.template) > 2 && self.template.spec_json.get().is_none() {
            // A spec that was read from JSON is JSON.
            let fields = serde_json::to_string(spec).and_then(|json| serde_json::from_str(&json)).ok();
            fields.map(|fields| self.template.spec_json.get_or_init(|| fields))
        } else {
            self.template.spec_json.get()
        };
        let own = || SpecJson::Own(Box::new(self.spec()));
        let spec = known.map_or_else(own, |fields| SpecJson::Known { node: &self.node, fields });
        PodJson { api_version, kind, metadata: self.metadata(name), spec, status: None }
    }

    fn metadata(&self, name: &PodName) -> ObjectMeta {
        ObjectMeta {
            name: name.name.to_string(),
            uid: self.uid.to_string(),
            generation: self.generation,
            creation_timestamp: self.created,
            deletion_timestamp: self.deletion,
            deletion_grace_period_seconds: self.grace_seconds,
            ..self.template.pod.metadata.clone()
        }
    }

    fn spec(&self) -> PodSpec {
        PodSpec { node_name: self.node.to_string(), ..self.template.pod.spec.clone() }
    }

    /// What it has in common with others: its spec and its labels, but no name, no node and no moment.
    pub(crate) fn template(&self) -> &Arc<PodTemplate> {
        &self.template
    }

    /// Its node; empty: none.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// When it was created.
    pub(crate) fn created(&self) -> Option<Timestamp> {
        self.created
    }

    /// Whether it is being deleted.
    pub(crate) fn is_terminating(&self) -> bool {
        self.deletion.is_some()
    }
}

/// What a pod is.
#[derive(Debug, PartialEq)]
pub(crate) struct KeptStatus {
    pub(crate) uid: Arc<str>,
    host_ip: Arc<str>,
    agent_epoch: u64,
    sequence: u64,
    /// Milliseconds since the Unix epoch, as [`visit_own`] finds them.
    times: Box<[i64]>,
    /// As [`visit_own`] finds them.
    texts: Box<[Box<str>]>,
    template: Arc<PodStatus>,
}

impl KeptStatus {
    /// `uid`: of the pod that has the name, as it is kept; `host_ip`: of the record, as it is shared.
    pub(crate) fn new(
        record: Arc<StatusRecord>,
        uid: Option<&Arc<str>>,
        host_ip: Arc<str>,
        templates: &mut Templates<PodStatus>,
    ) -> Self {
        let StatusRecord { uid: own_uid, agent_epoch, sequence, mut status } = Arc::unwrap_or_clone(record);
        status.host_ip = String::new();
        status.host_ips.iter_mut().filter(|listed| *listed.ip == *host_ip).for_each(|listed| listed.ip = String::new());
        let (mut times, mut texts) = (Vec::new(), Vec::new());
        visit_own(&mut status, &mut |own| match own {
            Own::Time(time) => times.push(mem::take(time).unix_ms),
            Own::Text(text) => texts.push(mem::take(text).into_boxed_str()),
        });
        Self {
            uid: uid.filter(|uid| ***uid == *own_uid).map_or_else(|| own_uid.as_str().into(), Arc::clone),
            host_ip,
            agent_epoch,
            sequence,
            times: times.into(),
            texts: texts.into(),
            template: templates.share(status),
        }
    }

    /// As it was put in.
    pub(crate) fn record(&self) -> StatusRecord {
        let mut status = PodStatus::clone(&self.template);
        let (mut times, mut texts) = (self.times.iter(), self.texts.iter());
        visit_own(&mut status, &mut |own| match own {
            Own::Time(time) => time.unix_ms = times.next().copied().unwrap_or_default(),
            Own::Text(text) => *text = texts.next().map(ToString::to_string).unwrap_or_default(),
        });
        status.host_ip = self.host_ip.to_string();
        let repeated = status.host_ips.iter_mut().filter(|listed| listed.ip.is_empty());
        repeated.for_each(|listed| listed.ip = self.host_ip.to_string());
        StatusRecord { uid: self.uid.to_string(), agent_epoch: self.agent_epoch, sequence: self.sequence, status }
    }

    /// What it has in common with others: phase, conditions and states, but no moment and no address.
    pub(crate) fn template(&self) -> &PodStatus {
        &self.template
    }

    pub(crate) fn phase(&self) -> PodPhase {
        self.template.phase
    }
}

/// Something that differs from pod to pod.
enum Own<'a> {
    Time(&'a mut Timestamp),
    Text(&'a mut String),
}

/// Shows what is a pod's own in its status, always in the same order. What is missed here is kept all the same, only
/// not shared.
fn visit_own(status: &mut PodStatus, visit: &mut impl FnMut(Own<'_>)) {
    let of_conditions = status.conditions.iter_mut().filter_map(|c| c.last_transition_time.as_mut());
    of_conditions.chain(&mut status.start_time).for_each(|time| visit(Own::Time(time)));
    visit(Own::Text(&mut status.pod_ip));
    status.pod_ips.iter_mut().for_each(|ip| visit(Own::Text(&mut ip.ip)));
    for container in status.init_container_statuses.iter_mut().chain(&mut status.container_statuses) {
        visit(Own::Text(&mut container.container_id));
        for state in [&mut container.state, &mut container.last_state] {
            if let Some(running) = &mut state.running {
                running.started_at.iter_mut().for_each(|time| visit(Own::Time(time)));
            }
            if let Some(terminated) = &mut state.terminated {
                let times = terminated.started_at.iter_mut().chain(&mut terminated.finished_at);
                times.for_each(|time| visit(Own::Time(time)));
                visit(Own::Text(&mut terminated.container_id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let node = format!("node-{name}");
        let metadata = json!({"namespace": "a", "name": name, "uid": uid, "generation": 3, "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
            "deletionGracePeriodSeconds": 7});
        let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn status(uid: &str, ip: &str, host: &str, second: u32) -> Arc<StatusRecord> {
        let at = format!("2026-01-01T00:00:{second:02}Z");
        let terminated = json!({"exitCode": 1, "startedAt": at, "finishedAt": at, "containerID": format!("old-{ip}")});
        let container = json!({"name": "main", "containerID": ip, "restartCount": 1, "state": {"running": {"startedAt": at}},
            "lastState": {"terminated": terminated}});
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": at,
            "hostIP": host, "hostIPs": [{"ip": host}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}],
            "containerStatuses": [container]});
        let record = json!({"uid": uid, "agentEpoch": 4, "sequence": 9, "status": status});
        Arc::new(serde_json::from_value(record).unwrap())
    }

    #[test]
    fn pods_that_are_alike_share_all_but_their_own_and_come_out_as_they_went_in() {
        let mut templates = Templates::default();
        let kept =
            ["one", "two"].map(|name| KeptPod::new(pod(name, name), format!("node-{name}").into(), &mut templates));
        assert!(Arc::ptr_eq(&kept[0].template, &kept[1].template));
        for (kept, name) in kept.iter().zip(["one", "two"]) {
            let key = PodName::new("a", name);
            assert_eq!(kept.pod(&key), *pod(name, name));
            let json = serde_json::to_vec(&kept.json(&key)).unwrap();
            assert_eq!(serde_json::from_slice::<Pod>(&json).unwrap(), *pod(name, name));
        }
    }

    #[test]
    fn statuses_that_are_alike_share_all_but_their_own_and_come_out_as_they_went_in() {
        let mut templates = Templates::default();
        let cases = [("u", "10.0.0.1", "192.168.0.1", 1), ("v", "10.0.0.2", "192.168.0.2", 2)];
        let kept = cases.map(|(uid, ip, host, second)| {
            KeptStatus::new(status(uid, ip, host, second), None, host.into(), &mut templates)
        });
        assert!(Arc::ptr_eq(&kept[0].template, &kept[1].template));
        for (kept, (uid, ip, host, second)) in kept.iter().zip(cases) {
            assert_eq!(kept.record(), *status(uid, ip, host, second));
        }
    }

    #[test]
    fn templates_that_nobody_has_any_more_go() {
        let mut templates = Templates::default();
        let stays = templates.share(usize::MAX);
        (0..10 * SWEEP_MIN).for_each(|value| drop(templates.share(value)));
        assert!(templates.all.len() <= SWEEP_MIN + 1, "{}", templates.all.len());
        assert!(Arc::ptr_eq(&stays, &templates.share(usize::MAX)));
    }
}
