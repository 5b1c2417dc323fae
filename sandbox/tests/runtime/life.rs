//! The life of pods and containers, as long as nothing is killed.

use podbus_common_cri::runtime::*;
use tonic::Code;

use super::host::{container, limited, namespace, on_host, pod, with_shared_pid};

#[test]
fn a_container_runs_and_its_exit_code_times_and_log_are_known() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "main", "echo out; echo err >&2; exit 7").await;
        let status = host.exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
        assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
        let log = host.log(&id).await;
        let mut lines: Vec<_> = log.iter().map(|l| (l.stream.as_str(), l.tag.as_str(), l.text.as_str())).collect();
        lines.sort_unstable();
        assert_eq!(lines, [("stderr", "F", "err"), ("stdout", "F", "out")]);
        host
    });
}

#[test]
fn containers_of_a_pod_share_network_ipc_and_hostname_and_nothing_else() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let first = host.run(&sandbox, "a", "sleep 1000").await;
        let second = host.run(&sandbox, "b", "sleep 1000").await;
        let (first, second, pause) = (host.pid(&first).await, host.pid(&second).await, host.pause_pid(&sandbox).await);
        let own = i32::try_from(std::process::id()).unwrap();
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(namespace(first, kind), namespace(second, kind), "{kind}");
            assert_eq!(namespace(first, kind), namespace(pause, kind), "{kind}");
            assert_ne!(namespace(first, kind), namespace(own, kind), "{kind}");
        }
        for kind in ["mnt", "pid", "cgroup"] {
            assert_ne!(namespace(first, kind), namespace(second, kind), "{kind}");
            assert_ne!(namespace(first, kind), namespace(own, kind), "{kind}");
        }
        let ip = host.pod_status(&sandbox).await.network.unwrap().ip;
        assert!(ip.starts_with("10.111.0."), "{ip}");
        let seen = host.output(&sandbox, "c", "hostname; ip -4 addr show eth0; cat /etc/hosts /etc/hostname").await;
        assert!(seen.starts_with("web\n") && seen.contains(&format!("inet {ip}/24")), "{seen}");
        assert!(seen.contains(&format!("{ip}\tweb")), "{seen}");
        host
    });
}

#[test]
fn pause_is_process_1_where_the_pid_namespace_is_shared() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod_with(with_shared_pid(pod("shared"))).await;
        let sleeper = host.run(&sandbox, "a", "sleep 1000 & sleep 2000").await;
        let seen =
            host.output(&sandbox, "b", "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline || cat /proc/1/cmdline").await;
        assert!(seen.starts_with("pause\n"), "{seen}");
        host.stop(&sleeper, 0).await;
        assert_eq!(host.status(&sleeper).await.exit_code, 137);
        host
    });
}

#[test]
fn a_stop_sends_the_signal_and_kills_after_the_grace() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let polite = host.run(&sandbox, "polite", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done").await;
        let stubborn = host.run(&sandbox, "stubborn", "trap '' TERM; echo ready; while :; do sleep 0.01; done").await;
        for id in [&polite, &stubborn] {
            host.wait_for_log(id).await;
        }
        host.stop(&polite, 10).await;
        assert_eq!(host.status(&polite).await.exit_code, 3);
        host.stop(&stubborn, 1).await;
        assert_eq!(host.status(&stubborn).await.exit_code, 137);
        host.stop(&stubborn, 1).await;
        host
    });
}

#[test]
fn a_container_above_its_memory_limit_is_oom_killed() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let resources = LinuxContainerResources { memory_limit_in_bytes: 16 << 20, ..Default::default() };
        let script = "exec tail -c 100m /dev/zero";
        let id = host.run_with(&sandbox, limited("hog", script, resources)).await;
        let status = host.exit(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
        host
    });
}

#[test]
fn limits_stand_in_the_cgroup_and_change_while_the_container_runs() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            cpu_shares: 512,
            ..Default::default()
        };
        let id = host.run_with(&sandbox, limited("a", "sleep 1000", resources)).await;
        let read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
        assert_eq!(host.exec(&id, read).await.0.trim(), (64 << 20).to_string());
        let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(change), ..Default::default() };
        host.cri.update_container_resources(request).await.unwrap();
        assert_eq!(host.exec(&id, read).await.0.trim(), (96 << 20).to_string());
        let linux = host.status(&id).await.resources.unwrap().linux.unwrap();
        assert_eq!((linux.memory_limit_in_bytes, linux.cpu_shares), (96 << 20, 512));
        host
    });
}

