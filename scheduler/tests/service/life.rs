//! From apply to Running, and what refuses it.

use futures::StreamExt as _;
use podbus_common::api::{ApplyResult, Detail, ListRequest, WatchEventType, WatchRequest};
use podbus_common::proto::pod_ack::Kind;
use podbus_common_bus::api::ApiError;
use podbus_test_support::wait::PATIENCE;
use serde_json::json;
use tokio::time::timeout;

use crate::agent::{Agent, exited, running};
use crate::cluster::{Cluster, phase, pod, ready};

#[tokio::test]
async fn an_applied_pod_is_assigned_and_shown_as_its_node_reports_it() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    let reply = cluster.apply(&pod("web", "1")).await.unwrap();
    assert_eq!(reply.result, ApplyResult::Created);
    assert_eq!(reply.object["spec"]["nodeName"], "node-1", "bound by its first write");
    assert_eq!(reply.object["status"]["phase"], "Pending");

    let assigned = agent.until_pod().await;
    assert_eq!(reply.object["metadata"]["uid"], json!(assigned.metadata.uid));
    assert_eq!(agent.report(running(&assigned, 1)).await, Kind::Ack);
    let shown = cluster.pod("web").await.unwrap();
    assert_eq!((phase(&shown), ready(&shown).as_deref()), ("Running", Some("True")));
    assert_eq!(shown.status.unwrap().pod_ip, "10.1.0.2");
    assert_eq!(cluster.events("web").await, ["Scheduled", "Started"]);

    let bucket = cluster.bus.jetstream().get_key_value("podbus").await.unwrap();
    let stored = bucket.get("pods.default.web").await.unwrap().unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(stored["spec"]["nodeName"], "node-1");
    assert_eq!(stored["status"], json!(null), "intent and observation have keys of their own");
}

#[tokio::test]
async fn an_older_report_changes_nothing_and_a_repeated_one_is_acked() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let assigned = agent.until_pod().await;
    assert_eq!(agent.report(exited(&assigned, 5, 1)).await, Kind::Ack);
    let after = cluster.pod("web").await.unwrap();
    for report in [running(&assigned, 4), exited(&assigned, 5, 1)] {
        assert_eq!(agent.report(report).await, Kind::Ack);
        assert_eq!(cluster.pod("web").await.unwrap(), after);
    }
    // Of an agent that registered before this one: it is told to begin anew.
    assert_eq!(agent.report_as(agent.agent_epoch - 1, running(&assigned, 9)).await, Kind::Retry);
    assert_eq!(cluster.pod("web").await.unwrap(), after);
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let why = |pod: &podbus_common::model::Pod| {
        let conditions = &pod.status.as_ref().unwrap().conditions;
        conditions.iter().find(|c| c.kind == "PodScheduled").map(|c| c.message.clone()).unwrap_or_default()
    };
    cluster.until_pod("web", "it says why", |p| why(p) == "no nodes available to schedule pods").await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    agent.until_pod().await;
    cluster.apply(&pod("large", "3500m")).await.unwrap();
    let large = cluster.until_pod("large", "it says why", |p| why(p).contains("Insufficient cpu")).await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
                   victims found for incoming pod.";
    assert_eq!(why(&large), message);
    assert_eq!(cluster.events("large").await, ["FailedScheduling"]);
}

#[tokio::test]
async fn applying_again_changes_nothing_or_only_what_may_change() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    let first = cluster.apply(&pod("web", "1")).await.unwrap();
    assert_eq!(cluster.apply(&pod("web", "1")).await.unwrap().result, ApplyResult::Unchanged);
    assert_eq!(cluster.apply(&first.object).await.unwrap().result, ApplyResult::Unchanged, "get | apply");

    let mut other_image = pod("web", "1");
    other_image["spec"]["containers"][0]["image"] = json!("localhost/busybox:2");
    let changed = cluster.apply(&other_image).await.unwrap();
    assert_eq!((changed.result, &changed.object["metadata"]["generation"]), (ApplyResult::Configured, &json!(2)));
    agent.until_assigned(|a| a.assigned.iter().any(|pod| pod.generation == 2)).await;

    let Err(ApiError::Refused(refused)) = cluster.apply(&pod("web", "2")).await else { panic!("taken") };
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert!(refused.message.contains("Forbidden"), "{}", refused.message);
}

