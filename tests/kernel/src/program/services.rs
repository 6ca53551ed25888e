//! Services: choice of a backend, both directions of the translation, refusals, ICMP errors.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use sheetbend_ebpf_abi::{
    ALGORITHM_RANDOM, ALGORITHM_ROUND_ROBIN, BackendEntry, CT_FIN_INITIATOR, CT_FIN_RESPONDER, CtEntry,
    DIRECTION_EGRESS, Hook, POD_ASKS_NAMES, POD_ISOLATED_EGRESS, POD_READY, Reason, RuleKey, SCOPE_NAMES,
    names,
};

use super::Case;
use super::frame::{ACK, Body, FIN, Frame, RST, SYN, read, read_packet, read_quoted};
use super::node::{CLIENT, DROP, Family, Node, REDIRECT};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_service_translates_both_ways", both_ways),
    ("a_pod_with_names_in_its_policies_asks_its_nodes_name_server", led_to_names),
    ("egress_policy_judges_the_backend", egress_on_backend),
    ("a_pod_reaches_itself_through_a_service", hairpin),
    ("no_endpoints_is_refused", no_endpoints),
    ("a_removed_backend_resets_tcp_and_moves_udp", backend_gone),
    ("algorithms_spread_new_flows", spread),
    ("affinity_keeps_the_backend", affinity),
    ("an_icmp_error_names_the_service", icmp_error),
    ("flows_through_two_services_to_one_endpoint_stay_apart", same_endpoint),
    ("a_direct_flow_stays_apart_from_one_through_a_service", direct_after_service),
    ("a_flow_stays_apart_from_one_that_an_end_holds_in_time_wait", after_time_wait),
    ("where_every_port_is_held_an_ended_connections_port_is_used", every_port_held),
];

fn both_ways(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, server, 8080)])?;
    for flags in [SYN, ACK] {
        let sent = node.client_sends(service, Body::Tcp(4000, 80, flags, vec![1, 2, 3]))?;
        let seen = read(&sent.bytes)?;
        ensure!(sent.verdict == REDIRECT && (seen.src, seen.dst) == (client, server), "{sent:?}");
        ensure!((seen.src_port, seen.dst_port) == (4000, 8080), "{seen:?}");
        let reply = node.server_sends(client, Body::Tcp(8080, 4000, flags | ACK, vec![4]))?;
        let seen = read(&reply.bytes)?;
        ensure!(reply.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{reply:?}");
        ensure!((seen.src_port, seen.dst_port) == (80, 4000), "{seen:?}");
    }
    let events = node.tables.events()?;
    ensure!(events.len() == 1 && events[0].frontend_port == 80, "one flow, one event: {events:?}");
    // A UDP checksum of 0 stays 0 over IPv4.
    node.service(17, 53, ALGORITHM_RANDOM, 0, &[(2, server, 5353)])?;
    let mut frame = Frame::new(
        super::node::CLIENT_MAC,
        sheetbend_ebpf_abi::HOST_MAC,
        client,
        service,
        Body::Udp(9, 53, vec![1]),
    )
    .bytes();
    if node.family == Family::V4 {
        frame[40..42].copy_from_slice(&[0, 0]);
        let sent = node.run(Hook::FromPod, CLIENT, &frame)?;
        ensure!(sent.verdict == REDIRECT && sent.bytes[40..42] == [0, 0], "{sent:?}");
    } else {
        ensure!(read(&node.run(Hook::FromPod, CLIENT, &frame)?.bytes)?.dst_port == 5353);
    }
    Ok(())
}

