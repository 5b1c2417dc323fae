//! A test while it runs, as a screen of a terminal: a frame is a function of a snapshot.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use hdrhistogram::Histogram;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Gauge, Paragraph, RenderDirection, Sparkline};

use crate::report::{FaultSeen, Sample, milliseconds};
use crate::tally::{Moment, Tally};

/// Seconds that the rates go back.
const RATES_MAX: u32 = 60;
/// Kinds of failed requests that are told.
const ERRORS_MAX: usize = 3;
/// Lines of the view on the smallest terminal that shows all of it; what is more goes to curves and to what happened.
const LINES_MIN: u16 = 22;
/// Lines of a sparkline at most.
const BARS_MAX: u16 = 5;
/// Columns of a step's name and of each figure.
const NAME_WIDTH: usize = 10;
const FIGURE_WIDTH: usize = 12;

/// A step of a pod and how many came to it.
type Step = (&'static str, fn(&Sample) -> u64);
const STEPS: [Step; 5] = [
    ("due", |sample| sample.due),
    ("created", |sample| sample.created),
    ("bound", |sample| sample.bound),
    ("running", |sample| sample.running),
    ("deleted", |sample| sample.deleted),
];
const LATENCIES: [(&str, Moment); 4] = [
    ("created", Moment::Created),
    ("bound", Moment::Bound),
    ("running", Moment::Running),
    ("deleted", Moment::Deleted),
];

/// What a test is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// The pods that are there before anything is measured are made.
    Before,
    /// Pods arrive.
    #[default]
    Arriving,
    /// All were due, some are awaited.
    Waiting,
    /// The pods are deleted.
    Deleting,
    /// The same, because somebody has stopped the test.
    Stopping,
}

/// A test at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Of the scenario.
    pub name: String,
    /// The value of the pods' label.
    pub run: String,
    /// What it is doing.
    pub stage: Stage,
    /// How long that may take.
    pub left: Duration,
    /// All pods.
    pub asked: u64,
    /// The counts.
    pub now: Sample,
    /// Nodes that were seen, Ready or not.
    pub nodes: u64,
    /// For each step, how many pods came to it in each whole second of the last minute, oldest first.
    pub rates: [Vec<u64>; STEPS.len()],
    /// From when a pod was due.
    pub latencies: [LatencySoFar; LATENCIES.len()],
    /// Requests that failed and were sent again, by their words.
    pub failed_requests: BTreeMap<String, u64>,
    /// What happened to the cluster, oldest first.
    pub faults: Vec<FaultSeen>,
}

/// A latency of the pods that have come so far, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LatencySoFar {
    /// How many pods.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl LatencySoFar {
    fn of(histogram: &Histogram<u64>) -> Self {
        let percentile = |percent: f64| milliseconds(histogram.value_at_percentile(percent));
        Self {
            count: histogram.len(),
            p50_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            max_ms: milliseconds(histogram.max()),
        }
    }
}

impl Snapshot {
    /// Of what was counted: the last of `samples` is now.
    pub fn of(tally: &Tally, samples: &[Sample]) -> Self {
        Self {
            asked: tally.asked(),
            now: samples.last().cloned().unwrap_or_default(),
            rates: STEPS.map(|(_, count)| rates(samples, count)),
            latencies: LATENCIES.map(|(_, moment)| LatencySoFar::of(tally.latency(moment))),
            failed_requests: tally.failed_requests().clone(),
            ..Self::default()
        }
    }
}

/// How much a count rose in each whole second of the last minute, oldest first. Samples need not fall on seconds.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pods and seconds are far fewer than 2^52, and counts only rise"
)]
fn rates(samples: &[Sample], count: fn(&Sample) -> u64) -> Vec<u64> {
    let Some(last) = samples.last() else { return Vec::new() };
    let at = |second: u32| {
        let seconds = f64::from(second);
        let after = samples.partition_point(|sample| sample.seconds < seconds);
        let to = &samples[after.min(samples.len() - 1)];
        let start = Sample::default();
        let from = if after == 0 { &start } else { &samples[after - 1] };
        let share = ((seconds - from.seconds) / (to.seconds - from.seconds).max(f64::EPSILON)).clamp(0.0, 1.0);
        count(from) as f64 + share * (count(to) as f64 - count(from) as f64)
    };
    let end = last.seconds.max(0.0) as u32;
    (end.saturating_sub(RATES_MAX)..end).map(|second| (at(second + 1) - at(second)).round() as u64).collect()
}

// === The frame ===

/// Draws a snapshot. Any size of terminal will do: what does not fit is not shown.
pub fn draw(frame: &mut Frame<'_>, snapshot: &Snapshot, colour: bool) {
    let spare = frame.area().height.saturating_sub(LINES_MIN);
    let steps = u16::try_from(STEPS.len()).unwrap_or(u16::MAX);
    let bars = (1 + spare / 2 / steps).min(BARS_MAX);
    let [title, progress, _, pods, _, latencies, _, queues, _, happened, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1 + steps * bars),
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let paint = Paint(colour);
    draw_title(frame, title, snapshot);
    draw_progress(frame, progress, snapshot, paint);
    draw_pods(frame, pods, bars, snapshot, paint);
    draw_latencies(frame, latencies, snapshot);
    draw_queues(frame, queues, snapshot);
    draw_happened(frame, happened, snapshot, paint);
    let leave = match snapshot.stage {
        Stage::Stopping => "q: leave at once, the pods stay",
        Stage::Deleting => "q: leave the rest of the pods where they are",
        Stage::Before | Stage::Arriving | Stage::Waiting => "q: stop and delete the pods",
    };
    frame.render_widget(Line::from(leave).dim(), keys);
}

