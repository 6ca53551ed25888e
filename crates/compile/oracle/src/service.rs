//! Services, read literally.

use std::net::IpAddr;

use sheetbend_model::state::{Endpoint, EndpointSlice, Service, ServicePort, ServiceType, Snapshot};
use sheetbend_model::types::{Family, ObjectKey, Port, Protocol};

/// A backend that a new flow may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The endpoint's address.
    pub addr: IpAddr,
    /// The endpoint's port.
    pub port: Port,
    /// The Pod behind it, where the endpoint names one.
    pub pod: Option<ObjectKey>,
}

/// The Service and the backends behind (addr, protocol, port), sorted: the ready ones, else those that are terminating
/// and still serve. `None` = no Service has this frontend; an empty list = refused.
pub fn service(
    snapshot: &Snapshot,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<(ObjectKey, Vec<Candidate>)> {
    let (service, service_port) = owner(snapshot, addr.to_canonical(), protocol, port)?;
    let endpoints = endpoints(snapshot, service, service_port, Family::of(addr.to_canonical()));
    let ready = candidates(&endpoints, |endpoint| endpoint.ready);
    let chosen = if ready.is_empty() {
        candidates(&endpoints, |endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    };
    Some((service.key.clone(), chosen))
}

/// The least key wins a frontend that two Services claim, and within it the first port.
fn owner(
    snapshot: &Snapshot,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<(&Service, &ServicePort)> {
    for service in snapshot.services.values() {
        if service.service_type == ServiceType::ExternalName
            || !service.cluster_ips.iter().any(|own| own.to_canonical() == addr)
        {
            continue;
        }
        for service_port in &service.ports {
            if service_port.protocol == protocol && service_port.port.get() == port {
                return Some((service, service_port));
            }
        }
    }
    None
}

fn endpoints<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    service_port: &ServicePort,
    family: Family,
) -> Vec<(&'a Endpoint, IpAddr, Port)> {
    let mut found = Vec::new();
    for slice in snapshot.endpoint_slices.values() {
        let ours = slice.key.namespace == service.key.namespace
            && slice.service.as_ref() == Some(&service.key.name)
            && slice.family == family;
        if !ours {
            continue;
        }
        for port in &slice.ports {
            let (true, Some(number)) =
                (port.name == service_port.name && port.protocol == service_port.protocol, port.port)
            else {
                continue;
            };
            // Our data path cannot rewrite an SCTP port: its checksum covers the payload (`design.md` §3).
            if port.protocol == Protocol::Sctp && number != service_port.port {
                continue;
            }
            for endpoint in &slice.endpoints {
                let first = endpoint.addresses.first().map(|addr| addr.to_canonical());
                if let Some(addr) = first.filter(|addr| Family::of(*addr) == family)
                    && !has_ended(snapshot, slice, endpoint)
                {
                    found.push((endpoint, addr, number));
                }
            }
        }
    }
    found
}

/// A targetRef names a pod of the slice's own namespace.
fn has_ended(snapshot: &Snapshot, slice: &EndpointSlice, endpoint: &Endpoint) -> bool {
    let Some((key, uid)) = &endpoint.pod else { return false };
    key.namespace == slice.key.namespace
        && snapshot.pods.get(key).is_some_and(|pod| pod.phase.is_terminal() && pod.uid == *uid)
}

fn candidates(endpoints: &[(&Endpoint, IpAddr, Port)], usable: impl Fn(&Endpoint) -> bool) -> Vec<Candidate> {
    let mut chosen: Vec<Candidate> = endpoints
        .iter()
        .filter(|(endpoint, ..)| usable(endpoint))
        .map(|(endpoint, addr, port)| Candidate {
            addr: *addr,
            port: *port,
            pod: endpoint.pod.as_ref().map(|(key, _)| key.clone()),
        })
        .collect();
    chosen.sort();
    chosen.dedup();
    chosen
}
