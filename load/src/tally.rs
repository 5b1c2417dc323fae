//! What became of each pod, and whether the test may be reported at all.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::{Latency, Sample};
use crate::scenario::Scenario;
use crate::schedule::Arrival;

/// Latencies above this are counted as this.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;
/// Mistakes that are told one by one.
const TOLD_MAX: usize = 5;

/// A step of a pod's life, as the test sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The scheduler answered that it is stored.
    Created,
    /// It has a node.
    Bound,
    /// A watcher saw it Running and Ready.
    Running,
    /// The test asked for its end.
    DeletionDue,
    /// A watcher saw it go.
    Deleted,
}

/// The moments of one pod after the start; none of them is ever changed.
#[derive(Debug, Clone, Copy, Default)]
struct Pod {
    moments: [Option<Duration>; 5],
    /// A hash of the UID that was seen first, and of its node.
    uid: Option<u64>,
    node: Option<u64>,
}

/// All pods of a test.
#[derive(Debug)]
pub struct Tally {
    arrivals: Vec<Arrival>,
    pods: Vec<Pod>,
    counts: [u64; 5],
    /// The latencies so far of each moment that has one.
    latencies: [Histogram<u64>; 5],
    /// Pods that were made again under their name: another UID.
    replaced: u64,
    /// Invariants that were seen broken.
    broken: Vec<String>,
    broken_count: u64,
    failed_requests: BTreeMap<String, u64>,
}

impl Tally {
    /// Of a schedule.
    pub fn new(arrivals: Vec<Arrival>) -> Self {
        Self {
            pods: vec![Pod::default(); arrivals.len()],
            arrivals,
            counts: [0; 5],
            latencies: std::array::from_fn(|_| histogram()),
            replaced: 0,
            broken: Vec::new(),
            broken_count: 0,
            failed_requests: BTreeMap::new(),
        }
    }

    /// Notes a moment of the pod `index`; whether it is the first of its kind.
    pub fn note(&mut self, index: usize, moment: Moment, at: Duration) -> bool {
        let Some(pod) = self.pods.get_mut(index).filter(|pod| pod.moments[moment as usize].is_none()) else {
            return false;
        };
        pod.moments[moment as usize] = Some(at);
        self.counts[moment as usize] += 1;
        let from = match moment {
            Moment::Created | Moment::Bound | Moment::Running => Some(self.arrivals[index].at),
            Moment::Deleted => pod.moments[Moment::DeletionDue as usize],
            Moment::DeletionDue => None,
        };
        if let Some(from) = from {
            record(&mut self.latencies[moment as usize], at.saturating_sub(from));
        }
        true
    }

    /// Notes who a pod is and where it runs: hashes of its UID and its node. A UID never moves.
    pub fn identify(&mut self, index: usize, uid: u64, node: Option<u64>) {
        let Some(pod) = self.pods.get_mut(index) else { return };
        if pod.uid.is_some_and(|before| before != uid) {
            self.replaced += 1;
            (pod.uid, pod.node) = (Some(uid), node);
            return;
        }
        pod.uid = Some(uid);
        if let (Some(before), Some(node)) = (pod.node, node)
            && before != node
        {
            self.breaks(format!("pod {index} was bound twice under one UID"));
        } else if node.is_some() {
            pod.node = node;
        }
    }

    /// Counts a request that was refused or not answered, by its words.
    pub fn request_failed(&mut self, why: &str) {
        *self.failed_requests.entry(why.to_owned()).or_default() += 1;
    }

    fn breaks(&mut self, what: String) {
        self.broken_count += 1;
        if self.broken.len() < TOLD_MAX {
            self.broken.push(what);
        }
    }

    /// How many pods have come to `moment`.
    pub fn count(&self, moment: Moment) -> u64 {
        self.counts[moment as usize]
    }

    /// When the pod `index` came to `moment`.
    pub fn moment(&self, index: usize, moment: Moment) -> Option<Duration> {
        self.pods.get(index)?.moments[moment as usize]
    }

    /// All pods.
    pub fn asked(&self) -> u64 {
        self.arrivals.len() as u64
    }

    /// The schedule.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// Pods that were made again under another UID, as those of lost nodes are.
    pub fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Requests that failed and were sent again, by their words.
    pub fn failed_requests(&self) -> &BTreeMap<String, u64> {
        &self.failed_requests
    }

    /// Whether every pod has come as far as the scenario wants it to.
    pub fn is_complete(&self, scenario: &Scenario) -> bool {
        let pending = scenario.pods.iter().any(|template| template.stays_pending);
        if !pending {
            return self.count(Moment::Running) == self.asked();
        }
        (0..self.pods.len()).all(|index| self.has_arrived(index, scenario))
    }

