//! Documents that are no pod, such as a scenario of `podbus load`, read as strictly: a schema says which fields there
//! are, and every fault has its place.

use serde::de::DeserializeOwned;

use super::fault::Fault;
use super::schema::Object;
use super::tree::{Node, Places, Position, Value};
use super::walk::Walk;
use super::yaml;

/// What a file says, and where it says it.
#[derive(Debug, Clone)]
pub struct Document<T> {
    /// What it says.
    pub content: T,
    file: String,
    places: Places,
}

impl<T> Document<T> {
    /// A fault of the field `path`, such as `arrival[1].rate`, with its place in the file.
    pub fn fault(&self, path: &str, message: &str) -> Fault {
        Fault::at(&self.file, self.places.find(path), path, message)
    }
}

/// Reads the one document of a file.
///
/// # Errors
/// With every fault, in the file's order.
pub fn read<T: DeserializeOwned>(file: &str, text: &str, schema: &Object) -> Result<Document<T>, Vec<Fault>> {
    let mut documents = Vec::new();
    for document in yaml::read(text) {
        match document {
            Ok(Node { value: Value::Null, .. }) => {}
            Ok(node) => documents.push(node),
            Err(error) => return Err(vec![Fault::at(file, error.position, "", &error.message)]),
        }
    }
    let [node] = documents.as_slice() else {
        let second = documents.get(1).map_or(Position { line: 1, column: 1 }, |node| node.position);
        let message = format!("there must be one document in this file, not {}", documents.len());
        return Err(vec![Fault::at(file, second, "", &message)]);
    };
    let Walk { json, places, errors, .. } = Walk::of(node, schema);
    if !errors.is_empty() {
        let fault = |(error, position): &(crate::validation::FieldError, Position)| {
            Fault::at(file, *position, &error.path, &error.message)
        };
        let mut faults: Vec<_> = errors.iter().map(fault).collect();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        return Err(faults);
    }
    match serde_json::from_value(json) {
        Ok(content) => Ok(Document { content, file: file.to_owned(), places }),
        Err(error) => Err(vec![Fault::at(file, node.position, "", &error.to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::manifest::schema::{Kind, Range};

    static SCHEMA: Object = Object {
        fields: &[("seed", Kind::Integer(Range { min: 0, max: 9, message: "must be a digit" })), ("faults", FAULTS)],
        unsupported: &[],
    };
    const FAULTS: Kind = Kind::List(&Kind::Object(&FAULT));
    static FAULT: Object = Object { fields: &[("at", Kind::Scalar)], unsupported: &[] };

    #[derive(Debug, Deserialize)]
    struct Script {
        faults: Vec<Moment>,
    }

    #[derive(Debug, Deserialize)]
    struct Moment {
        at: String,
    }

    #[test]
    fn a_document_tells_where_each_field_stands() {
        let script: Document<Script> = read("s.yaml", "faults:\n- at: 5s\n- at: 12\n", &SCHEMA).unwrap();
        assert_eq!(script.content.faults[1].at, "12", "a number stays as it was written");
        assert_eq!(script.fault("faults[1].at", "no unit").to_string(), "s.yaml:3:7: faults[1].at: no unit");
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let cases = [
            ("seed: 10\n", "s.yaml:1:7: seed: Invalid value: 10: must be a digit"),
            ("fautls: []\n", "s.yaml:1:1: fautls: unknown field, did you mean \"faults\"?"),
            ("faults:\n- at: [1]\n", "s.yaml:2:7: faults[0].at: must be a word or a number, not a list"),
            ("- 1\n", "s.yaml:1:1: a document must be an object, not a list"),
            ("", "s.yaml:1:1: there must be one document in this file, not 0"),
        ];
        for (text, fault) in cases {
            let faults = read::<Script>("s.yaml", text, &SCHEMA).unwrap_err();
            assert_eq!(faults[0].to_string(), fault);
        }
    }
}
