//! What a scheduler shows of itself: metrics by kube-scheduler's names, and whether it is ready.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use podbus_common::subject::{self, Verb};
use podbus_common_bus::Bus;
use podbus_common_telemetry::{
    Address, Counter, Endpoints, Histogram, Kind, Latencies, Registry, Samples, Server, latencies, latency,
    register_reader,
};
use podbus_scheduler_leader::{Facts, Input, Stats, WAIT_BOUNDS_MS};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::inputs::{Heard, INPUTS_MAX};
use crate::kube_state;
use crate::lead::is_sure;
use crate::lease::Sure;

/// A leader that does not answer so soon is shown as it was.
const FACTS_WAIT: Duration = Duration::from_secs(1);

/// What all tasks of a scheduler count into. Clones share it.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Shared>);

struct Shared {
    bus: OnceLock<Bus>,
    role: Mutex<Role>,
    facts: Mutex<Facts>,
    attempts: Latencies<1>,
    requests: Latencies<3>,
    inputs: Latencies<1>,
    writes: Histogram,
    events: Counter,
    events_dropped: Counter,
    messages_dropped: Counter,
}

/// What this process does.
#[derive(Clone)]
enum Role {
    /// It has not read the store whole.
    Starts,
    /// It has a warm snapshot and waits for the lease.
    Follows,
    /// It leads, as long as the lease is surely held.
    Leads { sure: watch::Receiver<Sure>, heard: mpsc::Sender<Heard> },
}

impl Telemetry {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            bus: OnceLock::new(),
            role: Mutex::new(Role::Starts),
            facts: Mutex::default(),
            attempts: latencies(),
            requests: latencies(),
            inputs: latencies(),
            writes: latency(),
            events: Counter::default(),
            events_dropped: Counter::default(),
            messages_dropped: Counter::default(),
        }))
    }

    /// Shows it at `address` from now on, to the end of the process.
    pub(crate) async fn serve(&self, address: &Address) -> anyhow::Result<()> {
        let server = Server::bind(address).await?;
        tracing::info!(address = %server.address(), "serving metrics");
        tokio::spawn(server.run(self.endpoints()));
        Ok(())
    }

    fn endpoints(&self) -> Endpoints {
        let (ask, page, nats, lease) = (self.clone(), self.clone(), self.clone(), self.clone());
        Endpoints::new(self.registry())
            .refreshed(move || ask.clone().ask_leader())
            .page("/metrics/kube-state", move || page.clone().kube_state())
            .ready("nats", move || match nats.0.bus.get() {
                Some(bus) if bus.is_connected() => Ok(()),
                _ => Err("not connected to nats-server".to_owned()),
            })
            .ready("lease", move || lease.has_role())
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let shared = Arc::clone(&self.0);
        podbus_common_bus::telemetry::register(&mut registry, move || shared.bus.get().cloned());
        let telemetry = self.clone();
        register_reader(&mut registry, move |samples| telemetry.read(samples));
        let shared = &self.0;
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Time for one pod to be placed or told why it waits, with its share of the call that brought it",
            shared.attempts.clone(),
        );
        registry.register(
            "podbus_scheduler_request_duration_seconds",
            "Time from a request of the API to its answer, the writes between them included",
            shared.requests.clone(),
        );
        registry.register(
            "podbus_scheduler_input_duration_seconds",
            "Time that the leader takes to decide on one input",
            shared.inputs.clone(),
        );
        registry.register(
            "podbus_scheduler_store_write_duration_seconds",
            "Time from an attempt to write to the store to its outcome",
            shared.writes.clone(),
        );
        registry.register("podbus_scheduler_events", "Events published", shared.events.clone());
        registry.register(
            "podbus_scheduler_events_dropped",
            "Events dropped because more happened than the bus took",
            shared.events_dropped.clone(),
        );
        registry.register(
            "podbus_scheduler_messages_dropped",
            "Messages to nodes and watchers dropped because the bus took no more",
            shared.messages_dropped.clone(),
        );
        registry
    }
}

