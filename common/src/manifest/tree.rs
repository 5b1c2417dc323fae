//! A document as a tree in which each value knows where it stands.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// A place in a file, from 1; 0 where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) position: Position,
    pub(super) value: Value,
}

/// What YAML and JSON can say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As written, so that no digit of a quantity is lost; `integer` when it is one that fits.
    Number {
        text: String,
        integer: Option<i64>,
    },
    Text(String),
    List(Vec<Node>),
    /// In the file's order; keys may repeat.
    Map(Vec<Entry>),
}

/// One key of a map and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) position: Position,
    pub(super) node: Node,
}

impl Node {
    /// The value of a map's key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// How many values it holds, itself among them.
    pub(super) fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.size()).sum(),
            _ => 0,
        }
    }
}

/// JSON that came over the bus stands nowhere.
impl From<&Json> for Node {
    fn from(json: &Json) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(number) => Value::Number { text: number.to_string(), integer: number.as_i64() },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::List(items.iter().map(Self::from).collect()),
            Json::Object(fields) => {
                let entry = |(key, value): (&String, &Json)| Entry {
                    key: key.clone(),
                    position: Position::default(),
                    node: Self::from(value),
                };
                Value::Map(fields.iter().map(entry).collect())
            }
        };
        Self { position: Position::default(), value }
    }
}

/// Where each field of a document stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    by_path: BTreeMap<String, Position>,
}

impl Places {
    /// What stands nowhere needs no place.
    pub(super) fn insert(&mut self, path: &str, position: Position) {
        if position != Position::default() {
            self.by_path.entry(path.to_owned()).or_insert(position);
        }
    }

    /// The place of a field, or, where it is missing, of the nearest one around it.
    pub(super) fn find(&self, path: &str) -> Position {
        let mut path = path;
        loop {
            if let Some(position) = self.by_path.get(path) {
                return *position;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.by_path.get("").copied().unwrap_or_default(),
            }
        }
    }
}