fn led_to_names(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    let (any, stranger) =
        (node.family.of("0.0.0.0", "::")?, node.family.of("198.51.100.53", "2001:db8:53::53")?);
    for protocol in [6, 17] {
        node.frontend((any, 53, protocol, SCOPE_NAMES, 0), &[(1, server, 53)])?;
        node.frontend((service, 53, protocol, sheetbend_ebpf_abi::SCOPE_INSIDE, 0), &[(2, client, 53)])?;
    }
    let asked = |port: u16, protocol: u8| match protocol {
        6 => Body::Tcp(port, 53, SYN, vec![]),
        _ => Body::Udp(port, 53, vec![1, 2]),
    };
    // Without the flag everybody is asked who is meant.
    let sent = node.client_sends(stranger, asked(4000, 17))?;
    ensure!(read(&sent.bytes)?.dst == stranger, "{sent:?}");
    node.pod(CLIENT, POD_READY | POD_ASKS_NAMES, 0)?;
    for (index, (to, protocol)) in (0..).zip([(stranger, 17), (stranger, 6), (service, 17), (service, 6)]) {
        let port = 4100 + index;
        let sent = node.client_sends(to, asked(port, protocol))?;
        let seen = read(&sent.bytes)?;
        ensure!((sent.verdict, seen.dst, seen.dst_port) == (REDIRECT, server, 53), "{sent:?}");
        let answer = match protocol {
            6 => Body::Tcp(53, port, SYN | ACK, vec![]),
            _ => Body::Udp(53, port, vec![3]),
        };
        let reply = node.server_sends(client, answer)?;
        let seen = read(&reply.bytes)?;
        ensure!((seen.src, seen.src_port, seen.dst) == (to, 53, client), "{reply:?}");
    }
    // Other ports are nobody's matter, and without servers nobody is asked.
    let sent = node.client_sends(stranger, Body::Udp(4200, 54, vec![1]))?;
    ensure!(read(&sent.bytes)?.dst == stranger, "{sent:?}");
    node.frontend((any, 53, 17, SCOPE_NAMES, 0), &[])?;
    node.client_sends(stranger, asked(4300, 17))?;
    node.expect_once(CLIENT, Hook::FromPod, Reason::NoEndpoints)
}

fn egress_on_backend(node: &mut Node) -> Result<()> {
    let (server, service) = (node.family.server()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, server, 8080)])?;
    node.pod(CLIENT, POD_READY | POD_ISOLATED_EGRESS, 3)?;
    let rule = |port: u16| RuleKey {
        set: 3,
        class: 0,
        direction: DIRECTION_EGRESS,
        protocol: 6,
        port: port.to_be_bytes(),
    };
    node.tables.rule(RuleKey::FULL, rule(80), 1)?;
    ensure!(node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?.verdict == DROP);
    node.tables.rule(RuleKey::FULL, rule(8080), 2)?;
    ensure!(node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?.verdict == REDIRECT);
    Ok(())
}

fn hairpin(node: &mut Node) -> Result<()> {
    let (client, service, hairpin) = (node.family.client()?, node.family.service()?, node.family.hairpin()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, client, 8080)])?;
    node.pod(CLIENT, POD_READY | POD_ISOLATED_EGRESS | sheetbend_ebpf_abi::POD_ISOLATED_INGRESS, 3)?;
    let sent = node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?;
    let seen = read(&sent.bytes)?;
    ensure!(
        sent.verdict == REDIRECT && (seen.src, seen.dst, seen.dst_port) == (hairpin, client, 8080),
        "{sent:?}"
    );
    let reply = node.client_sends(hairpin, Body::Tcp(8080, 4000, SYN | ACK, vec![]))?;
    let seen = read(&reply.bytes)?;
    ensure!(reply.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{reply:?}");
    ensure!((seen.src_port, seen.dst_port) == (80, 4000), "{seen:?}");
    Ok(())
}

fn no_endpoints(node: &mut Node) -> Result<()> {
    let (client, service) = (node.family.client()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[])?;
    node.service(17, 53, ALGORITHM_RANDOM, 0, &[])?;
    let reset = node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?;
    let seen = read(&reset.bytes)?;
    ensure!(reset.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{reset:?}");
    ensure!((seen.src_port, seen.dst_port, seen.flags) == (80, 4000, RST | ACK), "{seen:?}");
    ensure!(seen.transport[8..12] == [0, 0, 0, 8], "acknowledges the SYN: {seen:?}");
    node.expect_once(CLIENT, Hook::FromPod, Reason::NoEndpoints)?;
    let sent = Body::Udp(9, 53, vec![5; 100]);
    let error = node.client_sends(service, sent)?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{error:?}");
    let expected = if node.family == Family::V4 { [3, 3] } else { [1, 4] };
    ensure!(seen.transport[..2] == expected, "{seen:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    ensure!((quoted.src, quoted.dst, quoted.src_port, quoted.dst_port) == (client, service, 9, 53));
    Ok(())
}

fn backend_gone(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, server, 8080)])?;
    node.service(17, 53, ALGORITHM_RANDOM, 0, &[(2, server, 5353)])?;
    ensure!(node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(8080, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    ensure!(node.client_sends(service, Body::Udp(9, 53, vec![1]))?.verdict == REDIRECT);
    node.tables.remove::<u32, BackendEntry>(names::BACKENDS, 1)?;
    node.tables.remove::<u32, BackendEntry>(names::BACKENDS, 2)?;
    let reset = node.client_sends(service, Body::Tcp(4000, 80, ACK, vec![1]))?;
    let seen = read(&reset.bytes)?;
    ensure!(reset.verdict == REDIRECT && seen.flags == RST && seen.src == service, "{reset:?}");
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::BackendGone)?.packets == 1);
    node.service(17, 53, ALGORITHM_RANDOM, 0, &[(3, server, 5454)])?;
    let moved = node.client_sends(service, Body::Udp(9, 53, vec![1]))?;
    ensure!(moved.verdict == REDIRECT && read(&moved.bytes)?.dst_port == 5454, "{moved:?}");
    Ok(())
}

