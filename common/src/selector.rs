//! kubectl's selectors: by label (`-l 'app=web,tier in (a,b),!old'`) and by field (`--field-selector`).

use std::collections::BTreeMap;

/// Which labels an object must have. The empty selector takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    terms: Vec<(String, Test)>,
}

/// What one term asks of a label's value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// Any of these; `=` is a list of one.
    In(Vec<String>),
    /// None of these; an object without the label passes.
    NotIn(Vec<String>),
}

/// Which fields an object must have. The empty selector takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    equal: bool,
    value: String,
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A part has another shape.
    #[error(
        "unable to parse requirement: {0:?} is not one of KEY, !KEY, KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY notin (A,B)"
    )]
    Label(String),
    /// A key or a value could not be a label's.
    #[error("unable to parse requirement: {0:?} cannot be part of a label")]
    Text(String),
    /// A part has another shape.
    #[error("invalid selector: {0:?} is not one of FIELD=VALUE, FIELD==VALUE, FIELD!=VALUE")]
    Field(String),
    /// A parenthesis has no partner.
    #[error("unable to parse requirement: a parenthesis is missing in {0:?}")]
    Parenthesis(String),
}

impl LabelSelector {
    /// Reads kubectl's `-l`.
    ///
    /// # Errors
    /// When a part has another shape, or a key or value could not be a label's.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let terms = outside_parentheses(text)?.into_iter().map(label_term).collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// Whether an object with these labels is taken.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.terms.iter().all(|(key, test)| {
            let value = labels.get(key);
            match test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }

    /// Whether it takes all.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

impl FieldSelector {
    /// Reads kubectl's `--field-selector`.
    ///
    /// # Errors
    /// When a part has no `=`, `==` or `!=`, or no field.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = text.split(',').map(str::trim).filter(|term| !term.is_empty()).map(field_term);
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Whether an object is taken; `value_of` gives a field's value, and `None` for one that the object cannot have,
    /// which is never taken.
    pub fn matches(&self, value_of: impl Fn(&str) -> Option<String>) -> bool {
        self.terms.iter().all(|term| value_of(&term.field).is_some_and(|value| (value == term.value) == term.equal))
    }

    /// The fields that it names, so that a server can refuse those that it does not know.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.field.as_str())
    }

    /// Whether it takes all.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
}

/// The parts between commas, where a comma inside parentheses separates nothing.
fn outside_parentheses(text: &str) -> Result<Vec<&str>, SelectorError> {
    let unbalanced = || SelectorError::Parenthesis(text.to_owned());
    let (mut parts, mut start, mut open) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        match c {
            '(' if open => return Err(unbalanced()),
            ')' if !open => return Err(unbalanced()),
            '(' => open = true,
            ')' => open = false,
            ',' if !open => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if open {
        return Err(unbalanced());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn label_term(text: &str) -> Result<(String, Test), SelectorError> {
    let text = text.trim();
    let refused = || SelectorError::Label(text.to_owned());
    let (key, test) = if let Some(before) = text.strip_suffix(')') {
        let (before, list) = before.split_once('(').ok_or_else(refused)?;
        let mut words = before.split_whitespace();
        let (Some(key), Some(operator), None) = (words.next(), words.next(), words.next()) else {
            return Err(refused());
        };
        let values = list.split(',').map(value).collect::<Result<_, _>>()?;
        match operator {
            "in" => (key, Test::In(values)),
            "notin" => (key, Test::NotIn(values)),
            _ => return Err(refused()),
        }
    } else if let Some((key, wanted)) = text.split_once("!=") {
        (key, Test::NotIn(vec![value(wanted)?]))
    } else if let Some((key, wanted)) = text.split_once('=') {
        (key, Test::In(vec![value(wanted.strip_prefix('=').unwrap_or(wanted))?]))
    } else if let Some(key) = text.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (text, Test::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(refused());
    }
    if crate::validation::names::qualified_name(key).is_some() {
        return Err(SelectorError::Text(key.to_owned()));
    }
    Ok((key.to_owned(), test))
}

fn value(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    match crate::validation::names::label_value(text) {
        None => Ok(text.to_owned()),
        Some(_) => Err(SelectorError::Text(text.to_owned())),
    }
}

fn field_term(text: &str) -> Result<FieldTerm, SelectorError> {
    let (field, equal, value) = if let Some((field, value)) = text.split_once("!=") {
        (field, false, value)
    } else if let Some((field, value)) = text.split_once('=') {
        (field, true, value.strip_prefix('=').unwrap_or(value))
    } else {
        return Err(SelectorError::Field(text.to_owned()));
    };
    let (field, value) = (field.trim(), value.trim());
    if field.is_empty() {
        return Err(SelectorError::Field(text.to_owned()));
    }
    Ok(FieldTerm { field: field.to_owned(), equal, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn label_selectors_take_what_kubectls_take() {
        let web = labels("app=web,tier=front,empty=");
        for (selector, taken) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web ", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("other!=x", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("!app", false),
            ("tier in (front,back)", true),
            ("tier in (back)", false),
            ("tier notin (back, side)", true),
            ("tier notin (front)", false),
            ("other notin (x)", true),
            ("other in (x)", false),
            ("app=web,tier in (front,back),!other", true),
            ("app=web,tier=back", false),
            ("empty=", true),
            ("app=", false),
            ("example.com/app!=x", true),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&web), taken, "{selector}");
        }
    }

    #[test]
    fn what_is_no_label_selector_is_refused() {
        for text in [
            "=",
            "a=b,",
            "a b",
            "a in",
            "a in (b",
            "a in b)",
            "a is (b)",
            "a=b c",
            "a=b=c",
            "!",
            "a in ((b))",
            "a>1",
            "/a",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn field_selectors_compare_what_the_object_has() {
        let value_of = |field: &str| (field == "status.phase").then(|| "Running".to_owned());
        for (selector, taken) in [
            ("", true),
            ("status.phase=Running", true),
            ("status.phase==Running", true),
            ("status.phase!=Running", false),
            ("status.phase!=Failed", true),
            ("other=1", false),
            ("status.phase=Running,status.phase!=Failed", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(value_of), taken, "{selector}");
        }
        for text in ["a", "=b", "a in (b)"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
