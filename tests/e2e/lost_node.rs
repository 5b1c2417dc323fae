//! A node that goes away, and what comes back with it.

use crate::cluster::{Cluster, condition};
use crate::life::sleeper;

#[test]
fn pods_of_a_lost_node_are_replaced_and_nothing_old_survives_its_return() {
    let cluster = Cluster::start_with(3, &["--not-ready-toleration", "3s"]);
    for (name, seconds) in [("replaced", "3001"), ("deleted", "3002")] {
        let pod = sleeper(name, "Always", &format!("sleep {seconds}"));
        cluster.apply(&pod.replace("spec:\n", "spec:\n  nodeSelector: {kubernetes.io/hostname: node-3}\n"));
    }
    // This one may go anywhere once its node is lost.
    cluster.ok(&["delete", "pod", "replaced"]);
    cluster.apply(&sleeper("replaced", "Always", "sleep 3001"));
    let first = cluster.wait_running("replaced");
    cluster.wait_running("deleted");
    let node = first["spec"]["nodeName"].as_str().unwrap().to_owned();
    let old_uid = first["metadata"]["uid"].clone();
    assert_ne!(node, "node-3", "least allocated: the pinned pod keeps node-3 fuller");

    cluster.node("stop", &node);
    cluster.wait_until("its node is not Ready", || cluster.node_ready(&node) != "True");
    let second = cluster.wait_pod("replaced", "replaced", |pod| pod["metadata"]["uid"] != old_uid);
    assert_ne!(second["spec"]["nodeName"], first["spec"]["nodeName"]);
    cluster.wait_running("replaced");
    cluster.node("start", &node);
    cluster.wait_until("the node is Ready again", || cluster.node_ready(&node) == "True");
    cluster.wait_until("the replaced pod's old process is gone", || cluster.container_pids("3001").len() == 1);

    cluster.node("stop", "node-3");
    cluster.wait_pod("deleted", "not Ready", |pod| condition(pod, "Ready") == "False");
    cluster.ok(&["delete", "pod", "deleted", "--wait=false"]);
    cluster.node("start", "node-3");
    cluster.wait_gone("deleted");
    cluster.wait_until("its process is gone", || cluster.container_pids("3002").is_empty());
}