    fn has_arrived(&self, index: usize, scenario: &Scenario) -> bool {
        let pending = scenario.pods[self.arrivals[index].template].stays_pending;
        self.moment(index, if pending { Moment::Created } else { Moment::Running }).is_some()
    }

    /// What is wrong with the work: pods that are missing, too many, or twice. `listed` are the pods that the cluster
    /// has at the end: their numbers and how often each is there. Empty: the figures may be believed.
    pub fn check(&self, scenario: &Scenario, listed: &BTreeMap<usize, u32>) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut tell = |what: &str, pods: Vec<usize>| {
            if !pods.is_empty() {
                let some: Vec<_> = pods.iter().take(TOLD_MAX).map(ToString::to_string).collect();
                let more = if pods.len() > TOLD_MAX { ", ..." } else { "" };
                wrong.push(format!("{} of {} pods {what}: {}{more}", pods.len(), self.asked(), some.join(", ")));
            }
        };
        let all = || 0..self.pods.len();
        let due = |index: usize| self.moment(index, Moment::DeletionDue).is_some();
        let pending = |index: usize| scenario.pods[self.arrivals[index].template].stays_pending;
        tell("were not created", all().filter(|i| self.moment(*i, Moment::Created).is_none()).collect());
        tell("never ran", all().filter(|i| !self.has_arrived(*i, scenario)).collect());
        tell(
            "should fit nowhere and ran",
            all().filter(|i| pending(*i) && self.moment(*i, Moment::Running).is_some()).collect(),
        );
        tell(
            "are lost: acknowledged, and not there at the end",
            all().filter(|i| !due(*i) && !listed.contains_key(i)).collect(),
        );
        tell("are there though they were seen to go", {
            all().filter(|i| self.moment(*i, Moment::Deleted).is_some() && listed.contains_key(i)).collect()
        });
        tell("are there more than once", listed.iter().filter(|(_, n)| **n > 1).map(|(i, _)| *i).collect());
        tell("are not of this test", listed.keys().copied().filter(|i| *i >= self.pods.len()).collect());
        wrong.extend(self.broken.iter().cloned());
        let untold = self.broken_count - self.broken.len() as u64;
        if untold > 0 {
            wrong.push(format!("and {untold} more"));
        }
        wrong
    }
}

// === Figures ===

/// A histogram of latencies, in microseconds.
pub fn histogram() -> Histogram<u64> {
    // Constant bounds that the crate takes.
    #[expect(clippy::expect_used, reason = "the bounds are constants")]
    Histogram::new_with_bounds(1, 3_600_000_000, DIGITS).expect("the bounds are sound")
}

/// Adds a latency.
pub fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    let micros = u64::try_from(latency.min(LATENCY_MAX).as_micros()).unwrap_or(u64::MAX);
    histogram.saturating_record(micros.max(1));
}

impl Tally {
    /// The latencies so far from when a pod was due, or its deletion, to `moment`: what the generator was late counts
    /// (no coordinated omission).
    pub fn latency(&self, moment: Moment) -> &Histogram<u64> {
        &self.latencies[moment as usize]
    }

    /// The latencies of all pods.
    pub fn latencies(&self) -> Vec<Latency> {
        vec![
            Latency::of("created", self.latency(Moment::Created)),
            Latency::of("bound", self.latency(Moment::Bound)),
            Latency::of("running", self.latency(Moment::Running)),
            Latency::of("created -> bound", &self.between(Moment::Created, Moment::Bound)),
            Latency::of("bound -> running", &self.between(Moment::Bound, Moment::Running)),
            Latency::of("deleted", self.latency(Moment::Deleted)),
        ]
    }

    fn between(&self, from: Moment, to: Moment) -> Histogram<u64> {
        let mut all = histogram();
        for pod in &self.pods {
            if let (Some(from), Some(to)) = (pod.moments[from as usize], pod.moments[to as usize]) {
                record(&mut all, to.saturating_sub(from));
            }
        }
        all
    }

    /// The latency until running of the pods of one phase of the arrivals.
    pub fn phase_latency(&self, phase: usize) -> Histogram<u64> {
        let mut all = histogram();
        for (index, arrival) in self.arrivals.iter().enumerate().filter(|(_, arrival)| arrival.phase == phase) {
            if let Some(running) = self.moment(index, Moment::Running) {
                record(&mut all, running.saturating_sub(arrival.at));
            }
        }
        all
    }

