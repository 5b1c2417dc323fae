//! A document against the schema: what fits becomes JSON of the model, what does not becomes a fault.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use super::schema::{self, KUBERNETES_KINDS, Kind, Object, Range};
use super::suggest::nearest;
use super::tree::{Entry, Node, Places, Position, Value};
use crate::quantity::Quantity;
use crate::validation::{FieldError, unsupported};

/// A document walked through.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// What fits.
    pub(super) json: Json,
    pub(super) places: Places,
    pub(super) errors: Vec<(FieldError, Position)>,
    /// Paths whose values are not in `json`, though the person gave one: what validation says of them is no news.
    pub(super) doubtful: Vec<String>,
    path: String,
    /// The document is a pod: what stands at the wrong place in it may belong elsewhere.
    of_pod: bool,
}

impl Walk {
    /// Compares a document with a schema.
    pub(super) fn of(node: &Node, schema: &Object) -> Self {
        let mut walk = Self::default();
        walk.places.insert("", node.position);
        walk.json = match &node.value {
            Value::Map(entries) => walk.object(entries, schema),
            other => {
                walk.doubt(format!("a document must be an object, not {}", describe(other)));
                Json::Null
            }
        };
        walk
    }

    /// Compares a document with the schema of a pod.
    pub(super) fn run(node: &Node, schema: &Object) -> Self {
        let mut walk = Self { of_pod: true, ..Self::default() };
        walk.places.insert("", node.position);
        walk.json = match &node.value {
            Value::Map(_) if !walk.is_pod(node) => Json::Null,
            Value::Map(entries) => walk.object(entries, schema),
            other => {
                walk.doubt(format!("a manifest must be an object, not {}", describe(other)));
                Json::Null
            }
        };
        if let Json::Object(fields) = &mut walk.json {
            fields.entry("spec").or_insert_with(|| Json::Object(Map::new()));
        }
        walk
    }

    /// Another kind has other fields: complaining about each of them would help nobody.
    fn is_pod(&mut self, node: &Node) -> bool {
        let version = node.get("apiVersion").map(|n| (&n.value, n.position));
        match node.get("kind").map(|n| (&n.value, n.position)) {
            Some((Value::Text(kind), _)) if kind == "Pod" => {}
            Some((Value::Text(kind), position)) => {
                self.fault("kind", position, other_kind(kind));
                return false;
            }
            None | Some((Value::Null, _)) => {
                self.fault("kind", node.position, "Required value: must be \"Pod\"".to_owned());
            }
            // The schema says that it must be a string.
            Some(_) => {}
        }
        match version {
            Some((Value::Text(version), position)) if version != "v1" => {
                self.fault("apiVersion", position, unsupported(version, &["v1"]));
            }
            None | Some((Value::Null, _)) => {
                self.fault("apiVersion", node.position, "Required value: must be \"v1\"".to_owned());
            }
            Some(_) => {}
        }
        true
    }

    fn object(&mut self, entries: &[Entry], schema: &Object) -> Json {
        let mut json = Map::new();
        for (index, entry) in entries.iter().enumerate() {
            let length = self.push_field(&entry.key);
            if let Some(first) = entries[..index].iter().find(|e| e.key == entry.key) {
                self.repeated(entry, first);
            } else if let Some((name, kind)) = schema.fields.iter().find(|(name, _)| *name == entry.key) {
                self.places.insert(&self.path, entry.node.position);
                if let Some(value) = self.value(&entry.node, kind) {
                    json.insert((*name).to_owned(), value);
                }
            } else {
                self.places.insert(&self.path, entry.position);
                self.unknown(&entry.key, schema, length);
            }
            self.path.truncate(length);
        }
        Json::Object(json)
    }

    fn unknown(&mut self, key: &str, schema: &Object, parent: usize) {
        if schema.unsupported.contains(&key) {
            self.doubt("is a Kubernetes field that podbus does not support yet".to_owned());
            return;
        }
        let known = schema.fields.iter().map(|(name, _)| *name).chain(schema.unsupported.iter().copied());
        let hint = nearest(key, known);
        if let Some(hint) = hint {
            // What was meant is not missing.
            let meant = self.path[..parent].to_owned();
            self.doubtful.push(if meant.is_empty() { hint.to_owned() } else { format!("{meant}.{hint}") });
        }
        let belongs = match (hint, schema::homes(key).as_slice()) {
            (None, homes @ [_, ..]) if self.of_pod => format!(", it belongs in {}", homes.join(" or ")),
            _ => did_you_mean(hint),
        };
        self.doubt(format!("unknown field{belongs}"));
    }

    fn repeated(&mut self, entry: &Entry, first: &Entry) {
        let line = first.position.line;
        let at = if line == 0 { String::new() } else { format!(", it stands in line {line} already") };
        let path = self.path.clone();
        self.fault(&path, entry.position, format!("duplicate key{at}"));
    }

