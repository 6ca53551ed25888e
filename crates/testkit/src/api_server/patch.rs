//! Merge patches (RFC 7386), with the one list that strategic merge patches of ours touch: conditions, by type.

use serde_json::Value;

/// Applies `patch` to `target`.
pub(super) fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else if strategic && name == "conditions" {
            merge_by_type(fields.entry(name.clone()).or_insert(Value::Array(Vec::new())), change);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), change, strategic);
        }
    }
}

fn merge_by_type(list: &mut Value, changes: &Value) {
    let Value::Array(list) = list else { return };
    for change in changes.as_array().into_iter().flatten() {
        match list.iter_mut().find(|item| item["type"] == change["type"]) {
            Some(item) => merge(item, change, false),
            None => list.push(change.clone()),
        }
    }
}
