//! From nothing to a leader: reach the bus, make what must be there, follow the store, take the lease, lead.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::jetstream;
use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, StorageType};
use podbus_common::proto::Term;
use podbus_common::subject::{BUCKET, BUCKET_STREAM, EVENTS_ALL, EVENTS_STREAM};
use podbus_common_bus::{Bus, BusOptions, ConnectError, read_token};
use podbus_scheduler_leader::{Leader, LeaseLost, Lineage, Remembered, Settings, Start};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::clock::now;
use crate::follow::{Followed, follow};
use crate::lead::lead;
use crate::lease::{self, Sure};
use crate::store::Store;
use crate::telemetry::Telemetry;

/// The oldest nats-server whose JetStream can do what is needed.
const SERVER_VERSION_MIN: (u64, u64, u64) = (2, 9, 0);
/// JetStream's codes for "not enabled": of the server, of the account.
const NOT_ENABLED: [u64; 2] = [10_076, 10_039];
/// How often something that cannot be reached is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How often a person is told that it is still tried.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Events are kept for so long,
const EVENTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// and at most so many. Not bounded by size: at its limit that costs nats-server ten times more.
const EVENTS_MAX: i64 = 100_000;

/// Runs a scheduler until `stop`.
///
/// # Errors
/// When the bus cannot be used as it is, or another scheduler takes the lease.
pub async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        biased;
        result = serve(&args, &stop) => result,
        // Before it leads there is nothing to end; a leader ends itself.
        () = async { stop.cancelled().await; sleep(Duration::from_secs(3)).await } => Ok(()),
    }
}

async fn serve(args: &Args, stop: &CancellationToken) -> anyhow::Result<()> {
    let scheduling = args.scheduling()?;
    let telemetry = Telemetry::new();
    if let Some(address) = &args.metrics {
        telemetry.serve(address).await?;
    }
    let Some(bus) = until_stopped(stop, connect(args, "podbus scheduler")).await.transpose()? else { return Ok(()) };
    telemetry.has_bus(&bus);
    // Behind thousands of messages a renewal would come too late.
    let Some(lease_bus) = until_stopped(stop, connect(args, "podbus scheduler lease")).await.transpose()? else {
        return Ok(());
    };
    check_version(&bus)?;
    let Some(ready) = until_stopped(stop, make_streams(&bus, args.replicas)).await else { return Ok(()) };
    ready?;
    let holder = format!("{}_{}", host_name(), std::process::id());
    let store = Store::open(bus.jetstream().clone(), 0).await?;
    let lease_store = store.over(lease_bus.jetstream().clone()).await?;
    let toleration_seconds = i64::try_from(args.not_ready_toleration.as_secs())?;
    let settings = Settings { toleration_seconds, scheduling };
    let mut remembered = None;
    loop {
        telemetry.starts();
        let following =
            follow(&bus, &store, args.replicas, &settings.scheduling, &holder, remembered.take(), &telemetry);
        let Some(followed) = until_stopped(stop, following).await.transpose()? else { return Ok(()) };
        match serve_term(&bus, &store, &lease_store, followed, settings.clone(), &telemetry, stop).await? {
            None => return Ok(()),
            Some(memory) => {
                tracing::error!(
                    "the store went back in time, or there is another one: leading again once the lease is taken, to \
                     write back what is remembered"
                );
                remembered = Some(memory);
                store.forget_acked();
            }
        }
    }
}

