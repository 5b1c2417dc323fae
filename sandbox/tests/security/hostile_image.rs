//! Images that ship links where the runtime mounts, masks and writes.

use podbus_common_cri::runtime::*;

use crate::images::pack::{Archive, docker_archive};
use crate::runtime::host::{Host, container, on_host};

const HOSTILE: &str = "localhost/hostile:latest";

/// A busybox, and what `change` adds to it.
async fn load(host: &Host, change: impl FnOnce(Archive) -> Archive) {
    let busybox = std::fs::read("/bin/busybox").unwrap();
    let mut archive = Archive::new().directory("bin", 0o755).owned_file("bin/busybox", &busybox, 0o755, 0, 0);
    for name in ["sh", "cat", "ls", "stat", "tty", "wc", "sleep", "head", "readlink"] {
        archive = archive.symlink(&format!("bin/{name}"), "busybox");
    }
    host.load(&docker_archive(HOSTILE, &[change(archive).layer()])).await;
}

fn hostile(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        image: Some(ImageSpec { image: HOSTILE.into(), ..Default::default() }),
        ..container(name, script)
    }
}

/// A directory that nothing of a container may reach: what is in it, recorded.
struct Canary {
    path: std::path::PathBuf,
}

impl Canary {
    fn new(host: &Host) -> Self {
        let path = host.path("canary");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "untouched").unwrap();
        Self { path }
    }

    fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.path).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read_to_string(self.path.join("file")).unwrap(), "untouched");
    }
}

#[test]
fn an_image_that_ships_a_link_for_proc_sys_or_dev_does_not_start() {
    on_host(|mut host| async move {
        let canary = Canary::new(&host);
        let sandbox = host.run_pod("web").await;
        for (at, name) in ["proc", "sys", "dev"].into_iter().enumerate() {
            for (kind, target) in [("absolute", canary.text()), ("inner", "/bin"), ("file", "")] {
                load(&host, |archive| match target {
                    "" => archive.file(name, b""),
                    target => archive.symlink(name, target),
                })
                .await;
                let id = host.create(&sandbox, hostile(&format!("{name}-{kind}-{at}"), "true")).await;
                let error = host.cri.start_container(StartContainerRequest { container_id: id }).await.unwrap_err();
                assert!(error.message().contains("must be an ordinary directory"), "{name} {kind}: {error}");
            }
        }
        canary.assert_untouched();
        host
    });
}

#[test]
fn what_an_image_ships_in_dev_is_never_used() {
    on_host(|mut host| async move {
        let canary = Canary::new(&host);
        let sandbox = host.run_pod("web").await;
        load(&host, |archive| {
            archive
                .directory("dev", 0o755)
                .symlink("dev/null", &format!("{}/file", canary.text()))
                .symlink("dev/console", "/proc/sys/kernel/core_pattern")
                .symlink("dev/pts", canary.text())
                .symlink("dev/ptmx", "/proc/self/fd/0")
                .symlink("dev/shm", canary.text())
        })
        .await;
        let script = "
            for path in /proc/kcore /proc/keys /proc/timer_list; do
                [ ! -e $path ] || [ $(head -c 100 $path | wc -c) = 0 ] || exit 1
            done
            echo x > /dev/null; echo x > /dev/shm/x
            stat -c %F-%t:%T /dev/null
            [ ! -t 0 ] || stat -c %F-%t /dev/console";
        let seen = host.output_of(&sandbox, hostile("plain", script)).await;
        assert_eq!(seen, "character special file-1:3\n");
        let with_terminal = ContainerConfig { tty: true, ..hostile("terminal", script) };
        let seen = host.output_of(&sandbox, with_terminal).await;
        assert!(seen.contains("character special file-88"), "a terminal is a device 136:N: {seen}");
        canary.assert_untouched();
        host
    });
}

#[test]
fn files_and_directories_that_the_runtime_makes_stay_in_the_root() {
    on_host(|mut host| async move {
        let canary = Canary::new(&host);
        let sandbox = host.run_pod("web").await;
        load(&host, |archive| {
            let up = "../".repeat(20);
            archive
                .symlink("etc", &format!("{up}{}", canary.text()))
                .symlink("work", canary.text())
                .symlink("loop", "loop")
                .symlink("self", "/proc/self/fd/1")
        })
        .await;
        let volume = host.path("volume");
        std::fs::create_dir(&volume).unwrap();
        for (at, path) in ["/work/new", "/work/a/../b", "/loop/x", "/self/x", "/etc/x"].into_iter().enumerate() {
            let mount =
                Mount { host_path: volume.display().to_string(), container_path: path.into(), ..Default::default() };
            let config = ContainerConfig { working_dir: path.into(), ..hostile(&format!("work{at}"), "true") };
            let mounted = ContainerConfig { mounts: vec![mount], ..hostile(&format!("mount{at}"), "true") };
            for config in [config, mounted] {
                let request = CreateContainerRequest {
                    pod_sandbox_id: sandbox.clone(),
                    config: Some(config),
                    sandbox_config: None,
                };
                let Ok(created) = host.cri.create_container(request).await else { continue };
                let container_id = created.into_inner().container_id;
                let _ = host.cri.start_container(StartContainerRequest { container_id }).await;
            }
        }
        canary.assert_untouched();
        host
    });
}
