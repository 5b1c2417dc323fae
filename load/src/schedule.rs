//! When which pod is due: decided before the test begins, so that nothing that happens in it can change it (open loop).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chance::Chance;
use crate::scenario::{PODS_MAX, Phase, Scenario};

/// The streams of chance.
const GAPS: u64 = 0;
const KINDS: u64 = 1;

/// A pod that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// After the start.
    pub at: Duration,
    /// Index of its kind.
    pub template: usize,
    /// Index of its phase.
    pub phase: usize,
}

/// A line of a trace: after how many seconds a pod arrives, and of which kind.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceLine {
    /// After the start of the phase.
    pub at: Duration,
    /// `None`: drawn.
    pub template: Option<String>,
}

/// Reads a trace: `seconds` or `seconds,kind` a line, in the order of time; `#` begins a comment.
///
/// # Errors
/// With the first bad line.
pub fn parse_trace(text: &str) -> Result<Vec<TraceLine>, String> {
    let mut lines = Vec::new();
    let mut last = Duration::ZERO;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (seconds, template) = line.split_once(',').map_or((line, None), |(s, t)| (s, Some(t.trim().to_owned())));
        let at = seconds.trim().parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let at = at.ok_or_else(|| format!("line {}: {seconds:?} are no seconds", number + 1))?;
        if at < last {
            return Err(format!("line {}: {seconds} s is before the line above it", number + 1));
        }
        last = at;
        lines.push(TraceLine { at, template });
    }
    Ok(lines)
}

/// Lays all arrivals out, in the order of time. `traces` are the files that the scenario names.
///
/// # Errors
/// When a trace is absent or names a kind that there is not, or when there are too many pods.
pub fn lay_out(scenario: &Scenario, traces: &BTreeMap<String, Vec<TraceLine>>) -> Result<Vec<Arrival>, String> {
    let (mut gaps, mut kinds) = (Chance::new(scenario.seed, GAPS), Chance::new(scenario.seed, KINDS));
    let mut arrivals = Vec::new();
    let mut start = Duration::ZERO;
    for (phase, asked) in scenario.arrival.iter().enumerate() {
        let mut add = |at: Duration, template: usize| arrivals.push(Arrival { at, template, phase });
        match asked {
            Phase::Burst { count } => (0..*count).for_each(|_| add(start, draw(scenario, &mut kinds))),
            Phase::Constant { rate, time } => {
                // By number, not by adding up gaps: no error builds up.
                let moments = (0u32..).map(|n| Duration::from_secs_f64(f64::from(n) / rate));
                moments.take_while(|at| at < time).for_each(|at| add(start + at, draw(scenario, &mut kinds)));
            }
            Phase::Poisson { rate, time } => {
                let mut at = gaps.exponential() / rate;
                while at < time.as_secs_f64() {
                    add(start + Duration::from_secs_f64(at), draw(scenario, &mut kinds));
                    at += gaps.exponential() / rate;
                }
            }
            Phase::Ramp { from, to, time } => {
                let moments = (0u32..).map_while(|n| ramp_moment(*from, *to, time.as_secs_f64(), f64::from(n)));
                moments.for_each(|at| add(start + Duration::from_secs_f64(at), draw(scenario, &mut kinds)));
            }
            Phase::Trace { file } => {
                for line in traces.get(file).ok_or_else(|| format!("the trace {file} was not read"))? {
                    let template = match &line.template {
                        None => draw(scenario, &mut kinds),
                        Some(name) => {
                            scenario.pods.iter().position(|template| template.name == *name).ok_or_else(|| {
                                format!("the trace {file} names the kind {name:?}, the scenario does not")
                            })?
                        }
                    };
                    add(start + line.at, template);
                }
            }
            Phase::Pause { .. } => {}
        }
        start += length(asked, traces);
        if arrivals.len() as u64 > PODS_MAX {
            return Err(format!("the scenario asks for more than {PODS_MAX} pods"));
        }
    }
    Ok(arrivals)
}

/// When the pod number `n` of a ramp is due, seconds: where the area below the rate is `n`. `None`: after its end.
fn ramp_moment(from: f64, to: f64, time: f64, n: f64) -> Option<f64> {
    let slope = (to - from) / time;
    let at = if slope == 0.0 { n / from } else { ((from * from + 2.0 * slope * n).max(0.0).sqrt() - from) / slope };
    let past = at >= time || (slope < 0.0 && from * from + 2.0 * slope * n < to * to);
    (!past).then_some(at)
}

