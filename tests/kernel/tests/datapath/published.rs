//! Services for clients elsewhere, with real sockets: node ports and host ports, from the world and from pods.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{ANSWER, Both, Lab, Place};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("the_world_reaches_node_ports_of_every_node", the_world_reaches_node_ports_of_every_node),
    ("datagrams_reach_node_ports_of_every_node", datagrams_reach_node_ports_of_every_node),
    ("pods_reach_node_ports_of_every_node", pods_reach_node_ports_of_every_node),
    ("policy_local_keeps_the_clients_address", policy_local_keeps_the_clients_address),
    ("node_ports_without_endpoints_are_refused", node_ports_without_endpoints_are_refused),
    ("host_ports_lead_to_their_pod", host_ports_lead_to_their_pod),
];

/// What this file tests, in `vxlan` only.
pub(crate) const TUNNEL_TESTS: &[crate::Test] =
    &[("the_world_learns_the_mtu_towards_another_nodes_backend", the_world_learns_the_mtu)];

pub(crate) const CONNECT: Duration = Duration::from_secs(3);
/// Node port with endpoints on both nodes.
const EVERYWHERE: u16 = 30_080;
/// externalTrafficPolicy Local, with an endpoint on node-1 only.
const LOCAL: u16 = 30_081;
/// Node port without endpoints.
const NOBODY: u16 = 30_082;
/// Host port of `far`, which is on node-2.
const HOST: u16 = 30_090;

fn nodes() -> Result<[(u8, Both); 2]> {
    Ok([
        (1, ["172.30.0.11".parse()?, "fd00:30::11".parse()?]),
        (2, ["172.30.0.12".parse()?, "fd00:30::12".parse()?]),
    ])
}

/// Who answered, which address it saw, and which address we had.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) pod: String,
    pub(crate) client: IpAddr,
    pub(crate) own: IpAddr,
}

fn read_answer(text: &[u8], own: IpAddr) -> Result<Answer> {
    let answer: Value = serde_json::from_slice(text).context("an answer of the lab's server")?;
    let pod = answer["pod"].as_str().context("a pod")?.to_owned();
    let client: IpAddr = answer["client"].as_str().context("a client")?.parse()?;
    Ok(Answer { pod, client: client.to_canonical(), own: own.to_canonical() })
}

pub(crate) fn ask_tcp(from: &Place, to: SocketAddr) -> Result<Answer> {
    let mut stream = from.connect(to, CONNECT).with_context(|| format!("TCP to {to}"))?;
    let own = stream.local_addr()?.ip();
    stream.write_all(b"who\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).with_context(|| format!("TCP from {to}"))?;
    read_answer(line.as_bytes(), own)
}

pub(crate) fn ask_udp(from: &Place, to: SocketAddr) -> Result<Answer> {
    ask_udp_with(from, to, b"who")
}

fn ask_udp_with(from: &Place, to: SocketAddr, question: &[u8]) -> Result<Answer> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = from.udp(any, to)?;
    socket.send(question)?;
    let mut buffer = [0; 2048];
    let size = socket.recv(&mut buffer).with_context(|| format!("UDP from {to}"))?;
    read_answer(&buffer[..size], socket.local_addr()?.ip())
}

pub(crate) type Ask = fn(&Place, SocketAddr) -> Result<Answer>;

/// Both endpoints answer at both nodes; the one on the node that was asked sees the client, the other that node.
fn world_asks(lab: &Lab, ask: Ask) -> Result<()> {
    let world = lab.place("world")?;
    for (number, addresses) in nodes()? {
        for node in addresses {
            let mut answering = BTreeSet::new();
            for _ in 0..16 {
                let answer = ask(&world, SocketAddr::new(node, EVERYWHERE))?;
                let is_here = answer.pod == if number == 1 { "test/near" } else { "test/far" };
                let expected = if is_here { answer.own } else { node };
                ensure!(answer.client == expected, "by {node}: {answer:?}, not {expected}");
                answering.insert(answer.pod);
            }
            ensure!(answering.len() == 2, "by {node}: only {answering:?} of 2 endpoints in 16 flows");
        }
    }
    Ok(())
}

fn the_world_reaches_node_ports_of_every_node(lab: &Lab) -> Result<()> {
    world_asks(lab, ask_tcp)
}

fn datagrams_reach_node_ports_of_every_node(lab: &Lab) -> Result<()> {
    world_asks(lab, ask_udp)
}