    /// When the first pod was due and the last one came to `moment`.
    pub fn span(&self, moment: Moment) -> Option<Duration> {
        let first = self.arrivals.iter().map(|arrival| arrival.at).min()?;
        let last = (0..self.pods.len()).filter_map(|index| self.moment(index, moment)).max()?;
        Some(last.saturating_sub(first))
    }

    /// The counts at this moment, for the curves.
    pub fn sample(&self, at: Duration) -> Sample {
        let due = self.arrivals.partition_point(|arrival| arrival.at <= at) as u64;
        Sample {
            seconds: at.as_secs_f64(),
            due,
            created: self.count(Moment::Created),
            bound: self.count(Moment::Bound),
            running: self.count(Moment::Running),
            deleted: self.count(Moment::Deleted),
            ..Sample::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;

    fn scenario(more: &str) -> Scenario {
        let text = format!(
            "name: a\narrival: [{{pattern: burst, count: 2}}]\npods: [{{spec: {{containers: [{{name: m, image: i}}]}}{more}}}]\n"
        );
        parse("s.yaml", &text).unwrap()
    }

    fn tally() -> Tally {
        let arrival = |ms| Arrival { at: Duration::from_millis(ms), template: 0, phase: 0 };
        Tally::new(vec![arrival(0), arrival(100)])
    }

    fn run(tally: &mut Tally, index: usize) {
        for (n, moment) in [Moment::Created, Moment::Bound, Moment::Running].into_iter().enumerate() {
            tally.note(index, moment, Duration::from_millis(110 + 10 * n as u64));
        }
    }

    #[test]
    fn latency_counts_from_when_a_pod_was_due() {
        let mut tally = tally();
        run(&mut tally, 0);
        run(&mut tally, 1);
        let running = &tally.latencies()[2];
        assert_eq!((running.name.as_str(), running.count), ("running", 2));
        assert!((29.9..30.1).contains(&running.p50_ms), "{}", running.p50_ms);
        assert!((129.0..131.0).contains(&running.max_ms), "the first one left late, and that counts");
    }

    #[test]
    fn the_work_is_checked() {
        type Case = (&'static str, &'static str, fn(&mut Tally), &'static [(usize, u32)], Option<&'static str>);
        let all = |tally: &mut Tally| (0..2).for_each(|index| run(tally, index));
        let cases: [Case; 8] = [
            ("all there", "", all, &[(0, 1), (1, 1)], None),
            ("one missing", "", all, &[(0, 1)], Some("1 of 2 pods are lost")),
            ("one twice", "", all, &[(0, 1), (1, 2)], Some("1 of 2 pods are there more than once")),
            ("a stranger", "", all, &[(0, 1), (1, 1), (7, 1)], Some("1 of 2 pods are not of this test")),
            ("one never ran", "", |t| run(t, 0), &[(0, 1), (1, 1)], Some("1 of 2 pods were not created")),
            (
                "bound twice",
                "",
                |t| {
                    (0..2).for_each(|index| run(t, index));
                    t.identify(0, 1, Some(1));
                    t.identify(0, 1, Some(2));
                },
                &[(0, 1), (1, 1)],
                Some("pod 0 was bound twice under one UID"),
            ),
            (
                "replaced",
                "",
                |t| {
                    (0..2).for_each(|index| run(t, index));
                    t.identify(0, 1, Some(1));
                    t.identify(0, 2, Some(2));
                },
                &[(0, 1), (1, 1)],
                None,
            ),
            ("should not run", ", staysPending: true", all, &[(0, 1), (1, 1)], Some("2 of 2 pods should fit nowhere")),
        ];
        for (name, more, happen, listed, expected) in cases {
            let mut tally = tally();
            happen(&mut tally);
            let wrong = tally.check(&scenario(more), &listed.iter().copied().collect());
            match expected {
                None => assert!(wrong.is_empty(), "{name}: {wrong:?}"),
                Some(start) => assert!(wrong.iter().any(|w| w.starts_with(start)), "{name}: {wrong:?}"),
            }
        }
    }

    #[test]
    fn a_moment_is_noted_once() {
        let mut tally = tally();
        assert!(tally.note(0, Moment::Bound, Duration::from_secs(1)));
        assert!(!tally.note(0, Moment::Bound, Duration::from_secs(2)));
        assert_eq!((tally.count(Moment::Bound), tally.moment(0, Moment::Bound)), (1, Some(Duration::from_secs(1))));
        assert!(!tally.note(9, Moment::Bound, Duration::ZERO), "of no pod");
    }
}