fn answers(node: &mut Node, flows: u16) -> Result<BTreeMap<u16, u32>> {
    let service = node.family.service()?;
    let mut answers = BTreeMap::new();
    for port in 0..flows {
        let sent = node.client_sends(service, Body::Tcp(2000 + port, 80, SYN, vec![]))?;
        ensure!(sent.verdict == REDIRECT, "{sent:?}");
        *answers.entry(read(&sent.bytes)?.dst_port).or_default() += 1;
    }
    Ok(answers)
}

fn spread(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    let backends: Vec<_> = (0..4).map(|number| (number + 1, server, 8000 + number as u16)).collect();
    node.service(6, 80, ALGORITHM_ROUND_ROBIN, 0, &backends)?;
    let counts = answers(node, 400)?;
    let cpus = std::thread::available_parallelism()?.get() as u32;
    let (least, most) = (counts.values().min(), counts.values().max());
    ensure!(
        counts.len() == 4 && most.zip(least).is_some_and(|(most, least)| most - least <= cpus),
        "{counts:?}"
    );
    node.service(6, 80, ALGORITHM_RANDOM, 0, &backends)?;
    node.tables.clear_flows()?;
    let counts = answers(node, 1600)?;
    // 400 ± 5 standard deviations of 17.3.
    ensure!(counts.len() == 4 && counts.values().all(|count| (313..=487).contains(count)), "{counts:?}");
    Ok(())
}

fn affinity(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    let backends: Vec<_> = (0..8).map(|number| (number + 1, server, 8000 + number as u16)).collect();
    node.service(6, 80, ALGORITHM_RANDOM, 3600, &backends)?;
    let counts = answers(node, 40)?;
    ensure!(counts.len() == 1, "{counts:?}");
    let number = u32::from(counts.keys().next().copied().unwrap_or(0)) - 8000 + 1;
    node.tables.remove::<u32, BackendEntry>(names::BACKENDS, number)?;
    node.tables.clear_flows()?;
    let moved = answers(node, 40)?;
    ensure!(moved.len() == 1 && moved.keys().next() != counts.keys().next(), "{counts:?} {moved:?}");
    Ok(())
}

fn icmp_error(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(17, 53, ALGORITHM_RANDOM, 0, &[(2, server, 5353)])?;
    let sent = node.client_sends(service, Body::Udp(9, 53, vec![1; 4]))?;
    let arrived = sent.bytes[14..].to_vec();
    read_packet(&arrived)?;
    // Default deny on both ends: a related packet passes.
    node.pod(CLIENT, POD_READY | POD_ISOLATED_EGRESS | sheetbend_ebpf_abi::POD_ISOLATED_INGRESS, 3)?;
    node.tables.epoch(2)?;
    let (kind, code) = if node.family == Family::V4 { (3, 3) } else { (1, 4) };
    let error = node.server_sends(client, Body::Error(kind, code, arrived))?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{error:?}");
    let quoted = read_packet(&seen.transport[8..]).context("the quoted packet")?;
    ensure!(
        (quoted.src, quoted.dst, quoted.src_port, quoted.dst_port) == (client, service, 9, 53),
        "{quoted:?}"
    );
    Ok(())
}

