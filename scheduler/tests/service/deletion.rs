//! Deleting pods.

use podbus_common::api::DeleteRequest;
use podbus_common::proto::pod_ack::Kind;
use podbus_common_bus::api::ApiError;
use serde_json::json;

use crate::agent::{Agent, exited, running};
use crate::cluster::{Cluster, pod};

fn of(name: &str) -> DeleteRequest {
    DeleteRequest { name: name.into(), ..Default::default() }
}

#[tokio::test]
async fn a_deleted_pod_is_gone_once_its_node_says_so() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "4")).await.unwrap();
    let assigned = agent.until_pod().await;
    agent.report(running(&assigned, 1)).await;

    let answer = cluster.delete(of("web")).await.unwrap();
    assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], 30);
    let told = agent.until_pod().await;
    assert!(told.metadata.deletion_timestamp.is_some());
    assert_eq!(told.metadata.generation, 2);

    // What it takes counts until its end.
    cluster.apply(&pod("next", "4")).await.unwrap();
    assert_eq!(cluster.pod("next").await.unwrap().spec.node_name, "");
    assert_eq!(agent.end(&assigned.metadata.uid, exited(&assigned, 2, 143)).await, Kind::Ack);
    cluster.until_gone("web").await;
    let next = agent.until_pod().await;
    assert_eq!(next.metadata.name, "next");
    let keys = cluster.keys().await;
    assert!(!keys.iter().any(|key| key.contains("web")), "{keys:?}");
    // Said twice is as good as once.
    assert_eq!(agent.end(&assigned.metadata.uid, exited(&assigned, 2, 143)).await, Kind::Ack);
}

#[tokio::test]
async fn a_later_deletion_only_shortens_the_grace() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    agent.until_pod().await;
    for (asked, expected) in [(None, 30), (Some(60), 30), (Some(5), 5), (None, 5)] {
        let answer = cluster.delete(DeleteRequest { grace_period_seconds: asked, ..of("web") }).await.unwrap();
        assert_eq!(answer["metadata"]["deletionGracePeriodSeconds"], expected, "{asked:?}");
    }
}

#[tokio::test]
async fn a_pod_without_a_node_goes_at_once() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    assert_eq!(cluster.delete(of("web")).await.unwrap()["status"], "Success");
    assert!(cluster.pod("web").await.is_none());
    assert_eq!(cluster.keys().await, ["leases.scheduler"]);
    let Err(ApiError::Refused(refused)) = cluster.delete(of("web")).await else { panic!("deleted twice") };
    assert_eq!((refused.code, refused.message.as_str()), (404, "pods \"web\" not found"));
}

#[tokio::test]
async fn a_namesake_is_not_deleted_by_the_uid_of_another() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let Err(ApiError::Refused(refused)) = cluster.delete(DeleteRequest { uid: "other".into(), ..of("web") }).await
    else {
        panic!("deleted");
    };
    assert_eq!(refused.code, 409);
    assert!(cluster.pod("web").await.is_some());
}

#[tokio::test]
async fn a_name_is_free_at_once_after_a_forced_deletion_and_the_node_removes_the_old_pod() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let old = agent.until_pod().await;
    cluster.delete(DeleteRequest { force: true, grace_period_seconds: Some(0), ..of("web") }).await.unwrap();
    let removal = agent.until_assigned(|a| !a.removed.is_empty()).await.removed.remove(0);
    assert_eq!(removal.uid, old.metadata.uid);
    assert!(removal.revision > 0);
    let new = cluster.apply(&pod("web", "1")).await.unwrap();
    assert_ne!(new.object["metadata"]["uid"], json!(old.metadata.uid));
    let entry = format!("removals.node-1.{}", old.metadata.uid);
    assert!(cluster.keys().await.contains(&entry));
    assert_eq!(agent.end(&old.metadata.uid, exited(&old, 2, 137)).await, Kind::Ack);
    assert!(!cluster.keys().await.contains(&entry));
}
