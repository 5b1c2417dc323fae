//! One leads, others follow with a warm snapshot and take over.

use std::time::Duration;

use futures::StreamExt as _;
use podbus_common::api::{DeleteRequest, Lease};
use podbus_common::proto::pod_ack::Kind;
use podbus_common_bus::api::Client;
use podbus_common_bus::testing::NatsCluster;
use podbus_common_bus::{Bus, BusOptions};
use podbus_scheduler::Args;
use podbus_test_support::wait::until;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, running};
use crate::cluster::{Cluster, pod};

async fn lease(cluster: &Cluster) -> Lease {
    let bucket = cluster.bus.jetstream().get_key_value("podbus").await.unwrap();
    serde_json::from_slice(&bucket.get("leases.scheduler").await.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn a_follower_takes_over_with_all_that_was_acknowledged_before_and_after_it_began() {
    let mut cluster = Cluster::start().await;
    let mut agent = Agent::register(&cluster.bus, "node-1").await;
    cluster.apply(&pod("before", "100m")).await.unwrap();
    cluster.start_follower();
    for n in 0..20 {
        cluster.apply(&pod(&format!("pod-{n}"), "100m")).await.unwrap();
    }
    let before = agent.until_pod().await;
    assert_eq!(agent.report(running(&before, 1)).await, Kind::Ack);
    cluster.delete(DeleteRequest { name: "pod-7".into(), force: true, ..Default::default() }).await.unwrap();
    let first = lease(&cluster).await;

    cluster.kill_leader().await;
    cluster.until_it_answers().await;
    let second = lease(&cluster).await;
    assert_eq!((first.terms.len(), second.terms.len()), (1, 2));
    assert!(second.terms[0].revision > 0, "where a term began is known, whoever ended it");
    for n in (0..20).filter(|n| *n != 7) {
        assert_eq!(cluster.pod(&format!("pod-{n}")).await.unwrap().spec.node_name, "node-1");
    }
    assert!(cluster.pod("pod-7").await.is_none());
    assert_eq!(cluster.pod("before").await.unwrap().metadata.uid, before.metadata.uid);
    assert_eq!(agent.report(running(&before, 2)).await, Kind::Ack);
}

#[tokio::test]
async fn a_leader_that_ended_serves_nobody_beside_the_next_one() {
    let mut cluster = Cluster::start().await;
    cluster.start_follower();
    cluster.kill_leader().await;
    until("the follower leads", async || (lease(&cluster).await.terms.len() == 2).then_some(())).await;
    let epoch = lease(&cluster).await.epoch.to_string();
    until("the follower alone serves", async || (serving_epochs(&cluster).await == [epoch.clone()]).then_some(()))
        .await;
    cluster.until_it_answers().await;
}

/// The epochs of all leaders that `nats micro ls` shows.
async fn serving_epochs(cluster: &Cluster) -> Vec<String> {
    let client = cluster.bus.client();
    let inbox = client.new_inbox();
    let mut pongs = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply("$SRV.PING.podbus-scheduler", inbox, "".into()).await.unwrap();
    let mut epochs = Vec::new();
    while let Ok(Some(pong)) = timeout(Duration::from_millis(200), pongs.next()).await {
        let pong: serde_json::Value = serde_json::from_slice(&pong.payload).unwrap();
        epochs.push(pong["metadata"]["epoch"].as_str().unwrap_or_default().to_owned());
    }
    epochs
}

#[tokio::test]
async fn a_bus_that_restarts_changes_no_leader() {
    let mut cluster = Cluster::start().await;
    cluster.start_follower();
    cluster.apply(&pod("web", "1")).await.unwrap();
    let before = lease(&cluster).await;
    cluster.server.restart();
    until("it applies again", async || cluster.apply(&pod("next", "1")).await.ok()).await;
    assert_eq!(lease(&cluster).await.terms.len(), before.terms.len());
}

#[tokio::test]
async fn two_of_three_schedulers_may_die() {
    let mut cluster = Cluster::start().await;
    cluster.start_follower();
    cluster.start_follower();
    for round in 0..2 {
        let name = format!("pod-{round}");
        cluster.apply(&pod(&name, "1")).await.unwrap();
        cluster.kill_leader().await;
        until("the pod is there", async || cluster.pod(&name).await).await;
    }
}

#[tokio::test]
async fn each_of_three_servers_may_die_with_three_replicas() {
    let mut servers = NatsCluster::start(3);
    let url = servers.urls();
    let args = Args {
        nats: url.clone(),
        token_file: None,
        not_ready_toleration: Duration::from_secs(300),
        replicas: Some(3),
        config: None,
        metrics: None,
    };
    let stop = CancellationToken::new();
    let schedulers: Vec<_> = (0..2).map(|_| tokio::spawn(podbus_scheduler::run(args.clone(), stop.clone()))).collect();
    let bus = Bus::connect(&BusOptions { url, token: None, name: "test".into() }).await.unwrap();
    let api = Client::new(bus.clone());
    let apply = async |name: &str| api.apply("default", "pods", &pod(name, "1"), false).await.ok();
    until("the cluster takes a pod", async || apply("first").await).await;
    let stream = bus.jetstream().get_stream("KV_podbus").await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, 3);
    for number in 0..3 {
        servers.servers[number].kill();
        let name = format!("without-{number}");
        until("the two that are left take a pod", async || apply(&name).await).await;
        until("the first pod is there", async || api.get(Some("default"), "pods", "first").await.ok()).await;
        servers.servers[number].restart();
        until("all three are one cluster again", async || {
            let info = bus.jetstream().get_stream("KV_podbus").await.ok()?.cached_info().cluster.clone()?;
            (info.replicas.len() == 2 && info.replicas.iter().all(|replica| replica.current)).then_some(())
        })
        .await;
    }
    stop.cancel();
    for scheduler in schedulers {
        scheduler.abort();
    }
}
