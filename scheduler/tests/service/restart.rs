//! What survives the scheduler, and the bus.

use futures::StreamExt as _;
use podbus_common::api::{DeleteRequest, WatchEventType, WatchRequest};
use podbus_common::proto::{pod_ack::Kind, refusal, verdict};

use podbus_test_support::wait::{PATIENCE, until};
use tokio::time::timeout;

use crate::agent::{Agent, exited, running};
use crate::cluster::{Cluster, pod};

#[tokio::test]
async fn a_killed_scheduler_comes_back_with_all_that_it_acknowledged() {
    let mut cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "3")).await.unwrap();
    cluster.apply(&pod("gone", "1")).await.unwrap();
    let web = agent.until_pod().await;
    agent.report(running(&web, 1)).await;
    let before = cluster.pod("web").await.unwrap();
    cluster.delete(DeleteRequest { name: "gone".into(), force: true, ..Default::default() }).await.unwrap();

    cluster.kill_scheduler().await;
    cluster.start_scheduler();
    cluster.until_it_answers().await;
    assert_eq!(cluster.pod("web").await.unwrap(), before);
    assert!(cluster.pod("gone").await.is_none());
    // What is taken is still taken: by the pod, and by the one that its node must remove.
    cluster.apply(&pod("next", "1")).await.unwrap();
    assert_eq!(cluster.pod("next").await.unwrap().spec.node_name, "");
    // The same agent goes on under the new term.
    assert_eq!(agent.report(exited(&web, 2, 1)).await, Kind::Ack);
    assert_ne!(cluster.pod("web").await.unwrap(), before);
}

#[tokio::test]
async fn a_watch_outlives_the_scheduler_and_misses_nothing() {
    let mut cluster = Cluster::start().await;
    let mut watch = cluster.api.watch(Some("default"), "pods", WatchRequest::default());
    cluster.apply(&pod("web", "1")).await.unwrap();
    let added = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(added.kind, WatchEventType::Added);
    cluster.kill_scheduler().await;
    cluster.start_scheduler();
    cluster.until_it_answers().await;
    cluster.delete(DeleteRequest { name: "web".into(), ..Default::default() }).await.unwrap();
    loop {
        let event = timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap();
        if event.kind == WatchEventType::Deleted {
            assert_eq!(event.object["metadata"]["name"], "web");
            break;
        }
    }
}

#[tokio::test]
async fn a_scheduler_that_ends_gives_its_lease_back() {
    let mut cluster = Cluster::start().await;
    cluster.stop_scheduler().await;
    let lease = |cluster: &Cluster| {
        let jetstream = cluster.bus.jetstream().clone();
        async move {
            let bucket = jetstream.get_key_value("podbus").await.unwrap();
            let json = bucket.get("leases.scheduler").await.unwrap().unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap()
        }
    };
    let first = lease(&cluster).await;
    assert_eq!(first["durationMs"], 0);
    cluster.start_scheduler();
    cluster.until_it_answers().await;
    let second = lease(&cluster).await;
    assert!(second["epoch"].as_u64() > first["epoch"].as_u64());
    assert_eq!(second["terms"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_restarted_bus_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start().await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    cluster.server.restart();
    until("it applies again", async || cluster.apply(&pod("next", "1")).await.ok()).await;
    assert!(cluster.pod("web").await.is_some());
}

#[tokio::test]
async fn what_was_acknowledged_while_the_bus_died_is_there_once_and_as_it_was_answered() {
    let mut cluster = Cluster::start().await;
    let _agent = Agent::register(&cluster.bus, "node-1").await;
    let mut applying = tokio::task::JoinSet::new();
    for n in 0..100 {
        let api = cluster.api.clone();
        applying.spawn(async move {
            let name = format!("pod-{n}");
            let reply = api.apply("default", "pods", &pod(&name, "10m"), false).await;
            reply.ok().map(|reply| (name, reply.object["metadata"]["uid"].as_str().unwrap().to_owned()))
        });
        tokio::task::yield_now().await;
        if n == 50 {
            cluster.server.restart();
        }
    }
    let answered: Vec<_> = applying.join_all().await.into_iter().flatten().collect();
    until("it answers", async || cluster.apply(&pod("last", "10m")).await.ok()).await;
    assert!(!answered.is_empty());
    for (name, uid) in answered {
        assert_eq!(cluster.pod(&name).await.map(|pod| pod.metadata.uid), Some(uid), "{name}");
    }
    // Those without an answer are applied again: the same pod, or a new one.
    for n in 0..100 {
        cluster.apply(&pod(&format!("pod-{n}"), "10m")).await.unwrap();
    }
    let pods = cluster.keys().await.into_iter().filter(|key| key.starts_with("pods.")).count();
    assert_eq!(pods, 101);
}

#[tokio::test]
async fn an_agent_that_missed_an_assignment_is_nudged_and_syncs() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    // It beats as if the assignment had not come.
    let beating = agent.keep_beating();
    agent.until_assigned(|a| a.nudge).await;
    beating.abort();
    agent.pods.clear();
    let reply = agent.sync().await;
    assert_eq!(reply.missing.len(), 1);
    assert_eq!(agent.sync().await.missing.len(), 0);
}

#[tokio::test]
async fn a_pod_without_a_record_is_on_hold_and_runs_on() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("web", "1")).await.unwrap();
    let mut foreign = agent.until_pod().await;
    foreign.metadata.uid = "foreign".into();
    foreign.metadata.name = "foreign".into();
    assert_eq!(agent.report(running(&foreign, 1)).await, Kind::Hold);
    agent.pods.insert("foreign".into(), (1, 1, foreign));
    let reply = agent.sync().await;
    let kinds: Vec<_> = reply.verdicts.iter().map(|v| (v.uid == "foreign", v.kind())).collect();
    assert!(kinds.contains(&(true, verdict::Kind::Hold)) && kinds.contains(&(false, verdict::Kind::Keep)));
}

#[tokio::test]
async fn another_machine_cannot_be_a_node_that_is_registered() {
    let cluster = Cluster::start().await;
    let agent = Agent::register(&cluster.bus, "node-1").await;
    let refused = async |node_id: &str| {
        let other = Agent::new(&cluster.bus, "node-1", node_id).await;
        other.try_register().await.refusal.map(|refusal| refusal.reason())
    };
    assert_eq!(refused("other").await, Some(refusal::Reason::NodeIdTaken));
    assert_eq!(refused("id").await, Some(refusal::Reason::InstanceAlive));
    agent.beat().await;
    // The first one fell silent: its successor gets a higher epoch.
    until("the successor is taken", async || refused("id").await.is_none().then_some(())).await;
    assert_eq!(agent.report(running(&serde_json::from_value(pod("x", "1")).unwrap(), 1)).await, Kind::Retry);
}
