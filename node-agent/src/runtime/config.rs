//! A pod's spec as the configs that CRI takes, with the labels and annotations that the kubelet writes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use podbus_common::model::{Container, Pod, PodSecurityContext, SecurityContext};
use podbus_common_cri::runtime as v1;
use podbus_node_agent_core::environment::{environment, expand_all, hostname};
use podbus_node_agent_core::hash::container_hash;
use podbus_node_agent_core::memory::StartFailure;
use podbus_node_agent_core::model::pod_description;
use podbus_node_agent_core::resources::{CgroupValues, container_cgroup, pod_cgroup};

use crate::logs;
use crate::user_ids::IDS_PER_POD;
use crate::volumes::MountedVolume;

/// Label: the container's name.
pub(crate) const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
/// Label: the pod's name.
pub(crate) const POD_NAME_LABEL: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub(crate) const POD_NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID, by which the agent finds what is its own.
pub(crate) const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";
/// Annotation: the hash of name and image.
pub(crate) const CONTAINER_HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
/// Annotation: which run of the container this is.
pub(crate) const RESTART_COUNT_ANNOTATION: &str = "io.kubernetes.container.restartCount";
/// Annotation: the pod's grace, for an agent that knows nothing else of it.
pub(crate) const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation of a sandbox: the Pod object as assigned, JSON, so that a lost disk is read back from the runtime.
pub(crate) const POD_ANNOTATION: &str = "podbus/pod";

/// Masked for every container that is not privileged: what tells about or changes the machine.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const MASKED_POWERCAP: &str = "/sys/devices/virtual/powercap";
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a sandbox needs beside the pod.
#[derive(Debug, Clone)]
pub(crate) struct SandboxPlace<'a> {
    /// 0, 1, 2...
    pub(crate) attempt: u32,
    /// The pod's directory under the state directory.
    pub(crate) pod_dir: &'a Path,
    /// The cgroup that holds the pod.
    pub(crate) cgroup_parent: String,
    /// The Pod object as assigned, JSON.
    pub(crate) pod_json: String,
    /// The first id of a pod with users of its own.
    pub(crate) user_ids: Option<u32>,
}

/// What a container needs beside the pod.
#[derive(Debug, Clone)]
pub(crate) struct ContainerPlace<'a> {
    /// 0, 1, 2...: the restart count.
    pub(crate) attempt: u32,
    /// The image as the runtime has it.
    pub(crate) image: &'a v1::Image,
    /// From [`crate::volumes::mounts`].
    pub(crate) mounts: Vec<MountedVolume>,
    /// The pod's hosts file, if it was written.
    pub(crate) etc_hosts: Option<PathBuf>,
    /// Of the node, for the out-of-memory score.
    pub(crate) node_memory_bytes: i64,
    /// As the pod's sandbox has it.
    pub(crate) user_ids: Option<u32>,
}

/// The config of the pod's sandbox.
pub(crate) fn sandbox_config(pod: &Pod, place: &SandboxPlace<'_>) -> v1::PodSandboxConfig {
    let meta = &pod.metadata;
    let mut labels: HashMap<_, _> = meta.labels.clone().into_iter().collect();
    labels.extend(pod_labels(pod));
    let mut annotations: HashMap<_, _> = meta.annotations.clone().into_iter().collect();
    annotations.insert(POD_ANNOTATION.to_owned(), place.pod_json.clone());
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            namespace: meta.namespace.clone(),
            attempt: place.attempt,
        }),
        hostname: hostname(pod),
        log_directory: logs::directory(place.pod_dir).to_string_lossy().into_owned(),
        // The runtime copies the node's.
        dns_config: None,
        port_mappings: port_mappings(pod),
        labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: place.cgroup_parent.clone(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespace_options(pod, place.user_ids)),
                seccomp: Some(default_seccomp()),
                ..v1::LinuxSandboxSecurityContext::default()
            }),
            resources: Some(linux_resources(pod_cgroup(pod))),
            ..v1::LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

