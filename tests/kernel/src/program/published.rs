//! Services for clients elsewhere: node ports, external addresses, host ports, from outside and from pods.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use sheetbend_ebpf_abi::{
    CT_MASQUERADED, CT_OUTSIDE, DIRECTION_INGRESS, Hook, MARK_FORWARDED, MARK_OURS, MODE_HOST_GW, NodeConfig,
    POD_ISOLATED_INGRESS, POD_READY, Reason, RuleKey, SCOPE_INSIDE, SCOPE_OUTSIDE, SERVICE_APART,
    SERVICE_OUTSIDE, SERVICE_RANGES, SERVICE_SILENT, SERVICE_THIS_NODE,
};

use super::Case;
use super::frame::{ACK, Body, Frame, RST, SYN, Seen, do_not_fragment, read, read_quoted};
use super::node::{
    DROP, Family, Node, OTHER_MAC, Outcome, PASS, REDIRECT, SERVER, SERVER_MAC, UPLINK, UPLINK_MAC, addr,
    config,
};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_node_port_leads_to_a_local_backend_that_sees_the_client", local_backend),
    ("a_node_port_leads_to_another_nodes_backend_under_the_nodes_address", remote_backend),
    ("clients_with_one_source_port_share_a_remote_backend_of_two_node_ports", drawn_ports),
    ("ingress_policy_judges_the_client_of_a_node_port", judged),
    ("policy_local_keeps_to_local_endpoints_for_clients_elsewhere", policy_local),
    ("a_node_port_without_endpoints_is_refused", no_endpoints),
    ("a_pod_reaches_node_ports_of_its_own_and_of_other_nodes", from_pods),
    ("a_host_port_is_its_own_nodes_only", host_port),
    ("an_external_address_leads_to_its_service", external_address),
    ("a_balanced_address_admits_only_its_source_ranges", source_ranges),
    ("an_icmp_error_finds_its_way_through_a_node_port", icmp_errors),
    ("a_cluster_address_is_not_served_to_clients_elsewhere", cluster_address),
    ("affinity_holds_for_clients_of_a_node_port", affinity),
    ("a_pods_source_does_not_reach_node_ports_by_the_uplink", spoofed),
    ("a_client_is_told_of_the_mtu_towards_the_backends_node", too_big),
];

pub(super) const NODE_PORT: u16 = 30_080;

pub(super) fn any(family: Family) -> Result<IpAddr> {
    family.of("0.0.0.0", "::")
}

impl Node {
    pub(super) fn node_port(&mut self, flags: u8, backends: &[(u32, IpAddr, u16)]) -> Result<()> {
        let any = any(self.family)?;
        for protocol in [6, 17] {
            self.frontend((any, NODE_PORT, protocol, SCOPE_INSIDE, flags), backends)?;
        }
        Ok(())
    }

    /// Somebody sends to this node by the uplink.
    pub(super) fn arrives(&mut self, src: IpAddr, dst: IpAddr, body: Body) -> Result<Outcome> {
        let frame = Frame::new(OTHER_MAC, UPLINK_MAC, src, dst, body);
        self.run(Hook::FromUplink, UPLINK, &frame.bytes())
    }

    /// What the uplink gets of a frame that the stack forwards.
    pub(super) fn leaves(&mut self, frame: &[u8]) -> Result<Seen> {
        let left = self.run_with(Hook::ToUplink, UPLINK, frame, MARK_FORWARDED, SERVER)?;
        ensure!(left.verdict == PASS, "{left:?}");
        read(&left.bytes)
    }
}

