//! What is killed comes back, and the pods do not notice.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Cluster, container, kill, parent, phase, processes, runs};
use crate::life::sleeper;

#[test]
fn containers_outlive_the_kill_of_every_service_alone_and_of_all_together() {
    let cluster = Cluster::start(2);
    cluster.apply(&sleeper("steady", "Always", "sleep 2001"));
    cluster.wait_running("steady");
    let pids = cluster.container_pids("2001");
    assert_eq!(pids.len(), 1);

    let everything = ["node-agent", "sandbox", "scheduler", "nats-server"];
    let rounds: [&[&str]; 5] = [&["node-agent"], &["sandbox"], &["scheduler"], &["nats-server"], &everything];
    for (round, services) in rounds.iter().enumerate() {
        let before: BTreeMap<_, _> = services.iter().map(|s| (*s, cluster.service_pids(s))).collect();
        for service in *services {
            assert!(cluster.kill_service(service) > 0, "{service} runs");
        }
        cluster.wait_until(&format!("{services:?} run again"), || {
            services.iter().all(|s| {
                let now = cluster.service_pids(s);
                now.len() == before[s].len() && now.iter().all(|pid| !before[s].contains(pid))
            })
        });
        // Truth is told again: a new pod runs, and one that exits is seen to exit.
        let probe = format!("probe-{round}");
        cluster.wait_until("a pod can be applied again", || {
            let file = cluster.file("probe.yaml", &sleeper(&probe, "Never", "exit 5"));
            cluster.command(&["apply", "-f", file.to_str().unwrap()]).output().unwrap().status.success()
        });
        let pod = cluster.wait_pod(&probe, "Failed", |pod| phase(pod) == "Failed");
        assert_eq!(container(&pod, "main")["state"]["terminated"]["exitCode"], 5);
        assert_eq!(cluster.container_pids("2001"), pids, "after the kill of {services:?}");
    }
    let pod = cluster.wait_running("steady");
    assert_eq!(container(&pod, "main")["restartCount"], 0);
}

#[test]
fn an_exit_while_everything_is_dead_is_reported_once_with_its_code() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("exits", "Never", "trap 'exit 42' USR1; while true; do sleep 0.05; done # marker-2002"));
    cluster.wait_running("exits");
    let shell = processes().into_iter().find(|p| p.arguments.iter().any(|a| a.contains("marker-2002"))).unwrap().pid;
    // The supervisor first, so that nothing is restarted before the exit.
    let supervisor = cluster.service_pids("up");
    assert_eq!(supervisor.len(), 1);
    kill(supervisor[0]);
    for service in ["node-agent", "sandbox", "scheduler", "nats-server"] {
        cluster.kill_service(service);
    }
    let shell = nix::unistd::Pid::from_raw(shell);
    nix::sys::signal::kill(shell, nix::sys::signal::Signal::SIGUSR1).unwrap();
    cluster.wait_until("the container has exited", || !runs(shell.as_raw()));

    let mut cluster = cluster;
    cluster.up(&["--detach", "--nodes", "1"]);
    let pod = cluster.wait_pod("exits", "Failed", |pod| phase(pod) == "Failed");
    let main = container(&pod, "main");
    assert_eq!(main["state"]["terminated"]["exitCode"], 42);
    assert_eq!(main["restartCount"], 0);
    assert!(main["lastState"].is_null(), "one exit, one report: {main:#?}");
}

#[test]
fn the_death_of_pause_makes_a_new_sandbox_and_the_events_say_so_in_order() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("reborn", "Always", "sleep 2003"));
    let before = cluster.wait_running("reborn");
    let container_pid = cluster.container_pids("2003")[0];
    let pause = pause_beside(container_pid);
    kill(pause);
    after_a_sandbox_died(&cluster, &before, container_pid);
}

#[test]
fn the_death_of_a_shim_makes_a_new_sandbox_and_leaves_nothing_of_the_old() {
    let cluster = Cluster::start(1);
    cluster.apply(&sleeper("reborn", "Always", "sleep 2004"));
    let before = cluster.wait_running("reborn");
    let container_pid = cluster.container_pids("2004")[0];
    let pause = pause_beside(container_pid);
    kill(parent(container_pid));
    after_a_sandbox_died(&cluster, &before, container_pid);
    assert!(!runs(pause), "pause went with its shim");
}

fn after_a_sandbox_died(cluster: &Cluster, before: &Value, container_pid: i32) {
    let pod = cluster.wait_pod("reborn", "restarted once and Running", |pod| {
        phase(pod) == "Running"
            && container(pod, "main")["restartCount"] == 1
            && container(pod, "main")["ready"] == true
    });
    assert_eq!(pod["metadata"]["uid"], before["metadata"]["uid"]);
    cluster.wait_until("the old container is gone", || !runs(container_pid));
    // Repeats are folded into their last occurrence: what happened before the death stands in their count.
    let started_again = |event: &Value| event["reason"] == "Started" && event["count"].as_u64() >= Some(2);
    cluster.wait_until("the second start is told", || cluster.events("reborn").iter().any(started_again));
    let reasons = cluster.reasons("reborn");
    let at = |reason: &str| reasons.iter().position(|r| r == reason).unwrap_or_else(|| panic!("{reason}: {reasons:?}"));
    assert!(at("Scheduled") < at("SandboxChanged"), "{reasons:?}");
    assert!(at("SandboxChanged") < at("Started"), "{reasons:?}");
}

/// The pause process of the pod that a container belongs to: its sibling.
fn pause_beside(container_pid: i32) -> i32 {
    let shim = parent(container_pid);
    let pause = processes().into_iter().find(|p| p.arguments[0] == "pause" && parent(p.pid) == shim);
    pause.expect("a pod has a pause process").pid
}
