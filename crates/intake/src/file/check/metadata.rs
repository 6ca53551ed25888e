//! `metadata` (apimachinery `ValidateObjectMeta`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sheetbend_model::state::{AUDIT, ENFORCED, ENFORCEMENT, STAGED};

use super::{Check, names};
use crate::file::error::Problem;
use crate::file::field::Field;
use crate::file::object::{Kind, Object};

pub(super) fn check(check: &mut Check<'_>, object: &Object) {
    let metadata = Field::Root.key("metadata");
    let meta = object.metadata();
    let name = metadata.key("name");
    match meta.name.as_deref() {
        None | Some("") => check.missing(&name, "give the object a name (generateName is not enough here)"),
        Some(text) => check.form(&name, text, name_form(object.kind())),
    }
    if let Some(namespace) = meta.namespace.as_deref().filter(|text| !text.is_empty()) {
        check.form(&metadata.key("namespace"), namespace, names::dns_label);
    }
    labels(check, &metadata, meta);
    enforcement(check, &metadata, object);
}

/// What nobody understands is enforced: a policy that is left out by a slip of the pen would open what it closes.
fn enforcement(check: &mut Check<'_>, metadata: &Field<'_>, object: &Object) {
    if let Some(Problem::Disregarded { effect, .. }) = disregarded(object) {
        check.not_built(&metadata.key("annotations").key(ENFORCEMENT), &effect);
    }
}

/// The annotation [`ENFORCEMENT`], where it is not understood.
pub(crate) fn disregarded(object: &Object) -> Option<Problem> {
    let value = crate::convert::enforcement(object)?;
    let (known, what) = if object.kind() == Kind::Namespace {
        (AUDIT, "policies are enforced for its pods")
    } else {
        (STAGED, "the policy is enforced")
    };
    let effect = format!("{value:?} is none of {known}, {ENFORCED}; {what}");
    let field = format!("annotation {ENFORCEMENT}");
    (![known, ENFORCED].contains(&value)).then_some(Problem::Disregarded { field, effect })
}

/// `labels` and the keys of `annotations`.
pub(super) fn labels(check: &mut Check<'_>, metadata: &Field<'_>, meta: &ObjectMeta) {
    let labels = metadata.key("labels");
    for (key, value) in meta.labels.iter().flatten() {
        let field = labels.key(key);
        check.form(&field, key, names::qualified_name);
        check.form(&field, value, names::label_value);
    }
    let annotations = metadata.key("annotations");
    for key in meta.annotations.iter().flatten().map(|(key, _)| key) {
        // Annotation keys may have capitals in their prefix.
        check.form(&annotations.key(key), &key.to_lowercase(), names::qualified_name);
    }
}

fn name_form(kind: Kind) -> fn(&str) -> Result<(), names::Why> {
    match kind {
        Kind::Namespace => names::dns_label,
        Kind::Service => names::dns_1035_label,
        Kind::Node
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job
        | Kind::EndpointSlice
        | Kind::NetworkPolicy
        | Kind::ServiceCIDR
        | Kind::ClusterNetworkPolicy
        | Kind::Tenant
        | Kind::TrafficTier
        | Kind::NetworkSet
        | Kind::ClusterTrafficPolicy
        | Kind::TrafficPolicy
        | Kind::LoadBalancerPool
        | Kind::L2Announcement => names::dns_subdomain,
    }
}
