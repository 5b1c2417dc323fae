//! The rules of one container.

use std::collections::{BTreeMap, BTreeSet};

use super::pod::validate_ids;
use super::volume::validate_path_inside;
use super::{Faults, names};
use crate::model::{Container, ContainerPort, ResourceRequirements, RestartPolicy, SecurityContext, VolumeMount};
use crate::quantity::Quantity;

/// Resources of every node.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Linux' capabilities, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The rules of init and other containers alike. `volumes`: the names of the pod's volumes.
pub(super) fn validate_container(path: &str, container: &Container, volumes: &BTreeSet<&str>, faults: &mut Faults) {
    let name_path = format!("{path}.name");
    if container.name.is_empty() {
        faults.required(&name_path, "");
    } else {
        faults.name(&name_path, &container.name, names::dns_label);
    }
    validate_image(&format!("{path}.image"), &container.image, faults);
    for (index, env) in container.env.iter().enumerate() {
        let path = format!("{path}.env[{index}].name");
        if env.name.is_empty() {
            faults.required(&path, "");
        } else {
            faults.name(&path, &env.name, names::env_name);
        }
    }
    for (index, port) in container.ports.iter().enumerate() {
        validate_port(&format!("{path}.ports[{index}]"), port, faults);
    }
    validate_resources(&format!("{path}.resources"), &container.resources, faults);
    validate_mounts(&format!("{path}.volumeMounts"), &container.volume_mounts, volumes, faults);
    if let Some(context) = &container.security_context {
        validate_security_context(&format!("{path}.securityContext"), context, faults);
    }
}

/// What holds for init containers only.
pub(super) fn validate_init_container(path: &str, container: &Container, faults: &mut Faults) {
    let policy = match container.restart_policy {
        None | Some(RestartPolicy::Always) => return,
        Some(RestartPolicy::OnFailure) => "OnFailure",
        Some(RestartPolicy::Never) => "Never",
    };
    faults.one_of(&format!("{path}.restartPolicy"), policy, &["Always"]);
}

fn validate_image(path: &str, image: &str, faults: &mut Faults) {
    if image.is_empty() {
        faults.required(path, "");
    } else if image.trim() != image {
        faults.invalid(path, image, "must not have leading or trailing whitespace");
    } else if image.contains(char::is_whitespace) {
        faults.invalid(path, image, "must not contain whitespace");
    }
}

fn validate_port(path: &str, port: &ContainerPort, faults: &mut Faults) {
    if !port.name.is_empty() {
        for why in names::port_name(&port.name) {
            faults.invalid(&format!("{path}.name"), &port.name, &why);
        }
    }
    if port.container_port == 0 {
        faults.required(&format!("{path}.containerPort"), "");
    }
    faults.one_of(&format!("{path}.protocol"), &port.protocol, &["SCTP", "TCP", "UDP"]);
}

fn validate_resources(path: &str, resources: &ResourceRequirements, faults: &mut Faults) {
    let limits = validate_quantities(&format!("{path}.limits"), &resources.limits, faults);
    let requests = validate_quantities(&format!("{path}.requests"), &resources.requests, faults);
    for (name, request) in requests.iter().filter(|(name, _)| is_extended_resource(name)) {
        match limits.get(name) {
            None => faults.required(
                &format!("{path}.limits"),
                &format!("Limit must be set for non overcommitable resources: {name}"),
            ),
            Some(limit) if limit != request => {
                let detail = format!("must be equal to {name} limit of {limit}");
                faults.invalid_entry(&format!("{path}.requests"), name, &request.to_string(), &detail);
            }
            Some(_) => {}
        }
    }
    for (name, request) in requests.iter().filter(|(name, _)| !is_extended_resource(name)) {
        if let Some(limit) = limits.get(name)
            && request > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            faults.invalid_entry(&format!("{path}.requests"), name, &request.to_string(), &detail);
        }
    }
}

/// Whether a resource is one that nodes name themselves: `domain/name`, and the domain is not Kubernetes' own.
pub fn is_extended_resource(name: &str) -> bool {
    let foreign = |domain: &str| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io");
    name.split_once('/').is_some_and(|(domain, _)| foreign(domain)) && names::qualified_name(name).is_none()
}

/// The amounts that are fine.
fn validate_quantities<'a>(
    path: &str,
    amounts: &'a BTreeMap<String, String>,
    faults: &mut Faults,
) -> BTreeMap<&'a str, Quantity> {
    let mut fine = BTreeMap::new();
    for (name, text) in amounts {
        let path = format!("{path}[{name}]");
        if !RESOURCES.contains(&name.as_str()) {
            if !is_extended_resource(name) {
                let known = RESOURCES.map(|name| format!("\"{name}\"")).join(", ");
                let detail = format!(
                    "podbus knows the resources {known} and those that nodes name themselves, such as \"nvidia.com/gpu\""
                );
                faults.invalid(&path, name, &detail);
                continue;
            }
            if Quantity::parse(text).is_ok_and(|quantity| !quantity.is_integer()) {
                faults.invalid(&path, text, "must be an integer");
                continue;
            }
        }
        match Quantity::parse(text) {
            Err(why) => faults.invalid(&path, text, &why.to_string()),
            Ok(quantity) if quantity.is_negative() => {
                faults.invalid(&path, text, "must be greater than or equal to 0");
            }
            Ok(quantity) => {
                fine.insert(name.as_str(), quantity);
            }
        }
    }
    fine
}

fn validate_mounts(path: &str, mounts: &[VolumeMount], volumes: &BTreeSet<&str>, faults: &mut Faults) {
    let mut taken = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if mount.name.is_empty() {
            faults.required(&format!("{path}.name"), "");
        } else if !volumes.contains(mount.name.as_str()) {
            faults.not_found(&format!("{path}.name"), &mount.name);
        }
        let target = format!("{path}.mountPath");
        if mount.mount_path.is_empty() {
            faults.required(&target, "");
        } else if !taken.insert(mount.mount_path.as_str()) {
            faults.invalid(&target, &mount.mount_path, "must be unique");
        } else if mount.mount_path.contains(':') {
            faults.invalid(&target, &mount.mount_path, "must not contain ':'");
        } else if mount.mount_path.split('/').any(|part| part == "..") {
            faults.invalid(&target, &mount.mount_path, "must not contain '..'");
        }
        if !mount.sub_path.is_empty() {
            validate_path_inside(&format!("{path}.subPath"), &mount.sub_path, faults);
        }
    }
}

fn validate_security_context(path: &str, context: &SecurityContext, faults: &mut Faults) {
    validate_ids(path, context.run_as_user, context.run_as_group, faults);
    let Some(capabilities) = &context.capabilities else { return };
    for (field, list) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        for (index, name) in list.iter().enumerate() {
            let path = format!("{path}.capabilities.{field}[{index}]");
            if let Some(bare) = name.strip_prefix("CAP_") {
                faults.invalid(&path, name, &format!("must be written without CAP_: \"{bare}\""));
            } else if name != "ALL" && !CAPABILITIES.contains(&name.as_str()) {
                faults.invalid(&path, name, "must be a capability of Linux such as NET_ADMIN, or ALL");
            }
        }
    }
}
