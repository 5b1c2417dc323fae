//! What dies, and what the rest makes of it.

use podbus_common_cri::runtime::*;

use super::host::{is_alive, kill_9, on_host, pod, wait_until, with_shared_pid};

#[test]
fn a_killed_daemon_finds_everything_again_and_exits_that_it_missed() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let runs = host.run(&sandbox, "runs", "sleep 1000").await;
        let ends = host.run(&sandbox, "ends", "read line < /go/fifo; echo late; exit 9").await;
        host.exit(&ends).await; // no such file: it ends at once
        let ended = host.run(&sandbox, "later", "while ! [ -e /tmp/go ]; do sleep 0.01; done; echo late; exit 9").await;
        let created = host.create(&sandbox, super::host::container("created", "true")).await;
        let pid = host.pid(&runs).await;
        let upper = format!("/proc/{}/root/tmp/go", host.pid(&ended).await);
        let later_pid = host.pid(&ended).await;
        host.kill_daemon();
        std::fs::write(upper, "").unwrap();
        wait_until("the container ends", || !is_alive(later_pid)).await;
        host.run_daemon().await;
        assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxReady);
        assert!(is_alive(pid) && host.pid(&runs).await == pid);
        let status = host.exit(&ended).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (9, "Error"));
        assert_eq!(host.log(&ended).await[0].text, "late");
        assert_eq!(host.status(&created).await.state(), ContainerState::ContainerCreated);
        host.start_container(&created).await;
        assert_eq!(host.exit(&created).await.exit_code, 0);
        assert_eq!(host.exec(&runs, "echo hi").await, ("hi\n".into(), 0));
        host.stop(&runs, 0).await;
        assert_eq!(host.status(&runs).await.exit_code, 137);
        host
    });
}

#[test]
fn a_daemon_that_is_told_to_stop_ends_and_leaves_pods_running() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let events = host.cri.get_container_events(GetEventsRequest {}).await.unwrap(); // a stream does not hold it up
        let pid = host.pid(&id).await;
        assert!(host.stop_daemon());
        drop(events);
        assert!(is_alive(pid));
        host.run_daemon().await;
        assert_eq!(host.status(&id).await.state(), ContainerState::ContainerRunning);
        assert_eq!(host.exec(&id, "echo hi").await.0, "hi\n");
        host
    });
}

#[test]
fn a_dead_shim_takes_its_pod_along_and_leaves_nothing() {
    for shared in [false, true] {
        on_host(|mut host| async move {
            let config = if shared { with_shared_pid(pod("web")) } else { pod("web") };
            let sandbox = host.run_pod_with(config).await;
            let id = host.run(&sandbox, "a", "sleep 1000 & sleep 2000").await;
            let (pid, pause) = (host.pid(&id).await, host.pause_pid(&sandbox).await);
            let shims = host.shims();
            assert_eq!(shims.len(), 1);
            kill_9(shims[0]);
            let status = host.exit(&id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
            wait_until("container and pause are dead", || !is_alive(pid) && !is_alive(pause)).await;
            assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxNotready);
            host
        });
    }
}

#[test]
fn a_dead_spawner_is_replaced_and_pods_do_not_notice() {
    on_host(|mut host| async move {
        let first = host.run_pod("first").await;
        let spawner = host.spawner();
        kill_9(spawner);
        wait_until("the spawner is dead", || !is_alive(spawner)).await; // what it is asked while it dies fails with it
        let second = host.run_pod("second").await;
        for sandbox in [&first, &second] {
            assert_eq!(host.output(sandbox, "a", "echo hi").await, "hi\n");
        }
        assert_eq!(host.shims().len(), 2);
        host
    });
}

#[test]
fn a_shim_made_in_advance_ends_with_its_daemon_and_the_next_one_makes_its_own() {
    on_host(|mut host| async move {
        host.wait_for_spares().await;
        let spare = host.spares()[0];
        host.kill_daemon();
        wait_until("the spare has left", || !is_alive(spare)).await;
        host.run_daemon().await;
        host.wait_for_spares().await;
        let spares = std::fs::read_dir(host.path("state/spare")).unwrap().count();
        assert_eq!(spares, 1, "that of the dead daemon is gone");
        let sandbox = host.run_pod("web").await;
        assert_eq!(host.output(&sandbox, "a", "echo hi").await, "hi\n");
        host
    });
}

#[test]
fn a_pod_has_the_pause_that_was_made_in_advance_and_one_of_its_own_where_that_is_dead() {
    on_host(|mut host| async move {
        host.wait_for_spares().await;
        let ahead = host.spare_pauses()[0];
        let first = host.run_pod("first").await;
        assert_eq!(host.pause_pid(&first).await, ahead);
        host.wait_for_spares().await;
        let ahead = host.spare_pauses()[0];
        kill_9(ahead);
        wait_until("pause is dead", || !is_alive(ahead)).await;
        let second = host.run_pod("second").await;
        for sandbox in [&first, &second] {
            assert_eq!(host.pod_status(sandbox).await.state(), PodSandboxState::SandboxReady);
            assert_eq!(host.output(sandbox, "a", "echo hi").await, "hi\n");
        }
        host
    });
}

