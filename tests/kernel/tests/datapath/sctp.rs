//! SCTP Services between two nodes and from the world, by packets of raw sockets: no SCTP socket is needed. Every CRC32c is
//! checked where a packet arrives.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sheetbend_kernel_tests::program::frame::Body;
use sheetbend_kernel_tests::raw::Raw;

use crate::lab::{Both, Lab, Place};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("sctp_reaches_a_service_of_both_nodes", reaches_service),
    ("sctp_from_the_world_reaches_node_ports_under_its_own_port", reaches_node_ports),
    ("sctp_is_masqueraded_under_its_own_port", is_masqueraded),
    ("an_sctp_port_that_is_not_served_is_refused_and_named", is_refused_and_named),
];

/// Chunk types, RFC 9260 §3.2.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;

/// Its node port is another number, [`UNTRANSLATED`].
const PORT: u16 = 3868;
const UNTRANSLATED: u16 = 30_868;
/// Service port, target port and node port.
const ONE_NUMBER: u16 = 30_412;
const SERVICE: [&str; 2] = ["10.96.0.70", "fd00:10:96::70"];
const NODES: [[&str; 2]; 2] = [["172.30.0.11", "fd00:30::11"], ["172.30.0.12", "fd00:30::12"]];
/// Of the world: towards nodes, and behind a route.
const WORLD: [&str; 2] = ["172.30.0.1", "fd00:30::1"];
const FAR_WORLD: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

const PATIENCE: Duration = Duration::from_secs(3);

fn both(of: [&str; 2]) -> Result<Both> {
    Ok([of[0].parse()?, of[1].parse()?])
}

fn answer_to(kind: u8) -> u8 {
    if kind == INIT { INIT_ACK } else { SACK }
}

/// Servers that answer each packet with their name and the source that they saw.
struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    fn new() -> Self {
        Self { stop: Arc::default(), threads: Vec::new() }
    }

    /// Answers at `addresses`, which `place` has.
    fn add(&mut self, name: &str, place: &Place, addresses: Both) -> Result<()> {
        for own in addresses {
            let raw = place.run(|| Raw::new(own, Duration::from_millis(50)))?;
            let (name, stop) = (name.to_owned(), Arc::clone(&self.stop));
            self.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A client waits in vain for what is wrong here.
                    let Ok(seen) = raw.receive() else { continue };
                    let text = format!("{name} {} {} {}", seen.src, seen.src_port, seen.dst_port);
                    let answer = Body::Sctp(
                        seen.dst_port,
                        seen.src_port,
                        answer_to(seen.transport[12]),
                        text.into_bytes(),
                    );
                    let _ = raw.send(seen.src, answer);
                }
            }));
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Who answered, and which source and port it saw.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    server: String,
    client: IpAddr,
    client_port: u16,
    port: u16,
}

/// Sends one chunk, and reads the answer, which must come from where it went.
fn ask(raw: &Raw, from: u16, (to, port): (IpAddr, u16), kind: u8) -> Result<Answer> {
    raw.send(to, Body::Sctp(from, port, kind, b"who".to_vec()))?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let seen = raw.receive().with_context(|| format!("from {from} to {to} port {port}"))?;
        if seen.dst_port != from || seen.transport[12] != answer_to(kind) {
            continue; // A late answer to something else.
        }
        ensure!((seen.src, seen.src_port) == (to, port), "{to} port {port} was asked: {seen:?}");
        let length = usize::from(u16::from_be_bytes([seen.transport[14], seen.transport[15]]));
        let text = String::from_utf8(seen.transport[16..12 + length].to_vec())?;
        let mut words = text.split(' ');
        let mut next = || words.next().context("a word");
        let (server, client) = (next()?.to_owned(), next()?.parse()?);
        return Ok(Answer { server, client, client_port: next()?.parse()?, port: next()?.parse()? });
    }
    bail!("no answer to {from} from {to} port {port}")
}

fn pods(lab: &Lab) -> Result<Servers> {
    let mut servers = Servers::new();
    for name in ["near", "far"] {
        let pod = lab.pod(name)?;
        servers.add(name, &pod, pod.addresses()?)?;
    }
    Ok(servers)
}

fn reaches_service(lab: &Lab) -> Result<()> {
    let _servers = pods(lab)?;
    let client = lab.pod("client")?;
    for (own, service) in client.addresses()?.into_iter().zip(both(SERVICE)?) {
        let raw = client.run(|| Raw::new(own, PATIENCE))?;
        for port in [PORT, ONE_NUMBER] {
            let mut answering = BTreeSet::new();
            for from in 6000..6024 {
                let first = ask(&raw, from, (service, port), INIT)?;
                ensure!((first.client, first.client_port, first.port) == (own, from, port), "{first:?}");
                for _ in 0..3 {
                    let next = ask(&raw, from, (service, port), DATA)?;
                    ensure!(next == first, "one association, two answers: {first:?} {next:?}");
                }
                answering.insert(first.server);
            }
            ensure!(answering.len() == 2, "only {answering:?} of 2 endpoints in 24 associations");
        }
    }
    Ok(())
}

