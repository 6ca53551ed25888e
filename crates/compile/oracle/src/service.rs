//! Services and host ports, read literally.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::state::{
    ContainerPort, Endpoint, EndpointSlice, NodeLocalDns, Pod, Service, ServicePort, ServiceType, Snapshot,
    TrafficPolicy,
};
use sheetbend_model::types::{Family, NodeName, ObjectKey, Port, Protocol};

/// A backend that a new flow may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The endpoint's address.
    pub addr: IpAddr,
    /// The endpoint's port.
    pub port: Port,
    /// The Pod behind it, where the endpoint names one.
    pub pod: Option<ObjectKey>,
    /// How much of the new flows it gets, beside the others: 1..=100.
    pub weight: u8,
}

/// Who translates a packet, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At<'a> {
    /// The node of the client, which is one of its pods or processes.
    ClientNode(&'a NodeName),
    /// A node that the packet came to from elsewhere.
    Entry(&'a NodeName),
}

impl<'a> At<'a> {
    fn node(self) -> &'a NodeName {
        match self {
            At::ClientNode(node) | At::Entry(node) => node,
        }
    }
}

/// What an (address, protocol, port) leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The Service; of a host port the Pod.
    pub owner: ObjectKey,
    /// Sorted. Empty = refused, or dropped.
    pub candidates: Vec<Candidate>,
    /// There are none only because of a traffic policy Local: dropped, not refused.
    pub is_dropped: bool,
    /// Whom a load balancer's address admits, in its family; `None` = everybody.
    pub admits: Option<BTreeSet<IpNet>>,
}

/// The Service, or host port, that somebody at `at` finds behind (addr, protocol, port), and its backends: the ready
/// ones, else those that are terminating and still serve; with a traffic policy Local, among those on the node. An
/// unspecified `addr` is any address of that node. `None` = none of them.
pub fn service(
    snapshot: &Snapshot,
    at: At<'_>,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Found> {
    let addr = addr.to_canonical();
    let Some((service, service_port, is_cluster_address)) = owner(snapshot, at, addr, protocol, port) else {
        return host_port(snapshot, at.node(), addr, protocol, port);
    };
    let endpoints = endpoints(snapshot, service, service_port, Family::of(addr), port);
    let is_local = match at {
        At::ClientNode(_) => is_cluster_address && service.internal_policy == TrafficPolicy::Local,
        At::Entry(_) => service.external_policy == TrafficPolicy::Local,
    };
    let everywhere = chosen(&endpoints);
    let all = chosen(&near(&endpoints, snapshot, at.node()));
    let here = |of: &Of<'_>| of.endpoint.node.as_ref() == Some(at.node());
    let mut candidates =
        if is_local { chosen(&endpoints.into_iter().filter(here).collect::<Vec<_>>()) } else { all.clone() };
    let is_dropped = candidates.is_empty() && !everywhere.is_empty();
    candidates.retain(|candidate| candidate.weight > 0);
    let is_balanced = service.service_type == ServiceType::LoadBalancer
        && !is_cluster_address
        && service.ingress_ips.iter().any(|own| own.to_canonical() == addr);
    let in_family = |range: &&IpNet| Family::of(range.addr()) == Family::of(addr);
    let admits = service.source_ranges.as_ref().filter(|_| is_balanced);
    let admits = admits.map(|ranges| ranges.iter().filter(in_family).map(IpNet::trunc).collect());
    Some(Found { owner: service.key.clone(), candidates, is_dropped, admits })
}

