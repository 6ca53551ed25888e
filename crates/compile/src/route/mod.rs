//! Where each range is, as seen from one node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use sheetbend_model::plan::{Condition, Route};
use sheetbend_model::state::{NetworkConfig, NetworkMode, Node, NodePortAddresses, Snapshot};
use sheetbend_model::types::{BlockKey, Family, NodeName, ObjectKey};

/// The routes of `node`, and what is wrong with the ranges.
pub(crate) fn routes(
    snapshot: &Snapshot,
    node: &NodeName,
    config: &NetworkConfig,
) -> (BTreeMap<BlockKey, Route>, Vec<Condition>) {
    let mut table = Table { routes: BTreeMap::new(), conditions: Vec::new() };
    if let Some(own) = snapshot.nodes.get(node) {
        for range in &own.pod_cidrs {
            table.add(*range, Route::Local);
        }
    }
    for other in snapshot.nodes.values().filter(|other| other.name != *node) {
        for range in &other.pod_cidrs {
            table.node_range(other, *range, config.mode);
        }
    }
    for other in snapshot.nodes.values() {
        for addr in &other.addresses {
            let addr = addr.to_canonical();
            let mut others = other.addresses.iter().map(IpAddr::to_canonical);
            let route = Route::NodeAddress {
                node: other.name.clone(),
                other: others.find(|other| other.is_ipv4() != addr.is_ipv4()),
                node_ports: serves_node_ports(&config.node_port_addresses, other, addr),
            };
            table.add_if_free(IpNet::from(addr), &route);
        }
    }
    for range in &config.pod_cidrs {
        table.add_if_free(*range, &Route::Unowned);
    }
    let of_cluster = snapshot.service_cidrs.values().flat_map(|service_cidr| &service_cidr.cidrs);
    for range in config.service_cidrs.iter().chain(of_cluster) {
        table.add_if_free(*range, &Route::Service);
    }
    for range in &config.non_masquerade_cidrs {
        table.add_if_free(*range, &Route::NoMasquerade);
    }
    (table.routes, table.conditions)
}

/// Whether `addr` of `node`, or of its stack, leads to node ports.
pub(crate) fn serves_node_ports(addresses: &NodePortAddresses, node: &Node, addr: IpAddr) -> bool {
    let family = Family::of(addr);
    match addresses {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary => node.address(family).map(|own| own.to_canonical()) == Some(addr),
        NodePortAddresses::Within(blocks) => {
            let mut of_family = blocks.iter().filter(|block| Family::of(block.addr()) == family).peekable();
            of_family.peek().is_none() || of_family.any(|block| block.contains(&addr))
        }
    }
}

/// Whether the last 64 bits of an address tell the pods of the range: that node adds the bits of its first IPv6 range.
fn takes_direct(node: &Node, range: &IpNet) -> bool {
    match range {
        IpNet::V4(_) => true,
        IpNet::V6(_) => {
            let first = node.pod_cidrs.iter().find(|range| range.addr().is_ipv6());
            first == Some(range) && range.prefix_len() >= 64
        }
    }
}

struct Table {
    routes: BTreeMap<BlockKey, Route>,
    conditions: Vec<Condition>,
}

impl Table {
    fn add(&mut self, range: IpNet, route: Route) {
        self.routes.insert(BlockKey::new(range), route);
    }

    fn add_if_free(&mut self, range: IpNet, route: &Route) {
        for part in without_mapped(range) {
            self.routes.entry(BlockKey::new(part)).or_insert_with(|| route.clone());
        }
    }

    fn node_range(&mut self, node: &Node, range: IpNet, mode: NetworkMode) {
        let key = BlockKey::new(range);
        match self.routes.get(&key) {
            None => {}
            Some(Route::Node { node: first, .. }) => {
                let message = format!(
                    "pod range {range} is also that of Node {first}, which keeps it; give each Node its own range"
                );
                return self.condition(node, "PodRangeConflict", message);
            }
            Some(
                Route::Local
                | Route::Unowned
                | Route::NodeAddress { .. }
                | Route::NoMasquerade
                | Route::Service,
            ) => {
                let message = format!(
                    "pod range {range} is also that of this node, which keeps it; give each Node its own range"
                );
                return self.condition(node, "PodRangeConflict", message);
            }
        }
        let family = Family::of(range.addr());
        let other_family = || match mode {
            // A tunnel carries either family over either; a next hop is of the route's own (RFC 7348; RFC 4861).
            NetworkMode::Vxlan => node.addresses.first().copied(),
            NetworkMode::HostGw => None,
        };
        match node.address(family).or_else(other_family) {
            Some(via) => {
                let (name, via, direct) = (node.name.clone(), via.to_canonical(), takes_direct(node, &range));
                self.add(range, Route::Node { node: name, via, direct });
            }
            None => {
                self.add(range, Route::Unowned);
                let message = format!(
                    "pod range {range} cannot be reached: the Node has no {family} InternalIP; add one to its \
                     status.addresses, or set network.mode: vxlan if it has one of the other family"
                );
                self.condition(node, "NoNodeAddress", message);
            }
        }
    }

    fn condition(&mut self, node: &Node, reason: &'static str, message: String) {
        let object = ObjectKey::new("", node.name.0.clone());
        self.conditions.push(Condition { kind: "Node", object, reason, message: message.into() });
    }
}

/// `range` without the IPv4 addresses, which the kernel's tables hold mapped into IPv6: `::/0` is no statement about
/// IPv4. An IPv4 range, or an IPv6 range away from them, is itself.
fn without_mapped(range: IpNet) -> Vec<IpNet> {
    const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    let IpNet::V6(net) = range else { return vec![range] };
    if MAPPED.contains(&net) {
        return Vec::new();
    }
    if !net.contains(&MAPPED) {
        return vec![range];
    }
    let mut parts = Vec::new();
    for length in net.prefix_len() + 1..=MAPPED.prefix_len() {
        let sibling = u128::from(MAPPED.addr()) ^ (1 << (128 - u32::from(length)));
        if let Ok(part) = Ipv6Net::new(Ipv6Addr::from(sibling), length) {
            parts.push(IpNet::V6(part.trunc()));
        }
    }
    parts
}
