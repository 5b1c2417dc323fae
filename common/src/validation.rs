//! Kubernetes' rules for pods and for what a person may say of nodes, in its words.
//!
//! A pod is judged as it is, with or without defaults. `pod` has the rules of the object and its spec, `container`,
//! `volume`, `taint`, `toleration`, `scheduling` and `selector` those of their parts, `names` those of names, `update` what may change.

mod container;
pub mod names;
mod pod;
mod scheduling;
mod selector;
mod taint;
mod toleration;
mod update;
mod volume;

use std::fmt;

pub use container::is_extended_resource;
pub use pod::{validate_names, validate_pod};
pub use taint::validate_taints;
pub use update::{inherit, validate_update};

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.containers[0].image`.
    pub path: String,
    /// `Required value`, `Invalid value: "x": must be ...`.
    pub message: String,
    /// What to point at in a file where Kubernetes names only the whole map: `metadata.labels[-app]`.
    pub(crate) entry: Option<String>,
}

impl FieldError {
    /// `message` about the field `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), entry: None }
    }

    /// The field to point at in a file.
    pub(crate) fn place(&self) -> &str {
        self.entry.as_deref().unwrap_or(&self.path)
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Kubernetes' answer to an object with faults: `Pod "web" is invalid: <fault>`, or `[<fault>, <fault>]`.
pub fn invalid_message(kind: &str, name: &str, errors: &[FieldError]) -> String {
    let all = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if errors.len() == 1 {
        format!("{kind} \"{name}\" is invalid: {all}")
    } else {
        format!("{kind} \"{name}\" is invalid: [{all}]")
    }
}

/// What is no member of an enumeration.
pub(crate) fn unsupported(value: &str, supported: &[&str]) -> String {
    let supported: Vec<_> = supported.iter().map(|word| format!("\"{word}\"")).collect();
    format!("Unsupported value: \"{value}\": supported values: {}", supported.join(", "))
}

/// Faults as they are found, each with the path of its field.
#[derive(Debug, Default)]
struct Faults {
    list: Vec<FieldError>,
}

impl Faults {
    fn required(&mut self, path: &str, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.list.push(FieldError::new(path, message));
    }

    fn invalid(&mut self, path: &str, value: &str, detail: &str) {
        self.list.push(FieldError::new(path, format!("Invalid value: \"{value}\": {detail}")));
    }

    /// A fault of one entry of the map `path`, told of the map as Kubernetes does.
    fn invalid_entry(&mut self, path: &str, key: &str, value: &str, detail: &str) {
        self.invalid(path, value, detail);
        if let Some(error) = self.list.last_mut() {
            error.entry = Some(format!("{path}[{key}]"));
        }
    }

    /// A value that is no string, so without quotes.
    fn invalid_number(&mut self, path: &str, value: impl fmt::Display, detail: &str) {
        self.list.push(FieldError::new(path, format!("Invalid value: {value}: {detail}")));
    }

    fn duplicate(&mut self, path: &str, value: &str) {
        self.list.push(FieldError::new(path, format!("Duplicate value: \"{value}\"")));
    }

    fn not_found(&mut self, path: &str, value: &str) {
        self.list.push(FieldError::new(path, format!("Not found: \"{value}\"")));
    }

    fn forbidden(&mut self, path: &str, detail: &str) {
        self.list.push(FieldError::new(path, format!("Forbidden: {detail}")));
    }

    /// An empty value stands for a default.
    fn one_of(&mut self, path: &str, value: &str, supported: &[&str]) {
        if !value.is_empty() && !supported.contains(&value) {
            self.list.push(FieldError::new(path, unsupported(value, supported)));
        }
    }

    /// A value and the rule of its name, such as [`names::dns_label`].
    fn name(&mut self, path: &str, value: &str, rule: fn(&str) -> Option<String>) {
        if let Some(why) = rule(value) {
            self.invalid(path, value, &why);
        }
    }
}

#[cfg(test)]
mod tests;
