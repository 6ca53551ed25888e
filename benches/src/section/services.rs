//! ClusterIPs by the number of Services, beside the real kube-proxy: from nothing, one endpoint more, new connections.

use crate::cli::{Bench, say};
use crate::report::{Row, Target};
use crate::section::candidate::{Candidate, Contender};
use crate::section::new_connections;
use crate::stats::percentile;
use crate::topology::cluster_api::Load;

const SECTION: &str = "Services beside kube-proxy: from nothing, and one change";
const LARGEST_SECTION: &str = "The largest Services beside kube-proxy";
/// How many changes of an endpoint are watched with ours, and with kube-proxy, which takes seconds for each.
const CHANGES: [usize; 2] = [200, 5];
/// 44,000 Services and this many endpoints behind each but the first and the last: 264,000.
const LARGEST: Load = Load { services: 44_000, dummies: 6 };
const CONTENDERS: [Contender; 3] = [Contender::Ours, Contender::Nftables, Contender::Iptables];

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Services beside kube-proxy …");
    let (mut rows, mut candidates) = (Vec::new(), Vec::new());
    for (index, services) in bench.services.iter().enumerate() {
        let load = Load { services: *services, dummies: 0 };
        let (measured, built) = case(bench, index as u8, load, &format!("{services} Services"));
        rows.extend(measured);
        candidates.extend(built);
    }
    rows.extend(new_connections::rows(&mut candidates, bench.effort()));
    rows
}

/// The size that [`super::tables`] writes into the kernel, from an API server.
pub(crate) fn measure_largest(bench: &Bench) -> Vec<Row> {
    say("The largest Services beside kube-proxy …");
    let rows = case(bench, 4, LARGEST, "44,000 Services with 264,000 endpoints").0;
    rows.into_iter().map(|row| Row { section: LARGEST_SECTION.to_owned(), ..row }).collect()
}

/// Everybody with the same Services, one after the other; what that took, and who is there now.
fn case(bench: &Bench, index: u8, load: Load, title: &str) -> (Vec<Row>, Vec<Candidate>) {
    let (mut rows, mut candidates, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for contender in CONTENDERS {
        say(&format!("  {title}: {}", contender.name()));
        match Candidate::build(bench, contender, index, load).and_then(|it| Ok((times(&it)?, it))) {
            Ok((took, candidate)) => {
                changes.push(took);
                candidates.push(candidate);
            }
            Err(error) => {
                rows.push(Row::missing(SECTION, format!("{title}: {}", contender.name()), &error));
            }
        }
    }
    rows.extend(compare(&candidates, &changes, title));
    (rows, candidates)
}

/// From an endpoint in the API to an answer, ms.
fn times(candidate: &Candidate) -> anyhow::Result<Vec<f64>> {
    let count = CHANGES[usize::from(candidate.contender != Contender::Ours)];
    (0..count).map(|_| candidate.one_endpoint_more()).collect()
}

fn compare(candidates: &[Candidate], changes: &[Vec<f64>], title: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let Some((ours, our_changes)) = candidates.iter().zip(changes).next() else { return rows };
    if ours.contender != Contender::Ours {
        return rows;
    }
    let at = |times: &[f64], percent| percentile(times, percent).unwrap_or_default();
    for (peer, their_changes) in candidates.iter().zip(changes).skip(1) {
        let beside = |what: &str, unit, our, their| {
            Row::value(SECTION, format!("{title}: {what}"), our, unit).beside(peer.contender.name(), their)
        };
        rows.push(
            beside("process started → all served", "s", ours.took, peer.took)
                .target(Target::AtMost(5.0))
                .note("one start each"),
        );
        rows.push(beside("peak memory", "MiB", ours.peak, peer.peak).note("VmHWM"));
        rows.push(
            beside("endpoint in the API → served, p99", "ms", at(our_changes, 99.0), at(their_changes, 99.0))
                .target(Target::AtMost(10.0))
                .note(format!(
                    "p50 {:.2} and {:.2} ms; {} and {} changes",
                    at(our_changes, 50.0),
                    at(their_changes, 50.0),
                    our_changes.len(),
                    their_changes.len()
                )),
        );
    }
    rows
}
