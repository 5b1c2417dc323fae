//! A person with a handful of pods: applies, changes and deletes them, asks again when no answer comes, and remembers
//! what was acknowledged.

use std::collections::BTreeMap;

use podbus_common::api::{ApplyRequest, DeleteRequest, Status};
use podbus_common::subject::{self, Verb};
use serde_json::{Value, json};

use crate::clock::{Micros, ms, seconds};
use crate::dice::Dice;
use crate::world::{Event, ToLeader, World};

/// How long an answer is waited for: longer than a call is under way at most.
const PATIENCE: Micros = seconds(3);
/// Pods that the person plays with.
const NAMES: usize = 6;

/// What must be so, by what was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acked {
    /// The name is gone, or on its way.
    Gone,
    /// The name is there.
    There,
    /// A request is under way: either.
    Unsure,
    /// The store went back in time since: either.
    Lost,
}

/// A request that is under way.
#[derive(Debug, Clone)]
enum Asked {
    Apply(Value),
    Delete(DeleteRequest),
}

/// One name.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) acked: Acked,
    asked: Option<Asked>,
    /// The request that carries `asked` now.
    request: u64,
    /// A pod of this name asked for a node, and may have been moved to another one since.
    named_node: bool,
    /// As it was applied last, to change it.
    applied: Option<Value>,
}

/// The person.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) names: Vec<Name>,
    requests: u64,
    dice: Dice,
    /// It only finishes what it began.
    pub(crate) rests: bool,
    /// The store went back in time: pods may be there that it never heard of again.
    store_went_back: bool,
    /// What is answered of requests up to this one may be lost already.
    requests_lost: u64,
}

impl Client {
    pub(crate) fn new(seed: u64) -> Self {
        let name = |number| Name {
            name: format!("pod-{number}"),
            acked: Acked::Gone,
            asked: None,
            request: 0,
            named_node: false,
            applied: None,
        };
        let names = (0..NAMES).map(name).collect();
        Self {
            names,
            requests: 0,
            dice: Dice::new(seed, "client"),
            rests: false,
            store_went_back: false,
            requests_lost: 0,
        }
    }

    /// What was acknowledged may be lost.
    pub(crate) fn store_went_back(&mut self) {
        self.store_went_back = true;
        self.requests_lost = self.requests;
        for name in self.names.iter_mut().filter(|name| name.acked != Acked::Unsure) {
            name.acked = Acked::Lost;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// What is acknowledged of each name.
    pub(crate) fn acked(&self) -> BTreeMap<&str, &Acked> {
        self.names.iter().map(|name| (name.name.as_str(), &name.acked)).collect()
    }

    /// A manifest that any of the nodes may run.
    fn manifest(&mut self, name: &str) -> Value {
        let policy = ["Always", "Always", "Always", "OnFailure", "Never"][self.dice.index(5)];
        let cpu = ["100m", "300m", "400m", "600m"][self.dice.index(4)];
        let mut manifest = manifest(name, policy, cpu, self.dice.within(1..4));
        if self.dice.permille(120) {
            // It goes around the scheduler, and the node must refuse what does not fit.
            manifest["spec"]["nodeName"] = json!("node-0");
        }
        manifest
    }
}

/// A pod of one container, or two where the CPU is small.
pub(crate) fn manifest(name: &str, policy: &str, cpu: &str, grace_seconds: u64) -> Value {
    let container = |name: &str| json!({"name": name, "image": "busybox:1", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}});
    let mut containers = vec![container("main")];
    if cpu == "100m" {
        containers.push(container("side"));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": containers, "restartPolicy": policy, "terminationGracePeriodSeconds": grace_seconds,
        },
    })
}

impl World {
    /// Applies a pod, as a script does.
    pub fn apply(&mut self, name: usize, policy: &str, cpu: &str) {
        let manifest = manifest(&self.client.names[name].name, policy, cpu, 1);
        self.ask_to_apply(name, manifest);
    }

    /// As [`apply`](Self::apply), to the first node whatever the scheduler thinks.
    pub fn apply_to_node(&mut self, name: usize, policy: &str, cpu: &str) {
        let mut manifest = manifest(&self.client.names[name].name, policy, cpu, 1);
        manifest["spec"]["nodeName"] = json!("node-0");
        self.ask_to_apply(name, manifest);
    }

    fn ask_to_apply(&mut self, name: usize, manifest: Value) {
        self.client.names[name].asked = Some(Asked::Apply(manifest));
        self.client.names[name].acked = Acked::Unsure;
        self.ask_leader(name);
    }

    /// Deletes a pod, as a script does.
    pub fn delete(&mut self, name: usize, force: bool) {
        let request = DeleteRequest { name: self.client.names[name].name.clone(), force, ..Default::default() };
        self.client.names[name].asked = Some(Asked::Delete(request));
        self.client.names[name].acked = Acked::Unsure;
        self.ask_leader(name);
    }

