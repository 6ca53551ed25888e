//! Addresses of Services that no frontend takes: from pods, and from elsewhere. Processes of the node: `sockets`.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    ADDRESS_ELSEWHERE, ADDRESS_OURS, CtEntry, CtKey, Hook, MARK_FORWARDED, MARK_OURS, POD_ISOLATED_EGRESS,
    POD_READY, Reason, SCOPE_INSIDE, SERVICE_OUTSIDE, names,
};

use super::Case;
use super::frame::{ACK, Body, Frame, RST, SYN, read, read_quoted};
use super::node::{CLIENT, DROP, Family, Node, OTHER_MAC, Outcome, PASS, REDIRECT, UPLINK, UPLINK_MAC, addr};

pub(super) const CASES: &[(&str, Case)] = &[
    ("an_address_that_no_service_has_is_dropped", unallocated),
    ("a_port_that_a_service_does_not_have_is_refused", wrong_port),
    ("a_ping_to_a_service_is_refused", ping),
    ("clients_elsewhere_are_dropped_and_refused_as_pods_are", elsewhere),
    ("an_address_that_somebody_else_serves_goes_on", others),
    ("without_a_range_nothing_is_dropped", without_range),
    ("policy_is_asked_before_an_address_of_services", judged),
    ("an_established_flow_to_the_world_is_not_asked_again", established),
];

fn unallocated_address(family: Family) -> Result<IpAddr> {
    family.of("10.96.0.99", "fd00:96::99")
}

fn everything() -> [Body; 4] {
    [
        Body::Tcp(4000, 81, SYN, vec![]),
        Body::Tcp(4000, 81, ACK, vec![1]),
        Body::Udp(4000, 81, vec![1]),
        Body::Echo(true, 7),
    ]
}

impl Node {
    /// Services get their addresses from this range.
    pub(super) fn service_range(&mut self) -> Result<()> {
        self.route("10.96.0.0", 16, "fd00:96::", 112, sheetbend_ebpf_abi::ROUTE_SERVICE, None)
    }

    fn world_sends(&mut self, dst: IpAddr, body: Body) -> Result<Outcome> {
        let frame = Frame::new(OTHER_MAC, UPLINK_MAC, self.family.world()?, dst, body);
        self.run(Hook::FromUplink, UPLINK, &frame.bytes())
    }

    fn flows(&mut self) -> Result<usize> {
        let flows = [names::CT, names::CT_NEW].map(|name| self.tables.all::<CtKey, CtEntry>(name));
        flows.into_iter().try_fold(0, |sum, flows| Ok(sum + flows?.len()))
    }
}

fn unallocated(node: &mut Node) -> Result<()> {
    node.service_range()?;
    let free = unallocated_address(node.family)?;
    for body in everything() {
        let sent = node.client_sends(free, body.clone())?;
        ensure!(sent.verdict == DROP, "{body:?}: {sent:?}");
        node.expect_once(CLIENT, Hook::FromPod, Reason::NoSuchService)?;
        node.tables.clear_counters()?;
    }
    ensure!(node.flows()? == 0, "no flow is left of what was dropped");
    Ok(())
}

fn wrong_port(node: &mut Node) -> Result<()> {
    let (client, server, service) = (node.family.client()?, node.family.server()?, node.family.service()?);
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    node.frontend((service, 80, 6, SCOPE_INSIDE, 0), &[(1, server, 8080)])?;
    ensure!(node.client_sends(service, Body::Tcp(4000, 80, SYN, vec![]))?.verdict == REDIRECT);
    let before = node.flows()?;
    let reset = node.client_sends(service, Body::Tcp(4000, 81, SYN, vec![]))?;
    let seen = read(&reset.bytes)?;
    ensure!(reset.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{reset:?}");
    ensure!((seen.src_port, seen.dst_port, seen.flags) == (81, 4000, RST | ACK), "{seen:?}");
    node.tables.events()?.iter().try_for_each(|event| {
        ensure!(event.dst_port == 81 || event.reason != Reason::NoServicePort as u16, "{event:?}");
        Ok(())
    })?;
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::NoServicePort)?.packets == 1);
    // The right number of another protocol is a wrong port, too.
    let error = node.client_sends(service, Body::Udp(9, 80, vec![5; 100]))?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{error:?}");
    let expected = if node.family == Family::V4 { [3, 3] } else { [1, 4] };
    ensure!(seen.transport[..2] == expected, "{seen:?}");
    let quoted = read_quoted(&seen.transport[8..])?;
    ensure!((quoted.src, quoted.dst, quoted.src_port, quoted.dst_port) == (client, service, 9, 80));
    ensure!(node.flows()? == before, "no flow is left of what was refused");
    Ok(())
}

