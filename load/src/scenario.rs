//! What a scenario file asks for, read strictly.

use std::time::Duration;

use podbus_common::manifest::Fault;
use podbus_common::manifest::document::{self, Document};
use podbus_common::manifest::schema::{Kind, METADATA, Object, POD_SPEC, Range};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::chance::{Distribution, duration};

/// Pods of one scenario at most: their moments are kept in memory.
pub const PODS_MAX: u64 = 5_000_000;
/// Pods a second at most.
const RATE_MAX: f64 = 1e6;
/// How long pods are waited for after the last arrival, unless the scenario says otherwise.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A load test.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Of the report.
    pub name: String,
    /// Chance begins here.
    pub seed: u64,
    /// Where its pods are.
    pub namespace: String,
    /// Pods that are there before anything is measured.
    pub before: u64,
    /// How pods arrive, one after the other.
    pub arrival: Vec<Phase>,
    /// What kinds of pods, drawn by their weights.
    pub pods: Vec<Template>,
    /// How long after a pod runs it is deleted; `None`: it stays to the end.
    pub lifetime: Option<Distribution>,
    /// How long pods are waited for after the last arrival.
    pub timeout: Duration,
    /// What the figures must be, or the test has failed.
    pub expect: Vec<Expectation>,
}

/// A part of the arrivals.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// All at once.
    Burst {
        /// How many.
        count: u64,
    },
    /// Evenly.
    Constant {
        /// A second.
        rate: f64,
        /// How long.
        time: Duration,
    },
    /// Independently of each other: exponential gaps.
    Poisson {
        /// A second, in the mean.
        rate: f64,
        /// How long.
        time: Duration,
    },
    /// Faster and faster, or slower.
    Ramp {
        /// A second, at first.
        from: f64,
        /// A second, in the end.
        to: f64,
        /// How long.
        time: Duration,
    },
    /// As a file says.
    Trace {
        /// Relative to the scenario.
        file: String,
    },
    /// Nobody.
    Pause {
        /// How long.
        time: Duration,
    },
}

/// One kind of pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Of the report and of traces.
    pub name: String,
    /// How often it is drawn, relative to the others.
    pub weight: u64,
    /// A pod without a name.
    pub pod: Value,
    /// It fits nowhere, and that is what is tested.
    pub stays_pending: bool,
}

/// A bound for a percentile of a latency.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// `created`, `bound`, `running` or `deleted`.
    pub latency: String,
    /// 50, 90, 95, 99, 99.9.
    pub percentile: f64,
    /// At most.
    pub at_most: Duration,
}

/// Latencies that a scenario may bound.
const LATENCIES: [&str; 4] = ["created", "bound", "running", "deleted"];

