//! The lab's Services of type LoadBalancer get addresses from LoadBalancerPools, as the controller gives them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use sheetbend_compile::ipam::load_balancer::{Given, allocate};
use sheetbend_intake::file::{self, Notice, Object, ObjectId};
use sheetbend_intake::kube::ADDRESSES_ASSIGNED;

/// Writes the status of every Service of `objects`; who had an address in `before` keeps it. Returns what was given,
/// and what could not be.
pub(super) fn give<'a>(objects: &mut [Object], before: impl IntoIterator<Item = &'a Object>) -> Vec<Notice> {
    let mut known: BTreeMap<ObjectId, ServiceStatus> = BTreeMap::new();
    for object in before {
        if let Object::Service(service) = object {
            known.extend(service.status.clone().map(|status| (object.id(), status)));
        }
    }
    for object in objects.iter_mut() {
        let id = object.id();
        if let Object::Service(service) = object {
            service.status = known.remove(&id);
        }
    }
    let allocation = allocate(&file::snapshot(objects.iter()), true);
    let mut notices = Vec::new();
    for object in objects.iter_mut() {
        let id = object.id();
        let Object::Service(service) = object else { continue };
        let given = allocation.services.get(&id.key());
        write(service, given.map(|given| given.addresses.as_slice()).unwrap_or_default());
        notices.extend(given.into_iter().flat_map(|given| remarks(&id, given)));
    }
    for (name, state) in &allocation.pools {
        notices.extend(state.fault.as_ref().map(|fault| notice(format!("LoadBalancerPool {name}: {fault}"))));
    }
    notices
}

fn write(service: &mut Service, addresses: &[IpAddr]) {
    if addresses.is_empty() {
        service.status = None;
        return;
    }
    let ingress = addresses.iter().map(|addr| LoadBalancerIngress {
        ip: Some(addr.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    });
    let condition = Condition {
        type_: ADDRESSES_ASSIGNED.to_owned(),
        status: "True".to_owned(),
        reason: "Assigned".to_owned(),
        message: String::new(),
        observed_generation: None,
        // The same objects make the same files.
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    service.status = Some(ServiceStatus {
        load_balancer: Some(LoadBalancerStatus { ingress: Some(ingress.collect()) }),
        conditions: Some(vec![condition]),
    });
}

fn remarks(id: &ObjectId, given: &Given) -> Vec<Notice> {
    let addresses: Vec<String> = given.addresses.iter().map(IpAddr::to_string).collect();
    let has = (!addresses.is_empty())
        .then(|| notice(format!("{id} has the load balancer address {}", addresses.join(" and "))));
    let lacks = given.faults.iter().map(|fault| notice(format!("{id}: {fault}")));
    has.into_iter().chain(lacks).collect()
}

fn notice(text: String) -> Notice {
    Notice { place: None, text }
}
