//! Pods in audit: what their policy denies passes, and is told.

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    DIRECTION_INGRESS, Event, EventKind, FLOW_STAGE_EGRESS, FLOW_STAGE_INGRESS, HOST_MAC, Hook, POD_AUDITED,
    POD_ISOLATED_EGRESS, POD_ISOLATED_INGRESS, POD_READY, Reason, RuleKey,
};

use super::Case;
use super::frame::{ACK, Body, Frame, SYN};
use super::node::{CLIENT, CLIENT_MAC, DROP, Node, REDIRECT, SERVER, addr};

pub(super) const CASES: &[(&str, Case)] = &[
    ("what_policy_denies_passes_in_audit_and_is_told", told),
    ("a_denying_rule_is_named_in_audit", named),
    ("the_end_of_audit_cuts_what_passed_by_it", ended),
    ("audit_of_one_pod_opens_no_other", apart),
    ("audit_opens_nothing_but_policy", only_policy),
];

const SYNS: Body = Body::Tcp(4000, 80, SYN, Vec::new());
const IN_AUDIT: u32 = POD_READY | POD_AUDITED | POD_ISOLATED_INGRESS;

fn audited(node: &mut Node) -> Result<Vec<Event>> {
    let events = node.tables.events()?.into_iter();
    Ok(events.filter(|event| event.reason == Reason::PolicyAudited as u16).collect())
}

fn told(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.pod(SERVER, IN_AUDIT, 9)?;
    node.tables.class(addr(client), 5)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    let events = audited(node)?;
    let [event] = events.as_slice() else { anyhow::bail!("{events:?}") };
    ensure!(event.kind == EventKind::Flow as u8 && event.stage == FLOW_STAGE_INGRESS, "{event:?}");
    ensure!((event.set, event.class, event.origin, event.ifindex) == (9, 5, 0, SERVER), "{event:?}");
    ensure!((event.src, event.dst_port) == (addr(client), 80), "{event:?}");
    ensure!(node.tables.counter(SERVER, Hook::FromPod, Reason::PolicyAudited)?.packets == 1);
    ensure!(node.tables.counter(SERVER, Hook::FromPod, Reason::PolicyDenied)?.packets == 0);
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::Forwarded)?.packets == 1);
    // The flow is known now: no packet of it is told again.
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    ensure!(node.client_sends(server, Body::Tcp(4000, 80, ACK, vec![1]))?.verdict == REDIRECT);
    ensure!(audited(node)?.is_empty());
    // What a rule allows is no matter of audit.
    node.tables.rule(RuleKey::FULL, rule(9, 5, 443), 41)?;
    ensure!(node.client_sends(server, Body::Tcp(4001, 443, SYN, vec![]))?.verdict == REDIRECT);
    let events = node.tables.events()?;
    ensure!(events.iter().all(|event| event.reason == Reason::Forwarded as u16), "{events:?}");
    ensure!(events.iter().any(|event| event.origin == 41), "{events:?}");
    Ok(())
}

fn rule(set: u32, class: u32, port: u16) -> RuleKey {
    RuleKey { set, class, direction: DIRECTION_INGRESS, protocol: 6, port: port.to_be_bytes() }
}

fn named(node: &mut Node) -> Result<()> {
    let server = node.family.server()?;
    node.pod(SERVER, IN_AUDIT, 9)?;
    node.tables.denial(RuleKey::FULL, rule(9, 0, 80), 51)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    let events = audited(node)?;
    ensure!(events.len() == 1 && events[0].origin == 51, "{events:?}");
    Ok(())
}

fn ended(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.pod(SERVER, IN_AUDIT, 9)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    audited(node)?;
    let data = || Body::Tcp(4000, 80, ACK, vec![1, 2]);
    // Judged anew while the audit lasts, it is told anew.
    node.tables.epoch(2)?;
    ensure!(node.client_sends(server, data())?.verdict == REDIRECT);
    ensure!(audited(node)?.len() == 1);
    node.pod(SERVER, IN_AUDIT & !POD_AUDITED, 9)?;
    node.tables.epoch(3)?;
    ensure!(node.client_sends(server, data())?.verdict == DROP);
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, ACK, vec![]))?.verdict == DROP, "its answers");
    node.pod(SERVER, IN_AUDIT, 9)?;
    ensure!(node.client_sends(server, data())?.verdict == REDIRECT, "in audit again");
    Ok(())
}

fn apart(node: &mut Node) -> Result<()> {
    let (client, server) = (node.family.client()?, node.family.server()?);
    node.pod(CLIENT, POD_READY | POD_AUDITED | POD_ISOLATED_EGRESS, 3)?;
    node.pod(SERVER, POD_READY | POD_ISOLATED_INGRESS, 9)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == DROP);
    let events = node.tables.events()?;
    let [event] = events.as_slice() else { anyhow::bail!("{events:?}") };
    ensure!(event.reason == Reason::PolicyDenied as u16 && event.ifindex == SERVER, "{event:?}");
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::PolicyAudited)?.packets == 0);
    // Both ends in audit: each tells.
    node.pod(SERVER, IN_AUDIT, 9)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == REDIRECT);
    let stages: Vec<(u8, u32)> = audited(node)?.iter().map(|event| (event.stage, event.ifindex)).collect();
    ensure!(stages == [(FLOW_STAGE_EGRESS, CLIENT), (FLOW_STAGE_INGRESS, SERVER)], "{stages:?}");
    ensure!(node.server_sends(client, Body::Tcp(80, 4000, SYN | ACK, vec![]))?.verdict == REDIRECT);
    Ok(())
}

fn only_policy(node: &mut Node) -> Result<()> {
    let (remote, server) = (node.family.remote()?, node.family.server()?);
    node.pod(SERVER, IN_AUDIT & !POD_READY, 9)?;
    ensure!(node.client_sends(server, SYNS)?.verdict == DROP, "its policy is not in place");
    node.pod(SERVER, IN_AUDIT, 9)?;
    node.pod(CLIENT, IN_AUDIT | POD_ISOLATED_EGRESS, 3)?;
    let spoofed = Frame::new(CLIENT_MAC, HOST_MAC, remote, server, SYNS);
    ensure!(node.run(Hook::FromPod, CLIENT, &spoofed.bytes())?.verdict == DROP);
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::SourceSpoofed)?.packets == 1);
    let nobody = node.family.of("10.1.1.99", "fd00:1::99")?;
    node.client_sends(nobody, SYNS)?;
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::NoSuchPod)?.packets == 1);
    Ok(())
}
