//! A node's own part in the overlay or the routed network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sheetbend_model::plan::{LOOPBACK, Overlay};
use sheetbend_model::state::{NetworkConfig, NetworkMode, ServiceMode, Snapshot};
use sheetbend_model::types::{Family, NodeName};

use crate::route::serves_node_ports;

/// What `node` is in the network. A node that is not in the Snapshot has no addresses yet.
pub(crate) fn overlay(snapshot: &Snapshot, node: &NodeName, config: &NetworkConfig) -> Overlay {
    let mode = config.mode;
    let Some(own) = snapshot.nodes.get(node) else { return Overlay { mode, ..Overlay::default() } };
    let first = |family| own.pod_cidrs.iter().find(|range| Family::of(range.addr()) == family);
    let node_addresses: Vec<IpAddr> = Family::ALL.iter().filter_map(|family| own.address(*family)).collect();
    let routers = Family::ALL.iter().filter_map(|family| first(*family));
    let router_addresses: Vec<IpAddr> = routers.filter_map(router_address).collect();
    let serves = |addr: IpAddr| serves_node_ports(&config.node_port_addresses, own, addr.to_canonical());
    let addresses = node_addresses.iter().chain(&router_addresses).chain(&LOOPBACK).copied();
    Overlay {
        mode,
        direct: mode == NetworkMode::Vxlan && config.service_mode == ServiceMode::Dsr,
        without_node_ports: addresses.filter(|addr| !serves(*addr)).collect(),
        node_addresses,
        router_addresses,
        pod_cidrs: own.pod_cidrs.iter().map(IpNet::trunc).collect(),
    }
}

/// The first usable address of a pod range: the one after the network's own (RFC 4291 §2.6.1 keeps that of IPv6 for
/// routers). `None` where the range has but one address.
pub fn router_address(range: &IpNet) -> Option<IpAddr> {
    if range.prefix_len() == range.max_prefix_len() {
        return None;
    }
    Some(match range.network() {
        IpAddr::V4(addr) => Ipv4Addr::from(u32::from(addr) + 1).into(),
        IpAddr::V6(addr) => Ipv6Addr::from(u128::from(addr) + 1).into(),
    })
}
