//! Drives a test: sends each pod when it is due, whatever came back so far, and notes what is seen of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use podbus_common::api::{APPLY_BYTES_MAX, DeleteRequest, Detail, ListRequest};
use podbus_common_bus::api::{ApiError, Client};
use podbus_load::Scenario;
use podbus_load::chance::Chance;
use podbus_load::report::{FaultSeen, Latency, PhaseFigures, Report, Sample};
use podbus_load::scenario::{LABEL, Phase, named};
use podbus_load::schedule::Arrival;
use podbus_load::tally::{Moment, Tally};
use podbus_load::view::{Snapshot, Stage};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::cluster::{self, Seen, SeenPod, environment, identity, requests};
use super::display::Display;
use super::stop::Stop;
use crate::failure::{Failure, Outcome};

/// Requests under way at most. A pod that has to wait for a place is late, and that counts.
const IN_FLIGHT_MAX: usize = 4096;
/// Pods that are due together go in lists of so many.
const LIST_MAX: usize = 32;
/// What a pod has beyond its template, at most.
const POD_BYTES_MORE: usize = 1024;
/// What tasks tell the test may wait here.
const NEWS_MAX: usize = 65_536;
/// A request that failed is sent again after this.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// The curves have a point so often.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How long pods may take to go in the end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(300);
/// Changes of nodes that are told in a report at most.
const FAULTS_MAX: usize = 1000;
/// Those that a view is handed.
const FAULTS_SHOWN_MAX: usize = 256;
/// The stream of chance that lifetimes are drawn from.
const LIFETIMES_STREAM: u64 = 2;

/// A test that runs.
pub(super) struct Run<'a> {
    pub(super) api: Client,
    pub(super) scenario: &'a Scenario,
    /// The value of the pods' label.
    pub(super) id: &'a str,
    pub(super) display: &'a Display<'a>,
    pub(super) stop: &'a Stop,
}

enum News {
    Created { index: usize, at: Instant, uid: u64, node: Option<u64> },
    Failed(String),
}

struct NodeSeen {
    ready: bool,
    cpu_millis: i64,
    memory_bytes: i64,
    simulated: bool,
}

/// What a part of a test is doing.
struct Progress<'a> {
    run: &'a Run<'a>,
    label: String,
    tally: Tally,
    start: Instant,
    started: jiff::Timestamp,
    in_flight: Arc<AtomicU64>,
    places: Arc<Semaphore>,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    seen: mpsc::Receiver<Seen>,
    nodes: BTreeMap<String, NodeSeen>,
    /// Pods to delete, by when.
    ends: BinaryHeap<Reverse<(Instant, usize)>>,
    lifetimes: Chance,
    /// CPU and memory that bound pods ask for.
    asked_for: (i64, i64),
    requests: Vec<(i64, i64)>,
    samples: Vec<Sample>,
    faults: Vec<FaultSeen>,
    stage: Stage,
    /// When the stage is over at the latest.
    deadline: Instant,
    /// Ends with the test.
    _watch: AbortOnDropHandle<()>,
}

