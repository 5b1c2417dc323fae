//! The rules of a pod as a whole: its metadata, and what its spec says outside of its containers.

use std::collections::{BTreeMap, BTreeSet};

use super::container::{validate_container, validate_init_container};
use super::scheduling::{validate_host_ports, validate_scheduling};
use super::toleration::validate_toleration;
use super::volume::validate_volume;
use super::{Faults, FieldError, names};
use crate::model::{ObjectMeta, Pod, PodSpec};

/// Keys and values of all annotations together.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
const ID_MAX: u32 = i32::MAX as u32;

/// All that is wrong with a pod that is to be created.
pub fn validate_pod(pod: &Pod) -> Vec<FieldError> {
    let mut faults = Faults::default();
    validate_metadata(&pod.metadata, &mut faults);
    validate_spec(&pod.spec, &mut faults);
    faults.list
}

/// All that is wrong with what a pod is called and labelled.
pub fn validate_names(metadata: &ObjectMeta) -> Vec<FieldError> {
    let mut faults = Faults::default();
    validate_metadata(metadata, &mut faults);
    faults.list
}

fn validate_metadata(metadata: &ObjectMeta, faults: &mut Faults) {
    if metadata.name.is_empty() && metadata.generate_name.is_empty() {
        faults.required("metadata.name", "name or generateName is required");
    } else if !metadata.name.is_empty() {
        faults.name("metadata.name", &metadata.name, names::dns_subdomain);
    }
    if !metadata.generate_name.is_empty() {
        // What is added later is a fine end of a name.
        let prefix = metadata.generate_name.trim_end_matches(['-', '.']);
        if let Some(why) = names::dns_subdomain(prefix) {
            faults.invalid("metadata.generateName", &metadata.generate_name, &why);
        }
    }
    if !metadata.namespace.is_empty() {
        faults.name("metadata.namespace", &metadata.namespace, names::dns_label);
    }
    validate_labels("metadata.labels", &metadata.labels, faults);
    for key in metadata.annotations.keys() {
        // Capitals are fine in an annotation's key, also before the slash.
        if let Some(why) = names::qualified_name(&key.to_lowercase()) {
            faults.invalid_entry("metadata.annotations", key, key, &why);
        }
    }
    let bytes: usize = metadata.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATION_BYTES_MAX {
        faults
            .list
            .push(FieldError::new("metadata.annotations", "Too long: may not be more than 262144 bytes".to_owned()));
    }
}

pub(super) fn validate_labels(path: &str, labels: &BTreeMap<String, String>, faults: &mut Faults) {
    for (key, value) in labels {
        if let Some(why) = names::qualified_name(key) {
            faults.invalid_entry(path, key, key, &why);
        }
        if let Some(why) = names::label_value(value) {
            faults.invalid(&format!("{path}[{key}]"), value, &why);
        }
    }
}

fn validate_spec(spec: &PodSpec, faults: &mut Faults) {
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        validate_volume(&path, volume, faults);
        if !volumes.insert(volume.name.as_str()) {
            faults.duplicate(&format!("{path}.name"), &volume.name);
        }
    }
    validate_containers(spec, &volumes, faults);
    if !spec.node_name.is_empty() {
        faults.name("spec.nodeName", &spec.node_name, names::dns_subdomain);
    }
    validate_labels("spec.nodeSelector", &spec.node_selector, faults);
    if !spec.hostname.is_empty() {
        faults.name("spec.hostname", &spec.hostname, names::dns_label);
    }
    if !spec.runtime_class_name.is_empty() {
        faults.name("spec.runtimeClassName", &spec.runtime_class_name, names::dns_subdomain);
    }
    for (index, toleration) in spec.tolerations.iter().enumerate() {
        validate_toleration(&format!("spec.tolerations[{index}]"), toleration, faults);
    }
    validate_scheduling(spec, faults);
    validate_host_ports(spec, faults);
    if let Some(context) = &spec.security_context {
        validate_ids("spec.securityContext", context.run_as_user, context.run_as_group, faults);
    }
}

fn validate_containers(spec: &PodSpec, volumes: &BTreeSet<&str>, faults: &mut Faults) {
    if spec.containers.is_empty() {
        faults.required("spec.containers", "");
    }
    let mut container_names = BTreeSet::new();
    let mut port_names = BTreeSet::new();
    for (list, containers) in [("containers", &spec.containers), ("initContainers", &spec.init_containers)] {
        for (index, container) in containers.iter().enumerate() {
            let path = format!("spec.{list}[{index}]");
            validate_container(&path, container, volumes, faults);
            if list == "initContainers" {
                validate_init_container(&path, container, faults);
            } else if container.restart_policy.is_some() {
                faults.forbidden(
                    &format!("{path}.restartPolicy"),
                    "may not be set for non-init containers: podbus does not support restart rules of containers yet",
                );
            }
            if !container.name.is_empty() && !container_names.insert(container.name.as_str()) {
                faults.duplicate(&format!("{path}.name"), &container.name);
            }
            for (port_index, port) in container.ports.iter().enumerate() {
                if !port.name.is_empty() && !port_names.insert((container.name.as_str(), port.name.as_str())) {
                    faults.duplicate(&format!("{path}.ports[{port_index}].name"), &port.name);
                }
            }
        }
    }
}

/// User and group IDs, of a pod or of a container.
pub(super) fn validate_ids(path: &str, user: Option<u32>, group: Option<u32>, faults: &mut Faults) {
    for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
        if let Some(id) = id
            && id > ID_MAX
        {
            faults.invalid_number(&format!("{path}.{field}"), id, "must be between 0 and 2147483647, inclusive");
        }
    }
}