// === What is told ===

impl Telemetry {
    pub(crate) fn has_bus(&self, bus: &Bus) {
        // Set once: a process has one.
        let _ = self.0.bus.set(bus.clone());
    }

    /// The store is being read from its beginning.
    pub(crate) fn starts(&self) {
        self.set_role(Role::Starts);
    }

    /// The snapshot is warm.
    pub(crate) fn follows(&self) {
        self.set_role(Role::Follows);
    }

    /// A term begins; `heard` is how the leader is asked for facts.
    pub(crate) fn leads(&self, sure: watch::Receiver<Sure>, heard: mpsc::Sender<Heard>) {
        self.set_role(Role::Leads { sure, heard });
    }

    /// An input was decided on.
    pub(crate) fn decided(&self, input: &'static str, took: Duration, before: &Stats, after: &Stats) {
        self.0.inputs.get_or_create(&[("input", input)]).observe(took.as_secs_f64());
        let (scheduled, unschedulable) =
            (after.scheduled - before.scheduled, after.unschedulable - before.unschedulable);
        let Some(each) = share(took, scheduled + unschedulable) else { return };
        for (result, count) in [("scheduled", scheduled), ("unschedulable", unschedulable)] {
            let attempts = self.0.attempts.get_or_create(&[("result", result)]);
            (0..count).for_each(|_| attempts.observe(each));
        }
    }

