//! Small pools, so that random objects meet each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::types::{DomainPattern, Family, NodeName, ObjectKey, Port, PortRange};

/// Namespaces of random clusters. The last has the cluster's DNS.
pub const NAMESPACES: [&str; 3] = ["blue", "green", "kube-system"];
/// Tenants of random clusters.
pub const TENANTS: [&str; 2] = ["one", "two"];
/// Nodes of random clusters. The first is the one whose Dataplane is looked at.
pub const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// Their zones.
pub const ZONES: [&str; 2] = ["zone-1", "zone-2"];
/// Label keys of pods and namespaces.
pub const LABEL_KEYS: [&str; 3] = ["app", "env", "tier"];
/// Label values.
pub const LABEL_VALUES: [&str; 3] = ["api", "db", "web"];
/// Names of container ports.
pub const PORT_NAMES: [&str; 2] = ["dns", "http"];
/// Port numbers.
pub const PORTS: [u16; 5] = [53, 80, 443, 8080, 9000];
/// Node ports and host ports.
pub const NODE_PORTS: [u16; 4] = [30_000, 30_080, 31_000, 32_767];
/// Number of pods that a random cluster may have.
pub const PODS: u8 = 12;
/// Number of policies that a random cluster may have.
pub const POLICIES: u8 = 8;
/// Number of ClusterNetworkPolicies that a random cluster may have.
pub const CLUSTER_POLICIES: u8 = 6;
/// Number of TrafficPolicies of both kinds that a random cluster may have.
pub const TRAFFIC_POLICIES: u8 = 7;
/// TrafficTiers of random clusters.
pub const TRAFFIC_TIERS: [&str; 3] = ["first", "last", "other"];
/// NetworkSets of random clusters.
pub const NETWORK_SETS: [&str; 3] = ["offices", "partners", "world"];
/// ServiceAccounts of pods.
pub const SERVICE_ACCOUNTS: [&str; 3] = ["builder", "default", "reader"];
/// Domain names that pods ask for.
pub const DOMAIN_NAMES: [&str; 4] = ["a.example.com", "b.a.example.com", "example.com", "other.test"];
/// Number of Services that a random cluster may have.
pub const SERVICES: u8 = 4;

const BLOCKS: [&str; 12] = [
    "0.0.0.0/0",
    "10.244.0.0/16",
    "10.244.0.0/28",
    "10.244.1.0/24",
    "203.0.113.0/24",
    "192.168.7.0/24",
    "::/0",
    "fd00:244::/32",
    "fd00:244::/124",
    "fd00:244:1::/48",
    "2001:db8::/32",
    "fd00:192::/64",
];

const EXCEPTS: [&str; 12] = [
    "10.244.0.0/29",
    "10.244.0.4/32",
    "10.244.1.0/28",
    "203.0.113.64/26",
    "203.0.113.0/24",
    "192.168.7.2/32",
    "fd00:244::/125",
    "fd00:244::4/128",
    "fd00:244:1::/124",
    "2001:db8:0:1::/64",
    "2001:db8::/32",
    "fd00:192::2/128",
];

/// The node whose Dataplane is looked at.
pub fn node() -> NodeName {
    NodeName::new(NODES[0])
}

/// The blocks that policies name.
pub fn blocks() -> Vec<IpNet> {
    parse(&BLOCKS)
}

/// The exceptions of blocks.
pub fn excepts() -> Vec<IpNet> {
    parse(&EXCEPTS)
}

/// What policies call domain names.
pub fn domain_patterns() -> Vec<DomainPattern> {
    let texts = ["example.com", "*.example.com", "*.a.example.com", "other.test"];
    texts.iter().filter_map(|text| DomainPattern::new(text)).collect()
}

/// Addresses that domain names may have: of the world, of pods and of nodes.
pub fn named_addresses() -> Vec<IpAddr> {
    let of_pods = (0..2).flat_map(|node| Family::ALL.map(|family| pod_address(node, 1, family)));
    world().into_iter().chain(of_pods).chain([node_address(1, Family::IPv4), external_address(1)]).collect()
}

fn parse(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A port of the pool.
///
/// # Panics
/// Never: the pool has no 0.
pub fn port(number: u16) -> Port {
    Port::new(number).unwrap_or_else(|error| panic!("{error}"))
}

/// `first..=last`, in either order.
pub fn range(first: u16, last: u16) -> PortRange {
    let (first, last) = (port(first.min(last)), port(first.max(last)));
    PortRange::new(first, last).unwrap_or_else(|| PortRange::single(first))
}

/// The key of pod number `index`.
pub fn pod_key(index: u8) -> ObjectKey {
    ObjectKey::new(NAMESPACES[usize::from(index) % NAMESPACES.len()], format!("pod-{index}"))
}

/// The key of policy number `index`.
pub fn policy_key(index: u8) -> ObjectKey {
    ObjectKey::new(NAMESPACES[usize::from(index) % NAMESPACES.len()], format!("policy-{index}"))
}

/// The name of ClusterNetworkPolicy number `index`. The order of names is not that of numbers.
pub fn tier_name(index: u8) -> Arc<str> {
    format!("tier-{}", (index * 5 + 3) % 11).into()
}

/// The key of TrafficPolicy number `index`; every third is a namespace's. The order of names is not that of numbers.
pub fn traffic_key(index: u8) -> ObjectKey {
    let name = format!("traffic-{}", (index * 5 + 3) % 11);
    match index % 3 {
        1 => ObjectKey::new(NAMESPACES[usize::from(index / 3) % NAMESPACES.len()], name),
        _ => ObjectKey::cluster_scoped(name),
    }
}

/// The key of Service number `index`; number 2 is the cluster's DNS.
pub fn service_key(index: u8) -> ObjectKey {
    let name = if index == 2 { "kube-dns".to_owned() } else { format!("service-{index}") };
    ObjectKey::new(NAMESPACES[usize::from(index) % NAMESPACES.len()], name)
}

/// The address with number `slot` of a node's pod range.
pub fn pod_address(node: usize, slot: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => Ipv4Addr::new(10, 244, node as u8, slot + 2).into(),
        Family::IPv6 => Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, u16::from(slot) + 2).into(),
    }
}

/// A node's own address.
pub fn node_address(node: usize, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => Ipv4Addr::new(192, 168, 7, node as u8 + 1).into(),
        Family::IPv6 => Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, node as u16 + 1).into(),
    }
}

/// A node's ExternalIP, which is in the world.
pub fn external_address(node: usize) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 5 + 65 * node as u8).into()
}

/// A node's pod range.
pub fn pod_range(node: usize, family: Family) -> Option<IpNet> {
    let addr = match family {
        Family::IPv4 => IpAddr::from([10, 244, node as u8, 0]),
        Family::IPv6 => Ipv6Addr::new(0xfd00, 0x244, node as u16, 0, 0, 0, 0, 0).into(),
    };
    IpNet::new(addr, if family == Family::IPv4 { 24 } else { 64 }).ok()
}

/// Addresses outside the cluster, some of them in blocks and exceptions.
pub fn world() -> Vec<IpAddr> {
    ["203.0.113.5", "203.0.113.70", "198.51.100.9", "2001:db8::5", "2001:db8:0:1::5", "2001:db9::1"]
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

pub(super) fn text(text: &str) -> Arc<str> {
    Arc::from(text)
}