    /// The person does something with a name, unless a request of it is still under way.
    pub(crate) fn client_acts(&mut self, name: usize) {
        let client = &mut self.client;
        if client.rests {
            return;
        }
        let again = client.dice.within(ms(300)..seconds(12));
        if client.names[name].asked.is_none() {
            let there = client.names[name].acked == Acked::There;
            let there = there || client.names[name].acked == Acked::Lost && client.names[name].applied.is_some();
            let asked = match (there, client.dice.index(10)) {
                (true, 0..5) => {
                    let force = client.dice.permille(200);
                    Asked::Delete(DeleteRequest { name: client.names[name].name.clone(), force, ..Default::default() })
                }
                (true, _) => {
                    let mut manifest = client.names[name].applied.clone().unwrap_or_default();
                    let image = format!("busybox:{}", client.dice.within(1..4));
                    manifest["spec"]["containers"][0]["image"] = json!(image);
                    // It may be elsewhere by now.
                    if let Some(spec) = manifest["spec"].as_object_mut() {
                        spec.remove("nodeName");
                    }
                    Asked::Apply(manifest)
                }
                (false, _) => {
                    let own = client.names[name].name.clone();
                    Asked::Apply(client.manifest(&own))
                }
            };
            client.names[name].named_node |= matches!(&asked, Asked::Apply(m) if m["spec"]["nodeName"].is_string());
            client.names[name].asked = Some(asked);
            client.names[name].acked = Acked::Unsure;
            self.ask_leader(name);
        }
        self.after(again, Event::Client { name });
    }

    fn ask_leader(&mut self, name: usize) {
        let client = &mut self.client;
        client.requests += 1;
        let request = client.requests;
        client.names[name].request = request;
        let (verb, payload) = match &client.names[name].asked {
            Some(Asked::Apply(object)) => (Verb::Apply, serde_json::to_vec(&ApplyRequest::new(object))),
            Some(Asked::Delete(request)) => (Verb::Delete, serde_json::to_vec(request)),
            None => return,
        };
        self.note(|| format!("client      asks to {verb} pod-{name} (request {request})"));
        let subject = subject::api(Some("default"), "pods", verb);
        let message = Box::new(ToLeader::Call { request, subject, payload: payload.unwrap_or_default().into() });
        if let Some(span) = self.network.deliver_call(self.now) {
            self.after(span, Event::ToLeader { message });
        }
        self.after(PATIENCE, Event::ClientGivesUp { request });
    }

    /// No answer: the same request again.
    pub(crate) fn client_gives_up(&mut self, request: u64) {
        if let Some(name) = self.name_of(request) {
            self.ask_leader(name);
        }
    }

    fn name_of(&self, request: u64) -> Option<usize> {
        self.client.names.iter().position(|name| name.request == request && name.asked.is_some())
    }

    pub(crate) fn client_hears(&mut self, request: u64, result: Result<Value, Status>) {
        let Some(name) = self.name_of(request) else { return };
        let words = match &result {
            Ok(value) => value["object"]["metadata"]["uid"].to_string(),
            Err(status) => status.message.clone(),
        };
        self.note(|| format!("client      hears of pod-{name} (request {request}): {words}"));
        let store_went_back = self.client.store_went_back;
        let own = &mut self.client.names[name];
        if request <= self.client.requests_lost || result.as_ref().is_err_and(|status| status.code == 503) {
            return; // Its patience is not over: then it asks again.
        }
        let asked = own.asked.take();
        match (asked, result) {
            (Some(Asked::Apply(manifest)), Ok(reply)) => {
                // What is being deleted may be applied, and goes all the same.
                let going = !reply["object"]["metadata"]["deletionTimestamp"].is_null();
                // What came back with the store may have ended before, as its node will say.
                let may_have_ended = store_went_back && reply["result"] != "created";
                own.acked = if going {
                    Acked::Gone
                } else if may_have_ended {
                    Acked::Lost
                } else {
                    Acked::There
                };
                own.applied = Some(manifest);
            }
            // Its namesake is still there, and cannot become what is asked for.
            (Some(Asked::Apply(_)), Err(status)) if status.code == 422 => {
                own.acked = if store_went_back || own.named_node { Acked::Lost } else { Acked::Gone };
            }
            (Some(Asked::Apply(_)), Err(status)) => {
                self.invariants.broken.get_or_insert_with(|| format!("an apply was refused: {}", status.message));
            }
            (Some(Asked::Delete(_)), Err(status)) if status.code != 404 => {
                self.invariants.broken.get_or_insert_with(|| format!("a deletion was refused: {}", status.message));
            }
            // A node that has not spoken yet may still hold it.
            (Some(Asked::Delete(_)), Err(_)) if store_went_back => own.acked = Acked::Lost,
            (Some(Asked::Delete(_)), _) => own.acked = Acked::Gone,
            (None, _) => {}
        }
        self.invariants.acknowledged(&self.store, &self.client);
    }
}