fn local_backend(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    let arrived = node.arrives(world, own, Body::Tcp(5000, NODE_PORT, SYN, vec![1]))?;
    let seen = read(&arrived.bytes)?;
    ensure!(arrived.verdict == REDIRECT && seen.to == SERVER_MAC, "{arrived:?}");
    ensure!((seen.src, seen.dst, seen.src_port, seen.dst_port) == (world, server, 5000, 8080), "{seen:?}");
    let events = node.tables.events()?;
    ensure!(events.len() == 1 && events[0].frontend_port == NODE_PORT, "{events:?}");
    for flags in [SYN | ACK, ACK] {
        let reply = node.server_sends(world, Body::Tcp(8080, 5000, flags, vec![2]))?;
        ensure!((reply.verdict, reply.mark) == (PASS, MARK_FORWARDED), "{reply:?}");
        ensure!(read(&reply.bytes)?.src == server, "the stack sees the pod");
        let seen = node.leaves(&reply.bytes)?;
        ensure!(
            (seen.src, seen.dst, seen.src_port, seen.dst_port) == (own, world, NODE_PORT, 5000),
            "{seen:?}"
        );
        let again = node.arrives(world, own, Body::Tcp(5000, NODE_PORT, ACK, vec![3]))?;
        ensure!(again.verdict == REDIRECT && read(&again.bytes)?.dst == server, "{again:?}");
    }
    // Another node is a client as well: the answer does not skip the translation.
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    ensure!(node.arrives(other, own, Body::Udp(5000, NODE_PORT, vec![1]))?.verdict == REDIRECT);
    let reply = node.server_sends(other, Body::Udp(8080, 5000, vec![2]))?;
    ensure!((reply.verdict, reply.mark) == (PASS, MARK_FORWARDED), "{reply:?}");
    let seen = node.leaves(&reply.bytes)?;
    ensure!((seen.src, seen.src_port) == (own, NODE_PORT), "{seen:?}");
    Ok(())
}