fn ping(node: &mut Node) -> Result<()> {
    let (client, service) = (node.family.client()?, node.family.service()?);
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    let error = node.client_sends(service, Body::Echo(true, 7))?;
    let seen = read(&error.bytes)?;
    ensure!(error.verdict == REDIRECT && (seen.src, seen.dst) == (service, client), "{error:?}");
    let expected = if node.family == Family::V4 { [3, 3] } else { [1, 4] };
    ensure!(seen.transport[..2] == expected, "{seen:?}");
    node.expect_once(CLIENT, Hook::FromPod, Reason::NoServicePort)
}

fn elsewhere(node: &mut Node) -> Result<()> {
    let (world, server, service) = (node.family.world()?, node.family.server()?, node.family.service()?);
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    for body in everything() {
        let sent = node.world_sends(unallocated_address(node.family)?, body.clone())?;
        ensure!(sent.verdict == DROP, "{body:?}: {sent:?}");
        node.expect_once(0, Hook::FromUplink, Reason::NoSuchService)?;
        node.tables.clear_counters()?;
        let sent = node.world_sends(service, body.clone())?;
        let seen = read(&sent.bytes)?;
        ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{body:?}: {sent:?}");
        ensure!((seen.src, seen.dst, seen.to) == (service, world, OTHER_MAC), "{body:?}: {seen:?}");
        node.expect_once(0, Hook::FromUplink, Reason::NoServicePort)?;
        node.tables.clear_counters()?;
    }
    // A port that is there for the cluster only is no port for others; one that is published is served.
    node.frontend((service, 81, 6, SCOPE_INSIDE, 0), &[(1, server, 8080)])?;
    let sent = node.world_sends(service, Body::Tcp(4000, 81, SYN, vec![]))?;
    ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.flags == RST | ACK, "{sent:?}");
    node.frontend((service, 81, 6, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, server, 8080)])?;
    let sent = node.world_sends(service, Body::Tcp(4000, 81, SYN, vec![]))?;
    ensure!(sent.verdict == REDIRECT && read(&sent.bytes)?.dst == server, "{sent:?}");
    // What comes in pieces is not missed.
    let pieces = Frame::new(OTHER_MAC, UPLINK_MAC, world, service, Body::Udp(1, 82, vec![0; 64]));
    let first = Frame { fragment: Some((9, 0, true)), ..pieces };
    let sent = node.run(Hook::FromUplink, UPLINK, &first.bytes())?;
    ensure!(sent.verdict != PASS, "{sent:?}");
    Ok(())
}

fn others(node: &mut Node) -> Result<()> {
    let service = node.family.service()?;
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_ELSEWHERE)?;
    for body in everything() {
        let sent = node.client_sends(service, body.clone())?;
        ensure!((sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "{body:?}: {sent:?}");
        ensure!(node.world_sends(service, body)?.verdict == PASS);
    }
    Ok(())
}

fn without_range(node: &mut Node) -> Result<()> {
    let service = node.family.service()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    for body in everything() {
        let sent = node.client_sends(unallocated_address(node.family)?, body.clone())?;
        ensure!((sent.verdict, sent.mark) == (PASS, MARK_FORWARDED), "{body:?}: {sent:?}");
        ensure!(node.world_sends(unallocated_address(node.family)?, body.clone())?.verdict == PASS);
        // Who has an address is known all the same.
        ensure!(node.client_sends(service, body.clone())?.verdict == REDIRECT, "{body:?}");
        ensure!(node.world_sends(service, body)?.verdict == REDIRECT);
    }
    Ok(())
}

fn judged(node: &mut Node) -> Result<()> {
    let service = node.family.service()?;
    node.service_range()?;
    node.tables.service_address(addr(service), ADDRESS_OURS)?;
    node.pod(CLIENT, POD_READY | POD_ISOLATED_EGRESS, 3)?;
    for to in [service, unallocated_address(node.family)?] {
        ensure!(node.client_sends(to, Body::Tcp(4000, 81, SYN, vec![]))?.verdict == DROP);
        node.expect_once(CLIENT, Hook::FromPod, Reason::PolicyDenied)?;
        node.tables.clear_counters()?;
    }
    Ok(())
}

fn established(node: &mut Node) -> Result<()> {
    let world = node.family.world()?;
    let body = |flags| Body::Tcp(4000, 80, flags, vec![]);
    ensure!(node.client_sends(world, body(SYN))?.verdict == PASS);
    // A Service takes the address later: the flow goes on, and the next one is refused.
    node.tables.service_address(addr(world), ADDRESS_OURS)?;
    ensure!(node.client_sends(world, body(ACK))?.verdict == PASS);
    ensure!(node.client_sends(world, Body::Tcp(4001, 80, SYN, vec![]))?.verdict == REDIRECT);
    Ok(())
}
