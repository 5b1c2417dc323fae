//! `apply`: what a manifest becomes. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use podbus_common::api::{APPLY_BYTES_MAX, APPLY_OBJECTS_MAX, ApplyReply, ApplyResult, Detail, LIST_KIND, Status};
use podbus_common::defaults::{TAINT_NOT_READY, TAINT_UNREACHABLE, set_defaults};
use podbus_common::manifest;
use podbus_common::model::{ObjectMeta, Pod, PodSpec, Timestamp};
use podbus_common::validation::{FieldError, inherit, invalid_message, validate_names, validate_pod, validate_update};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::binding;
use crate::cluster::PodName;
use crate::plan::{CallId, Effect, Plan, Write};
use crate::query;
use crate::record::Record;

/// Letters of generated names: no vowels, so no words (Kubernetes' `names.SimpleNameGenerator`).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name keeps room for its suffix (Kubernetes' `maxGeneratedNameLength`).
const GENERATED_PREFIX_MAX: usize = 58;

/// So many specs are known at most,
const KNOWN_MAX: usize = 256;
/// each of at most so many bytes.
const KNOWN_BYTES_MAX: usize = 16 << 10;

/// A pod to apply, checked as far as it can be without what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) pod: Pod,
    pub(crate) dry_run: bool,
    /// The version that it is meant for; empty: any.
    pub(crate) resource_version: String,
    /// Of what is answered.
    pub(crate) detail: Detail,
    /// Its name was made here: it is a new pod, or none.
    pub(crate) generated: bool,
    /// Its spec, where that is known.
    pub(crate) ready: Option<Arc<Ready>>,
}

impl Asked {
    fn of(self, request: &Request<'_>) -> Self {
        Self { resource_version: request.resource_version.clone(), detail: request.detail, ..self }
    }
}

/// A spec that was found in order.
#[derive(Debug, PartialEq)]
pub(crate) struct Ready {
    asked: PodSpec,
    /// With defaults.
    spec: PodSpec,
}

/// Specs that were found in order, by their JSON: pods that are alike are completed and checked once.
#[derive(Debug)]
pub(crate) struct Known {
    specs: HashMap<Box<str>, Arc<Ready>>,
    toleration_seconds: i64,
}

impl Known {
    /// `toleration_seconds`: as [`create`] has it.
    pub(crate) fn new(toleration_seconds: i64) -> Self {
        Self { specs: HashMap::default(), toleration_seconds }
    }

    fn add(&mut self, object: &RawValue, pod: &Pod) {
        let Some(spec) = Plain::read(object).map(|plain| plain.spec.get()) else { return };
        if spec.len() > KNOWN_BYTES_MAX {
            return;
        }
        let mut completed = pod.clone();
        set_defaults(&mut completed, self.toleration_seconds);
        if !validate_pod(&completed).is_empty() {
            return;
        }
        if self.specs.len() >= KNOWN_MAX {
            self.specs.clear();
        }
        self.specs.insert(spec.into(), Arc::new(Ready { asked: pod.spec.clone(), spec: completed.spec }));
    }

    /// The pod of an object whose spec is known and that holds nothing else but names and labels, which are checked
    /// with all that is stored.
    fn pod(&self, object: &RawValue) -> Option<(Pod, Arc<Ready>)> {
        let Plain { api_version, kind, metadata, spec } = Plain::read(object)?;
        let ready = self.specs.get(spec.get())?;
        let spec = ready.asked.clone();
        let PlainMetadata { name, namespace, labels } = metadata;
        let metadata = ObjectMeta { name, namespace, labels, ..ObjectMeta::default() };
        let pod = Pod { api_version: api_version.to_owned(), kind: kind.to_owned(), metadata, spec, status: None };
        Some((pod, Arc::clone(ready)))
    }
}

/// An apply, its objects not read yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    /// One, or a list of them as kubectl writes it.
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    detail: Detail,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ItemsOf<'a> {
    #[serde(default, rename = "apiVersion")]
    _api_version: IgnoredAny,
    kind: &'a str,
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

impl<'a> Request<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, Status> {
        query::read(payload)
    }

    /// The objects of a list; `None`: it is one object.
    pub(crate) fn items(&self) -> Result<Option<Vec<&'a RawValue>>, Status> {
        let list = serde_json::from_str::<ItemsOf<'_>>(self.object.get()).ok().filter(|list| list.kind == LIST_KIND);
        match list {
            Some(list) if list.items.len() > APPLY_OBJECTS_MAX || self.object.get().len() > APPLY_BYTES_MAX => {
                let message = format!(
                    "a list is too long: at most {APPLY_OBJECTS_MAX} objects of {APPLY_BYTES_MAX} bytes together"
                );
                Err(Status::failure(413, "RequestEntityTooLarge", message))
            }
            Some(_) if !self.resource_version.is_empty() => {
                Err(query::bad_request("a resourceVersion is that of one object: a list has none"))
            }
            list => Ok(list.map(|list| list.items)),
        }
    }
}

