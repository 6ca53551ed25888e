//! What stands for an object that the API server should have refused: never more traffic than its author can have meant.

use std::sync::Arc;

use sheetbend_model::state::{LabelSelector, LoadBalancerPool, NetworkPolicy};

use crate::convert::Part;
use crate::file::{Object, Problem};

/// `None`: the object counts as absent.
pub(super) fn part(object: &Object, problems: &[Problem]) -> Option<Part> {
    if problems.is_empty() {
        return Part::of(object);
    }
    closed_part(Part::of(object)?, problems)
}

fn closed_part(part: Part, problems: &[Problem]) -> Option<Part> {
    match part {
        Part::Staged(policy) => closed_part(*policy, problems).map(|policy| Part::Staged(Box::new(policy))),
        Part::NetworkPolicy(policy) => Some(Part::NetworkPolicy(Arc::new(closed(&policy, problems)))),
        // No backend is better than a wrong one.
        Part::Service(_) | Part::EndpointSlice(_) => None,
        // Nothing is dropped on the word of half an object.
        Part::ServiceCidr(_) => None,
        // What it gave stays; nothing new on the word of half an object.
        Part::LoadBalancerPool(pool) => Some(Part::LoadBalancerPool(Arc::new(LoadBalancerPool {
            disabled: true,
            ..LoadBalancerPool::clone(&pool)
        }))),
        // Nobody answers for addresses on a guess.
        Part::L2Announcement(_) => None,
        // What cannot be understood of these is left out field by field.
        part @ (Part::Node(_) | Part::Namespace(_) | Part::Pod(_)) => Some(part),
        // Closed are the namespaces that it names, not all for want of a name.
        Part::Tenant(tenant) => {
            (tenant.namespaces != LabelSelector::default()).then_some(Part::Tenant(tenant))
        }
        // Each rule that cannot be understood is closed already, and so is each that uses these.
        part @ (Part::ClusterNetworkPolicy(_)
        | Part::TrafficPolicy(_)
        | Part::TrafficTier(_)
        | Part::NetworkSet(_)) => Some(part),
    }
}

/// A policy that isolates at least what the broken one does, and allows nothing.
fn closed(policy: &NetworkPolicy, problems: &[Problem]) -> NetworkPolicy {
    let broken = |field: &str| {
        problems.iter().any(|problem| {
            let place = problem.field().unwrap_or_default();
            place.starts_with(field) || field.starts_with(place)
        })
    };
    let every_direction = broken("spec.policyTypes");
    let none = |rules: &Option<Vec<_>>| (rules.is_some() || every_direction).then(Vec::new);
    NetworkPolicy {
        key: policy.key.clone(),
        pod_selector: if broken("spec.podSelector") {
            LabelSelector::default()
        } else {
            policy.pod_selector.clone()
        },
        ingress: none(&policy.ingress),
        egress: none(&policy.egress),
    }
}
