//! Pods whose users are not the node's.

use std::os::unix::fs::MetadataExt as _;

use podbus_common_cri::runtime::*;

use super::host::{Host, container, namespace, on_host, pod, secured};
use crate::images::pack::{Archive, docker_archive};

const FIRST: u32 = 200_000;
const COUNT: u32 = 65_536;

fn ids() -> Vec<IdMapping> {
    vec![IdMapping { host_id: FIRST, container_id: 0, length: COUNT }]
}

fn options(pid: NamespaceMode) -> NamespaceOption {
    let userns = UserNamespace { mode: NamespaceMode::Pod.into(), uids: ids(), gids: ids() };
    NamespaceOption { pid: pid.into(), userns_options: Some(userns), ..Default::default() }
}

fn pod_with_users(name: &str, pid: NamespaceMode) -> PodSandboxConfig {
    let mut config = pod(name);
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(options(pid));
    config
}

/// User and group of a process, as the node sees them.
fn ids_on_node(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:")).collect()
}

#[test]
fn root_of_a_pod_with_users_of_its_own_is_nobody_of_the_node() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Container)).await;
        let id = host.run(&sandbox, "a", "cat /proc/self/uid_map; sleep 600").await;
        host.wait_for_log(&id).await;
        let map = host.log(&id).await.remove(0).text;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "200000", "65536"]);
        let (pid, pause) = (host.pid(&id).await, host.pause_pid(&sandbox).await);
        for process in [pid, pause] {
            assert!(!ids_on_node(process).contains("\t0"), "{}", ids_on_node(process));
        }
        assert_eq!(namespace(pid, "user"), namespace(pause, "user"));
        assert_ne!(namespace(pid, "user"), namespace(std::process::id().cast_signed(), "user"));
        let script = "
            [ $(stat -c %u:%g /bin /etc/passwd /etc/hosts /dev | sort -u) = 0:0 ] || exit 1
            touch /new && [ $(stat -c %u /new) = 0 ] || exit 2
            ping -c1 -W5 10.111.0.1 >/dev/null || exit 3
            [ $(hostname) = web ] && [ -w /dev/shm ] || exit 4
            if mknod /tmp/disk b 253 0 2>/dev/null; then exit 5; fi
            echo seen > /dev/stdout";
        let (seen, code) = host.exec(&id, &script.replace("sort -u", "uniq")).await;
        assert_eq!((seen.trim(), code), ("seen", 0));
        host
    });
}

#[test]
fn another_user_of_such_a_pod_has_its_streams_and_only_its_own_files() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Pod)).await;
        let context = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 101 }),
            run_as_group: Some(Int64Value { value: 102 }),
            namespace_options: Some(options(NamespaceMode::Pod)),
            ..Default::default()
        };
        let script = "id -u > /dev/stdout; if touch /etc/new 2>/dev/null; then exit 1; fi; exec sleep 600";
        let id = host.run_with(&sandbox, secured("a", script, context)).await;
        host.wait_for_log(&id).await;
        assert_eq!(host.log(&id).await[0].text, "101");
        let pid = host.pid(&id).await;
        assert!(ids_on_node(pid).contains("200101") && ids_on_node(pid).contains("200102"), "{}", ids_on_node(pid));
        assert_eq!(host.exec(&id, "id -u > /dev/stdout").await, ("101\n".to_owned(), 0));
        host
    });
}

#[test]
fn a_volume_with_the_pods_ids_keeps_the_ids_of_its_files_on_the_node() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Container)).await;
        let volume = |name: &str| host.path(name).display().to_string();
        let mount = |name: &str, mappings: Vec<IdMapping>| Mount {
            container_path: format!("/{name}"),
            host_path: volume(name),
            uid_mappings: mappings.clone(),
            gid_mappings: mappings,
            ..Default::default()
        };
        let mounts = vec![mount("mapped", ids()), mount("plain", Vec::new())];
        let script =
            "touch /mapped/new && stat -c %u /mapped/new /plain; if touch /plain/new 2>/dev/null; then exit 1; fi";
        let seen = host.output_of(&sandbox, ContainerConfig { mounts, ..container("a", script) }).await;
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "65534"]);
        assert_eq!(std::fs::metadata(host.path("mapped/new")).unwrap().uid(), 0);
        host
    });
}

#[test]
fn files_of_an_image_volume_belong_to_the_pod_also_where_it_has_several_layers() {
    on_host(|mut host| async move {
        let layer = |name: &str| Archive::new().owned_file(name, b"secret", 0o600, 0, 0).layer();
        let (one, more) = ("localhost/one:latest", "localhost/more:latest");
        host.load(&docker_archive(one, &[layer("first")])).await;
        host.load(&docker_archive(more, &[layer("first"), layer("second")])).await;
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Container)).await;
        let mount = |path: &str, image: &str| Mount {
            container_path: path.into(),
            image: Some(ImageSpec { image: image.into(), ..Default::default() }),
            readonly: true,
            ..Default::default()
        };
        let mounts = vec![mount("/one", one), mount("/more", more)];
        let script = "cat /one/first /more/first /more/second";
        let seen = host.output_of(&sandbox, ContainerConfig { mounts, ..container("a", script) }).await;
        assert_eq!(seen, "secretsecretsecret\n");
        host
    });
}