/// What a pod or process of `node` finds at a node-local DNS address: the DNS Service's endpoints on that node that take
/// new flows, or else what any of its clients would find. `None` = it is none, or a Node or its pods have it.
pub fn node_local_dns(
    snapshot: &Snapshot,
    node: &NodeName,
    dns: &NodeLocalDns,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Found> {
    let addr = addr.to_canonical();
    let is_taken = snapshot.nodes.values().any(|node| {
        node.addresses.iter().any(|own| own.to_canonical() == addr)
            || node.pod_cidrs.iter().any(|range| range.contains(&addr))
    });
    if is_taken || !dns.addresses.iter().any(|own| own.to_canonical() == addr) {
        return None;
    }
    let service = snapshot.services.get(&dns.service)?;
    let service_port = service.ports.iter().find(|own| own.protocol == protocol && own.port.get() == port)?;
    let endpoints = endpoints(snapshot, service, service_port, Family::of(addr), port);
    let own: Vec<Of<'_>> =
        endpoints.iter().filter(|of| of.endpoint.node.as_ref() == Some(node)).copied().collect();
    let mut candidates = candidates(&own, |endpoint| endpoint.ready);
    candidates.retain(|candidate| candidate.weight > 0);
    if candidates.is_empty() {
        candidates = chosen(&near(&endpoints, snapshot, node));
        candidates.retain(|candidate| candidate.weight > 0);
    }
    Some(Found { owner: service.key.clone(), candidates, is_dropped: false, admits: None })
}

/// The endpoints whose hints name `node`, else those whose hints name its zone; all, where a ready one lacks a hint or
/// nobody ready is meant (KEP-3015).
fn near<'a>(endpoints: &[Of<'a>], snapshot: &Snapshot, node: &NodeName) -> Vec<Of<'a>> {
    let uid = |endpoint: &Endpoint| endpoint.pod.as_ref().map(|(_, uid)| uid.to_string());
    let mut names: BTreeMap<_, (bool, BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for Of { endpoint, addr, port, .. } in endpoints {
        // What several slices say of one endpoint counts together.
        let (ready, nodes, zones) = names.entry((*addr, *port, uid(endpoint))).or_default();
        *ready |= endpoint.ready;
        if let Some(hints) = &endpoint.hints {
            nodes.extend(hints.nodes.iter().map(ToString::to_string));
            zones.extend(hints.zones.iter().map(ToString::to_string));
        }
    }
    let zone = snapshot.nodes.get(node).and_then(|node| node.zone()).map(ToOwned::to_owned);
    let ready: Vec<_> = names.values().filter(|(ready, ..)| *ready).collect();
    let by_node = ready.iter().all(|(_, nodes, _)| !nodes.is_empty())
        && ready.iter().any(|(_, nodes, _)| nodes.contains(&node.to_string()));
    let by_zone = ready.iter().all(|(.., zones)| !zones.is_empty())
        && ready.iter().any(|(.., zones)| zone.as_ref().is_some_and(|zone| zones.contains(zone)));
    let is_near = |of: &&Of<'_>| {
        let (ready, nodes, zones) = &names[&(of.addr, of.port, uid(of.endpoint))];
        // Nobody looks at the hints of those that only finish their work.
        !ready
            || if by_node {
                nodes.contains(&node.to_string())
            } else {
                !by_zone || zone.as_ref().is_some_and(|zone| zones.contains(zone))
            }
    };
    endpoints.iter().filter(is_near).copied().collect()
}

/// What `node` answers at a health check node port: the Service that has it (the least key), and how many of its ready
/// endpoints are there. `None` = nobody's.
pub fn health_check(snapshot: &Snapshot, node: &NodeName, port: Port) -> Option<(ObjectKey, u32)> {
    let asks = |service: &&Arc<Service>| {
        service.service_type == ServiceType::LoadBalancer
            && service.external_policy == TrafficPolicy::Local
            && service.health_check_node_port == Some(port)
            && !service.proxied_elsewhere
    };
    let service = snapshot.services.values().find(asks)?;
    let mut ready = BTreeSet::new();
    for slice in snapshot.endpoint_slices.values() {
        if slice.key.namespace != service.key.namespace || slice.service.as_ref() != Some(&service.key.name) {
            continue;
        }
        for endpoint in &slice.endpoints {
            if endpoint.ready && endpoint.node.as_ref() == Some(node) {
                // A pod has an endpoint per family.
                ready.insert(match &endpoint.pod {
                    Some((pod, uid)) => format!("{pod} {uid}"),
                    None => format!("{:?}", endpoint.address),
                });
            }
        }
    }
    Some((service.key.clone(), ready.len().try_into().unwrap_or(u32::MAX)))
}

/// An endpoint of a Service port.
#[derive(Clone, Copy)]
struct Of<'a> {
    endpoint: &'a Endpoint,
    addr: IpAddr,
    port: Port,
    /// What its slice says, or else the Service.
    weight: u8,
}

