//! A difference of tables in the words of people: workloads, ports, policies.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use sheetbend_compile::diff::{Diff, Party, Span, Verdict};
use sheetbend_model::state::Snapshot;
use sheetbend_model::state::traffic::written_as;
use sheetbend_model::types::{Direction, Family, ObjectKey};

use super::wire::{Difference, Differences, Group, NODES, Said, WORKLOAD, WORLD};
use crate::policy::workload::workload;

/// What is equal in all that one [`Difference`] stands for, in the order in which they are listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    opens: bool,
    direction: Direction,
    /// The end that decides.
    own: Vec<Group>,
    before: Said,
    after: Said,
    ports: Vec<String>,
    families: Vec<Family>,
}

/// What `found` says, of the cluster `after`.
pub(super) fn differences(after: &Snapshot, found: &Diff, notes: Vec<String>) -> Differences {
    let groups = groups(after, &found.parties);
    let of = |party: usize| groups.get(party).map_or(&[][..], Vec::as_slice);
    let mut gathered: BTreeMap<Cause, BTreeMap<(&'static str, Option<String>), Group>> = BTreeMap::new();
    let mut pairs: BTreeMap<(usize, usize), (bool, bool, u64)> = BTreeMap::new();
    for change in &found.changes {
        let known = pairs.entry((change.source, change.destination)).or_insert((false, false, 0));
        known.0 |= change.spans.iter().any(|span| span.opens);
        known.1 |= change.spans.iter().any(|span| !span.opens);
        known.2 = known.2.max(change.pairs);
        for (alike, ports) in alike(&change.spans) {
            let (own, other) = match alike.direction {
                Direction::Egress => (of(change.source), of(change.destination)),
                Direction::Ingress => (of(change.destination), of(change.source)),
            };
            // The blocks of the world say themselves of which family they are.
            let is_world = other.iter().any(|group| group.kind == WORLD);
            let families = if is_world { Family::ALL.to_vec() } else { change.families.clone() };
            let (before, after) = (said(&alike.before, alike.direction), said(&alike.after, alike.direction));
            let own = own.to_vec();
            let cause =
                Cause { opens: alike.opens, direction: alike.direction, own, before, after, ports, families };
            let others = gathered.entry(cause).or_default();
            for group in other {
                match others.entry((group.kind, group.name.clone())) {
                    Entry::Vacant(place) => drop(place.insert(group.clone())),
                    Entry::Occupied(mut known) => {
                        known.get_mut().members.extend(group.members.iter().cloned())
                    }
                }
            }
        }
    }
    let sum = |opens: bool| {
        let pairs = pairs.values().filter(|(open, close, _)| if opens { *open } else { *close });
        pairs.map(|(_, _, count)| count).sum()
    };
    let (opens, closes) = (sum(true), sum(false));
    let changes =
        gathered.into_iter().map(|(cause, others)| difference(cause, others.into_values().collect()));
    Differences { changes: changes.collect(), opens, closes, flows: None, notes }
}

fn difference(cause: Cause, mut others: Vec<Group>) -> Difference {
    others.iter_mut().for_each(|group| group.members.sort_unstable());
    let (source, destination) = match cause.direction {
        Direction::Egress => (cause.own, others),
        Direction::Ingress => (others, cause.own),
    };
    Difference {
        effect: if cause.opens { "opens" } else { "closes" },
        source,
        destination,
        ports: cause.ports,
        families: cause.families.iter().map(ToString::to_string).collect(),
        direction: cause.direction.to_string(),
        before: cause.before,
        after: cause.after,
    }
}

/// Spans that differ in ports only, with those ports.
fn alike(spans: &[Span]) -> Vec<(&Span, Vec<String>)> {
    let mut found: Vec<(&Span, Vec<String>)> = Vec::new();
    for span in spans {
        let text = match span.protocol {
            None => "ICMP".to_owned(),
            Some(protocol) if span.first == span.last => format!("{}/{protocol}", span.first),
            Some(protocol) => format!("{}-{}/{protocol}", span.first, span.last),
        };
        let is_like = |known: &Span| {
            (known.opens, known.direction, &known.before, &known.after)
                == (span.opens, span.direction, &span.before, &span.after)
        };
        match found.iter_mut().find(|(known, _)| is_like(known)) {
            Some((_, ports)) => ports.push(text),
            None => found.push((span, vec![text])),
        }
    }
    found
}

/// Each party, in groups that people have a name for.
fn groups(cluster: &Snapshot, parties: &[Party]) -> Vec<Vec<Group>> {
    let mut whole: BTreeMap<String, usize> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.is_peer()) {
        *whole.entry(workload(pod)).or_default() += 1;
    }
    let outside =
        parties.iter().map(|party| if let Party::World(blocks) = party { blocks.len() } else { 0 }).sum();
    let name = |key: &ObjectKey| cluster.pods.get(key).map(|pod| workload(pod));
    let of_party = |party: &Party| match party {
        Party::Pods(pods) => {
            let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for key in pods {
                by_name.entry(name(key).unwrap_or_default()).or_default().push(key.to_string());
            }
            let group = |(name, members): (String, Vec<String>)| Group {
                kind: WORKLOAD,
                whole: whole.get(&name).copied().unwrap_or_default(),
                name: Some(name),
                members,
            };
            by_name.into_iter().map(group).collect()
        }
        Party::Nodes(nodes) => {
            let members: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            vec![Group { kind: NODES, name: None, members, whole: cluster.nodes.len() }]
        }
        Party::World(blocks) => {
            let members: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            vec![Group { kind: WORLD, name: None, members, whole: outside }]
        }
    };
    parties.iter().map(of_party).collect()
}

fn said(verdict: &Verdict, direction: Direction) -> Said {
    let origin = verdict.ruling.as_ref().and_then(|ruling| ruling.origin.as_ref());
    let written = origin.map(|origin| written_as(&origin.policy));
    let audited = if verdict.audited { "allowed in audit, would be " } else { "" };
    let denied = !verdict.allows() || verdict.audited;
    let word = if denied { format!("{audited}denied") } else { "allowed".to_owned() };
    let selected_by: Vec<String> = verdict.isolated_by.iter().map(ToString::to_string).collect();
    let message = match (origin, &written) {
        (Some(_), Some(("TrafficTier", name))) => format!("{word} by default of TrafficTier {name}"),
        (Some(origin), Some((kind, name))) => {
            format!("{word} by {kind} {name}, {direction}[{}]", origin.rule)
        }
        _ if !denied => format!("allowed by default: no policy decides on {direction}"),
        _ => format!(
            "{word} by default: no rule of NetworkPolic{} {} allows it",
            if selected_by.len() == 1 { "y" } else { "ies" },
            selected_by.join(", ")
        ),
    };
    Said {
        verdict: if verdict.allows() { "allow" } else { "deny" },
        kind: written.as_ref().map(|(kind, _)| *kind),
        policy: written.as_ref().map(|(_, name)| name.to_string()),
        rule: origin.map(|origin| origin.rule),
        selected_by,
        message,
    }
}
