//! Random packets between whoever a cluster has, and others.

use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_model::types::{Family, Protocol};

use super::objects::protocol;
use super::pools::{NODES, PODS, PORTS, node_address, world};

/// One end of a packet, before it is looked up in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketEnd {
    /// Pod number n, if the cluster has it.
    Pod(u8),
    /// An address of nobody in the cluster, or of a node.
    Address(IpAddr),
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends.
    pub source: PacketEnd,
    /// Who receives.
    pub destination: PacketEnd,
    /// The family, where an end has both.
    pub family: Family,
    /// `None` = ICMP echo.
    pub protocol: Option<Protocol>,
    /// The destination port.
    pub port: u16,
    /// Instead of `protocol` and `port`: those of the destination pod's container port with this number, counted
    /// round, if it has any.
    pub declared: Option<usize>,
}

fn end() -> impl Strategy<Value = PacketEnd> {
    let node = (0..NODES.len(), family()).prop_map(|(node, family)| node_address(node, family));
    prop_oneof![
        9 => (0..PODS).prop_map(PacketEnd::Pod),
        2 => prop::sample::select(world()).prop_map(PacketEnd::Address),
        1 => node.prop_map(PacketEnd::Address),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::IPv4), Just(Family::IPv6)]
}

/// A packet. Ports are of the pool, or one beside.
pub fn packet() -> impl Strategy<Value = Packet> {
    let port = prop_oneof![
        6 => prop::sample::select(&PORTS[..]),
        1 => prop::sample::select(&PORTS[..]).prop_map(|port| port + 1),
        1 => prop::sample::select(&PORTS[..]).prop_map(|port| port - 1),
    ];
    let protocol = prop::option::weighted(0.65, protocol());
    let declared = prop::option::weighted(0.5, 0..8usize);
    (end(), end(), family(), protocol, port, declared).prop_map(
        |(source, destination, family, protocol, port, declared)| Packet {
            source,
            destination,
            family,
            protocol,
            port,
            declared,
        },
    )
}
