//! Containers that other runtimes make: those that are installed here, and the example of a user's own.

use std::path::{Path, PathBuf};

use podbus_common_cri::runtime::*;
use podbus_test_support::wait::PATIENCE;

use super::host::{Host, container, is_alive, namespace, on_host, pod, wait_until, with_shared_pid};

/// A name and a binary: crun and runc where they are installed, and the example always.
fn installed() -> Vec<(&'static str, PathBuf)> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/handlers/chroot.sh");
    let found = [("crun", "/usr/bin/crun"), ("runc", "/usr/sbin/runc"), ("runc", "/usr/bin/runc")];
    let mut list: Vec<(&str, PathBuf)> = found.map(|(name, path)| (name, PathBuf::from(path))).to_vec();
    // crun wants no part of a machine whose controllers are in both versions' trees.
    let is_mixed =
        std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").is_ok_and(|it| !it.trim().is_empty());
    list.retain(|(name, path)| path.exists() && !(*name == "crun" && is_mixed));
    list.dedup_by_key(|(name, _)| *name);
    list.push(("chroot", example.canonicalize().unwrap()));
    list
}

fn real() -> Vec<&'static str> {
    installed().into_iter().map(|(name, _)| name).filter(|name| *name != "chroot").collect()
}

/// Starts the daemon again with all handlers, and makes `handler` the one of new pods.
pub(crate) async fn with_handlers(host: &mut Host, handler: &str) {
    let entries = installed().into_iter().map(|(name, path)| {
        let more = if name == "chroot" { "inheritsCgroup: true" } else { "" };
        format!("  {name}: {{binary: {}, {more}}}\n", path.display())
    });
    std::fs::write(host.path("handlers.yaml"), format!("handlers:\n{}", entries.collect::<String>())).unwrap();
    host.kill_daemon();
    host.run_daemon().await;
    handler.clone_into(&mut host.handler);
}

/// Runs `test` on a node for each handler of `names`.
fn with_each<F: Future<Output = Host>>(names: &[&'static str], test: impl Fn(Host) -> F) {
    for name in names {
        on_host(|mut host| async {
            with_handlers(&mut host, name).await;
            eprintln!("handler {name}");
            test(host).await
        });
    }
}

fn all() -> Vec<&'static str> {
    installed().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_handlers_containers_live_in_the_sandbox_that_we_made() {
    with_each(&all(), |mut host| async move {
        let config = PodSandboxConfig { hostname: "shared".into(), ..pod("web") };
        let sandbox = host.run_pod_with(config).await;
        let script = "hostname; id -u; cat /proc/1/comm; echo wrong >&2; exit 7";
        let id = host.run(&sandbox, "a", script).await;
        let status = host.exit(&id).await;
        let log = host.log(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"), "{log:?}");
        let lines: Vec<(&str, &str)> = log.iter().map(|line| (line.stream.as_str(), line.text.as_str())).collect();
        let mut out: Vec<&str> =
            lines.iter().filter(|(stream, _)| *stream == "stdout").map(|(_, text)| *text).collect();
        assert_eq!(out.remove(0), "shared");
        assert_eq!(out, ["0", "sh"]);
        assert!(lines.contains(&("stderr", "wrong")), "{lines:?}");
        let runs = host.run(&sandbox, "b", "sleep 1000").await;
        let (pid, pause) = (host.pid(&runs).await, host.pause_pid(&sandbox).await);
        assert!(is_alive(pid));
        for kind in ["net", "ipc", "uts"] {
            let inside = host.exec(&runs, &format!("readlink /proc/self/ns/{kind}")).await.0;
            assert_eq!(inside.trim(), namespace(pause, kind), "{kind}");
        }
        let shown = host.exec(&runs, "cat /etc/hostname; ip -4 -o addr show eth0").await.0;
        let ip = host.pod_status(&sandbox).await.network.unwrap().ip;
        assert!(shown.contains("shared") && shown.contains(&ip), "{shown}");
        assert_eq!(host.pod_status(&sandbox).await.runtime_handler, host.handler);
        host.stop(&runs, 0).await;
        assert_eq!(host.status(&runs).await.exit_code, 137);
        host
    });
}

#[test]
fn commands_in_a_handlers_container_have_their_own_exit_code_and_end_with_their_time() {
    with_each(&all(), |mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        assert_eq!(host.exec(&id, "echo out; echo err >&2; exit 3").await, ("out\nerr\n".into(), 3));
        for round in 0..10 {
            assert_eq!(host.exec(&id, &format!("exit {round}")).await.1, round, "an end is never lost");
        }
        let cmd = ["sh", "-c", "sleep 1000"].map(str::to_owned).to_vec();
        let refused = host.cri.exec_sync(ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 }).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::DeadlineExceeded);
        let processes = |host: &Host| {
            let dir = host.cgroups();
            assert!(!dir.is_empty());
            std::fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter(|entry| {
                    let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
                    command.starts_with(b"sleep\x001000") && cgroup.contains(&format!("podbus-{}/", host.instance))
                })
                .count()
        };
        wait_until("the command is gone, the container is not", || processes(&host) == 1).await;
        host
    });
}

