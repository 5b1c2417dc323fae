//! The rules of selectors: of nodes, and of objects by label.

use super::pod::validate_labels;
use super::{Faults, names};
use crate::model::{LabelSelector, NodeSelectorRequirement, NodeSelectorTerm};

const OPERATOR: &str = "not a valid selector operator";

pub(super) fn validate_node_selector_term(path: &str, term: &NodeSelectorTerm, faults: &mut Faults) {
    for (index, requirement) in term.match_expressions.iter().enumerate() {
        validate_node_requirement(&format!("{path}.matchExpressions[{index}]"), requirement, faults);
    }
    for (index, requirement) in term.match_fields.iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        match requirement.operator.as_str() {
            "In" | "NotIn" if requirement.values.len() != 1 => faults.required(
                &format!("{path}.values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => faults.invalid(&format!("{path}.operator"), other, OPERATOR),
        }
        if requirement.key != "metadata.name" {
            faults.invalid(&format!("{path}.key"), &requirement.key, "not a valid field selector key");
        }
    }
}

fn validate_node_requirement(path: &str, requirement: &NodeSelectorRequirement, faults: &mut Faults) {
    let values = format!("{path}.values");
    match requirement.operator.as_str() {
        "Gt" | "Lt" if requirement.values.len() != 1 => {
            faults.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "Gt" | "Lt" => {
            if requirement.values.iter().any(|value| value.parse::<i64>().is_err()) {
                faults.invalid(&format!("{values}[0]"), &requirement.values[0], "must be an integer");
            }
        }
        operator => validate_operator(path, operator, &requirement.values, faults),
    }
    validate_key_and_values(path, &requirement.key, &requirement.values, faults);
}

/// A selector of objects by label.
pub(super) fn validate_label_selector(path: &str, selector: &LabelSelector, faults: &mut Faults) {
    validate_labels(&format!("{path}.matchLabels"), &selector.match_labels, faults);
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        validate_operator(&path, &requirement.operator, &requirement.values, faults);
        validate_key_and_values(&path, &requirement.key, &requirement.values, faults);
    }
}

fn validate_operator(path: &str, operator: &str, values: &[String], faults: &mut Faults) {
    let field = format!("{path}.values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            faults.required(&field, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            faults.forbidden(&field, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => faults.invalid(&format!("{path}.operator"), other, OPERATOR),
    }
}

fn validate_key_and_values(path: &str, key: &str, values: &[String], faults: &mut Faults) {
    faults.name(&format!("{path}.key"), key, names::qualified_name);
    for (index, value) in values.iter().enumerate() {
        faults.name(&format!("{path}.values[{index}]"), value, names::label_value);
    }
}
