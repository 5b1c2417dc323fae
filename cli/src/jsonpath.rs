//! kubectl's JSONPath templates: text, `{.path}`, `{range .items[*]}...{end}`, `{"\n"}`.
//!
//! A subset: fields, `['a.b']`, `[n]`, `[-1]`, `[*]`, `.*`, `[?(@.type=="Ready")]`. What is missing in the data
//! yields nothing, as with kubectl.

use serde_json::Value;

/// A template, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Path(Path),
    Range(Path, Vec<Part>),
}

/// A path into a JSON value, read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Elements whose value at a path equals (or, `false`, differs from) a literal; without a literal: that have it.
    Where(Path, Option<(bool, Value)>),
}

impl Template {
    /// Reads a template. A text without braces is a path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains('{') {
            return Ok(Self(vec![Part::Path(Path::parse(text)?)]));
        }
        let mut rest = text;
        let (parts, ended) = parse_parts(&mut rest)?;
        if ended { Err("{end} without {range}".into()) } else { Ok(Self(parts)) }
    }

    /// The text that the template makes of `value`.
    pub(crate) fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render_parts(&self.0, value, &mut out);
        out
    }
}

impl Path {
    /// Reads `.a.b[0]`, `a.b`, `$.a` or the same in braces.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner).trim();
        let mut rest = inner.strip_prefix(['$', '@']).unwrap_or(inner);
        let mut steps = Vec::new();
        if !rest.starts_with(['.', '[']) && !rest.is_empty() {
            steps.push(field(&mut rest));
        }
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('.') {
                rest = tail;
                if !rest.is_empty() && !rest.starts_with('[') {
                    steps.push(field(&mut rest));
                }
            } else if let Some(tail) = rest.strip_prefix('[') {
                let close = closing_bracket(tail).ok_or_else(|| format!("`{text}`: `[` is not closed"))?;
                steps.push(bracket(tail[..close].trim())?);
                rest = &tail[close + 1..];
            } else {
                return Err(format!("`{text}`: expected `.` or `[` before `{rest}`"));
            }
        }
        Ok(Self(steps))
    }

    /// All values at the path, in order.
    pub(crate) fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        self.0.iter().fold(vec![root], |found, step| found.into_iter().flat_map(|value| step.apply(value)).collect())
    }

    /// The values as one text, as a template prints them.
    pub(crate) fn text(&self, root: &Value) -> String {
        self.find(root).into_iter().map(scalar).collect::<Vec<_>>().join(" ")
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), _) => value.get(name).into_iter().collect(),
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(fields)) => fields.values().collect(),
            (Self::Index(n), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let n = if *n < 0 { length + n } else { *n };
                usize::try_from(n).ok().and_then(|n| items.get(n)).into_iter().collect()
            }
            (Self::Where(path, test), Value::Array(items)) => {
                let holds = |item: &&Value| {
                    let found = path.find(item);
                    match test {
                        None => !found.is_empty(),
                        Some((equal, literal)) => found.contains(&literal) == *equal,
                    }
                };
                items.iter().filter(holds).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A field's name; `\.` is a dot inside it.
fn field(rest: &mut &str) -> Step {
    let mut name = String::new();
    let mut chars = rest.char_indices();
    let mut end = rest.len();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => {
                end = i;
                break;
            }
            _ => name.push(c),
        }
    }
    *rest = &rest[end..];
    if name == "*" { Step::All } else { Step::Field(name) }
}

/// Where the bracket that was just opened ends; brackets inside a filter and quotes are passed over.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Result<Step, String> {
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquote(inner) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        for (operator, equal) in [("==", true), ("!=", false)] {
            if let Some((path, literal)) = filter.split_once(operator) {
                return Ok(Step::Where(Path::parse(path)?, Some((equal, literal_of(literal.trim())?))));
            }
        }
        return Ok(Step::Where(Path::parse(filter)?, None));
    }
    inner.parse().map(Step::Index).map_err(|_| format!("`[{inner}]` is no index, name or filter that podbus knows"))
}

fn literal_of(text: &str) -> Result<Value, String> {
    match unquote(text) {
        Some(string) => Ok(Value::String(string.to_owned())),
        None => serde_json::from_str(text).map_err(|_| format!("`{text}`: quote it, as in \"{text}\"")),
    }
}

fn unquote(text: &str) -> Option<&str> {
    ['"', '\''].into_iter().find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
}

/// Parts up to the end of the text or to `{end}`; the flag says which.
fn parse_parts(rest: &mut &str) -> Result<(Vec<Part>, bool), String> {
    let mut parts = Vec::new();
    loop {
        let open = rest.find('{').unwrap_or(rest.len());
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        if open == rest.len() {
            *rest = "";
            return Ok((parts, false));
        }
        let close = closing_brace(&rest[open + 1..]).ok_or("`{` is not closed")? + open + 1;
        let inner = rest[open + 1..close].trim();
        *rest = &rest[close + 1..];
        if inner == "end" {
            return Ok((parts, true));
        } else if let Some(path) = inner.strip_prefix("range ") {
            match parse_parts(rest)? {
                (body, true) => parts.push(Part::Range(Path::parse(path)?, body)),
                (_, false) => return Err("{range} without {end}".into()),
            }
        } else if let Some(text) = unquote(inner) {
            parts.push(Part::Text(unescape(text)));
        } else {
            parts.push(Part::Path(Path::parse(inner)?));
        }
    }
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '}') => return Some(i),
            _ => {}
        }
    }
    None
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"")
}

/// Paths are relative to `here`, the element of the innermost range.
fn render_parts(parts: &[Part], here: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => out.push_str(&path.text(here)),
            Part::Range(path, body) => path.find(here).into_iter().for_each(|v| render_parts(body, v, out)),
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> String {
        let list = json!({"kind": "PodList", "items": [
            {"metadata": {"name": "a", "labels": {"app.io/x": "1"}}, "status": {"conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "False"}]}},
            {"metadata": {"name": "b"}, "status": {"n": 3}},
        ]});
        Template::parse(template).unwrap().render(&list)
    }

    #[test]
    fn templates_of_scripts_give_what_kubectl_gives() {
        for (template, expected) in [
            ("{.kind}", "PodList"),
            (".kind", "PodList"),
            ("{.items[*].metadata.name}", "a b"),
            ("{range .items[*]}{.metadata.name}{\"\\n\"}{end}", "a\nb\n"),
            ("{.items[-1].status.n}", "3"),
            ("{.items[0].metadata.labels.app\\.io/x}", "1"),
            ("{.items[0].metadata.labels['app.io/x']}", "1"),
            ("{.items[0].status.conditions[?(@.type==\"Ready\")].status}", "True"),
            ("{.items[0].metadata.labels}", "{\"app.io/x\":\"1\"}"),
            ("x={.missing.field};", "x=;"),
        ] {
            assert_eq!(render(template), expected, "{template}");
        }
    }

    #[test]
    fn a_broken_template_says_what_is_wrong() {
        for template in ["{.a", "{range .items[*]}{.a}", "{.a[}", "{.a[x]}", "{end}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
