//! Candidates measured in turn within one run, so that the machine's moods meet all of them.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::netns::Netns;
use crate::report::{Row, Target};
use crate::stats::{Interval, median};
use crate::traffic::{Session, Tool};

/// A way from a client to a [`crate::traffic::Responder`].
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Who carries the packets, as the tables call it.
    pub(crate) name: &'static str,
    /// Where the client is.
    pub(crate) client: Netns,
    /// What the client calls, IPv4 then IPv6.
    pub(crate) servers: [IpAddr; 2],
}

impl Way {
    /// Waits until it carries new connections of both families.
    ///
    /// # Errors
    /// It does not within `patience`: what the last attempt said.
    pub(crate) fn wait(&self, patience: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        for server in self.servers {
            while let Err(error) = Session::open(Tool::TcpConnect, &self.client, server)
                .and_then(|mut session| session.rate(Duration::from_millis(1)))
            {
                if start.elapsed() > patience {
                    return Err(error).with_context(|| format!("{server} never answered"));
                }
                sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

/// What ours must be beside one peer, as a ratio of rates.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promise {
    /// The peer's name.
    pub(crate) peer: &'static str,
    /// Bound for round trips of open connections.
    pub(crate) round_trip: Option<f64>,
    /// Bound for first packets.
    pub(crate) connect: Option<f64>,
    /// Bound for streams.
    pub(crate) stream: Option<f64>,
}

impl Promise {
    fn bound(&self, tool: Tool) -> Option<f64> {
        match tool {
            Tool::TcpRoundTrip | Tool::UdpRoundTrip => self.round_trip,
            Tool::TcpConnect | Tool::UdpConnect => self.connect,
            Tool::TcpStream | Tool::UdpStream => self.stream,
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds, each with every candidate.
    pub(crate) rounds: usize,
    /// Length of one measurement.
    pub(crate) burst: Duration,
}

/// Measures `ways` with `tool` over one family. The result is rates by way and round.
pub(crate) fn rounds(
    ways: &[Way],
    tool: Tool,
    family: usize,
    effort: Effort,
) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut sessions = ways
        .iter()
        .map(|way| Session::open(tool, &way.client, way.servers[family]).with_context(|| way.name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut rates = vec![Vec::new(); ways.len()];
    let burst = if tool.is_stream() { effort.burst * 2 } else { effort.burst };
    for (session, way) in sessions.iter_mut().zip(ways) {
        session.rate(burst / 2).with_context(|| format!("warming up: {}", way.name))?;
    }
    for round in 0..effort.rounds {
        for turn in 0..ways.len() {
            // Forwards and backwards in turn: neighbours differ, and nobody is always first.
            let index = if round % 2 == 0 { turn } else { ways.len() - 1 - turn };
            let rate = sessions[index].rate(burst).with_context(|| ways[index].name)?;
            rates[index].push(rate);
        }
    }
    Ok(rates)
}

/// Rows for the first of `ways` beside each other one, for every tool and family. A tool that fails leaves a row that
/// says so.
pub(crate) fn rows(
    section: &str,
    ways: &[Way],
    tools: &[Tool],
    promises: &[Promise],
    effort: Effort,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for tool in tools.iter().copied() {
        for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
            match rounds(ways, tool, family, effort)
                .and_then(|rates| compare(section, ways, tool, &rates, promises))
            {
                Ok(compared) => rows.extend(compared.into_iter().map(|row| row.family(name))),
                Err(error) => rows.push(Row::missing(section, tool.name(), &error).family(name)),
            }
        }
    }
    rows
}

fn compare(
    section: &str,
    ways: &[Way],
    tool: Tool,
    rates: &[Vec<f64>],
    promises: &[Promise],
) -> anyhow::Result<Vec<Row>> {
    let Some(ours) = rates.first() else { bail!("nobody to measure") };
    let mut rows = Vec::new();
    for (peer, theirs) in ways.iter().zip(rates).skip(1) {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| our / their).collect();
        let (Some(interval), Some(our), Some(their)) = (Interval::of(&ratios), median(ours), median(theirs))
        else {
            bail!("no samples");
        };
        let mut row = Row::value(section, tool.name(), tool.display(our), tool.unit())
            .beside(peer.name, tool.display(their))
            .ratio(interval)
            .note(format!("{} pairs", ratios.len()));
        let promise = promises.iter().find(|promise| promise.peer == peer.name);
        if let Some(bound) = promise.and_then(|promise| promise.bound(tool)) {
            row = row.target(Target::AtLeast(bound));
        }
        rows.push(row);
    }
    Ok(rows)
}
