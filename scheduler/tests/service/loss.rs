//! Nodes that fall silent.

use std::time::Duration;

use podbus_common::proto::{pod_ack::Kind, verdict};
use podbus_test_support::wait::until;
use serde_json::json;

use crate::agent::{Agent, exited, running};
use crate::cluster::{Cluster, pod, ready};

async fn until_unknown(cluster: &Cluster, node: &str) {
    until("the node is NotReady", async || {
        let node = cluster.node(node).await;
        (node["status"]["conditions"][0]["status"] == "Unknown").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_of_a_lost_node_is_replaced_under_its_name_and_removed_when_the_node_is_back() {
    let cluster = Cluster::start_with(Duration::from_secs(1)).await;
    let mut lost = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let old = lost.until_pod().await;
    lost.report(running(&old, 1)).await;
    let mut other = Agent::register(&cluster.bus, "node-2").await;
    let third = Agent::register(&cluster.bus, "node-3").await;
    let beating = [other.keep_beating(), third.keep_beating()];

    cluster.until_pod("web", "it is not Ready", |p| ready(p).as_deref() == Some("False")).await;
    let new = cluster.until_pod("web", "it is replaced", |p| p.metadata.uid != old.metadata.uid).await;
    let new = if new.spec.node_name.is_empty() {
        cluster.until_pod("web", "it is bound", |p| !p.spec.node_name.is_empty()).await
    } else {
        new
    };
    assert_ne!(new.spec.node_name, "node-1");
    if new.spec.node_name == "node-2" {
        assert_eq!(other.until_pod().await.metadata.uid, new.metadata.uid);
    }
    let node = cluster.node("node-1").await;
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/unreachable");
    let events = cluster.events("web").await;
    assert!(
        events.contains(&"TaintManagerEviction".to_owned()) && events.contains(&"NodeNotReady".to_owned()),
        "{events:?}"
    );

    // The node comes back with the old pod running.
    let reply = lost.sync().await;
    assert_eq!(reply.verdicts[0].kind(), verdict::Kind::Remove);
    assert_eq!(lost.end(&old.metadata.uid, exited(&old, 2, 137)).await, Kind::Ack);
    lost.beat().await;
    until("the node is Ready", async || {
        (cluster.node("node-1").await["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    assert!(!cluster.keys().await.iter().any(|key| key.starts_with("removals")));
    assert_eq!(cluster.node("node-1").await["spec"]["taints"], json!(null));
    beating.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_pod_that_must_not_run_again_is_only_deleted() {
    let cluster = Cluster::start_with(Duration::from_secs(0)).await;
    let mut lost = Agent::register(&cluster.bus, "node-1").await;
    let other = Agent::register(&cluster.bus, "node-2").await;
    let third = Agent::register(&cluster.bus, "node-3").await;
    let beating = [other.keep_beating(), third.keep_beating()];
    let mut once = pod("once", "1");
    once["spec"]["restartPolicy"] = json!("Never");
    once["spec"]["nodeName"] = json!("node-1");
    cluster.apply(&once).await.unwrap();
    let assigned = lost.until_pod().await;
    let deleted = cluster.until_pod("once", "it is deleted", |p| p.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(deleted.metadata.uid, assigned.metadata.uid);
    beating.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn nothing_is_replaced_when_most_nodes_fall_silent_together() {
    // Longer than it may take until both are seen to be silent.
    let cluster = Cluster::start_with(Duration::from_secs(5)).await;
    let mut first = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let old = first.until_pod().await;
    first.report(running(&old, 1)).await;
    let second = Agent::register(&cluster.bus, "node-2").await;
    let third = Agent::register(&cluster.bus, "node-3").await;
    let beating = third.keep_beating();
    first.beat().await;
    second.beat().await;
    until_unknown(&cluster, "node-1").await;
    until_unknown(&cluster, "node-2").await;
    until("it says so", async || cluster.events("node-1").await.contains(&"EvictionHeldBack".to_owned()).then_some(()))
        .await;
    assert_eq!(cluster.pod("web").await.unwrap().metadata.uid, old.metadata.uid);
    beating.abort();
}

#[tokio::test]
async fn a_pod_is_ready_again_when_its_node_is_back_and_says_the_same_as_before() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let assigned = agent.until_pod().await;
    agent.report(running(&assigned, 1)).await;
    cluster.until_pod("web", "it is not Ready", |p| ready(p).as_deref() == Some("False")).await;
    agent.beat().await;
    agent.until_assigned(|assignment| assignment.nudge).await;
    assert!(agent.sync().await.send_all_states);
    assert_eq!(agent.report(running(&assigned, 1)).await, Kind::Ack);
    assert_eq!(ready(&cluster.pod("web").await.unwrap()).as_deref(), Some("True"));
}
