//! The rules of one toleration.

use super::{Faults, names};
use crate::model::{Toleration, TolerationOperator};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn validate_toleration(path: &str, toleration: &Toleration, faults: &mut Faults) {
    let exists = toleration.operator == Some(TolerationOperator::Exists);
    let operator = match toleration.operator {
        None => "",
        Some(TolerationOperator::Exists) => "Exists",
        Some(TolerationOperator::Equal) => "Equal",
    };
    if !toleration.key.is_empty() {
        faults.name(&format!("{path}.key"), &toleration.key, names::qualified_name);
    } else if !exists {
        faults.invalid(
            &format!("{path}.operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if exists && !toleration.value.is_empty() {
        faults.invalid(
            &format!("{path}.operator"),
            &toleration.value,
            "value must be empty when `operator` is 'Exists'",
        );
    } else if !exists {
        faults.name(&format!("{path}.value"), &toleration.value, names::label_value);
    }
    if toleration.toleration_seconds.is_some() && toleration.effect != "NoExecute" {
        faults.invalid(
            &format!("{path}.effect"),
            &toleration.effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    } else {
        faults.one_of(&format!("{path}.effect"), &toleration.effect, &EFFECTS);
    }
}
