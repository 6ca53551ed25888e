//! Which cells there are, and what the Kubernetes objects say of each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use sheetbend_model::state::{Service, ServiceType, Snapshot};
use sheetbend_model::types::{Family, ObjectKey, Protocol};
use sheetbend_oracle::{At, End, Expected, L4, Probe as Question, expect, service as service_of};

use super::places::{Place, Places};
use crate::lab::probe::{Probe, Speech};

/// A cell before it is probed.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    /// As cells name it.
    pub(super) source: String,
    /// Where the source's sockets are made.
    pub(super) netns: String,
    /// The source's address of this family.
    pub(super) from: IpAddr,
    /// As cells name it.
    pub(super) destination: String,
    /// The Service, if its address is asked.
    pub(super) service: Option<String>,
    /// The Service's endpoints.
    pub(super) behind: Vec<SocketAddr>,
    /// The address asked.
    pub(super) address: IpAddr,
    /// With what.
    pub(super) protocol: L4,
    /// 0 for ICMP.
    pub(super) port: u16,
    /// `same-node`, `cross-node`, `world` or `service`.
    pub(super) way: &'static str,
    /// By the Kubernetes objects.
    pub(super) expected: Expected,
    /// Why it is not tried.
    pub(super) skip: Option<&'static str>,
}

impl Planned {
    /// The exchange to try; `None` for a skipped cell.
    pub(super) fn probe(&self) -> Option<Probe> {
        let speech = match self.protocol {
            L4::Tcp => Speech::Tcp,
            L4::Udp => Speech::Udp,
            L4::Icmp => Speech::Echo,
            L4::Sctp => return None,
        };
        self.skip.is_none().then(|| Probe {
            from: self.from,
            to: SocketAddr::new(self.address, self.port),
            behind: self.behind.clone(),
            speech,
        })
    }
}

/// All cells.
pub(super) fn cells(snapshot: &Snapshot, places: &Places) -> Vec<Planned> {
    let mut cells = Vec::new();
    let mut asked: Vec<(L4, u16)> =
        places.ports.iter().map(|(protocol, port)| (L4::from(*protocol), *port)).collect();
    asked.push((L4::Icmp, 0));
    for source in places.pods.iter().chain(&places.world) {
        // The world does not talk to itself through the cluster.
        let others = places.world.iter().filter(|_| source.node.is_some());
        for destination in places.pods.iter().chain(others) {
            for (from, address) in pairs(&source.addresses, &destination.addresses) {
                for (protocol, port) in &asked {
                    let way = way(source, destination);
                    let mut cell =
                        Planned::new(source, from, (&destination.name, way), address, (*protocol, *port));
                    cell.decide(snapshot, source, places);
                    if places.is_foreign(&destination.end) && *protocol != L4::Icmp {
                        cell.skip = Some("the pod runs a command of its own");
                    }
                    cells.push(cell);
                }
            }
        }
        if source.node.is_some() && !source.is_host {
            services(snapshot, source, places, &mut cells);
        }
        if !source.is_host {
            node_ports(snapshot, source, places, &mut cells);
        }
    }
    cells.retain(|cell| cell.expected != Expected::Unspecified);
    cells
}

fn services(snapshot: &Snapshot, source: &Place, places: &Places, cells: &mut Vec<Planned>) {
    for service in
        snapshot.services.values().filter(|service| service.service_type != ServiceType::ExternalName)
    {
        for (from, address) in pairs(&source.addresses, &service.cluster_ips) {
            for port in &service.ports {
                let name = service.key.to_string();
                let asked = (L4::from(port.protocol), port.port.get());
                let mut cell = Planned::new(source, from, (&name, "service"), address, asked);
                cell.service = Some(name);
                let at = source.node.as_ref().map(At::ClientNode);
                cell.look_behind(snapshot, at, (address, port.protocol), places);
                cell.decide(snapshot, source, places);
                cells.push(cell);
            }
            // Somebody else's addresses lead where the lab has nobody.
            if !service.proxied_elsewhere {
                let name = service.key.to_string();
                let asked = (L4::Tcp, closed_port(service));
                let mut cell = Planned::new(source, from, (&name, "service"), address, asked);
                cell.service = Some(name);
                cell.decide(snapshot, source, places);
                cells.push(cell);
            }
        }
    }
    for (from, address) in pairs(&source.addresses, &free_addresses(snapshot)) {
        let mut cell = Planned::new(source, from, ("no Service", "service"), address, (L4::Tcp, 80));
        cell.decide(snapshot, source, places);
        cells.push(cell);
    }
}

