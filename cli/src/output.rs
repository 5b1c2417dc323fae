//! `-o`: in which shape objects are printed.

use serde_json::{Value, json};

use crate::columns::Growing;
use crate::failure::{Failure, Outcome};
use crate::jsonpath::{Path, Template};

/// A shape.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Format {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `pod/web`.
    Name,
    /// `jsonpath=TEMPLATE`.
    Template(Template),
    /// `custom-columns=HEAD:PATH,...`.
    Columns(Vec<(String, Path)>),
}

impl Format {
    /// Reads the value of `-o`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=').unwrap_or((text, "")) {
            ("wide", "") => Ok(Self::Wide),
            ("json", "") => Ok(Self::Json),
            ("yaml", "") => Ok(Self::Yaml),
            ("name", "") => Ok(Self::Name),
            ("jsonpath", template) if !template.is_empty() => Template::parse(template).map(Self::Template),
            ("custom-columns", columns) if !columns.is_empty() => {
                let column = |text: &str| match text.split_once(':') {
                    Some((head, path)) => Ok((head.to_owned(), Path::parse(path)?)),
                    None => Err(format!("`{text}`: a column is written HEAD:.path")),
                };
                columns.split(',').map(column).collect::<Result<_, _>>().map(Self::Columns)
            }
            _ => Err(format!(
                "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                 wide, json, yaml, name, jsonpath=TEMPLATE, custom-columns=HEAD:PATH"
            )),
        }
    }

    /// Whether it is for eyes: columns.
    pub(crate) fn is_table(&self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }

    /// `objects` in a shape that is not a table of ours. `as_list`: more than one object was asked for.
    pub(crate) fn render(&self, objects: &[Value], as_list: bool) -> Outcome<String> {
        let whole = || match (as_list, objects) {
            (false, [object]) => object.clone(),
            _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects}),
        };
        match self {
            Self::Json => json_text(&whole()),
            Self::Yaml => yaml_text(&whole()),
            Self::Name => Ok(objects.iter().map(|object| format!("{}\n", type_and_name(object))).collect()),
            Self::Template(template) => Ok(template.render(&whole())),
            Self::Columns(columns) => Ok(custom_columns(columns, objects)),
            Self::Table | Self::Wide => Err(Failure::local("a table is made elsewhere")),
        }
    }
}

/// `pod/web`; of an object that has no name yet, what its name will begin with.
pub(crate) fn type_and_name(object: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(object.get("kind")).to_lowercase();
    let name = object.pointer("/metadata/name").filter(|name| name.as_str().is_some_and(|name| !name.is_empty()));
    format!("{kind}/{}", text(name.or_else(|| object.pointer("/metadata/generateName"))))
}

fn custom_columns(columns: &[(String, Path)], objects: &[Value]) -> String {
    let cell = |path: &Path, object: &Value| match path.find(object).as_slice() {
        [] => "<none>".to_owned(),
        values => {
            values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect::<Vec<_>>().join(",")
        }
    };
    let head = columns.iter().map(|(head, _)| head.clone()).collect();
    let rows = objects.iter().map(|object| columns.iter().map(|(_, path)| cell(path, object)).collect());
    Growing::default().rows(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// JSON as kubectl indents it.
fn json_text(value: &Value) -> Outcome<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer).map_err(Failure::local)?;
    bytes.push(b'\n');
    String::from_utf8(bytes).map_err(Failure::local)
}

/// YAML that reads back as the same value.
pub(crate) fn yaml_text(value: &Value) -> Outcome<String> {
    serde_saphyr::to_string(value).map_err(Failure::local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"args": ["yes", "1e3", "a: b"]}})
    }

    #[test]
    fn one_object_is_itself_and_several_are_a_list() {
        let one: Value = serde_json::from_str(&Format::Json.render(&[pod("web")], false).unwrap()).unwrap();
        assert_eq!(one, pod("web"));
        let two: Value = serde_json::from_str(&Format::Json.render(&[pod("a"), pod("b")], true).unwrap()).unwrap();
        assert_eq!((&two["kind"], two["items"].as_array().unwrap().len()), (&json!("List"), 2));
    }

    #[test]
    fn yaml_keeps_strings_strings() {
        let text = Format::Yaml.render(&[pod("web")], false).unwrap();
        assert_eq!(
            text,
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  args:\n  - \"yes\"\n  - \"1e3\"\n  - \"a: b\"\n"
        );
    }

    #[test]
    fn names_and_columns_are_for_scripts() {
        assert_eq!(Format::Name.render(&[pod("a"), pod("b")], true).unwrap(), "pod/a\npod/b\n");
        let columns = Format::parse("custom-columns=NAME:.metadata.name,IP:.status.podIP").unwrap();
        assert_eq!(columns.render(&[pod("a")], false).unwrap(), "NAME   IP\na      <none>\n");
    }

    #[test]
    fn an_unknown_format_lists_those_that_are() {
        assert!(Format::parse("xml").unwrap_err().contains("allowed formats are"));
    }
}
