//! Services over SCTP (RFC 9260): addresses are translated, ports never, and every CRC32c stays right (`read` checks it).

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use sheetbend_ebpf_abi::{
    ADDRESS_OURS, ALGORITHM_RANDOM, BackendEntry, CT_RST, Hook, MODE_HOST_GW, NodeConfig,
    POD_ISOLATED_INGRESS, POD_READY, Reason, SCOPE_INSIDE, SERVICE_OUTSIDE, names,
};

use super::Case;
use super::frame::{Body, Frame, Seen, crc32c, read, read_packet, read_quoted};
use super::node::{
    CLIENT, DROP, Family, Node, Outcome, PASS, REDIRECT, SERVER, UPLINK, UPLINK_MAC, addr, config,
};
use super::outside::leave;
use super::published::{NODE_PORT, any};

pub(super) const CASES: &[(&str, Case)] = &[
    ("sctp_to_a_service_keeps_ports_and_checksum_both_ways", both_ways),
    ("sctp_to_itself_through_a_service_comes_back", hairpin),
    ("an_sctp_port_that_would_have_to_be_translated_is_refused", other_port),
    ("sctp_without_endpoints_is_refused_and_an_abort_is_not_answered", no_endpoints),
    ("an_sctp_node_port_leads_to_backends_with_its_number", node_port),
    ("an_sctp_address_of_a_load_balancer_leads_to_its_service", balanced_address),
    ("a_masqueraded_sctp_flow_keeps_its_source_port", masquerade),
    ("an_sctp_flow_with_the_ends_of_another_is_dropped", same_ends),
    ("an_sctp_association_ends_with_abort_and_shutdown_complete", ends),
    ("an_sctp_init_of_the_other_end_is_of_the_association", collision),
    ("sctp_of_a_removed_endpoint_goes_to_another", removed_endpoint),
    ("an_icmp_error_names_the_sctp_service", icmp_error),
];

/// Chunk types, RFC 9260 §3.2.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const COOKIE_ECHO: u8 = 10;
const SHUTDOWN_COMPLETE: u8 = 14;

const SCTP: u8 = 132;
/// Diameter.
const PORT: u16 = 3868;

/// From port 5000 to `to`; 13 bytes, so that the chunk is padded.
fn to(to: u16, kind: u8) -> Body {
    Body::Sctp(5000, to, kind, (0..13).collect())
}

/// Its answer.
fn from(from: u16, kind: u8) -> Body {
    Body::Sctp(from, 5000, kind, (0..13).rev().collect())
}

type Ends = (IpAddr, u16, IpAddr, u16);

fn ends_of(seen: &Seen) -> Ends {
    (seen.src, seen.src_port, seen.dst, seen.dst_port)
}