/// Leads for one term. `Some`: it ended because the store went back in time, and this is what was known.
async fn serve_term(
    bus: &Bus,
    store: &Store,
    lease_store: &Store,
    followed: Followed,
    settings: Settings,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Remembered>> {
    let Followed { held, snapshot, stream, connects, remembered } = followed;
    let (store, lease_store) = (store.with_epoch(held.record.epoch), lease_store.with_epoch(held.record.epoch));
    tracing::info!(
        epoch = held.record.epoch,
        cold = held.record.terms.last().is_some_and(|term| term.cold),
        pods = snapshot.cluster().pods_len(),
        nodes = snapshot.cluster().nodes_len(),
        "took the lease"
    );
    let (sure_tx, sure_rx) = watch::channel(Sure { held: held.clone(), connects });
    let control = bus.client().new_inbox();
    let term = Term { epoch: held.record.epoch, nonce: held.record.nonce.clone() };
    let lineage = Lineage::new(held.record.terms.clone(), held.revision);
    let start = Start { snapshot, term, lineage, remembered };
    let mut leader = Leader::new(start, control.clone(), settings, rand::random(), now());
    let result = tokio::select! {
        result = lead(bus, store.clone(), &mut leader, &control, sure_rx, telemetry, stop) => result,
        result = lease::keep(bus, &lease_store, &stream, &sure_tx, stop) => match result {
            // The leader was told to stop too.
            Ok(()) => Ok(()),
            Err(lost) => Err(lost.into()),
        },
    };
    let epoch_seen = match result.as_ref().err().and_then(|error| error.downcast_ref()) {
        Some(LeaseLost::HigherEpoch(epoch)) => *epoch,
        Some(LeaseLost::StoreWentBack) => {
            return Ok(Some(leader.into_remembered()));
        }
        Some(LeaseLost::Taken { .. }) => return result.map(|()| None),
        None => 0,
    };
    let held = sure_tx.borrow().held.clone();
    lease::release(&lease_store, &held, epoch_seen).await;
    // What was published last must leave before the process does.
    let _ = bus.client().flush().await;
    result.map(|()| None)
}

async fn until_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        result = work => Some(result),
        () = stop.cancelled() => None,
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

async fn connect(args: &Args, name: &str) -> anyhow::Result<Bus> {
    let token = args.token_file.as_deref().map(read_token).transpose();
    let token = token.with_context(|| format!("cannot read the token in {:?}", args.token_file))?;
    let options = BusOptions { url: args.nats.clone(), token, name: name.to_owned() };
    let mut told: Option<Instant> = None;
    loop {
        match Bus::connect(&options).await {
            Ok(bus) => return Ok(bus),
            Err(error @ ConnectError::Unreachable { .. }) => {
                if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    tracing::warn!("{error:#}; trying again until it is there");
                }
                sleep(RETRY_EVERY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn check_version(bus: &Bus) -> anyhow::Result<()> {
    bus.server_version().map_or(Ok(()), |version| refuse_old(version, bus.url()))
}

fn refuse_old(version: (u64, u64, u64), url: &str) -> anyhow::Result<()> {
    if version < SERVER_VERSION_MIN {
        let (major, minor, patch) = version;
        bail!("the nats-server at {url} is {major}.{minor}.{patch}, and podbus needs 2.9.0 or newer: upgrade it");
    }
    Ok(())
}

/// Makes the bucket and the stream of events, where they are not there yet.
pub(crate) async fn make_streams(bus: &Bus, replicas: Option<usize>) -> anyhow::Result<()> {
    let mut told = Instant::now();
    loop {
        let error = match try_make_streams(bus, replicas).await? {
            None => return Ok(()),
            Some(error) => error,
        };
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::warn!("JetStream at {} does not answer yet ({error:#}); trying again until it does", bus.url());
        }
        sleep(RETRY_EVERY).await;
    }
}

/// The inner error may pass; the outer one does not.
async fn try_make_streams(bus: &Bus, replicas: Option<usize>) -> anyhow::Result<Option<anyhow::Error>> {
    let jetstream = bus.jetstream();
    // As a bare value: async-nats' own type has fields that nats-server 2.9 does not send.
    let answer: Result<Response<serde_json::Value>, _> = jetstream.request("INFO", b"").await;
    let disabled = match &answer {
        Ok(Response::Ok(_)) => false,
        Ok(Response::Err { error }) => NOT_ENABLED.contains(&error.error_code().0),
        Err(error) => error.kind() == RequestErrorKind::NoResponders,
    };
    if disabled && bus.is_connected() {
        bail!(
            "JetStream is not enabled on the nats-server at {}: start it with --jetstream, or with a `jetstream` block \
             in its configuration",
            bus.url()
        );
    }
    match answer {
        Ok(Response::Ok(_)) => {}
        Ok(Response::Err { error }) => return Ok(Some(error.into())),
        Err(error) => return Ok(Some(error.into())),
    }
    let made = make_bucket(jetstream, replicas).await;
    Ok(made.err().or(make_events(jetstream, replicas).await.err()))
}

async fn make_bucket(jetstream: &jetstream::Context, replicas: Option<usize>) -> anyhow::Result<()> {
    // The stream of a KV bucket as ADR-8 has it, made by hand: async-nats' own way asks for the account first, whose
    // answer it cannot read from nats-server 2.9.
    let config = StreamConfig {
        name: BUCKET_STREAM.to_owned(),
        description: Some("podbus: what was asked and what is".to_owned()),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        storage: StorageType::File,
        num_replicas: replicas.unwrap_or(1),
        ..Default::default()
    };
    make_stream(jetstream, config, replicas).await.context("cannot create the bucket")
}

async fn make_events(jetstream: &jetstream::Context, replicas: Option<usize>) -> anyhow::Result<()> {
    let config = StreamConfig {
        name: EVENTS_STREAM.to_owned(),
        description: Some("podbus: events".to_owned()),
        subjects: vec![EVENTS_ALL.to_owned()],
        max_age: EVENTS_AGE_MAX,
        max_messages: EVENTS_MAX,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: replicas.unwrap_or(1),
        ..Default::default()
    };
    make_stream(jetstream, config, replicas).await.context("cannot create the stream of events")
}

/// Makes a stream; one that is there keeps its configuration, but for the number of replicas where one was given.
async fn make_stream(
    jetstream: &jetstream::Context,
    config: StreamConfig,
    replicas: Option<usize>,
) -> anyhow::Result<()> {
    let stream = jetstream.get_or_create_stream(config.clone()).await?;
    if replicas.is_some_and(|replicas| replicas != stream.cached_info().config.num_replicas) {
        jetstream.update_stream(config).await.context("cannot change the number of replicas")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_refused_with_both_versions() {
        for (version, taken) in [((2, 8, 4), false), ((2, 9, 0), true), ((2, 10, 22), true), ((3, 0, 0), true)] {
            assert_eq!(refuse_old(version, "nats://h:1").is_ok(), taken, "{version:?}");
        }
        let said = refuse_old((2, 8, 4), "nats://h:1").map_err(|error| error.to_string());
        assert!(said.is_err_and(|said| said.contains("2.8.4") && said.contains("2.9.0")));
    }
}
