//! One thing that is wrong with a manifest, and where.

use std::fmt;

use super::tree::Position;

/// One thing that is wrong with a manifest: `pod.yaml:14:7: spec.containers[0].lifecycl: unknown field, did you mean
/// "lifecycle"?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was called.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// `spec.containers[0].image`; empty when no field is meant.
    pub path: String,
    /// What is wrong, for a person.
    pub message: String,
}

impl Fault {
    pub(super) fn at(file: &str, position: Position, path: &str, message: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: position.line,
            column: position.column,
            path: path.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