static SCENARIO: Object = Object {
    fields: &[
        ("name", Kind::Text),
        ("seed", COUNT),
        ("namespace", Kind::Text),
        ("before", COUNT),
        ("arrival", Kind::List(&Kind::Object(&PHASE))),
        ("pods", Kind::List(&Kind::Object(&TEMPLATE))),
        ("lifetime", Kind::Scalar),
        ("timeout", Kind::Scalar),
        ("expect", Kind::List(&Kind::Object(&EXPECTATION))),
    ],
    unsupported: &[],
};
static PHASE: Object = Object {
    fields: &[
        ("pattern", Kind::OneOf(&["burst", "constant", "poisson", "ramp", "trace", "pause"])),
        ("count", COUNT),
        ("rate", Kind::Scalar),
        ("from", Kind::Scalar),
        ("to", Kind::Scalar),
        ("for", Kind::Scalar),
        ("file", Kind::Text),
    ],
    unsupported: &[],
};
static TEMPLATE: Object = Object {
    fields: &[
        ("name", Kind::Text),
        ("weight", COUNT),
        ("metadata", Kind::Object(&METADATA)),
        ("spec", Kind::Object(&POD_SPEC)),
        ("staysPending", Kind::Bool),
    ],
    unsupported: &[],
};
static EXPECTATION: Object = Object {
    fields: &[("latency", Kind::OneOf(&LATENCIES)), ("percentile", Kind::Scalar), ("atMost", Kind::Scalar)],
    unsupported: &[],
};
const COUNT: Kind =
    Kind::Integer(Range { min: 0, max: i64::MAX, message: "must be a whole number that is not negative" });

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    name: String,
    seed: u64,
    namespace: Option<String>,
    before: u64,
    arrival: Vec<WrittenPhase>,
    pods: Vec<WrittenTemplate>,
    lifetime: Option<String>,
    timeout: Option<String>,
    expect: Vec<WrittenExpectation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenPhase {
    pattern: Option<String>,
    count: Option<u64>,
    rate: Option<String>,
    from: Option<String>,
    to: Option<String>,
    #[serde(rename = "for")]
    time: Option<String>,
    file: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenTemplate {
    name: Option<String>,
    weight: Option<u64>,
    metadata: Option<Value>,
    spec: Value,
    stays_pending: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenExpectation {
    latency: Option<String>,
    percentile: Option<String>,
    at_most: Option<String>,
}

/// A field and what is wrong with it.
type Wrong = (&'static str, String);

/// Reads a scenario.
///
/// # Errors
/// With every mistake, each with file, line and field.
pub fn parse(file: &str, text: &str) -> Result<Scenario, Vec<Fault>> {
    let document: Document<Written> = document::read(file, text, &SCENARIO)?;
    let written = &document.content;
    let mut mistakes = Vec::new();
    let mut wrong = |path: &str, message: &str| mistakes.push(document.fault(path, message));
    if written.name.is_empty() {
        wrong("name", "Required value");
    }
    let namespace = written.namespace.clone().unwrap_or_else(|| "default".to_owned());
    if written.arrival.is_empty() {
        wrong("arrival", "Required value: say when pods arrive");
    }
    let arrival = read_each("arrival", &written.arrival, read_phase, &mut wrong);
    let asked = arrival.iter().map(Phase::pods).fold(written.before, u64::saturating_add);
    if asked > PODS_MAX {
        wrong("arrival", &format!("asks for {asked} pods; a scenario may have {PODS_MAX}"));
    }
    let mut pods = Vec::new();
    if written.pods.is_empty() {
        wrong("pods", "Required value: say what kinds of pods");
    }
    for (index, template) in written.pods.iter().enumerate() {
        let read = read_template(template, index);
        for error in
            podbus_common::manifest::check(&named(&read.pod, 0, "probe", "probe", &namespace)).err().unwrap_or_default()
        {
            wrong(&format!("pods[{index}].{}", error.path), &error.message);
        }
        pods.push(read);
    }
    if !pods.is_empty() && pods.iter().all(|template| template.weight == 0) {
        wrong("pods", "at least one kind must have a weight above 0");
    }
    let lifetime = read_one("lifetime", written.lifetime.as_deref(), str::parse::<Distribution>, &mut wrong);
    let timeout = read_one("timeout", written.timeout.as_deref(), duration, &mut wrong);
    let expect = read_each("expect", &written.expect, read_expectation, &mut wrong);
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        return Err(mistakes);
    }
    Ok(Scenario {
        name: written.name.clone(),
        seed: written.seed,
        namespace,
        before: written.before,
        arrival,
        pods,
        lifetime,
        timeout: timeout.unwrap_or(TIMEOUT),
        expect,
    })
}

/// Reads what can be read of a list; `wrong` is told the rest.
fn read_each<W, T>(
    list: &str,
    written: &[W],
    read: impl Fn(&W) -> Result<T, Wrong>,
    wrong: &mut impl FnMut(&str, &str),
) -> Vec<T> {
    let mut all = Vec::new();
    for (index, item) in written.iter().enumerate() {
        match read(item) {
            Ok(item) => all.push(item),
            Err((field, message)) => wrong(&format!("{list}[{index}].{field}"), &message),
        }
    }
    all
}

fn read_one<T>(
    field: &str,
    written: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
    wrong: &mut impl FnMut(&str, &str),
) -> Option<T> {
    written.and_then(|text| read(text).map_err(|message| wrong(field, &message)).ok())
}

fn required(field: &'static str) -> Wrong {
    (field, "Required value".to_owned())
}

fn read_phase(written: &WrittenPhase) -> Result<Phase, Wrong> {
    let pattern = written.pattern.as_deref().ok_or_else(|| required("pattern"))?;
    let allowed: &[&str] = match pattern {
        "burst" => &["count"],
        "constant" | "poisson" => &["rate", "for"],
        "ramp" => &["from", "to", "for"],
        "trace" => &["file"],
        _ => &["for"],
    };
    let given = [
        ("count", written.count.is_some()),
        ("rate", written.rate.is_some()),
        ("from", written.from.is_some()),
        ("to", written.to.is_some()),
        ("for", written.time.is_some()),
        ("file", written.file.is_some()),
    ];
    if let Some((field, _)) = given.iter().find(|(field, given)| *given && !allowed.contains(field)) {
        return Err((field, format!("Forbidden: the pattern {pattern} has only {}", allowed.join(", "))));
    }
    let rate = |field: &'static str, text: &Option<String>| {
        let text = text.as_deref().ok_or_else(|| required(field))?;
        let rate = text.parse::<f64>().ok().filter(|rate| *rate > 0.0 && *rate <= RATE_MAX);
        rate.ok_or_else(|| (field, format!("{text:?} is no rate: write how many pods a second, at most {RATE_MAX}")))
    };
    let time = || {
        let text = written.time.as_deref().ok_or_else(|| required("for"))?;
        duration(text).map_err(|why| ("for", why))
    };
    Ok(match pattern {
        "burst" => Phase::Burst { count: written.count.ok_or_else(|| required("count"))? },
        "constant" => Phase::Constant { rate: rate("rate", &written.rate)?, time: time()? },
        "poisson" => Phase::Poisson { rate: rate("rate", &written.rate)?, time: time()? },
        "ramp" => Phase::Ramp { from: rate("from", &written.from)?, to: rate("to", &written.to)?, time: time()? },
        "trace" => Phase::Trace { file: written.file.clone().ok_or_else(|| required("file"))? },
        _ => Phase::Pause { time: time()? },
    })
}

fn read_template(written: &WrittenTemplate, index: usize) -> Template {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": written.spec});
    pod["metadata"] = written.metadata.clone().unwrap_or_else(|| json!({}));
    Template {
        name: written.name.clone().unwrap_or_else(|| format!("pod-{index}")),
        weight: written.weight.unwrap_or(1),
        pod,
        stays_pending: written.stays_pending,
    }
}

fn read_expectation(written: &WrittenExpectation) -> Result<Expectation, Wrong> {
    let latency = written.latency.clone().ok_or_else(|| required("latency"))?;
    let text = written.percentile.as_deref().ok_or_else(|| required("percentile"))?;
    let percentile = text.parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p));
    let percentile = percentile.ok_or_else(|| ("percentile", format!("{text:?} is no number from 0 to 100")))?;
    let at_most = written.at_most.as_deref().ok_or_else(|| required("atMost"))?;
    Ok(Expectation { latency, percentile, at_most: duration(at_most).map_err(|why| ("atMost", why))? })
}