#[test]
fn a_handlers_containers_survive_the_daemon_and_their_exit_is_known() {
    with_each(&all(), |mut host| async move {
        let sandbox = host.run_pod("web").await;
        let runs = host.run(&sandbox, "runs", "sleep 1000").await;
        let ends = host.run(&sandbox, "ends", "while ! [ -e /tmp/go ]; do sleep 0.01; done; echo late; exit 9").await;
        let created = host.create(&sandbox, container("created", "exit 4")).await;
        let pid = host.pid(&runs).await;
        host.exec(&ends, "(sleep 0.3; touch /tmp/go) >/dev/null 2>&1 </dev/null &").await;
        let ended_pid = host.pid(&ends).await;
        host.kill_daemon();
        // The exec may have ended with its daemon: then nobody opens the gate but us.
        let gate = format!("/proc/{ended_pid}/root/tmp/go");
        let _ = std::fs::write(gate, "");
        for child in children(ended_pid) {
            let _ = std::fs::write(format!("/proc/{child}/root/tmp/go"), "");
        }
        wait_until("the container ends", || !is_alive(ended_pid)).await;
        host.run_daemon().await;
        let status = host.exit(&ends).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
        assert_eq!(host.log(&ends).await[0].text, "late");
        assert!(is_alive(pid) && host.status(&runs).await.state() == ContainerState::ContainerRunning);
        assert_eq!(host.exec(&runs, "echo hi").await, ("hi\n".into(), 0));
        host.start_container(&created).await;
        assert_eq!(host.exit(&created).await.exit_code, 4);
        host
    });
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let direct: Vec<i32> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    direct.iter().flat_map(|child| std::iter::once(*child).chain(children(*child))).collect()
}

#[test]
fn users_mounts_limits_and_namespaces_reach_the_handler() {
    with_each(&real(), |mut host| async move {
        let sandbox = host.run_pod_with(with_shared_pid(pod("web"))).await;
        let data = host.path("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("file"), "seen\n").unwrap();
        let security = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 101 }),
            no_new_privs: true,
            readonly_rootfs: true,
            namespace_options: Some(NamespaceOption { pid: NamespaceMode::Pod.into(), ..NamespaceOption::default() }),
            seccomp: Some(SecurityProfile::default()), // that of the runtime
            capabilities: Some(Capability { drop_capabilities: vec!["ALL".into()], ..Capability::default() }),
            ..LinuxContainerSecurityContext::default()
        };
        let resources = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
        let mount = |target: &str, readonly| Mount {
            host_path: data.display().to_string(),
            container_path: target.into(),
            readonly,
            ..Mount::default()
        };
        let script = "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cat /data/file /ro/file; \
                      touch /ro/no || echo read-only; touch /no || echo read-only; ps; \
                      head -c 1 /proc/kcore | wc -c; echo x > /dev/shm/y && echo shm; echo $HOME $HOSTNAME";
        let config = ContainerConfig {
            linux: Some(LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
            mounts: vec![mount("/data", false), mount("/ro", true)],
            ..container("a", script)
        };
        let id = host.run_with(&sandbox, config).await;
        host.exit(&id).await;
        let shown = host.log(&id).await.into_iter().map(|line| line.text + "\n").collect::<String>();
        for expected in [
            "uid=101(web) gid=102(web)",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "seen\nseen\n",
            "pause",
            "\n0\n",
            "shm\n",
            "/srv ",
        ] {
            assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
        }
        assert_eq!(shown.matches("read-only\n").count(), 2, "{shown}");
        let runs = host.run(&sandbox, "b", "sleep 1000").await;
        let stats = host.cri.container_stats(ContainerStatsRequest { container_id: runs }).await.unwrap().into_inner();
        let memory = stats.stats.unwrap().memory.unwrap();
        assert!(memory.usage_bytes.unwrap().value > 0);
        host
    });
}

