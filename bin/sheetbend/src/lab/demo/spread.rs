//! How requests to a Service spread over its endpoints (`contract.md`, "Spread").

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use sheetbend_model::state::{Algorithm, Service};
use sheetbend_model::types::{Family, Protocol};
use sheetbend_oracle::{At, End, Expected, L4, Probe as Question, expect, service as service_at};

use crate::lab::matrix::Bench;
use crate::lab::probe::{Job, Probe, Seen, Speech};
use crate::lab::status::table;
use crate::lab::wire::{LabStatus, PodStatus};

/// Connections per Service and algorithm.
const CONNECTIONS: usize = 2_000;
/// How far a spread may be from the weights, standard deviations of one by chance.
const DEVIATIONS: f64 = 5.0;
/// How much a Maglev table itself may differ from the weights.
const UNEVENNESS: f64 = 0.02;

/// Somebody who may reach every endpoint of a Service's port.
struct Course<'a> {
    source: &'a PodStatus,
    from: IpAddr,
    to: SocketAddr,
    /// Pod → weight.
    backends: BTreeMap<String, u8>,
}

/// Measures every Service with two endpoints or more and no affinity; returns what is wrong.
pub(super) fn measure(bench: &Bench, status: &LabStatus) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut rows = table(&["SERVICE", "FAMILY", "ALGORITHM", "CONNECTIONS", "PER ENDPOINT", "VERDICT"], None);
    let mut measured = 0;
    for service in bench.snapshot.services.values().filter(|service| service.affinity_timeout.is_none()) {
        for family in Family::ALL {
            let Some(course) = find_course(bench, status, service, family) else { continue };
            let counts = connect(bench, &course)?;
            let fault = judge(service.algorithm, &course.backends, &counts);
            let per: Vec<String> = counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
            rows.add_row([
                service.key.to_string(),
                family.to_string(),
                service.algorithm.to_string(),
                CONNECTIONS.to_string(),
                per.join(", "),
                fault.clone().unwrap_or_else(|| course.verdict().to_owned()),
            ]);
            faults.extend(fault.map(|fault| format!("Service {} over {family}: {fault}", service.key)));
            measured += 1;
        }
    }
    writeln!(std::io::stdout().lock(), "{rows}")?;
    if measured == 0 {
        writeln!(
            std::io::stdout().lock(),
            "no Service has two endpoints that one pod may reach: nothing to measure"
        )?;
    }
    Ok(faults)
}

impl Course<'_> {
    fn verdict(&self) -> &'static str {
        let first = self.backends.values().next();
        if self.backends.values().all(|weight| Some(weight) == first) { "even" } else { "as weighted" }
    }
}

/// The first pod that may reach all endpoints of the Service's first TCP port.
fn find_course<'a>(
    bench: &Bench,
    status: &'a LabStatus,
    service: &Service,
    family: Family,
) -> Option<Course<'a>> {
    let port = service.ports.iter().find(|port| port.protocol == Protocol::Tcp)?.port.get();
    let address = service.cluster_ips.iter().copied().find(|addr| Family::of(*addr) == family)?;
    let serves = |key: &str, port: u16| {
        let pod = status.pods.iter().find(|pod| pod.pod == key);
        pod.is_some_and(|pod| pod.serves.contains(&format!("{port}/TCP")))
    };
    let listens =
        |end: &End, _: L4, port: u16| matches!(end, End::Pod(key) if serves(&key.to_string(), port));
    status.pods.iter().find_map(|source| {
        let key = sheetbend_model::types::ObjectKey::parse(&source.pod)?;
        let from = source.addresses.iter().copied().find(|addr| Family::of(*addr) == family)?;
        let question = Question { source: End::Pod(key), destination: address, protocol: L4::Tcp, port };
        let Expected::Allow { by } = expect(&bench.snapshot, &question, &listens) else { return None };
        let node = sheetbend_model::types::NodeName::new(source.node.as_str());
        let found = service_at(&bench.snapshot, At::ClientNode(&node), address, Protocol::Tcp, port)?;
        let weights = found.candidates.iter().filter_map(|one| Some((one.pod.clone()?, one.weight)));
        let backends: BTreeMap<String, u8> = weights
            .filter(|(key, _)| by.contains(&End::Pod(key.clone())))
            .map(|(key, weight)| (key.to_string(), weight))
            .collect();
        (backends.len() > 1).then(|| Course { source, from, to: SocketAddr::new(address, port), backends })
    })
}

