//! What may change in a pod that is there: images, tolerations that are added, and scheduling gates that are taken away.

use super::{Faults, FieldError};
use crate::model::{Container, Pod, PodSpec};

/// What a new manifest leaves to the server, taken over from the pod as stored: identity, and the node that it was
/// bound to. Both pods have defaults. Afterwards the two specs are equal when nothing was changed.
pub fn inherit(stored: &Pod, asked: &mut Pod) {
    let (old, new) = (&stored.metadata, &mut asked.metadata);
    new.uid.clone_from(&old.uid);
    new.generate_name.clone_from(&old.generate_name);
    new.generation = old.generation;
    new.creation_timestamp = old.creation_timestamp;
    new.deletion_timestamp = old.deletion_timestamp;
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    if asked.spec.node_name.is_empty() {
        asked.spec.node_name.clone_from(&stored.spec.node_name);
    }
}

/// All that a change of `old` to `new` must not do. Both have defaults, and `new` went through [`inherit`].
pub fn validate_update(old: &Pod, new: &Pod) -> Vec<FieldError> {
    let mut faults = Faults::default();
    if same_names(&old.spec.containers, &new.spec.containers)
        && same_names(&old.spec.init_containers, &new.spec.init_containers)
    {
        let mut allowed = new.spec.clone();
        allow(&old.spec, &mut allowed);
        if allowed != old.spec {
            faults.forbidden("spec", &forbidden(&old.spec, &allowed));
        }
    } else {
        let which =
            if same_names(&old.spec.containers, &new.spec.containers) { "initContainers" } else { "containers" };
        faults.forbidden(&format!("spec.{which}"), "pod updates may not add or remove containers");
    }
    faults.list
}

fn same_names(old: &[Container], new: &[Container]) -> bool {
    old.iter().map(|c| &c.name).eq(new.iter().map(|c| &c.name))
}

/// Undoes in `new` what may differ.
fn allow(old: &PodSpec, new: &mut PodSpec) {
    for (old, new) in old.containers.iter().zip(&mut new.containers) {
        allow_image(old, new);
    }
    for (old, new) in old.init_containers.iter().zip(&mut new.init_containers) {
        allow_image(old, new);
    }
    if old.tolerations.iter().all(|toleration| new.tolerations.contains(toleration)) {
        new.tolerations.clone_from(&old.tolerations);
    }
    if new.scheduling_gates.iter().all(|gate| old.scheduling_gates.contains(gate)) {
        new.scheduling_gates.clone_from(&old.scheduling_gates);
    }
}

/// The pull policy follows the image's tag by default, so it may follow a new image.
fn allow_image(old: &Container, new: &mut Container) {
    if old.image != new.image {
        new.image.clone_from(&old.image);
        new.image_pull_policy = old.image_pull_policy;
    }
}

fn forbidden(old: &PodSpec, new: &PodSpec) -> String {
    format!(
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
         `spec.tolerations` (only additions to existing tolerations),`spec.schedulingGates` (only removals)\n{}",
        differences(old, new)
    )
}

/// One line a field that differs: `spec.hostname: "a" -> "b"`.
fn differences(old: &PodSpec, new: &PodSpec) -> String {
    let json = |spec: &PodSpec| serde_json::to_value(spec).unwrap_or_default();
    let mut lines = Vec::new();
    compare("spec", &json(old), &json(new), &mut lines);
    lines.join("\n")
}

fn compare(path: &str, old: &serde_json::Value, new: &serde_json::Value, lines: &mut Vec<String>) {
    use serde_json::Value::{Array, Null, Object};
    match (old, new) {
        _ if old == new => {}
        (Object(old), Object(new)) => {
            let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let value = |map: &serde_json::Map<_, _>| map.get(key).cloned().unwrap_or(Null);
                compare(&format!("{path}.{key}"), &value(old), &value(new), lines);
            }
        }
        (Array(old), Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&format!("{path}[{index}]"), old, new, lines);
            }
        }
        _ => lines.push(format!("  {path}: {old} -> {new}")),
    }
}