fn length(phase: &Phase, traces: &BTreeMap<String, Vec<TraceLine>>) -> Duration {
    match phase {
        Phase::Burst { .. } => Duration::ZERO,
        Phase::Trace { file } => traces.get(file).and_then(|lines| lines.last()).map_or(Duration::ZERO, |line| line.at),
        Phase::Constant { time, .. }
        | Phase::Poisson { time, .. }
        | Phase::Ramp { time, .. }
        | Phase::Pause { time } => *time,
    }
}

fn draw(scenario: &Scenario, kinds: &mut Chance) -> usize {
    let total: u64 = scenario.pods.iter().map(|template| template.weight).sum();
    #[expect(clippy::cast_precision_loss, reason = "weights are small")]
    let mut at = kinds.unit() * total as f64;
    for (index, template) in scenario.pods.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "weights are small")]
        let weight = template.weight as f64;
        if at < weight {
            return index;
        }
        at -= weight;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::parse;

    fn scenario(arrival: &str) -> Scenario {
        let kind = |name: &str, weight: u32| {
            format!("- {{name: {name}, weight: {weight}, spec: {{containers: [{{name: main, image: i}}]}}}}\n")
        };
        let pods = kind("small", 3) + &kind("large", 1);
        parse("s.yaml", &format!("name: a\nseed: 7\narrival: [{arrival}]\npods:\n{pods}")).unwrap()
    }

    fn moments(arrival: &str) -> Vec<f64> {
        lay_out(&scenario(arrival), &BTreeMap::new()).unwrap().iter().map(|a| a.at.as_secs_f64()).collect()
    }

    #[test]
    fn arrivals_follow_their_pattern() {
        assert_eq!(moments("{pattern: burst, count: 3}"), [0.0; 3]);
        assert_eq!(moments("{pattern: constant, rate: 4, for: 1s}"), [0.0, 0.25, 0.5, 0.75]);
        assert_eq!(moments("{pattern: pause, for: 2s}, {pattern: burst, count: 1}"), [2.0]);
        let up = moments("{pattern: ramp, from: 10, to: 30, for: 10s}");
        assert_eq!(up.len(), 200, "the mean rate times the time");
        let (first, second) = (up.iter().filter(|at| **at < 5.0).count(), up.iter().filter(|at| **at >= 5.0).count());
        assert_eq!((first, second), (75, 125));
        let down = moments("{pattern: ramp, from: 30, to: 10, for: 10s}");
        assert!((199..=200).contains(&down.len()), "{}", down.len());
        assert!(down.is_sorted());
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_ones() {
        let moments = moments("{pattern: poisson, rate: 100, for: 100s}");
        assert!((9_700..10_300).contains(&moments.len()), "{}", moments.len());
        let gaps: Vec<_> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.9..1.1).contains(&(variance.sqrt() / mean)), "an exponential's deviation is its mean");
    }

    #[test]
    fn kinds_come_by_their_weights_and_the_same_for_the_same_seed() {
        let scenario = scenario("{pattern: burst, count: 10000}");
        let arrivals = lay_out(&scenario, &BTreeMap::new()).unwrap();
        let small = arrivals.iter().filter(|arrival| arrival.template == 0).count();
        assert!((7_300..7_700).contains(&small), "{small}");
        assert_eq!(arrivals, lay_out(&scenario, &BTreeMap::new()).unwrap());
    }

    #[test]
    fn a_trace_is_replayed_as_it_is_written() {
        let lines = parse_trace("# seconds,kind\n0\n0.5, large # a comment\n\n2\n").unwrap();
        let traces = BTreeMap::from([("t.csv".to_owned(), lines)]);
        let arrivals =
            lay_out(&scenario("{pattern: trace, file: t.csv}, {pattern: burst, count: 1}"), &traces).unwrap();
        assert_eq!(arrivals.iter().map(|a| a.at.as_secs_f64()).collect::<Vec<_>>(), [0.0, 0.5, 2.0, 2.0]);
        assert_eq!((arrivals[1].template, arrivals[3].phase), (1, 1));
        for (text, told) in [("5\n1\n", "line 2: 1 s is before"), ("x\n", "line 1: \"x\" are no seconds")] {
            assert!(parse_trace(text).unwrap_err().starts_with(told));
        }
        let unknown = BTreeMap::from([("t.csv".to_owned(), parse_trace("0,huge\n").unwrap())]);
        assert!(lay_out(&scenario("{pattern: trace, file: t.csv}"), &unknown).unwrap_err().contains("\"huge\""));
    }
}