/// Who answered how often; what failed is counted under its error.
fn connect(bench: &Bench, course: &Course<'_>) -> anyhow::Result<BTreeMap<String, usize>> {
    let probe = Probe { from: course.from, to: course.to, behind: Vec::new(), speech: Speech::Tcp };
    let probes = (0..CONNECTIONS).map(|place| (place, probe.clone())).collect();
    let job = Job { netns: Some(bench.netns(&course.source.netns)?), probes };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for observation in bench.probe(vec![job], &|| ())?.into_iter().flatten() {
        let name = match observation.seen {
            Seen::Answer(Some(answer)) => answer.pod,
            other @ (Seen::Answer(None) | Seen::Refused(_) | Seen::Nothing | Seen::Failed(_)) => {
                format!("{other:?}")
            }
        };
        *counts.entry(name).or_default() += 1;
    }
    Ok(counts)
}

fn judge(
    algorithm: Algorithm,
    backends: &BTreeMap<String, u8>,
    counts: &BTreeMap<String, usize>,
) -> Option<String> {
    if let Some(stranger) = counts.keys().find(|name| !backends.contains_key(*name)) {
        return Some(format!("{stranger} is no ready endpoint"));
    }
    if let Some(silent) = backends.keys().find(|name| !counts.contains_key(*name)) {
        return Some(format!("{silent} never answered"));
    }
    let (most, least) = (counts.values().max().copied()?, counts.values().min().copied()?);
    let is_weighted = backends.values().any(|weight| Some(weight) != backends.values().next());
    match algorithm {
        Algorithm::RoundRobin if !is_weighted => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            (most - least > cpus).then(|| format!("max - min = {}, more than {cpus} CPUs", most - least))
        }
        // Weights there are shares of the flows that are open, not of those that begin.
        Algorithm::LeastConnections if is_weighted => None,
        Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::Random => {
            chance(backends, counts, 0.0)
        }
        Algorithm::Maglev => chance(backends, counts, UNEVENNESS),
    }
}

/// Whether some count is too far from its weight to be chance, beyond a relative `slack` that is no chance.
fn chance(backends: &BTreeMap<String, u8>, counts: &BTreeMap<String, usize>, slack: f64) -> Option<String> {
    let all: f64 = backends.values().copied().map(f64::from).sum();
    let total: f64 = counts.values().map(|count| *count as f64).sum();
    let far = |(name, count): (&String, &usize)| {
        let share = backends.get(name).copied().map_or(0.0, f64::from) / all;
        let deviation = (total * share * (1.0 - share)).sqrt();
        ((*count as f64 - total * share).abs() - slack * total * share) / deviation
    };
    let worst = counts.iter().map(far).fold(0.0, f64::max);
    (worst > DEVIATIONS)
        .then(|| format!("{worst:.1} standard deviations from the weights, more than {DEVIATIONS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(algorithm: Algorithm, weights: [u8; 2], counts: &[(&str, usize)]) -> Option<String> {
        let backends = ["a", "b"].map(ToOwned::to_owned).into_iter().zip(weights).collect();
        judge(
            algorithm,
            &backends,
            &counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        )
    }

    #[test]
    fn uneven_foreign_and_silent_are_told_apart() {
        let even = [1, 1];
        assert_eq!(judged(Algorithm::RoundRobin, even, &[("a", 1000), ("b", 1000)]), None);
        assert!(
            judged(Algorithm::RoundRobin, even, &[("a", 1050), ("b", 950)])
                .is_some_and(|text| text.contains("max - min"))
        );
        for algorithm in [Algorithm::Random, Algorithm::LeastConnections, Algorithm::Maglev] {
            assert_eq!(judged(algorithm, even, &[("a", 1050), ("b", 950)]), None);
            assert!(
                judged(algorithm, even, &[("a", 1150), ("b", 850)])
                    .is_some_and(|text| text.contains("deviations"))
            );
            assert!(
                judged(algorithm, even, &[("a", 1000), ("c", 1000)])
                    .is_some_and(|text| text.contains("no ready"))
            );
            assert!(
                judged(algorithm, even, &[("a", 2000)]).is_some_and(|text| text.contains("never answered"))
            );
        }
    }

    #[test]
    fn weights_are_shares() {
        for algorithm in [Algorithm::Random, Algorithm::RoundRobin, Algorithm::Maglev] {
            assert_eq!(judged(algorithm, [3, 1], &[("a", 1480), ("b", 520)]), None);
            assert!(judged(algorithm, [3, 1], &[("a", 1000), ("b", 1000)]).is_some());
        }
    }
}
