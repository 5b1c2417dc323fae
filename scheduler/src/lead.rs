//! The leader's task: it feeds a [`Leader`] what comes, and carries out what that wants.

use podbus_common_bus::Bus;
use podbus_scheduler_leader::{Input, Leader, Output, TICK_EVERY};
use tokio::sync::{mpsc, watch as watched};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::calls::{self, Calls};
use crate::clock::{boottime, now};
use crate::inputs::{self, Heard, INPUTS_MAX};
use crate::lease::Sure;
use crate::outbox::Outbox;
use crate::publisher::Publisher;
use crate::store::Store;
use crate::telemetry::{Telemetry, input_name};
use crate::writer::{Patient, Writer};

/// With more inputs waiting than this the leader is behind: who seems silent may have spoken.
const BEHIND_MAX: usize = INPUTS_MAX / 8;

/// Leads until `stop`, or until the term must end. `leader` is what owns the state, and stays when this is dropped.
pub(crate) async fn lead(
    bus: &Bus,
    store: Store,
    leader: &mut Leader,
    control: &str,
    mut sure_rx: watched::Receiver<Sure>,
    telemetry: &Telemetry,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (heard_tx, mut heard_rx) = mpsc::channel(INPUTS_MAX);
    let epoch = store.epoch();
    inputs::subscribe(bus, epoch, control, &heard_tx).await?;
    calls::serve(bus, sure_rx.clone(), heard_tx.clone()).await?;
    telemetry.leads(sure_rx.clone(), heard_tx.clone());
    let ended = CancellationToken::new();
    let patient = Patient {
        store,
        bus: bus.clone(),
        sure: sure_rx.clone(),
        heard: heard_tx,
        telemetry: telemetry.clone(),
        ended: ended.clone(),
    };
    let mut shell = Shell {
        calls: Calls::new(telemetry.clone()),
        outbox: Outbox::start(bus.client().clone(), telemetry.clone()),
        publisher: Publisher::start(bus.client().clone(), telemetry.clone()),
        writer: Writer::start(patient).await?,
    };
    // No write of this term is attempted once it is over.
    let _ended = ended.drop_guard();
    tracing::info!(epoch, "leads");
    shell.carry_out(leader.outputs());

    let mut tick = interval(TICK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // cancel-safe: both
            heard = heard_rx.recv() => heard,
            _ = tick.tick() => None,
        };
        if until_sure(&mut sure_rx, bus).await {
            leader.handle(Input::Resumed, now())?;
        }
        let input = match heard {
            Some(Heard::Input(input)) => input,
            Some(Heard::Call(request)) => match shell.calls.add(*request) {
                Some(call) => call,
                None => continue,
            },
            Some(Heard::Look(facts)) => {
                // Who looked may have gone.
                let _ = facts.send(leader.facts());
                continue;
            }
            None => Input::Tick { caught_up: bus.is_connected() && heard_rx.len() <= BEHIND_MAX },
        };
        let (name, now, before) = (input_name(&input), now(), *leader.stats());
        leader.set_events_room(shell.publisher.room());
        leader.handle(input, now)?;
        telemetry.decided(name, now.instant.elapsed(), &before, leader.stats());
        shell.publisher.note_dropped(leader.stats().events_dropped - before.events_dropped);
        shell.carry_out(leader.outputs());
    }
}

/// Waits while the lease is not surely held, or the store not surely the one of before: nothing is decided, answered or
/// assigned meanwhile. Returns whether it had to.
async fn until_sure(sure_rx: &mut watched::Receiver<Sure>, bus: &Bus) -> bool {
    let mut waited = false;
    while !is_sure(&sure_rx.borrow_and_update(), bus) {
        if !waited && boottime() >= sure_rx.borrow().held.valid_until() {
            tracing::warn!(
                "the lease was not renewed in time, as nats-server does not answer or its disk is full; deciding \
                 nothing until it is"
            );
        }
        waited = true;
        if sure_rx.changed().await.is_err() {
            // The service ends.
            std::future::pending::<()>().await;
        }
    }
    waited
}

/// Whether this process leads now, over the store that it knows.
pub(crate) fn is_sure(sure: &Sure, bus: &Bus) -> bool {
    boottime() < sure.held.valid_until() && bus.connects() == sure.connects
}

/// What the leader's outputs go through.
struct Shell {
    calls: Calls,
    outbox: Outbox,
    publisher: Publisher,
    writer: Writer,
}

impl Shell {
    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Write { object, writes } => self.writer.write(object, writes),
                Output::Answer(call, result) => self.calls.answer(call, result),
                Output::Send { subject, payload } => self.outbox.send(subject, payload),
                Output::Watch(message) => self.outbox.send_watch(message),
                Output::Publish(event) => self.publisher.publish(*event),
                Output::Compact(markers) => self.writer.compact(markers),
            }
        }
    }
}