/// An object as most are. Anything else in it, and it is read field by field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plain<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: PlainMetadata,
    #[serde(borrow)]
    spec: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl<'a> Plain<'a> {
    fn read(object: &'a RawValue) -> Option<Self> {
        let plain = serde_json::from_str::<Self>(object.get()).ok();
        plain.filter(|plain| (plain.api_version, plain.kind) == ("v1", "Pod"))
    }
}

/// Reads one object of a request. `random` picks the letters of a generated name.
pub(crate) fn read(
    known: &mut Known,
    namespace: Option<&str>,
    request: &Request<'_>,
    object: &RawValue,
    random: impl FnMut() -> usize,
) -> Result<Asked, Status> {
    if let Some((pod, ready)) = known.pod(object) {
        let asked = of_pod(query::namespace_of(namespace)?, pod, request.dry_run, random)?;
        return Ok(Asked { ready: Some(ready), ..asked.of(request) });
    }
    let asked = read_object(namespace, &query::read(object.get().as_bytes())?, request.dry_run, random)?;
    known.add(object, &asked.pod);
    Ok(asked.of(request))
}

/// Reads one object.
pub(crate) fn read_object(
    namespace: Option<&str>,
    object: &Value,
    dry_run: bool,
    random: impl FnMut() -> usize,
) -> Result<Asked, Status> {
    let namespace = query::namespace_of(namespace)?;
    check_type(object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let pod = manifest::check(object).map_err(|errors| invalid(&name, &errors))?;
    of_pod(namespace, pod, dry_run, random)
}

/// A pod as it was written becomes one that is asked for.
fn of_pod(namespace: &str, mut pod: Pod, dry_run: bool, random: impl FnMut() -> usize) -> Result<Asked, Status> {
    let metadata = &mut pod.metadata;
    if metadata.namespace.is_empty() {
        namespace.clone_into(&mut metadata.namespace);
    }
    if metadata.namespace != namespace {
        return Err(query::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: \"{}\" and \
             \"{namespace}\"",
            metadata.namespace
        )));
    }
    let generated = metadata.name.is_empty() && !metadata.generate_name.is_empty();
    if generated {
        metadata.name = generated_name(&metadata.generate_name, random);
    }
    // What only the server says.
    metadata.uid.clear();
    metadata.resource_version.clear();
    metadata.generation = 0;
    metadata.creation_timestamp = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    pod.status = None;
    Ok(Asked { pod, dry_run, resource_version: String::new(), detail: Detail::Full, generated, ready: None })
}

fn check_type(object: &Value) -> Result<(), Status> {
    let of = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    match (of("apiVersion").as_str(), of("kind").as_str()) {
        ("v1" | "", "Pod" | "") => Ok(()),
        (version, kind) => Err(query::bad_request(format!(
            "the object provided is unrecognized (must be of type Pod): it is of type {kind}, version {version}"
        ))),
    }
}

fn generated_name(prefix: &str, mut random: impl FnMut() -> usize) -> String {
    let prefix: String = prefix.chars().take(GENERATED_PREFIX_MAX).collect();
    let suffix = (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_LETTERS[random() % SUFFIX_LETTERS.len()]));
    prefix.chars().chain(suffix).collect()
}

fn invalid(name: &str, errors: &[FieldError]) -> Status {
    Status::failure(422, "Invalid", invalid_message("Pod", name, errors))
}

/// The pod that is stored for a name that is free.
pub(crate) fn create(asked: &Asked, uid: String, toleration_seconds: i64, now: Timestamp) -> Result<Pod, Status> {
    let Asked { pod: Pod { api_version, kind, metadata, .. }, .. } = asked;
    let (mut pod, errors) = match &asked.ready {
        Some(ready) => {
            let (api_version, kind, spec) = (api_version.clone(), kind.clone(), ready.spec.clone());
            let pod = Pod { api_version, kind, metadata: metadata.clone(), spec, status: None };
            (pod, validate_names(metadata))
        }
        None => {
            let mut pod = asked.pod.clone();
            set_defaults(&mut pod, toleration_seconds);
            let errors = validate_pod(&pod);
            (pod, errors)
        }
    };
    if !errors.is_empty() {
        return Err(invalid(&pod.metadata.name, &errors));
    }
    pod.metadata.uid = uid;
    pod.metadata.generation = 1;
    pod.metadata.creation_timestamp = Some(now);
    Ok(pod)
}

