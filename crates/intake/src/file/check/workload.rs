//! What makes Pods from a template (apps/v1, batch/v1).

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use sheetbend_model::types::Labels;

use super::{Check, metadata, pod, selector};
use crate::convert;
use crate::file::field::Field;
use crate::file::object::Object;

pub(super) fn check(check: &mut Check<'_>, object: &Object) {
    let spec_field = Field::Root.key("spec");
    match object {
        Object::Deployment(deployment) => match &deployment.spec {
            Some(spec) => {
                count(check, &spec_field.key("replicas"), spec.replicas);
                template(check, &spec_field, Some(&spec.selector), Some(&spec.template));
            }
            None => missing_spec(check, &spec_field),
        },
        Object::StatefulSet(set) => match &set.spec {
            Some(spec) => {
                count(check, &spec_field.key("replicas"), spec.replicas);
                let ordinals = spec_field.key("ordinals");
                let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start);
                count(check, &ordinals.key("start"), start);
                template(check, &spec_field, Some(&spec.selector), Some(&spec.template));
            }
            None => missing_spec(check, &spec_field),
        },
        Object::DaemonSet(set) => match &set.spec {
            Some(spec) => template(check, &spec_field, Some(&spec.selector), Some(&spec.template)),
            None => missing_spec(check, &spec_field),
        },
        Object::ReplicaSet(set) => match &set.spec {
            Some(spec) => {
                count(check, &spec_field.key("replicas"), spec.replicas);
                template(check, &spec_field, Some(&spec.selector), spec.template.as_ref());
            }
            None => missing_spec(check, &spec_field),
        },
        Object::Job(job) => match &job.spec {
            Some(spec) => {
                count(check, &spec_field.key("parallelism"), spec.parallelism);
                count(check, &spec_field.key("completions"), spec.completions);
                template(check, &spec_field, None, Some(&spec.template));
            }
            None => missing_spec(check, &spec_field),
        },
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::NetworkPolicy(_)
        | Object::ServiceCIDR(_)
        | Object::ClusterNetworkPolicy(_)
        | Object::Tenant(_)
        | Object::TrafficTier(_)
        | Object::NetworkSet(_)
        | Object::ClusterTrafficPolicy(_)
        | Object::TrafficPolicy(_)
        | Object::LoadBalancerPool(_)
        | Object::L2Announcement(_) => {}
    }
}

fn missing_spec(check: &mut Check<'_>, field: &Field<'_>) {
    check.missing(field, "write selector and template in it");
}

fn count(check: &mut Check<'_>, field: &Field<'_>, number: Option<i32>) {
    if let Some(number) = number.filter(|number| *number < 0) {
        check.invalid(field, number, "is negative", "write 0 or more");
    }
}

/// `selector` is `None` where the API makes it up (Jobs).
fn template(
    check: &mut Check<'_>,
    spec: &Field<'_>,
    wanted: Option<&LabelSelector>,
    template: Option<&PodTemplateSpec>,
) {
    let field = spec.key("template");
    let Some((template, pod)) = template.and_then(|template| Some((template, template.spec.as_ref()?)))
    else {
        return check.missing(&field, "write the Pods' metadata and spec in it");
    };
    let meta_field = field.key("metadata");
    if let Some(meta) = &template.metadata {
        metadata::labels(check, &meta_field, meta);
    }
    pod::spec(check, &field.key("spec"), pod);
    let Some(wanted) = wanted else { return };
    let selector_field = spec.key("selector");
    if wanted.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && wanted.match_expressions.as_ref().is_none_or(Vec::is_empty)
    {
        return check.missing(&selector_field, "write matchLabels with labels of the template");
    }
    selector::check(check, &selector_field, wanted);
    let labels: Labels = convert::labels(template.metadata.as_ref().and_then(|meta| meta.labels.as_ref()));
    if !convert::selector(wanted).matches(&labels) {
        check.conflict(
            &selector_field,
            "does not match the labels of spec.template",
            "give spec.template.metadata.labels the same labels",
        );
    }
}
