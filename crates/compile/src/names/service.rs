//! The names of one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::plan::{Record, ZoneKey, dashed};
use sheetbend_model::state::{Endpoint, EndpointSlice, Service, ServiceType};
use sheetbend_model::types::{Family, Port, Protocol};

/// What one Service puts into the zone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Names {
    /// Owner name → records.
    pub(super) records: BTreeMap<ZoneKey, Vec<Record>>,
    /// Address, name that it stands for.
    pub(super) pointers: BTreeSet<(IpAddr, Arc<str>)>,
}

/// A Service's place in the zone.
struct Place {
    key: ZoneKey,
    /// `<service>.<namespace>.svc.<origin>`.
    name: Arc<str>,
}

/// The names of `service`, whose EndpointSlices are `slices`. A name that DNS cannot hold is left out.
pub(super) fn names<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    origin: &str,
) -> Names {
    let mut names = Names::default();
    let relative = format!("{}.{}.svc", service.key.name, service.key.namespace).to_ascii_lowercase();
    let Some(key) = ZoneKey::of(&relative) else { return names };
    let place = Place { key, name: format!("{relative}.{origin}").into() };
    match service.service_type {
        ServiceType::ExternalName => external(service, place, &mut names),
        ServiceType::ClusterIP | ServiceType::NodePort | ServiceType::LoadBalancer => {
            if service.cluster_ips.is_empty() {
                headless(service, slices, &place, &mut names);
            } else {
                with_cluster_ip(service, &place, &mut names);
            }
        }
    }
    names
}

/// §2.5.
fn external(service: &Service, place: Place, names: &mut Names) {
    if let Some(target) = &service.external_name {
        names.records.insert(place.key, vec![Record::Cname(target.to_ascii_lowercase().into())]);
    }
}

/// §2.3.
fn with_cluster_ip(service: &Service, place: &Place, names: &mut Names) {
    for addr in service.cluster_ips.iter().map(IpAddr::to_canonical) {
        names.records.entry(place.key.clone()).or_default().push(Record::address(addr));
        names.pointers.insert((addr, Arc::clone(&place.name)));
    }
    for port in &service.ports {
        add_srv(names, place, &port.name, port.protocol, port.port, &place.name);
    }
}

/// §2.4.
fn headless<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    place: &Place,
    names: &mut Names,
) {
    for slice in slices {
        for endpoint in slice.endpoints.iter().filter(|each| each.ready || service.publish_not_ready) {
            let Some((addr, label, key)) = host(endpoint, slice.family, place) else { continue };
            let record = Record::address(addr);
            names.records.entry(place.key.clone()).or_default().push(record.clone());
            let target: Arc<str> = format!("{label}.{}", place.name).into();
            names.records.entry(key).or_default().push(record);
            for port in &slice.ports {
                if let Some(number) = port.port {
                    add_srv(names, place, &port.name, port.protocol, number, &target);
                }
            }
            names.pointers.insert((addr, target));
        }
    }
}

/// An endpoint's address and host name (§2.1 _hostname_): its own, else its address, which tells it apart from others.
fn host(endpoint: &Endpoint, family: Family, place: &Place) -> Option<(IpAddr, String, ZoneKey)> {
    // Consumers use the first address only (discovery/v1, Endpoint.addresses).
    let addr = endpoint.address?.to_canonical();
    let label = endpoint.hostname.as_deref().map_or_else(|| dashed(addr), str::to_ascii_lowercase);
    let mut key = place.key.clone();
    (Family::of(addr) == family && !label.contains('.') && key.push(label.as_bytes()))
        .then_some((addr, label, key))
}

/// §2.3.2 and §2.4.2. Unnamed ports have none.
fn add_srv(
    names: &mut Names,
    place: &Place,
    port: &str,
    protocol: Protocol,
    number: Port,
    target: &Arc<str>,
) {
    let (port, protocol) = (format!("_{port}"), format!("_{protocol}"));
    let mut key = place.key.clone();
    if port.len() > 1 && !port.contains('.') && key.push(protocol.as_bytes()) && key.push(port.as_bytes()) {
        let record = Record::Srv { port: number, target: Arc::clone(target) };
        names.records.entry(key).or_default().push(record);
    }
}