/// A pod is seen under its own address, whichever node it asks.
fn pods_reach_node_ports_of_every_node(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    for (_, addresses) in nodes()? {
        for node in addresses {
            for ask in [ask_tcp as Ask, ask_udp] {
                let answer = ask(&client, SocketAddr::new(node, EVERYWHERE))?;
                ensure!(answer.client == answer.own, "by {node}: {answer:?}");
            }
        }
    }
    Ok(())
}

/// The node with the endpoint serves everybody under their own address; the other drops what comes from elsewhere.
fn policy_local_keeps_the_clients_address(lab: &Lab) -> Result<()> {
    let [(_, with), (_, without)] = nodes()?;
    // `far` is on the node without an endpoint, `client` on the one that is asked.
    for client in ["world", "far", "client"] {
        let from = if client == "world" { lab.place("world")? } else { lab.pod(client)? };
        for node in with {
            for ask in [ask_tcp as Ask, ask_udp] {
                let answer = ask(&from, SocketAddr::new(node, LOCAL)).with_context(|| client.to_owned())?;
                ensure!(answer.pod == "test/near" && answer.client == answer.own, "{client}: {answer:?}");
            }
        }
    }
    let world = lab.place("world")?;
    for node in without {
        let to = SocketAddr::new(node, LOCAL);
        let own = ask_tcp(&world, SocketAddr::new(node, EVERYWHERE))?.own;
        let reason = lab.drop_reason(own, node, || {
            if world.connect(to, Duration::from_millis(200)).is_ok() {
                bail!("{to} has no endpoint of its own, and answered");
            }
            Ok(())
        })?;
        ensure!(reason == "no_local_endpoints", "{to}: the reason is {reason}");
    }
    Ok(())
}

fn node_ports_without_endpoints_are_refused(lab: &Lab) -> Result<()> {
    for from in [lab.place("world")?, lab.pod("client")?] {
        for (_, addresses) in nodes()? {
            for node in addresses {
                let to = SocketAddr::new(node, NOBODY);
                let Err(error) = from.connect(to, CONNECT) else { bail!("{to} has an endpoint") };
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                ensure!(kind == Some(ErrorKind::ConnectionRefused), "{to}: {error:#}");
            }
        }
    }
    Ok(())
}

/// Datagrams that fit the client's own link, but not the tunnel: those that a backend of the other node would get are
/// answered with what fits (RFC 1191, RFC 8201), and that arrives at both.
fn the_world_learns_the_mtu(lab: &Lab) -> Result<()> {
    let world = lab.place("world")?;
    let learn = || -> Result<()> {
        for node in nodes()?.into_iter().flat_map(|(_, addresses)| addresses) {
            let to = SocketAddr::new(node, EVERYWHERE);
            let headers = if node.is_ipv4() { 28 } else { 48 };
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let end = Instant::now() + ANSWER;
            let mtu = loop {
                let route = world.ip(&format!("route get {node}"))?;
                if let Some((_, rest)) = route.split_once("mtu ") {
                    break rest.split_whitespace().next().context("a number")?.parse::<usize>()?;
                }
                ensure!(Instant::now() < end, "nothing is learnt: {route}");
                world.udp(any, to)?.send(&vec![b'x'; 1500 - headers])?;
                std::thread::sleep(Duration::from_millis(20));
            };
            ensure!((1280..1500).contains(&mtu), "{mtu}");
            let mut answering = BTreeSet::new();
            for _ in 0..16 {
                answering.insert(ask_udp_with(&world, to, &vec![b'x'; mtu - headers])?.pod);
            }
            ensure!(answering.len() == 2, "by {node}: only {answering:?} of 2 endpoints in 16 flows");
        }
        Ok(())
    };
    let outcome = learn();
    world.ip("route flush cache")?;
    world.ip("-6 route flush cache")?;
    outcome
}

/// From outside, from another node's pod, and from the pod itself; the other node has no such port.
fn host_ports_lead_to_their_pod(lab: &Lab) -> Result<()> {
    let [(_, other), (_, own)] = nodes()?;
    for (client, from) in
        [("world", lab.place("world")?), ("client", lab.pod("client")?), ("far", lab.pod("far")?)]
    {
        for node in own {
            let answer = ask_tcp(&from, SocketAddr::new(node, HOST)).with_context(|| client.to_owned())?;
            ensure!(answer.pod == "test/far", "{client}: {answer:?}");
            ensure!(client == "far" || answer.client == answer.own, "{client}: {answer:?}");
        }
    }
    for node in other {
        let to = SocketAddr::new(node, HOST);
        ensure!(lab.place("world")?.connect(to, CONNECT).is_err(), "{to} is no host port");
    }
    Ok(())
}
