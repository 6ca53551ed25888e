//! Tables of flows that grow: programs that know an older map beside each, in every phase.

use anyhow::{Context, Result, ensure};
use sheetbend_ebpf_abi::{
    ALGORITHM_ROUND_ROBIN, CT_IDLE_SECONDS, CtEntry, CtKey, GROWS_CT, GROWS_SERVICE_FLOWS, GROWS_SNAT, Hook,
    NodeConfig, POD_ISOLATED_INGRESS, POD_READY, Reason, ServiceFlowKey, ServiceFlowValue, SnatKey,
    SnatValue, WRITES_BOTH, WRITES_NEW, WRITES_OLD, names,
};

use super::Case;
use super::frame::{ACK, Body, FIN, Frame, RST, SYN, read};
use super::node::{CLIENT, DROP, Node, OTHER_MAC, PASS, REDIRECT, UPLINK, UPLINK_MAC, config};
use super::outside::leave;

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_flow_in_the_older_table_goes_on_both_ways", goes_on),
    ("an_answer_moves_to_the_table_that_is_written", answered),
    ("a_flow_of_the_older_table_begins_anew", begins_anew),
    ("a_service_flow_in_the_older_table_keeps_its_endpoint", keeps_endpoint),
    ("a_port_is_taken_once_in_both_tables", port_taken_once),
    ("an_answer_to_a_masqueraded_flow_of_the_older_table_comes_back", comes_back),
];

const ALL: u32 = GROWS_CT | GROWS_SERVICE_FLOWS | GROWS_SNAT;
const CT_OLD: &str = "CT_OLD";
const SNAT_OLD: &str = "SNAT_OLD";
const SERVICE_FLOWS_OLD: &str = "SERVICE_FLOWS_OLD";

type Row<K, V> = Vec<(K, V)>;

fn ct(node: &mut Node) -> Result<(Row<CtKey, CtEntry>, Row<CtKey, CtEntry>)> {
    Ok((node.tables.all(CT_OLD)?, node.tables.all(names::CT)?))
}

fn snat(node: &mut Node) -> Result<(Row<SnatKey, SnatValue>, Row<SnatKey, SnatValue>)> {
    Ok((node.tables.all(SNAT_OLD)?, node.tables.all(names::SNAT)?))
}

fn from_client(flags: u8) -> Body {
    Body::Tcp(4000, 80, flags, vec![1])
}

fn from_server(flags: u8) -> Body {
    Body::Tcp(80, 4000, flags, vec![2])
}

/// A node whose tables grow, with an established flow in the older one. The client only gets answers.
fn with_old_flow(node: &Node) -> Result<Node> {
    let mut node = node.grown(ALL)?;
    node.pod(CLIENT, POD_READY | POD_ISOLATED_INGRESS, 1)?;
    node.tables.writes(WRITES_OLD)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    ensure!(node.client_sends(server, from_client(SYN))?.verdict == REDIRECT);
    ensure!(node.server_sends(client, from_server(SYN | ACK))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, from_client(ACK))?.verdict == REDIRECT);
    let (old, new) = ct(&mut node)?;
    ensure!(old.len() == 1 && new.is_empty(), "{old:?} {new:?}");
    Ok(node)
}

fn goes_on(node: &mut Node) -> Result<()> {
    let mut node = with_old_flow(node)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    for writes in [WRITES_OLD, WRITES_BOTH, WRITES_NEW] {
        node.tables.writes(writes)?;
        for _ in 0..2 {
            ensure!(node.client_sends(server, from_client(ACK))?.verdict == REDIRECT, "{writes}");
            ensure!(node.server_sends(client, from_server(ACK))?.verdict == REDIRECT, "{writes}");
        }
    }
    // Copied, and then moved: as an agent does.
    let (old, _) = ct(&mut node)?;
    node.tables.put_flow(names::CT, old[0])?;
    ensure!(node.server_sends(client, from_server(ACK))?.verdict == REDIRECT, "in both");
    ensure!(node.client_sends(server, from_client(FIN | ACK))?.verdict == REDIRECT);
    let (old, new) = ct(&mut node)?;
    ensure!(new[0].1.flags != old[0].1.flags, "the newer entry counts: {old:?} {new:?}");
    node.tables.remove::<CtKey, CtEntry>(CT_OLD, old[0].0)?;
    ensure!(node.server_sends(client, from_server(ACK))?.verdict == REDIRECT, "moved");
    node.tables.remove::<CtKey, CtEntry>(names::CT, old[0].0)?;
    ensure!(node.server_sends(client, from_server(ACK))?.verdict == DROP, "the answer of no flow");
    Ok(())
}

fn answered(node: &mut Node) -> Result<()> {
    let mut node = with_old_flow(node)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    for (port, writes, want) in [(1, WRITES_OLD, (2, 0)), (2, WRITES_BOTH, (3, 0)), (3, WRITES_NEW, (3, 1))] {
        node.tables.writes(writes)?;
        ensure!(node.client_sends(server, Body::Udp(port, 80, vec![1]))?.verdict == REDIRECT);
        ensure!(node.server_sends(client, Body::Udp(80, port, vec![2]))?.verdict == REDIRECT);
        let (old, new) = ct(&mut node)?;
        ensure!((old.len(), new.len()) == want, "{writes}: {old:?} {new:?}");
        ensure!(node.tables.flows()?.1.is_empty(), "half open");
    }
    Ok(())
}

