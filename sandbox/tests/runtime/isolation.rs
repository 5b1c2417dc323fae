//! What a container can see and do, and what it cannot.

use podbus_common_cri::runtime::*;

use super::host::{container, on_host, secured};

#[test]
fn a_container_has_default_capabilities_a_masked_proc_and_no_device_of_the_host() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let seen = host.output(&sandbox, "a", "grep -E 'Cap(Eff|Bnd|Inh|Amb)' /proc/self/status").await;
        assert_eq!(seen.matches("00000000a80425fb").count(), 2, "{seen}");
        assert_eq!(seen.matches("0000000000000000").count(), 2, "{seen}");
        let script = "
            [ ! -s /proc/kcore ] && [ -z \"$(ls /sys/firmware)\" ] || exit 1
            for path in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
                if echo x > $path; then exit 2; fi
            done 2>/dev/null
            for path in /sys/x /sys/fs/cgroup/x; do
                if mkdir $path; then exit 3; fi
            done 2>/dev/null
            mknod /tmp/disk b 253 0 && if cat /tmp/disk; then exit 4; fi 2>/dev/null
            mknod /dev/mem c 1 1 && if head -c1 /dev/mem; then exit 5; fi 2>/dev/null
            echo x > /dev/null || exit 6
            head -c1 /dev/urandom > /dev/null || exit 7
            if mount -t tmpfs none /tmp 2>/dev/null; then exit 8; fi
            ls -1 /proc/self/fd | wc -l
            ls -A /mnt 2>/dev/null
            exit 0";
        let seen = host.output(&sandbox, "b", script).await;
        assert_eq!(seen.trim(), "4", "descriptors 0 to 2, and that of the directory");
        host
    });
}

#[test]
fn the_mounts_of_a_container_are_its_own_and_no_more() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let seen = host.output(&sandbox, "a", "cat /proc/self/mountinfo").await;
        let points: Vec<&str> = seen.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        assert!(
            points.iter().all(|point| {
                ["/", "/proc", "/sys", "/dev", "/etc"]
                    .iter()
                    .any(|top| point == top || point.starts_with(&format!("{top}/")))
            }),
            "{points:?}"
        );
        let root = seen.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
        assert!(root.contains("nodev"), "{root}");
        host
    });
}

#[test]
fn users_groups_and_working_directory_are_those_of_the_request() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let context = LinuxContainerSecurityContext {
            run_as_username: "web".into(),
            supplemental_groups: vec![4000],
            no_new_privs: true,
            ..Default::default()
        };
        let script = "id; pwd; echo $HOME; grep -E 'CapEff|NoNewPrivs' /proc/self/status; echo ok > /dev/stdout";
        let config = ContainerConfig { working_dir: "/tmp/made/here".into(), ..secured("a", script, context) };
        let id = host.run_with(&sandbox, config).await;
        host.exit(&id).await;
        let seen = host.log(&id).await.into_iter().map(|line| line.text + "\n").collect::<String>();
        assert!(seen.contains("uid=101(web) gid=102(web) groups=102(web),103(extra),4000"), "{seen}");
        assert!(seen.contains("/tmp/made/here\n/srv\n"), "{seen}");
        assert!(seen.contains("NoNewPrivs:\t1") && seen.contains("CapEff:\t0000000000000000"), "{seen}");
        assert!(seen.ends_with("ok\n"), "{seen}");
        assert_eq!(host.status(&id).await.user.unwrap().linux.unwrap().uid, 101);
        host
    });
}

#[test]
fn capabilities_are_added_and_dropped() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let capabilities = Capability {
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        };
        let context = LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() };
        let seen = host.output_of(&sandbox, secured("a", "grep CapBnd /proc/self/status", context)).await;
        assert!(seen.contains("0000000000000400"), "{seen}");
        host
    });
}

