//! Definitions beside each other: what a patch makes of one, and in what two differ.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Applies a JSON merge patch (RFC 7396): null removes a field, an object goes into an object, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Patches a definition. `concurrent` and `overlap` are one fact in two forms: who names one of them means both.
pub fn patched(definition: Map<String, Value>, patch: &Map<String, Value>) -> Value {
    let mut definition = definition;
    for (named, other) in [("overlap", "concurrent"), ("concurrent", "overlap")] {
        if patch.contains_key(named) && !patch.contains_key(other) {
            definition.shift_remove(other);
        }
    }
    let mut definition = Value::Object(definition);
    merge(&mut definition, &Value::Object(patch.clone()));
    definition
}

/// One field in which two definitions differ.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FieldChange {
    /// Which.
    pub field: String,
    /// What it was; left out where it was not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What it is; left out where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// In what two definitions differ, in the order of their fields: first those of `to`, then those that are gone.
pub fn diff(from: &Map<String, Value>, to: &Map<String, Value>) -> Vec<FieldChange> {
    let changed = to.iter().filter(|(field, value)| from.get(*field) != Some(value)).map(|(field, value)| {
        FieldChange { field: field.clone(), from: from.get(field).cloned(), to: Some(value.clone()) }
    });
    let gone = from.iter().filter(|(field, _)| !to.contains_key(*field)).map(|(field, value)| FieldChange {
        field: field.clone(),
        from: Some(value.clone()),
        to: None,
    });
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn patches_merge_as_the_standard_says() {
        let check = |target: Value, patch: Value, result: Value| {
            let mut found = target.clone();
            merge(&mut found, &patch);
            assert_eq!(found, result, "{target} with {patch}");
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b"}), json!({"a": null}), json!({}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"]));
        check(json!({"a": "b"}), json!(["c"]), json!(["c"]));
        check(json!({"a": "foo"}), json!(null), json!(null));
        check(json!({"a": "foo"}), json!("bar"), json!("bar"));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }

    #[test]
    fn a_difference_names_what_came_went_and_changed() {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let from = object(json!({"same": 1, "changed": [1], "gone": true}));
        let to = object(json!({"same": 1, "changed": [2], "new": null}));
        let told = serde_json::to_value(diff(&from, &to)).unwrap_or_default();
        assert_eq!(
            told,
            json!([
                {"field": "changed", "from": [1], "to": [2]},
                {"field": "new", "to": null},
                {"field": "gone", "from": true},
            ])
        );
    }
}
