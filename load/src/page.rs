//! Reports as one page that opens from the disk: no script, no network, charts as inline SVG.

use std::fmt::Write as _;

use crate::plot::{Chart, Scale, Series, escape, svg};
use crate::report::{Report, Sample};

const STYLE: &str = include_str!("page.css");
/// The latencies whose curves are shown.
const CURVES: [&str; 4] = ["created", "bound", "running", "deleted"];

/// A page of one report, or of several beside each other.
pub fn render(reports: &[&Report]) -> String {
    let title: Vec<_> = reports.iter().map(|report| escape(&report.name)).collect();
    let mut page = head(&title.join(" and "));
    if let [report] = reports {
        single(&mut page, report);
    } else {
        several(&mut page, reports);
    }
    for report in reports {
        details(&mut page, report, reports.len() > 1);
    }
    page + "</main></body></html>\n"
}

/// How figures grow with a number: lines with a dot at each size that was measured.
#[derive(Debug, Clone)]
pub struct Growth {
    /// What grows.
    pub title: &'static str,
    /// Of the number that is chosen.
    pub x: &'static str,
    /// Of the figures.
    pub y: &'static str,
    /// By name: each number and its figure.
    pub lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

/// A page that shows how figures grow. A straight line is linear growth: both axes begin at 0 and are even.
pub fn growth(title: &str, note: &str, charts: &[Growth]) -> String {
    let mut page = head(&escape(title));
    let _ = writeln!(page, "<p class=\"sub\">{}</p>", escape(note));
    for chart in charts {
        let series = chart.lines.iter().enumerate().map(|(colour, (name, points))| Series {
            name: (*name).to_owned(),
            colour,
            dashed: false,
            points: points.clone(),
            dots: true,
        });
        let drawn = Chart {
            x: (Scale::Linear, chart.x),
            y: (Scale::Linear, chart.y),
            series: series.collect(),
            marks: Vec::new(),
        };
        figure(&mut page, chart.title, "", &drawn);
    }
    page + "</main></body></html>\n"
}

/// The beginning of a page whose `title` is escaped.
fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}: podbus load</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n<h1>{title}</h1>\n"
    )
}

fn single(page: &mut String, report: &Report) {
    let _ = writeln!(page, "<p class=\"sub\">{}</p>", escape(&report.started));
    tiles(page, report);
    for missed in &report.missed {
        let _ = writeln!(page, "<p class=\"missed\">Expected, and missed: {}</p>", escape(missed));
    }
    let marks: Vec<_> = report.faults.iter().map(|fault| (fault.seconds, fault.what.clone())).collect();
    let of = |name: &str, colour, value: fn(&Sample) -> f64| series(name, colour, &report.samples, value);
    let lines = vec![
        Series { dashed: true, ..of("due", 5, |s| count(s.due)) },
        of("created", 0, |s| count(s.created)),
        of("bound", 1, |s| count(s.bound)),
        of("running", 2, |s| count(s.running)),
        of("deleted", 3, |s| count(s.deleted)),
    ];
    chart(
        page,
        "Pods so far",
        "The slope is the rate, the gap between two lines the latency, a step a stall.",
        lines,
        &marks,
        "pods",
    );
    curves(page, &[report]);
    knee(page, report);
    let waiting = vec![
        of("waiting for a node", 1, |s| count(s.created.saturating_sub(s.bound))),
        of("waiting to run", 2, |s| count(s.bound.saturating_sub(s.running))),
        Series { dashed: true, ..of("requests under way", 5, |s| count(s.in_flight)) },
    ];
    chart(page, "Queues", "What has come to one step and not to the next.", waiting, &marks, "pods");
    let used = vec![of("CPU", 0, |s| s.cpu_share * 100.0), of("memory", 2, |s| s.memory_share * 100.0)];
    chart(page, "Nodes in use", "What bound pods ask for, of what Ready nodes offer.", used, &marks, "%");
    if !marks.is_empty() {
        chart(
            page,
            "Nodes that are Ready",
            "Each line up is a change; point at it to read it.",
            vec![of("Ready", 2, |s| count(s.nodes_ready))],
            &marks,
            "nodes",
        );
    }
}

