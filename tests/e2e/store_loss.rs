//! nats-server's disk is lost, or replaced by an older copy, under running pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill as signal};
use nix::unistd::Pid;

use crate::cluster::{Cluster, phase};
use crate::life::sleeper;

/// Where nats-server keeps the streams.
fn store_of(cluster: &Cluster) -> PathBuf {
    cluster.state_dir().join("nats/jetstream")
}

/// Takes the store away in one moment, and kills its server.
fn lose_store(cluster: &Cluster) {
    let server = Pid::from_raw(cluster.service_pids("nats-server")[0]);
    signal(server, Signal::SIGSTOP).unwrap();
    fs::rename(store_of(cluster), cluster.state_dir().join("lost")).unwrap();
    signal(server, Signal::SIGKILL).unwrap();
}

/// Copies the store as it is at one moment: its server stands still meanwhile.
fn copy_store(cluster: &Cluster, to: &Path) {
    let server = Pid::from_raw(cluster.service_pids("nats-server")[0]);
    signal(server, Signal::SIGSTOP).unwrap();
    let copied = Command::new("cp").arg("-a").arg(store_of(cluster)).arg(to).status().unwrap();
    signal(server, Signal::SIGCONT).unwrap();
    assert!(copied.success());
}

/// Kills the supervisor and every service, so that nobody remembers anything but the nodes' disks.
fn kill_everything(cluster: &Cluster) {
    for service in ["up", "scheduler", "nats-server", "node-agent", "sandbox"] {
        cluster.kill_service(service);
    }
}

fn wait_rebuilt(cluster: &Cluster) {
    cluster.wait_until("the store is rebuilt", || {
        let events = cluster.command(&["events"]).output().unwrap();
        String::from_utf8_lossy(&events.stdout).contains("StoreRebuilt")
    });
}

#[test]
fn a_lost_store_is_written_back_by_the_schedulers_that_live_and_no_pod_notices() {
    let cluster = Cluster::start_with(2, &["--schedulers", "2"]);
    cluster.apply(&sleeper("steady", "Always", "sleep 4101"));
    let before = cluster.wait_running("steady");
    let waits = sleeper("waits", "Always", "sleep 4102");
    cluster.apply(&waits.replace("spec:\n", "spec:\n  nodeSelector: {nowhere: \"true\"}\n"));
    let pids = cluster.container_pids("4101");

    lose_store(&cluster);
    wait_rebuilt(&cluster);
    let after = cluster.wait_running("steady");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(cluster.container_pids("4101"), pids);
    // What only the store and the schedulers knew is there too, and nobody doubts it.
    let waits = cluster.wait_pod("waits", "there", |pod| phase(pod) == "Pending");
    assert!(waits["spec"]["schedulingGates"].is_null(), "{waits:#?}");

    // The rebuilt store is a store like any other.
    cluster.apply(&sleeper("next", "Always", "sleep 4103"));
    cluster.wait_running("next");
    cluster.ok(&["delete", "pod", "steady", "--grace-period", "0"]);
    cluster.wait_until("its process is gone", || cluster.container_pids("4101").is_empty());
}

#[test]
fn a_lost_store_is_rebuilt_from_the_nodes_alone() {
    let mut cluster = Cluster::start(2);
    for (name, seconds) in [("one", "4201"), ("two", "4202")] {
        cluster.apply(&sleeper(name, "Always", &format!("sleep {seconds}")));
        cluster.wait_running(name);
    }
    let uid = |pod: Option<serde_json::Value>| pod.unwrap()["metadata"]["uid"].clone();
    let uids = [uid(cluster.pod("one")), uid(cluster.pod("two"))];
    let pids = [cluster.container_pids("4201"), cluster.container_pids("4202")];

    kill_everything(&cluster);
    fs::rename(store_of(&cluster), cluster.state_dir().join("lost")).unwrap();
    cluster.up(&["--detach"]);
    wait_rebuilt(&cluster);
    assert_eq!([cluster.wait_running("one"), cluster.wait_running("two")].map(|pod| uid(Some(pod))), uids);
    assert_eq!([cluster.container_pids("4201"), cluster.container_pids("4202")], pids);
    assert!(cluster.reasons("one").contains(&"Restored".to_owned()), "{:?}", cluster.reasons("one"));
}

#[test]
fn a_store_of_an_older_day_learns_from_the_nodes_what_happened_since() {
    let mut cluster = Cluster::start(1);
    let nowhere = |name: &str| {
        sleeper(name, "Always", "sleep 4300").replace("spec:\n", "spec:\n  nodeSelector: {nowhere: \"true\"}\n")
    };
    cluster.apply(&sleeper("steady", "Always", "sleep 4301"));
    cluster.apply(&sleeper("gone", "Always", "sleep 4302"));
    cluster.apply(&nowhere("doubtful"));
    cluster.wait_running("steady");
    cluster.wait_running("gone");
    let copy = cluster.state_dir().join("copy");
    copy_store(&cluster, &copy);
    cluster.apply(&sleeper("later", "Always", "sleep 4303"));
    let later = cluster.wait_running("later");
    cluster.ok(&["delete", "pod", "gone", "--grace-period", "1"]);
    cluster.wait_gone("gone");
    cluster.ok(&["delete", "pod", "doubtful"]);
    let pids = [cluster.container_pids("4301"), cluster.container_pids("4303")];

    kill_everything(&cluster);
    fs::rename(store_of(&cluster), cluster.state_dir().join("lost")).unwrap();
    fs::rename(&copy, store_of(&cluster)).unwrap();
    cluster.up(&["--detach"]);
    wait_rebuilt(&cluster);

    assert_eq!(cluster.wait_running("later")["metadata"]["uid"], later["metadata"]["uid"]);
    cluster.wait_running("steady");
    assert_eq!([cluster.container_pids("4301"), cluster.container_pids("4303")], pids);
    cluster.wait_gone("gone");
    assert!(cluster.container_pids("4302").is_empty());
    // Nobody can know that it was deleted: a person decides.
    let doubtful = cluster.wait_pod("doubtful", "gated", |pod| phase(pod) == "Pending");
    assert_eq!(doubtful["spec"]["schedulingGates"][0]["name"], "podbus/recovered");
    assert!(cluster.reasons("doubtful").contains(&"RecoveryUnknown".to_owned()));
    cluster.apply(&nowhere("doubtful"));
    cluster.wait_pod("doubtful", "without its gate", |pod| pod["spec"]["schedulingGates"].is_null());
}
