//! The rules of a node's taints.

use std::collections::BTreeSet;

use super::{Faults, FieldError, names};
use crate::model::Taint;

/// All that is wrong with taints that a person gives to a node.
pub fn validate_taints(taints: &[Taint]) -> Vec<FieldError> {
    let (mut faults, mut seen) = (Faults::default(), BTreeSet::new());
    for (index, taint) in taints.iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        faults.name(&format!("{path}.key"), &taint.key, names::qualified_name);
        faults.name(&format!("{path}.value"), &taint.value, names::label_value);
        if !seen.insert((&taint.key, taint.effect.as_str())) {
            faults.duplicate(&path, &format!("{}:{}", taint.key, taint.effect.as_str()));
        }
    }
    faults.list
}
