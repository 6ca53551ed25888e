//! Direct server return, at the node that clients ask. (A tunnel's key can neither be given to a test run nor be read from
//! it: what the backend's node does is in `tests/datapath/direct.rs`.)

use std::net::IpAddr;

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    ALGORITHM_MAGLEV, BackendEntry, CT_DIRECT, CT_FIN_INITIATOR, CT_FIN_RESPONDER, CT_MASQUERADED,
    CT_REPLIED, CT_RST, Hook, MARK_OURS, NodeConfig, ROUTE_NODE, ROUTE_TAKES_DIRECT, Reason, RouteEntry,
    SCOPE_INSIDE, SENDS_DIRECT, SERVICE_FLOW_DIRECT, SERVICE_OUTSIDE, SERVICE_RANGES, ServiceFlowKey,
    ServiceFlowValue, direct_macs, names, vtep_mac,
};

use super::Case;
use super::frame::{ACK, Body, FIN, Frame, RST, SYN, do_not_fragment, read, read_quoted};
use super::node::{DROP, Family, Node, OTHER_MAC, Outcome, PASS, REDIRECT, UPLINK, UPLINK_MAC, addr, config};
use super::published::NODE_PORT;

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_packet_goes_to_the_backends_node_as_it_came", as_it_came),
    ("a_flow_with_direct_answers_is_seen_one_way", one_way),
    ("what_cannot_be_answered_directly_is_translated", translated),
    ("a_change_of_mode_keeps_flows", kept),
    ("clients_of_direct_answers_are_told_of_the_mtu", too_big),
    ("an_icmp_error_about_a_direct_answer_goes_to_the_backends_node", icmp_error),
    ("one_source_port_to_two_frontends_of_a_backend_stays_the_clients", two_frontends),
    ("source_ranges_affinity_and_maglev_hold_with_direct_answers", choices),
    ("a_removed_backend_of_direct_answers_is_told", removed),
    ("fragments_with_direct_answers_go_as_they_came", fragments),
];

impl Node {
    /// Clients' packets go to the other node's pods as they came.
    pub(super) fn direct(&mut self, flags: u16) -> Result<()> {
        self.tables.config(NodeConfig { flags, ..config() })?;
        let via = addr("192.0.2.2".parse()?);
        let entry = RouteEntry { kind: ROUTE_NODE, mac: vtep_mac(&via), flags: ROUTE_TAKES_DIRECT, via };
        self.tables.route(addr("10.1.2.0".parse()?), 96 + 24, entry)?;
        self.tables.route(addr("fd00:2::".parse()?), 64, entry)
    }
}

/// Whether `sent` is `frame` on its way to a backend: one hop less, and the backend in its Ethernet addresses.
fn is_passed_on(sent: &Outcome, frame: &Frame, backend: IpAddr, port: u16) -> bool {
    let [to, from] = direct_macs(&addr(backend), port);
    let expected = Frame { to, from, ttl: 63, ..frame.clone() };
    (sent.verdict, sent.mark) == (REDIRECT, MARK_OURS) && sent.bytes == expected.bytes()
}

fn frame(node: &Node, dst: IpAddr, body: Body) -> Result<Frame> {
    Ok(Frame::new(OTHER_MAC, UPLINK_MAC, node.family.world()?, dst, body))
}

/// Sends and expects it to be passed on.
fn passes_on(node: &mut Node, dst: IpAddr, body: Body) -> Result<()> {
    let (frame, remote) = (frame(node, dst, body)?, node.family.remote()?);
    let sent = node.run(Hook::FromUplink, UPLINK, &frame.bytes())?;
    ensure!(is_passed_on(&sent, &frame, remote, 8080), "{sent:?}");
    Ok(())
}