/// (type, code) of port unreachable: RFC 792, RFC 4443 §3.1.
fn is_refused(node: &Node, kind: u8, outcome: &Outcome, (by, port): (IpAddr, u16)) -> Result<()> {
    let seen = read(&outcome.bytes)?;
    let expected = if node.family == Family::V4 { [3, 3] } else { [1, 4] };
    ensure!(outcome.verdict == REDIRECT && seen.src == by && seen.transport[..2] == expected, "{outcome:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    ensure!(ends_of(&quoted) == (seen.dst, 5000, by, port) && quoted.protocol == SCTP, "{quoted:?}");
    // An INIT is known by its Initiate Tag, the first word of the chunk's value (RFC 9260 §10, ICMP6).
    let is_init = quoted.transport.get(12) == Some(&INIT);
    ensure!(is_init == (kind == INIT) && (!is_init || quoted.transport[16..] == [0, 1, 2, 3]), "{quoted:?}");
    Ok(())
}

fn both_ways(node: &mut Node) -> Result<()> {
    // The check value of CRC-32C: the test's own arithmetic.
    ensure!(crc32c(*b"123456789") == 0xe306_9283);
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    // The last ones are those of an established flow.
    for (kind, answer) in [(INIT, INIT_ACK), (COOKIE_ECHO, 11), (DATA, 3), (DATA, DATA)] {
        let sent = node.client_sends(service, to(PORT, kind))?;
        let seen = read(&sent.bytes)?;
        ensure!(sent.verdict == REDIRECT && ends_of(&seen) == (client, 5000, server, PORT), "{sent:?}");
        let as_sent = read_packet(&Frame::new([0; 6], [0; 6], client, service, to(PORT, kind)).packet())?;
        ensure!(seen.transport == as_sent.transport, "not a byte behind the IP header changes: {seen:?}");
        let reply = node.server_sends(client, from(PORT, answer))?;
        let seen = read(&reply.bytes)?;
        ensure!(reply.verdict == REDIRECT && ends_of(&seen) == (service, PORT, client, 5000), "{reply:?}");
    }
    let events = node.tables.events()?;
    ensure!(events.len() == 1 && events[0].frontend_port == PORT, "one flow, one event: {events:?}");
    let (both_ways, half_open) = node.tables.flows()?;
    ensure!(both_ways.len() == 1 && half_open.is_empty(), "{both_ways:?} {half_open:?}");
    Ok(())
}

fn hairpin(node: &mut Node) -> Result<()> {
    let (client, service, hairpin) = (node.family.client()?, node.family.service()?, node.family.hairpin()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, client, PORT)])?;
    let seen = read(&node.client_sends(service, to(PORT, INIT))?.bytes)?;
    ensure!(ends_of(&seen) == (hairpin, 5000, client, PORT), "{seen:?}");
    let seen = read(&node.client_sends(hairpin, from(PORT, INIT_ACK))?.bytes)?;
    ensure!(ends_of(&seen) == (service, PORT, client, 5000), "{seen:?}");
    Ok(())
}

/// The agent writes no such row; one that an older agent has left is no way to another port.
fn other_port(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    node.service(SCTP, 36_412, ALGORITHM_RANDOM, 0, &[(2, server, 36_413)])?;
    for kind in [INIT, DATA] {
        let refused = node.client_sends(service, to(36_412, kind))?;
        is_refused(node, kind, &refused, (service, 36_412))?;
    }
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::NoEndpoints)?.packets == 2);
    let absent = node.client_sends(service, to(36_413, INIT))?;
    is_refused(node, INIT, &absent, (service, 36_413))?;
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::NoServicePort)?.packets == 1);
    // The other port of the Service goes on.
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    let seen = read(&node.client_sends(service, to(PORT, INIT))?.bytes)?;
    ensure!(ends_of(&seen) == (client, 5000, server, PORT), "{seen:?}");
    Ok(())
}

fn no_endpoints(node: &mut Node) -> Result<()> {
    let service = node.family.service()?;
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[])?;
    let refused = node.client_sends(service, to(PORT, INIT))?;
    is_refused(node, INIT, &refused, (service, PORT))?;
    node.expect_once(CLIENT, Hook::FromPod, Reason::NoEndpoints)?;
    // An INIT that is cut short is quoted as other packets are.
    let short = node.client_sends(service, Body::Sctp(5000, PORT, INIT, vec![]))?;
    is_refused(node, DATA, &short, (service, PORT))?;
    // RFC 9260 §8.4: nobody answers an ABORT or a SHUTDOWN COMPLETE out of the blue.
    for kind in [ABORT, SHUTDOWN_COMPLETE] {
        ensure!(node.client_sends(service, to(PORT, kind))?.verdict == DROP);
    }
    Ok(())
}