    /// The JSON of a value that fits its kind; `None` for null, and for what does not fit.
    fn value(&mut self, node: &Node, kind: &Kind) -> Option<Json> {
        match (kind, &node.value) {
            (Kind::Ignored, _) | (_, Value::Null) => None,
            (Kind::Text, Value::Text(text)) => Some(Json::from(text.as_str())),
            (Kind::Scalar, Value::Text(text) | Value::Number { text, .. }) => Some(Json::from(text.as_str())),
            (Kind::Bool, Value::Bool(b)) => Some(Json::from(*b)),
            (Kind::Integer(range), Value::Number { text, integer }) => self.integer(text, *integer, range),
            (Kind::Quantity, Value::Text(text) | Value::Number { text, .. }) => self.quantity(text),
            (Kind::OneOf(words), Value::Text(text)) => self.one_of(text, words),
            (Kind::List(item), Value::List(nodes)) => Some(self.list(nodes, item)),
            (Kind::Map(item), Value::Map(entries)) => Some(self.map(entries, item)),
            (Kind::Object(schema), Value::Map(entries)) => Some(self.object(entries, schema)),
            (kind, value) => {
                self.doubt(mismatch(kind, value));
                None
            }
        }
    }

    fn integer(&mut self, text: &str, integer: Option<i64>, range: &Range) -> Option<Json> {
        match integer {
            Some(n) if (range.min..=range.max).contains(&n) => return Some(Json::from(n)),
            Some(n) => self.doubt(format!("Invalid value: {n}: {}", range.message)),
            None => self.doubt(format!("must be a whole number, not {text}")),
        }
        None
    }

    fn quantity(&mut self, text: &str) -> Option<Json> {
        match Quantity::parse(text) {
            Ok(_) => return Some(Json::from(text)),
            Err(why) => self.doubt(format!("Invalid value: \"{text}\": {why}")),
        }
        None
    }

    fn one_of(&mut self, text: &str, words: &[&str]) -> Option<Json> {
        if words.contains(&text) {
            return Some(Json::from(text));
        }
        self.doubt(unsupported(text, words));
        None
    }

    fn list(&mut self, nodes: &[Node], kind: &Kind) -> Json {
        let mut items = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let length = self.push_index(index);
            self.places.insert(&self.path, node.position);
            if node.value == Value::Null {
                self.doubt(mismatch(kind, &node.value));
            }
            // What does not fit keeps its place, so that the paths of those behind stay right.
            let place_holder =
                || if matches!(kind, Kind::Object(_)) { Json::Object(Map::new()) } else { Json::from("") };
            items.push(self.value(node, kind).unwrap_or_else(place_holder));
            self.path.truncate(length);
        }
        Json::Array(items)
    }

    fn map(&mut self, entries: &[Entry], kind: &Kind) -> Json {
        let mut json = Map::new();
        for (index, entry) in entries.iter().enumerate() {
            let length = self.push_index(&entry.key);
            self.places.insert(&self.path, entry.node.position);
            if let Some(first) = entries[..index].iter().find(|e| e.key == entry.key) {
                self.repeated(entry, first);
            } else if let Some(value) = self.value(&entry.node, kind) {
                json.insert(entry.key.clone(), value);
            } else if entry.node.value == Value::Null {
                // `key:` without a value is the empty text, as in Kubernetes.
                json.insert(entry.key.clone(), Json::from(""));
            }
            self.path.truncate(length);
        }
        Json::Object(json)
    }

    /// A fault of the value at the path, which is not taken.
    fn doubt(&mut self, message: String) {
        let path = self.path.clone();
        self.fault(&path, self.places.find(&path), message);
    }

    fn fault(&mut self, path: &str, position: Position, message: String) {
        self.doubtful.push(path.to_owned());
        self.errors.push((FieldError::new(path, message), position));
    }

    /// Lengthens the path and returns its length before.
    fn push_field(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }

    /// As [`push_field`](Self::push_field), of a place in a list or of a key in a map.
    fn push_index(&mut self, index: impl std::fmt::Display) -> usize {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = write!(self.path, "[{index}]");
        length
    }
}

/// Why a document of another kind is not taken.
fn other_kind(kind: &str) -> String {
    if matches!(kind, "List" | "PodList") {
        "a List holds its pods in the list \"items\", and no other List".to_owned()
    } else if KUBERNETES_KINDS.contains(&kind) {
        format!("\"{kind}\" is a Kubernetes kind that podbus does not support yet")
    } else {
        let hint = nearest(kind, ["Pod", "List"].into_iter().chain(KUBERNETES_KINDS));
        format!("unknown kind \"{kind}\"{}", did_you_mean(hint))
    }
}

fn did_you_mean(hint: Option<&str>) -> String {
    hint.map_or_else(String::new, |hint| format!(", did you mean \"{hint}\"?"))
}

fn mismatch(kind: &Kind, value: &Value) -> String {
    let wanted = match kind {
        Kind::Text | Kind::OneOf(_) => "a string",
        Kind::Scalar => "a word or a number",
        Kind::Bool => "true or false",
        Kind::Integer(_) => "a whole number",
        Kind::Quantity => "a quantity",
        Kind::List(_) => "a list",
        Kind::Map(_) | Kind::Object(_) => "an object",
        Kind::Ignored => "anything",
    };
    let hint = match (kind, value) {
        (Kind::Text, Value::Number { text, .. }) => format!("; write \"{text}\""),
        (Kind::Text, Value::Bool(b)) => format!("; write \"{b}\""),
        (Kind::List(_), Value::Text(_) | Value::Map(_)) => "; begin each item with \"- \"".to_owned(),
        _ => String::new(),
    };
    format!("must be {wanted}, not {}{hint}", describe(value))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number { text, .. } => format!("the number {text}"),
        Value::Text(text) if text.chars().count() > 40 => "a string".to_owned(),
        Value::Text(text) => format!("the string {text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "an object".to_owned(),
    }
}