fn remote_backend(node: &mut Node) -> Result<()> {
    let (world, own, remote) = (node.family.world()?, node.family.node()?, node.family.remote()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    for body in [Body::Tcp(5000, NODE_PORT, SYN, vec![1]), Body::Udp(5000, NODE_PORT, vec![1, 2])] {
        let is_tcp = matches!(body, Body::Tcp(..));
        let sent = node.arrives(world, own, body.clone())?;
        let seen = read(&sent.bytes)?;
        ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
        ensure!((seen.src, seen.dst, seen.dst_port, seen.ttl) == (own, remote, 8080, 63), "{seen:?}");
        let port = seen.src_port;
        ensure!((40_000..60_000).contains(&port), "{seen:?}");
        ensure!(read(&node.arrives(world, own, body)?.bytes)?.src_port == port, "the flow keeps its port");
        let answer =
            if is_tcp { Body::Tcp(8080, port, SYN | ACK, vec![]) } else { Body::Udp(8080, port, vec![9]) };
        // In host-gw mode it comes back by the uplink. (A tunnel's key cannot be given to a test run.)
        node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
        let back = node.arrives(remote, own, answer)?;
        let seen = read(&back.bytes)?;
        ensure!((back.verdict, back.mark) == (REDIRECT, MARK_OURS), "{back:?}");
        ensure!(
            (seen.src, seen.dst, seen.src_port, seen.dst_port) == (own, world, NODE_PORT, 5000),
            "{seen:?}"
        );
        node.tables.config(config())?;
    }
    node.arrives(world, own, Body::Tcp(5000, NODE_PORT, ACK, vec![]))?;
    let (both_ways, _) = node.tables.flows()?;
    let wanted = CT_OUTSIDE | CT_MASQUERADED;
    ensure!(both_ways.len() == 2 && both_ways.iter().all(|(_, entry)| entry.flags & wanted == wanted));
    // A second client with the same port has its own source port.
    let other = node.family.of("203.0.113.2", "2001:db8::2")?;
    let first = read(&node.arrives(world, own, Body::Tcp(5000, NODE_PORT, ACK, vec![]))?.bytes)?.src_port;
    let second = read(&node.arrives(other, own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?.bytes)?.src_port;
    ensure!(first != second, "{first}");
    Ok(())
}

/// Two clients, each with one source port towards two node ports: behind translation a client's flows would have the
/// same ends.
fn drawn_ports(node: &mut Node) -> Result<()> {
    let (own, remote) = (node.family.node()?, node.family.remote()?);
    let clients = [node.family.world()?, node.family.of("203.0.113.2", "2001:db8::2")?];
    let any = any(node.family)?;
    let node_ports = [NODE_PORT, NODE_PORT + 1];
    for (protocol, port) in [6, 17].into_iter().flat_map(|protocol| node_ports.map(|port| (protocol, port))) {
        node.frontend((any, port, protocol, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, remote, 8080)])?;
    }
    let flows: Vec<_> =
        clients.into_iter().flat_map(|client| node_ports.map(|node_port| (client, node_port))).collect();
    node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
    for is_tcp in [true, false] {
        let body = |from, to, flags, byte| {
            if is_tcp { Body::Tcp(from, to, flags, vec![byte]) } else { Body::Udp(from, to, vec![byte]) }
        };
        let mut drawn = Vec::new();
        for (client, node_port) in &flows {
            let sent = node.arrives(*client, own, body(5000, *node_port, SYN, 1))?;
            let seen = read(&sent.bytes)?;
            ensure!((sent.verdict, seen.src, seen.dst) == (REDIRECT, own, remote), "{sent:?}");
            ensure!(!drawn.contains(&seen.src_port), "{} of two flows: {drawn:?}", seen.src_port);
            drawn.push(seen.src_port);
        }
        for flags in [SYN | ACK, ACK] {
            for ((client, node_port), port) in flows.iter().zip(&drawn) {
                let back = node.arrives(remote, own, body(8080, *port, flags, 2))?;
                let seen = read(&back.bytes)?;
                let ends = (seen.src, seen.src_port, seen.dst, seen.dst_port);
                ensure!(ends == (own, *node_port, *client, 5000), "{seen:?}");
                let again = read(&node.arrives(*client, own, body(5000, *node_port, ACK, 3))?.bytes)?;
                ensure!((again.dst, again.src_port) == (remote, *port), "{again:?}");
            }
        }
    }
    Ok(())
}

fn judged(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    node.pod(SERVER, POD_READY | POD_ISOLATED_INGRESS, 4)?;
    let syn = || Body::Tcp(5000, NODE_PORT, SYN, vec![]);
    ensure!(node.arrives(world, own, syn())?.verdict == DROP);
    node.expect_once(SERVER, Hook::FromUplink, Reason::PolicyDenied)?;
    // The rule names the client, and the backend's port.
    node.tables.block(addr(world), 128, 7)?;
    let key =
        RuleKey { set: 4, class: 7, direction: DIRECTION_INGRESS, protocol: 6, port: 8080_u16.to_be_bytes() };
    node.tables.rule(RuleKey::FULL, key, 1)?;
    ensure!(node.arrives(world, own, syn())?.verdict == REDIRECT);
    Ok(())
}

fn policy_local(node: &mut Node) -> Result<()> {
    let (world, own) = (node.family.world()?, node.family.node()?);
    let (server, remote) = (node.family.server()?, node.family.remote()?);
    let flags = SERVICE_OUTSIDE | SERVICE_THIS_NODE | SERVICE_APART;
    node.node_port(flags, &[(1, remote, 8080)])?;
    let outside = (any(node.family)?, NODE_PORT, 6, SCOPE_OUTSIDE, SERVICE_OUTSIDE | SERVICE_THIS_NODE);
    node.frontend(outside, &[(2, server, 8080)])?;
    for port in 5000..5016 {
        let arrived = node.arrives(world, own, Body::Tcp(port, NODE_PORT, SYN, vec![]))?;
        let seen = read(&arrived.bytes)?;
        ensure!(arrived.verdict == REDIRECT && (seen.src, seen.dst) == (world, server), "{seen:?}");
    }
    // A pod of this node is not outside: it may go to any endpoint.
    let sent = node.client_sends(own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?;
    ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.dst == remote, "{sent:?}");
    let silent = SERVICE_OUTSIDE | SERVICE_THIS_NODE | SERVICE_SILENT;
    node.frontend((any(node.family)?, NODE_PORT, 6, SCOPE_OUTSIDE, silent), &[])?;
    node.tables.clear_flows()?;
    node.tables.events()?;
    ensure!(node.arrives(world, own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?.verdict == DROP);
    node.expect_once(0, Hook::FromUplink, Reason::NoLocalEndpoints)
}

fn no_endpoints(node: &mut Node) -> Result<()> {
    let (world, own) = (node.family.world()?, node.family.node()?);
    node.node_port(SERVICE_OUTSIDE, &[])?;
    let reset = node.arrives(world, own, Body::Tcp(5000, NODE_PORT, SYN, vec![]))?;
    let seen = read(&reset.bytes)?;
    ensure!((reset.verdict, reset.mark) == (REDIRECT, MARK_OURS), "{reset:?}");
    ensure!((seen.src, seen.dst, seen.flags) == (own, world, RST | ACK) && seen.to == OTHER_MAC, "{seen:?}");
    node.expect_once(0, Hook::FromUplink, Reason::NoEndpoints)?;
    let error = node.arrives(world, own, Body::Udp(5000, NODE_PORT, vec![1]))?;
    let seen = read(&error.bytes)?;
    let expected = if node.family == Family::V4 { [3, 3] } else { [1, 4] };
    ensure!(seen.src == own && seen.transport[..2] == expected, "{seen:?}");
    Ok(())
}

fn from_pods(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    for (port, address) in (5000..).zip([node.family.node()?, other]) {
        let sent = node.client_sends(address, Body::Tcp(port, NODE_PORT, SYN, vec![]))?;
        let seen = read(&sent.bytes)?;
        ensure!(sent.verdict == REDIRECT && (seen.src, seen.dst) == (client, server), "{sent:?}");
        let reply = node.server_sends(client, Body::Tcp(8080, port, SYN | ACK, vec![]))?;
        let seen = read(&reply.bytes)?;
        ensure!(reply.verdict == REDIRECT && (seen.src, seen.src_port) == (address, NODE_PORT), "{reply:?}");
    }
    // The same port at somebody's address in the world is that somebody's.
    let sent = node.client_sends(node.family.world()?, Body::Tcp(5002, NODE_PORT, SYN, vec![]))?;
    ensure!((sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "{sent:?}");
    ensure!(read(&sent.bytes)?.dst_port == NODE_PORT);
    Ok(())
}

fn host_port(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    node.node_port(SERVICE_OUTSIDE | SERVICE_THIS_NODE, &[(1, server, 8080)])?;
    let arrived = node.arrives(world, own, Body::Udp(5000, NODE_PORT, vec![1]))?;
    ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.dst == server, "{arrived:?}");
    let sent = node.client_sends(own, Body::Udp(5000, NODE_PORT, vec![1]))?;
    ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.dst == server, "{sent:?}");
    // Another node's port is that node's: through the tunnel, so that it knows whose packet it is.
    let sent = node.client_sends(other, Body::Udp(5001, NODE_PORT, vec![1]))?;
    let seen = read(&sent.bytes)?;
    ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
    ensure!((seen.dst, seen.dst_port) == (other, NODE_PORT), "{seen:?}");
    // With a hostIP of its own, the other protocol's number is free.
    let exact = (own, 30_081, 6, SCOPE_INSIDE, SERVICE_OUTSIDE | SERVICE_THIS_NODE);
    node.frontend(exact, &[(3, server, 9090)])?;
    let arrived = node.arrives(world, own, Body::Tcp(5000, 30_081, SYN, vec![]))?;
    ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.dst_port == 9090, "{arrived:?}");
    ensure!(node.arrives(world, own, Body::Udp(5000, 30_081, vec![]))?.verdict == PASS);
    Ok(())
}

