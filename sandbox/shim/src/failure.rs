//! What did not work, and at which step: it travels to the daemon as it is.

use podbus_sandbox_linux::Errno;

/// How much of a path or name is told.
const SUBJECT_BYTES_MAX: usize = 256;

/// A step that failed.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) errno: Errno,
    /// At what, in words that follow "cannot".
    step: &'static str,
    /// Of which path or name; the beginning of it.
    subject: [u8; SUBJECT_BYTES_MAX],
    length: usize,
    /// Of a program that could not be run; else 0.
    exit_code: i32,
}

impl Failure {
    /// At a step, of `subject` (which may be empty).
    pub(crate) fn new(errno: Errno, step: &'static str, subject: &[u8]) -> Self {
        let length = subject.len().min(SUBJECT_BYTES_MAX);
        let mut failure = Self { errno, step, subject: [0; SUBJECT_BYTES_MAX], length, exit_code: 0 };
        failure.subject[..length].copy_from_slice(&subject[..length]);
        failure
    }

    /// The program of the plan could not be run. The exit codes are those of a shell.
    pub(crate) fn of_program(errno: Errno, step: &'static str, subject: &[u8]) -> Self {
        let exit_code = if matches!(errno, Errno::NOENT | Errno::NOTDIR) { 127 } else { 126 };
        Self { exit_code, ..Self::new(errno, step, subject) }
    }
}

/// What a step returns.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Names the step of a system call.
pub(crate) trait At<T> {
    /// The step is `step`.
    fn at(self, step: &'static str) -> Outcome<T>;
    /// The step is `step`, of `subject`.
    fn at_path(self, step: &'static str, subject: &[u8]) -> Outcome<T>;
}

impl<T> At<T> for podbus_sandbox_linux::Result<T> {
    fn at(self, step: &'static str) -> Outcome<T> {
        self.at_path(step, b"")
    }

    fn at_path(self, step: &'static str, subject: &[u8]) -> Outcome<T> {
        self.map_err(|errno| Failure::new(errno, step, subject))
    }
}

const TEXT_BYTES_MAX: usize = 512;

/// A failure as it travels: also one of a child, whose memory is gone.
pub(crate) struct Report {
    /// Why.
    pub(crate) errno: Errno,
    /// Of a program that could not be run; else 0.
    pub(crate) exit_code: i32,
    text: [u8; TEXT_BYTES_MAX],
    length: usize,
}

impl Report {
    /// What a child reported.
    pub(crate) fn new(errno: Errno, parts: &[&[u8]]) -> Self {
        let mut report = Self { errno, exit_code: 0, text: [0; TEXT_BYTES_MAX], length: 0 };
        for part in parts {
            let count = part.len().min(TEXT_BYTES_MAX - report.length);
            report.text[report.length..report.length + count].copy_from_slice(&part[..count]);
            report.length += count;
        }
        report
    }

    /// The step and its subject, cut where there is no more room.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

impl From<Failure> for Report {
    fn from(failure: Failure) -> Self {
        let subject = &failure.subject[..failure.length];
        let gap: &[u8] = if subject.is_empty() { b"" } else { b" " };
        let report = Self::new(failure.errno, &[failure.step.as_bytes(), gap, subject]);
        Self { exit_code: failure.exit_code, ..report }
    }
}
