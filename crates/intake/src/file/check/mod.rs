//! Are the values right? The rules of the API server's validation, as far as networking depends on them.

mod cluster_network_policy;
mod load_balancer;
mod metadata;
pub(super) mod names;
mod network_policy;
mod node;
mod pod;
mod selector;
mod service;
mod service_cidr;
mod slice;
mod tenant;
mod traffic;
mod workload;

use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::types::{Family, Port};

use super::error::{ManifestError, Notice, Place, Problem, nearest};
use super::field::Field;
use super::object::Object;
use super::yaml::tree::Node;
use names::Why;

/// The object under examination, and what was found.
pub(super) struct Check<'a> {
    /// The object as written, for lines; `None` where an API server gave it.
    pub(super) tree: Option<&'a Node>,
    /// The file.
    pub(super) file: &'a Place,
    /// `Kind namespace/name`.
    pub(super) object: String,
    /// What is wrong.
    pub(super) errors: Vec<ManifestError>,
    /// What is not built yet.
    pub(super) notices: Vec<Notice>,
}

/// Examines `object`.
pub(super) fn object(check: &mut Check<'_>, object: &Object) {
    metadata::check(check, object);
    let spec = Field::Root.key("spec");
    match object {
        Object::Namespace(_) => {}
        Object::Node(node) => node::check(check, node),
        Object::Pod(pod) => match &pod.spec {
            Some(pod) => pod::spec(check, &spec, pod),
            None => check.missing(&spec, "write the Pod's containers in it"),
        },
        Object::Deployment(_)
        | Object::StatefulSet(_)
        | Object::DaemonSet(_)
        | Object::ReplicaSet(_)
        | Object::Job(_) => workload::check(check, object),
        Object::Service(service) => service::check(check, service),
        Object::EndpointSlice(endpoint_slice) => slice::check(check, endpoint_slice),
        Object::NetworkPolicy(policy) => network_policy::check(check, policy),
        Object::ServiceCIDR(service_cidr) => service_cidr::check(check, service_cidr),
        Object::ClusterNetworkPolicy(policy) => cluster_network_policy::check(check, policy),
        Object::TrafficTier(tier) => traffic::tier(check, tier),
        Object::NetworkSet(set) => traffic::network_set(check, set),
        Object::ClusterTrafficPolicy(policy) => traffic::policy(check, policy.spec.as_ref(), false),
        Object::TrafficPolicy(policy) => traffic::policy(check, policy.spec.as_ref(), true),
        Object::Tenant(tenant) => tenant::check(check, tenant),
        Object::LoadBalancerPool(pool) => load_balancer::pool(check, pool),
        Object::L2Announcement(object) => load_balancer::announcement(check, object),
    }
}

pub(crate) use metadata::disregarded;

/// What an API server should have refused in `object`, as far as the data path depends on it.
pub(crate) fn problems(object: &Object) -> Vec<Problem> {
    let file = Place { file: std::path::Path::new("").into(), line: 0 };
    let mut check =
        Check { tree: None, file: &file, object: String::new(), errors: Vec::new(), notices: Vec::new() };
    match object {
        Object::Node(node) => node::check(&mut check, node),
        Object::Service(service) => service::check(&mut check, service),
        Object::EndpointSlice(slice) => slice::check(&mut check, slice),
        Object::NetworkPolicy(policy) => network_policy::check(&mut check, policy),
        Object::ServiceCIDR(service_cidr) => service_cidr::check(&mut check, service_cidr),
        Object::ClusterNetworkPolicy(policy) => cluster_network_policy::check(&mut check, policy),
        Object::TrafficTier(tier) => traffic::tier(&mut check, tier),
        Object::NetworkSet(set) => traffic::network_set(&mut check, set),
        Object::ClusterTrafficPolicy(policy) => traffic::policy(&mut check, policy.spec.as_ref(), false),
        Object::TrafficPolicy(policy) => traffic::policy(&mut check, policy.spec.as_ref(), true),
        Object::Tenant(tenant) => tenant::check(&mut check, tenant),
        Object::LoadBalancerPool(pool) => load_balancer::pool(&mut check, pool),
        Object::L2Announcement(object) => load_balancer::announcement(&mut check, object),
        Object::Namespace(_)
        | Object::Pod(_)
        | Object::Deployment(_)
        | Object::StatefulSet(_)
        | Object::DaemonSet(_)
        | Object::ReplicaSet(_)
        | Object::Job(_) => {}
    }
    check.errors.into_iter().map(|error| error.problem).collect()
}

