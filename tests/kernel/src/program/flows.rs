//! Pods of one node: anti-spoofing, policy, conntrack, delivery.

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    CT_FIN_INITIATOR, CT_FROM_NODE, CT_REPLIED, DIRECTION_EGRESS, DIRECTION_INGRESS, EventKind,
    FLOW_STAGE_INGRESS, HOST_MAC, Hook, MARK_FORWARDED, MARK_OURS, POD_ISOLATED_EGRESS, POD_ISOLATED_INGRESS,
    POD_READY, POD_SHAPED, Reason, RuleKey,
};

use super::Case;
use super::frame::{ACK, Body, FIN, Frame, RST, SYN, read};
use super::node::{CLIENT, CLIENT_MAC, DROP, Family, Node, PASS, REDIRECT, SERVER, SERVER_MAC, addr};

pub(super) const CASES: &[(&str, Case)] = &[
    ("delivers_to_a_pod_of_the_node", delivers),
    ("a_tcp_flow_is_open_when_its_handshake_is_over", handshake),
    ("a_limited_pod_receives_through_the_queue_of_its_link", limited),
    ("spoofed_sources_are_refused", spoofed),
    ("a_pod_is_closed_until_its_policy_is_in_place", closed_at_first),
    ("link_duties_pass_before_policy", link_duties),
    ("ingress_denied_is_dropped_once", ingress_denied),
    ("rules_allow_by_class_block_port_range_and_protocol", rules),
    ("a_denying_rule_is_final_and_named_by_the_drop", denials),
    ("sctp_is_judged_by_port_and_answers_pass", sctp),
    ("egress_denied_is_dropped_once", egress_denied),
    ("replies_pass_default_deny", replies),
    ("a_raised_epoch_judges_established_flows_anew", epoch),
    ("own_node_always_reaches_its_pods", own_node),
    ("what_is_not_simple_goes_to_the_stack", not_simple),
    ("the_stack_delivers_under_policy", from_stack),
    ("fragments_follow_their_first", fragments),
    ("a_closed_flow_begins_anew", closed_flow),
    ("pod_gone_is_reset_and_no_pod_is_unreachable", pod_gone),
    ("malformed_is_dropped", malformed),
];

const SYNS: Body = Body::Tcp(4000, 80, SYN, Vec::new());

fn delivers(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    let first = node.client_sends(server, SYNS)?;
    ensure!(first.verdict == REDIRECT, "{first:?}");
    let seen = read(&first.bytes)?;
    ensure!((seen.to, seen.from, seen.ttl) == (SERVER_MAC, HOST_MAC, 63), "{seen:?}");
    ensure!((seen.src, seen.dst, seen.src_port, seen.dst_port) == (client, server, 4000, 80), "{seen:?}");
    node.expect_once(CLIENT, Hook::FromPod, Reason::Forwarded)?;
    let (replied, half_open) = node.tables.flows()?;
    ensure!(replied.is_empty() && half_open.len() == 1, "{replied:?} {half_open:?}");
    ensure!(half_open[0].1.egress_epoch == 1 && half_open[0].1.ingress_epoch == 1, "{half_open:?}");

    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, Body::Tcp(4000, 80, ACK, b"hello".to_vec()))?.verdict == REDIRECT);
    let (replied, half_open) = node.tables.flows()?;
    ensure!(half_open.is_empty() && replied.len() == 1 && replied[0].1.flags & CT_REPLIED != 0);
    let events = node.tables.events()?;
    ensure!(events.is_empty(), "an established packet is no event: {events:?}");
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::Forwarded)?.packets == 1);
    Ok(())
}

/// Who sends SYNs under addresses of others never confirms an answer.
fn handshake(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    for port in 4000..4004 {
        ensure!(node.client_sends(server, Body::Tcp(port, 80, SYN, Vec::new()))?.verdict == REDIRECT);
        ensure!(node.server_sends(client, Body::Tcp(80, port, SYN | ACK, Vec::new()))?.verdict == REDIRECT);
    }
    let opened =
        |node: &mut Node| node.tables.flows().map(|(replied, half_open)| (replied.len(), half_open.len()));
    ensure!(opened(node)? == (0, 4), "{:?}", node.tables.flows()?);
    for (port, flags) in [(4000, SYN), (4001, RST)] {
        ensure!(node.client_sends(server, Body::Tcp(port, 80, flags, Vec::new()))?.verdict == REDIRECT);
    }
    ensure!(node.server_sends(client, Body::Tcp(80, 4002, SYN | ACK, Vec::new()))?.verdict == REDIRECT);
    ensure!(opened(node)? == (0, 4), "{:?}", node.tables.flows()?);
    ensure!(node.client_sends(server, Body::Tcp(4003, 80, ACK, Vec::new()))?.verdict == REDIRECT);
    ensure!(opened(node)? == (1, 3), "{:?}", node.tables.flows()?);
    Ok(())
}