fn begins_anew(node: &mut Node) -> Result<()> {
    let mut node = with_old_flow(node)?;
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.tables.writes(WRITES_NEW)?;
    ensure!(node.client_sends(server, from_client(RST))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, from_client(SYN))?.verdict == REDIRECT);
    let (old, new) = ct(&mut node)?;
    ensure!(old.is_empty() && new.is_empty() && node.tables.flows()?.1.len() == 1, "{old:?} {new:?}");
    ensure!(node.server_sends(client, from_server(SYN | ACK))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, from_client(ACK))?.verdict == REDIRECT);
    let (old, new) = ct(&mut node)?;
    ensure!(old.is_empty() && new.len() == 1, "{old:?} {new:?}");
    // What was silent for too long is no flow, in the older table either.
    let mut idle = (new[0].0, CtEntry { last_seen: 0, ..new[0].1 });
    idle.0.protocol = 17;
    node.tables.put_flow(CT_OLD, idle)?;
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().context("a time")?.parse()?;
    ensure!(uptime > CT_IDLE_SECONDS as f64, "too young a machine: {uptime} s");
    let refused = node.server_sends(client, Body::Udp(80, 4000, vec![2]))?;
    ensure!(refused.verdict == DROP, "{refused:?}");
    ensure!(ct(&mut node)?.0.is_empty());
    Ok(())
}

fn keeps_endpoint(node: &mut Node) -> Result<()> {
    let mut node = node.grown(ALL)?;
    let (server, service) = (node.family.server()?, node.family.service()?);
    node.service(17, 80, ALGORITHM_ROUND_ROBIN, 0, &[(1, server, 8080), (2, server, 8081)])?;
    let mut ports = Vec::new();
    for writes in [WRITES_OLD, WRITES_BOTH, WRITES_NEW] {
        node.tables.writes(writes)?;
        for _ in 0..3 {
            let sent = node.client_sends(service, Body::Udp(4000, 80, vec![1]))?;
            ports.push(read(&sent.bytes)?.dst_port);
        }
    }
    ensure!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
    let old = node.tables.all::<ServiceFlowKey, ServiceFlowValue>(SERVICE_FLOWS_OLD)?;
    let new = node.tables.all::<ServiceFlowKey, ServiceFlowValue>(names::SERVICE_FLOWS)?;
    ensure!(old.len() == 1 && new.is_empty(), "{old:?} {new:?}");
    node.client_sends(service, Body::Udp(4001, 80, vec![1]))?;
    let new = node.tables.all::<ServiceFlowKey, ServiceFlowValue>(names::SERVICE_FLOWS)?;
    ensure!(new.len() == 1 && new[0].0.client_port == 4001, "{new:?}");
    Ok(())
}

fn port_taken_once(node: &mut Node) -> Result<()> {
    let mut node = node.grown(ALL)?;
    node.tables.config(NodeConfig { nat_port_count: 1, ..config() })?;
    let send = |node: &mut Node, from, to| anyhow::Ok(leave(node, Body::Udp(from, to, vec![]))?.0 == PASS);
    // (phase, remote port, entries in the older and the newer table afterwards)
    for (writes, to, want) in [(WRITES_OLD, 80, (1, 0)), (WRITES_BOTH, 81, (2, 1)), (WRITES_NEW, 82, (2, 2))]
    {
        node.tables.writes(writes)?;
        ensure!(send(&mut node, 1, to)?, "the first flow gets the port in phase {writes}");
        let (old, new) = snat(&mut node)?;
        ensure!((old.len(), new.len()) == want, "{writes}: {old:?} {new:?}");
    }
    let mut refused = 0;
    for writes in [WRITES_OLD, WRITES_BOTH, WRITES_NEW] {
        node.tables.writes(writes)?;
        for to in [80, 81, 82] {
            ensure!(!send(&mut node, 2, to)?, "phase {writes}: the port to {to} was given twice");
            ensure!(send(&mut node, 1, to)?, "phase {writes}: whose port it is keeps it");
            refused += 1;
        }
    }
    let counted = node.tables.counter(CLIENT, Hook::ToUplink, Reason::SnatExhausted)?.packets;
    ensure!(counted == refused, "{counted} of {refused}");
    let (old, new) = snat(&mut node)?;
    ensure!((old.len(), new.len()) == (2, 2), "what was refused leaves nothing: {old:?} {new:?}");
    Ok(())
}

fn comes_back(node: &mut Node) -> Result<()> {
    let mut node = node.grown(ALL)?;
    let (own, world, client) = (node.family.node()?, node.family.world()?, node.family.client()?);
    node.tables.writes(WRITES_OLD)?;
    let (_, bytes) = leave(&mut node, Body::Tcp(4000, 80, SYN, vec![]))?;
    let port = read(&bytes)?.src_port;
    for (writes, flags) in [(WRITES_OLD, SYN | ACK), (WRITES_BOTH, ACK), (WRITES_NEW, ACK)] {
        node.tables.writes(writes)?;
        let back = Frame::new(OTHER_MAC, UPLINK_MAC, world, own, Body::Tcp(80, port, flags, vec![2]));
        let back = node.run(Hook::FromUplink, UPLINK, &back.bytes())?;
        let seen = read(&back.bytes)?;
        ensure!(
            back.verdict == REDIRECT && (seen.dst, seen.dst_port) == (client, 4000),
            "{writes}: {back:?}"
        );
        let (_, bytes) = leave(&mut node, Body::Tcp(4000, 80, ACK, vec![]))?;
        ensure!(read(&bytes)?.src_port == port, "phase {writes}: the flow keeps its port");
    }
    let (old, new) = snat(&mut node)?;
    ensure!((old.len(), new.len()) == (1, 0), "{old:?} {new:?}");
    Ok(())
}