/// The config of one run of `container`; fails with CreateContainerConfigError when the image's user does not fit.
pub(crate) fn container_config(
    pod: &Pod,
    container: &Container,
    place: &ContainerPlace<'_>,
) -> Result<v1::ContainerConfig, StartFailure> {
    let user = user(pod, container, place.image)?;
    let environment = environment(container);
    let grace = pod.spec.termination_grace_period_seconds;
    let mut labels = pod_labels(pod);
    labels.insert(CONTAINER_NAME_LABEL.to_owned(), container.name.clone());
    let mut annotations = HashMap::from([
        (CONTAINER_HASH_ANNOTATION.to_owned(), container_hash(container)),
        (RESTART_COUNT_ANNOTATION.to_owned(), place.attempt.to_string()),
    ]);
    annotations.extend(grace.map(|grace| (GRACE_ANNOTATION.to_owned(), grace.to_string())));
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: place.attempt }),
        image: Some(v1::ImageSpec {
            image: place.image.id.clone(),
            user_specified_image: container.image.clone(),
            ..v1::ImageSpec::default()
        }),
        command: expand_all(&container.command, &environment),
        args: expand_all(&container.args, &environment),
        working_dir: container.working_dir.clone(),
        mounts: mounts(container, place),
        labels,
        annotations,
        log_path: logs::relative_path(&container.name, place.attempt),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(container_cgroup(pod, container, place.node_memory_bytes))),
            security_context: Some(container_security(pod, container, user, place.user_ids)),
        }),
        envs: environment.into_iter().map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() }).collect(),
        ..v1::ContainerConfig::default()
    })
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let meta = &pod.metadata;
    HashMap::from([
        (POD_NAME_LABEL.to_owned(), meta.name.clone()),
        (POD_NAMESPACE_LABEL.to_owned(), meta.namespace.clone()),
        (POD_UID_LABEL.to_owned(), meta.uid.clone()),
    ])
}

/// Of regular containers, as the kubelet; a port name that is used twice counts once.
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let mut names = Vec::new();
    let ports = pod.spec.containers.iter().flat_map(|c| &c.ports);
    let first_of_its_name = ports.filter(|port| {
        let seen = !port.name.is_empty() && names.contains(&&port.name);
        names.push(&port.name);
        !seen
    });
    first_of_its_name
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_str() {
                "UDP" => v1::Protocol::Udp,
                "SCTP" => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            }
            .into(),
            container_port: i32::from(port.container_port),
            ..v1::PortMapping::default()
        })
        .collect()
}

/// The ids of a pod with users of its own, as one piece from 0 on; else none.
fn id_mappings(user_ids: Option<u32>) -> Vec<v1::IdMapping> {
    let mapping = |host_id| v1::IdMapping { host_id, container_id: 0, length: IDS_PER_POD };
    user_ids.map(mapping).into_iter().collect()
}

fn namespace_options(pod: &Pod, user_ids: Option<u32>) -> v1::NamespaceOption {
    let pid = match pod.spec.share_process_namespace {
        Some(true) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: v1::NamespaceMode::Pod.into(),
        ipc: v1::NamespaceMode::Pod.into(),
        pid: pid.into(),
        userns_options: user_ids.map(|_| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: id_mappings(user_ids),
            gids: id_mappings(user_ids),
        }),
        ..v1::NamespaceOption::default()
    }
}

/// Safe by default: what a kubelet with `seccompDefault` sends.
fn default_seccomp() -> v1::SecurityProfile {
    v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    }
}

fn linux_resources(values: CgroupValues) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: values.cpu_period_us,
        cpu_quota: values.cpu_quota_us,
        cpu_shares: values.cpu_shares,
        memory_limit_in_bytes: values.memory_limit_bytes,
        // No swap beyond the limit, as the kubelet's NoSwap.
        memory_swap_limit_in_bytes: values.memory_limit_bytes,
        oom_score_adj: values.oom_score_adj,
        ..v1::LinuxContainerResources::default()
    }
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum User {
    Id(i64),
    /// A name that only the image can resolve.
    Name(String),
}