/// A redirect into the pod's namespace would pass the queue by; both show as the same verdict, and differ in the mark.
fn limited(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    ensure!(node.client_sends(server, SYNS)?.mark == 0, "into the namespace");
    node.pod(SERVER, POD_READY | POD_SHAPED, 0)?;
    let outcome = node.client_sends(server, Body::Tcp(4001, 80, SYN, Vec::new()))?;
    ensure!((outcome.verdict, outcome.mark) == (REDIRECT, MARK_OURS), "{outcome:?}");
    ensure!(read(&outcome.bytes)?.to == SERVER_MAC, "{outcome:?}");
    let onwards = node.run_with(Hook::ToPod, SERVER, &outcome.bytes, outcome.mark, CLIENT)?;
    ensure!(onwards.verdict == PASS, "{onwards:?}");
    Ok(())
}

fn spoofed(node: &mut Node) -> Result<()> {
    let (remote, server) = (node.family.remote()?, node.family.server()?);
    let wrong_ip = Frame::new(CLIENT_MAC, HOST_MAC, remote, server, SYNS);
    ensure!(node.run(Hook::FromPod, CLIENT, &wrong_ip.bytes())?.verdict == DROP);
    node.expect_once(CLIENT, Hook::FromPod, Reason::SourceSpoofed)?;
    let wrong_mac = Frame::new(SERVER_MAC, HOST_MAC, node.family.client()?, server, SYNS);
    ensure!(node.run(Hook::FromPod, CLIENT, &wrong_mac.bytes())?.verdict == DROP);
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::SourceSpoofed)?.packets == 2);
    Ok(())
}

fn closed_at_first(node: &mut Node) -> Result<()> {
    node.pod(CLIENT, 0, 1)?;
    ensure!(node.client_sends(node.family.server()?, SYNS)?.verdict == DROP);
    node.expect_once(CLIENT, Hook::FromPod, Reason::NotReady)?;
    ensure!(node.server_sends(node.family.client()?, SYNS)?.verdict == DROP);
    let frame = Frame::new(HOST_MAC, CLIENT_MAC, node.family.node()?, node.family.client()?, SYNS);
    ensure!(node.run(Hook::ToPod, CLIENT, &frame.bytes())?.verdict == DROP);
    ensure!(node.tables.counter(CLIENT, Hook::ToPod, Reason::NotReady)?.packets == 1);
    Ok(())
}

fn link_duties(node: &mut Node) -> Result<()> {
    node.pod(CLIENT, POD_ISOLATED_EGRESS | POD_ISOLATED_INGRESS, 1)?;
    let mut arp = [[0xff; 6], CLIENT_MAC].concat();
    arp.extend([0x08, 0x06]);
    arp.extend([0; 28]);
    ensure!(node.run(Hook::FromPod, CLIENT, &arp)?.verdict == PASS);
    let solicitation = |ttl| {
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend([0; 16]);
        let mut frame = Frame::new(
            CLIENT_MAC,
            HOST_MAC,
            "fe80::5".parse()?,
            "ff02::1:ff00:1".parse()?,
            Body::Raw(58, body),
        );
        frame.ttl = ttl;
        anyhow::Ok(frame.bytes())
    };
    ensure!(node.run(Hook::FromPod, CLIENT, &solicitation(255)?)?.verdict == PASS);
    ensure!(node.run(Hook::FromPod, CLIENT, &solicitation(254)?)?.verdict == DROP, "it was forwarded once");
    Ok(())
}

fn isolate(node: &mut Node, ifindex: u32, flag: u32, set: u32) -> Result<()> {
    node.pod(ifindex, POD_READY | flag, set)
}

fn ingress_denied(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let client = node.family.client()?;
    node.tables.class(addr(client), 5)?;
    ensure!(node.client_sends(node.family.server()?, SYNS)?.verdict == DROP);
    let events = node.tables.events()?;
    ensure!(events.len() == 1, "{events:?}");
    let event = events[0];
    ensure!(event.reason == Reason::PolicyDenied as u16 && event.kind == EventKind::Drop as u8);
    ensure!((event.set, event.class, event.origin, event.ifindex) == (9, 5, 0, SERVER), "{event:?}");
    ensure!(event.stage == FLOW_STAGE_INGRESS && event.src == addr(client) && event.dst_port == 80);
    let counted = node.tables.counter(SERVER, Hook::FromPod, Reason::PolicyDenied)?;
    ensure!(counted.packets == 1, "{counted:?}");
    let (replied, half_open) = node.tables.flows()?;
    ensure!(replied.is_empty() && half_open.is_empty(), "a denied packet leaves no flow");
    Ok(())
}

