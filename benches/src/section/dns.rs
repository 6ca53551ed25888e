//! The cluster DNS beside CoreDNS, both with the same records.

use std::time::Duration;

use anyhow::Context;

use crate::cli::{Bench, say};
use crate::dns::load::Client;
use crate::dns::servers::{self, Server};
use crate::report::{Row, Target};
use crate::stats::{Interval, median, percentile};

const SECTION: &str = "Cluster DNS";
const PEER: &str = "CoreDNS 1.12.4, file";
/// Queries per second at which latency is measured.
const PACE: f64 = 2_000.0;

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Cluster DNS …");
    let mut rows = Vec::new();
    for services in if bench.quick { &[1_000][..] } else { &[1_000, 10_000] } {
        let measured = run(bench, *services);
        rows.extend(
            measured
                .unwrap_or_else(|error| vec![Row::missing(SECTION, format!("{services} Services"), &error)]),
        );
    }
    rows
}

fn run(bench: &Bench, services: u32) -> anyhow::Result<Vec<Row>> {
    let both = [servers::ours(&bench.binaries, services)?, servers::coredns(services)?];
    let mut clients = Vec::new();
    for server in &both {
        let mut client = Client::open(&server.netns, services).with_context(|| server.name)?;
        client.rate(Duration::from_millis(200)).with_context(|| format!("warming up {}", server.name))?;
        clients.push(client);
    }
    let (rounds, burst) = if bench.quick { (15, 100) } else { (21, 300) };
    let burst = Duration::from_millis(burst);
    let (mut rates, mut times, mut tails) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
    for round in 0..rounds {
        for turn in 0..2 {
            // Nobody is always first.
            let index = (turn + round) % 2;
            let name = both[index].name;
            rates[index].push(clients[index].rate(burst).context(name)?);
            let latencies = clients[index].latencies(PACE, burst).context(name)?;
            tails[index].push(percentile(&latencies, 99.0).context("no samples")?);
            times[index].extend(latencies);
        }
    }
    rows(services, &both, &rates, &times, &tails)
}

fn rows(
    services: u32,
    both: &[Server; 2],
    rates: &[Vec<f64>; 2],
    times: &[Vec<f64>; 2],
    tails: &[Vec<f64>; 2],
) -> anyhow::Result<Vec<Row>> {
    let what = |text: &str| format!("{services} Services: {text}");
    let ratios = |pairs: &[Vec<f64>; 2]| -> anyhow::Result<Interval> {
        let ratios: Vec<f64> = pairs[0].iter().zip(&pairs[1]).map(|(our, their)| our / their).collect();
        Interval::of(&ratios).context("no samples")
    };
    let middle = |samples: &[f64]| median(samples).context("no samples");
    let mut rows = vec![
        Row::value(SECTION, what("queries per second"), middle(&rates[0])?, "/s")
            .beside(PEER, middle(&rates[1])?)
            .ratio(ratios(rates)?)
            .target(Target::AtLeast(1.0))
            .note(format!("{} pairs, 128 queries under way, client on the same CPUs", rates[0].len())),
        Row::value(SECTION, what("p99 at 2,000 queries/s"), middle(&tails[0])?, "ms")
            .beside(PEER, middle(&tails[1])?)
            .ratio(ratios(tails)?)
            .target(Target::AtMost(1.0))
            .note(format!("median of {} pairs of p99; less is better", tails[0].len())),
    ];
    let p50 = |samples: &[f64]| percentile(samples, 50.0).context("no samples");
    rows.push(
        Row::value(SECTION, what("p50 at 2,000 queries/s"), p50(&times[0])?, "ms")
            .beside(PEER, p50(&times[1])?),
    );
    rows.push(
        Row::value(SECTION, what("resident memory"), both[0].resident()?, "MiB")
            .beside(PEER, both[1].resident()?)
            .note("VmRSS after the load"),
    );
    Ok(rows)
}