impl Run<'_> {
    /// Runs the whole scenario.
    ///
    /// # Errors
    /// When pods are missing, twice or too many, or when somebody has stopped it: then there is no report.
    pub(super) async fn all(&self, arrivals: Vec<Arrival>, keep: bool) -> Outcome<Report> {
        let id = self.id;
        self.display.note(&format!("run {id}: {} pods, labelled {LABEL}={id}", arrivals.len()));
        let mut parts = [None, None];
        let measured = tokio::select! {
            generator_cpu = self.measure(arrivals, &mut parts) => Some(generator_cpu?),
            () = self.stop.asked(1) => None,
        };
        let (stage, asked) = if measured.is_some() { (Stage::Deleting, 0) } else { (Stage::Stopping, 1) };
        let clean_up = async {
            for part in parts.iter_mut().rev().flatten() {
                part.clean_up(stage).await?;
            }
            Outcome::Ok(())
        };
        tokio::select! {
            biased;
            () = self.stop.asked(asked + 1) => self.display.note(&self.left()),
            () = std::future::ready(()), if keep => self.display.note(&self.left()),
            outcome = clean_up => outcome?,
        }
        let [_, test] = parts;
        let measured = measured.zip(test);
        let (generator_cpu, test) =
            measured.ok_or_else(|| Failure::local("the test was stopped, so there is no report"))?;
        Ok(Report { generator_cpu, ..test.report() })
    }

    /// Makes the pods that are there before and runs the test: two `parts`. The CPU that the generator used.
    async fn measure<'a>(&'a self, arrivals: Vec<Arrival>, parts: &mut [Option<Progress<'a>>; 2]) -> Outcome<f64> {
        let [before, test] = parts;
        if self.scenario.before > 0 {
            let one = Arrival { at: Duration::ZERO, template: 0, phase: 0 };
            let count = usize::try_from(self.scenario.before).map_err(Failure::local)?;
            before.insert(self.begin(vec![one; count], self.label_before(), Stage::Before).await).drive().await?;
            self.display.note(&format!("{count} pods are there before"));
        }
        let cpu = cpu_seconds();
        let test = test.insert(self.begin(arrivals, self.id.to_owned(), Stage::Arriving).await);
        test.drive().await?;
        Ok((cpu_seconds() - cpu) / test.start.elapsed().as_secs_f64())
    }

    fn label_before(&self) -> String {
        format!("{}-before", self.id)
    }

    /// How its pods go.
    fn left(&self) -> String {
        let selector = match self.scenario.before {
            0 => format!("{LABEL}={}", self.id),
            _ => format!("'{LABEL} in ({},{})'", self.id, self.label_before()),
        };
        format!("its pods are left: `podbus delete pods -n {} -l {selector}`", self.scenario.namespace)
    }

    async fn begin(&self, arrivals: Vec<Arrival>, label: String, stage: Stage) -> Progress<'_> {
        let (seen_tx, mut seen) = mpsc::channel(NEWS_MAX);
        let selector = format!("{LABEL}={label}");
        let watch = cluster::watch(self.api.clone(), self.scenario.namespace.clone(), selector, seen_tx);
        let watch = AbortOnDropHandle::new(tokio::spawn(watch));
        let mut nodes = BTreeMap::new();
        // Nodes come at once where there are any; then both watches have been opened.
        let settled = Instant::now() + Duration::from_secs(1);
        while let Ok(Some(first)) = tokio::time::timeout_at(settled, seen.recv()).await {
            note_node(&mut nodes, &first);
        }
        Progress {
            run: self,
            label,
            start: Instant::now(),
            started: jiff::Timestamp::now(),
            in_flight: Arc::default(),
            places: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            news: mpsc::channel(NEWS_MAX),
            seen,
            nodes,
            ends: BinaryHeap::new(),
            lifetimes: Chance::new(self.scenario.seed, LIFETIMES_STREAM),
            asked_for: (0, 0),
            requests: self.scenario.pods.iter().map(|template| requests(&template.pod)).collect(),
            samples: Vec::new(),
            faults: Vec::new(),
            tally: Tally::new(arrivals),
            stage,
            deadline: Instant::now(),
            _watch: watch,
        }
    }
}

fn note_node(nodes: &mut BTreeMap<String, NodeSeen>, seen: &Seen) -> Option<bool> {
    let Seen::Node { name, ready, cpu_millis, memory_bytes, simulated, .. } = seen else { return None };
    let new = NodeSeen { ready: *ready, cpu_millis: *cpu_millis, memory_bytes: *memory_bytes, simulated: *simulated };
    let before = nodes.insert(name.clone(), new);
    before.filter(|before| before.ready != *ready).map(|_| *ready)
}

// === The test itself ===