fn rule(set: u32, class: u32, direction: u8, protocol: u8, port: u16) -> RuleKey {
    RuleKey { set, class, direction, protocol, port: port.to_be_bytes() }
}

fn rules(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    // A block stands for the client's class until it has one of its own.
    let bits = if node.family == Family::V4 { 96 + 24 } else { 64 };
    node.tables.block(addr(client), bits, 6)?;
    node.tables.rule(RuleKey::FULL, rule(9, 6, DIRECTION_INGRESS, 6, 80), 41)?;
    // 8080/13 bits: 8080 to 8087 for everybody.
    node.tables.rule(RuleKey::FULL - 3, rule(9, 0, DIRECTION_INGRESS, 17, 8080), 42)?;
    let port = |port| Body::Tcp(4001, port, SYN, vec![]);
    ensure!(node.client_sends(server, port(80))?.verdict == REDIRECT);
    ensure!(node.tables.events()?.iter().any(|event| event.origin == 41 && event.class == 6));
    ensure!(node.client_sends(server, port(81))?.verdict == DROP);
    for (port, verdict) in [(8079, DROP), (8080, REDIRECT), (8087, REDIRECT), (8088, DROP)] {
        let outcome = node.client_sends(server, Body::Udp(4002, port, vec![1]))?;
        ensure!(outcome.verdict == verdict, "UDP {port}: {outcome:?}");
    }
    ensure!(node.client_sends(server, Body::Echo(true, 77))?.verdict == DROP, "a port rule allows no echo");
    node.tables.class(addr(client), 8)?;
    node.tables.rule(RuleKey::ANY_PROTOCOL, rule(9, 8, DIRECTION_INGRESS, 0, 0), 43)?;
    ensure!(node.client_sends(server, Body::Echo(true, 78))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, Body::Raw(47, vec![0; 16]))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, port(82))?.verdict == REDIRECT);
    Ok(())
}

/// The row of the peer's class is final, also where it denies; the drop names the rule. A flow that was let through ends
/// when it is judged anew.
fn denials(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.tables.class(addr(client), 5)?;
    node.tables.rule(RuleKey::ANY_PROTOCOL, rule(9, 0, DIRECTION_INGRESS, 0, 0), 0)?;
    let port = |port| Body::Tcp(4000, port, SYN, vec![]);
    ensure!(node.client_sends(server, port(80))?.verdict == REDIRECT, "open by default");
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    node.tables.denial(RuleKey::FULL - 16, rule(9, 5, DIRECTION_INGRESS, 6, 0), 51)?;
    node.tables.rule(RuleKey::FULL, rule(9, 5, DIRECTION_INGRESS, 6, 443), 52)?;
    node.tables.events()?;
    ensure!(node.client_sends(server, port(81))?.verdict == DROP);
    let events = node.tables.events()?;
    ensure!(events.len() == 1, "{events:?}");
    let event = events[0];
    ensure!(event.reason == Reason::PolicyDenied as u16 && event.kind == EventKind::Drop as u8);
    ensure!((event.set, event.class, event.origin, event.ifindex) == (9, 5, 51, SERVER), "{event:?}");
    let counted = node.tables.counter(SERVER, Hook::FromPod, Reason::PolicyDenied)?;
    ensure!(counted.packets == 1, "{counted:?}");
    ensure!(node.client_sends(server, port(443))?.verdict == REDIRECT, "the longest prefix decides");
    ensure!(node.client_sends(server, Body::Echo(true, 9))?.verdict == REDIRECT, "no row of its class");
    let data = || Body::Tcp(4000, 80, ACK, vec![1, 2]);
    ensure!(node.client_sends(server, data())?.verdict == REDIRECT, "judged under this epoch already");
    node.tables.epoch(2)?;
    ensure!(node.client_sends(server, data())?.verdict == DROP, "a flow that was let through");
    ensure!(node.tables.events()?.iter().any(|event| event.origin == 51 && event.dst_port == 80));
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, ACK, vec![]))?.verdict == DROP, "its answers");
    let probe = Frame::new(HOST_MAC, SERVER_MAC, node.family.node()?, server, SYNS);
    node.tables.class(addr(node.family.node()?), 5)?;
    ensure!(node.run(Hook::ToPod, SERVER, &probe.bytes())?.verdict == PASS, "its own node's probes");
    Ok(())
}