#[test]
fn mounts_are_shared_read_only_and_never_follow_a_link_out_of_the_root() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let (volume, file) = (host.path("volume"), host.path("file"));
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(&file, "from the host\n").unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
        let mount = |host_path: &std::path::Path, target: &str, readonly| Mount {
            host_path: host_path.display().to_string(),
            container_path: target.into(),
            readonly,
            ..Default::default()
        };
        let mounts = vec![
            mount(&file, "/data/escape/podbus-file", true),
            mount(&volume, "/data", false),
            mount(&volume, "/readonly", true),
        ];
        let script =
            "cat /etc/podbus-file; echo inside > /data/new; if echo x > /readonly/x; then exit 1; fi 2>/dev/null";
        let config = ContainerConfig { mounts: mounts.clone(), ..container("a", script) };
        let id = host.create(&sandbox, config).await;
        host.start_container(&id).await;
        let status = host.exit(&id).await;
        assert_eq!(status.exit_code, 0, "{:?}", host.log(&id).await);
        assert_eq!(status.mounts, mounts);
        assert_eq!(host.log(&id).await[0].text, "from the host");
        assert_eq!(std::fs::read_to_string(volume.join("new")).unwrap(), "inside\n");
        assert!(!std::path::Path::new("/etc/podbus-file").exists(), "a mount point was made on the host");
        host
    });
}

#[test]
fn a_read_only_root_takes_no_write_and_a_volume_still_does() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let context = LinuxContainerSecurityContext { readonly_rootfs: true, ..Default::default() };
        let script = "if touch /x /etc/hosts; then exit 1; fi 2>/dev/null; touch /dev/shm/x";
        host.output_of(&sandbox, secured("a", script, context)).await;
        host
    });
}

#[test]
fn a_container_gets_no_namespace_of_the_node_that_its_sandbox_does_not_have() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let with_pid = |pid: NamespaceMode| {
            let options = NamespaceOption { pid: pid.into(), ..Default::default() };
            let context = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
            secured(pid.as_str_name(), "cat /proc/1/comm", context)
        };
        let config = Some(with_pid(NamespaceMode::Node));
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.clone(), config, sandbox_config: None };
        assert_eq!(host.cri.create_container(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(host.output_of(&sandbox, with_pid(NamespaceMode::Pod)).await, "pause\n");
        host
    });
}

#[test]
fn shared_memory_is_the_pods_and_gone_with_it() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        host.output(&sandbox, "a", "echo shared > /dev/shm/x").await;
        assert_eq!(host.output(&sandbox, "b", "cat /dev/shm/x").await, "shared\n");
        let other = host.run_pod("other").await;
        assert_eq!(host.output(&other, "c", "ls /dev/shm").await, "");
        host
    });
}

#[test]
fn the_node_is_seen_where_the_network_is_the_nodes() {
    on_host(|mut host| async move {
        let mut config = super::host::pod("node");
        let options = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Node.into(),
            ..Default::default()
        };
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
        let sandbox = host.run_pod_with(config).await;
        assert_eq!(host.pod_status(&sandbox).await.network.unwrap().ip, "");
        let seen = host.output(&sandbox, "a", "ip -o link | wc -l; [ $$ -gt 1 ]").await;
        assert!(seen.trim().parse::<u32>().unwrap() >= 2, "lo and the bridge: {seen}");
        host
    });
}

#[test]
fn a_cgroup_of_v2_opens_only_the_devices_that_its_rules_allow() {
    use podbus_sandbox_linux::device::{MKNOD, READ, Rule, WRITE, confine};
    use std::os::fd::AsRawFd as _;

    let tree = tempfile::tempdir().unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(none, tree.path(), Some("cgroup2"), nix::mount::MsFlags::empty(), none).unwrap();
    let dir = tree.path().join(format!("podbus-dev-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let null = Rule { is_block: false, major: Some(1), minor: Some(3), access: READ | WRITE };
    let make = Rule { is_block: false, major: None, minor: None, access: MKNOD };
    confine(std::fs::File::open(&dir).unwrap().as_raw_fd(), &[null, make]).unwrap();
    let script =
        format!("echo $$ > {}/cgroup.procs && echo x > /dev/null && ! head -c1 /dev/zero 2>/dev/null", dir.display());
    let status = std::process::Command::new("/bin/busybox").args(["sh", "-c", &script]).status().unwrap();
    std::fs::remove_dir(&dir).unwrap();
    nix::mount::umount(tree.path()).unwrap();
    assert!(status.success());
}
