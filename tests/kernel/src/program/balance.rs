//! Algorithms: how new flows spread, and what counts as a live one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use sheetbend_ebpf_abi::{
    ALGORITHM_LEAST_CONNECTIONS, ALGORITHM_MAGLEV, ALGORITHM_RANDOM, ALGORITHM_ROUND_ROBIN, SLOT_WEIGHT_SHIFT,
};
use sheetbend_model::plan::{Backend, Reach, ServiceEntry};
use sheetbend_model::state::Algorithm;
use sheetbend_model::types::{NetworkId, ObjectKey, Port, Protocol};

use super::Case;
use super::frame::{ACK, Body, FIN, RST, SYN, read};
use super::node::{Node, REDIRECT};

pub(super) const CASES: &[(&str, Case)] = &[
    ("every_algorithm_is_even", even),
    ("weights_are_shares_of_new_flows", weights),
    ("maglev_chooses_alike_on_every_node", maglev),
    ("least_connections_takes_the_backend_with_the_fewest", least),
    ("least_connections_counts_flows_that_end", ends),
    ("of_many_backends_the_better_of_two_is_taken", many),
];

/// Where [`Node::service`] puts the slots.
const FIRST_SLOT: u32 = 100;
const FIRST_PORT: u16 = 8000;

/// A Service of TCP port 80 with backends at ports from 8000 on, as compile says and apply writes it; backend `i` gets
/// number `number(i)`.
fn serve(
    node: &mut Node,
    algorithm: Algorithm,
    ports: &[u16],
    weights: &[u8],
    number: impl Fn(u16) -> u32,
) -> Result<()> {
    let server = node.family.server()?;
    let backend = |port: &u16| -> Result<Backend> {
        let (network, protocol) = (NetworkId::default(), Protocol::Tcp);
        Ok(Backend { network, addr: server, protocol, port: Port::new(*port)?, pod_uid: "".into() })
    };
    let entry = ServiceEntry {
        service: ObjectKey::new("a", "web"),
        port_name: "".into(),
        reach: Reach::Inside,
        only_remote: false,
        sources: None,
        algorithm,
        affinity_timeout: None,
        backends: ports.iter().map(backend).collect::<Result<_>>()?,
        weights: weights.into(),
        draining: [].into(),
    };
    let kernel = match algorithm {
        Algorithm::Random => ALGORITHM_RANDOM,
        Algorithm::RoundRobin => ALGORITHM_ROUND_ROBIN,
        Algorithm::LeastConnections => ALGORITHM_LEAST_CONNECTIONS,
        Algorithm::Maglev => ALGORITHM_MAGLEV,
    };
    let slots = entry.slots();
    let of = |index: u32| number(ports[index as usize] - FIRST_PORT);
    let backends: Vec<_> =
        slots.iter().map(|slot| (of(slot.backend), server, ports[slot.backend as usize])).collect();
    node.service(6, 80, kernel, 0, &backends)?;
    let rows = slots.iter().map(|slot| u32::from(slot.weight - 1) << SLOT_WEIGHT_SHIFT | of(slot.backend));
    node.tables.slots(FIRST_SLOT, rows)
}

/// Client port → port of the backend that its new flow goes to.
fn open(node: &mut Node, clients: std::ops::Range<u16>) -> Result<BTreeMap<u16, u16>> {
    let service = node.family.service()?;
    let mut chosen = BTreeMap::new();
    for client in clients {
        let sent = node.client_sends(service, Body::Tcp(client, 80, SYN, vec![]))?;
        ensure!(sent.verdict == REDIRECT, "{sent:?}");
        chosen.insert(client, read(&sent.bytes)?.dst_port);
    }
    Ok(chosen)
}

fn per_backend(chosen: &BTreeMap<u16, u16>) -> BTreeMap<u16, u64> {
    chosen.values().fold(BTreeMap::new(), |mut counts, port| {
        *counts.entry(*port).or_default() += 1;
        counts
    })
}

