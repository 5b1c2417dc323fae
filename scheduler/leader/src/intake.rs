//! `apply`: what a manifest becomes. Pure.

use std::sync::Arc;

use bytes::Bytes;
use podbus_common::api::{ApplyReply, ApplyRequest, ApplyResult, Detail, Status};
use podbus_common::defaults::{TAINT_NOT_READY, TAINT_UNREACHABLE, set_defaults};
use podbus_common::manifest;
use podbus_common::model::{Pod, Timestamp};
use podbus_common::validation::{FieldError, inherit, invalid_message, validate_pod, validate_update};
use serde::Serialize;
use serde_json::Value;

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

/// A pod to apply, checked as far as it can be without what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) pod: Pod,
    pub(crate) dry_run: bool,
    /// Of what is answered.
    pub(crate) detail: Detail,
    /// Its name was made here: it is a new pod, or none.
    pub(crate) generated: bool,
}

/// Reads a request. `random` picks the letters of a generated name.
pub(crate) fn read(namespace: Option<&str>, payload: &[u8], random: impl FnMut() -> usize) -> Result<Asked, Status> {
    let ApplyRequest { object, dry_run, detail } = query::read(payload)?;
    Ok(Asked { detail, ..read_object(namespace, &object, dry_run, random)? })
}

/// Reads one object of a request.
pub(crate) fn read_object(
    namespace: Option<&str>,
    object: &Value,
    dry_run: bool,
    random: impl FnMut() -> usize,
) -> Result<Asked, Status> {
    let namespace = query::namespace_of(namespace)?;
    check_type(object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut pod = manifest::check(object).map_err(|errors| invalid(&name, &errors))?;
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
    Ok(Asked { pod, dry_run, detail: Detail::Full, generated })
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
    Status::failure(422, "Invalid", invalid_message(name, errors))
}

/// The pod that is stored for a name that is free.
pub(crate) fn create(asked: &Pod, uid: String, toleration_seconds: i64, now: Timestamp) -> Result<Pod, Status> {
    let mut pod = asked.clone();
    set_defaults(&mut pod, toleration_seconds);
    let errors = validate_pod(&pod);
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
        None => plan.effects = binding::bound(&pod, now),
        Some(Unplaced { message, nominated }) => {
            let said = binding::unschedulable(Some(&pod), None, &pod.metadata.uid, (message, nominated), now);
            plan.writes.extend(said.writes);
            plan.effects.extend(said.effects);
        }
    }
    plan.effects.push(Effect::AnswerApplied(call, ApplyResult::Created, name, detail));
    plan
}

/// Changes a pod that is there, as far as a pod may change.
pub(crate) fn plan_update(call: CallId, stored: &Arc<Pod>, asked: &Asked, toleration_seconds: i64) -> Plan {
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
            // The node follows labels and annotations too: they are part of what it shows to containers later.
            let mut effects = Vec::new();
            if !pod.spec.node_name.is_empty() {
                effects.push(Effect::Assign(name.clone()));
            } else if respec {
                effects.push(Effect::Enqueue(Box::new(pod.clone())));
            }
            effects.push(Effect::AnswerApplied(call, ApplyResult::Configured, name.clone(), asked.detail));
            Plan { writes: vec![Write::put(name.key(), Record::Pod(Arc::new(pod)))], effects }
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
