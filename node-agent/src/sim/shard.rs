//! Some of the nodes on one connection: one task that carries their messages and wakes those whose time has come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::{FuturesUnordered, SelectAll, select_all};
use futures::{FutureExt as _, Stream, StreamExt as _};
use podbus_common::proto::{StatusReply, SyncReply};
use podbus_common::subject;
use podbus_common_bus::Bus;
use podbus_node_agent_core::agent::{Now, Refused};
use prost::Message as _;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::node::{Heard, Message, Node};
use super::script::Step;
use crate::worker::now as wall;

/// How long a request may take, as that of a real agent.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the counts are brought up to date.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What the nodes of a shard do, for a person.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) registered: AtomicUsize,
    pub(super) running: AtomicUsize,
    pub(super) refused: AtomicUsize,
}

/// What a shard is made of.
pub(super) struct Parts {
    pub(super) bus: Bus,
    /// Each with the moment of its start.
    pub(super) nodes: Vec<(Instant, Node)>,
    /// What faults do, and when: the nodes by their place in `nodes`, in the order of time.
    pub(super) steps: VecDeque<(Instant, usize, Step)>,
    pub(super) counts: Arc<Counts>,
}

type Assignments = SelectAll<futures::stream::BoxStream<'static, (usize, Bytes)>>;

/// Nodes and what they wait for.
pub(super) struct Shard {
    bus: Bus,
    nodes: Vec<Node>,
    /// When each node was last said to be due; an entry of `due` that says otherwise is old.
    scheduled: Vec<Option<Instant>>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    steps: VecDeque<(Instant, usize, Step)>,
    requests: FuturesUnordered<BoxFuture<'static, (usize, Heard)>>,
    counts: Arc<Counts>,
    counted: Instant,
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: wall() }
}

impl Shard {
    /// Puts a shard together; nothing runs yet.
    pub(super) fn new(parts: Parts) -> Self {
        let mut shard = Self {
            bus: parts.bus,
            scheduled: vec![None; parts.nodes.len()],
            nodes: Vec::with_capacity(parts.nodes.len()),
            due: BinaryHeap::new(),
            steps: parts.steps,
            requests: FuturesUnordered::new(),
            counts: parts.counts,
            counted: Instant::now(),
        };
        for (index, (starts, node)) in parts.nodes.into_iter().enumerate() {
            shard.nodes.push(node);
            shard.scheduled[index] = Some(starts);
            shard.due.push(Reverse((starts, index)));
        }
        shard
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// When it cannot subscribe.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut assignments = self.subscribe().await?;
        loop {
            self.take_steps().await;
            self.advance().await;
            self.count();
            let next = [self.due.peek().map(|Reverse((at, _))| *at), self.steps.front().map(|(at, ..)| *at)];
            let wake_at = next.into_iter().flatten().chain([self.counted + COUNT_EVERY]).min();
            let wake_at = OptionFuture::from(wake_at.map(|at| sleep_until(at.into())));
            // All are cancel-safe: streams hold what they did not return.
            let (index, heard) = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(answer) = self.requests.next() => answer,
                Some((index, payload)) = assignments.next() => (index, Heard::Assignment(payload)),
                Some(()) = wake_at => continue,
            };
            let result = self.nodes[index].hear(heard, now());
            self.after(index, result).await;
        }
    }

    async fn subscribe(&mut self) -> anyhow::Result<Assignments> {
        let mut streams = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let subscriber = self.bus.client().subscribe(subject::assign(node.name())).await?;
            streams.push(of_node(index, subscriber).boxed());
        }
        self.bus.client().flush().await?;
        Ok(select_all(streams))
    }

    async fn take_steps(&mut self) {
        while let Some(&(_, index, step)) = self.steps.front().filter(|(at, ..)| *at <= Instant::now()) {
            self.steps.pop_front();
            let node = &mut self.nodes[index];
            tracing::info!(node = node.name(), ?step, "fault");
            match step {
                Step::Die => node.die(),
                Step::Boot => node.boot(now()),
                Step::CutOff(cut_off) => node.cut_off(cut_off),
                Step::SlowDown(factor) => node.slow_down(factor),
            }
            self.after(index, Ok(())).await;
        }
    }

    /// Wakes the nodes whose time has come.
    async fn advance(&mut self) {
        let started = Instant::now();
        while let Some(&Reverse((at, index))) = self.due.peek() {
            // What becomes due meanwhile comes with the next round, behind what the bus brought.
            if at > started {
                return;
            }
            self.due.pop();
            if self.scheduled[index] != Some(at) {
                continue;
            }
            self.scheduled[index] = None;
            let result = self.nodes[index].advance(now());
            self.after(index, result).await;
        }
    }

    /// Sends what a node wants sent and notes when it is due.
    async fn after(&mut self, index: usize, result: Result<(), Refused>) {
        if let Err(error) = result {
            tracing::error!(node = self.nodes[index].name(), %error, "the node is gone");
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            self.nodes[index].die();
        }
        for message in self.nodes[index].messages() {
            self.send(index, message).await;
        }
        let due = self.nodes[index].due();
        let earlier = due.filter(|at| self.scheduled[index].is_none_or(|scheduled| *at < scheduled));
        if let Some(at) = earlier {
            self.scheduled[index] = Some(at);
            self.due.push(Reverse((at, index)));
        }
    }

    async fn send(&mut self, index: usize, message: Message) {
        let (bus, node) = (self.bus.clone(), self.nodes[index].name());
        match message {
            Message::Heartbeat(heartbeat) => {
                if !bus.is_connected() {
                    return; // Late it would say what is no longer so.
                }
                let payload = heartbeat.encode_to_vec().into();
                if let Err(error) = bus.client().publish(subject::heartbeat(node), payload).await {
                    tracing::debug!(%error, "a heartbeat was not sent");
                }
            }
            Message::Sync(pages) => {
                let subject = subject::sync(node);
                let exchange = async move {
                    let mut reply = None;
                    for page in pages {
                        reply = bus.request_proto::<_, SyncReply>(&subject, &page, REQUEST_TIMEOUT).await.ok();
                        if reply.is_none() {
                            break;
                        }
                    }
                    (index, Heard::Synced(reply.map(Box::new)))
                };
                self.requests.push(exchange.boxed());
            }
            Message::Status(status) => {
                let subject = subject::status(node);
                let exchange = async move {
                    let reply = bus.request_proto::<_, StatusReply>(&subject, &*status, REQUEST_TIMEOUT).await;
                    (index, Heard::StatusTaken(reply.ok()))
                };
                self.requests.push(exchange.boxed());
            }
        }
    }

    fn count(&mut self) {
        if self.counted.elapsed() < COUNT_EVERY {
            return;
        }
        self.counted = Instant::now();
        let registered = self.nodes.iter().filter(|node| node.is_registered()).count();
        self.counts.registered.store(registered, Ordering::Relaxed);
        self.counts.running.store(self.nodes.iter().map(Node::running).sum(), Ordering::Relaxed);
    }
}

fn of_node(index: usize, subscriber: async_nats::Subscriber) -> impl Stream<Item = (usize, Bytes)> {
    subscriber.map(move |message| (index, message.payload))
}
