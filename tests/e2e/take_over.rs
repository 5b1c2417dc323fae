//! Several schedulers, of which one leads: it is killed, or stopped and resumed.

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::{Cluster, kill, runs};
use crate::life::sleeper;

/// The process of the scheduler that leads, as `podbus version` tells it.
fn leader(cluster: &Cluster) -> Option<i32> {
    let output = cluster.command(&["version", "-o", "json"]).output().unwrap();
    let version: Value = serde_json::from_slice(&output.stdout).ok()?;
    version["leader"]["holder"].as_str()?.rsplit_once('_')?.1.parse().ok()
}

fn wait_other_leader(cluster: &Cluster, before: i32) -> i32 {
    cluster.wait_until("another scheduler leads", || leader(cluster).is_some_and(|now| now != before));
    leader(cluster).unwrap()
}

fn apply_when_it_answers(cluster: &Cluster, manifest: &str) {
    let file = cluster.file("again.yaml", manifest);
    cluster.wait_until("a pod can be applied", || {
        cluster.command(&["apply", "-f", file.to_str().unwrap()]).output().unwrap().status.success()
    });
}

#[test]
fn a_follower_takes_over_when_the_leader_is_killed_and_pods_run_on() {
    let cluster = Cluster::start_with(1, &["--schedulers", "2"]);
    assert_eq!(cluster.service_pids("scheduler").len(), 2);
    cluster.apply(&sleeper("steady", "Always", "sleep 5101"));
    cluster.wait_running("steady");
    let pids = cluster.container_pids("5101");
    let first = leader(&cluster).unwrap();

    kill(first);
    let second = wait_other_leader(&cluster, first);
    apply_when_it_answers(&cluster, &sleeper("next", "Always", "sleep 5102"));
    cluster.wait_running("next");
    assert_eq!(cluster.container_pids("5101"), pids);
    // The killed one is started again, and follows.
    cluster.wait_until("two schedulers run", || cluster.service_pids("scheduler").len() == 2);
    assert_eq!(leader(&cluster), Some(second));
}

#[test]
fn a_leader_that_was_stopped_and_goes_on_does_no_harm() {
    let cluster = Cluster::start_with(1, &["--schedulers", "2"]);
    cluster.apply(&sleeper("steady", "Always", "sleep 5201"));
    let before = cluster.wait_running("steady");
    let pids = cluster.container_pids("5201");
    let old = leader(&cluster).unwrap();

    signal(Pid::from_raw(old), Signal::SIGSTOP).unwrap();
    wait_other_leader(&cluster, old);
    apply_when_it_answers(&cluster, &sleeper("between", "Always", "sleep 5202"));
    cluster.wait_running("between");
    signal(Pid::from_raw(old), Signal::SIGCONT).unwrap();
    cluster.wait_until("the deposed leader has ended", || !runs(old));
    cluster.wait_until("two schedulers run", || cluster.service_pids("scheduler").len() == 2);

    apply_when_it_answers(&cluster, &sleeper("after", "Always", "sleep 5203"));
    cluster.wait_running("after");
    let steady = cluster.wait_running("steady");
    assert_eq!(steady["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(cluster.container_pids("5201"), pids);
    for marker in ["5202", "5203"] {
        assert_eq!(cluster.container_pids(marker).len(), 1, "each pod runs once");
    }
}
