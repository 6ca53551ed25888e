//! New connections to ClusterIPs by the number of Services, beside kube-proxy's nftables rules.

use std::time::Duration;

use anyhow::Context;

use crate::cli::{Bench, say};
use crate::contest::Effort;
use crate::kernel::flows::Xorshift;
use crate::report::{Row, Target};
use crate::stats::{Interval, median};
use crate::topology::kube_proxy::{self, Peer, cluster_ip};
use crate::topology::ours::{self, Cluster};
use crate::traffic::ConnectClient;

const SECTION: &str = "New connections to a ClusterIP by number of Services";
/// Random destinations are drawn from so many Services at most; each is used in turn.
const DRAWN: u32 = 20_000;

/// The peer is measured up to so many Services: loading its rules takes much longer than ours.
const PEER_LIMIT: u32 = 10_000;

type Build = fn(&Bench, u8, u32) -> anyhow::Result<Candidate>;

/// One carrier of new connections with that many Services.
struct Candidate {
    who: &'static str,
    services: u32,
    hot: [ConnectClient; 2],
    random: [ConnectClient; 2],
    _alive: Option<Cluster>,
}

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("New connections by number of Services …");
    let sizes: &[u32] = if bench.quick { &[10, 1_000] } else { &[10, 1_000, 10_000, 50_000] };
    let mut rows = Vec::new();
    let mut candidates = Vec::new();
    for (index, services) in sizes.iter().copied().enumerate() {
        let builds: &[Build] =
            if services > PEER_LIMIT { &[candidate_ours] } else { &[candidate_ours, candidate_peer] };
        for build in builds {
            match build(bench, index as u8, services) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => rows.push(Row::missing(SECTION, format!("{services} Services"), &error)),
            }
        }
    }
    let effort = bench.effort();
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for random in [false, true] {
            match rates(&mut candidates, family, random, effort) {
                Ok(rates) => {
                    rows.extend(compare(&candidates, &rates, random).into_iter().map(|row| row.family(name)))
                }
                Err(error) => rows.push(Row::missing(SECTION, what(random), &error).family(name)),
            }
        }
    }
    rows
}

fn what(random: bool) -> &'static str {
    if random { "Services drawn uniformly" } else { "one Service" }
}

fn candidate_ours(bench: &Bench, index: u8, services: u32) -> anyhow::Result<Candidate> {
    let cluster = Cluster::with_services(&bench.binaries, &format!("first{index}"), 60 + index, services)?;
    let client = cluster.direct().client;
    Ok(candidate(ours::NAME, services, &client, Some(cluster)))
}

fn candidate_peer(_bench: &Bench, index: u8, services: u32) -> anyhow::Result<Candidate> {
    let peer = Peer::build(&format!("kp{index}"), 64 + index, services)?;
    Ok(candidate(kube_proxy::SERVICE, services, &peer.direct().client, None))
}

fn candidate(
    who: &'static str,
    services: u32,
    client: &crate::netns::Netns,
    alive: Option<Cluster>,
) -> Candidate {
    let mut random = Xorshift(11);
    let drawn: Vec<u32> = (0..DRAWN).map(|_| random.below(services)).collect();
    let hot = [false, true].map(|v6| ConnectClient::spread(client, vec![cluster_ip(v6, 0)]));
    let random = [false, true]
        .map(|v6| ConnectClient::spread(client, drawn.iter().map(|index| cluster_ip(v6, *index)).collect()));
    Candidate { who, services, hot, random, _alive: alive }
}

/// Connections per second by candidate and round.
fn rates(
    candidates: &mut [Candidate],
    family: usize,
    random: bool,
    effort: Effort,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut rates = vec![Vec::new(); candidates.len()];
    let count = candidates.len();
    for round in 0..=effort.rounds {
        for turn in 0..count {
            let index = if round % 2 == 0 { turn } else { count - 1 - turn };
            let candidate = &mut candidates[index];
            let clients = if random { &mut candidate.random } else { &mut candidate.hot };
            // The first round warms up, and shows that everyone answers.
            let burst = if round == 0 { Duration::from_millis(5) } else { effort.burst };
            let rate = clients[family]
                .rate(burst)
                .with_context(|| format!("{} with {} Services", candidate.who, candidate.services))?;
            if round > 0 {
                rates[index].push(rate);
            }
        }
    }
    Ok(rates)
}

fn compare(candidates: &[Candidate], rates: &[Vec<f64>], random: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let ours = |candidate: &Candidate| candidate.who == ours::NAME;
    let first = candidates.iter().position(ours);
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| ours(candidate)) {
        let title = format!("{} Services, {}", candidate.services, what(random));
        let peer = candidates.iter().position(|other| !ours(other) && other.services == candidate.services);
        if let Some(peer) = peer {
            let name = candidates[peer].who.to_owned();
            rows.extend(row(&title, rates, index, peer, name).map(|row| row.target(Target::AtLeast(1.0))));
        }
        if let Some(first) = first.filter(|first| *first != index) {
            let name = format!("Sheetbend, {} Services", candidates[first].services);
            let bound = match (random, candidate.services) {
                (false, _) => 1.0 / 1.05,
                (true, ..=10_000) => 1.0 / 2.5,
                (true, _) => 1.0 / 6.0,
            };
            rows.extend(row(&title, rates, index, first, name).map(|row| row.target(Target::AtLeast(bound))));
        }
    }
    rows
}

/// Candidate `index` beside candidate `other`.
fn row(title: &str, rates: &[Vec<f64>], index: usize, other: usize, name: String) -> Option<Row> {
    let ratios: Vec<f64> = rates[index].iter().zip(&rates[other]).map(|(our, their)| our / their).collect();
    let (value, their) = (median(&rates[index])?, median(&rates[other])?);
    let row = Row::value(SECTION, format!("connect, request, response: {title}"), 1e6 / value, "µs")
        .beside(name, 1e6 / their)
        .ratio(Interval::of(&ratios)?)
        .note(format!("{} pairs", ratios.len()));
    Some(row)
}
