//! A profile for a runtime handler, which compiles it itself: the rules that hold here, without Docker's conditions.

use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Map, Value, json};

use super::profile::Profile;
use super::rules::{Place, architectures, holds};
use crate::process::Invalid;

/// What of a rule the OCI runtime specification knows.
const RULE_FIELDS: [&str; 4] = ["names", "action", "errnoRet", "args"];

/// The rules of `text` that hold at `place`.
pub(super) fn convert(text: &str, place: &Place) -> Result<LinuxSeccomp, Invalid> {
    let profile = Profile::parse(text).map_err(|error| Invalid(error.to_string()))?;
    let mut raw: Value = serde_json::from_str(text).map_err(|error| Invalid(error.to_string()))?;
    let rules = match raw["syscalls"].take() {
        Value::Array(rules) => rules,
        _ => Vec::new(),
    };
    let kept = profile.rules.iter().zip(rules).filter(|(rule, _)| holds(rule, place));
    let kept: Vec<Value> = kept.map(|(_, raw)| known_fields(raw)).collect();
    let mut seccomp = json!({
        "defaultAction": raw["defaultAction"],
        "architectures": architectures(&profile),
        "syscalls": kept,
    });
    if let Some(errno) = raw.get("defaultErrnoRet").filter(|value| !value.is_null()) {
        seccomp["defaultErrnoRet"] = errno.clone();
    }
    serde_json::from_value(seccomp).map_err(|error| Invalid(error.to_string()))
}

fn known_fields(rule: Value) -> Value {
    let Value::Object(fields) = rule else { return rule };
    let fields = fields.into_iter().filter(|(name, value)| RULE_FIELDS.contains(&name.as_str()) && !value.is_null());
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_gets_the_rules_that_hold_for_the_container() {
        let convert = |capabilities| {
            let seccomp = convert(super::super::DEFAULT, &Place { capabilities, kernel: (6, 1) }).unwrap();
            serde_json::to_value(seccomp).unwrap()
        };
        let allows = |seccomp: &Value, name: &str| {
            let rules = seccomp["syscalls"].as_array().unwrap();
            rules.iter().any(|rule| rule["names"].as_array().unwrap().contains(&name.into()) && rule["args"].is_null())
        };
        const SYS_ADMIN: u64 = 1 << 21;
        let (without, with) = (convert(0), convert(SYS_ADMIN));
        assert!(allows(&without, "read") && allows(&with, "read"));
        assert!(!allows(&without, "mount") && allows(&with, "mount"));
        assert_eq!((&without["defaultAction"], &without["defaultErrnoRet"]), (&"SCMP_ACT_ERRNO".into(), &1.into()));
        assert!(without["syscalls"].as_array().unwrap().iter().all(|rule| rule.get("includes").is_none()));
    }
}