fn as_it_came(node: &mut Node) -> Result<()> {
    let (own, remote) = (node.family.node()?, node.family.remote()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    node.frontend((external, 80, 6, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, remote, 8080)])?;
    passes_on(node, own, Body::Tcp(5000, NODE_PORT, SYN, vec![1; 9]))?;
    passes_on(node, own, Body::Tcp(5000, NODE_PORT, ACK, vec![2; 33]))?;
    passes_on(node, own, Body::Udp(5000, NODE_PORT, vec![3; 1300]))?;
    passes_on(node, external, Body::Tcp(5001, 80, SYN, vec![]))?;
    let events = node.tables.events()?;
    let told = |event: &sheetbend_ebpf_abi::Event| {
        event.reason == Reason::ToNode as u16 && (event.dst, event.dst_port) == (addr(remote), 8080)
    };
    ensure!(events.len() == 3 && events.iter().all(told), "{events:?}");
    let counted = node.tables.counter(0, Hook::FromUplink, Reason::ToNode)?.packets;
    ensure!(counted == 3, "{counted}");
    Ok(())
}

/// An ACK says that the backend has answered; FIN and RST of the client end the flow.
fn one_way(node: &mut Node) -> Result<()> {
    let (own, remote) = (node.family.node()?, node.family.remote()?);
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    let both = CT_FIN_INITIATOR | CT_FIN_RESPONDER;
    for (port, last, ended) in [(5000, ACK | FIN, both), (5001, RST, CT_RST)] {
        passes_on(node, own, Body::Tcp(port, NODE_PORT, SYN, vec![]))?;
        passes_on(node, own, Body::Tcp(port, NODE_PORT, SYN, vec![]))?;
        ensure!(node.tables.flows()?.1.len() == 1, "half open");
        ensure!(node.tables.connections(1)? == 1);
        passes_on(node, own, Body::Tcp(port, NODE_PORT, ACK, vec![]))?;
        let (both_ways, half_open) = node.tables.flows()?;
        let flags = both_ways[0].1.flags;
        ensure!(
            half_open.is_empty() && flags & (CT_DIRECT | CT_REPLIED) == CT_DIRECT | CT_REPLIED,
            "{flags}"
        );
        ensure!(flags & CT_MASQUERADED == 0);
        passes_on(node, own, Body::Tcp(port, NODE_PORT, last, vec![]))?;
        passes_on(node, own, Body::Tcp(port, NODE_PORT, ACK, vec![]))?;
        ensure!(node.tables.flows()?.0[0].1.flags & ended == ended);
        ensure!(node.tables.connections(1)? == 0);
        node.tables.clear_flows()?;
    }
    // The second datagram goes on.
    passes_on(node, own, Body::Udp(5000, NODE_PORT, vec![1]))?;
    passes_on(node, own, Body::Udp(5000, NODE_PORT, vec![2]))?;
    ensure!(node.tables.flows()?.0.len() == 1);
    Ok(())
}

/// Under the node's address, as without direct answers.
fn is_translated(node: &mut Node, sent: &Outcome) -> Result<()> {
    let seen = read(&sent.bytes)?;
    ensure!(sent.verdict == REDIRECT && seen.src == node.family.node()?, "{sent:?}");
    ensure!(node.tables.flows()?.1.iter().all(|(_, entry)| entry.flags & CT_DIRECT == 0));
    Ok(())
}

fn translated(node: &mut Node) -> Result<()> {
    let (own, remote, world) = (node.family.node()?, node.family.remote()?, node.family.world()?);
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    let syn = || Body::Tcp(5000, NODE_PORT, SYN, vec![]);
    // Without the configuration.
    node.direct(0)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    let sent = node.arrives(world, own, syn())?;
    is_translated(node, &sent)?;
    node.tables.clear_flows()?;
    node.direct(SENDS_DIRECT)?;
    // Another node as client.
    let sent = node.arrives(other, own, syn())?;
    is_translated(node, &sent)?;
    node.tables.clear_flows()?;
    // An endpoint in the network of its node.
    node.node_port(SERVICE_OUTSIDE, &[(2, other, 8080)])?;
    let sent = node.arrives(world, own, syn())?;
    ensure!(read(&sent.bytes)?.src == own && read(&sent.bytes)?.dst == other, "{sent:?}");
    node.tables.clear_flows()?;
    // Pods that the addresses cannot name.
    node.route("10.1.2.0", 24, "fd00:2::", 64, ROUTE_NODE, Some("192.0.2.2"))?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    let sent = node.arrives(world, own, syn())?;
    is_translated(node, &sent)?;
    // A pod of this node sees the client and answers it, as ever.
    node.tables.clear_flows()?;
    let server = node.family.server()?;
    node.node_port(SERVICE_OUTSIDE, &[(3, server, 8080)])?;
    let sent = node.arrives(world, own, syn())?;
    ensure!(read(&sent.bytes)?.src == world && read(&sent.bytes)?.dst == server, "{sent:?}");
    Ok(())
}

