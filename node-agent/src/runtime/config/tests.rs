use std::collections::BTreeMap;

use podbus_common::model::{Capabilities, ContainerPort, EnvVar};

use super::*;

fn pod() -> Pod {
    let json = serde_json::json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "u-1", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "a", "image": "busybox" }], "terminationGracePeriodSeconds": 5 },
    });
    serde_json::from_value(json).expect("a pod")
}

fn image(uid: Option<i64>, username: &str) -> v1::Image {
    let uid = uid.map(|value| v1::Int64Value { value });
    v1::Image { id: "sha256:1".into(), uid, username: username.into(), ..v1::Image::default() }
}

fn config_of(pod: &Pod, image: &v1::Image) -> Result<v1::ContainerConfig, StartFailure> {
    let mounts = vec![MountedVolume { container_path: "/data".into(), host_path: "/v".into(), read_only: true }];
    let etc_hosts = Some(PathBuf::from("/p/etc-hosts"));
    let place = ContainerPlace { attempt: 3, image, mounts, etc_hosts, node_memory_bytes: 1 << 30, user_ids: None };
    container_config(pod, &pod.spec.containers[0], &place)
}

fn sandbox_of(pod: &Pod) -> v1::PodSandboxConfig {
    let place = SandboxPlace {
        attempt: 1,
        pod_dir: Path::new("/s/pods/u-1"),
        cgroup_parent: "/podbus-x/burstable/podu-1".into(),
        pod_json: "{}".into(),
        user_ids: None,
    };
    sandbox_config(pod, &place)
}

#[test]
fn a_sandbox_is_labelled_as_the_kubelet_does_and_carries_the_pod() {
    let mut pod = pod();
    let port = |name: &str| ContainerPort {
        name: name.into(),
        container_port: 80,
        protocol: "UDP".into(),
        ..ContainerPort::default()
    };
    pod.spec.containers[0].ports = vec![port("web"), port("web"), port(""), port("")];
    let config = sandbox_of(&pod);
    let labels: BTreeMap<_, _> = config.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = BTreeMap::from([
        ("app", "web"),
        (POD_NAME_LABEL, "web"),
        (POD_NAMESPACE_LABEL, "default"),
        (POD_UID_LABEL, "u-1"),
    ]);
    assert_eq!(labels, expected);
    assert_eq!(config.annotations.get(POD_ANNOTATION).map(String::as_str), Some("{}"));
    assert_eq!((config.hostname.as_str(), config.log_directory.as_str()), ("web", "/s/pods/u-1/logs"));
    assert_eq!(config.metadata.map(|m| m.attempt), Some(1));
    assert_eq!(config.port_mappings.len(), 3);
    assert!(config.port_mappings.iter().all(|p| p.protocol() == v1::Protocol::Udp && p.host_port == 0));
}

#[test]
fn the_process_namespace_is_shared_when_asked() {
    let pid = |pod: &Pod| {
        let linux = sandbox_of(pod).linux.and_then(|l| l.security_context).and_then(|s| s.namespace_options);
        let of_container = config_of(pod, &image(None, "")).unwrap().linux.and_then(|l| l.security_context);
        (linux.map(|n| n.pid()), of_container.and_then(|s| s.namespace_options).map(|n| n.pid()))
    };
    let mut pod = pod();
    assert_eq!(pid(&pod), (Some(v1::NamespaceMode::Container), Some(v1::NamespaceMode::Container)));
    pod.spec.share_process_namespace = Some(true);
    assert_eq!(pid(&pod), (Some(v1::NamespaceMode::Pod), Some(v1::NamespaceMode::Pod)));
}

#[test]
fn a_pod_with_users_of_its_own_has_them_in_its_namespaces_and_in_the_files_of_its_volumes() {
    let pod = pod();
    let ids = vec![v1::IdMapping { host_id: 131_072, container_id: 0, length: 65_536 }];
    let place = ContainerPlace {
        attempt: 0,
        image: &image(None, ""),
        mounts: vec![MountedVolume { container_path: "/data".into(), host_path: "/v".into(), read_only: false }],
        etc_hosts: Some("/p/etc-hosts".into()),
        node_memory_bytes: 1,
        user_ids: Some(131_072),
    };
    let config = container_config(&pod, &pod.spec.containers[0], &place).unwrap();
    assert!(config.mounts.iter().all(|mount| mount.uid_mappings == ids && mount.gid_mappings == ids));
    let security = config.linux.and_then(|linux| linux.security_context).unwrap();
    let users = security.namespace_options.unwrap().userns_options.unwrap();
    assert_eq!((users.mode(), &users.uids, &users.gids), (v1::NamespaceMode::Pod, &ids, &ids));
    let of_node = sandbox_of(&pod).linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!(of_node.userns_options, None);
}

#[test]
fn a_container_carries_its_command_environment_mounts_and_log() {
    let mut pod = pod();
    let container = &mut pod.spec.containers[0];
    container.env = vec![EnvVar { name: "A".into(), value: "1".into() }];
    container.command = vec!["echo".into(), "$(A)$(B)".into()];
    container.args = vec!["$$(A)".into()];
    let config = config_of(&pod, &image(None, "")).unwrap();
    assert_eq!(config.command, ["echo", "1$(B)"]);
    assert_eq!(config.args, ["$(A)"]);
    assert_eq!(config.log_path, "a/3.log");
    let mounts: Vec<_> = config.mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
    assert_eq!(mounts, [("/data", true), ("/etc/hosts", false)]);
    assert_eq!(config.annotations.get(RESTART_COUNT_ANNOTATION).map(String::as_str), Some("3"));
    assert_eq!(config.annotations.get(GRACE_ANNOTATION).map(String::as_str), Some("5"));
    assert!(config.annotations.contains_key(CONTAINER_HASH_ANNOTATION));
    assert_eq!(config.labels.get(CONTAINER_NAME_LABEL).map(String::as_str), Some("a"));
}