/// How far `counts` are from shares by weight, in standard deviations of chance.
fn far(counts: &BTreeMap<u16, u64>, ports: &[u16], weights: &[u8], slack: f64) -> f64 {
    let weight = |index: usize| weights.get(index).copied().map_or(1.0, f64::from);
    let all: f64 = (0..ports.len()).map(weight).sum();
    let total: u64 = counts.values().sum();
    let one = |(index, port): (usize, &u16)| {
        let share = weight(index) / all;
        let wanted = total as f64 * share;
        let off = (counts.get(port).copied().unwrap_or(0) as f64 - wanted).abs() - slack * wanted;
        off / (wanted * (1.0 - share)).sqrt()
    };
    ports.iter().enumerate().map(one).fold(0.0, f64::max)
}

fn even(node: &mut Node) -> Result<()> {
    let ports: Vec<u16> = (0..8).map(|index| FIRST_PORT + index).collect();
    let cpus = std::thread::available_parallelism()?.get() as u64;
    for algorithm in Algorithm::ALL {
        serve(node, algorithm, &ports, &[], |index| u32::from(index) + 1)?;
        node.tables.clear_flows()?;
        let counts = per_backend(&open(node, 2000..4000)?);
        let (most, least) =
            (counts.values().max().context("flows")?, counts.values().min().context("flows")?);
        let deviations = far(&counts, &ports, &[], 0.0);
        println!("{algorithm}: 2000 flows, 8 backends: {least} to {most}, {deviations:.1} deviations");
        let bound = match algorithm {
            Algorithm::RoundRobin => most - least <= cpus,
            Algorithm::LeastConnections => most - least <= 1,
            Algorithm::Random => deviations <= 5.0,
            Algorithm::Maglev => far(&counts, &ports, &[], 0.02) <= 5.0,
        };
        ensure!(counts.len() == 8 && bound, "{algorithm}: {counts:?}");
        // Counts of flows that the test forgot would stay.
        node.tables.clear_connections()?;
    }
    Ok(())
}

fn weights(node: &mut Node) -> Result<()> {
    let ports: Vec<u16> = (0..4).map(|index| FIRST_PORT + index).collect();
    let weights = [1, 2, 3, 10];
    for algorithm in Algorithm::ALL {
        serve(node, algorithm, &ports, &weights, |index| u32::from(index) + 1)?;
        node.tables.clear_flows()?;
        node.tables.clear_connections()?;
        let counts = per_backend(&open(node, 2000..3600)?);
        println!("{algorithm}: 1600 flows, weights {weights:?}: {counts:?}");
        let is_right = match algorithm {
            Algorithm::Random => far(&counts, &ports, &weights, 0.0) <= 5.0,
            Algorithm::Maglev => far(&counts, &ports, &weights, 0.02) <= 5.0,
            // All are live: their numbers are as the weights.
            Algorithm::RoundRobin | Algorithm::LeastConnections => {
                let wanted = weights.map(|weight| 100 * u64::from(weight));
                ports.iter().zip(wanted).all(|(port, wanted)| counts[port].abs_diff(wanted) <= wanted / 50)
            }
        };
        ensure!(is_right, "{algorithm}: {counts:?}");
    }
    Ok(())
}

fn maglev(node: &mut Node) -> Result<()> {
    let ports: Vec<u16> = (0..8).map(|index| FIRST_PORT + index).collect();
    let flows = 2000..4000;
    serve(node, Algorithm::Maglev, &ports, &[], |index| u32::from(index) + 1)?;
    let here = open(node, flows.clone())?;
    // Another node gave other numbers, and knows none of these flows.
    node.tables.clear_flows()?;
    serve(node, Algorithm::Maglev, &ports, &[], |index| 40 - u32::from(index))?;
    ensure!(open(node, flows.clone())? == here, "another node chooses otherwise");
    // In the middle of a connection too.
    node.tables.clear_flows()?;
    let service = node.family.service()?;
    let later = node.client_sends(service, Body::Tcp(2000, 80, ACK, vec![1]))?;
    ensure!(later.verdict == REDIRECT && read(&later.bytes)?.dst_port == here[&2000], "{later:?}");
    // A backend goes: its flows go elsewhere, few others do.
    node.tables.clear_flows()?;
    serve(node, Algorithm::Maglev, &ports[1..], &[], |index| u32::from(index) + 1)?;
    let without = open(node, flows)?;
    let others = here.iter().filter(|(_, port)| **port != ports[0]);
    let (moved, all) = others.fold((0, 0), |(moved, all), (client, port)| {
        (moved + usize::from(without[client] != *port), all + 1)
    });
    println!("one of 8 backends goes: {moved} of {all} flows of the others move");
    ensure!(moved * 20 <= all, "{moved} of {all} flows of other backends moved");
    Ok(())
}