/// Colours, or none where they are not welcome.
#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn of(self, colour: Color) -> Style {
        if self.0 { Style::new().fg(colour) } else { Style::new() }
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let left = snapshot.left.as_secs();
    let doing = match snapshot.stage {
        Stage::Before => format!("makes the pods that are there before, {left} s at most"),
        Stage::Arriving => format!("pods arrive for {left} s more"),
        Stage::Waiting => format!("all were due; waits {left} s at most"),
        Stage::Deleting => format!("deletes the pods, {left} s at most"),
        Stage::Stopping => format!("stopped; deletes the pods, {left} s at most"),
    };
    let title = Line::from(vec![
        Span::from(snapshot.name.as_str()).bold(),
        Span::from(format!("  run {}  {:.0} s  ", snapshot.run, snapshot.now.seconds.trunc())),
        Span::from(doing),
    ]);
    frame.render_widget(title, area);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, paint: Paint) {
    let (done, all, what) = match snapshot.stage {
        Stage::Deleting => (snapshot.now.deleted, snapshot.asked, "gone"),
        Stage::Stopping => (snapshot.now.deleted, snapshot.now.created, "gone"),
        Stage::Before | Stage::Arriving | Stage::Waiting => (snapshot.now.running, snapshot.asked, "ran"),
    };
    #[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
    let ratio = (done as f64 / all.max(1) as f64).min(1.0);
    let gauge = Gauge::default().ratio(ratio).label(format!("{done} of {all} {what}"));
    frame.render_widget(gauge.gauge_style(paint.of(Color::Green)), area);
}

fn draw_pods(frame: &mut Frame<'_>, area: Rect, bars: u16, snapshot: &Snapshot, paint: Paint) {
    let figures = u16::try_from(NAME_WIDTH + 2 * FIGURE_WIDTH + 2).unwrap_or(u16::MAX);
    let [numbers, curves] = Layout::horizontal([Constraint::Length(figures), Constraint::Fill(1)]).areas(area);
    let shown = u32::from(curves.width).min(RATES_MAX);
    frame.render_widget(heading("PODS", &["so far", "a second"]), numbers);
    frame.render_widget(Line::from(format!("last {shown} s")).dim(), curves);
    // One scale for all: a step that falls behind is lower than the one above it.
    let max = snapshot.rates.iter().flatten().copied().max().unwrap_or(0);
    for (at, ((name, count), rates)) in (0..).zip(STEPS.iter().zip(&snapshot.rates)) {
        let line = |column: Rect, height: u16| {
            let y = column.y.saturating_add(1 + at * bars);
            Rect { y, height, ..column }.intersection(column)
        };
        let rate = rates.last().map_or_else(|| "-".to_owned(), ToString::to_string);
        frame.render_widget(Line::from(row(name, &[count(&snapshot.now).to_string(), rate])), line(numbers, 1));
        let newest_first: Vec<_> = rates.iter().rev().copied().collect();
        let curve = Sparkline::default().data(newest_first).max(max).direction(RenderDirection::RightToLeft);
        let width = u16::try_from(shown).unwrap_or(u16::MAX);
        let curve = curve.style(paint.of(Color::Cyan));
        frame.render_widget(curve, Rect { width, ..line(curves, bars) });
    }
}

fn draw_latencies(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let mut lines = vec![heading("FROM DUE", &["p50", "p99", "max"])];
    for ((name, _), latency) in LATENCIES.iter().zip(&snapshot.latencies) {
        let LatencySoFar { count, p50_ms, p99_ms, max_ms } = *latency;
        let figures =
            [p50_ms, p99_ms, max_ms].map(|ms| if count == 0 { "-".to_owned() } else { format!("{ms:.1} ms") });
        lines.push(Line::from(row(name, &figures)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn heading(name: &str, figures: &[&str]) -> Line<'static> {
    Line::from(row(name, figures)).bold()
}

fn row(name: &str, figures: &[impl Display]) -> String {
    let figures: String = figures.iter().map(|figure| format!("{figure:>FIGURE_WIDTH$}")).collect();
    format!("{name:<NAME_WIDTH$}{figures}")
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot) {
    let Sample { created, bound, running, in_flight, nodes_ready, cpu_share, memory_share, .. } = snapshot.now;
    let (to_bind, to_run) = (created.saturating_sub(bound), bound.saturating_sub(running));
    let (cpu, memory, nodes) = (cpu_share * 100.0, memory_share * 100.0, snapshot.nodes);
    let lines = [
        format!("requests in flight {in_flight}  pods without a node {to_bind}  pods that start {to_run}"),
        format!("nodes Ready {nodes_ready} of {nodes}  CPU asked for {cpu:.0} %  memory {memory:.0} %"),
    ];
    frame.render_widget(Paragraph::new(lines.map(Line::from).to_vec()), area);
}

fn draw_happened(frame: &mut Frame<'_>, area: Rect, snapshot: &Snapshot, paint: Paint) {
    let mut errors: Vec<_> = snapshot.failed_requests.iter().collect();
    errors.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
    let errors = errors
        .into_iter()
        .take(ERRORS_MAX)
        .map(|(why, times)| Line::styled(format!("{times} requests sent again: {why}"), paint.of(Color::Red)));
    // The newest first: those before it leave the screen. What comes at once is one line.
    let at_once = snapshot.faults.chunk_by(|a, b| b.seconds - a.seconds < 0.5);
    let faults = at_once.rev().filter_map(|faults| {
        let (first, more) = faults.split_first()?;
        let more = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
        Some(Line::styled(format!("{:>5.0} s  {}{more}", first.seconds, first.what), paint.of(Color::Yellow)))
    });
    let lines: Vec<_> = errors.chain(faults).take(usize::from(area.height)).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

#[cfg(test)]
mod tests;