#[test]
fn a_shim_that_dies_while_no_daemon_runs_is_noticed_at_the_next_start() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let shims = host.shims();
        host.kill_daemon();
        kill_9(shims[0]);
        host.run_daemon().await;
        assert_eq!(host.exit(&id).await.exit_code, 255);
        assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxNotready);
        host
    });
}

#[test]
fn a_dead_pause_makes_the_sandbox_not_ready_and_an_event() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let mut events = host.cri.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        kill_9(host.pause_pid(&sandbox).await);
        let event = tokio::time::timeout(podbus_test_support::wait::PATIENCE, events.message())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(
            (event.container_id.as_str(), event.container_event_type()),
            (sandbox.as_str(), ContainerEventType::ContainerStoppedEvent)
        );
        assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxNotready);
        host.stop(&id, 0).await;
        assert_eq!(host.status(&id).await.exit_code, 137);
        host
    });
}

#[test]
fn a_pause_that_dies_while_no_daemon_runs_is_noticed_at_the_next_start() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let pause = host.pause_pid(&sandbox).await;
        host.kill_daemon();
        kill_9(pause);
        host.run_daemon().await;
        assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxNotready);
        host
    });
}

#[test]
fn what_a_daemon_did_not_commit_never_was() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let uncommitted = host.run_pod("uncommitted").await;
        let pause = host.pause_pid(&uncommitted).await;
        host.kill_daemon();
        // A sandbox whose commit is gone, a copy of a record in a wrong place, and half a record.
        let state = host.path("state/sandboxes");
        let (copy, half) = (state.join("1".repeat(64)), state.join("2".repeat(64)));
        for dir in [&copy, &half] {
            std::fs::create_dir_all(dir.join("c")).unwrap();
        }
        let mut record = std::fs::read(state.join(&sandbox).join("record")).unwrap();
        record[..4096].fill(0);
        std::fs::write(copy.join("record"), &record).unwrap();
        std::fs::write(half.join("record"), &record[..record.len() - 1]).unwrap();
        let file = std::fs::File::options().write(true).open(state.join(&uncommitted).join("record")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 64], 0).unwrap();
        host.run_daemon().await;
        let pods = host.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
        assert_eq!(pods.len(), 1);
        assert!(!copy.exists() && !half.exists() && !state.join(&uncommitted).exists());
        wait_until("its pause is dead", || !is_alive(pause)).await;
        assert_eq!(host.pod_status(&sandbox).await.state(), PodSandboxState::SandboxReady);
        host
    });
}

#[test]
fn a_daemon_killed_amid_requests_leaves_whole_pods_or_none() {
    on_host(|mut host| async move {
        for round in 0..3 {
            let requests: Vec<_> = (0..24)
                .map(|at| {
                    let mut cri = host.cri.clone();
                    let config = pod(&format!("pod-{round}-{at}"));
                    tokio::spawn(async move {
                        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
                        let made = cri.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
                        let config = super::host::container("a", "sleep 1000");
                        let request = CreateContainerRequest {
                            pod_sandbox_id: made.clone(),
                            config: Some(config),
                            sandbox_config: None,
                        };
                        let container_id = cri.create_container(request).await?.into_inner().container_id;
                        cri.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
                        Ok::<_, tonic::Status>((made, container_id))
                    })
                })
                .collect();
            let least = (round + 1) * 6;
            let state = host.path("state/sandboxes");
            wait_until("the storm is under way", || std::fs::read_dir(&state).unwrap().count() >= least).await;
            host.kill_daemon();
            let mut acknowledged = Vec::new();
            for request in requests {
                acknowledged.extend(request.await.unwrap());
            }
            host.run_daemon().await;
            let pods = host.cri.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
            assert!(pods.iter().all(|pod| pod.state() == PodSandboxState::SandboxReady), "{pods:?}");
            for (sandbox, container) in &acknowledged {
                assert!(pods.iter().any(|pod| pod.id == *sandbox));
                assert_eq!(host.status(container).await.state(), ContainerState::ContainerRunning);
            }
            let mut ips = Vec::new();
            for pod in &pods {
                ips.push(host.pod_status(&pod.id).await.network.unwrap().ip);
            }
            ips.sort();
            ips.dedup();
            assert_eq!(ips.len(), pods.len(), "two pods have one address");
            wait_until("shims without a pod are gone", || host.shims().len() == pods.len()).await;
        }
        host
    });
}

#[test]
fn changed_limits_survive_the_daemon() {
    on_host(|mut host| async move {
        let sandbox = host.run_pod("web").await;
        let id = host.run(&sandbox, "a", "sleep 1000").await;
        let change = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        let request =
            UpdateContainerResourcesRequest { container_id: id.clone(), linux: Some(change), ..Default::default() };
        host.cri.update_container_resources(request).await.unwrap();
        host.kill_daemon();
        host.run_daemon().await;
        assert_eq!(host.status(&id).await.resources.unwrap().linux.unwrap().memory_limit_in_bytes, 96 << 20);
        host
    });
}