/// The greatest port below the node ports that the Service does not have.
fn closed_port(service: &Service) -> u16 {
    let has = |port: &u16| service.ports.iter().any(|own| own.port.get() == *port);
    (1..=19_999).rev().find(|port| !has(port)).unwrap_or(19_999)
}

/// An address of each range of Services that no Service has.
fn free_addresses(snapshot: &Snapshot) -> Vec<IpAddr> {
    let held: BTreeSet<IpAddr> =
        snapshot.services.values().flat_map(|service| service.cluster_ips.iter().copied()).collect();
    let ranges = snapshot.service_cidrs.values().flat_map(|service_cidr| &service_cidr.cidrs);
    ranges.filter_map(|range| range.hosts().skip(1).find(|addr| !held.contains(addr))).collect()
}

/// Every Service's node ports at every node's addresses: the pods and the world ask them.
fn node_ports(snapshot: &Snapshot, source: &Place, places: &Places, cells: &mut Vec<Planned>) {
    for service in snapshot.services.values() {
        let families: Vec<Family> = service.cluster_ips.iter().map(|addr| Family::of(*addr)).collect();
        let published = [ServiceType::NodePort, ServiceType::LoadBalancer].contains(&service.service_type);
        for node in snapshot.nodes.values().filter(|_| published) {
            for (from, address) in pairs(&source.addresses, &node.addresses) {
                let any = match Family::of(address) {
                    Family::IPv4 => IpAddr::from([0; 4]),
                    Family::IPv6 => IpAddr::from([0; 16]),
                };
                for port in service.ports.iter().filter(|_| families.contains(&Family::of(address))) {
                    let Some(number) = port.node_port else { continue };
                    let name = service.key.to_string();
                    let asked = (L4::from(port.protocol), number.get());
                    let mut cell = Planned::new(source, from, (&name, "service"), address, asked);
                    cell.service = Some(name);
                    // Either node may choose: the client's own, or the one asked.
                    let own = source.node.as_ref().map(At::ClientNode);
                    cell.look_behind(snapshot, own, (any, port.protocol), places);
                    cell.look_behind(snapshot, Some(At::Entry(&node.name)), (any, port.protocol), places);
                    cell.decide(snapshot, source, places);
                    cells.push(cell);
                }
            }
        }
    }
}

impl Planned {
    fn new(
        source: &Place,
        from: IpAddr,
        to: (&str, &'static str),
        address: IpAddr,
        asked: (L4, u16),
    ) -> Self {
        Self {
            source: source.name.clone(),
            netns: source.netns.clone(),
            from,
            destination: to.0.to_owned(),
            service: None,
            behind: Vec::new(),
            address,
            protocol: asked.0,
            port: asked.1,
            way: to.1,
            expected: Expected::Unspecified,
            skip: (asked.0 == L4::Sctp)
                .then_some("this kernel has no SCTP sockets, or the lab's servers have none"),
        }
    }

    /// Notes the endpoints behind the cell's address, as somebody `at` finds them.
    fn look_behind(
        &mut self,
        snapshot: &Snapshot,
        at: Option<At<'_>>,
        (address, protocol): (IpAddr, Protocol),
        places: &Places,
    ) {
        let found = at.and_then(|at| service_of(snapshot, at, address, protocol, self.port));
        let endpoints = found.map(|found| found.candidates).unwrap_or_default();
        let foreign = |pod: &ObjectKey| places.is_foreign(&End::Pod(pod.clone()));
        if endpoints.iter().filter_map(|end| end.pod.as_ref()).any(foreign) {
            self.skip = Some("an endpoint runs a command of its own");
        }
        self.behind.extend(endpoints.iter().map(|end| SocketAddr::new(end.addr, end.port.get())));
        self.behind.sort_unstable();
        self.behind.dedup();
    }

    fn decide(&mut self, snapshot: &Snapshot, source: &Place, places: &Places) {
        let question = Question {
            source: source.end.clone(),
            destination: self.address,
            protocol: self.protocol,
            port: self.port,
        };
        self.expected =
            expect(snapshot, &question, &|end, protocol, port| places.listens(end, protocol, port));
    }
}

fn way(source: &Place, destination: &Place) -> &'static str {
    match (&source.node, &destination.node) {
        (Some(from), Some(to)) if from == to => "same-node",
        (Some(_), Some(_)) => "cross-node",
        _ => "world",
    }
}

/// Addresses of the same family.
fn pairs(sources: &[IpAddr], destinations: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let both = sources.iter().flat_map(|from| destinations.iter().map(move |to| (*from, *to)));
    both.filter(|(from, to)| Family::of(*from) == Family::of(*to)).collect()
}