fn tiles(page: &mut String, report: &Report) {
    let running = report.latency("running");
    let tile = |value: String, what: &str| format!("<div class=\"tile\"><b>{value}</b><span>{what}</span></div>");
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1} ms"));
    page.push_str("<div class=\"tiles\">");
    page.push_str(&tile(report.ran.to_string(), &format!("of {} pods ran", report.asked)));
    if let Some(rate) = report.throughput.get("running") {
        page.push_str(&tile(format!("{rate:.0}/s"), "due to running"));
    }
    page.push_str(&tile(ms(running.map(|l| l.p50_ms)), "p50, due to running"));
    page.push_str(&tile(ms(running.map(|l| l.p99_ms)), "p99, due to running"));
    page.push_str("</div>\n");
}

fn knee(page: &mut String, report: &Report) {
    let phases: Vec<_> =
        report.phases.iter().filter(|phase| phase.offered_per_second > 0.0 && phase.pods > 0).collect();
    if phases.len() < 2 {
        return;
    }
    let line = |name: &str, colour, of: fn(&crate::report::PhaseFigures) -> f64| {
        let mut points: Vec<_> = phases.iter().map(|phase| (phase.offered_per_second, of(phase))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.to_owned(), colour, dashed: false, points, dots: true }
    };
    let lines = vec![line("p50", 0, |phase| phase.p50_ms), line("p99", 3, |phase| phase.p99_ms)];
    let drawn = Chart {
        x: (Scale::Linear, "offered, pods/s"),
        y: (Scale::Log, "due to running, ms"),
        series: lines,
        marks: Vec::new(),
    };
    figure(
        page,
        "Latency against offered rate",
        "Where the lines turn up is the knee: below it the system keeps pace.",
        &drawn,
    );
}

fn several(page: &mut String, reports: &[&Report]) {
    let lines = reports.iter().enumerate().map(|(index, report)| {
        let name = label(index, report);
        series(&name, index, &report.samples, |sample| count(sample.running))
    });
    chart(page, "Running pods", "The slope is the rate.", lines.collect(), &[], "pods");
    curves(page, reports);
    if let [a, b] = reports {
        let _ = writeln!(page, "<h2>Figures</h2><pre>{}</pre>", escape(&crate::text::comparison(a, b)));
    }
}

fn label(index: usize, report: &Report) -> String {
    let letter = char::from(b'A' + u8::try_from(index % 26).unwrap_or(0));
    format!("{letter}: {}", report.name)
}

fn curves(page: &mut String, reports: &[&Report]) {
    let mut lines = Vec::new();
    for (index, report) in reports.iter().enumerate() {
        let names: &[&str] = if reports.len() == 1 { &CURVES } else { &["running"] };
        for (place, name) in names.iter().enumerate() {
            let Some(latency) = report.latency(name) else { continue };
            let (name, colour) =
                if reports.len() == 1 { ((*name).to_owned(), place) } else { (label(index, report), index) };
            lines.push(Series { name, colour, dashed: false, points: latency.curve(), dots: false });
        }
    }
    let drawn =
        Chart { x: (Scale::Nines, "share of the pods"), y: (Scale::Log, "ms"), series: lines, marks: Vec::new() };
    figure(
        page,
        "Latency by percentile",
        "From when a pod was due, so that what a stall held up counts as late.",
        &drawn,
    );
}

fn details(page: &mut String, report: &Report, named: bool) {
    let head = if named { format!("Figures of {}", escape(&report.name)) } else { "Figures".to_owned() };
    let _ = writeln!(
        page,
        "<h2>{head}</h2>\n<div class=\"scroll\"><table><tr><th>latency, ms</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th><th>mean</th><th>pods</th></tr>"
    );
    for l in report.latencies.iter().filter(|latency| latency.count > 0) {
        let cells: String = [l.p50_ms, l.p90_ms, l.p95_ms, l.p99_ms, l.p999_ms, l.max_ms, l.mean_ms]
            .iter()
            .map(|v| format!("<td>{v:.1}</td>"))
            .collect();
        let _ = writeln!(page, "<tr><th>{}</th>{cells}<td>{}</td></tr>", escape(&l.name), l.count);
    }
    page.push_str("</table></div>\n<div class=\"scroll\"><table>");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(page, "<tr><th>{}</th><td class=\"text\">{}</td></tr>", escape(name), escape(value));
    };
    for (moment, rate) in &report.throughput {
        row(&format!("{moment}, pods/s"), &format!("{rate:.1}"));
    }
    row("pods before", &report.before.to_string());
    row("pods replaced", &report.replaced.to_string());
    row("CPU of the generator", &format!("{:.0} % of one CPU", report.generator_cpu * 100.0));
    for (why, times) in &report.failed_requests {
        row("requests sent again", &format!("{times}: {why}"));
    }
    for (name, value) in &report.environment {
        row(name, value);
    }
    let _ = writeln!(
        page,
        "</table></div>\n<details><summary>The scenario</summary><pre>{}</pre></details>",
        escape(&report.scenario)
    );
}

