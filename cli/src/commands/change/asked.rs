//! What is asked for when an object is changed. Pure.

use serde_json::{Map, Value, json};

use crate::failure::{Failure, Outcome};
use crate::resource::Kind;

/// What belongs to a person in a node, and what it is where nothing is said.
fn of_a_person() -> [(&'static str, &'static str, Value); 4] {
    [
        ("metadata", "labels", json!({})),
        ("metadata", "annotations", json!({})),
        ("spec", "unschedulable", json!(false)),
        ("spec", "taints", json!([])),
    ]
}

/// The request for a change of `stored` to `object`.
///
/// # Errors
/// When it is another object by then, or a change that would be ignored.
pub(super) fn of(kind: Kind, stored: &Value, object: Value) -> Outcome<Value> {
    for field in ["name", "namespace", "uid"] {
        if stored["metadata"][field] != object["metadata"][field] {
            return Err(Failure::local(format!("metadata.{field}: field is immutable")));
        }
    }
    if kind != Kind::Node {
        return Ok(object);
    }
    if rest(stored) != rest(&object) {
        return Err(Failure::local(
            "of a node only metadata.labels, metadata.annotations, spec.taints and spec.unschedulable can be changed",
        )
        .because("all else its agent says"));
    }
    // What is not said would stay as it is.
    let mut asked = json!({"metadata": {"name": object["metadata"]["name"]}, "spec": {}});
    for (part, field, nothing) in of_a_person() {
        let value = &object[part][field];
        asked[part][field] = if value.is_null() { nothing } else { value.clone() };
    }
    Ok(asked)
}

/// A node without what belongs to a person.
fn rest(node: &Value) -> Value {
    let mut node = node.clone();
    for (part, field, _) in of_a_person() {
        node[part].as_object_mut().map(|part: &mut Map<_, _>| part.remove(field));
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_for_all_that_belongs_to_a_person_and_nothing_else() {
        let stored =
            json!({"metadata": {"name": "n", "labels": {"a": "1"}}, "spec": {"podCIDR": "10.0.0.0/24"}, "status": {}});
        let mut object = stored.clone();
        object["metadata"]["labels"] = Value::Null;
        let asked = of(Kind::Node, &stored, object).unwrap();
        let expected = json!({"metadata": {"name": "n", "labels": {}, "annotations": {}}, "spec": {"unschedulable": false, "taints": []}});
        assert_eq!(asked, expected);
        let mut object = stored.clone();
        object["spec"]["podCIDR"] = json!("10.1.0.0/24");
        assert!(of(Kind::Node, &stored, object).is_err());
    }

    #[test]
    fn an_object_stays_the_same_object() {
        let stored = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {}});
        for field in ["name", "namespace"] {
            let mut object = stored.clone();
            object["metadata"][field] = json!("other");
            assert!(of(Kind::Pod, &stored, object).is_err(), "{field}");
        }
        let mut object = stored.clone();
        object["spec"]["hostname"] = json!("x");
        assert_eq!(of(Kind::Pod, &stored, object.clone()).unwrap(), object, "the scheduler judges it");
    }
}