#[test]
fn a_repeated_request_gets_what_the_first_made() {
    on_host(|mut host| async move {
        let config = pod("web");
        let sandbox = host.run_pod_with(config.clone()).await;
        assert_eq!(host.run_pod_with(config.clone()).await, sandbox);
        let other = PodSandboxConfig { hostname: "other".into(), ..config };
        let request = RunPodSandboxRequest { config: Some(other), runtime_handler: String::new() };
        assert_eq!(host.cri.run_pod_sandbox(request).await.unwrap_err().code(), Code::AlreadyExists);
        let id = host.create(&sandbox, container("a", "true")).await;
        assert_eq!(host.create(&sandbox, container("a", "true")).await, id);
        host
    });
}

#[test]
fn a_start_that_fails_says_why_and_leaves_an_ended_container() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig { command: vec!["no-such-program".into()], ..container("a", "") };
        let id = host.create(&sandbox, config).await;
        let request = StartContainerRequest { container_id: id.clone() };
        let error = host.cri.start_container(request.clone()).await.unwrap_err();
        assert!(error.message().contains("find in $PATH: no-such-program"), "{error}");
        let status = host.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains("no-such-program"), "{}", status.message);
        assert_eq!(host.cri.start_container(request).await.unwrap_err().code(), Code::FailedPrecondition);
        host
    });
}

#[test]
fn what_is_not_there_is_not_found_or_nothing_to_do() {
    on_host(|mut host| async move {
        let none = "0".repeat(64);
        let status = PodSandboxStatusRequest { pod_sandbox_id: none.clone(), verbose: false };
        assert_eq!(host.cri.pod_sandbox_status(status).await.unwrap_err().code(), Code::NotFound);
        host.remove_pod(&none).await;
        host.stop(&none, 1).await;
        let sandbox = host.run_pod("web").await;
        let config = ContainerConfig {
            image: Some(ImageSpec { image: "nowhere/none:1".into(), ..Default::default() }),
            ..container("a", "")
        };
        let request = CreateContainerRequest { pod_sandbox_id: sandbox, config: Some(config), sandbox_config: None };
        assert_eq!(host.cri.create_container(request).await.unwrap_err().code(), Code::NotFound);
        host
    });
}

#[test]
fn events_tell_the_whole_life_in_order() {
    on_host(|mut host| async move {
        let mut events = host.cri.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "exit 4").await;
        host.exit(&id).await;
        host.remove_pod(&sandbox).await;
        let mut seen = Vec::new();
        let mut last = 0;
        while seen.len() < 9 {
            let event = tokio::time::timeout(podbus_test_support::wait::PATIENCE, events.message()).await;
            let event = event.unwrap_or_else(|_| panic!("only {seen:?} came")).unwrap().unwrap();
            assert!(event.created_at >= last);
            last = event.created_at;
            let who = if event.container_id == sandbox { "pod" } else { "a" };
            if event.container_id == id && event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
                assert_eq!(event.containers_statuses[0].exit_code, 4);
            }
            seen.push((who, event.container_event_type));
            if seen.last() == Some(&("pod", 3)) {
                break;
            }
        }
        assert_eq!(seen, [("pod", 0), ("pod", 1), ("a", 0), ("a", 1), ("a", 2), ("pod", 2), ("a", 3), ("pod", 3)]);
        host
    });
}

#[test]
fn stats_count_what_a_container_uses() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id =
            host.run(&sandbox, "a", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000").await;
        host.wait_for_log(&id).await;
        let request = ContainerStatsRequest { container_id: id };
        let stats = host.cri.container_stats(request).await.unwrap().into_inner().stats.unwrap();
        assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
        assert!(stats.memory.unwrap().usage_bytes.unwrap().value > 0);
        let request = PodSandboxStatsRequest { pod_sandbox_id: sandbox };
        let stats = host.cri.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap().linux.unwrap();
        assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
        assert!(stats.process.unwrap().process_count.unwrap().value >= 1);
        host
    });
}