fn chosen(endpoints: &[Of<'_>]) -> Vec<Candidate> {
    let ready = candidates(endpoints, |endpoint| endpoint.ready);
    if ready.is_empty() {
        candidates(endpoints, |endpoint| endpoint.serving && endpoint.terminating)
    } else {
        ready
    }
}

/// The least key wins a frontend that two Services claim, and within it the first port. Also whether it is a cluster
/// address.
pub(crate) fn owner<'a>(
    snapshot: &'a Snapshot,
    at: At<'_>,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<(&'a Service, &'a ServicePort, bool)> {
    for service in snapshot.services.values() {
        if service.service_type == ServiceType::ExternalName || service.proxied_elsewhere {
            continue;
        }
        let has = |all: &[IpAddr]| all.iter().any(|own| own.to_canonical() == addr);
        let has_family =
            service.cluster_ips.iter().any(|own| Family::of(own.to_canonical()) == Family::of(addr));
        let is_balanced = service.service_type == ServiceType::LoadBalancer;
        let is_cluster_address = has(&service.cluster_ips) && !addr.is_unspecified();
        let is_external = has_family
            && !is_cluster_address
            && !addr.is_unspecified()
            && (has(&service.external_ips) || is_balanced && has(&service.ingress_ips));
        let is_node_port = has_family
            && addr.is_unspecified()
            && (is_balanced || service.service_type == ServiceType::NodePort);
        for service_port in service.ports.iter().filter(|own| own.protocol == protocol) {
            let by_port = service_port.port.get() == port;
            let by_node_port = service_port.node_port.is_some_and(|own| own.get() == port);
            // A cluster address is for the cluster; what came from elsewhere finds only what is published.
            let inside = matches!(at, At::ClientNode(_));
            if by_port && (inside && is_cluster_address || is_external) || by_node_port && is_node_port {
                return Some((service, service_port, is_cluster_address));
            }
        }
    }
    None
}

/// The pod of `node` with this host port: the least key wins.
fn host_port(
    snapshot: &Snapshot,
    node: &NodeName,
    addr: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Found> {
    let family = Family::of(addr);
    let matches = |own: &ContainerPort| {
        let is_addr = match own.host_ip.map(|ip| ip.to_canonical()) {
            None => addr.is_unspecified(),
            Some(ip) => ip == addr,
        };
        let can = own.protocol != Protocol::Sctp || own.host_port == Some(own.port);
        own.protocol == protocol && own.host_port.is_some_and(|own| own.get() == port) && is_addr && can
    };
    let is_here =
        |pod: &Pod| !pod.host_network && !pod.phase.is_terminal() && pod.node.as_ref() == Some(node);
    for pod in snapshot.pods.values().filter(|pod| is_here(pod)) {
        let Some(own) = pod.address(family) else { continue };
        if let Some(found) = pod.ports.iter().find(|own| matches(own)) {
            let candidate = Candidate {
                addr: own.to_canonical(),
                port: found.port,
                pod: Some(pod.key.clone()),
                weight: 1,
            };
            let (owner, candidates) = (pod.key.clone(), vec![candidate]);
            return Some(Found { owner, candidates, is_dropped: false, admits: None });
        }
    }
    None
}

/// `asked`: the port that the client used.
fn endpoints<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    service_port: &ServicePort,
    family: Family,
    asked: u16,
) -> Vec<Of<'a>> {
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
            // An SCTP packet keeps the port that its client wrote: its checksum covers the payload (RFC 9260 §6.8).
            if port.protocol == Protocol::Sctp && number.get() != asked {
                continue;
            }
            for endpoint in &slice.endpoints {
                let first = endpoint.address.map(|addr| addr.to_canonical());
                if let Some(addr) = first.filter(|addr| Family::of(*addr) == family)
                    && !has_ended(snapshot, slice, endpoint)
                {
                    let own = slice.weights.of(endpoint);
                    let weight = own.or(service.weights.of(endpoint)).unwrap_or(1);
                    found.push(Of { endpoint, addr, port: number, weight });
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

fn candidates(endpoints: &[Of<'_>], usable: impl Fn(&Endpoint) -> bool) -> Vec<Candidate> {
    let pod = |of: &Of<'_>| of.endpoint.pod.as_ref().map(|(key, _)| key.clone());
    let same = |a: &Of<'_>, b: &Of<'_>| (a.addr, a.port, pod(a)) == (b.addr, b.port, pod(b));
    let usable_now: Vec<&Of<'_>> = endpoints.iter().filter(|of| usable(of.endpoint)).collect();
    let mut chosen: Vec<Candidate> = usable_now
        .iter()
        .map(|of| {
            // Several slices may have it: the greatest weight counts.
            let weight = endpoints.iter().filter(|other| same(other, of)).map(|other| other.weight).max();
            Candidate { addr: of.addr, port: of.port, pod: pod(of), weight: weight.unwrap_or(1) }
        })
        .collect();
    chosen.sort();
    chosen.dedup();
    chosen
}
