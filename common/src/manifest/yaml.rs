//! YAML, and so JSON too, to trees. The one place that knows the YAML parser.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options};

use super::tree::{Entry, Node, Position, Value};

/// Values in a document after its aliases are put in. No pod has so many; a "billion laughs" has more.
const VALUES_MAX: usize = 100_000;
/// Nested lists and maps.
const DEPTH_MAX: usize = 64;

/// Why a document is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) message: String,
}

/// All documents of a text. One that cannot be read ends at the next `---`.
pub(super) fn read(text: &str) -> Vec<Result<Node, SyntaxError>> {
    let parser = Parser::new_from_str_with_options(text, options! { emit_comments: false });
    let mut reader = Reader { text, parser, anchors: HashMap::new(), values: 0 };
    let mut documents = Vec::new();
    loop {
        match reader.document() {
            Ok(Some(node)) => documents.push(Ok(node)),
            Ok(None) => return documents,
            Err(error) => {
                documents.push(Err(error));
                if !matches!(reader.parser.proceed_next_document(), Ok(true)) {
                    return documents;
                }
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// Of this document so far.
    values: usize,
}

impl<'a> Reader<'a> {
    /// The next document, `None` at the end.
    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::DocumentStart(..), _)) => break,
                Some(_) => {}
            }
        }
        self.anchors.clear();
        self.values = 0;
        let first = self.next()?;
        let Some((event, span)) = first else { return Ok(None) };
        let node = self.node(event, span, 0)?;
        self.next()?;
        Ok(Some(node))
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, SyntaxError> {
        self.parser.next_event().transpose().map_err(|error| self.syntax(&error))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        let position = position(span);
        if depth > DEPTH_MAX {
            return Err(refused(position, format!("lists and maps are nested deeper than {DEPTH_MAX}")));
        }
        self.count(1, position)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag.as_deref(), position)?, anchor),
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &["seq"], position)?;
                (Value::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), &["map"], position)?;
                (Value::Map(self.map(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(refused(position, "the alias is inside of what it stands for"));
                };
                let node = Node { position, value: node.value.clone() };
                self.count(node.size() - 1, position)?;
                return Ok(node);
            }
            _ => return Err(refused(position, "a value is missing here")),
        };
        let node = Node { position, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Some((Event::SequenceEnd, _)) | None => return Ok(items),
                Some((event, span)) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (key, position, plain) = match self.next()? {
                Some((Event::MappingEnd, _)) | None => break,
                Some((event, span)) => {
                    let plain = matches!(event, Event::Scalar(_, ScalarStyle::Plain, ..));
                    let key = self.node(event, span, depth + 1)?;
                    (key_text(&key)?, key.position, plain)
                }
            };
            let Some((event, span)) = self.next()? else { break };
            let node = self.node(event, span, depth + 1)?;
            if key == "<<" && plain {
                merge(node, &mut merged)?;
            } else {
                entries.push(Entry { key, position, node });
            }
        }
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn count(&mut self, values: usize, position: Position) -> Result<(), SyntaxError> {
        self.values = self.values.saturating_add(values);
        if self.values > VALUES_MAX {
            return Err(refused(position, format!("the document has more than {VALUES_MAX} values")));
        }
        Ok(())
    }

    fn syntax(&self, error: &ScanError) -> SyntaxError {
        let marker = error.marker();
        let position = Position { line: marker.line(), column: marker.col() + 1 };
        match self.tab_near(position.line) {
            Some(position) => refused(position, "YAML does not allow tabs for indentation, use spaces"),
            None if self.is_json() => refused(position, format!("this is not valid JSON: {}", error.info())),
            None => refused(position, format!("this is not valid YAML: {}", error.info())),
        }
    }

    /// Whether the file is probably JSON, which may be indented with tabs.
    fn is_json(&self) -> bool {
        self.text.trim_start().starts_with(['{', '['])
    }

    /// A tab in the indentation of a line or of the next one, where the parser may notice it first.
    fn tab_near(&self, line: usize) -> Option<Position> {
        if self.is_json() {
            return None;
        }
        self.text.lines().enumerate().skip(line.saturating_sub(1)).take(2).find_map(|(index, text)| {
            let indent = &text[..text.len() - text.trim_start().len()];
            let tab = indent.find('\t')?;
            Some(Position { line: index + 1, column: tab + 1 })
        })
    }
}

fn position(span: Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

fn refused(position: Position, message: impl Into<String>) -> SyntaxError {
    SyntaxError { position, message: message.into() }
}

fn check_tag(tag: Option<&Tag>, allowed: &[&str], position: Position) -> Result<(), SyntaxError> {
    match tag {
        Some(tag) if !tag.core_suffix().is_some_and(|suffix| allowed.contains(&suffix)) => {
            Err(refused(position, format!("the tag {} means nothing here", tag.original())))
        }
        _ => Ok(()),
    }
}

/// A scalar by YAML's core schema, which is what it would be in JSON.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, position: Position) -> Result<Value, SyntaxError> {
    let wants_text = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
    check_tag(tag, &["str", "int", "float", "bool", "null"], position)?;
    if style != ScalarStyle::Plain || wants_text {
        return Ok(Value::Text(text.into_owned()));
    }
    Ok(match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        number if is_number(number) => Value::Number { text: number.to_owned(), integer: integer(number) },
        _ => Value::Text(text.into_owned()),
    })
}

/// Whether it is a number: digits, perhaps with sign, point and exponent, or hexadecimal or octal ones.
fn is_number(text: &str) -> bool {
    if text.strip_prefix("0x").is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_hexdigit()))
        || text.strip_prefix("0o").is_some_and(|t| !t.is_empty() && t.bytes().all(|b| (b'0'..=b'7').contains(&b)))
    {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.')
        && digits.bytes().any(|b| b.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

fn integer(text: &str) -> Option<i64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i64::from_str_radix(digits, 8).ok();
    }
    // As Kubernetes' reader has it, which is YAML 1.1: a leading zero means octal.
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            i64::from_str_radix(digits, 8).ok()
        }
        _ => text.parse().ok(),
    }
}

fn key_text(key: &Node) -> Result<String, SyntaxError> {
    match &key.value {
        Value::Text(text) | Value::Number { text, .. } => Ok(text.clone()),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Null => Ok("null".to_owned()),
        Value::List(_) | Value::Map(_) => Err(refused(key.position, "a key must be a text, not a list or a map")),
    }
}

/// `<<: *base` and `<<: [*one, *two]`: the keys of the first one win.
fn merge(node: Node, merged: &mut Vec<Entry>) -> Result<(), SyntaxError> {
    let position = node.position;
    match node.value {
        Value::Map(entries) => {
            for entry in entries {
                if !merged.iter().any(|m| m.key == entry.key) {
                    merged.push(entry);
                }
            }
            Ok(())
        }
        Value::List(nodes) => nodes.into_iter().try_for_each(|node| match node.value {
            Value::Map(_) => merge(node, merged),
            _ => Err(refused(node.position, "only maps can be merged with <<")),
        }),
        _ => Err(refused(position, "only maps can be merged with <<")),
    }
}