fn node_port(node: &mut Node) -> Result<()> {
    let (world, own) = (node.family.world()?, node.family.node()?);
    let (server, remote, any) = (node.family.server()?, node.family.remote()?, any(node.family)?);
    let frontend = (any, NODE_PORT, SCTP, SCOPE_INSIDE, SERVICE_OUTSIDE);
    // A backend on this node sees the client.
    node.frontend(frontend, &[(1, server, NODE_PORT)])?;
    let arrived = node.arrives(world, own, to(NODE_PORT, INIT))?;
    ensure!(arrived.verdict == REDIRECT, "{arrived:?}");
    ensure!(ends_of(&read(&arrived.bytes)?) == (world, 5000, server, NODE_PORT));
    let reply = node.server_sends(world, from(NODE_PORT, INIT_ACK))?;
    ensure!(ends_of(&node.leaves(&reply.bytes)?) == (own, NODE_PORT, world, 5000));
    // One on another node sees this node, under the client's own port.
    node.tables.clear_flows()?;
    node.frontend(frontend, &[(2, remote, NODE_PORT)])?;
    node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
    for (kind, answer) in [(INIT, INIT_ACK), (DATA, 3)] {
        let sent = node.arrives(world, own, to(NODE_PORT, kind))?;
        ensure!(ends_of(&read(&sent.bytes)?) == (own, 5000, remote, NODE_PORT), "{sent:?}");
        let back = node.arrives(remote, own, from(NODE_PORT, answer))?;
        ensure!(ends_of(&read(&back.bytes)?) == (own, NODE_PORT, world, 5000), "{back:?}");
    }
    // A second client with that port would take its answers.
    let other = node.family.of("203.0.113.2", "2001:db8::2")?;
    ensure!(node.arrives(other, own, to(NODE_PORT, INIT))?.verdict == DROP);
    ensure!(node.tables.counter(0, Hook::FromUplink, Reason::SnatExhausted)?.packets == 1);
    let sent = node.arrives(other, own, Body::Sctp(5001, NODE_PORT, INIT, vec![]))?;
    ensure!(ends_of(&read(&sent.bytes)?) == (own, 5001, remote, NODE_PORT), "{sent:?}");
    // And another port than the node port is refused.
    node.tables.clear_flows()?;
    node.frontend(frontend, &[(3, server, PORT)])?;
    let refused = node.arrives(world, own, to(NODE_PORT, INIT))?;
    is_refused(node, INIT, &refused, (own, NODE_PORT))
}

fn balanced_address(node: &mut Node) -> Result<()> {
    let (world, own, server) = (node.family.world()?, node.family.node()?, node.family.server()?);
    let external = node.family.of("198.51.100.80", "2001:db8:e::80")?;
    let frontend = (external, PORT, SCTP, SCOPE_INSIDE, SERVICE_OUTSIDE);
    node.frontend(frontend, &[(1, server, PORT)])?;
    let arrived = node.arrives(world, external, to(PORT, INIT))?;
    ensure!(ends_of(&read(&arrived.bytes)?) == (world, 5000, server, PORT), "{arrived:?}");
    let reply = node.server_sends(world, from(PORT, INIT_ACK))?;
    ensure!(ends_of(&node.leaves(&reply.bytes)?) == (external, PORT, world, 5000));
    // A pod in the node's own network: its answer is the stack's.
    node.tables.clear_flows()?;
    node.frontend(frontend, &[(2, own, PORT)])?;
    let arrived = node.arrives(world, external, to(PORT, INIT))?;
    ensure!(arrived.verdict == PASS && ends_of(&read(&arrived.bytes)?) == (world, 5000, own, PORT));
    let answer = Frame::new(UPLINK_MAC, [2; 6], own, world, from(PORT, INIT_ACK));
    let left = node.run(Hook::ToUplink, UPLINK, &answer.bytes())?;
    ensure!(
        left.verdict == PASS && ends_of(&read(&left.bytes)?) == (external, PORT, world, 5000),
        "{left:?}"
    );
    Ok(())
}