fn external_address(node: &mut Node) -> Result<()> {
    let (world, server) = (node.family.world()?, node.family.server()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    node.frontend((external, 80, 6, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, server, 8080)])?;
    let arrived = node.arrives(world, external, Body::Tcp(5000, 80, SYN, vec![]))?;
    let seen = read(&arrived.bytes)?;
    ensure!(arrived.verdict == REDIRECT && (seen.src, seen.dst) == (world, server), "{arrived:?}");
    let reply = node.server_sends(world, Body::Tcp(8080, 5000, SYN | ACK, vec![]))?;
    let seen = node.leaves(&reply.bytes)?;
    ensure!((seen.src, seen.src_port) == (external, 80), "{seen:?}");
    ensure!(node.arrives(world, external, Body::Tcp(5000, 81, SYN, vec![]))?.verdict == PASS);
    Ok(())
}

/// Clients elsewhere and pods in a range, and outside of it. A flow that is under way outlives its range.
fn source_ranges(node: &mut Node) -> Result<()> {
    let (world, server, own) = (node.family.world()?, node.family.server()?, node.family.node()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    let flags = SERVICE_OUTSIDE | SERVICE_RANGES;
    let number = node.frontend((external, 80, 6, SCOPE_INSIDE, flags), &[(1, server, 8080)])?;
    let refused = node.arrives(world, external, Body::Tcp(5000, 80, SYN, vec![]))?;
    ensure!(refused.verdict == DROP, "{refused:?}");
    ensure!(node.tables.counter(0, Hook::FromUplink, Reason::SourceRange)?.packets == 1);
    // Another Service's ranges are another Service's.
    node.tables.source(number + 1, addr(world), 128)?;
    ensure!(node.arrives(world, external, Body::Tcp(5000, 80, SYN, vec![]))?.verdict == DROP);
    node.tables.source(number, addr(world), 120)?;
    let admitted = node.arrives(world, external, Body::Tcp(5000, 80, SYN, vec![]))?;
    ensure!(admitted.verdict == REDIRECT && read(&admitted.bytes)?.dst == server, "{admitted:?}");
    let client = node.family.client()?;
    ensure!(node.client_sends(external, Body::Tcp(5001, 80, SYN, vec![]))?.verdict == DROP, "a pod {client}");
    node.tables.source(number, addr(client), 128)?;
    ensure!(node.client_sends(external, Body::Tcp(5001, 80, SYN, vec![]))?.verdict == REDIRECT);
    node.tables.remove_source(number, addr(world), 120)?;
    ensure!(node.arrives(world, external, Body::Tcp(5000, 80, ACK, vec![1]))?.verdict == REDIRECT);
    ensure!(node.arrives(world, external, Body::Tcp(5002, 80, SYN, vec![]))?.verdict == DROP);
    // Node ports of the same Service admit everybody, as the API says.
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    ensure!(node.arrives(world, own, Body::Tcp(5003, NODE_PORT, SYN, vec![]))?.verdict == REDIRECT);
    Ok(())
}

/// (type, code) of port unreachable.
fn unreachable(node: &Node) -> (u8, u8) {
    if node.family == Family::V4 { (3, 3) } else { (1, 4) }
}

fn icmp_errors(node: &mut Node) -> Result<()> {
    let (world, own) = (node.family.world()?, node.family.node()?);
    let (server, remote) = (node.family.server()?, node.family.remote()?);
    let (kind, code) = unreachable(node);
    // Of a local backend, about the client's datagram.
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    let arrived = node.arrives(world, own, Body::Udp(5000, NODE_PORT, vec![1; 4]))?;
    let error = node.server_sends(world, Body::Error(kind, code, arrived.bytes[14..].to_vec()))?;
    let seen = node.leaves(&error.bytes)?;
    ensure!((seen.src, seen.dst) == (own, world), "{seen:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    ensure!((quoted.src, quoted.dst, quoted.dst_port) == (world, own, NODE_PORT), "{quoted:?}");
    // Of a router on the client's side, about the answer.
    let reply = node.server_sends(world, Body::Udp(8080, 5000, vec![7; 8]))?;
    let left = node.run_with(Hook::ToUplink, UPLINK, &reply.bytes, MARK_FORWARDED, SERVER)?;
    let router = node.family.of("198.51.100.1", "2001:db8::99")?;
    let (too_big, code_big) = if node.family == Family::V4 { (3, 4) } else { (2, 0) };
    let error = node.arrives(router, own, Body::Error(too_big, code_big, left.bytes[14..].to_vec()))?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (router, server), "{error:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    ensure!((quoted.src, quoted.src_port, quoted.dst) == (server, 8080, world), "{quoted:?}");
    // Of another node's backend.
    node.tables.clear_flows()?;
    node.node_port(SERVICE_OUTSIDE, &[(2, remote, 8080)])?;
    let sent = node.arrives(world, own, Body::Udp(5000, NODE_PORT, vec![1; 4]))?;
    let error = node.arrives(remote, own, Body::Error(kind, code, sent.bytes[14..].to_vec()))?;
    let seen = read(&error.bytes).context("an error for the client")?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (own, world), "{error:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    let ends = (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port);
    ensure!(ends == (world, 5000, own, NODE_PORT), "{quoted:?}");
    Ok(())
}

fn cluster_address(node: &mut Node) -> Result<()> {
    let (world, service, server) = (node.family.world()?, node.family.service()?, node.family.server()?);
    node.frontend((service, 80, 6, SCOPE_INSIDE, 0), &[(1, server, 8080)])?;
    let arrived = node.arrives(world, service, Body::Tcp(5000, 80, SYN, vec![]))?;
    ensure!(arrived.verdict == PASS && read(&arrived.bytes)?.dst == service, "{arrived:?}");
    Ok(())
}

fn affinity(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    let backends: Vec<_> = (0..8).map(|number| (number + 1, server, 8000 + number as u16)).collect();
    node.node_port(SERVICE_OUTSIDE, &backends)?;
    node.set_affinity((any(node.family)?, NODE_PORT, 6), 3600)?;
    let mut ports = std::collections::BTreeSet::new();
    for port in 5000..5024 {
        ports.insert(
            read(&node.arrives(world, own, Body::Tcp(port, NODE_PORT, SYN, vec![]))?.bytes)?.dst_port,
        );
    }
    ensure!(ports.len() == 1, "{ports:?}");
    Ok(())
}

fn spoofed(node: &mut Node) -> Result<()> {
    let (own, server) = (node.family.node()?, node.family.server()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, server, 8080)])?;
    for source in [node.family.remote()?, node.family.client()?, node.family.hairpin()?] {
        ensure!(node.arrives(source, own, Body::Udp(5000, NODE_PORT, vec![1]))?.verdict == DROP);
    }
    let counted = node.tables.counter(0, Hook::FromUplink, Reason::TunnelSpoofed)?.packets;
    ensure!(counted == 3, "{counted}");
    Ok(())
}

