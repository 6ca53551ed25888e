//! Who can be a source or a destination, and on which ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use sheetbend_model::state::{ClusterPeer, Peer, PortMatch, Snapshot};
use sheetbend_model::types::{NodeName, ObjectKey, Protocol};
use sheetbend_oracle::{End, L4};

use crate::lab::layout;
use crate::lab::wire::LabStatus;

/// Somebody with addresses and a namespace.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// As cells name it.
    pub(super) name: String,
    /// As the oracle knows it.
    pub(super) end: End,
    /// Its node; `None` for the world.
    pub(super) node: Option<NodeName>,
    /// Where its sockets are made.
    pub(super) netns: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// A hostNetwork pod: it is its node.
    pub(super) is_host: bool,
}

/// Everybody, and what is asked of them.
#[derive(Debug)]
pub(super) struct Places {
    /// Pods.
    pub(super) pods: Vec<Place>,
    /// The world, an address each.
    pub(super) world: Vec<Place>,
    /// (protocol, port) asked of everybody.
    pub(super) ports: BTreeSet<(Protocol, u16)>,
    /// Pod → what its server answers on; a pod with its own command is absent.
    serves: BTreeMap<ObjectKey, BTreeSet<(Protocol, u16)>>,
    world_serves: BTreeSet<(Protocol, u16)>,
}

impl Places {
    /// The places of a lab.
    pub(super) fn of(snapshot: &Snapshot, status: &LabStatus) -> anyhow::Result<Self> {
        let snapshot = &sheetbend_compile::resolved(snapshot);
        let mut pods = Vec::new();
        let mut serves = BTreeMap::new();
        for pod in &status.pods {
            let key = ObjectKey::parse(&pod.pod).context("a pod without namespace")?;
            let Some(object) = snapshot.pods.get(&key).filter(|object| !object.terminating) else { continue };
            if !pod.own_command {
                serves.insert(key.clone(), pod.serves.iter().filter_map(|text| parse_port(text)).collect());
            }
            pods.push(Place {
                name: pod.pod.clone(),
                end: End::Pod(key),
                node: object.node.clone(),
                netns: pod.netns.clone(),
                addresses: pod.addresses.clone(),
                is_host: object.host_network,
            });
        }
        let netns = layout::node_netns(&status.name, "world");
        let world = world_addresses(snapshot).into_iter().map(|addr| Place {
            name: format!("world/{addr}"),
            end: End::World(addr),
            node: None,
            netns: netns.clone(),
            addresses: vec![addr],
            is_host: false,
        });
        let named = named_ports(snapshot);
        Ok(Self {
            pods,
            world: world.collect(),
            ports: with_neighbours(snapshot, &named),
            serves,
            world_serves: named.into_iter().collect(),
        })
    }

    /// Whether somebody answers once packets arrive.
    pub(super) fn listens(&self, end: &End, protocol: L4, port: u16) -> bool {
        let Some(protocol) = protocol.protocol() else { return true };
        match end {
            End::Pod(key) => self.serves.get(key).is_some_and(|ports| ports.contains(&(protocol, port))),
            End::World(_) => self.world_serves.contains(&(protocol, port)),
            End::Node(_) => false,
        }
    }

    /// Whether the pod runs its own command, of which we know nothing.
    pub(super) fn is_foreign(&self, end: &End) -> bool {
        matches!(end, End::Pod(key) if !self.serves.contains_key(key))
    }
}

fn parse_port(text: &str) -> Option<(Protocol, u16)> {
    let (port, protocol) = text.split_once('/')?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.to_string() == protocol)?;
    Some((protocol, port.parse().ok()?))
}

/// Every (protocol, port) that some pod declares or some policy or Service names, ranges by their ends.
pub(crate) fn named_ports(snapshot: &Snapshot) -> Vec<(Protocol, u16)> {
    let mut ports = BTreeSet::new();
    for pod in snapshot.pods.values() {
        ports.extend(pod.ports.iter().map(|port| (port.protocol, port.port.get())));
    }
    for (protocol, first, last) in policy_ranges(snapshot) {
        ports.extend([(protocol, first), (protocol, last)]);
    }
    ports.into_iter().collect()
}

fn policy_ranges(snapshot: &Snapshot) -> Vec<(Protocol, u16, u16)> {
    let rules =
        snapshot.policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten());
    let tiers = snapshot.cluster_policies.values();
    let tier_rules = tiers.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    rules
        .flat_map(|rule| &rule.ports)
        .chain(tier_rules.flat_map(|rule| &rule.ports))
        .filter_map(|port| match &port.port {
            PortMatch::Range(range) => Some((port.protocol, range.first().get(), range.last().get())),
            PortMatch::All | PortMatch::Named(_) => None,
        })
        .collect()
}

/// The named ports, one below and one above each range, and one closed port of each protocol that has any.
fn with_neighbours(snapshot: &Snapshot, named: &[(Protocol, u16)]) -> BTreeSet<(Protocol, u16)> {
    let mut ports: BTreeSet<(Protocol, u16)> = named.iter().copied().collect();
    for (protocol, first, last) in
        policy_ranges(snapshot).into_iter().filter(|(_, first, last)| first != last)
    {
        let neighbours =
            [first.checked_sub(1), last.checked_add(1)].into_iter().flatten().filter(|port| *port > 0);
        ports.extend(neighbours.map(|port| (protocol, port)));
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        if let Some(closed) = (1..=19_999).rev().find(|port| !ports.contains(&(protocol, *port))) {
            ports.insert((protocol, closed));
        }
    }
    ports
}

/// An address of each world range, and one of each policy's block, exception and network inside them.
fn world_addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let ranges = layout::world_ranges();
    let mut addresses: BTreeSet<IpAddr> = layout::world_hosts().into_iter().collect();
    let rules =
        snapshot.policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten());
    let mut nets: Vec<&IpNet> = Vec::new();
    for peer in rules.flat_map(|rule| &rule.peers) {
        if let Peer::Block(block) = peer {
            nets.extend(std::iter::once(&block.cidr).chain(&block.except));
        }
    }
    let tiers =
        snapshot.cluster_policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    nets.extend(tiers.flat_map(|rule| rule.peers.iter().flatten()).flat_map(|peer| match peer {
        ClusterPeer::Network(network) => vec![network],
        ClusterPeer::Block(block) => std::iter::once(&block.cidr).chain(&block.except).collect(),
        ClusterPeer::Blocks(blocks) => blocks.cidrs.iter().collect(),
        ClusterPeer::Pods(_) | ClusterPeer::Nodes(_) | ClusterPeer::Domain(_) => Vec::new(),
    }));
    let inside = nets.into_iter().filter(|net| ranges.iter().any(|range| range.contains(*net)));
    addresses.extend(inside.filter_map(|net| net.hosts().nth(5).or_else(|| net.hosts().next())));
    addresses
}