fn sctp(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    let chunk = |from: u16, to: u16| Body::Sctp(from, to, 0, vec![1, 2, 3, 4]);
    ensure!(node.client_sends(server, chunk(5000, 7777))?.verdict == DROP);
    node.expect_once(SERVER, Hook::FromPod, Reason::PolicyDenied)?;
    node.tables.rule(RuleKey::FULL, rule(9, 0, DIRECTION_INGRESS, 132, 7777), 44)?;
    let sent = node.client_sends(server, chunk(5000, 7777))?;
    ensure!(sent.verdict == REDIRECT, "{sent:?}");
    let seen = read(&sent.bytes)?;
    ensure!((seen.src_port, seen.dst_port) == (5000, 7777), "{seen:?}");
    ensure!(node.client_sends(server, chunk(5000, 7778))?.verdict == DROP, "another port");
    let tcp = node.client_sends(server, Body::Tcp(5000, 7777, SYN, vec![]))?;
    ensure!(tcp.verdict == DROP, "another protocol");
    ensure!(node.server_sends(client, chunk(7777, 5000))?.verdict == REDIRECT, "an answer");
    Ok(())
}

fn egress_denied(node: &mut Node) -> Result<()> {
    isolate(node, CLIENT, POD_ISOLATED_EGRESS, 3)?;
    let server = node.family.server()?;
    ensure!(node.client_sends(server, SYNS)?.verdict == DROP);
    node.expect_once(CLIENT, Hook::FromPod, Reason::PolicyDenied)?;
    node.tables.rule(RuleKey::FULL, rule(3, 0, DIRECTION_EGRESS, 6, 80), 1)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    Ok(())
}

fn replies(node: &mut Node) -> Result<()> {
    isolate(node, CLIENT, POD_ISOLATED_INGRESS, 3)?;
    isolate(node, SERVER, POD_ISOLATED_EGRESS, 4)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    ensure!(node.client_sends(server, Body::Echo(true, 5))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Echo(false, 5))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Echo(true, 5))?.verdict == DROP, "its own request is no reply");
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(81, 4000, SYN, vec![]))?.verdict == DROP);
    Ok(())
}

fn epoch(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.tables.rule(RuleKey::FULL, rule(9, 0, DIRECTION_INGRESS, 6, 80), 41)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 10)?;
    let data = || Body::Tcp(4000, 80, ACK, vec![1, 2]);
    ensure!(node.client_sends(server, data())?.verdict == REDIRECT, "judged under this epoch already");
    node.tables.epoch(2)?;
    ensure!(node.client_sends(server, data())?.verdict == DROP);
    // The reply is judged in the flow's original direction: the server's ingress.
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, ACK, vec![]))?.verdict == DROP);
    node.tables.rule(RuleKey::FULL, rule(10, 0, DIRECTION_INGRESS, 6, 80), 42)?;
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, ACK, vec![]))?.verdict == REDIRECT);
    Ok(())
}

fn own_node(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS | POD_ISOLATED_EGRESS, 9)?;
    let (own, server) = (node.family.node()?, node.family.server()?);
    let probe = Frame::new(HOST_MAC, SERVER_MAC, own, server, SYNS);
    ensure!(node.run(Hook::ToPod, SERVER, &probe.bytes())?.verdict == PASS);
    node.expect_once(SERVER, Hook::ToPod, Reason::FromNode)?;
    let (_, half_open) = node.tables.flows()?;
    ensure!(half_open.len() == 1 && half_open[0].1.flags & CT_FROM_NODE != 0, "{half_open:?}");
    let answer = node.server_sends(own, Body::Tcp(80, 4000, SYN | ACK, vec![]))?;
    ensure!(answer.verdict == PASS && answer.mark == MARK_FORWARDED, "{answer:?}");
    let other = Frame::new(HOST_MAC, SERVER_MAC, own, server, Body::Tcp(4007, 80, SYN, vec![]));
    let forwarded = node.run_with(Hook::ToPod, SERVER, &other.bytes(), 0, CLIENT)?;
    ensure!(forwarded.verdict == DROP, "an address is not the node");
    ensure!(node.run_with(Hook::ToPod, SERVER, &other.bytes(), MARK_OURS, 0)?.verdict == PASS);
    Ok(())
}

