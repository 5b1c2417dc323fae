//! What the leader hears: subscriptions become inputs of its one queue.

use futures::StreamExt as _;
use podbus_common::subject::{HEARTBEAT_ALL, STATUS_ALL, SYNC_ALL};
use podbus_common_bus::Bus;
use podbus_scheduler_leader::{Facts, Input, Message};
use tokio::sync::{mpsc, oneshot};

use crate::calls;

/// Inputs that wait for the leader; then the bus waits.
pub(crate) const INPUTS_MAX: usize = 8_192;

/// Something for the leader.
pub(crate) enum Heard {
    /// A call of the API: it gets a number first.
    Call(Box<async_nats::service::Request>),
    /// Somebody looks at the metrics.
    Look(oneshot::Sender<Facts>),
    /// All else.
    Input(Input),
}

/// Makes an input of a message; the text is the prefix of the watchers' subjects.
type Read = fn(&str, Message) -> Option<Input>;

/// Subscribes to what nodes and watchers say. `control`: the prefix of the watchers' subjects.
pub(crate) async fn subscribe(bus: &Bus, epoch: u64, control: &str, heard: &mpsc::Sender<Heard>) -> anyhow::Result<()> {
    let sources: [(String, Read); 4] = [
        (STATUS_ALL.to_owned(), |_, message| Input::read_status(message)),
        (SYNC_ALL.to_owned(), |_, message| Input::read_sync(message)),
        (HEARTBEAT_ALL.to_owned(), |_, message| Input::read_heartbeat(message)),
        (format!("{control}.*"), |control, message| Input::read_watcher(control, &message)),
    ];
    for (subject, read) in sources {
        let mut messages = bus.client().queue_subscribe(subject, calls::group(epoch)).await?;
        let (heard, control) = (heard.clone(), control.to_owned());
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let reply = message.reply.map(|reply| reply.to_string());
                let message = Message { subject: message.subject.to_string(), reply, payload: message.payload };
                // What cannot be read, or speaks for another node than its subject, is none of ours.
                let Some(input) = read(&control, message) else { continue };
                if heard.send(Heard::Input(input)).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}
