//! Tenant: what its schema says.

use super::{Check, selector};
use crate::file::field::Field;
use crate::resources::Tenant;

pub(super) fn check(check: &mut Check<'_>, tenant: &Tenant) {
    let spec = Field::Root.key("spec");
    let field = spec.key("namespaceSelector");
    let Some(written) = tenant.spec.as_ref().and_then(|spec| spec.namespace_selector.as_ref()) else {
        return check.missing(&field, "write the labels of the tenant's namespaces");
    };
    let labels = written.match_labels.as_ref().is_some_and(|labels| !labels.is_empty());
    let expressions = written.match_expressions.as_ref().is_some_and(|all| !all.is_empty());
    if !labels && !expressions {
        let why = "selects every namespace, kube-system too";
        check.conflict(&field, why, "write the labels of the tenant's namespaces");
    }
    selector::check(check, &field, written);
}