fn not_simple(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    let mut frame = Frame::new(CLIENT_MAC, HOST_MAC, node.family.client()?, server, SYNS);
    frame.ttl = 1;
    let outcome = node.run(Hook::FromPod, CLIENT, &frame.bytes())?;
    ensure!((outcome.verdict, outcome.mark) == (PASS, MARK_FORWARDED), "hop limit 1: {outcome:?}");
    let outcome = node.client_sends(server, Body::Udp(1, 2, vec![0; 1440]))?;
    ensure!((outcome.verdict, outcome.mark) == (PASS, MARK_FORWARDED), "too big: {}", outcome.verdict);
    if node.family == Family::V4 {
        frame.ttl = 64;
        frame.options = true;
        let outcome = node.run(Hook::FromPod, CLIENT, &frame.bytes())?;
        ensure!((outcome.verdict, outcome.mark) == (PASS, MARK_FORWARDED), "options: {outcome:?}");
    }
    Ok(())
}

fn from_stack(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    let frame = Frame::new(HOST_MAC, SERVER_MAC, client, server, SYNS).bytes();
    ensure!(node.run_with(Hook::ToPod, SERVER, &frame, MARK_FORWARDED, CLIENT)?.verdict == DROP);
    node.expect_once(SERVER, Hook::ToPod, Reason::PolicyDenied)?;
    node.tables.rule(RuleKey::FULL, rule(9, 0, DIRECTION_INGRESS, 6, 80), 41)?;
    let outcome = node.run_with(Hook::ToPod, SERVER, &frame, MARK_FORWARDED, CLIENT)?;
    ensure!(outcome.verdict == PASS && read(&outcome.bytes)?.ttl == 64, "{outcome:?}");
    Ok(())
}

fn fragments(node: &mut Node) -> Result<()> {
    isolate(node, SERVER, POD_ISOLATED_INGRESS, 9)?;
    node.tables.rule(RuleKey::FULL, rule(9, 0, DIRECTION_INGRESS, 17, 53), 41)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    let mut send = |id, offset, more, body| {
        let mut frame = Frame::new(CLIENT_MAC, HOST_MAC, client, server, body);
        frame.fragment = Some((id, offset, more));
        node.run(Hook::FromPod, CLIENT, &frame.bytes())
    };
    let later = || Body::Raw(17, vec![7; 16]);
    ensure!(send(1, 16, false, later())?.verdict == DROP, "nobody knows its ports");
    ensure!(send(2, 0, true, Body::Udp(9, 53, vec![1; 8]))?.verdict == REDIRECT);
    ensure!(send(2, 16, false, later())?.verdict == REDIRECT);
    ensure!(send(3, 0, true, Body::Udp(9, 54, vec![1; 8]))?.verdict == DROP);
    ensure!(send(3, 16, false, later())?.verdict == DROP, "its first was denied");
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::FragmentUnknown)?.packets == 1);
    Ok(())
}

fn closed_flow(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    let from_client = |flags| Body::Tcp(4000, 80, flags, vec![]);
    let from_server = |flags| Body::Tcp(80, 4000, flags, vec![]);
    ensure!(node.client_sends(server, from_client(SYN))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, from_server(SYN | ACK))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, from_client(FIN | ACK))?.verdict == REDIRECT);
    ensure!(node.tables.flows()?.0[0].1.flags & CT_FIN_INITIATOR != 0);
    ensure!(node.server_sends(client, from_server(FIN | ACK))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, from_client(SYN))?.verdict == REDIRECT);
    let (replied, half_open) = node.tables.flows()?;
    ensure!(replied.is_empty() && half_open.len() == 1, "{replied:?} {half_open:?}");
    Ok(())
}

fn pod_gone(node: &mut Node) -> Result<()> {
    let gone = node.family.of("10.1.1.99", "fd00:1::99")?;
    ensure!(node.client_sends(gone, SYNS)?.verdict == PASS, "the stack's unreachable route answers");
    node.expect_once(CLIENT, Hook::FromPod, Reason::NoSuchPod)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    node.tables.remove_local(addr(server))?;
    let reset = node.client_sends(server, Body::Tcp(4000, 80, ACK, vec![1; 10]))?;
    let seen = read(&reset.bytes)?;
    ensure!(reset.verdict == REDIRECT && (seen.src, seen.dst) == (server, client), "{reset:?}");
    ensure!((seen.src_port, seen.dst_port, seen.flags) == (80, 4000, super::frame::RST), "{seen:?}");
    ensure!(seen.transport[4..8] == [0, 0, 0, 9], "the sequence number the client expects: {seen:?}");
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::PodGone)?.packets == 1);
    Ok(())
}

fn malformed(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    let mut frame = Frame::new(CLIENT_MAC, HOST_MAC, node.family.client()?, server, SYNS).bytes();
    frame.truncate(frame.len() - 12);
    ensure!(node.run(Hook::FromPod, CLIENT, &frame)?.verdict == DROP);
    node.expect_once(CLIENT, Hook::FromPod, Reason::Malformed)
}