impl Phase {
    /// How many pods it brings, where that is known without its trace and its dice.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates and times are positive; saturates"
    )]
    fn pods(&self) -> u64 {
        match self {
            Self::Burst { count } => *count,
            Self::Constant { rate, time } | Self::Poisson { rate, time } => (rate * time.as_secs_f64()) as u64,
            Self::Ramp { from, to, time } => (f64::midpoint(*from, *to) * time.as_secs_f64()) as u64,
            Self::Trace { .. } | Self::Pause { .. } => 0,
        }
    }
}

/// The label that names a pod's test.
pub const LABEL: &str = "podbus.dev/load";

/// The pod number `index` of a kind: with its name, the label of its run, and every `$(index)`, `$(index/3)`,
/// `$(index%5)` and `$(index:5)` (padded with zeros) of the template replaced.
pub fn named(template: &Value, index: u64, name: &str, run: &str, namespace: &str) -> Value {
    let mut pod = template.clone();
    substitute(&mut pod, index);
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["labels"][LABEL] = json!(run);
    pod
}

fn substitute(value: &mut Value, index: u64) {
    match value {
        Value::String(text) if text.contains("$(index") => *text = replaced(text, index),
        Value::Array(items) => items.iter_mut().for_each(|item| substitute(item, index)),
        Value::Object(fields) => fields.values_mut().for_each(|field| substitute(field, index)),
        _ => {}
    }
}