#[tokio::test]
async fn all_faults_of_a_pod_are_told_at_once() {
    let cluster = Cluster::start().await;
    let bad =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Bad"}, "spec": {"containers": [], "x": 1}});
    let Err(ApiError::Refused(refused)) = cluster.apply(&bad).await else { panic!("taken") };
    assert_eq!(refused.code, 422);
    assert!(refused.message.contains("spec.x"), "{}", refused.message);
    assert!(cluster.pod("Bad").await.is_none());
}

#[tokio::test]
async fn a_watch_tells_the_life_of_a_pod_and_goes_on_where_it_was() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    let mut watch = cluster.api.watch(Some("default"), "pods", WatchRequest::default());
    cluster.apply(&pod("web", "1")).await.unwrap();
    let added = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((added.kind, &added.object["metadata"]["name"]), (WatchEventType::Added, &json!("web")));
    drop(watch);

    let assigned = agent.until_pod().await;
    agent.report(running(&assigned, 1)).await;
    let resource_version = added.object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = cluster.api.watch(Some("default"), "pods", WatchRequest { resource_version, ..Default::default() });
    let modified = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((modified.kind, &modified.object["status"]["phase"]), (WatchEventType::Modified, &json!("Running")));
}

#[tokio::test]
async fn who_wants_it_brief_is_told_who_and_where_a_pod_is_and_how_it_is() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    let request = WatchRequest { detail: Detail::Brief, ..Default::default() };
    let mut watch = cluster.api.watch(Some("default"), "pods", request);
    let objects = vec![pod("web", "1"), pod("no name", "1")];
    let applied = cluster.api.apply_all::<serde_json::Value>("default", "pods", objects, false, Detail::Brief).await;
    let applied = applied.unwrap();
    let [Ok(applied), Err(ApiError::Refused(refused))] = &applied[..] else { panic!("one is refused") };
    assert_eq!(refused.code, 422);
    let added = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(added.object, applied.object);
    assert_eq!(added.object["spec"], json!({"nodeName": "node-1"}));

    let assigned = agent.until_pod().await;
    agent.report(running(&assigned, 1)).await;
    let modified = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(modified.object["status"]["phase"], "Running");
    let list = ListRequest { detail: Detail::Brief, ..Default::default() };
    let list = cluster.api.list(Some("default"), "pods", &list).await.unwrap();
    assert_eq!(list.items, [modified.object]);
}

#[tokio::test]
async fn a_revision_from_the_future_is_expired() {
    let cluster = Cluster::start().await;
    let request = WatchRequest { resource_version: "999999".into(), ..Default::default() };
    let mut watch = cluster.api.watch(None, "pods", request);
    let Some(Err(ApiError::Refused(refused))) = timeout(PATIENCE, watch.next()).await.unwrap() else { panic!("open") };
    assert_eq!(refused.code, 410);
}

#[tokio::test]
async fn any_client_finds_the_api_as_a_micro_service() {
    let cluster = Cluster::start().await;
    let pong = cluster.bus.client().request("$SRV.PING.podbus-scheduler", "".into()).await.unwrap();
    let pong: serde_json::Value = serde_json::from_slice(&pong.payload).unwrap();
    assert_eq!(pong["name"], "podbus-scheduler");
    let refused =
        cluster.bus.client().request("podbus.api.v1.default.pods.get", r#"{"name":"x"}"#.into()).await.unwrap();
    assert_eq!(refused.headers.unwrap().get("Nats-Service-Error-Code").unwrap().as_str(), "404");
    let status: serde_json::Value = serde_json::from_slice(&refused.payload).unwrap();
    assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!("NotFound")));
}

#[tokio::test]
async fn a_generated_name_is_another_one_each_time() {
    let cluster = Cluster::start().await;
    let mut manifest = pod("x", "1");
    manifest["metadata"] = json!({"generateName": "job-"});
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let reply = cluster.apply(&manifest).await.unwrap();
        names.insert(reply.object["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.starts_with("job-") && name.len() == 9), "{names:?}");
}