/// Why a new pod has no place yet, and the node that others were asked to leave for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unplaced {
    pub(crate) message: String,
    pub(crate) nominated: String,
}

/// Stores a new pod. `unplaced`: why it has no place yet; neither that nor a node: it must not be placed yet.
pub(crate) fn plan_create(call: CallId, pod: Pod, detail: Detail, unplaced: Option<&Unplaced>, now: Timestamp) -> Plan {
    let name = PodName::of(&pod);
    let pod = Arc::new(pod);
    let mut plan = Plan { writes: vec![Write::put(name.key(), Record::Pod(Arc::clone(&pod)))], effects: Vec::new() };
    match unplaced {
        None if pod.spec.node_name.is_empty() => {}
        None => plan.effects = binding::bound(name.clone(), now),
        Some(Unplaced { message, nominated }) => {
            let said = binding::unschedulable(Some(&pod), None, &pod.metadata.uid, (message, nominated), now);
            plan.writes.extend(said.writes);
            plan.effects.extend(said.effects);
        }
    }
    plan.effects.push(Effect::AnswerApplied(call, ApplyResult::Created, name, detail));
    plan
}

/// Changes a pod that is there, as far as a pod may change; one whose UID is in doubt gets a `new_uid`.
pub(crate) fn plan_update(
    call: CallId,
    stored: &Arc<Pod>,
    asked: &Asked,
    new_uid: Option<&str>,
    toleration_seconds: i64,
) -> Plan {
    let name = PodName::of(stored);
    if asked.generated {
        let message =
            format!("pods \"{}\" already exists, the server was not able to generate a unique name", name.name);
        return Plan::only(Effect::Answer(call, Err(Status::failure(409, "AlreadyExists", message))));
    }
    match update(stored, &asked.pod, toleration_seconds) {
        Err(status) => Plan::only(Effect::Answer(call, Err(status))),
        Ok(pod) if pod == **stored => {
            Plan::only(Effect::AnswerApplied(call, ApplyResult::Unchanged, name, asked.detail))
        }
        Ok(pod) if asked.dry_run => Plan::only(Effect::Answer(call, reply(ApplyResult::Configured, &pod))),
        Ok(mut pod) => {
            let respec = pod.spec != stored.spec;
            pod.metadata.generation += u64::from(respec);
            if let Some(uid) = new_uid {
                uid.clone_into(&mut pod.metadata.uid);
            }
            // The node follows labels and annotations too: they are part of what it shows to containers later.
            let mut effects = Vec::new();
            if !pod.spec.node_name.is_empty() {
                effects.push(Effect::Assign(name.clone()));
            }
            effects.push(Effect::AnswerApplied(call, ApplyResult::Configured, name.clone(), asked.detail));
            let mut writes = vec![Write::put(name.key(), Record::Pod(Arc::new(pod)))];
            // What was said of the UID that it had counts no longer.
            writes.extend(new_uid.map(|_| Write::purge(name.status_key())));
            Plan { writes, effects }
        }
    }
}

fn update(stored: &Pod, asked: &Pod, toleration_seconds: i64) -> Result<Pod, Status> {
    let mut pod = asked.clone();
    keep_default_tolerations(stored, &mut pod);
    set_defaults(&mut pod, toleration_seconds);
    inherit(stored, &mut pod);
    let mut errors = validate_pod(&pod);
    if errors.is_empty() {
        errors = validate_update(stored, &pod);
    }
    if errors.is_empty() { Ok(pod) } else { Err(invalid(&pod.metadata.name, &errors)) }
}

/// The toleration of a lost node that was filled in stays, though this scheduler may fill in another one now.
fn keep_default_tolerations(stored: &Pod, asked: &mut Pod) {
    for key in [TAINT_NOT_READY, TAINT_UNREACHABLE] {
        let is_of = |t: &&podbus_common::model::Toleration| t.key == key && t.effect == "NoExecute";
        let asked_for = asked.spec.tolerations.iter().any(|t| is_of(&t));
        if let Some(kept) = stored.spec.tolerations.iter().find(is_of).filter(|_| !asked_for) {
            asked.spec.tolerations.push(kept.clone());
        }
    }
}

/// The answer to an apply.
pub(crate) fn reply(result: ApplyResult, pod: &impl Serialize) -> Result<Bytes, Status> {
    query::to_json(&ApplyReply { result, object: pod })
}

#[cfg(test)]
mod tests;