#[test]
fn a_start_that_a_handler_refuses_is_an_exit_with_its_reason_and_leaves_nothing() {
    with_each(&real(), |mut host| async move {
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig { command: vec!["/no/such/program".into()], args: vec![], ..container("a", "") };
        let id = host.create(&sandbox, config).await;
        let refused = host.cri.start_container(StartContainerRequest { container_id: id.clone() }).await.unwrap_err();
        assert!(refused.message().contains("no such file") || refused.message().contains("not found"), "{refused}");
        let status = host.status(&id).await;
        assert_eq!(
            (status.state(), status.exit_code, status.reason.as_str()),
            (ContainerState::ContainerExited, 128, "StartError")
        );
        assert!(status.message.contains("/no/such/program"), "{}", status.message);
        let bidirectional = Mount {
            host_path: "/tmp".into(),
            container_path: "/data".into(),
            propagation: MountPropagation::PropagationBidirectional.into(),
            ..Mount::default()
        };
        host.refused(&sandbox, ContainerConfig { mounts: vec![bidirectional], ..container("b", "true") }).await;
        host
    });
}

#[test]
fn a_terminal_that_a_handler_makes_is_the_containers() {
    with_each(&real(), |mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run_with(&sandbox, ContainerConfig { tty: true, ..container("a", "tty && echo yes") }).await;
        assert_eq!(host.exit(&id).await.exit_code, 0);
        let text: Vec<String> = host.log(&id).await.into_iter().map(|line| line.text).collect();
        assert!(text.iter().any(|line| line.contains("yes")), "{text:?}");
        host
    });
}

#[test]
fn a_stop_lets_the_container_end_by_itself_first() {
    with_each(&real(), |mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done").await;
        wait_until("it is up", || {
            std::fs::read_to_string(host.path("logs/web/a.log")).is_ok_and(|text| text.contains("up"))
                || std::fs::read_dir(host.path("logs/web"))
                    .unwrap()
                    .flatten()
                    .any(|entry| std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(" up")))
        })
        .await;
        host.stop(&id, i64::try_from(PATIENCE.as_secs()).unwrap()).await;
        assert_eq!(host.status(&id).await.exit_code, 5);
        host
    });
}

#[test]
fn the_status_lists_handlers_and_an_unknown_one_is_refused() {
    on_host(|mut host| async move {
        with_handlers(&mut host, "").await;
        let status = host.cri.status(StatusRequest::default()).await.unwrap().into_inner();
        let names: Vec<&str> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
        assert_eq!(&names[..2], ["", "native"]);
        assert!(names.contains(&"chroot"), "{names:?}");
        assert!(status.runtime_handlers.iter().all(|it| it.features.is_some_and(|it| it.recursive_read_only_mounts)));
        let request = RunPodSandboxRequest { config: Some(pod("x")), runtime_handler: "kata".into() };
        let refused = host.cri.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("no runtime handler \"kata\": there are native, "), "{refused}");
        host.handler = "native".into();
        let sandbox = host.run_pod("native").await;
        assert_eq!(host.output(&sandbox, "a", "echo hi").await, "hi\n");
        assert_eq!(host.pod_status(&sandbox).await.runtime_handler, "native");
        host
    });
}
