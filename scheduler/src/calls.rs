//! Calls of the API that wait for their answer: a NATS micro service, visible to `nats micro ls`.

use std::collections::HashMap;
use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE, Request, ServiceExt as _};
use bytes::Bytes;
use futures::StreamExt as _;
use podbus_common::api::Status;
use podbus_common::subject::{API_ALL, is_inbox};
use podbus_common_bus::Bus;
use podbus_scheduler_leader::{CallId, Input, unavailable};
use tokio::sync::{mpsc, watch};

use crate::clock::boottime;
use crate::inputs::Heard;
use crate::lease::Sure;
use crate::telemetry::Telemetry;

/// Calls that may wait at once; more are told to come back later.
const CALLS_MAX: usize = 20_000;

/// What is said while the lease cannot be renewed, which is a write as any other.
const NO_WRITES: &str = "the store takes no writes at the moment: nats-server does not answer, or its disk is full";

/// Starts the service: its requests become inputs. It ends when nobody hears them any more.
///
/// A leader whose lease ran out decides nothing, and tells who asks then.
pub(crate) async fn serve(bus: &Bus, sure_rx: watch::Receiver<Sure>, heard: mpsc::Sender<Heard>) -> anyhow::Result<()> {
    let (epoch, holder) = {
        let lease = &sure_rx.borrow().held.record;
        (lease.epoch, lease.holder.clone())
    };
    let metadata = HashMap::from([("holder".to_owned(), holder), ("epoch".to_owned(), epoch.to_string())]);
    let service = bus.client().service_builder().description("the API of podbus").metadata(metadata);
    let service = service.queue_group(group(epoch));
    let service = service.start("podbus-scheduler", env!("CARGO_PKG_VERSION")).await;
    let service = service.map_err(|error| anyhow::anyhow!("cannot serve the API: {error}"))?;
    let endpoint = service.endpoint_builder().name("api").add(API_ALL).await;
    let mut endpoint = endpoint.map_err(|error| anyhow::anyhow!("cannot serve the API: {error}"))?;
    tokio::spawn(async move {
        loop {
            let request = tokio::select! {
                biased;
                () = heard.closed() => break,
                // cancel-safe
                request = endpoint.next() => request,
            };
            let Some(request) = request else { break };
            // An answer elsewhere would be a write in the scheduler's name.
            if !request.message.reply.as_deref().is_some_and(is_inbox) {
                continue;
            }
            if sure_rx.borrow().held.is_overdue(boottime()) {
                answer(request, Err(unavailable(NO_WRITES))).await;
            } else if heard.send(Heard::Call(Box::new(request))).await.is_err() {
                break;
            }
        }
        // Dropped alone it would still answer, beside the leader that comes next. It never fails.
        let _ = service.stop().await;
    });
    Ok(())
}

/// Requests go to one leader of one term: a stopped process must not own a share of them.
pub(crate) fn group(epoch: u64) -> String {
    format!("scheduler-{epoch}")
}

/// Calls without an answer yet.
pub(crate) struct Calls {
    /// Each with the moment at which it was heard.
    waiting: HashMap<CallId, (Request, Instant)>,
    last: CallId,
    /// As many as there are calls.
    answers: mpsc::UnboundedSender<Answer>,
    telemetry: Telemetry,
}

/// An answer on its way.
type Answer = (Request, Result<Bytes, Status>);

impl Calls {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        let (answers, mut to_send) = mpsc::unbounded_channel::<Answer>();
        tokio::spawn(async move {
            while let Some((request, result)) = to_send.recv().await {
                answer(request, result).await;
            }
        });
        Self { waiting: HashMap::new(), last: 0, answers, telemetry }
    }

    /// Remembers a call and gives it a number; too many are answered at once.
    pub(crate) fn add(&mut self, request: Request) -> Option<Input> {
        if self.waiting.len() >= CALLS_MAX {
            self.send((request, Err(unavailable("too many requests wait for an answer"))));
            return None;
        }
        self.last += 1;
        let (subject, payload) = (request.message.subject.to_string(), request.message.payload.clone());
        self.waiting.insert(self.last, (request, Instant::now()));
        Some(Input::Call { call: self.last, subject, payload })
    }

    pub(crate) fn answer(&mut self, call: CallId, result: Result<Bytes, Status>) {
        if let Some((request, heard)) = self.waiting.remove(&call) {
            let code = result.as_ref().map_or_else(|status| status.code, |_| 200);
            self.telemetry.answered(&request.message.subject, code, heard.elapsed());
            self.send((request, result));
        }
    }

    fn send(&self, answer: Answer) {
        // The task ends with this only.
        let _ = self.answers.send(answer);
    }
}

/// A refusal has the headers of ADR-32 and a Status as its body.
async fn answer(request: Request, result: Result<Bytes, Status>) {
    let mut headers = HeaderMap::new();
    let body = match result {
        Ok(json) => json,
        Err(status) => {
            // A header is one line.
            headers.insert(NATS_SERVICE_ERROR, status.message.replace(['\r', '\n'], " "));
            headers.insert(NATS_SERVICE_ERROR_CODE, status.code.to_string());
            serde_json::to_vec(&status).unwrap_or_default().into()
        }
    };
    // Who asked may be gone: then nobody misses the answer.
    let _ = request.respond_with_headers(Ok(body), headers).await;
}