#[test]
fn a_container_with_a_read_only_root_cannot_write_the_hosts_file() {
    let mut pod = pod();
    let context = SecurityContext { read_only_root_filesystem: Some(true), ..Default::default() };
    pod.spec.containers[0].security_context = Some(context);
    let config = config_of(&pod, &image(None, "")).unwrap();
    assert!(config.mounts.iter().any(|m| m.container_path == "/etc/hosts" && m.readonly));
}

#[test]
fn a_mount_over_the_hosts_file_wins() {
    let pod = pod();
    let place = ContainerPlace {
        attempt: 0,
        image: &image(None, ""),
        mounts: vec![MountedVolume { container_path: "/etc/hosts".into(), host_path: "/v".into(), read_only: false }],
        etc_hosts: Some("/p/etc-hosts".into()),
        node_memory_bytes: 1,
        user_ids: None,
    };
    let config = container_config(&pod, &pod.spec.containers[0], &place).unwrap();
    assert_eq!(config.mounts.iter().map(|m| m.host_path.as_str()).collect::<Vec<_>>(), ["/v"]);
}

#[test]
fn the_user_is_the_containers_else_the_pods_else_the_images() {
    let user = |in_pod: Option<u32>, in_container: Option<u32>, image: v1::Image| {
        let mut pod = pod();
        pod.spec.security_context = Some(PodSecurityContext { run_as_user: in_pod, ..PodSecurityContext::default() });
        pod.spec.containers[0].security_context =
            Some(SecurityContext { run_as_user: in_container, ..SecurityContext::default() });
        let security = config_of(&pod, &image).unwrap().linux.and_then(|l| l.security_context).unwrap();
        (security.run_as_user.map(|u| u.value), security.run_as_username)
    };
    assert_eq!(user(Some(1), Some(2), image(Some(3), "")), (Some(2), String::new()));
    assert_eq!(user(Some(1), None, image(Some(3), "")), (Some(1), String::new()));
    assert_eq!(user(None, None, image(Some(3), "")), (Some(3), String::new()));
    assert_eq!(user(None, None, image(None, "www")), (None, "www".into()));
    assert_eq!(user(None, None, image(None, "")), (Some(0), String::new()));
}

#[test]
fn a_container_that_must_not_be_root_is_refused_where_it_would_or_could_be() {
    let refused = |run_as_user: Option<u32>, image: v1::Image| {
        let mut pod = pod();
        let context = SecurityContext { run_as_user, run_as_non_root: Some(true), ..SecurityContext::default() };
        pod.spec.containers[0].security_context = Some(context);
        config_of(&pod, &image).err().map(|failure| {
            assert_eq!(failure.reason, "CreateContainerConfigError");
            failure.message
        })
    };
    let whom = "(pod: \"web_default(u-1)\", container: a)";
    assert_eq!(refused(Some(1), image(None, "")), None);
    assert_eq!(refused(None, image(Some(1), "")), None);
    let root = Some(format!("container has runAsNonRoot and image will run as root {whom}"));
    assert_eq!(refused(None, image(Some(0), "")), root);
    assert_eq!(refused(None, image(None, "")), root);
    let named = "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root";
    assert_eq!(refused(None, image(None, "www")), Some(format!("{named} {whom}")));
    let asked = Some(format!("container's runAsUser breaks non-root policy {whom}"));
    assert_eq!(refused(Some(0), image(None, "")), asked);
}

#[test]
fn privileges_are_kubernetes_defaults_and_what_was_asked() {
    let mut pod = pod();
    pod.spec.security_context = Some(PodSecurityContext { run_as_group: Some(7), ..PodSecurityContext::default() });
    pod.spec.containers[0].security_context = Some(SecurityContext {
        capabilities: Some(Capabilities { add: vec!["NET_ADMIN".into()], drop: vec!["ALL".into()] }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    });
    let security = config_of(&pod, &image(None, "")).unwrap().linux.and_then(|l| l.security_context).unwrap();
    let capabilities = security.capabilities.unwrap();
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_ADMIN".into()], vec!["ALL".to_owned()])
    );
    assert!(security.readonly_rootfs && !security.no_new_privs && !security.privileged);
    assert_eq!(security.run_as_group.map(|g| g.value), Some(7));
    assert!(security.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert!(security.readonly_paths.contains(&"/proc/sys".to_owned()));
}

#[test]
fn limits_become_cgroup_values() {
    let mut pod = pod();
    let limits = [("cpu", "500m"), ("memory", "64Mi")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    pod.spec.containers[0].resources.limits = limits.into();
    let resources = config_of(&pod, &image(None, "")).unwrap().linux.and_then(|l| l.resources).unwrap();
    assert_eq!((resources.cpu_quota, resources.cpu_period, resources.cpu_shares), (50_000, 100_000, 512));
    assert_eq!((resources.memory_limit_in_bytes, resources.memory_swap_limit_in_bytes), (64 << 20, 64 << 20));
    assert_eq!(resources.oom_score_adj, -997, "guaranteed");
    let of_pod = sandbox_of(&pod).linux.and_then(|l| l.resources).unwrap();
    assert_eq!((of_pod.cpu_quota, of_pod.memory_limit_in_bytes), (50_000, 64 << 20));
}