    /// A call of the API was answered; `code` as in HTTP.
    pub(crate) fn answered(&self, subject: &str, code: u16, took: Duration) {
        let (resource, verb) = match subject::parse_api(subject) {
            Some((_, "pods", verb)) => ("pods", verb_name(verb)),
            Some((_, "nodes", verb)) => ("nodes", verb_name(verb)),
            // A client may ask for anything; a label may not be anything.
            _ => ("other", "other"),
        };
        let code = match code {
            200..=299 => "2xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
        let labels = [("resource", resource), ("verb", verb), ("code", code)];
        self.0.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn wrote(&self, took: Duration) {
        self.0.writes.observe(took.as_secs_f64());
    }

    pub(crate) fn published(&self) {
        self.0.events.inc();
    }

    pub(crate) fn dropped_events(&self, events: u64) {
        self.0.events_dropped.inc_by(events);
    }

    pub(crate) fn dropped_message(&self) {
        self.0.messages_dropped.inc();
    }

    fn set_role(&self, role: Role) {
        *self.0.role.lock().unwrap_or_else(PoisonError::into_inner) = role; // replaced whole
    }

    fn role(&self) -> Role {
        self.0.role.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One attempt's share of the time, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a share of a time")]
fn share(took: Duration, attempts: u64) -> Option<f64> {
    (attempts > 0).then(|| took.as_secs_f64() / attempts as f64)
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Apply => "apply",
        Verb::Get => "get",
        Verb::List => "list",
        Verb::Watch => "watch",
        Verb::Delete => "delete",
        Verb::Explain => "explain",
        Verb::Plan => "plan",
    }
}

/// An input's name, for a label.
pub(crate) fn input_name(input: &Input) -> &'static str {
    match input {
        Input::Call { .. } => "call",
        Input::Sync { .. } => "sync",
        Input::Status { .. } => "status",
        Input::Heartbeat(_) => "heartbeat",
        Input::Watcher { .. } => "watcher",
        Input::Written { .. } => "written",
        Input::Compacted { .. } => "compacted",
        Input::Tick { .. } => "tick",
        Input::Resumed => "resumed",
    }
}

// === What is shown ===

impl Telemetry {
    fn has_role(&self) -> Result<(), String> {
        match self.role() {
            Role::Starts => Err("the store is not read yet".to_owned()),
            Role::Follows => Ok(()),
            Role::Leads { .. } if self.leads_surely() => Ok(()),
            Role::Leads { .. } => Err("the lease was not renewed in time".to_owned()),
        }
    }

    fn leads_surely(&self) -> bool {
        let (Role::Leads { sure, .. }, Some(bus)) = (self.role(), self.0.bus.get()) else { return false };
        let sure = sure.borrow().clone();
        is_sure(&sure, bus)
    }

    /// Asks a leader for its facts. Who does not lead has none.
    async fn ask_leader(self) {
        let Role::Leads { heard, .. } = self.role() else {
            return self.keep(Facts::default());
        };
        let (facts_tx, facts) = oneshot::channel();
        let asked = async {
            heard.send(Heard::Look(facts_tx)).await.ok()?;
            facts.await.ok()
        };
        if let Ok(Some(facts)) = timeout(FACTS_WAIT, asked).await {
            self.keep(facts);
        }
    }

    fn keep(&self, facts: Facts) {
        *self.0.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts; // replaced whole
    }

    async fn kube_state(self) -> Result<String, String> {
        match self.0.bus.get() {
            Some(bus) if self.leads_surely() => kube_state::page(bus.clone()).await,
            // Else whoever scrapes all schedulers would count each pod several times.
            _ => Ok(String::new()),
        }
    }

    fn read(&self, samples: &mut Samples) {
        let leads = self.leads_surely();
        let help = "Whether this process leads.";
        samples.family(Kind::Gauge, "leader_election_master_status", help);
        let labels = vec![("name".into(), "podbus-scheduler".to_owned())];
        samples.add("leader_election_master_status", labels, f64::from(u8::from(leads)));
        let waiting = match self.role() {
            Role::Leads { heard, .. } => INPUTS_MAX - heard.capacity(),
            _ => 0,
        };
        let facts = self.0.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        read_facts(&facts, waiting, samples);
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
fn read_facts(facts: &Facts, inputs_waiting: usize, samples: &mut Samples) {
    let Facts { epoch, stats, queue, pods, nodes_ready, nodes_not_ready } = facts;
    let mut family = |kind, name: &'static str, help: &'static str, values: &[(&'static str, &str, f64)]| {
        samples.family(kind, name, help);
        for (key, value, number) in values {
            let labels = if key.is_empty() { Vec::new() } else { vec![((*key).into(), (*value).to_owned())] };
            samples.add(name, labels, *number);
        }
    };
    let one = |number: u64| [("", "", number as f64)];
    let len = |number: usize| number as f64;
    family(
        Kind::Gauge,
        "scheduler_pending_pods",
        "Pods that wait for a place, by the part of the queue that they are in.",
        &[
            ("queue", "active", len(queue.active)),
            ("queue", "backoff", len(queue.backoff)),
            ("queue", "unschedulable", len(queue.unschedulable)),
        ],
    );
    family(
        Kind::Counter,
        "scheduler_schedule_attempts_total",
        "Pods that got a place, were told why they wait, or whose binding met another writer's.",
        &[
            ("result", "scheduled", stats.scheduled as f64),
            ("result", "unschedulable", stats.unschedulable as f64),
            ("result", "error", stats.conflicts as f64),
        ],
    );
    let help = "Pods for which others were asked to leave.";
    family(Kind::Counter, "scheduler_preemption_attempts_total", help, &one(stats.preemptions));
    let help = "Pods that were asked to leave for another one.";
    family(Kind::Counter, "podbus_scheduler_preemption_victims_total", help, &one(stats.victims));
    let help = "Agents told to sync because they hold something else than they should.";
    family(Kind::Counter, "podbus_scheduler_nudges_total", help, &one(stats.nudges));
    family(Kind::Gauge, "podbus_scheduler_leader_epoch", "Epoch of this leader; 0: it follows.", &one(*epoch));
    let help = "Pods in the store, as this leader knows them.";
    family(Kind::Gauge, "podbus_scheduler_pods", help, &[("", "", len(*pods))]);
    family(
        Kind::Gauge,
        "podbus_scheduler_nodes",
        "Nodes, by their Ready condition.",
        &[("ready", "true", len(*nodes_ready)), ("ready", "false", len(*nodes_not_ready))],
    );
    let help = "Inputs that wait for the leader.";
    family(Kind::Gauge, "podbus_scheduler_inputs_waiting", help, &[("", "", len(inputs_waiting))]);
    let name = "scheduler_pod_scheduling_sli_duration_seconds";
    samples.family(Kind::Histogram, name, "Time from a pod's creation until its binding is stored.");
    let bounds = WAIT_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1000.0).chain([f64::INFINITY]);
    let buckets = bounds.zip(stats.waits.counts).collect();
    samples.add_histogram(name, Vec::new(), stats.waits.sum_ms as f64 / 1000.0, buckets);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use podbus_common_telemetry::encode;

    use super::*;

    #[test]
    fn the_leaders_facts_have_kube_schedulers_names() {
        let mut facts = Facts { epoch: 3, pods: 7, nodes_ready: 2, ..Facts::default() };
        facts.stats.scheduled = 5;
        facts.stats.waits.counts[0] = 4;
        facts.queue.unschedulable = 2;
        let mut samples = Samples::default();
        read_facts(&facts, 1, &mut samples);
        let text = samples.into_text();
        for line in [
            "scheduler_pending_pods{queue=\"unschedulable\"} 2.0",
            "scheduler_schedule_attempts_total{result=\"scheduled\"} 5.0",
            "# TYPE scheduler_pod_scheduling_sli_duration_seconds histogram",
            "scheduler_pod_scheduling_sli_duration_seconds_bucket{le=\"0.005\"} 4",
            "scheduler_pod_scheduling_sli_duration_seconds_count 4",
            "podbus_scheduler_nodes{ready=\"true\"} 2.0",
            "podbus_scheduler_leader_epoch 3.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn attempts_of_one_input_share_its_time() {
        let telemetry = Telemetry::new();
        let after = Stats { scheduled: 3, unschedulable: 1, ..Stats::default() };
        telemetry.decided("call", Duration::from_millis(8), &Stats::default(), &after);
        let text = encode(&telemetry.registry());
        let name = "scheduler_scheduling_attempt_duration_seconds";
        for line in
            ["_count{result=\"scheduled\"} 3", "_sum{result=\"scheduled\"} 0.006", "_count{result=\"unschedulable\"} 1"]
        {
            assert!(text.lines().any(|found| found == format!("{name}{line}")), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_a_client_invents_is_no_label() {
        let telemetry = Telemetry::new();
        telemetry.answered("podbus.api.v1.default.pods.apply", 200, Duration::ZERO);
        telemetry.answered("podbus.api.v1.default.secrets.apply", 404, Duration::ZERO);
        telemetry.answered("podbus.api.v1.x", 404, Duration::ZERO);
        let text = encode(&telemetry.registry());
        let counts = text.lines().filter(|line| line.starts_with("podbus_scheduler_request_duration_seconds_count"));
        assert_eq!(
            counts.collect::<BTreeSet<_>>(),
            BTreeSet::from([
                "podbus_scheduler_request_duration_seconds_count{resource=\"other\",verb=\"other\",code=\"4xx\"} 2",
                "podbus_scheduler_request_duration_seconds_count{resource=\"pods\",verb=\"apply\",code=\"2xx\"} 1",
            ])
        );
    }

    #[test]
    fn a_process_is_not_ready_before_it_has_read_the_store() {
        let telemetry = Telemetry::new();
        assert!(telemetry.has_role().is_err());
        telemetry.follows();
        assert_eq!(telemetry.has_role(), Ok(()));
        telemetry.starts();
        assert!(telemetry.has_role().is_err());
    }
}
