//! What a command says when it cannot do what was asked: kubectl's words, and a hint where there is one.

use std::fmt::Write as _;
use std::process::ExitCode;

use podbus_common::api::Status;

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to say on stderr; the exit code is 1.
    Said(Report),
    /// Several things went wrong, each to be said.
    Several(Vec<Failure>),
    /// Everything was said already; only the code is left.
    Code(u8),
    /// Whoever read our output has gone. Nothing to say, and nobody to say it to.
    BrokenPipe,
}

/// A message in the form of `STYLE`: what, then why in indented lines, then what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// `error: ...` or `Error from server (NotFound): ...`.
    pub(crate) head: String,
    /// Causes, one a line.
    pub(crate) causes: Vec<String>,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// The server has no such object.
    pub(crate) not_found: bool,
}

impl Failure {
    fn said(head: String) -> Self {
        Self::Said(Report { head, causes: Vec::new(), hint: None, not_found: false })
    }

    /// `error: <message>`.
    pub(crate) fn local(message: impl std::fmt::Display) -> Self {
        Self::said(format!("error: {message}"))
    }

    /// `Error from server (<reason>): <message>`, as kubectl prints a refusal.
    pub(crate) fn refused(status: &Status) -> Self {
        let head = if status.reason.is_empty() {
            format!("Error from server: {}", status.message)
        } else if status.reason == "Invalid" && status.message.contains(" is invalid: ") {
            // kubectl drops its usual prefix here: `The Pod "web" is invalid: ...`.
            format!("The {}", status.message)
        } else {
            format!("Error from server ({}): {}", status.reason, status.message)
        };
        match Self::said(head) {
            Self::Said(report) => Self::Said(Report { not_found: status.code == 404, ..report }),
            other => other,
        }
    }

    /// Success when nothing failed.
    pub(crate) fn all(mut failures: Vec<Self>) -> Outcome {
        match failures.len() {
            0 => Ok(()),
            1 => Err(failures.remove(0)),
            _ => Err(Self::Several(failures)),
        }
    }

    /// Whether the server has no such object.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Said(report) if report.not_found)
    }

    /// `pods "x" not found`, for what the client itself looked for.
    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        Self::refused(&Status::failure(404, "NotFound", format!("{resource} \"{name}\" not found")))
    }

    /// Adds a line that says why.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl std::fmt::Display) -> Self {
        if let Self::Said(report) = &mut self {
            report.causes.push(cause.to_string());
        }
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        if let Self::Said(report) = &mut self {
            report.hint = Some(hint.to_string());
        }
        self
    }

    /// Says on which node.
    #[must_use]
    pub(crate) fn on(mut self, node: &str) -> Self {
        if let Self::Said(report) = &mut self
            && let Some((kind, message)) = report.head.split_once(": ")
            && !message.contains(node)
        {
            report.head = format!("{kind}: {node}: {message}");
        }
        self
    }

    /// Says what was being done, where kubectl says it: `Error from server (Conflict): error when applying "a": ...`.
    #[must_use]
    pub(crate) fn when(mut self, doing: &str) -> Self {
        // `The Pod "web" is invalid: ...` names its object already.
        if let Self::Said(report) = &mut self
            && !report.head.starts_with("The ")
            && let Some((kind, message)) = report.head.split_once(": ")
        {
            report.head = format!("{kind}: error when {doing}: {message}");
        }
        self
    }

    /// All that is to be said on stderr.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Said(report) => report.text(),
            Self::Several(failures) => failures.iter().map(Self::text).collect(),
            Self::Code(_) | Self::BrokenPipe => String::new(),
        }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Said(_) | Self::Several(_) => ExitCode::FAILURE,
            Self::Code(code) => ExitCode::from(*code),
            Self::BrokenPipe => ExitCode::SUCCESS,
        }
    }
}

impl Report {
    /// The message as text, each line ended.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.head);
        for cause in &self.causes {
            let _ = writeln!(text, "  {cause}");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {hint}");
        }
        text
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe { Self::BrokenPipe } else { Self::local(error) }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        error.chain().skip(1).fold(Self::local(&error), Self::because)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_kubectl_prints_it() {
        assert_eq!(Failure::not_found("pods", "web").text(), "Error from server (NotFound): pods \"web\" not found\n");
        let invalid = Status::failure(422, "Invalid", "Pod \"web\" is invalid: spec.containers: Required value");
        assert_eq!(Failure::refused(&invalid).text(), "The Pod \"web\" is invalid: spec.containers: Required value\n");
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let failure = Failure::local("cannot reach the bus").because("connection refused").hint("run `podbus up`");
        assert_eq!(failure.text(), "error: cannot reach the bus\n  connection refused\nhint: run `podbus up`\n");
    }

    #[test]
    fn a_broken_pipe_is_no_error() {
        let error = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(matches!(Failure::from(error), Failure::BrokenPipe));
    }
}