fn kept(node: &mut Node) -> Result<()> {
    let (own, remote, world) = (node.family.node()?, node.family.remote()?, node.family.world()?);
    node.direct(0)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    let first = read(&node.arrives(world, own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?.bytes)?;
    node.direct(SENDS_DIRECT)?;
    let again = read(&node.arrives(world, own, Body::Tcp(5000, NODE_PORT, ACK, vec![1]))?.bytes)?;
    ensure!((again.src, again.src_port) == (own, first.src_port), "{again:?}");
    passes_on(node, own, Body::Tcp(5001, NODE_PORT, SYN, vec![]))?;
    node.direct(0)?;
    passes_on(node, own, Body::Tcp(5001, NODE_PORT, ACK, vec![1]))?;
    Ok(())
}

fn too_big(node: &mut Node) -> Result<()> {
    let (own, remote, world) = (node.family.node()?, node.family.remote()?, node.family.world()?);
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    for body in [Body::Udp(5000, NODE_PORT, vec![1; 1440]), Body::Tcp(5000, NODE_PORT, SYN, vec![1; 1440])] {
        let big = frame(node, own, body)?;
        let told = node.run(Hook::FromUplink, UPLINK, &do_not_fragment(big.bytes()))?;
        let seen = read(&told.bytes)?;
        ensure!((told.verdict, seen.src, seen.dst) == (REDIRECT, own, world), "{told:?}");
        ensure!(u32::from_be_bytes(seen.transport[4..8].try_into()?) == 1450, "{seen:?}");
        let quoted = read_quoted(&seen.transport[8..])?;
        let ends = (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port);
        ensure!(ends == (world, 5000, own, NODE_PORT), "{quoted:?}");
    }
    ensure!(node.tables.counter(0, Hook::FromUplink, Reason::TooBig)?.packets == 2);
    ensure!(node.tables.flows()?.1.is_empty(), "no flow begins");
    Ok(())
}

/// A router on the client's side knows the frontend only, whose address is this node's.
fn icmp_error(node: &mut Node) -> Result<()> {
    let (own, remote, world) = (node.family.node()?, node.family.remote()?, node.family.world()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    let router = node.family.of("198.51.100.1", "2001:db8::99")?;
    let (kind, code) = if node.family == Family::V4 { (3, 4) } else { (2, 0) };
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    node.frontend((external, 80, 17, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, remote, 8080)])?;
    for (frontend, port) in [(own, NODE_PORT), (external, 80)] {
        passes_on(node, frontend, Body::Udp(5000, port, vec![1; 8]))?;
        let answer = Frame::new(OTHER_MAC, UPLINK_MAC, frontend, world, Body::Udp(port, 5000, vec![7; 8]));
        let error = Body::Error(kind, code, answer.bytes()[14..].to_vec());
        let frame = Frame::new(OTHER_MAC, UPLINK_MAC, router, frontend, error);
        let sent = node.run(Hook::FromUplink, UPLINK, &frame.bytes())?;
        ensure!(is_passed_on(&sent, &frame, remote, 8080), "{sent:?}");
        // About nothing that went through here.
        let answer = Frame::new(OTHER_MAC, UPLINK_MAC, frontend, world, Body::Udp(port, 5009, vec![7; 8]));
        let error = Body::Error(kind, code, answer.bytes()[14..].to_vec());
        ensure!(node.arrives(router, frontend, error)?.verdict == PASS);
    }
    Ok(())
}

/// Here the two are told apart by another port behind translation, which the packets never show.
fn two_frontends(node: &mut Node) -> Result<()> {
    let (own, remote) = (node.family.node()?, node.family.remote()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    node.frontend((external, 80, 6, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, remote, 8080)])?;
    for flags in [SYN, ACK, ACK] {
        passes_on(node, own, Body::Tcp(5000, NODE_PORT, flags, vec![1]))?;
        passes_on(node, external, Body::Tcp(5000, 80, flags, vec![1]))?;
    }
    let flows = node.tables.flows()?.0;
    ensure!(flows.len() == 2 && flows.iter().all(|(_, entry)| entry.client_port == 5000), "{flows:?}");
    Ok(())
}

fn choices(node: &mut Node) -> Result<()> {
    let (remote, world) = (node.family.remote()?, node.family.world()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    node.direct(SENDS_DIRECT)?;
    let backends: Vec<_> = (0..8).map(|number| (number + 1, remote, 8000 + number as u16)).collect();
    let flags = SERVICE_OUTSIDE | SERVICE_RANGES;
    let number = node.frontend((external, 80, 6, SCOPE_INSIDE, flags), &backends)?;
    let send = |node: &mut Node, port| node.arrives(world, external, Body::Tcp(port, 80, SYN, vec![]));
    ensure!(send(node, 5000)?.verdict == DROP, "in no range");
    node.tables.source(number, addr(world), 128)?;
    let chosen = |sent: Outcome| sent.bytes[10..12].to_vec();
    node.set_algorithm((external, 80, 6), ALGORITHM_MAGLEV)?;
    let first = chosen(send(node, 5001)?);
    node.tables.clear_flows()?;
    ensure!(chosen(send(node, 5001)?) == first, "the same flow, the same backend");
    node.set_affinity((external, 80, 6), 3600)?;
    let all: Result<Vec<_>> = (5100..5120).map(|port| Ok(chosen(send(node, port)?))).collect();
    ensure!(all?.windows(2).all(|pair| pair[0] == pair[1]));
    Ok(())
}

fn removed(node: &mut Node) -> Result<()> {
    let (own, remote, world) = (node.family.node()?, node.family.remote()?, node.family.world()?);
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    passes_on(node, own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?;
    passes_on(node, own, Body::Tcp(5000, NODE_PORT, ACK, vec![]))?;
    node.tables.remove::<u32, BackendEntry>(names::BACKENDS, 1)?;
    let reset = node.arrives(world, own, Body::Tcp(5000, NODE_PORT, ACK, vec![]))?;
    let seen = read(&reset.bytes)?;
    ensure!((seen.src, seen.src_port, seen.dst, seen.flags) == (own, NODE_PORT, world, RST), "{seen:?}");
    Ok(())
}

fn fragments(node: &mut Node) -> Result<()> {
    let (own, remote) = (node.family.node()?, node.family.remote()?);
    node.direct(SENDS_DIRECT)?;
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    for (offset, more) in [(0, true), (24, false)] {
        let body = Body::Udp(5000, NODE_PORT, vec![1; 16]);
        let frame = Frame { fragment: Some((7, offset, more)), ..frame(node, own, body)? };
        let sent = node.run(Hook::FromUplink, UPLINK, &frame.bytes())?;
        ensure!(is_passed_on(&sent, &frame, remote, 8080), "{sent:?}");
    }
    let flows = node.tables.all::<ServiceFlowKey, ServiceFlowValue>(names::SERVICE_FLOWS)?;
    ensure!(flows.len() == 1 && flows[0].1.flags == SERVICE_FLOW_DIRECT, "{flows:?}");
    Ok(())
}
