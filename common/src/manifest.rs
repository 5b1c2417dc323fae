//! Manifests: YAML or JSON as a person writes it, read strictly.
//!
//! A file becomes trees that know where each value stands (`yaml`, `tree`); `schema` says as data which fields there
//! are, and `walk` compares the two; what is left is a [`Pod`], which [`validate_pod`] judges. All faults of all
//! documents are told at once, each with its place.

pub mod document;
mod fault;
pub mod schema;
mod suggest;
mod tree;
mod walk;
mod yaml;

use serde_json::Value as Json;

use crate::model::Pod;
use crate::validation::{FieldError, validate_pod};

pub use fault::Fault;
use tree::{Node, Places, Position, Value};
use walk::Walk;

/// A pod as a file asks for it: checked, without defaults.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// What is asked for.
    pub pod: Pod,
    /// The file, as it was called.
    pub file: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// Where it begins, from 1.
    pub column: usize,
    places: Places,
}

impl Manifest {
    /// A fault that was found elsewhere, such as by the scheduler, with its place in the file.
    pub fn fault(&self, error: &FieldError) -> Fault {
        Fault::at(&self.file, self.places.find(error.place()), &error.path, &error.message)
    }
}

/// Reads all pods of a file. Documents without content are skipped, and `kind: List` is read as its items.
///
/// # Errors
/// With every fault of every document, in the file's order.
pub fn parse(file: &str, text: &str) -> Result<Vec<Manifest>, Vec<Fault>> {
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for document in yaml::read(text) {
        let read = match document {
            Ok(Node { value: Value::Null, .. }) => continue,
            Ok(node) => read_document(file, &node, &mut manifests),
            Err(error) => Err(vec![Fault::at(file, error.position, "", &error.message)]),
        };
        faults.extend(read.err().into_iter().flatten());
    }
    if faults.is_empty() {
        return Ok(manifests);
    }
    faults.sort_by_key(|fault| (fault.line, fault.column));
    Err(faults)
}

/// [`parse`], of bytes that may be no text.
///
/// # Errors
/// As [`parse`], and when the bytes are not UTF-8.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<Vec<Manifest>, Vec<Fault>> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(file, text),
        Err(error) => error,
    };
    let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let last = before.rsplit('\n').next().unwrap_or_default();
    let position = Position { line: before.matches('\n').count() + 1, column: last.chars().count() + 1 };
    let message = "the file is not UTF-8 text: save it as UTF-8";
    Err(vec![Fault::at(file, position, "", message)])
}

/// Checks an object that came as JSON over the bus, as strictly as a file.
///
/// # Errors
/// With every fault.
pub fn check(object: &Json) -> Result<Pod, Vec<FieldError>> {
    let node = Node::from(object);
    match read_pod(&node) {
        Ok((pod, _)) => Ok(pod),
        Err(errors) => Err(errors.into_iter().map(|(error, _)| error).collect()),
    }
}

fn read_document(file: &str, node: &Node, manifests: &mut Vec<Manifest>) -> Result<(), Vec<Fault>> {
    let Some(items) = list_items(node) else { return read_manifest(file, node, "", manifests) };
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        faults.extend(read_manifest(file, item, &format!("items[{index}]."), manifests).err().into_iter().flatten());
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn read_manifest(file: &str, node: &Node, prefix: &str, manifests: &mut Vec<Manifest>) -> Result<(), Vec<Fault>> {
    let Position { line, column } = node.position;
    match read_pod(node) {
        Ok((pod, places)) => {
            manifests.push(Manifest { pod, file: file.to_owned(), line, column, places });
            Ok(())
        }
        Err(errors) => Err(errors
            .iter()
            .map(|(error, position)| Fault::at(file, *position, &format!("{prefix}{}", error.path), &error.message))
            .collect()),
    }
}

/// The items of `kind: List`, which is what `get -o yaml` prints of several objects.
fn list_items(node: &Node) -> Option<&[Node]> {
    let is_list = matches!(node.get("kind")?.value, Value::Text(ref kind) if kind == "List" || kind == "PodList");
    match node.get("items").map(|items| &items.value) {
        Some(Value::List(items)) if is_list => Some(items),
        Some(Value::Null) | None if is_list => Some(&[]),
        _ => None,
    }
}

/// The pod with the places of its fields, or every fault with its place.
fn read_pod(node: &Node) -> Result<(Pod, Places), Vec<(FieldError, Position)>> {
    let Walk { json, places, mut errors, doubtful, .. } = Walk::run(node, &schema::POD);
    match serde_json::from_value::<Pod>(json) {
        Ok(pod) => {
            let told = |error: &FieldError| doubtful.iter().any(|path| is_at_or_below(&error.path, path));
            let found = validate_pod(&pod).into_iter().filter(|error| !told(error));
            errors.extend(found.map(|error| {
                let place = places.find(error.place());
                (error, place)
            }));
            if errors.is_empty() { Ok((pod, places)) } else { Err(errors) }
        }
        // The schema and the model disagree: a bug, but one that must not take anything in.
        Err(error) if errors.is_empty() => {
            Err(vec![(FieldError::new("", format!("cannot be read: {error}")), node.position)])
        }
        Err(_) => Err(errors),
    }
}

fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || ancestor.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests;