/// MTU of the pods' way, told to clients that ask for it (RFC 1191, RFC 8201).
fn too_big(node: &mut Node) -> Result<()> {
    let (world, own, remote) = (node.family.world()?, node.family.node()?, node.family.remote()?);
    node.node_port(SERVICE_OUTSIDE, &[(1, remote, 8080)])?;
    let big = |body: Body| do_not_fragment(Frame::new(OTHER_MAC, UPLINK_MAC, world, own, body).bytes());
    let datagram = Body::Udp(5000, NODE_PORT, vec![1; 1440]);
    for (count, body) in [(1, datagram.clone()), (2, Body::Tcp(5000, NODE_PORT, SYN, vec![1; 1440]))] {
        let told = node.run(Hook::FromUplink, UPLINK, &big(body))?;
        let seen = read(&told.bytes)?;
        ensure!((told.verdict, seen.from, seen.to) == (REDIRECT, UPLINK_MAC, OTHER_MAC), "{told:?}");
        ensure!((seen.src, seen.dst) == (own, world), "{seen:?}");
        let head: [u8; 8] = seen.transport[..8].try_into()?;
        let mtu = u32::from_be_bytes(head[4..].try_into()?);
        let expected = if node.family == Family::V4 { [3, 4] } else { [2, 0] };
        ensure!(head[..2] == expected && mtu == 1450, "{head:?}");
        let quoted = read_quoted(&seen.transport[8..])?;
        let ends = (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port);
        ensure!(ends == (world, 5000, own, NODE_PORT), "{quoted:?}");
        let counted = node.tables.counter(0, Hook::FromUplink, Reason::TooBig)?.packets;
        ensure!(counted == count, "{counted}");
    }
    ensure!(node.tables.flows()?.1.is_empty(), "no flow begins");
    // What fits goes on, to the same backend.
    let fits = node.run(Hook::FromUplink, UPLINK, &big(Body::Udp(5000, NODE_PORT, vec![1; 1300])))?;
    ensure!(fits.verdict == REDIRECT && read(&fits.bytes)?.dst == remote, "{fits:?}");
    // A router may fragment this one: its sender would not understand. One hop more is no question of size.
    if node.family == Family::V4 {
        ensure!(node.arrives(world, own, datagram)?.verdict == DROP);
    }
    let last = Frame {
        ttl: 1,
        ..Frame::new(OTHER_MAC, UPLINK_MAC, world, own, Body::Udp(5000, NODE_PORT, vec![1]))
    };
    ensure!(node.run(Hook::FromUplink, UPLINK, &do_not_fragment(last.bytes()))?.verdict == DROP);
    Ok(())
}
