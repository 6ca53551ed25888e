//! Recorded flows under another set of policies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sheetbend_compile::diff::{Diff, Index, Party};
use sheetbend_model::state::Snapshot;

use super::wire::{Replay, Replayed};
use crate::policy::flows::RecordedFlow;
use crate::policy::workload::workload;

/// What would become of `flows` after the change that `found` tells, in the cluster `after`.
pub(super) fn replay(after: &Snapshot, found: &Diff, flows: &[RecordedFlow]) -> Replay {
    let index = Index::new(found, after);
    let mut counted: BTreeMap<(bool, String, String, String), u64> = BTreeMap::new();
    let mut replay = Replay { recorded: 0, unknown: 0, closes: Vec::new(), opens: Vec::new() };
    for flow in flows {
        replay.recorded += flow.flows;
        let ends = (index.party(flow.source), index.party(flow.destination));
        let (Some(source), Some(destination)) = ends else {
            replay.unknown += flow.flows;
            continue;
        };
        let span = index.span(flow.source, flow.destination, flow.carried(), flow.port);
        // A flow that policies of then denied and those of now allow is not the change's doing, nor the other way round.
        let Some(span) = span.filter(|span| span.opens == flow.denied) else { continue };
        let name = |party: usize, addr: IpAddr| name(after, &index, found.parties.get(party), addr);
        let port = match flow.carried() {
            Some(protocol) => format!("{}/{protocol}", flow.port),
            None => "ICMP".to_owned(),
        };
        let key = (span.opens, name(source, flow.source), name(destination, flow.destination), port);
        *counted.entry(key).or_default() += flow.flows;
    }
    for ((opens, source, destination, port), flows) in counted {
        let into = if opens { &mut replay.opens } else { &mut replay.closes };
        into.push(Replayed { source, destination, port, flows });
    }
    for of in [&mut replay.closes, &mut replay.opens] {
        of.sort_by_key(|replayed| std::cmp::Reverse(replayed.flows));
    }
    replay
}

fn name(cluster: &Snapshot, index: &Index<'_>, party: Option<&Party>, addr: IpAddr) -> String {
    let pod = index.pod(addr).and_then(|key| cluster.pods.get(key));
    match (pod, party) {
        (Some(pod), _) => workload(pod),
        (None, Some(Party::Nodes(_))) => "nodes".to_owned(),
        (None, _) => "world".to_owned(),
    }
}
