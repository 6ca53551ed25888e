//! Addresses of Services that nobody serves, read literally.

use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::state::{ServiceType, Snapshot};

/// What becomes of a packet to an address of Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// No Service has the address.
    Dropped,
    /// A Service has it, but not with that port for that client.
    Refused,
}

/// What becomes of a packet to `addr` that leads to no [`service`](crate::service()) and no pod. `configured` ranges of
/// Services come on top of the ServiceCIDRs. `None`: it goes on.
pub fn unserved(snapshot: &Snapshot, configured: &[IpNet], addr: IpAddr) -> Option<Unserved> {
    let addr = addr.to_canonical();
    let is_places = snapshot.nodes.values().any(|node| {
        node.addresses.iter().any(|own| own.to_canonical() == addr)
            || node.pod_cidrs.iter().any(|range| range.contains(&addr))
    });
    if is_places || addr.is_unspecified() {
        return None;
    }
    let mut has_holder = false;
    for service in snapshot.services.values() {
        if service.service_type != ServiceType::ExternalName
            && service.cluster_ips.iter().any(|own| own.to_canonical() == addr)
        {
            if service.proxied_elsewhere {
                return None;
            }
            has_holder = true;
        }
    }
    if has_holder {
        return Some(Unserved::Refused);
    }
    let of_cluster = snapshot.service_cidrs.values().flat_map(|service_cidr| &service_cidr.cidrs);
    let is_in_range = configured.iter().chain(of_cluster).any(|range| range.contains(&addr));
    is_in_range.then_some(Unserved::Dropped)
}