fn series(name: &str, colour: usize, samples: &[Sample], value: fn(&Sample) -> f64) -> Series {
    let points = samples.iter().map(|sample| (sample.seconds, value(sample))).collect();
    Series { name: name.to_owned(), colour, dashed: false, points, dots: false }
}

#[expect(clippy::cast_precision_loss, reason = "pods are far fewer than 2^52")]
fn count(pods: u64) -> f64 {
    pods as f64
}

fn chart(page: &mut String, title: &str, note: &str, lines: Vec<Series>, marks: &[(f64, String)], unit: &'static str) {
    // A line that never leaves zero is only in the way.
    let lines: Vec<_> = lines.into_iter().filter(|line| line.points.iter().any(|(_, value)| *value > 0.0)).collect();
    if lines.is_empty() {
        return;
    }
    let drawn = Chart { x: (Scale::Linear, "seconds"), y: (Scale::Linear, unit), series: lines, marks: marks.to_vec() };
    figure(page, title, note, &drawn);
}

fn figure(page: &mut String, title: &str, note: &str, chart: &Chart) {
    let _ = writeln!(page, "<figure><figcaption><h2>{title}</h2><p>{note}</p></figcaption><div class=\"legend\">");
    for series in &chart.series {
        let dashed = if series.dashed { " dashed" } else { "" };
        let _ = write!(page, "<span><i class=\"c{}{dashed}\"></i>{}</span>", series.colour % 6, escape(&series.name));
    }
    let _ = writeln!(page, "</div>{}</figure>", svg(chart));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::{FaultSeen, Latency, PhaseFigures};
    use crate::tally::{histogram, record};

    fn report(name: &str) -> Report {
        let mut all = histogram();
        (1..=1000).for_each(|ms| record(&mut all, Duration::from_millis(ms)));
        let sample =
            |n: u64| Sample { seconds: n as f64, due: n * 10, created: n * 9, running: n * 8, ..Sample::default() };
        let phase = |rate: f64| PhaseFigures {
            pods: 1,
            offered_per_second: rate,
            p50_ms: 1.0,
            p99_ms: 9.0,
            ..PhaseFigures::default()
        };
        Report {
            name: name.into(),
            asked: 1000,
            ran: 1000,
            latencies: vec![Latency::of("running", &all)],
            phases: vec![phase(10.0), phase(20.0)],
            samples: (0..10).map(sample).collect(),
            faults: vec![FaultSeen { seconds: 3.0, what: "sim-1 is NotReady".into() }],
            ..Report::default()
        }
    }

    #[test]
    fn growth_is_a_line_with_a_dot_at_each_size() {
        let lines = vec![("scheduler", vec![(1_000.0, 30.0), (2_000.0, 60.0)]), ("nats-server", vec![(1_000.0, 9.0)])];
        let chart = Growth { title: "Memory", x: "pods", y: "MB", lines };
        let page = growth("a <scale>", "one run", &[chart]);
        assert_eq!(page.matches("<circle").count(), 3);
        for text in ["a &lt;scale&gt;", "Memory", "scheduler", "nats-server", "one run"] {
            assert!(page.contains(text), "{text}");
        }
    }

    #[test]
    fn a_page_stands_alone_and_shows_every_chart() {
        let page = render(&[&report("burst")]);
        for title in ["Pods so far", "Latency by percentile", "Latency against offered rate", "Queues"] {
            assert!(page.contains(title), "{title}");
        }
        assert!(page.contains("sim-1 is NotReady"));
        for outside in ["http://", "https://", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn two_reports_share_their_charts() {
        let page = render(&[&report("before"), &report("<after>")]);
        assert!(page.contains("A: before") && page.contains("B: &lt;after&gt;") && !page.contains("<after>"));
    }
}
