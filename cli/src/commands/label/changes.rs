//! What is to become of labels or annotations. Pure; rules and words are kubectl's.

use std::collections::BTreeMap;

use podbus_common::validation::names;
use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};

/// A map of `metadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Labels,
    Annotations,
}

impl Field {
    /// Its name in `metadata`.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Annotations => "annotations",
        }
    }

    pub(super) fn singular(self) -> &'static str {
        match self {
            Self::Labels => "label",
            Self::Annotations => "annotation",
        }
    }

    /// What an object is now, as kubectl says it.
    pub(super) fn done(self, made: &Made) -> &'static str {
        match (self, made.set, made.removed) {
            (Self::Labels, true, _) => "labeled",
            (Self::Labels, false, true) => "unlabeled",
            (Self::Labels, false, false) => "not labeled",
            (Self::Annotations, ..) => "annotated",
        }
    }

    /// Those of an object.
    pub(super) fn of(self, object: &Value) -> Map<String, Value> {
        object["metadata"][self.key()].as_object().cloned().unwrap_or_default()
    }

    /// Why a key or a value cannot be; `None`: they can.
    fn fault(self, key: &str, value: &str) -> Option<(&'static str, String)> {
        match self {
            Self::Labels => names::qualified_name(key)
                .map(|why| ("key", why))
                .or_else(|| names::label_value(value).map(|why| ("value", why))),
            // Capitals are fine in an annotation's key, also before the slash.
            Self::Annotations => names::qualified_name(&key.to_lowercase()).map(|why| ("key", why)),
        }
    }
}

/// `tier=front`, `tier-`: no name of an object looks so.
pub(super) fn is_change(word: &str) -> bool {
    (word.contains('=') && !word.starts_with('=')) || (word.ends_with('-') && word.len() > 1)
}

/// What to set and what to take away.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) field: Field,
    set: BTreeMap<String, String>,
    remove: Vec<String>,
}

/// What changes did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Made {
    set: bool,
    removed: bool,
    /// Keys to take away that were not there.
    pub(super) missing: Vec<String>,
}

impl Changes {
    /// Reads `KEY=VALUE` and `KEY-`.
    pub(super) fn parse(field: Field, pairs: &[String]) -> Outcome<Self> {
        let mut changes = Self { field, set: BTreeMap::new(), remove: Vec::new() };
        let what = field.singular();
        for pair in pairs {
            let Some((key, value)) = pair.split_once('=') else {
                changes.remove.push(pair.strip_suffix('-').unwrap_or(pair).to_owned());
                continue;
            };
            if let Some((part, why)) = field.fault(key, value) {
                return Err(Failure::local(format!("invalid {what} {part}: \"{pair}\": {why}")));
            }
            changes.set.insert(key.to_owned(), value.to_owned());
        }
        if let Some(key) = changes.remove.iter().find(|key| changes.set.contains_key(*key)) {
            let text = format!("can not both modify and remove {what} \"{key}\" in the same command");
            return Err(Failure::local(text));
        }
        Ok(changes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Makes them in what an object has.
    pub(super) fn make(&self, pairs: &mut Map<String, Value>, overwrite: bool) -> Outcome<Made> {
        let differs = |(key, value): (&String, &String)| match pairs.get(key).and_then(Value::as_str) {
            Some(now) if now != value => Some(format!("'{key}' already has a value ({now})")),
            _ => None,
        };
        let kept: Vec<String> = self.set.iter().filter_map(differs).collect();
        if !kept.is_empty() && !overwrite {
            let text = format!("{}, and --overwrite is false", kept.join("; "));
            return Err(Failure::local(text).hint("--overwrite replaces it"));
        }
        let mut made = Made { set: false, removed: false, missing: Vec::new() };
        for (key, value) in &self.set {
            let value = Value::from(value.as_str());
            made.set |= pairs.insert(key.clone(), value.clone()) != Some(value);
        }
        for key in &self.remove {
            match pairs.remove(key) {
                Some(_) => made.removed = true,
                None => made.missing.push(key.clone()),
            }
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// What becomes of `{"a": "1"}`: the word, and what it is then; or the message.
    fn made(pairs: &str, overwrite: bool) -> Result<(String, String), String> {
        let mut object = json!({"a": "1"}).as_object().cloned().unwrap();
        let made =
            Changes::parse(Field::Labels, &words(pairs)).and_then(|changes| changes.make(&mut object, overwrite));
        let made = made.map_err(|failure| failure.text())?;
        Ok((Field::Labels.done(&made).to_owned(), Value::Object(object).to_string()))
    }

    #[test]
    fn labels_change_by_the_rules_and_words_of_kubectl() {
        for (pairs, overwrite, word, left) in [
            ("b=2", false, "labeled", r#"{"a":"1","b":"2"}"#),
            ("b=", false, "labeled", r#"{"a":"1","b":""}"#),
            ("a=1", false, "not labeled", r#"{"a":"1"}"#),
            ("a=2", true, "labeled", r#"{"a":"2"}"#),
            ("a-", false, "unlabeled", "{}"),
            ("b-", false, "not labeled", r#"{"a":"1"}"#),
            ("b=2 a-", false, "labeled", r#"{"b":"2"}"#),
        ] {
            assert_eq!(made(pairs, overwrite), Ok((word.to_owned(), left.to_owned())), "{pairs}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_and_why() {
        for (pairs, begins) in [
            ("a=2", "error: 'a' already has a value (1), and --overwrite is false\nhint: --overwrite replaces it\n"),
            ("b=2 b-", "error: can not both modify and remove label \"b\" in the same command"),
            ("b=x=y", "error: invalid label value: \"b=x=y\": a valid label must be an empty string or consist of"),
            ("a/b/c=1", "error: invalid label key: \"a/b/c=1\": a qualified name must consist of"),
        ] {
            let text = made(pairs, false).unwrap_err();
            assert!(text.starts_with(begins), "{pairs}: {text}");
        }
    }

    #[test]
    fn an_annotation_may_be_any_text() {
        let changes = Changes::parse(Field::Annotations, &["Example.com/note=a=b c-".to_owned()]).unwrap();
        let mut pairs = Map::new();
        changes.make(&mut pairs, false).unwrap();
        assert_eq!(Value::Object(pairs), json!({"Example.com/note": "a=b c-"}));
        assert!(Changes::parse(Field::Annotations, &words("-x=1")).is_err());
    }
}
