//! Names, read literally from the Kubernetes DNS specification 1.1.0.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sheetbend_model::state::{Endpoint, EndpointSlice, Service, ServiceType, Snapshot};

/// Every record of `name` (absolute, without the dot at its end) in the zone `origin`, as `TYPE data`. `None` = there
/// is no such name and none below it; an empty set = there are only names below it.
pub fn records(snapshot: &Snapshot, origin: &str, name: &str) -> Option<BTreeSet<String>> {
    let name = name.to_lowercase();
    let all = everything(snapshot, &origin.to_lowercase());
    let found: BTreeSet<String> =
        all.iter().filter(|(owner, _)| *owner == name).map(|(_, record)| record.clone()).collect();
    let below = format!(".{name}");
    let exists = name == origin || !found.is_empty() || all.iter().any(|(owner, _)| owner.ends_with(&below));
    exists.then_some(found)
}

/// Every name that `addr` stands for.
pub fn pointers(snapshot: &Snapshot, origin: &str, addr: IpAddr) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for service in snapshot.services.values() {
        let own = format!("{}.{}.svc.{origin}", service.key.name, service.key.namespace).to_lowercase();
        if is_headless(service) {
            for (host, other, _) in hosts(snapshot, service) {
                if other == addr {
                    names.insert(format!("{host}.{own}."));
                }
            }
        } else if service.service_type != ServiceType::ExternalName && service.cluster_ips.contains(&addr) {
            names.insert(format!("{own}."));
        }
    }
    names
}

fn everything(snapshot: &Snapshot, origin: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    if *snapshot != Snapshot::default() {
        all.push((format!("dns-version.{origin}"), "TXT \"1.1.0\"".to_owned()));
    }
    for pod in snapshot.pods.values().filter(|pod| !pod.phase.is_terminal()) {
        for addr in pod.addresses.iter() {
            let label = addr.to_string().replace(['.', ':'], "-");
            all.push((format!("{label}.{}.pod.{origin}", pod.key.namespace), address(addr)));
        }
    }
    for service in snapshot.services.values() {
        let own = format!("{}.{}.svc.{origin}", service.key.name, service.key.namespace).to_lowercase();
        if service.service_type == ServiceType::ExternalName {
            if let Some(target) = &service.external_name {
                all.push((own, format!("CNAME {}.", target.to_lowercase())));
            }
        } else if is_headless(service) {
            for (host, addr, slice) in hosts(snapshot, service) {
                all.push((own.clone(), address(addr)));
                all.push((format!("{host}.{own}"), address(addr)));
                for port in slice.ports.iter().filter(|port| !port.name.is_empty()) {
                    let Some(number) = port.port else { continue };
                    let owner = format!("_{}._{}.{own}", port.name, port.protocol).to_lowercase();
                    all.push((owner, format!("SRV {number} {host}.{own}.")));
                }
            }
        } else {
            all.extend(service.cluster_ips.iter().map(|addr| (own.clone(), address(*addr))));
            for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
                let owner = format!("_{}._{}.{own}", port.name, port.protocol).to_lowercase();
                all.push((owner, format!("SRV {} {own}.", port.port)));
            }
        }
    }
    all
}

fn is_headless(service: &Service) -> bool {
    service.service_type != ServiceType::ExternalName && service.cluster_ips.is_empty()
}

/// Host name and address of each ready endpoint, with its slice.
fn hosts<'a>(snapshot: &'a Snapshot, service: &Service) -> Vec<(String, IpAddr, &'a EndpointSlice)> {
    let mut hosts = Vec::new();
    for slice in snapshot.endpoint_slices.values() {
        if slice.key.namespace != service.key.namespace || slice.service.as_ref() != Some(&service.key.name) {
            continue;
        }
        for endpoint in &slice.endpoints {
            let Some(addr) = endpoint.address else { continue };
            if endpoint.ready || service.publish_not_ready {
                hosts.push((host_name(endpoint, addr), addr, &**slice));
            }
        }
    }
    hosts
}

fn host_name(endpoint: &Endpoint, addr: IpAddr) -> String {
    match &endpoint.hostname {
        Some(name) => name.to_lowercase(),
        None => addr.to_string().replace(['.', ':'], "-"),
    }
}

fn address(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => format!("A {addr}"),
        IpAddr::V6(addr) => format!("AAAA {addr}"),
    }
}
