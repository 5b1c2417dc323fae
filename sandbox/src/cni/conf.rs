//! CNI configurations: which one a node uses, and what each of its plugins is told. Pure.

use serde_json::{Map, Value, json};

/// What is spoken here, newest first.
const VERSIONS: [&str; 3] = ["1.1.0", "1.0.0", "0.4.0"];
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("its name {0:?} is not letters and digits, and then `_`, `.` and `-` too")]
    Name(String),
    #[error("its cniVersion {offered} is none of {}", VERSIONS.join(", "))]
    Version { offered: String },
    #[error("it has no plugins")]
    Empty,
    #[error("the type of a plugin has to be the plain name of its program, and not {0}")]
    Type(String),
}

/// A chain of plugins.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    /// The plugins want no GC.
    pub(crate) disable_gc: bool,
    plugins: Vec<Map<String, Value>>,
}

/// The configuration that counts: the first by name.
pub(crate) fn pick(names: impl Iterator<Item = String>) -> Option<String> {
    let known = |name: &String| name.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension));
    names.filter(known).min()
}

impl List {
    /// Reads a list, or the configuration of one plugin, which is a list of one.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfError> {
        let whole: Map<String, Value> = serde_json::from_str(text).map_err(ConfError::Json)?;
        let name = whole.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if !name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) || !name.bytes().all(is_plain) {
            return Err(ConfError::Name(name));
        }
        let flag = |key: &str| whole.get(key).is_some_and(|value| *value == true || *value == "true");
        let (version, disable_gc) = (version(&whole)?, flag("disableGC"));
        let plugins = match whole.get("plugins") {
            None => vec![whole],
            Some(list) => serde_json::from_value(list.clone()).map_err(ConfError::Json)?,
        };
        let list = Self { name, version, disable_gc, plugins };
        if list.plugins.is_empty() {
            return Err(ConfError::Empty);
        }
        let is_name = |plugin: &&str| !plugin.is_empty() && !plugin.contains('/') && !plugin.starts_with('.');
        match list.plugins.iter().find(|it| it.get("type").and_then(Value::as_str).filter(is_name).is_none()) {
            Some(bad) => Err(ConfError::Type(bad.get("type").unwrap_or(&Value::Null).to_string())),
            None => Ok(list),
        }
    }

    /// The programs, in the order of ADD.
    pub(crate) fn types(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin.get("type").and_then(Value::as_str).unwrap_or_default())
    }

    /// Whether there are the verbs of 1.1.0: GC and STATUS.
    pub(crate) fn has_status_and_gc(&self) -> bool {
        self.version == "1.1.0"
    }

    /// Whether a plugin wants to be told of `capability`.
    pub(crate) fn wants(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| wants(plugin, capability))
    }

    /// What the plugin at this place reads: its configuration, with what it wants of `capabilities`, and `more`.
    pub(crate) fn input(&self, at: usize, capabilities: &Map<String, Value>, more: Option<(&str, &Value)>) -> Value {
        let mut config = self.plugins[at].clone();
        let wanted = capabilities.iter().filter(|(name, _)| wants(&config, name));
        let wanted: Map<String, Value> = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        config.remove("capabilities");
        config.insert("name".to_owned(), json!(self.name));
        config.insert("cniVersion".to_owned(), json!(self.version));
        if !wanted.is_empty() {
            config.insert("runtimeConfig".to_owned(), Value::Object(wanted));
        }
        if let Some((key, value)) = more {
            config.insert(key.to_owned(), value.clone());
        }
        Value::Object(config)
    }
}

fn wants(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|it| it.get(capability)) == Some(&Value::Bool(true))
}

/// The newest that both sides know: of `cniVersions`, or else `cniVersion`.
fn version(conf: &Map<String, Value>) -> Result<&'static str, ConfError> {
    let single = conf.get("cniVersion").cloned().unwrap_or(Value::Null);
    let offered = match conf.get("cniVersions").and_then(Value::as_array) {
        Some(list) => [list.as_slice(), std::slice::from_ref(&single)].concat(),
        None => vec![single.clone()],
    };
    let known = VERSIONS.into_iter().find(|version| offered.iter().any(|it| it == version));
    known.ok_or_else(|| ConfError::Version { offered: single.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_by_name_counts() {
        let names = ["20-b.conf", "10-a.conflist", "05-notes.txt", "README"].map(str::to_owned);
        assert_eq!(pick(names.into_iter()).as_deref(), Some("10-a.conflist"));
        assert_eq!(pick(["x".to_owned()].into_iter()), None);
    }

    #[test]
    fn a_configuration_that_cannot_be_is_refused_with_its_reason() {
        let cases = [
            ("{", "it is not JSON"),
            (r#"{"name": "../x"}"#, r#"its name "../x" is not letters and digits, and then `_`, `.` and `-` too"#),
            (r#"{"name": "n", "cniVersion": "0.2.0"}"#, r#"its cniVersion "0.2.0" is none of 1.1.0, 1.0.0, 0.4.0"#),
            (r#"{"name": "n", "cniVersion": "1.0.0", "plugins": []}"#, "it has no plugins"),
            (
                r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "../sh"}]}"#,
                r#"the type of a plugin has to be the plain name of its program, and not "../sh""#,
            ),
        ];
        for (text, reason) in cases {
            assert_eq!(List::parse(text).unwrap_err().to_string(), reason);
        }
    }

    #[test]
    fn the_newest_version_of_those_offered_is_spoken() {
        let version = |more: &str| List::parse(&format!(r#"{{"name": "n", "type": "t", {more}}}"#)).unwrap().version;
        assert_eq!(version(r#""cniVersion": "0.4.0""#), "0.4.0");
        assert_eq!(version(r#""cniVersion": "0.4.0", "cniVersions": ["1.0.0", "9.0.0"]"#), "1.0.0");
    }

    #[test]
    fn a_plugin_reads_its_own_part_and_the_capabilities_that_it_wants() {
        let text = r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [
            {"type": "a", "mtu": 9}, {"type": "b", "capabilities": {"portMappings": true, "dns": false}}]}"#;
        let list = List::parse(text).unwrap();
        assert!(list.wants("portMappings") && !list.wants("dns"));
        let told = json!({"portMappings": [1], "dns": {}}).as_object().unwrap().clone();
        assert_eq!(list.input(0, &told, None), json!({"name": "n", "cniVersion": "1.0.0", "type": "a", "mtu": 9}));
        let expected = json!({"name": "n", "cniVersion": "1.0.0", "type": "b",
            "runtimeConfig": {"portMappings": [1]}, "prevResult": {"ips": []}});
        assert_eq!(list.input(1, &told, Some(("prevResult", &json!({"ips": []})))), expected);
    }
}
