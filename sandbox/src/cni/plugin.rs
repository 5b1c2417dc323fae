//! One call of a plugin: a program with its orders in the environment, its configuration on standard input, and its
//! result on standard output.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::handler::command::{self, CommandError};

/// The interface of a pod.
pub(super) const INTERFACE: &str = "eth0";
/// How long one plugin may take: those of large networks ask others.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why a plugin did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("the CNI plugin {plugin} is in none of {}: install it, or change --cni-bin-dir", list(dirs))]
    Missing { plugin: String, dirs: Vec<PathBuf> },
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the CNI plugin {plugin} refused {verb}: {message}")]
    Refused { plugin: String, verb: &'static str, message: String },
    #[error("the CNI plugin {plugin} answered {verb} with what is not JSON")]
    Answer { plugin: String, verb: &'static str, source: serde_json::Error },
}

fn list(dirs: &[PathBuf]) -> String {
    dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Whose network is meant; empty for what is about all of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a str,
    /// Empty where the namespace is gone.
    pub(super) netns: &'a str,
    pub(super) arguments: &'a str,
}

/// Finds a plugin's program.
pub(super) fn find(plugin: &str, dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    let missing = || PluginError::Missing { plugin: plugin.to_owned(), dirs: dirs.to_vec() };
    dirs.iter().map(|dir| dir.join(plugin)).find(|path| path.is_file()).ok_or_else(missing)
}

/// Calls a plugin. Its answer; null where it says nothing.
pub(super) async fn call(
    verb: &'static str,
    plugin: &str,
    dirs: &[PathBuf],
    subject: Subject<'_>,
    input: &Value,
) -> Result<Value, PluginError> {
    let program = find(plugin, dirs)?;
    let path = std::env::join_paths(dirs).unwrap_or_default();
    let mut environment = vec![("CNI_COMMAND", verb.to_owned()), ("CNI_PATH", path.to_string_lossy().into_owned())];
    if !subject.id.is_empty() {
        environment.extend([
            ("CNI_CONTAINERID", subject.id.to_owned()),
            ("CNI_NETNS", subject.netns.to_owned()),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", subject.arguments.to_owned()),
        ]);
    }
    let words = [program.to_string_lossy().into_owned()];
    let input = input.to_string();
    let (code, output, error) = command::spawn(&words, &environment, Some(input.as_bytes()), DEADLINE, verb).await?;
    if code != Some(0) {
        let message = refusal(&output, &error);
        return Err(PluginError::Refused { plugin: plugin.to_owned(), verb, message });
    }
    if output.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&output).map_err(|source| PluginError::Answer { plugin: plugin.to_owned(), verb, source })
}

/// What a plugin says of a failure: an object on standard output, or else the end of its standard error.
fn refusal(output: &str, error: &str) -> String {
    let said: Value = serde_json::from_str(output).unwrap_or_default();
    let part = |key: &str| said.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (part("msg"), part("details")) {
        (Some(message), Some(details)) => format!("{message}: {details}"),
        (Some(message), None) => message.to_owned(),
        _ => error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_plugins_words() {
        let cases = [
            (r#"{"code": 7, "msg": "no range", "details": "set one"}"#, "", "no range: set one"),
            (r#"{"code": 7, "msg": "no range"}"#, "noise", "no range"),
            ("not JSON", "first\nlast \n\n", "last"),
            ("", "", "it said nothing"),
        ];
        for (output, error, expected) in cases {
            assert_eq!(refusal(output, error), expected);
        }
    }
}
