//! Nodes that take no new pods.

use crate::cluster::Cluster;
use crate::life::sleeper;

#[test]
fn a_cordoned_node_keeps_its_pods_and_takes_none_until_it_is_uncordoned() {
    let mut cluster = Cluster::start(2);
    let node_of = |cluster: &Cluster, pod: &str| cluster.wait_running(pod)["spec"]["nodeName"].clone();
    cluster.apply(&sleeper("first", "Always", "sleep 1021"));
    let first = node_of(&cluster, "first").as_str().unwrap().to_owned();
    let other = if first == "node-1" { "node-2" } else { "node-1" };
    assert_eq!(cluster.ok(&["cordon", &first]), format!("node/{first} cordoned\n"));
    assert_eq!(cluster.ok(&["cordon", &format!("node/{first}")]), format!("node/{first} already cordoned\n"));
    let shown = cluster.ok(&["get", "node", &first, "--no-headers"]);
    assert!(shown.contains("Ready,SchedulingDisabled"), "{shown}");

    // Also when the agents start again.
    assert_eq!(cluster.kill_service("node-agent"), 2);
    cluster.up(&["--detach", "--nodes", "2"]);
    for pod in ["second", "third"] {
        cluster.apply(&sleeper(pod, "Always", "sleep 1022"));
        assert_eq!(node_of(&cluster, pod), other);
    }
    assert_eq!(node_of(&cluster, "first"), first);

    let refused = cluster.refused(&["drain", other]);
    assert!(refused.contains("(use --force to override): default/second, default/third"), "{refused}");
    let drained = cluster.ok(&["drain", other, "--force"]);
    let lines = format!("node/{other} already cordoned\npod/second deleted\npod/third deleted\nnode/{other} drained\n");
    assert_eq!(drained, lines);
    assert!(cluster.pod("second").is_none() && cluster.pod("third").is_none());
    let nowhere = cluster.refused(&["cordon", "nix"]);
    assert_eq!(nowhere, "Error from server (NotFound): nodes \"nix\" not found\n");

    cluster.apply(&sleeper("fourth", "Always", "sleep 1023"));
    cluster.wait_until("it has no place", || {
        cluster.ok(&["describe", "pod", "fourth"]).contains("2 node(s) were unschedulable")
    });
    assert_eq!(cluster.ok(&["uncordon", &first, other]), format!("node/{first} uncordoned\nnode/{other} uncordoned\n"));
    cluster.wait_running("fourth");
}
