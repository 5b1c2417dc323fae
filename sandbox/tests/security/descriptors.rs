//! The runtime's own program, its descriptors, its working directory and its environment.

use podbus_common_cri::runtime::*;

use crate::runtime::host::{container, on_host, pod, with_shared_pid};

const LIST: &str = "readlink /proc/self/fd/3 > /dev/null; cd /proc/self/fd && ls";

#[test]
fn a_process_has_its_three_descriptors_and_no_other() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let started = host.output(&sandbox, "a", LIST).await;
        assert_eq!(started, "0\n1\n2\n3\n", "3 is the listing itself");
        let id = host.run(&sandbox, "b", "sleep 1000").await;
        assert_eq!(host.exec(&id, LIST).await.0, "0\n1\n2\n3\n");
        host
    });
}

#[test]
fn a_working_directory_never_leads_out_by_a_descriptor() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let volume = host.path("volume");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/proc/self/fd/7", volume.join("link")).unwrap();
        std::fs::write(volume.join("file"), "").unwrap();
        let paths = (3..24).map(|fd| format!("/proc/self/fd/{fd}")).chain(
            ["/data/link", "/data/link/..", "/data/file", "/proc/self/cwd", "/proc/1/cwd", "/proc/self/root/../.."]
                .map(str::to_owned),
        );
        let here = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        for (at, path) in paths.enumerate() {
            let mount =
                Mount { host_path: volume.display().to_string(), container_path: "/data".into(), ..Default::default() };
            // What it sees above itself is its own root, where it starts at all.
            let script = "cat ../../../../../../../../etc/hostname; cat ../../../../../../../bin/busybox | wc -c";
            let config = ContainerConfig {
                working_dir: path.clone(),
                mounts: vec![mount],
                ..container(&format!("c{at}"), script)
            };
            let id = host.create(&sandbox, config).await;
            let request = StartContainerRequest { container_id: id.clone() };
            if host.cri.start_container(request).await.is_ok() {
                host.exit(&id).await;
                let seen = host.log(&id).await.into_iter().map(|line| line.text).collect::<String>();
                assert!(seen.contains("web"), "{path}: {seen}, the node is {here}");
            }
        }
        host
    });
}

#[test]
fn the_runtimes_program_cannot_be_written_to() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        for pid in host.shims().into_iter().chain([host.spawner(), host.pause_pid(&sandbox).await]) {
            let program = format!("/proc/{pid}/exe");
            assert!(std::fs::read_link(&program).unwrap().to_str().unwrap().starts_with("/memfd:"), "{program}");
            let file = std::fs::File::open(&program).unwrap();
            let seals = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
            let seals = nix::fcntl::SealFlag::from_bits_truncate(seals);
            let all = nix::fcntl::SealFlag::F_SEAL_WRITE
                | nix::fcntl::SealFlag::F_SEAL_GROW
                | nix::fcntl::SealFlag::F_SEAL_SHRINK
                | nix::fcntl::SealFlag::F_SEAL_SEAL;
            assert!(seals.contains(all), "{program}: {seals:?}");
        }
        // A command that names the program of whoever runs it gets the sealed one, which does nothing here.
        let config = ContainerConfig { command: vec!["/proc/self/exe".into()], ..container("b", "") };
        let config = ContainerConfig { args: vec!["/tmp".into()], ..config };
        let other = host.create(&sandbox, config).await;
        if host.cri.start_container(StartContainerRequest { container_id: other.clone() }).await.is_ok() {
            assert_ne!(host.exit(&other).await.exit_code, 0);
        }
        assert_eq!(host.exec(&id, "echo works").await.0, "works\n");
        host
    });
}

#[test]
fn no_socket_of_the_runtime_can_be_reached_or_named_from_a_container() {
    on_host(|mut host| async move {
        let mut config = pod("node");
        let options = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
        let sandbox = host.run_pod_with(config).await;
        let seen = host.output(&sandbox, "a", "cat /proc/net/unix").await;
        assert!(!seen.contains("@podbus") && !seen.contains("@/containerd"), "{seen}");
        host
    });
}

#[test]
fn the_environment_is_made_and_not_inherited() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let seen = host.output(&sandbox, "a", "tr '\\0' '\\n' < /proc/1/environ || cat /proc/1/environ").await;
        let names: Vec<&str> = seen.split(['\n', '\0']).filter_map(|it| Some(it.split_once('=')?.0)).collect();
        assert_eq!(names, ["PATH", "HOME", "HOSTNAME"], "{seen}");
        host
    });
}

#[test]
fn pause_and_shim_cannot_be_looked_into_from_a_shared_pid_namespace() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(with_shared_pid(pod("shared"))).await;
        let script = "
            [ $(cat /proc/1/comm) = pause ] || exit 1
            for path in exe cwd root fd/0; do
                if readlink /proc/1/$path; then exit 2; fi
            done 2>/dev/null
            if cat /proc/1/environ || cat /proc/1/mem; then exit 3; fi 2>/dev/null
            kill -9 1
            exit 0";
        host.output(&sandbox, "a", script).await;
        host.output(&sandbox, "b", "true").await;
        host
    });
}