/// One client port towards two Services with the same endpoint, and towards that endpoint itself.
fn same_endpoint(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    type Packet = fn(u16, u16, bool) -> Body;
    let tcp: Packet = |from, to, opens| Body::Tcp(from, to, if opens { SYN } else { ACK }, vec![1]);
    let udp: Packet = |from, to, _| Body::Udp(from, to, vec![1]);
    for (protocol, number, packet) in [(6, 1, tcp), (17, 2, udp)] {
        ensure!(node.client_sends(server, packet(4000, 8080, true))?.verdict == REDIRECT, "the pod itself");
        let mut ports = vec![4000];
        for frontend in [80, 81] {
            node.service(protocol, frontend, ALGORITHM_RANDOM, 0, &[(number, server, 8080)])?;
            let sent = node.client_sends(service, packet(4000, frontend, true))?;
            let seen = read(&sent.bytes)?;
            ensure!((seen.dst, seen.dst_port) == (server, 8080), "{seen:?}");
            ensure!(!ports.contains(&seen.src_port), "port {} again: {ports:?}", seen.src_port);
            let again = read(&node.client_sends(service, packet(4000, frontend, true))?.bytes)?;
            ensure!(again.src_port == seen.src_port, "the flow keeps its port: {again:?}");
            ports.push(seen.src_port);
        }
        for (port, frontend) in ports.iter().skip(1).zip([80, 81]) {
            for _ in 0..2 {
                let reply = node.server_sends(client, packet(8080, *port, false))?;
                let seen = read(&reply.bytes)?;
                let ends = (seen.src, seen.src_port, seen.dst, seen.dst_port);
                ensure!(reply.verdict == REDIRECT && ends == (service, frontend, client, 4000), "{seen:?}");
            }
        }
        let direct = read(&node.server_sends(client, packet(8080, 4000, false))?.bytes)?;
        ensure!((direct.src, direct.src_port, direct.dst_port) == (server, 8080, 4000), "{direct:?}");
        let about = Frame::new([0; 6], [0; 6], client, server, packet(ports[2], 8080, false)).packet();
        let (kind, code) = if node.family == Family::V4 { (3, 3) } else { (1, 4) };
        let error = read(&node.server_sends(client, Body::Error(kind, code, about))?.bytes)?;
        let quoted = read_packet(&error.transport[8..]).context("the quoted packet")?;
        ensure!((quoted.dst, quoted.src_port, quoted.dst_port) == (service, 4000, 81), "{quoted:?}");
    }
    Ok(())
}

fn direct_after_service(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    type Packet = fn(u16, u16, u8) -> Body;
    let tcp: Packet = |from, to, flags| Body::Tcp(from, to, flags, vec![1]);
    let udp: Packet = |from, to, _| Body::Udp(from, to, vec![1]);
    let mut tcp_port = 0;
    for (protocol, number, packet) in [(6, 1, tcp), (17, 2, udp)] {
        node.service(protocol, 80, ALGORITHM_RANDOM, 0, &[(number, server, 8080)])?;
        let through = |node: &mut Node, flags| -> Result<()> {
            let seen = read(&node.client_sends(service, packet(4000, 80, flags))?.bytes)?;
            ensure!((seen.src_port, seen.dst, seen.dst_port) == (4000, server, 8080), "{seen:?}");
            let seen = read(&node.server_sends(client, packet(8080, 4000, flags | ACK))?.bytes)?;
            ensure!((seen.src, seen.src_port, seen.dst_port) == (service, 80, 4000), "{seen:?}");
            Ok(())
        };
        through(node, SYN)?;
        let opened = node.client_sends(server, packet(4000, 8080, SYN))?;
        let port = read(&opened.bytes)?.src_port;
        ensure!(opened.verdict == REDIRECT && port != 4000, "the server cannot tell them apart");
        for flags in [SYN, ACK, ACK] {
            let seen = read(&node.client_sends(server, packet(4000, 8080, flags))?.bytes)?;
            ensure!((seen.src_port, seen.dst, seen.dst_port) == (port, server, 8080), "{seen:?}");
            let seen = read(&node.server_sends(client, packet(8080, port, flags | ACK))?.bytes)?;
            let ends = (seen.src, seen.src_port, seen.dst, seen.dst_port);
            ensure!(ends == (server, 8080, client, 4000), "{seen:?}");
            through(node, ACK)?;
        }
        let about = Frame::new([0; 6], [0; 6], client, server, packet(port, 8080, ACK)).packet();
        let (kind, code) = if node.family == Family::V4 { (3, 3) } else { (1, 4) };
        let error = read(&node.server_sends(client, Body::Error(kind, code, about))?.bytes)?;
        let quoted = read_packet(&error.transport[8..]).context("the quoted packet")?;
        ensure!((quoted.dst, quoted.src_port, quoted.dst_port) == (server, 4000, 8080), "{quoted:?}");
        if protocol == 6 {
            tcp_port = port;
        }
    }
    // When both are over, the port is the pod's own again.
    for port in [4000, tcp_port] {
        node.server_sends(client, Body::Tcp(8080, port, RST, vec![]))?;
    }
    let seen = read(&node.client_sends(server, Body::Tcp(4000, 8080, SYN, vec![]))?.bytes)?;
    ensure!(seen.src_port == 4000, "{seen:?}");
    let seen = read(&node.client_sends(server, Body::Tcp(4000, 8080, FIN | ACK, vec![]))?.bytes)?;
    ensure!(seen.src_port == 4000, "nothing is left of the other port: {seen:?}");
    Ok(())
}

