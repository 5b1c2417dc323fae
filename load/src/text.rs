//! Reports as tables for a terminal.

use std::fmt::Write as _;

use crate::report::{Latency, Report};

/// The figures of one report.
pub fn table(report: &Report) -> String {
    let mut text = format!("{}: {} pods asked, {} ran", report.name, report.asked, report.ran);
    if report.before > 0 {
        let _ = write!(text, ", {} were there before", report.before);
    }
    if report.replaced > 0 {
        let _ = write!(text, ", {} replaced", report.replaced);
    }
    text += "\n\n";
    let _ = writeln!(
        text,
        "{:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}  pods",
        "LATENCY (ms)", "p50", "p90", "p99", "p99.9", "max", "mean"
    );
    for latency in report.latencies.iter().filter(|latency| latency.count > 0) {
        let Latency { name, count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms, mean_ms, .. } = latency;
        let _ = writeln!(
            text,
            "{name:<18}{p50_ms:>10.1}{p90_ms:>10.1}{p99_ms:>10.1}{p999_ms:>10.1}{max_ms:>10.1}{mean_ms:>10.1}  {count}"
        );
    }
    let _ = writeln!(text, "\n{:<18}{:>10}", "THROUGHPUT", "pods/s");
    for (moment, rate) in &report.throughput {
        let _ = writeln!(text, "{moment:<18}{rate:>10.1}");
    }
    if report.phases.len() > 1 {
        let _ = writeln!(text, "\n{:<34}{:>10}{:>10}{:>10}", "ARRIVAL", "offered/s", "p50 ms", "p99 ms");
        for phase in report.phases.iter().filter(|phase| phase.pods > 0) {
            let _ = writeln!(
                text,
                "{:<34}{:>10.1}{:>10.1}{:>10.1}",
                phase.pattern, phase.offered_per_second, phase.p50_ms, phase.p99_ms
            );
        }
    }
    for (why, count) in &report.failed_requests {
        let _ = writeln!(text, "\n{count} requests were sent again: {why}");
    }
    for missed in &report.missed {
        let _ = writeln!(text, "\nexpected, and missed: {missed}");
    }
    text
}

/// Two reports beside each other. Percent is the change from the first to the second.
pub fn comparison(a: &Report, b: &Report) -> String {
    let mut text = format!("A  {} of {}\nB  {} of {}\n", a.name, a.started, b.name, b.started);
    let _ = writeln!(text, "\n{:<28}{:>12}{:>12}{:>10}", "", "A", "B", "change");
    let mut row = |name: &str, a: Option<f64>, b: Option<f64>| {
        let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let change = match (a, b) {
            (Some(a), Some(b)) if a > 0.0 => format!("{:+.1} %", (b / a - 1.0) * 100.0),
            _ => "-".to_owned(),
        };
        let _ = writeln!(text, "{name:<28}{:>12}{:>12}{change:>10}", cell(a), cell(b));
    };
    for moment in ["created", "bound", "running"] {
        row(&format!("{moment}, pods/s"), a.throughput.get(moment).copied(), b.throughput.get(moment).copied());
    }
    for name in ["created", "bound", "running", "created -> bound", "bound -> running", "deleted"] {
        let (a, b) = (a.latency(name), b.latency(name));
        if a.is_none() && b.is_none() {
            continue;
        }
        row(&format!("{name} p50, ms"), a.map(|l| l.p50_ms), b.map(|l| l.p50_ms));
        row(&format!("{name} p99, ms"), a.map(|l| l.p99_ms), b.map(|l| l.p99_ms));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(p50_ms: f64) -> Report {
        let latency = Latency { name: "running".into(), count: 2, p50_ms, p99_ms: 9.0, ..Latency::default() };
        let throughput = [("bound".to_owned(), 100.0)].into();
        Report { name: "burst".into(), asked: 2, ran: 2, latencies: vec![latency], throughput, ..Report::default() }
    }

    #[test]
    fn a_table_has_a_row_for_each_latency_that_was_measured() {
        let text = table(&report(4.25));
        assert!(text.starts_with("burst: 2 pods asked, 2 ran\n"), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("running                  4.2       0.0       9.0")),
            "{text}"
        );
        assert!(!text.contains("deleted"), "{text}");
    }

    #[test]
    fn a_comparison_tells_the_change() {
        let text = comparison(&report(4.0), &report(5.0));
        assert!(text.lines().any(|line| line.starts_with("running p50, ms") && line.ends_with("+25.0 %")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("created, pods/s") && line.ends_with('-')), "{text}");
    }
}