impl Progress<'_> {
    /// Sends all pods when they are due, waits until all have come as far as they should, and checks the work.
    async fn drive(&mut self) -> Outcome {
        self.deadline = self.last() + self.run.scenario.timeout;
        let generator = AbortOnDropHandle::new(tokio::spawn(self.generate()));
        // Who is too late is told by the check.
        self.until(|progress| progress.tally.is_complete(progress.run.scenario)).await;
        drop(generator);
        self.verify().await
    }

    /// When the last pod is due.
    fn last(&self) -> Instant {
        self.start + self.tally.arrivals().last().map_or(Duration::ZERO, |arrival| arrival.at)
    }

    /// Notes what comes until `done`; whether that was before the deadline.
    async fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let mut ticks = interval(SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next_end = self.ends.peek().map_or(self.deadline, |Reverse((at, _))| *at);
            // All are cancel-safe: receivers hold what they did not return.
            tokio::select! {
                Some(news) = self.news.1.recv() => self.handle_news(news),
                Some(seen) = self.seen.recv() => self.handle_seen(&seen),
                () = sleep_until(next_end) => self.delete_due(),
                _ = ticks.tick() => {
                    self.sample();
                    if done(self) {
                        return true;
                    }
                    if Instant::now() > self.deadline {
                        return false;
                    }
                }
            }
        }
    }

    /// The generator: knows the schedule and nothing of what comes back.
    fn generate(&self) -> impl Future<Output = ()> + Send + 'static {
        let (api, news, places) = (self.run.api.clone(), self.news.0.clone(), Arc::clone(&self.places));
        let (start, in_flight, label) = (self.start, Arc::clone(&self.in_flight), self.label.clone());
        let namespace = self.run.scenario.namespace.clone();
        let templates: Arc<Vec<_>> = Arc::new(self.run.scenario.pods.iter().map(|t| t.pod.clone()).collect());
        let arrivals = self.tally.arrivals().to_vec();
        let largest = templates.iter().map(|pod| pod.to_string().len()).max().unwrap_or(0) + POD_BYTES_MORE;
        let list_max = (APPLY_BYTES_MAX / largest).clamp(1, LIST_MAX);
        async move {
            let mut arrivals = arrivals.into_iter().enumerate().peekable();
            while let Some((index, arrival)) = arrivals.next() {
                let due = start + arrival.at;
                if due > Instant::now() {
                    sleep_until(due).await;
                }
                let Ok(mut place) = Arc::clone(&places).acquire_owned().await else { return };
                // What is due by now too goes with it, as `podbus apply` does it, as far as there is a place.
                let (mut list, now) = (vec![(index, arrival)], Instant::now());
                while list.len() < list_max
                    && let Some(next) = arrivals.next_if(|(_, next)| start + next.at <= now)
                {
                    list.push(next);
                }
                if list.len() > 1 {
                    let more = u32::try_from(list.len() - 1).unwrap_or(u32::MAX);
                    let Ok(more) = Arc::clone(&places).acquire_many_owned(more).await else { return };
                    place.merge(more);
                }
                let (api, news, in_flight) = (api.clone(), news.clone(), Arc::clone(&in_flight));
                let (templates, namespace, label) = (Arc::clone(&templates), namespace.clone(), label.clone());
                in_flight.fetch_add(list.len() as u64, Ordering::Relaxed);
                tokio::spawn(async move {
                    let pod = |(index, arrival): (usize, Arrival)| {
                        let name = format!("load-{label}-{index}");
                        (index, named(&templates[arrival.template], index as u64, &name, &label, &namespace))
                    };
                    let mut pods: Vec<(usize, Value)> = list.into_iter().map(pod).collect();
                    loop {
                        let objects = pods.iter().map(|(_, pod)| pod).collect();
                        let replies = api.apply_all(&namespace, "pods", objects, false, Detail::Brief).await;
                        let mut failed = Vec::new();
                        match replies {
                            Ok(replies) => {
                                let at = Instant::now();
                                for ((index, pod), reply) in pods.into_iter().zip(replies) {
                                    let told = match reply {
                                        Ok(reply) => {
                                            let (uid, node) = identity(&reply.object);
                                            News::Created { index, at, uid, node }
                                        }
                                        Err(error) => {
                                            failed.push((index, pod));
                                            News::Failed(words(&error))
                                        }
                                    };
                                    let created = matches!(told, News::Created { .. });
                                    // Nobody listens any more when the test is over.
                                    let _ = news.send(told).await;
                                    in_flight.fetch_sub(u64::from(created), Ordering::Relaxed);
                                }
                            }
                            Err(error) => {
                                failed = pods;
                                let _ = news.send(News::Failed(words(&error))).await;
                            }
                        }
                        if failed.is_empty() {
                            break;
                        }
                        pods = failed;
                        sleep(RETRY_AFTER).await;
                    }
                    drop(place);
                });
            }
        }
    }

    fn handle_news(&mut self, news: News) {
        match news {
            News::Created { index, at, uid, node } => {
                let at = at - self.start;
                self.tally.note(index, Moment::Created, at);
                self.tally.identify(index, uid, node);
                self.note_bound(index, node, at);
            }
            News::Failed(why) => self.tally.request_failed(&why),
        }
    }

    fn note_bound(&mut self, index: usize, node: Option<u64>, at: Duration) {
        if node.is_some() && self.tally.note(index, Moment::Bound, at) {
            let (cpu, memory) = self.requests_of(index);
            self.asked_for = (self.asked_for.0 + cpu, self.asked_for.1 + memory);
        }
    }

    fn requests_of(&self, index: usize) -> (i64, i64) {
        self.requests[self.tally.arrivals()[index].template]
    }

    fn handle_seen(&mut self, seen: &Seen) {
        match seen {
            Seen::Node { name, at, .. } => {
                if let Some(ready) = note_node(&mut self.nodes, seen)
                    && self.faults.len() < FAULTS_MAX
                {
                    let what = format!("{name} is {}", if ready { "Ready" } else { "NotReady" });
                    self.faults.push(FaultSeen { seconds: at.duration_since(self.start).as_secs_f64(), what });
                }
            }
            Seen::Pod { index, at, uid, node, running, gone } => {
                if *index >= self.tally.arrivals().len() {
                    return;
                }
                let (index, at) = (*index, at.saturating_duration_since(self.start));
                self.tally.identify(index, *uid, *node);
                self.note_bound(index, *node, at);
                if *running && self.tally.note(index, Moment::Running, at) {
                    // A watch may be faster than the answer to the request.
                    self.tally.note(index, Moment::Created, at);
                    if let Some(lifetime) = self.run.scenario.lifetime {
                        let end = self.start + at + lifetime.draw(&mut self.lifetimes);
                        self.ends.push(Reverse((end, index)));
                    }
                }
                let due = self.tally.moment(index, Moment::DeletionDue).is_some();
                if *gone && due && self.tally.note(index, Moment::Deleted, at) {
                    let (cpu, memory) = self.requests_of(index);
                    self.asked_for = (self.asked_for.0 - cpu, self.asked_for.1 - memory);
                }
            }
        }
    }

    /// Deletes the pods whose lifetime is over.
    fn delete_due(&mut self) {
        while let Some(Reverse((at, index))) = self.ends.peek().copied() {
            if at > Instant::now() {
                return;
            }
            self.ends.pop();
            self.delete(index, at, None);
        }
    }

    fn delete(&mut self, index: usize, due: Instant, grace_period_seconds: Option<u32>) {
        if !self.tally.note(index, Moment::DeletionDue, due - self.start) {
            return;
        }
        let (api, news, places) = (self.run.api.clone(), self.news.0.clone(), Arc::clone(&self.places));
        let (namespace, in_flight) = (self.run.scenario.namespace.clone(), Arc::clone(&self.in_flight));
        let name = format!("load-{}-{index}", self.label);
        tokio::spawn(async move {
            let Ok(_place) = places.acquire_owned().await else { return };
            in_flight.fetch_add(1, Ordering::Relaxed);
            loop {
                let request = DeleteRequest { name: name.clone(), grace_period_seconds, ..DeleteRequest::default() };
                match api.delete(&namespace, "pods", &request).await {
                    Ok(_) => break,
                    Err(ApiError::Refused(status)) if status.code == 404 => break,
                    Err(error) => drop(news.send(News::Failed(words(&error))).await),
                }
                sleep(RETRY_AFTER).await;
            }
            in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "shares, for a plot")]
    fn sample(&mut self) {
        let at = self.start.elapsed();
        let ready = || self.nodes.values().filter(|node| node.ready);
        let (cpu, memory): (i64, i64) = (ready().map(|n| n.cpu_millis).sum(), ready().map(|n| n.memory_bytes).sum());
        let sample = Sample {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            cpu_share: self.asked_for.0 as f64 / cpu.max(1) as f64,
            memory_share: self.asked_for.1 as f64 / memory.max(1) as f64,
            nodes_ready: ready().count() as u64,
            ..self.tally.sample(at)
        };
        let every = self.run.display.shows_every().as_secs_f64();
        let is_due =
            self.samples.last().is_none_or(|last| (last.seconds / every).trunc() < (sample.seconds / every).trunc());
        self.samples.push(sample);
        if is_due {
            self.run.display.show(self.snapshot());
        }
    }

    fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let (stage, until) = match self.stage {
            Stage::Arriving if now < self.last() => (Stage::Arriving, self.last()),
            Stage::Arriving => (Stage::Waiting, self.deadline),
            other => (other, self.deadline),
        };
        Snapshot {
            name: self.run.scenario.name.clone(),
            run: self.label.clone(),
            stage,
            left: until.saturating_duration_since(now),
            nodes: self.nodes.len() as u64,
            faults: self.faults[self.faults.len().saturating_sub(FAULTS_SHOWN_MAX)..].to_vec(),
            ..Snapshot::of(&self.tally, &self.samples)
        }
    }

    /// Compares what the cluster has with what was asked.
    async fn verify(&mut self) -> Outcome {
        let label_selector = format!("{LABEL}={}", self.label);
        let mut request = ListRequest { label_selector, detail: Detail::Brief, ..ListRequest::default() };
        let mut listed = BTreeMap::new();
        // A page at a time: a million pods as JSON would need more memory than the cluster.
        loop {
            let namespace = Some(self.run.scenario.namespace.as_str());
            let page = self.run.api.list_page::<SeenPod>(namespace, "pods", &request).await?;
            for pod in &page.items {
                *listed.entry(pod.index().unwrap_or(usize::MAX)).or_default() += 1;
            }
            request.continue_token = page.metadata.continue_token;
            if request.continue_token.is_empty() {
                break;
            }
        }
        let wrong = self.tally.check(self.run.scenario, &listed);
        if wrong.is_empty() {
            return Ok(());
        }
        let failure = Failure::local("the work was not done, so there is no report");
        let failure = self.tally.failed_requests().keys().fold(failure, Failure::because);
        let hint =
            format!("look at the pods with `podbus get pods -l {LABEL}={0}`; delete them the same way", self.label);
        Err(wrong.iter().fold(failure, Failure::because).hint(hint))
    }

    /// Deletes all that is left and waits until it is gone.
    async fn clean_up(&mut self, stage: Stage) -> Outcome {
        (self.stage, self.deadline) = (stage, Instant::now() + CLEAN_UP_MAX);
        // Of a test that was stopped: a request under way may yet make its pod.
        self.until(|progress| progress.in_flight.load(Ordering::Relaxed) == 0 && progress.news.1.is_empty()).await;
        let now = Instant::now();
        for index in 0..self.tally.arrivals().len() {
            if self.tally.moment(index, Moment::Created).is_some() {
                self.delete(index, now, Some(0));
            }
        }
        let left = |progress: &Self| progress.tally.count(Moment::DeletionDue) - progress.tally.count(Moment::Deleted);
        if self.until(|progress| left(progress) == 0).await {
            return Ok(());
        }
        Err(Failure::local(format!("{} pods are not gone {CLEAN_UP_MAX:?} after their deletion", left(self))))
    }

    fn report(&self) -> Report {
        let scenario = self.run.scenario;
        let rate = |moment: Moment| {
            let seconds = self.tally.span(moment)?.as_secs_f64().max(1e-3);
            #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
            let count = self.tally.count(moment) as f64;
            Some(count / seconds)
        };
        let moments = [("created", Moment::Created), ("bound", Moment::Bound), ("running", Moment::Running)];
        let latencies = self.tally.latencies();
        let missed = scenario.expect.iter().filter_map(|expected| {
            let got = latencies.iter().find(|l| l.name == expected.latency)?.percentile(expected.percentile);
            let at_most = expected.at_most.as_secs_f64() * 1e3;
            let (latency, percentile) = (&expected.latency, expected.percentile);
            (got > at_most).then(|| format!("p{percentile} of {latency} is {got:.1} ms, at most {at_most:.1} ms"))
        });
        let simulated = self.nodes.values().filter(|node| node.simulated).count();
        let mut environment = environment(&self.run.api);
        environment.insert("nodes".to_owned(), format!("{}, {simulated} of them simulated", self.nodes.len()));
        Report {
            name: scenario.name.clone(),
            started: self.started.to_string(),
            environment,
            asked: self.tally.asked(),
            before: scenario.before,
            ran: self.tally.count(Moment::Running),
            replaced: self.tally.replaced(),
            failed_requests: self.tally.failed_requests().clone(),
            throughput: moments.iter().filter_map(|(name, m)| Some(((*name).to_owned(), rate(*m)?))).collect(),
            missed: missed.collect(),
            phases: scenario.arrival.iter().enumerate().map(|(index, phase)| self.phase(index, phase)).collect(),
            samples: self.samples.clone(),
            faults: self.faults.clone(),
            latencies,
            ..Report::default()
        }
    }

    fn phase(&self, index: usize, phase: &Phase) -> PhaseFigures {
        let own: Vec<_> = self.tally.arrivals().iter().filter(|arrival| arrival.phase == index).collect();
        let seconds = own.first().zip(own.last()).map_or(0.0, |(first, last)| (last.at - first.at).as_secs_f64());
        let (pattern, offered) = match phase {
            Phase::Burst { count } => (format!("burst of {count}"), 0.0),
            Phase::Constant { rate, time } => (format!("constant {rate}/s for {time:?}"), *rate),
            Phase::Poisson { rate, time } => (format!("poisson {rate}/s for {time:?}"), *rate),
            Phase::Ramp { from, to, time } => {
                (format!("ramp {from}/s to {to}/s in {time:?}"), f64::midpoint(*from, *to))
            }
            #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
            Phase::Trace { file } => (format!("trace {file}"), own.len() as f64 / seconds.max(1e-3)),
            Phase::Pause { time } => (format!("pause of {time:?}"), 0.0),
        };
        let latency = Latency::of("running", &self.tally.phase_latency(index));
        PhaseFigures {
            pattern,
            pods: own.len() as u64,
            offered_per_second: offered,
            p50_ms: latency.p50_ms,
            p99_ms: latency.p99_ms,
        }
    }
}

/// An error's words, without what differs from pod to pod.
fn words(error: &ApiError) -> String {
    match error {
        ApiError::Refused(status) => format!("{} ({})", status.reason, status.code),
        ApiError::NoScheduler { .. } => "no scheduler answered".to_owned(),
        ApiError::Timeout { .. } => "no answer in time".to_owned(),
        ApiError::Denied(_) => "this key has no right to ask that".to_owned(),
        ApiError::Decode { .. } => "the answer cannot be read".to_owned(),
        ApiError::Bus { .. } => "the bus could not be reached".to_owned(),
    }
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one process")]
    let micros = micros as f64;
    micros / 1e6
}