/// A client that has held every port towards an endpoint, through the Service and directly: whichever comes second.
fn every_port_held(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, server, 8080)])?;
    let (through, direct) = ((service, 80), (server, 8080));
    for (first, second) in [(through, direct), (direct, through)] {
        node.tables.clear_flows()?;
        node.client_sends(first.0, Body::Tcp(4000, first.1, SYN, vec![]))?;
        for flags in [SYN | ACK, FIN | ACK] {
            node.server_sends(client, Body::Tcp(8080, 4000, flags, vec![]))?;
            node.client_sends(first.0, Body::Tcp(4000, first.1, flags & !SYN, vec![]))?;
        }
        let (held, _) = node.tables.flows()?;
        let [(key, ended)] = held[..] else { bail!("{held:?}") };
        let opens = |node: &mut Node| node.client_sends(second.0, Body::Tcp(4000, second.1, SYN, vec![]));
        for port in 16384..32768 {
            let mut key = key;
            *(if key.low_port == 4000 { &mut key.low_port } else { &mut key.high_port }) = port;
            node.tables.put_flow(names::CT, (key, CtEntry { client_port: port, ..ended }))?;
        }
        let taken = opens(node)?;
        let port = read(&taken.bytes)?.src_port;
        ensure!(taken.verdict == REDIRECT && (port == 4000 || (16384..32768).contains(&port)), "{taken:?}");
        // A connection that goes on keeps its port.
        node.tables.clear_flows()?;
        let live = CtEntry { flags: ended.flags & !(CT_FIN_INITIATOR | CT_FIN_RESPONDER), ..ended };
        for port in (16384..32768).chain([4000]) {
            let mut key = key;
            *(if key.low_port == 4000 { &mut key.low_port } else { &mut key.high_port }) = port;
            node.tables.put_flow(names::CT, (key, CtEntry { client_port: port, ..live }))?;
        }
        ensure!(opens(node)?.verdict == DROP);
        let counted = node.tables.counter(CLIENT, Hook::FromPod, Reason::SnatExhausted)?.packets;
        ensure!(counted == if first == through { 1 } else { 2 }, "{counted}");
    }
    Ok(())
}

/// The end that closed first refuses, for a while, a SYN from the same port that is not of the same connection.
fn after_time_wait(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service(6, 80, ALGORITHM_RANDOM, 0, &[(1, server, 8080)])?;
    let port_at_server = |node: &mut Node, (to, port), from: u16, flags: u8| -> Result<u16> {
        let sent = node.client_sends(to, Body::Tcp(from, port, flags, vec![]))?;
        ensure!(sent.verdict == REDIRECT, "{sent:?}");
        Ok(read(&sent.bytes)?.src_port)
    };
    let (through, direct) = ((service, 80), (server, 8080));
    let ended_by = |node: &mut Node, to, from: u16, end: u8| -> Result<u16> {
        let port = port_at_server(node, to, from, SYN)?;
        for flags in [SYN | ACK, end | ACK] {
            node.server_sends(client, Body::Tcp(8080, port, flags, vec![]))?;
            let seen = port_at_server(node, to, from, if flags & SYN == 0 { flags } else { ACK })?;
            ensure!(seen == port, "port {port}, then {seen}");
        }
        Ok(port)
    };
    for (first, second, from) in [(through, direct, 4000), (direct, through, 5000)] {
        ensure!(ended_by(node, first, from, FIN)? == from);
        let other = ended_by(node, second, from, FIN)?;
        ensure!(other != from, "the server is in TIME-WAIT");
        ensure!((16384..32768).contains(&other), "{other} may be held: clients draw from 32768 on");
        // The last ACK of the other end is still of that connection, and so is the next one's SYN.
        ensure!(port_at_server(node, second, from, ACK)? == other);
        ensure!(port_at_server(node, first, from, SYN)? == from, "its own next connection");
    }
    // After RST nobody waits.
    ensure!(ended_by(node, direct, 6000, RST)? == 6000);
    ensure!(port_at_server(node, through, 6000, SYN)? == 6000);
    Ok(())
}
