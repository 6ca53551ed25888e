//! Other nodes and the world: tunnel, host routes, masquerade, what may come in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sheetbend_ebpf_abi::{
    CT_MASQUERADED, HOST_MAC, Hook, MARK_FORWARDED, MARK_OURS, MODE_HOST_GW, NodeConfig, Reason, vtep_mac,
};

use super::Case;
use super::frame::{ACK, Body, Frame, SYN, read, read_packet};
use super::node::{
    CLIENT, CLIENT_MAC, DROP, Family, Node, OTHER_MAC, PASS, REDIRECT, SERVER_MAC, TUNNEL, UPLINK,
    UPLINK_MAC, addr, config,
};

pub(super) const CASES: &[(&str, Case)] = &[
    ("another_nodes_pod_is_behind_the_tunnel", tunnel),
    ("another_nodes_pod_is_behind_a_route", host_route),
    ("an_established_flow_keeps_its_next_hop_for_a_second", next_hop),
    ("the_tunnel_wants_a_known_network", unknown_vni),
    ("a_pod_may_not_send_to_the_tunnel_port", tunnel_port),
    ("the_world_sees_the_node", masquerade),
    ("each_masqueraded_flow_has_its_port", exhausted),
    ("replies_to_the_world_keep_their_source", inbound),
    ("an_icmp_error_finds_the_masqueraded_pod", icmp_error),
    ("pod_sources_do_not_come_by_the_uplink", uplink_spoofed),
    ("what_is_not_ours_passes", not_ours),
    ("an_unowned_range_is_unreachable", unowned),
];

fn tunnel(node: &mut Node) -> Result<()> {
    let remote = node.family.remote()?;
    let sent = node.client_sends(remote, Body::Tcp(4000, 80, SYN, vec![]))?;
    let seen = read(&sent.bytes)?;
    ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
    ensure!((seen.to, seen.ttl) == (vtep_mac(&addr("192.0.2.2".parse()?)), 63), "{seen:?}");
    node.expect_once(CLIENT, Hook::FromPod, Reason::ToNode)?;
    let own = Frame::new(HOST_MAC, OTHER_MAC, node.family.node()?, remote, Body::Udp(1, 2, vec![]));
    let sent = node.run(Hook::ToTunnel, TUNNEL, &own.bytes())?;
    ensure!((sent.verdict, sent.mark) == (PASS, MARK_OURS), "{sent:?}");
    let nowhere =
        Frame::new(HOST_MAC, OTHER_MAC, node.family.node()?, node.family.world()?, Body::Udp(1, 2, vec![]));
    ensure!(node.run(Hook::ToTunnel, TUNNEL, &nowhere.bytes())?.mark == MARK_FORWARDED);
    ensure!(node.tables.counter(0, Hook::ToTunnel, Reason::Unreachable)?.packets == 1);
    Ok(())
}

fn host_route(node: &mut Node) -> Result<()> {
    node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
    let sent = node.client_sends(node.family.remote()?, Body::Udp(1, 2, vec![3]))?;
    ensure!((sent.verdict, sent.mark, read(&sent.bytes)?.ttl) == (REDIRECT, MARK_OURS, 63), "{sent:?}");
    Ok(())
}

fn next_hop(node: &mut Node) -> Result<()> {
    node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
    let (client, remote) = (node.family.client()?, node.family.remote()?);
    // The Ethernet addresses are the kernel's to write where it looks the neighbour up.
    let send = |node: &mut Node, flags, from, to| -> Result<()> {
        let sent = node.client_sends(remote, Body::Tcp(4000, 80, flags, vec![1]))?;
        let seen = read(&sent.bytes)?;
        ensure!((sent.verdict, sent.mark, seen.ttl) == (REDIRECT, MARK_OURS, 63), "{sent:?}");
        ensure!((seen.from, seen.to) == (from, to), "{seen:?}");
        Ok(())
    };
    let receive = |node: &mut Node, flags, from| {
        let frame = Frame::new(from, UPLINK_MAC, remote, client, Body::Tcp(80, 4000, flags, vec![2]));
        node.run(Hook::FromUplink, UPLINK, &frame.bytes())
    };
    send(node, SYN, CLIENT_MAC, HOST_MAC)?;
    ensure!(receive(node, SYN | ACK, OTHER_MAC)?.verdict == REDIRECT);
    send(node, ACK, CLIENT_MAC, HOST_MAC)?;
    for _ in 0..2 {
        send(node, ACK, CLIENT_MAC, HOST_MAC)?;
        let arrived = receive(node, ACK, OTHER_MAC)?;
        ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.to == CLIENT_MAC, "{arrived:?}");
        send(node, ACK, UPLINK_MAC, OTHER_MAC)?;
        let arrived = receive(node, ACK, OTHER_MAC)?;
        ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.to == CLIENT_MAC, "{arrived:?}");
        ensure!(receive(node, ACK, SERVER_MAC)?.verdict == DROP, "another link");
        std::thread::sleep(Duration::from_millis(1100));
    }
    ensure!(node.tables.counter(CLIENT, Hook::FromUplink, Reason::TunnelSpoofed)?.packets == 2);
    Ok(())
}