fn user(pod: &Pod, container: &Container, image: &v1::Image) -> Result<User, StartFailure> {
    let of_pod = pod.spec.security_context.clone().unwrap_or_default();
    let of_container = container.security_context.clone().unwrap_or_default();
    let asked = of_container.run_as_user.or(of_pod.run_as_user);
    let non_root = of_container.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false);
    let whom = || format!("(pod: \"{}\", container: {})", pod_description(pod), container.name);
    let refuse = |why: String| StartFailure::new("CreateContainerConfigError", format!("{why} {}", whom()));
    if let Some(uid) = asked {
        return match uid {
            0 if non_root => Err(refuse("container's runAsUser breaks non-root policy".to_owned())),
            uid => Ok(User::Id(i64::from(uid))),
        };
    }
    match (&image.uid, image.username.as_str()) {
        (Some(uid), _) if uid.value != 0 => Ok(User::Id(uid.value)),
        (None, name) if !name.is_empty() => match non_root {
            false => Ok(User::Name(name.to_owned())),
            true => Err(refuse(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            ))),
        },
        _ if non_root => Err(refuse("container has runAsNonRoot and image will run as root".to_owned())),
        _ => Ok(User::Id(0)),
    }
}

fn container_security(
    pod: &Pod,
    container: &Container,
    user: User,
    user_ids: Option<u32>,
) -> v1::LinuxContainerSecurityContext {
    let of_pod: PodSecurityContext = pod.spec.security_context.clone().unwrap_or_default();
    let of_container: SecurityContext = container.security_context.clone().unwrap_or_default();
    let int64 = |value| v1::Int64Value { value };
    let (run_as_user, run_as_username) = match user {
        User::Id(uid) => (Some(int64(uid)), String::new()),
        User::Name(name) => (None, name),
    };
    let group = of_container.run_as_group.or(of_pod.run_as_group);
    v1::LinuxContainerSecurityContext {
        capabilities: of_container.capabilities.map(|capabilities| v1::Capability {
            add_capabilities: capabilities.add,
            drop_capabilities: capabilities.drop,
            add_ambient_capabilities: Vec::new(),
        }),
        namespace_options: Some(namespace_options(pod, user_ids)),
        run_as_user,
        run_as_username,
        run_as_group: group.map(|gid| int64(i64::from(gid))),
        readonly_rootfs: of_container.read_only_root_filesystem.unwrap_or(false),
        // Kubernetes allows privilege escalation unless told otherwise.
        no_new_privs: false,
        masked_paths: MASKED_PATHS.iter().chain([&MASKED_POWERCAP]).map(|path| (*path).to_owned()).collect(),
        readonly_paths: READONLY_PATHS.map(str::to_owned).into(),
        seccomp: Some(default_seccomp()),
        ..v1::LinuxContainerSecurityContext::default()
    }
}

fn mounts(container: &Container, place: &ContainerPlace<'_>) -> Vec<v1::Mount> {
    let mount = |container_path: String, host_path: &Path, readonly| v1::Mount {
        container_path,
        host_path: host_path.to_string_lossy().into_owned(),
        readonly,
        propagation: v1::MountPropagation::PropagationPrivate.into(),
        // Files keep their owners on the node, and are the pod's users' inside.
        uid_mappings: id_mappings(place.user_ids),
        gid_mappings: id_mappings(place.user_ids),
        ..v1::Mount::default()
    };
    let mut mounts: Vec<_> =
        place.mounts.iter().map(|m| mount(m.container_path.clone(), &m.host_path, m.read_only)).collect();
    let hosts_is_taken = mounts.iter().any(|m| m.container_path == "/etc/hosts");
    if let Some(path) = place.etc_hosts.as_ref().filter(|_| !hosts_is_taken) {
        let context = container.security_context.as_ref();
        let readonly = context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false);
        mounts.push(mount("/etc/hosts".to_owned(), path, readonly));
    }
    mounts
}

#[cfg(test)]
mod tests;
