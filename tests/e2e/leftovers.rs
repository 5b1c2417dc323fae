//! What a cluster leaves behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, processes};
use crate::life::sleeper;

/// How many networks a node makes in advance, unless it is told otherwise.
const WARM_NETWORKS: usize = 8;

#[test]
fn after_down_nothing_of_the_cluster_is_left_on_the_machine() {
    let cluster = Cluster::start(2);
    let state_dir = cluster.state_dir();
    let names = cluster.instances.clone();
    cluster.apply(include_str!("../../examples/two-containers.yaml"));
    let in_memory = "volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]\n  containers:\n  - volumeMounts: [{name: m, mountPath: /m}]\n    name: main";
    cluster.apply(&sleeper("volume", "Always", "sleep 5001").replace("containers:\n  - name: main", in_memory));
    cluster.wait_running("web");
    cluster.wait_running("volume");
    assert!(!traces(&names, state_dir.to_str().unwrap()).is_empty(), "a running cluster can be seen");
    cluster.down();
    let left = traces(&names, state_dir.to_str().unwrap());
    assert!(left.is_empty(), "{left:#?}");
    assert!(!state_dir.exists());
}

#[test]
fn after_its_deletion_nothing_of_a_pod_is_left_on_its_node() {
    let cluster = Cluster::start(1);
    let names = cluster.instances.clone();
    let state_dir = cluster.state_dir();
    let state_dir = state_dir.to_str().unwrap();
    cluster.apply(&sleeper("first", "Always", "sleep 5002"));
    cluster.wait_running("first");
    cluster.ok(&["delete", "pod", "first"]);
    // Networks that wait for a pod have ever new names: they are counted.
    let steady = || {
        let (networks, others): (BTreeSet<_>, BTreeSet<_>) =
            traces(&names, state_dir).into_iter().partition(|trace| trace.starts_with("link: v"));
        (networks.len(), others)
    };
    cluster.wait_until("the node is at rest", || steady().0 == WARM_NETWORKS);
    let before = steady();
    for round in 0..5 {
        let name = format!("pod-{round}");
        cluster.apply(&sleeper(&name, "Always", "sleep 5003"));
        cluster.wait_running(&name);
        cluster.ok(&["delete", "pod", &name]);
    }
    // What is ended after the reply (links, namespaces) may take a moment.
    cluster.wait_until("the node is as it was", || steady() == before);
}

/// Every process, mount, cgroup, link and nftables table that carries a name of the cluster.
fn traces(names: &[String], state_dir: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut look = |kind: &str, text: &str, needles: &[&str]| {
        for line in text.lines().filter(|line| needles.iter().any(|needle| line.contains(needle))) {
            found.insert(format!("{kind}: {line}"));
        }
    };
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for process in processes() {
        let line = process.arguments.join(" ");
        // The sought path also stands in the arguments of the commands that this test itself runs.
        if !line.contains(" get ") && !line.contains(" delete ") && !line.contains(" down ") {
            look("process", &line, &[state_dir]);
        }
    }
    look("mount", &fs::read_to_string("/proc/self/mountinfo").unwrap(), &[state_dir]);
    look("cgroup", &printed("find", &["/sys/fs/cgroup", "-type", "d", "-path", "*podbus*"]), &names);
    // The name alone: the flags tell only whether pods are there.
    let links = printed("ip", &["-brief", "link"]);
    let links: Vec<_> = links.lines().filter_map(|line| line.split_whitespace().next()).collect();
    look("link", &links.join("\n"), &names);
    look("table", &printed("nft", &["list", "tables"]), &names);
    look("run", &printed("ls", &["/run/podbus"]), &names);
    found
}

fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
