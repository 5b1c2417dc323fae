//! Priorities, gates and groups; and what the scheduler says of a pod without placing it.

use podbus_common::model::Pod;
use podbus_common::proto::pod_ack::Kind;
use serde_json::{Value, json};

use crate::agent::{Agent, exited, running};
use crate::cluster::{Cluster, pod};

fn of_priority(name: &str, cpu: &str, priority: i32) -> Value {
    let mut pod = pod(name, cpu);
    pod["spec"]["priority"] = json!(priority);
    pod
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a podbus_common::model::PodCondition> {
    pod.status.as_ref()?.conditions.iter().find(|condition| condition.kind == kind)
}

#[tokio::test]
async fn a_pod_of_higher_priority_takes_the_place_of_a_lesser_one_which_ends_gracefully() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&of_priority("lesser", "3", 0)).await.unwrap();
    let lesser = agent.until_pod().await;
    assert_eq!(agent.report(running(&lesser, 1)).await, Kind::Ack);

    let applied = cluster.apply(&of_priority("urgent", "3", 1000)).await.unwrap();
    assert_eq!(applied.object["status"]["nominatedNodeName"], "node-1");
    assert_eq!(applied.object["spec"]["nodeName"], json!(null));
    let leaving =
        cluster.until_pod("lesser", "it is asked to leave", |p| p.metadata.deletion_timestamp.is_some()).await;
    assert_eq!(leaving.metadata.deletion_grace_period_seconds, Some(30), "with its own grace");
    let leaving = cluster.until_pod("lesser", "it says why", |p| condition(p, "DisruptionTarget").is_some()).await;
    let target = condition(&leaving, "DisruptionTarget").unwrap();
    assert_eq!(target.reason, "PreemptionByScheduler");
    assert_eq!(target.message, "default-scheduler: preempting to accommodate a higher priority pod");
    assert_eq!(cluster.events("lesser").await, ["Scheduled", "Started", "Preempted"]);

    agent.until_assigned(|a| a.assigned.iter().any(|pod| pod.uid == lesser.metadata.uid && pod.generation == 2)).await;
    assert_eq!(agent.end(&lesser.metadata.uid, exited(&lesser, 2, 143)).await, Kind::Ack);
    let urgent = cluster.until_pod("urgent", "it has the place", |p| p.spec.node_name == "node-1").await;
    assert_eq!(urgent.status.unwrap().nominated_node_name, "");
    cluster.until_gone("lesser").await;
    assert_eq!(cluster.events("urgent").await, ["FailedScheduling", "Scheduled"]);
}

#[tokio::test]
async fn a_gated_pod_is_placed_when_its_last_gate_is_gone() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    let mut gated = pod("web", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    let applied = cluster.apply(&gated).await.unwrap();
    assert_eq!(applied.object["spec"]["nodeName"], json!(null));
    let shown = cluster.pod("web").await.unwrap();
    let scheduled = condition(&shown, "PodScheduled").unwrap();
    assert_eq!((scheduled.status.as_str(), scheduled.reason.as_str()), ("False", "SchedulingGated"));
    assert_eq!(scheduled.message, "Scheduling is blocked due to non-empty scheduling gates");
    let explained = cluster.api.explain("default", "web").await.unwrap();
    let waits = "It waits until its scheduling gates are taken away: example.com/quota.";
    assert!(explained.conclusion.starts_with(waits), "{}", explained.conclusion);

    cluster.apply(&pod("web", "1")).await.unwrap();
    assert_eq!(agent.until_pod().await.metadata.name, "web");
}

#[tokio::test]
async fn gates_and_priorities_outlive_the_scheduler() {
    let mut cluster = Cluster::start().await;
    let mut gated = pod("gated", "1");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/quota"}]);
    cluster.apply(&gated).await.unwrap();
    cluster.apply(&of_priority("low", "3", 0)).await.unwrap();
    cluster.apply(&of_priority("high", "3", 5)).await.unwrap();
    cluster.stop_scheduler().await;
    cluster.start_scheduler();
    cluster.until_it_answers().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    assert_eq!(agent.until_pod().await.metadata.name, "high");
    assert_eq!(cluster.pod("gated").await.unwrap().spec.node_name, "");
}

#[tokio::test]
async fn a_group_is_placed_as_a_whole() {
    let cluster = Cluster::start().await;
    let _agent = Agent::register(&cluster.bus, "node-1").await;
    let member = |name: &str| {
        let mut pod = pod(name, "1");
        pod["metadata"]["labels"] = json!({
            "pod-group.scheduling.sigs.k8s.io/name": "train",
            "pod-group.scheduling.sigs.k8s.io/min-available": "2",
        });
        pod
    };
    cluster.apply(&member("worker-0")).await.unwrap();
    let message = |p: &Pod| condition(p, "PodScheduled").map(|c| c.message.clone()).unwrap_or_default();
    let first = cluster.until_pod("worker-0", "it says why it waits", |p| !message(p).is_empty()).await;
    assert_eq!(message(&first), "pod group default/train has 1 of the 2 pods that are placed together");
    cluster.apply(&member("worker-1")).await.unwrap();
    for name in ["worker-0", "worker-1"] {
        cluster.until_pod(name, "it has a node", |p| p.spec.node_name == "node-1").await;
    }
}

#[tokio::test]
async fn explain_and_plan_tell_without_doing() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&of_priority("lesser", "3", 0)).await.unwrap();
    agent.until_pod().await;
    let explained = cluster.api.explain("default", "lesser").await.unwrap();
    let on = "It is on node-1, which is the only node that can take it now, with a score of";
    assert!(explained.conclusion.starts_with(on), "{}", explained.conclusion);
    assert_eq!(explained.nodes[0].scores.iter().map(|s| s.score * s.weight).sum::<u32>(), explained.nodes[0].total);

    let asked = vec![of_priority("urgent", "2", 9), of_priority("large", "8", 9), pod("small", "500m")];
    let planned = cluster.api.plan(Some("default"), asked).await.unwrap().pods;
    assert_eq!((planned[0].node.as_str(), &planned[0].preempts[..]), ("node-1", &["default/lesser".to_owned()][..]));
    assert_eq!(planned[1].node, "");
    assert!(planned[1].message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{}", planned[1].message);
    assert_eq!(planned[2].node, "node-1");
    let refused = cluster.api.plan(Some("default"), vec![json!({"kind": "Pod", "spec": {}})]).await.unwrap_err();
    assert!(refused.to_string().contains("spec.containers: Required value"), "{refused}");
    assert!(cluster.pod("urgent").await.is_none());
    assert!(cluster.pod("lesser").await.unwrap().metadata.deletion_timestamp.is_none());
}