fn replaced(text: &str, index: u64) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("$(index") {
        out.push_str(before);
        let Some((operation, tail)) = after.split_once(')') else { break };
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
        let new = match operation.split_at_checked(1) {
            None => Some(index.to_string()),
            Some(("/", by)) => number(by).map(|by| (index / by).to_string()),
            Some(("%", by)) => number(by).map(|by| (index % by).to_string()),
            Some((":", width)) => {
                width.parse::<usize>().ok().filter(|w| *w < 20).map(|width| format!("{index:0width$}"))
            }
            Some(_) => None,
        };
        match new {
            Some(new) => out.push_str(&new),
            None => out.push_str(&format!("$(index{operation})")),
        }
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "pods: [{spec: {containers: [{name: main, image: busybox}]}}]\n";

    fn mistakes(text: &str) -> Vec<String> {
        parse("s.yaml", text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_pattern_is_read() {
        let text = format!(
            "name: all\nseed: 7\narrival:\n- {{pattern: burst, count: 10}}\n- {{pattern: constant, rate: 100, for: 2s}}\n\
             - {{pattern: poisson, rate: 0.5, for: 1m}}\n- {{pattern: ramp, from: 1, to: 9, for: 10s}}\n\
             - {{pattern: trace, file: t.csv}}\n- {{pattern: pause, for: 1s}}\n{PODS}lifetime: exponential(30s)\n\
             expect: [{{latency: running, percentile: 99, atMost: 250ms}}]\n"
        );
        let scenario = parse("s.yaml", &text).unwrap();
        assert_eq!(scenario.arrival.iter().map(Phase::pods).collect::<Vec<_>>(), [10, 200, 30, 50, 0, 0]);
        assert_eq!((scenario.namespace.as_str(), scenario.timeout), ("default", TIMEOUT));
        assert_eq!(scenario.expect[0].at_most, Duration::from_millis(250));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let cases = [
            (format!("arrival: [{{pattern: burst, count: 1}}]\n{PODS}"), "s.yaml:1:1: name: Required value"),
            (
                format!("name: a\narrival:\n- {{pattern: burst, rate: 5}}\n{PODS}"),
                "s.yaml:3:26: arrival[0].rate: Forbidden: the pattern burst has only count",
            ),
            (
                format!("name: a\narrival:\n- {{pattern: constant, rate: -5, for: 1s}}\n{PODS}"),
                "s.yaml:3:29: arrival[0].rate: \"-5\" is no rate",
            ),
            (
                "name: a\narrival: [{pattern: burst, count: 1}]\npods:\n- spec: {containers: [{name: main}]}\n"
                    .to_owned(),
                "s.yaml:4:23: pods[0].spec.containers[0].image: Required value",
            ),
            (format!("name: a\narrivla: []\n{PODS}"), "s.yaml:2:1: arrivla: unknown field, did you mean \"arrival\"?"),
            (
                format!("name: a\narrival: [{{pattern: constant, rate: 1000000, for: 1h}}]\n{PODS}"),
                "s.yaml:2:10: arrival: asks for 3600000000 pods",
            ),
        ];
        for (text, start) in cases {
            let told = mistakes(&text);
            assert!(told.iter().any(|told| told.starts_with(start)), "{told:?}");
        }
    }

    #[test]
    fn every_example_is_a_valid_scenario() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/load");
        let mut read = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // The fault script is for podbus sim.
            if path.extension().is_none_or(|end| end != "yaml") || path.ends_with("faults.yaml") {
                continue;
            }
            let name = path.display().to_string();
            let scenario = parse(&name, &std::fs::read_to_string(&path).unwrap());
            assert!(scenario.is_ok(), "{scenario:?}");
            read += 1;
        }
        assert!(read >= 10, "{read} examples");
    }

    #[test]
    fn a_pod_has_its_number_where_the_template_asks_for_it() {
        let template = json!({"metadata": {"labels": {"g": "g-$(index/3)"}}, "spec": {"a": ["$(index:5)$(index%5)", "$(index^2)"]}});
        let pod = named(&template, 17, "n", "r", "default");
        assert_eq!(pod["metadata"]["labels"], json!({"g": "g-5", LABEL: "r"}));
        assert_eq!(pod["spec"]["a"], json!(["000172", "$(index^2)"]));
    }
}
