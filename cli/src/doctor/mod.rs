//! `podbus doctor`: what this machine lacks for a cluster, and what to do about it.

mod firewall;
mod kernel;
mod software;
mod store;

use crate::failure::{Failure, Outcome};
use crate::terminal::{Terminal, Tone};

/// The width of the column of subjects.
const SUBJECT_WIDTH: usize = 14;

/// Flags of `podbus doctor`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {}

/// What was found about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    subject: &'static str,
    verdict: Verdict,
    detail: String,
    hint: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// A cluster works, with the consequence that is told.
    Warning,
    /// No cluster works like this.
    Bad,
}

impl Finding {
    fn good(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, detail: detail.into(), hint: None }
    }

    fn warning(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Warning, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn bad(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Bad, detail: detail.into(), hint: Some(hint.into()) }
    }
}

/// Looks at the host and tells all that it found.
///
/// # Errors
/// When something stands in the way of a cluster.
pub(crate) async fn run(_: &Args, terminal: &Terminal) -> Outcome {
    let mut findings = examine();
    findings.extend(store::examine().await);
    for finding in &findings {
        terminal.line(&line(finding, terminal))?;
        if let Some(hint) = &finding.hint {
            terminal.line(&format!("  {:SUBJECT_WIDTH$} {} {hint}", "", terminal.paint.tone(Tone::Name, "hint:")))?;
        }
    }
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    let warnings = findings.iter().filter(|finding| finding.verdict == Verdict::Warning).count();
    match (bad, warnings) {
        (0, 0) => terminal.line("this machine is ready for `podbus up`"),
        (0, _) => terminal.line(&format!("this machine is ready for `podbus up`; worth a look: {warnings}")),
        _ => Err(Failure::local(format!("this machine is not ready for `podbus up`: {bad} to be mended"))),
    }
}

fn examine() -> Vec<Finding> {
    let root = nix::unistd::geteuid().is_root();
    let mut findings = vec![if root {
        Finding::good("root", "yes")
    } else {
        Finding::bad("root", "no: namespaces, cgroups and links need it", "sudo podbus doctor")
    }];
    findings.extend(kernel::examine(root));
    findings.extend(firewall::examine(root));
    findings.extend(software::examine());
    findings
}

fn line(finding: &Finding, terminal: &Terminal) -> String {
    let mark = match finding.verdict {
        Verdict::Good => terminal.paint.tone(Tone::Good, "✔"),
        Verdict::Warning => terminal.paint.tone(Tone::Waiting, "!"),
        Verdict::Bad => terminal.paint.tone(Tone::Bad, "✘"),
    };
    format!("{mark} {:SUBJECT_WIDTH$} {}", finding.subject, finding.detail)
}