impl Check<'_> {
    /// Where `field` is in the file.
    pub(super) fn place(&self, field: &Field<'_>) -> Place {
        Place { file: self.file.file.clone(), line: self.tree.map_or(0, |tree| tree.line_of(field)) }
    }

    fn error(&mut self, field: &Field<'_>, problem: Problem) {
        let (place, object) = (self.place(field), self.object.clone());
        self.errors.push(ManifestError { place, object, problem });
    }

    fn missing(&mut self, field: &Field<'_>, fix: &str) {
        self.error(field, Problem::Missing { field: field.to_string(), fix: fix.to_owned() });
    }

    fn invalid(
        &mut self,
        field: &Field<'_>,
        value: impl Display,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (field_text, value) = (field.to_string(), value.to_string());
        self.error(field, Problem::Invalid { field: field_text, value, why: why.into(), fix: fix.into() });
    }

    fn conflict(&mut self, field: &Field<'_>, why: impl Into<String>, fix: impl Into<String>) {
        self.error(field, Problem::Conflict { field: field.to_string(), why: why.into(), fix: fix.into() });
    }

    /// Says that something is read and not acted on.
    fn not_built(&mut self, field: &Field<'_>, effect: &str) {
        let (place, text) = (self.place(field), format!("{}: {field}: {effect}", self.object));
        self.notices.push(Notice { place: Some(place), text });
    }

    fn form(&mut self, field: &Field<'_>, value: &str, form: fn(&str) -> Result<(), Why>) {
        if let Err((why, fix)) = form(value) {
            self.invalid(field, value, why, fix);
        }
    }

    /// A word of an enumeration; absent is right.
    fn word(&mut self, field: &Field<'_>, value: Option<&str>, known: &[&str]) {
        let Some(value) = value.filter(|value| !known.contains(value)) else { return };
        let fix = match nearest(value, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("write one of {}", known.join(", ")),
        };
        self.invalid(field, value, "is no value of this field", fix);
    }

    fn protocol(&mut self, field: &Field<'_>, value: Option<&str>) {
        self.word(field, value, &["TCP", "UDP", "SCTP"]);
    }

    /// A port number of a field that must be there.
    fn port(&mut self, field: &Field<'_>, number: i32) {
        if number == 0 && self.tree.is_some_and(|tree| !tree.has(field)) {
            self.missing(field, "write a port from 1 to 65535");
        } else if Port::try_from(number).is_err() {
            self.invalid(field, number, "is no port", "write a number from 1 to 65535");
        }
    }

    fn address(&mut self, field: &Field<'_>, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            self.invalid(field, text, "is no IP address", "write one such as 10.96.0.10 or fd00::10");
        }
        address
    }

    fn block(&mut self, field: &Field<'_>, text: &str) -> Option<IpNet> {
        let block = text.parse().ok();
        if block.is_none() {
            self.invalid(field, text, "is no CIDR block", "write one such as 10.0.0.0/8 or 2001:db8::/32");
        }
        block
    }

    /// Refuses the second of two equal keys in a list; `seen` holds the first ones.
    fn unique<T: PartialEq>(&mut self, field: &Field<'_>, shown: impl Display, key: T, seen: &mut Vec<T>) {
        if seen.contains(&key) {
            self.invalid(field, shown, "is there twice", "keep or rename one of them");
        } else {
            seen.push(key);
        }
    }

    /// Refuses the second address or block of a family; `seen` holds the first ones.
    fn one_per_family(&mut self, field: &Field<'_>, shown: &str, address: IpAddr, seen: &mut Vec<Family>) {
        let family = Family::of(address);
        if seen.contains(&family) {
            self.invalid(field, shown, format!("is the second of family {family}"), "keep one per family");
        } else {
            seen.push(family);
        }
    }
}
