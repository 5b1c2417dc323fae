//! A fault script: when which simulated nodes die, slow down, flap or are cut off. Pure.

use std::time::Duration;

use podbus_common::manifest::Fault as Mistake;
use podbus_common::manifest::document::{self, Document};
use podbus_common::manifest::schema::{Kind as FieldKind, Object};
use serde::Deserialize;

use podbus_load::chance::{Chance, duration};

/// What one fault does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Process, pods and kernel are gone; afterwards the node boots with its disk.
    Death,
    /// Starts and stops take so many times longer.
    Slow(f64),
    /// Cut off and connected in turns of this length, cut off first.
    Flapping(Duration),
    /// Nothing reaches the node and nothing comes from it.
    Partition,
}

/// One fault of a script.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    /// After the start.
    pub(super) at: Duration,
    /// How long; `None`: to the end.
    pub(super) lasts: Option<Duration>,
    pub(super) kind: Kind,
    nodes: Share,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Share {
    Count(usize),
    Percent(f64),
}

/// What happens to one node at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    Die,
    Boot,
    CutOff(bool),
    SlowDown(f64),
}

static SCRIPT: Object = Object { fields: &[("faults", FieldKind::List(&FieldKind::Object(&FAULT)))], unsupported: &[] };
static FAULT: Object = Object {
    fields: &[
        ("at", FieldKind::Scalar),
        ("for", FieldKind::Scalar),
        ("kind", FieldKind::OneOf(&["death", "slow", "flapping", "partition"])),
        ("nodes", FieldKind::Scalar),
        ("factor", FieldKind::Scalar),
        ("period", FieldKind::Scalar),
    ],
    unsupported: &[],
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    faults: Vec<WrittenFault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenFault {
    at: Option<String>,
    #[serde(rename = "for")]
    lasts: Option<String>,
    kind: Option<String>,
    nodes: Option<String>,
    factor: Option<String>,
    period: Option<String>,
}

/// Reads a script.
///
/// # Errors
/// With every mistake, each with file, line and field.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Fault>, Vec<Mistake>> {
    let document: Document<Written> = document::read(file, text, &SCRIPT)?;
    let mut faults = Vec::new();
    let mut mistakes = Vec::new();
    for (index, written) in document.content.faults.iter().enumerate() {
        match read_fault(written) {
            Ok(fault) => faults.push(fault),
            Err((field, message)) => mistakes.push(document.fault(&format!("faults[{index}].{field}"), &message)),
        }
    }
    if mistakes.is_empty() { Ok(faults) } else { Err(mistakes) }
}

type Wrong = (&'static str, String);

fn read_fault(written: &WrittenFault) -> Result<Fault, Wrong> {
    let required = |field: &'static str| (field, "Required value".to_owned());
    let time = |field: &'static str, text: &str| duration(text).map_err(|why| (field, why));
    let name = written.kind.as_deref().ok_or_else(|| required("kind"))?;
    for (field, given, of) in [("factor", &written.factor, "slow"), ("period", &written.period, "flapping")] {
        if given.is_some() && name != of {
            return Err((field, format!("Forbidden: only a fault of kind {of:?} has it")));
        }
    }
    let kind = match name {
        "death" => Kind::Death,
        "partition" => Kind::Partition,
        "slow" => {
            let text = written.factor.as_deref().ok_or_else(|| required("factor"))?;
            let factor = text.parse::<f64>().ok().filter(|factor| (1.0..=1e6).contains(factor));
            Kind::Slow(factor.ok_or_else(|| ("factor", format!("{text:?} is no number from 1 to 1000000")))?)
        }
        _ => match time("period", written.period.as_deref().ok_or_else(|| required("period"))?)? {
            period if period < Duration::from_millis(100) => {
                return Err(("period", "must be at least 100ms".to_owned()));
            }
            period => Kind::Flapping(period),
        },
    };
    let at = time("at", written.at.as_deref().ok_or_else(|| required("at"))?)?;
    let lasts = written.lasts.as_deref().map(|text| time("for", text)).transpose()?;
    if lasts.is_none() && matches!(kind, Kind::Flapping(_)) {
        return Err(("for", "Required value: flapping must end".to_owned()));
    }
    let nodes = share(written.nodes.as_deref().ok_or_else(|| required("nodes"))?).map_err(|why| ("nodes", why))?;
    Ok(Fault { at, lasts, kind, nodes })
}

fn share(text: &str) -> Result<Share, String> {
    let bad = || format!("{text:?} is neither a count of nodes nor a percentage: write 5 or 10%");
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
            Ok(Share::Percent(percent.ok_or_else(bad)?))
        }
        None => Ok(Share::Count(text.parse().map_err(|_| bad())?)),
    }
}