fn least(node: &mut Node) -> Result<()> {
    let ports: Vec<u16> = (0..32).map(|index| FIRST_PORT + index).collect();
    serve(node, Algorithm::LeastConnections, &ports, &[], |index| u32::from(index) + 1)?;
    let chosen = open(node, 2000..2160)?;
    let counts = per_backend(&chosen);
    ensure!(counts.len() == 32 && counts.values().all(|count| *count == 5), "{counts:?}");
    for number in 1..=32 {
        ensure!(node.tables.connections(number)? == 5, "backend {number}");
    }
    // Three of one backend end: it gets the next three.
    let (service, port) = (node.family.service()?, FIRST_PORT + 17);
    let ending = chosen.iter().filter(|(_, chosen)| **chosen == port).take(3);
    for (client, _) in ending {
        node.client_sends(service, Body::Tcp(*client, 80, RST | ACK, vec![]))?;
    }
    ensure!(node.tables.connections(18)? == 2);
    let next = per_backend(&open(node, 3000..3003)?);
    ensure!(next == BTreeMap::from([(port, 3)]), "{next:?}");
    Ok(())
}

fn ends(node: &mut Node) -> Result<()> {
    serve(node, Algorithm::LeastConnections, &[FIRST_PORT], &[], |_| 1)?;
    let (client, service) = (node.family.client()?, node.family.service()?);
    let count = |node: &mut Node| node.tables.connections(1);
    let says = |node: &mut Node, flags| {
        node.client_sends(service, Body::Tcp(4000, 80, flags, vec![])).map(|sent| sent.verdict)
    };
    let answers = |node: &mut Node, flags| {
        node.server_sends(client, Body::Tcp(FIRST_PORT, 4000, flags, vec![])).map(|sent| sent.verdict)
    };
    for round in 0..3 {
        // A repeated SYN, and packets under way, are no other flow.
        for _ in 0..2 {
            says(node, SYN)?;
            ensure!(count(node)? == 1, "round {round}");
        }
        answers(node, SYN | ACK)?;
        says(node, ACK)?;
        ensure!(count(node)? == 1, "round {round}");
        if round == 1 {
            answers(node, RST)?;
        } else {
            says(node, FIN | ACK)?;
            ensure!(count(node)? == 1, "half closed is live");
            answers(node, FIN | ACK)?;
        }
        ensure!(count(node)? == 0, "round {round}");
        // What comes late changes nothing.
        says(node, ACK)?;
        says(node, RST)?;
        answers(node, RST)?;
        ensure!(count(node)? == 0, "round {round}");
    }
    // A flow that policy refuses was none.
    node.pod(
        super::node::CLIENT,
        sheetbend_ebpf_abi::POD_READY | sheetbend_ebpf_abi::POD_ISOLATED_EGRESS,
        3,
    )?;
    node.client_sends(service, Body::Tcp(4001, 80, SYN, vec![]))?;
    ensure!(count(node)? == 0, "a denied flow is counted");
    Ok(())
}

fn many(node: &mut Node) -> Result<()> {
    let ports: Vec<u16> = (0..64).map(|index| FIRST_PORT + index).collect();
    serve(node, Algorithm::LeastConnections, &ports, &[], |index| u32::from(index) + 1)?;
    let counts = per_backend(&open(node, 2000..3280)?);
    let (most, least) = (counts.values().max().context("flows")?, counts.values().min().context("flows")?);
    println!("the better of two: 1280 flows, 64 backends: {least} to {most}");
    // By chance alone some backend would have 20 + 2.5 × √20 = 31 or more.
    ensure!(counts.len() == 64 && *most <= 26 && *least >= 12, "{counts:?}");
    Ok(())
}
