//! Addresses of nodes that do not lead to node ports (`services.nodePortAddresses`). Processes: `sockets`.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    MARK_FORWARDED, NO_ADDR, NodeConfig, ROUTE_NODE_ADDRESS, ROUTE_WITHOUT_NODE_PORTS, RouteEntry,
    SERVICE_OUTSIDE, SERVICE_THIS_NODE, WITHOUT_NODE, WITHOUT_ROUTER,
};

use super::Case;
use super::frame::{Body, SYN, read};
use super::node::{Family, Node, PASS, REDIRECT, addr, config};
use super::published::NODE_PORT;

pub(super) const CASES: &[(&str, Case)] = &[
    ("only_chosen_addresses_lead_to_node_ports", from_elsewhere),
    ("pods_find_node_ports_at_chosen_addresses_only", from_pods),
    ("host_ports_choose_their_addresses_themselves", host_ports),
];

fn syn(port: u16) -> Body {
    Body::Tcp(port, NODE_PORT, SYN, vec![])
}

impl Node {
    /// These of this node's own addresses do not lead to node ports, in this family; of the other family none does.
    pub(super) fn without_node_ports(&mut self, bits: u16, netns: u64) -> Result<()> {
        let other = (WITHOUT_NODE | WITHOUT_ROUTER) << u16::from(self.family == Family::V4);
        let own = bits << u16::from(self.family == Family::V6);
        let netns = netns.to_ne_bytes();
        self.tables.config(NodeConfig { flags: other | own, netns, ..config() })
    }

    /// A node's address that does not lead to node ports.
    pub(super) fn address_without_node_ports(&mut self, ip: IpAddr) -> Result<()> {
        let flags = ROUTE_WITHOUT_NODE_PORTS;
        let entry = RouteEntry { kind: ROUTE_NODE_ADDRESS, mac: [0; 6], flags, via: NO_ADDR };
        self.tables.route(addr(ip), 128, entry)
    }
}

fn from_elsewhere(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    for (port, bits) in (5000..).zip([0, WITHOUT_ROUTER, WITHOUT_NODE, WITHOUT_NODE | WITHOUT_ROUTER]) {
        node.without_node_ports(bits, 0)?;
        let arrived = node.arrives(world, own, syn(port))?;
        let seen = read(&arrived.bytes)?;
        let is_served = bits & WITHOUT_NODE == 0;
        let (verdict, dst) = if is_served { (REDIRECT, server) } else { (PASS, own) };
        ensure!((arrived.verdict, seen.dst) == (verdict, dst), "without {bits}: {arrived:?}");
    }
    Ok(())
}

fn from_pods(node: &mut Node) -> Result<()> {
    let (own, server) = (node.family.node()?, node.family.server()?);
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    let router = node.family.of("10.1.1.1", "fd00:1::1")?;
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    for to in [own, other, router] {
        let sent = node.client_sends(to, syn(5000))?;
        ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.dst == server, "{to}: {sent:?}");
    }
    node.without_node_ports(WITHOUT_NODE | WITHOUT_ROUTER, 0)?;
    for to in [own, other] {
        node.address_without_node_ports(to)?;
    }
    for to in [own, other, router] {
        let sent = node.client_sends(to, syn(5001))?;
        ensure!(read(&sent.bytes)?.dst == to, "{to}: {sent:?}");
        ensure!(to == other || (sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "{to}: {sent:?}");
    }
    Ok(())
}

fn host_ports(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    node.node_port(SERVICE_OUTSIDE | SERVICE_THIS_NODE, &[(1, server, 8080)])?;
    node.without_node_ports(WITHOUT_NODE | WITHOUT_ROUTER, 0)?;
    node.address_without_node_ports(own)?;
    let arrived = node.arrives(world, own, syn(5000))?;
    ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.dst == server, "{arrived:?}");
    let sent = node.client_sends(own, syn(5001))?;
    ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.dst == server, "{sent:?}");
    Ok(())
}
