//! Taking in what is applied: one object, or a list whose call is answered once each of its objects is.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use podbus_common::api::{ApplyResult, ItemReply, Status};
use serde_json::value::RawValue;

use super::Leader;
use super::ops::Op;
use crate::cluster::PodName;
use crate::intake::{self, Request};
use crate::output::Output;
use crate::plan::{CallId, Object};

/// So many names are generated until one is free.
const GENERATED_NAMES_MAX: usize = 8;
/// From here on calls are those about one object of a list.
const PARTS_FROM: CallId = 1 << 63;

/// A list that is applied.
pub(super) struct Listed {
    /// Of each object, in order: its answer, as JSON.
    answers: Vec<Bytes>,
    waiting: usize,
}

impl Leader {
    /// The answer comes once all of it is durable.
    pub(super) fn take_apply(&mut self, call: CallId, namespace: Option<&str>, payload: &[u8]) -> Result<(), Status> {
        let request = Request::read(payload)?;
        let Some(items) = request.items()? else { return self.take_object(call, namespace, &request, request.object) };
        self.listed.insert(call, Listed { answers: vec![Bytes::new(); items.len()], waiting: items.len() });
        for (index, item) in items.iter().enumerate() {
            self.parts_last += 1;
            let part = PARTS_FROM + self.parts_last;
            self.parts.insert(part, (call, index));
            if let Err(refused) = self.take_object(part, namespace, &request, item) {
                self.answer(part, Err(refused));
            }
        }
        self.answer_list(call);
        Ok(())
    }

    fn take_object(
        &mut self,
        call: CallId,
        namespace: Option<&str>,
        request: &Request<'_>,
        object: &RawValue,
    ) -> Result<(), Status> {
        let mut read = || intake::read(&mut self.known, namespace, request, object, || self.random.number());
        let mut asked = read()?;
        for _ in 0..GENERATED_NAMES_MAX {
            if asked.generated && self.cluster.kept(&PodName::of(&asked.pod)).is_some() {
                asked = read()?;
            }
        }
        let object = Object::Pod(PodName::of(&asked.pod));
        let uid = self.random.uid();
        self.submit(object, Op::Apply { call, asked: Arc::new(asked), uid });
        Ok(())
    }

    /// Answers a call, or what is one object of a list.
    pub(super) fn answer(&mut self, call: CallId, result: Result<Bytes, Status>) {
        let Some((whole, index)) = (call >= PARTS_FROM).then(|| self.parts.remove(&call)).flatten() else {
            return self.outputs.push(Output::Answer(call, result));
        };
        let Some(listed) = self.listed.get_mut(&whole) else { return };
        listed.answers[index] = result.unwrap_or_else(refusal);
        listed.waiting -= 1;
        self.answer_list(whole);
    }

    /// Answers a list of which no object waits any more.
    fn answer_list(&mut self, call: CallId) {
        if self.listed.get(&call).is_none_or(|listed| listed.waiting > 0) {
            return;
        }
        let Some(Listed { answers, .. }) = self.listed.remove(&call) else { return };
        // The answers are JSON already: those of single objects.
        let mut json = BytesMut::with_capacity(answers.iter().map(|answer| answer.len() + 1).sum::<usize>() + 16);
        json.put_slice(b"{\"items\":[");
        for (index, answer) in answers.iter().enumerate() {
            if index > 0 {
                json.put_u8(b',');
            }
            json.put_slice(answer);
        }
        json.put_slice(b"]}");
        self.outputs.push(Output::Answer(call, Ok(json.freeze())));
    }
}

fn refusal(status: Status) -> Bytes {
    let reply = ItemReply::<()> { result: None::<ApplyResult>, object: None, error: Some(Box::new(status)) };
    // A value with string keys is JSON.
    serde_json::to_vec(&reply).unwrap_or_default().into()
}
