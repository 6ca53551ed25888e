//! LabelSelector (apimachinery `ValidateLabelSelector`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{Check, names};
use crate::file::field::Field;

pub(super) fn check(check: &mut Check<'_>, field: &Field<'_>, selector: &LabelSelector) {
    map(check, &field.key("matchLabels"), selector.match_labels.as_ref());
    let expressions = field.key("matchExpressions");
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let field = expressions.index(index);
        let key = field.key("key");
        if requirement.key.is_empty() {
            check.missing(&key, "write the label's key");
        } else {
            check.form(&key, &requirement.key, names::qualified_name);
        }
        let (operator, values_field) = (field.key("operator"), field.key("values"));
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                check.missing(&values_field, "In and NotIn need at least one value; or write Exists");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = format!("{} takes no values", requirement.operator);
                check.conflict(&values_field, why, "remove values, or write In or NotIn");
            }
            "" => check.missing(&operator, "write In, NotIn, Exists or DoesNotExist"),
            word => check.word(&operator, Some(word), &["In", "NotIn", "Exists", "DoesNotExist"]),
        }
        for (index, value) in values.iter().enumerate() {
            check.form(&values_field.index(index), value, names::label_value);
        }
    }
}

/// A plain map of labels that must be equal.
pub(super) fn map(check: &mut Check<'_>, field: &Field<'_>, labels: Option<&BTreeMap<String, String>>) {
    for (key, value) in labels.into_iter().flatten() {
        let field = field.key(key);
        check.form(&field, key, names::qualified_name);
        check.form(&field, value, names::label_value);
    }
}
