//! Mounts: places that are swapped, places that are refused, what is passed on, what is read-only.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, setns, unshare};
use podbus_common_cri::runtime::*;

use crate::runtime::host::{container, on_host, pod, secured, wait_until};

fn mount(host_path: &Path, container_path: &str) -> Mount {
    Mount { host_path: host_path.display().to_string(), container_path: container_path.into(), ..Default::default() }
}

fn privileged() -> LinuxContainerSecurityContext {
    LinuxContainerSecurityContext { privileged: true, ..Default::default() }
}

fn privileged_pod(name: &str) -> PodSandboxConfig {
    let mut config = pod(name);
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    config
}

/// CVE-2021-30465: the place of a mount is swapped for a link between check and use.
#[test]
fn a_mount_point_that_is_swapped_for_a_link_never_leads_out_of_the_root() {
    on_host(|mut host| async move {
        let (volume, canary, source) = (host.path("shared"), host.path("canary"), host.path("source"));
        for dir in [&volume, &canary, &source, &volume.join("place")] {
            std::fs::create_dir(dir).unwrap();
        }
        std::os::unix::fs::symlink(&canary, volume.join("link")).unwrap();
        std::fs::write(source.join("marker"), "").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, dir) = (Arc::clone(&stop), std::fs::File::open(&volume).unwrap());
        let swapping = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(&dir, "place", &dir, "link", exchange).unwrap();
            }
        });
        let sandbox = host.run_pod("web").await;
        let mut started = 0;
        for at in 0..60 {
            let mounts = vec![mount(&volume, "/shared"), mount(&source, "/shared/place/deep")];
            let id = host.create(&sandbox, ContainerConfig { mounts, ..container(&format!("c{at}"), "true") }).await;
            let request = StartContainerRequest { container_id: id.clone() };
            started += u32::from(host.cri.start_container(request).await.is_ok());
            let request = RemoveContainerRequest { container_id: id };
            host.cri.remove_container(request).await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
        assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "something was made outside of the root");
        assert!(started > 0, "not one start won the race: nothing was shown");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(host.dir.path().to_str().unwrap()));
        host
    });
}

/// What is beneath has to be gone and not hidden: a container that may unmount takes its root away.
#[test]
fn beneath_the_root_of_a_container_is_nothing() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(privileged_pod("web")).await;
        let script = "busybox umount -l / && echo gone; sleep 1000";
        let id = host.run_with(&sandbox, secured("a", script, privileged())).await;
        host.wait_for_log(&id).await;
        let mounts = std::fs::File::open(format!("/proc/{}/ns/mnt", host.pid(&id).await)).unwrap();
        let found = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&mounts, CloneFlags::CLONE_NEWNS).unwrap();
            std::fs::read_dir("/").unwrap().count()
        });
        assert_eq!(found.join().unwrap(), 0);
        host
    });
}

#[test]
fn places_that_would_cover_the_runtimes_own_are_refused() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let source = host.path("source");
        std::fs::create_dir(&source).unwrap();
        for target in ["/proc", "/proc/self", "/proc/sys/kernel", "/./proc//", "/", "//", "data", "/a/../b", ""] {
            let config = ContainerConfig { mounts: vec![mount(&source, target)], ..container("a", "true") };
            host.refused(&sandbox, config).await;
        }
        let bad: [fn(&mut Mount); 6] = [
            |it| it.host_path = "relative".into(),
            |it| it.propagation = 9,
            |it| it.propagation = MountPropagation::PropagationBidirectional.into(),
            |it| it.recursive_read_only = true,
            |it| it.mount_options = vec!["suid".into()],
            |it| it.uid_mappings = vec![IdMapping { host_id: 1, container_id: 0, length: 1 }],
        ];
        for change in bad {
            let mut mount = mount(&source, "/data");
            change(&mut mount);
            host.refused(&sandbox, ContainerConfig { mounts: vec![mount], ..container("a", "true") }).await;
        }
        host
    });
}

#[test]
fn a_recursive_read_only_mount_is_so_beneath_other_mounts_and_a_plain_one_is_not() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let (outer, none) = (host.path("outer"), None::<&str>);
        std::fs::create_dir_all(outer.join("inner")).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &outer.join("inner"), Some("tmpfs"), flags, none).unwrap();
        let plain = Mount { readonly: true, ..mount(&outer, "/plain") };
        let recursive = Mount { readonly: true, recursive_read_only: true, ..mount(&outer, "/recursive") };
        let script = "
            touch /plain/inner/x || exit 1
            if touch /plain/x || touch /recursive/x || touch /recursive/inner/x; then exit 2; fi 2>/dev/null
            exit 0";
        let config = ContainerConfig { mounts: vec![plain, recursive], ..container("a", script) };
        host.output_of(&sandbox, config).await;
        nix::mount::umount(&outer.join("inner")).unwrap();
        host
    });
}

#[test]
fn mounts_pass_between_node_and_container_only_as_it_was_asked() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(privileged_pod("web")).await;
        let (shared, none) = (host.path("shared"), None::<&str>);
        std::fs::create_dir_all(&shared).unwrap();
        nix::mount::mount(Some(&shared), &shared, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        nix::mount::mount(none, &shared, none, nix::mount::MsFlags::MS_SHARED, none).unwrap();
        for name in ["node", "private", "slave", "both"] {
            std::fs::create_dir(shared.join(name)).unwrap();
        }
        let with = |name: &str, propagation: MountPropagation| {
            let mount = Mount { propagation: propagation.into(), ..mount(&shared, "/shared") };
            let script = format!("busybox mount -t tmpfs none /shared/{name} && echo ready; sleep 1000");
            ContainerConfig { mounts: vec![mount], ..secured(name, &script, privileged()) }
        };
        let mut ids = Vec::new();
        for (name, propagation) in [
            ("private", MountPropagation::PropagationPrivate),
            ("slave", MountPropagation::PropagationHostToContainer),
            ("both", MountPropagation::PropagationBidirectional),
        ] {
            let id = host.run_with(&sandbox, with(name, propagation)).await;
            host.wait_for_log(&id).await;
            ids.push(id);
        }
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &shared.join("node"), Some("tmpfs"), flags, none).unwrap();
        std::fs::write(shared.join("node/marker"), "").unwrap();
        for (id, expected) in ids.iter().zip(["", "marker\n", "marker\n"]) {
            assert_eq!(host.exec(id, "ls /shared/node").await.0, expected);
        }
        let is_mounted = |name: &str| {
            let path = format!(" {}/{name} ", shared.display());
            std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path)
        };
        assert!(is_mounted("both") && !is_mounted("slave") && !is_mounted("private"));
        nix::mount::umount2(&shared, nix::mount::MntFlags::MNT_DETACH).unwrap();
        wait_until("the mounts are gone", || !is_mounted("both")).await;
        host
    });
}

#[test]
fn a_missing_source_is_made_as_an_empty_directory() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let source = host.path("missing/deep");
        let config = ContainerConfig { mounts: vec![mount(&source, "/data")], ..container("a", "echo x > /data/x") };
        host.output_of(&sandbox, config).await;
        assert_eq!(std::fs::read_to_string(source.join("x")).unwrap(), "x\n");
        host
    });
}
