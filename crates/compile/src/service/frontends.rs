//! What clients connect to: the frontends of a Service, and of a pod's host ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sheetbend_model::plan::{Frontend, Reach, Scope};
use sheetbend_model::state::{ContainerPort, Pod, Service, ServicePort, ServiceType, TrafficPolicy};
use sheetbend_model::types::{Family, NetworkId, NodeName, Port};

use super::sctp;

/// Stands for every address of the node.
pub(super) fn any_address(family: Family) -> IpAddr {
    match family {
        Family::IPv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::IPv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Which endpoints a frontend's clients are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) reach: Reach,
    pub(super) policy: TrafficPolicy,
    /// A load balancer's address, which may admit some clients only.
    pub(super) is_balanced: bool,
}

/// The frontends of `service`. A headless Service has none, and so has one that somebody else serves.
pub(super) fn of_service(service: &Service) -> Vec<Frontend> {
    let mut frontends = Vec::new();
    let has_none = service.service_type == ServiceType::ExternalName || service.cluster_ips.is_empty();
    if has_none || service.proxied_elsewhere {
        return frontends;
    }
    for port in &service.ports {
        let mut add = |addr, number, scope| {
            frontends.push(Frontend {
                network: NetworkId::default(),
                addr,
                protocol: port.protocol,
                port: number,
                scope,
            });
        };
        // The unspecified address stands for others and is nobody's own.
        for addr in service.cluster_ips.iter().filter(|addr| !addr.is_unspecified()) {
            add(addr.to_canonical(), port.port, Scope::Inside);
        }
        for (addr, number) in external(service, port) {
            // The same Service has both, whatever the policy; `port_of` says whether there is a row.
            add(addr, number, Scope::Inside);
            add(addr, number, Scope::Outside);
        }
    }
    frontends
}

/// (address, port) at which clients elsewhere reach a Service port.
fn external(service: &Service, port: &ServicePort) -> Vec<(IpAddr, Port)> {
    let mut families: Vec<Family> =
        service.cluster_ips.iter().map(|addr| Family::of(addr.to_canonical())).collect();
    families.sort_unstable();
    families.dedup();
    let is_balanced = service.service_type == ServiceType::LoadBalancer;
    let has_node_port = is_balanced || service.service_type == ServiceType::NodePort;
    let ingress = service.ingress_ips.iter().filter(|_| is_balanced);
    let given = service.external_ips.iter().chain(ingress).map(|addr| addr.to_canonical());
    let given = given.filter(|addr| families.contains(&Family::of(*addr)) && !addr.is_unspecified());
    let mut external: Vec<(IpAddr, Port)> = given
        .filter(|addr| !service.cluster_ips.iter().any(|own| own.to_canonical() == *addr))
        .map(|addr| (addr, port.port))
        .collect();
    let node_port = port.node_port.filter(|_| has_node_port);
    external.extend(
        node_port.iter().flat_map(|number| families.iter().map(|family| (any_address(*family), *number))),
    );
    external
}

/// The port of `service` that `frontend`, one of its own, belongs to, and what the frontend means. `None` where clients
/// elsewhere find the frontend for those inside.
pub(super) fn port_of<'a>(service: &'a Service, frontend: &Frontend) -> Option<(&'a ServicePort, Meaning)> {
    let is_node_port = frontend.addr.is_unspecified();
    let port = service.ports.iter().find(|port| {
        let number = if is_node_port { port.node_port } else { Some(port.port) };
        port.protocol == frontend.protocol && number == Some(frontend.port)
    })?;
    let is_balanced = service.service_type == ServiceType::LoadBalancer
        && service.ingress_ips.iter().any(|addr| addr.to_canonical() == frontend.addr);
    let is_cluster_address = service.cluster_ips.iter().any(|addr| addr.to_canonical() == frontend.addr);
    let (reach, policy) = match (is_cluster_address, frontend.scope, service.external_policy) {
        (true, ..) => (Reach::Inside, service.internal_policy),
        // Traffic from within a node counts as having gone out and come back by any node.
        (false, Scope::Inside, TrafficPolicy::Local) => (Reach::Apart, TrafficPolicy::Cluster),
        (false, Scope::Outside, TrafficPolicy::Local) => (Reach::ThisNode, TrafficPolicy::Local),
        (false, Scope::Outside, TrafficPolicy::Cluster) | (false, Scope::Names, _) => return None,
        (false, Scope::Inside, TrafficPolicy::Cluster) => (Reach::EveryNode, TrafficPolicy::Cluster),
    };
    Some((port, Meaning { reach, policy, is_balanced: is_balanced && !is_cluster_address }))
}

/// The frontends of a pod's host ports on `node`, each with the container's port.
pub(super) fn of_pod<'a>(pod: &'a Pod, node: &NodeName) -> Vec<(Frontend, &'a ContainerPort)> {
    let mut frontends = Vec::new();
    if !pod.is_peer() || pod.node.as_ref() != Some(node) {
        return frontends;
    }
    for port in pod.ports.iter() {
        let Some(number) = port.host_port else { continue };
        // The number stays the node's own; `sctp::of_pod` names it.
        if sctp::has_other_number(port) {
            continue;
        }
        for family in Family::ALL.into_iter().filter(|family| pod.address(*family).is_some()) {
            let addr = port.host_ip.map_or_else(|| any_address(family), |addr| addr.to_canonical());
            if Family::of(addr) == family {
                let (network, protocol) = (pod.network, port.protocol);
                let frontend = Frontend { network, addr, protocol, port: number, scope: Scope::Inside };
                frontends.push((frontend, port));
            }
        }
    }
    frontends
}