fn masquerade(node: &mut Node) -> Result<()> {
    let (client, server, own, world) =
        (node.family.client()?, node.family.server()?, node.family.node()?, node.family.world()?);
    for (kind, answer) in [(INIT, INIT_ACK), (DATA, 3)] {
        let (verdict, bytes) = leave(node, to(PORT, kind))?;
        ensure!(verdict == PASS && ends_of(&read(&bytes)?) == (own, 5000, world, PORT), "{bytes:02x?}");
        let back = node.arrives(world, own, from(PORT, answer))?;
        ensure!(back.verdict == REDIRECT && ends_of(&read(&back.bytes)?) == (world, PORT, client, 5000));
    }
    // Another pod with that port waits until the first one's flow is over; another port is free.
    for (port, verdict) in [(5000, DROP), (5001, PASS)] {
        let body = Body::Sctp(port, PORT, INIT, vec![]);
        let frame = Frame::new(UPLINK_MAC, [2; 6], server, world, body);
        let left = node.run(Hook::ToUplink, UPLINK, &frame.bytes())?;
        ensure!(left.verdict == verdict, "{port}: {left:?}");
        ensure!(verdict == DROP || ends_of(&read(&left.bytes)?) == (own, port, world, PORT), "{left:?}");
    }
    ensure!(node.tables.counter(SERVER, Hook::ToUplink, Reason::SnatExhausted)?.packets == 1);
    Ok(())
}

/// Through a Service and past it, from one port to one endpoint: neither we nor the server could tell them apart.
fn same_ends(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    for (first, second) in [(service, server), (server, service)] {
        node.tables.clear_flows()?;
        node.tables.clear_counters()?;
        ensure!(node.client_sends(first, to(PORT, INIT))?.verdict == REDIRECT);
        ensure!(node.server_sends(client, from(PORT, INIT_ACK))?.verdict == REDIRECT);
        ensure!(node.client_sends(second, to(PORT, INIT))?.verdict == DROP);
        ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::SnatExhausted)?.packets == 1);
        let other = node.client_sends(second, Body::Sctp(5001, PORT, INIT, vec![]))?;
        ensure!(ends_of(&read(&other.bytes)?) == (client, 5001, server, PORT), "{other:?}");
        // The first goes on under its own name.
        let reply = read(&node.server_sends(client, from(PORT, DATA))?.bytes)?;
        ensure!(ends_of(&reply) == (first, PORT, client, 5000), "{reply:?}");
    }
    Ok(())
}

fn ends(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    let ended = |node: &mut Node| -> Result<bool> {
        let (both_ways, _) = node.tables.flows()?;
        let (_, entry) = both_ways.first().context("the association")?;
        Ok(entry.flags & CT_RST != 0)
    };
    for (kind, by_client) in
        [(ABORT, true), (ABORT, false), (SHUTDOWN_COMPLETE, true), (SHUTDOWN_COMPLETE, false)]
    {
        ensure!(node.client_sends(service, to(PORT, INIT))?.verdict == REDIRECT);
        let (both_ways, half_open) = node.tables.flows()?;
        ensure!(both_ways.is_empty() && half_open.len() == 1, "it begins anew: {both_ways:?} {half_open:?}");
        ensure!(node.server_sends(client, from(PORT, INIT_ACK))?.verdict == REDIRECT);
        // An INIT that comes again, data and the announced end leave it as it is.
        for kind in [INIT, DATA, SHUTDOWN] {
            ensure!(node.client_sends(service, to(PORT, kind))?.verdict == REDIRECT);
            ensure!(node.tables.connections(1)? == 1 && !ended(node)?, "chunk {kind}");
        }
        let last = if by_client {
            node.client_sends(service, to(PORT, kind))?
        } else {
            node.server_sends(client, from(PORT, kind))?
        };
        let wanted = if by_client { (client, 5000, server, PORT) } else { (service, PORT, client, 5000) };
        ensure!(last.verdict == REDIRECT && ends_of(&read(&last.bytes)?) == wanted, "{last:?}");
        ensure!(node.tables.connections(1)? == 0 && ended(node)?, "chunk {kind}");
    }
    // Nobody waits: the ports are free for a flow past the Service at once, and the next one chooses anew.
    ensure!(
        ends_of(&read(&node.client_sends(server, to(PORT, INIT))?.bytes)?) == (client, 5000, server, PORT)
    );
    let reply = read(&node.server_sends(client, from(PORT, INIT_ACK))?.bytes)?;
    ensure!(ends_of(&reply) == (server, PORT, client, 5000), "{reply:?}");
    ensure!(node.server_sends(client, from(PORT, ABORT))?.verdict == REDIRECT);
    let remote = node.family.remote()?;
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(2, remote, PORT)])?;
    let sent = read(&node.client_sends(service, to(PORT, INIT))?.bytes)?;
    ensure!(ends_of(&sent) == (client, 5000, remote, PORT), "{sent:?}");
    Ok(())
}

