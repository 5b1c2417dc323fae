//! The price of durability: whole pods a second into JetStream, by replicas, `sync_interval` and server version.
//!
//! A pod is two writes, one after the other, as the scheduler makes them: 1,500 bytes of what is asked and 900 bytes of
//! what is, each by compare-and-set. `NATS_SERVERS=/path/a,/path/b` names the servers; by default the one in PATH.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends where it cannot go on")]

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use podbus_common_bus::testing::NatsCluster;
use podbus_common_bus::{Bus, BusOptions};
use podbus_test_support::wait::{PATIENCE, retry};
use tokio::task::JoinSet;

/// Pods under way at once.
const IN_FLIGHT: usize = 1_000;
/// How long each row is measured.
const MEASURE: Duration = Duration::from_secs(4);
/// What is asked of a pod, and what it is, in bytes.
const WRITES: [usize; 2] = [1_500, 900];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let programs = std::env::var("NATS_SERVERS").unwrap_or_else(|_| "nats-server".to_owned());
    println!("| nats-server | replicas | sync_interval | pods/s | write p50 | write p99 |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for program in programs.split(',') {
        for replicas in [1, 3] {
            for sync in ["default", "1s", "always"] {
                measure(program, replicas, sync).await;
            }
        }
    }
}

async fn measure(program: &str, replicas: usize, sync: &str) {
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("nats.conf");
    let interval = if sync == "default" { String::new() } else { format!("sync_interval: {sync}") };
    std::fs::write(&configuration, format!("jetstream {{ {interval} }}\n")).unwrap();
    if !takes(program, &configuration) {
        return println!("| {} | {replicas} | {sync} | not known to it | | |", version(program));
    }
    let servers = NatsCluster::start_with(replicas, program, &configuration);
    let options = BusOptions { url: servers.urls(), token: None, name: "durability".into() };
    let bus = Bus::connect(&options).await.unwrap();
    let config = Config {
        name: "KV_bench".into(),
        subjects: vec!["$KV.bench.>".into()],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        ..Default::default()
    };
    // A cluster needs a moment until its servers know each other.
    let made = retry(PATIENCE, async || bus.jetstream().get_or_create_stream(config.clone()).await.map(drop)).await;
    made.unwrap_or_else(|error| panic!("no stream of {replicas} replicas on {program}: {error}"));
    let began = Instant::now();
    let mut pods = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let bus = bus.clone();
        pods.spawn(async move {
            let mut writes = Vec::new();
            for pod in 0.. {
                if began.elapsed() >= MEASURE {
                    break;
                }
                for (kind, bytes) in WRITES.into_iter().enumerate() {
                    let at = Instant::now();
                    let message = PublishMessage::build().payload(vec![b'x'; bytes].into());
                    let message = message.expected_last_subject_sequence(0);
                    let subject = format!("$KV.bench.{kind}.{worker}-{pod}");
                    let acked = async { bus.jetstream().send_publish(subject, message).await.unwrap().await };
                    acked.await.unwrap();
                    writes.push(at.elapsed());
                }
            }
            writes
        });
    }
    let mut writes: Vec<Duration> = pods.join_all().await.into_iter().flatten().collect();
    let seconds = began.elapsed().as_secs_f64();
    writes.sort_unstable();
    let milliseconds = |percent: usize| writes[(writes.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let pods = f64::from(u32::try_from(writes.len() / WRITES.len()).unwrap()) / seconds;
    println!(
        "| {} | {replicas} | {sync} | {pods:.0} | {:.1} ms | {:.1} ms |",
        version(program),
        milliseconds(50),
        milliseconds(99)
    );
}

/// Whether the server knows all of this configuration.
fn takes(program: &str, configuration: &Path) -> bool {
    let output = std::process::Command::new(program).args(["-t", "-c"]).arg(configuration).output().unwrap();
    output.status.success()
}

fn version(program: &str) -> String {
    let output = std::process::Command::new(program).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().rsplit('v').next().unwrap_or_default().to_owned()
}