#[test]
fn capabilities_count_in_the_namespaces_of_such_a_pod_and_nowhere_else() {
    on_host(|mut host| async move {
        let mut config = pod_with_users("web", NamespaceMode::Container);
        config.linux.as_mut().unwrap().sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.tcp_syncookies", "0")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let sandbox = host.run_pod_with(config).await;
        let capabilities = Capability {
            add_capabilities: ["SYS_ADMIN", "NET_ADMIN"].map(str::to_owned).to_vec(),
            ..Default::default()
        };
        let context = LinuxContainerSecurityContext {
            capabilities: Some(capabilities),
            namespace_options: Some(options(NamespaceMode::Container)),
            ..Default::default()
        };
        let script = "
            [ $(cat /proc/sys/kernel/shm_rmid_forced) = 1 ] && [ $(cat /proc/sys/net/ipv4/tcp_syncookies) = 0 ] || exit 1
            hostname other && mount -t tmpfs none /tmp && ip link add dummy0 type dummy 2>/dev/null
            [ $(hostname) = other ] || exit 2
            # Whatever it can uncover in /proc: what lies there belongs to the node's root.
            mount -o remount,rw,bind /proc/sys 2>/dev/null; umount /proc/sysrq-trigger 2>/dev/null
            for path in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
                if echo x > $path; then exit 4; fi
            done 2>/dev/null
            exit 0";
        host.output_of(&sandbox, secured("a", script, context)).await;
        host
    });
}

#[test]
fn a_daemon_that_starts_again_finds_the_user_namespace_of_a_pod() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Pod)).await;
        let first = host.run(&sandbox, "a", "sleep 600").await;
        host.kill_daemon();
        host.run_daemon().await;
        let second = host.run(&sandbox, "b", "exec sleep 600").await;
        let (first, second) = (host.pid(&first).await, host.pid(&second).await);
        for kind in ["user", "pid", "net", "ipc", "uts"] {
            assert_eq!(namespace(first, kind), namespace(second, kind), "{kind}");
        }
        host
    });
}

#[test]
fn a_pod_with_users_of_its_own_cannot_have_what_is_the_nodes() {
    on_host(|mut host| async move {
        async fn refused(host: &mut Host, config: PodSandboxConfig) -> String {
            let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
            let refusal = host.cri.run_pod_sandbox(request).await.unwrap_err();
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{refusal}");
            refusal.message().to_owned()
        }
        let mut config = pod_with_users("web", NamespaceMode::Pod);
        let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        context.namespace_options.as_mut().unwrap().network = NamespaceMode::Node.into();
        assert!(refused(&mut host, config).await.contains("cannot have the node's network"));

        let mut config = pod_with_users("web", NamespaceMode::Pod);
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        let sandbox = host.run_pod_with(config).await;
        let context = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        assert!(host.refused(&sandbox, secured("a", "true", context)).await.contains("add capabilities"));
        host
    });
}

#[test]
fn processes_of_such_a_pod_are_in_its_cgroup_and_have_its_limits() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(pod_with_users("web", NamespaceMode::Container)).await;
        let resources =
            LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
        let context = LinuxContainerSecurityContext {
            namespace_options: Some(options(NamespaceMode::Container)),
            ..Default::default()
        };
        let linux = LinuxContainerConfig { resources: Some(resources), security_context: Some(context) };
        let config = ContainerConfig { linux: Some(linux), ..container("a", "sleep 600 & sleep 600") };
        let id = host.run_with(&sandbox, config).await;
        let find = |host: &Host, file: &str, id: &str| {
            host.cgroups().into_iter().map(|pod| pod.join(id)).find(|it| it.join(file).exists())
        };
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (memory, pids) = if v2 { ("memory.max", "pids.max") } else { ("memory.limit_in_bytes", "pids.max") };
        for (file, expected) in [(memory, "67108864"), (pids, "4096")] {
            let dir = find(&host, file, &id).unwrap();
            assert_eq!(std::fs::read_to_string(dir.join(file)).unwrap().trim(), expected, "{file}");
            let inside = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap();
            let pid = host.pid(&id).await.to_string();
            assert!(inside.lines().any(|line| line == pid), "{pid} is not in {}: {inside}", dir.display());
        }
        // One more process, and what is born in the pod, is held as well.
        let (own, _) = host.exec(&id, "cat /proc/self/cgroup").await;
        assert!(!own.contains("/.."), "an exec is outside of the container's cgroup: {own}");
        let file = find(&host, "pids.max", &id).unwrap().join("pids.max");
        std::fs::write(&file, "4").unwrap();
        let (seen, _) = host.exec(&id, "for n in 1 2 3 4 5 6; do sleep 600 & done").await;
        assert!(seen.contains("fork"), "{seen}");
        host
    });
}