fn unknown_vni(node: &mut Node) -> Result<()> {
    let frame = Frame::new(
        OTHER_MAC,
        HOST_MAC,
        node.family.remote()?,
        node.family.client()?,
        Body::Udp(1, 2, vec![]),
    );
    ensure!(node.run(Hook::FromTunnel, TUNNEL, &frame.bytes())?.verdict == DROP, "it carries no key");
    node.expect_once(0, Hook::FromTunnel, Reason::UnknownVni)
}

fn tunnel_port(node: &mut Node) -> Result<()> {
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    ensure!(node.client_sends(other, Body::Udp(1, 4789, vec![8; 8]))?.verdict == DROP);
    node.expect_once(CLIENT, Hook::FromPod, Reason::TunnelPort)?;
    ensure!(node.client_sends(other, Body::Udp(1, 4790, vec![8; 8]))?.verdict == REDIRECT);
    Ok(())
}

/// The pod's packet after `from_pod` and `to_uplink`.
pub(super) fn leave(node: &mut Node, body: Body) -> Result<(u32, Vec<u8>)> {
    let world = node.family.world()?;
    let sent = node.client_sends(world, body)?;
    ensure!((sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "{sent:?}");
    ensure!(read(&sent.bytes)?.src == node.family.client()?, "the stack still sees the pod");
    let left = node.run_with(Hook::ToUplink, UPLINK, &sent.bytes, MARK_FORWARDED, CLIENT)?;
    Ok((left.verdict, left.bytes))
}

/// What the remote end answers to a port or identifier.
type Answer = fn(u16) -> Body;

fn masquerade(node: &mut Node) -> Result<()> {
    let (own, world, client) = (node.family.node()?, node.family.world()?, node.family.client()?);
    let bodies: [(Body, Answer); 3] = [
        (Body::Tcp(4000, 80, SYN, vec![1]), |port| Body::Tcp(80, port, SYN | ACK, vec![2])),
        (Body::Udp(4000, 80, vec![1, 2, 3]), |port| Body::Udp(80, port, vec![2])),
        (Body::Echo(true, 4000), |id| Body::Echo(false, id)),
    ];
    for (body, answer) in bodies {
        let echo = matches!(body, Body::Echo(..));
        let (verdict, bytes) = leave(node, body.clone())?;
        let seen = read(&bytes)?;
        ensure!(verdict == PASS && (seen.src, seen.dst) == (own, world), "{seen:?}");
        ensure!((40_000..60_000).contains(&seen.src_port), "{seen:?}");
        ensure!(read(&leave(node, body)?.1)?.src_port == seen.src_port, "the flow keeps its port");
        let back = Frame::new(OTHER_MAC, UPLINK_MAC, world, own, answer(seen.src_port));
        let back = node.run(Hook::FromUplink, UPLINK, &back.bytes())?;
        let seen = read(&back.bytes)?;
        ensure!(back.verdict == REDIRECT && (seen.src, seen.dst) == (world, client), "{back:?}");
        ensure!(seen.to == CLIENT_MAC && seen.ttl == 63, "{seen:?}");
        ensure!(if echo { seen.src_port } else { seen.dst_port } == 4000, "{seen:?}");
    }
    leave(node, Body::Tcp(4000, 80, ACK, vec![]))?;
    let (replied, _) = node.tables.flows()?;
    ensure!(replied.len() == 3 && replied.iter().all(|(_, entry)| entry.flags & CT_MASQUERADED != 0));
    Ok(())
}

fn exhausted(node: &mut Node) -> Result<()> {
    node.tables.config(NodeConfig { nat_port_count: 1, ..config() })?;
    ensure!(leave(node, Body::Udp(1, 80, vec![]))?.0 == PASS);
    ensure!(leave(node, Body::Udp(1, 81, vec![]))?.0 == PASS, "another remote end");
    ensure!(leave(node, Body::Udp(2, 80, vec![]))?.0 == DROP);
    ensure!(node.tables.counter(CLIENT, Hook::ToUplink, Reason::SnatExhausted)?.packets == 1);
    Ok(())
}

fn inbound(node: &mut Node) -> Result<()> {
    let (world, client) = (node.family.world()?, node.family.client()?);
    let request = Frame::new(OTHER_MAC, UPLINK_MAC, world, client, Body::Tcp(5000, 80, SYN, vec![]));
    let arrived = node.run(Hook::FromUplink, UPLINK, &request.bytes())?;
    ensure!(arrived.verdict == REDIRECT && read(&arrived.bytes)?.to == CLIENT_MAC, "{arrived:?}");
    let (verdict, bytes) = leave(node, Body::Tcp(80, 5000, SYN | ACK, vec![]))?;
    ensure!(verdict == PASS && read(&bytes)?.src == client, "a reply is never masqueraded");
    Ok(())
}

fn icmp_error(node: &mut Node) -> Result<()> {
    let (own, world, client) = (node.family.node()?, node.family.world()?, node.family.client()?);
    let (_, bytes) = leave(node, Body::Udp(4000, 80, vec![1]))?;
    let router = node.family.of("198.51.100.1", "2001:db8::99")?;
    let (kind, code) = if node.family == Family::V4 { (11, 0) } else { (3, 0) };
    let error = Frame::new(OTHER_MAC, UPLINK_MAC, router, own, Body::Error(kind, code, bytes[14..].to_vec()));
    let arrived = node.run(Hook::FromUplink, UPLINK, &error.bytes())?;
    let seen = read(&arrived.bytes)?;
    ensure!(arrived.verdict == REDIRECT && (seen.src, seen.dst) == (router, client), "{arrived:?}");
    let quoted = read_packet(&seen.transport[8..]).context("the quoted packet")?;
    ensure!(
        (quoted.src, quoted.dst, quoted.src_port, quoted.dst_port) == (client, world, 4000, 80),
        "{quoted:?}"
    );
    let about_node = Frame::new(OTHER_MAC, UPLINK_MAC, own, world, Body::Udp(123, 123, vec![1])).packet();
    let error = Frame::new(OTHER_MAC, UPLINK_MAC, router, own, Body::Error(kind, code, about_node));
    let passed = node.run(Hook::FromUplink, UPLINK, &error.bytes())?;
    ensure!(passed.verdict == PASS && passed.bytes == error.bytes(), "the node's own errors are not ours");
    Ok(())
}

fn uplink_spoofed(node: &mut Node) -> Result<()> {
    let client = node.family.client()?;
    // The hairpin source would pass a policy that denies everything.
    let sources = [node.family.remote()?, node.family.server()?, node.family.hairpin()?];
    for (count, source) in sources.into_iter().enumerate() {
        let frame = Frame::new(OTHER_MAC, UPLINK_MAC, source, client, Body::Udp(1, 2, vec![]));
        ensure!(node.run(Hook::FromUplink, UPLINK, &frame.bytes())?.verdict == DROP);
        let counted = node.tables.counter(CLIENT, Hook::FromUplink, Reason::TunnelSpoofed)?.packets;
        ensure!(counted == count as u64 + 1, "{counted}");
    }
    Ok(())
}

fn not_ours(node: &mut Node) -> Result<()> {
    let (own, world) = (node.family.node()?, node.family.world()?);
    let bodies = [
        Body::Udp(5000, 4789, vec![1; 20]),
        Body::Tcp(5000, 22, SYN, vec![]),
        Body::Udp(53, 40_001, vec![1]),
    ];
    for body in bodies {
        let frame = Frame::new(OTHER_MAC, UPLINK_MAC, world, own, body.clone()).bytes();
        let outcome = node.run(Hook::FromUplink, UPLINK, &frame)?;
        ensure!(outcome.verdict == PASS && outcome.bytes == frame && outcome.mark == 0, "{outcome:?}");
        let frame = Frame::new(UPLINK_MAC, OTHER_MAC, own, world, body).bytes();
        let outcome = node.run(Hook::ToUplink, UPLINK, &frame)?;
        ensure!(outcome.verdict == PASS && outcome.bytes == frame && outcome.mark == 0, "{outcome:?}");
    }
    ensure!(node.tables.events()?.is_empty());
    Ok(())
}

fn unowned(node: &mut Node) -> Result<()> {
    let unowned = node.family.of("10.1.77.1", "fd00:0:77::1")?;
    let sent = node.client_sends(unowned, Body::Udp(1, 2, vec![]))?;
    ensure!((sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "the stack's route answers: {sent:?}");
    node.expect_once(CLIENT, Hook::FromPod, Reason::Unreachable)?;
    ensure!(node.tables.flows()?.1.is_empty(), "no flow begins");
    Ok(())
}