/// Both ends may open (RFC 9260 §5.2.1) or restart (§5.2.2) an association: it keeps its translation.
fn collision(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    let (own, world) = (node.family.node()?, node.family.world()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    node.pod(CLIENT, POD_READY | POD_ISOLATED_INGRESS, 3)?;
    for answer in [INIT, INIT_ACK, INIT, DATA] {
        let seen = read(&node.client_sends(service, to(PORT, INIT))?.bytes)?;
        ensure!(ends_of(&seen) == (client, 5000, server, PORT), "{seen:?}");
        let reply = node.server_sends(client, from(PORT, answer))?;
        ensure!(reply.verdict == REDIRECT && ends_of(&read(&reply.bytes)?) == (service, PORT, client, 5000));
        let (_, left) = leave(node, to(PORT, INIT))?;
        ensure!(ends_of(&read(&left)?) == (own, 5000, world, PORT), "{left:02x?}");
        let back = node.arrives(world, own, from(PORT, answer))?;
        ensure!(back.verdict == REDIRECT && ends_of(&read(&back.bytes)?) == (world, PORT, client, 5000));
    }
    // Once it is over, the other end's is a flow of its own, which policy judges.
    ensure!(node.server_sends(client, from(PORT, ABORT))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, from(PORT, INIT))?.verdict == DROP);
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::PolicyDenied)?.packets == 1);
    Ok(())
}

/// The other one knows no such association, and tells the client by an ABORT (RFC 9260 §8.4).
fn removed_endpoint(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    let remote = node.family.remote()?;
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    ensure!(node.client_sends(service, to(PORT, INIT))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, from(PORT, INIT_ACK))?.verdict == REDIRECT);
    node.tables.remove::<u32, BackendEntry>(names::BACKENDS, 1)?;
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(2, remote, PORT)])?;
    let moved = read(&node.client_sends(service, to(PORT, DATA))?.bytes)?;
    ensure!(ends_of(&moved) == (client, 5000, remote, PORT), "{moved:?}");
    node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
    let told = read(&node.arrives(remote, client, from(PORT, ABORT))?.bytes)?;
    ensure!(ends_of(&told) == (service, PORT, client, 5000), "{told:?}");
    Ok(())
}

fn icmp_error(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(SCTP, PORT, ALGORITHM_RANDOM, 0, &[(1, server, PORT)])?;
    let arrived = node.client_sends(service, to(PORT, INIT))?.bytes[14..].to_vec();
    let (kind, code) = if node.family == Family::V4 { (3, 2) } else { (4, 1) };
    let error = node.server_sends(client, Body::Error(kind, code, arrived))?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{error:?}");
    // Whole, with the checksum that the client wrote.
    let quoted = read_packet(&seen.transport[8..]).context("the quoted packet")?;
    ensure!(ends_of(&quoted) == (client, 5000, service, PORT), "{quoted:?}");
    Ok(())
}