/// Lays the faults out: what happens when to which of `nodes` nodes, in the order of time. Which ones: by `chance`.
pub(super) fn timeline(faults: &[Fault], nodes: usize, chance: &mut Chance) -> Vec<(Duration, usize, Step)> {
    let mut steps = Vec::new();
    for fault in faults {
        for node in pick(fault.nodes, nodes, chance) {
            let end = fault.lasts.map(|lasts| fault.at + lasts);
            let (begins, ends) = match fault.kind {
                Kind::Death => (Step::Die, Step::Boot),
                Kind::Slow(factor) => (Step::SlowDown(factor), Step::SlowDown(1.0)),
                Kind::Partition | Kind::Flapping(_) => (Step::CutOff(true), Step::CutOff(false)),
            };
            steps.push((fault.at, node, begins));
            if let (Kind::Flapping(period), Some(end)) = (fault.kind, end) {
                let turns = (1u32..).map(|turn| (fault.at + period * turn, turn % 2 == 0));
                let turns = turns.take_while(|(at, _)| *at < end);
                steps.extend(turns.map(|(at, cut_off)| (at, node, Step::CutOff(cut_off))));
            }
            steps.extend(end.map(|at| (at, node, ends)));
        }
    }
    steps.sort_by_key(|(at, ..)| *at);
    steps
}

/// Some of `nodes` nodes, each at most once.
fn pick(share: Share, nodes: usize, chance: &mut Chance) -> Vec<usize> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to nodes"
    )]
    let count = match share {
        Share::Count(count) => count.min(nodes),
        Share::Percent(percent) => (percent / 100.0 * nodes as f64).round() as usize,
    };
    let mut all: Vec<_> = (0..nodes).map(|node| (chance.unit(), node)).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().take(count).map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Vec<(u64, Step)> {
        let faults = parse("s.yaml", text).unwrap();
        let steps = timeline(&faults, 1, &mut Chance::new(7, 0));
        steps.into_iter().map(|(at, _, step)| (at.as_secs(), step)).collect()
    }

    #[test]
    fn a_fault_begins_and_ends_in_its_time() {
        let cases: [(&str, &[(u64, Step)]); 4] = [
            ("faults: [{at: 5s, kind: death, nodes: 1}]", &[(5, Step::Die)]),
            ("faults: [{at: 5s, for: 2s, kind: death, nodes: 1}]", &[(5, Step::Die), (7, Step::Boot)]),
            (
                "faults: [{at: 0s, for: 1m, kind: slow, nodes: 100%, factor: 10}]",
                &[(0, Step::SlowDown(10.0)), (60, Step::SlowDown(1.0))],
            ),
            (
                "faults: [{at: 1s, for: 7s, kind: flapping, nodes: 1, period: 3s}]",
                &[(1, Step::CutOff(true)), (4, Step::CutOff(false)), (7, Step::CutOff(true)), (8, Step::CutOff(false))],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_share_of_the_nodes_is_picked_by_the_seed() {
        let faults = parse("s.yaml", "faults: [{at: 1s, kind: partition, nodes: 10%}]").unwrap();
        let picked = |seed| -> Vec<_> {
            timeline(&faults, 1000, &mut Chance::new(seed, 0)).into_iter().map(|(_, node, _)| node).collect()
        };
        assert_eq!(picked(7).len(), 100);
        assert_eq!(picked(7), picked(7));
        assert_ne!(picked(7), picked(8));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let cases = [
            ("faults:\n- at: 5\n  kind: death\n  nodes: 1\n", "s.yaml:2:7: faults[0].at: \"5\" is no duration"),
            ("faults:\n- kind: death\n  nodes: 1\n", "s.yaml:2:3: faults[0].at: Required value"),
            (
                "faults:\n- {at: 1s, kind: death, nodes: 1, factor: 2}\n",
                "s.yaml:2:43: faults[0].factor: Forbidden: only a fault of kind \"slow\" has it",
            ),
            ("faults:\n- {at: 1s, kind: slow, nodes: 1}\n", "s.yaml:2:3: faults[0].factor: Required value"),
            ("faults:\n- {at: 1s, kind: death, nodes: 101%}\n", "s.yaml:2:32: faults[0].nodes: \"101%\" is neither"),
            ("faults:\n- {at: 1s, kind: deaht, nodes: 1}\n", "s.yaml:2:18: faults[0].kind: Unsupported value"),
        ];
        for (text, start) in cases {
            let told = parse("s.yaml", text).unwrap_err()[0].to_string();
            assert!(told.starts_with(start), "{told}");
        }
    }
}
