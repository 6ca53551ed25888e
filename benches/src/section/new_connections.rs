//! New connections to ClusterIPs: everybody at every number of Services takes turns.

use std::time::Duration;

use anyhow::Context as _;

use crate::contest::Effort;
use crate::report::{Row, Target};
use crate::section::candidate::{Candidate, Contender};
use crate::stats::{Interval, median, percentile};

const SECTION: &str = "New connections to a ClusterIP by number of Services";

/// What is read off one round's connections, µs.
type Reading = (&'static str, fn(&[f64]) -> Option<f64>);
const READINGS: [Reading; 3] = [
    ("mean", |times| Some(times.iter().sum::<f64>() / times.len() as f64)),
    ("p50", |times| percentile(times, 50.0)),
    ("p99", |times| percentile(times, 99.0)),
];

/// Rows of every family and choice of destination.
pub(super) fn rows(candidates: &mut [Candidate], effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for random in [false, true] {
            match rounds(candidates, family, random, effort) {
                Ok(rounds) => {
                    rows.extend(compare(candidates, &rounds, random).into_iter().map(|row| row.family(name)))
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

/// By candidate and reading, a value for each round.
type Rounds = Vec<[Vec<f64>; READINGS.len()]>;

fn rounds(
    candidates: &mut [Candidate],
    family: usize,
    random: bool,
    effort: Effort,
) -> anyhow::Result<Rounds> {
    let count = candidates.len();
    let mut read: Rounds = vec![Default::default(); count];
    for round in 0..=effort.rounds {
        for turn in 0..count {
            // Forwards and backwards in turn: neighbours differ, and nobody is always first.
            let index = if round % 2 == 0 { turn } else { count - 1 - turn };
            let candidate = &mut candidates[index];
            let clients = if random { &mut candidate.random } else { &mut candidate.hot };
            // The first round warms up, and shows that everyone answers.
            let burst = if round == 0 { Duration::from_millis(5) } else { effort.burst };
            let client = &mut clients[family];
            client.rate(burst).with_context(|| {
                format!("{} with {} Services", candidate.contender.name(), candidate.services)
            })?;
            let times: Vec<f64> = client.take_times().into_iter().map(|seconds| seconds * 1e6).collect();
            if round > 0 {
                for ((_, reading), values) in READINGS.iter().zip(&mut read[index]) {
                    values.extend(reading(&times));
                }
            }
        }
    }
    Ok(read)
}

fn compare(candidates: &[Candidate], rounds: &Rounds, random: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let is_ours = |candidate: &Candidate| candidate.contender == Contender::Ours;
    let first = candidates.iter().position(is_ours);
    for (index, ours) in candidates.iter().enumerate().filter(|(_, candidate)| is_ours(candidate)) {
        for (number, (reading, _)) in READINGS.iter().enumerate() {
            let title = format!(
                "connect, request, response, {reading}: {} Services, {}",
                ours.services,
                what(random)
            );
            let row = |other: usize, name: String| {
                row(&title, &rounds[index][number], &rounds[other][number], name)
            };
            let peers = candidates.iter().enumerate();
            let peers = peers.filter(|(_, peer)| !is_ours(peer) && peer.services == ours.services);
            for (other, peer) in peers {
                let row = row(other, peer.contender.name().to_owned());
                rows.extend(row.map(|row| row.target(Target::AtLeast(1.0))));
            }
            // How flat ours is, by what a connection costs on average.
            if let Some(first) = first.filter(|first| *first != index && number == 0) {
                let name = format!("Sheetbend, {} Services", candidates[first].services);
                let bound = match (random, ours.services) {
                    (false, _) => 1.0 / 1.05,
                    (true, ..=10_000) => 1.0 / 2.5,
                    (true, _) => 1.0 / 6.0,
                };
                rows.extend(row(first, name).map(|row| row.target(Target::AtLeast(bound))));
            }
        }
    }
    rows
}

/// Our µs beside another's in the same rounds; the ratio is theirs to ours, more is better.
fn row(title: &str, ours: &[f64], theirs: &[f64], name: String) -> Option<Row> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| their / our).collect();
    let row = Row::value(SECTION, title, median(ours)?, "µs")
        .beside(name, median(theirs)?)
        .ratio(Interval::of(&ratios)?)
        .note(format!("{} pairs", ratios.len()));
    Some(row)
}