/// The endpoint on the node that was asked sees the client, the other one that node; both see the client's port.
fn reaches_node_ports(lab: &Lab) -> Result<()> {
    let _servers = pods(lab)?;
    let world = lab.place("world")?;
    let mut ports = 6100..;
    for (here, addresses) in ["near", "far"].into_iter().zip(NODES) {
        for (own, node) in both(WORLD)?.into_iter().zip(both(addresses)?) {
            let raw = world.run(|| Raw::new(own, PATIENCE))?;
            let mut answering = BTreeSet::new();
            for from in ports.by_ref().take(24) {
                let first = ask(&raw, from, (node, ONE_NUMBER), INIT)?;
                let client = if first.server == here { own } else { node };
                ensure!(
                    (first.client, first.client_port, first.port) == (client, from, ONE_NUMBER),
                    "{first:?}"
                );
                let next = ask(&raw, from, (node, ONE_NUMBER), DATA)?;
                ensure!(next == first, "one association, two answers: {first:?} {next:?}");
                answering.insert(first.server);
            }
            ensure!(answering.len() == 2, "only {answering:?} of 2 endpoints in 24 associations");
        }
    }
    Ok(())
}

fn is_masqueraded(lab: &Lab) -> Result<()> {
    let mut servers = Servers::new();
    servers.add("world", &lab.place("world")?, both(FAR_WORLD)?)?;
    let client = lab.pod("client")?;
    for ((own, to), node) in client.addresses()?.into_iter().zip(both(FAR_WORLD)?).zip(both(NODES[0])?) {
        let raw = client.run(|| Raw::new(own, PATIENCE))?;
        for kind in [INIT, DATA, DATA] {
            let answer = ask(&raw, 6900, (to, PORT), kind)?;
            ensure!((answer.client, answer.client_port) == (node, 6900), "{answer:?}");
        }
    }
    Ok(())
}

fn is_refused(from: &Place, own: IpAddr, to: IpAddr, port: u16) -> Result<()> {
    let raw = from.run(|| Raw::new(own, PATIENCE))?;
    raw.connect(to)?;
    raw.send(to, Body::Sctp(6800, port, INIT, vec![]))?;
    let Err(error) = raw.receive() else { bail!("{to} port {port} answered") };
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{to} port {port}: {error}");
    Ok(())
}

fn is_refused_and_named(lab: &Lab) -> Result<()> {
    let _servers = pods(lab)?;
    let (world, client) = (lab.place("world")?, lab.pod("client")?);
    for addresses in NODES {
        for (own, node) in both(WORLD)?.into_iter().zip(both(addresses)?) {
            is_refused(&world, own, node, UNTRANSLATED)?;
        }
        for (own, node) in client.addresses()?.into_iter().zip(both(addresses)?) {
            is_refused(&client, own, node, UNTRANSLATED)?;
        }
    }
    for (own, service) in client.addresses()?.into_iter().zip(both(SERVICE)?) {
        is_refused(&client, own, service, PORT + 1)?;
    }
    let shown = lab.ask(&["service", "show", "test/sctp"])?;
    let nodes = shown["nodes"].as_array().context("nodes")?;
    ensure!(nodes.len() == 2, "{shown}");
    for node in nodes {
        let conditions = node["conditions"].as_array().context("conditions")?;
        let named: Vec<_> =
            conditions.iter().map(|of| (of["reason"].as_str(), of["message"].as_str())).collect();
        ensure!(
            matches!(named[..], [(Some("SctpPortTranslation"), Some(message))]
            if message.starts_with("node port 30868/SCTP is not served: its endpoints have port 3868, ")),
            "{named:?}"
        );
        for of in node["frontends"].as_array().context("frontends")? {
            let outcome = if of["port"] == UNTRANSLATED { "refused" } else { "balanced" };
            ensure!(of["outcome"] == outcome, "{of}");
            let choice = of["choice"].as_u64().context("a choice")?;
            let endpoints = node["choices"][choice as usize]["endpoints"].as_array().context("endpoints")?;
            let reason = if of["port"] == UNTRANSLATED { "sctp_port" } else { "" };
            ensure!(
                endpoints.iter().all(|of| of["reason"].as_str().unwrap_or_default() == reason),
                "{endpoints:?}"
            );
        }
    }
    Ok(())
}
