//! A difference of tables in the words of people: workloads, ports, policies.

use std::collections::{BTreeMap, BTreeSet};

use sheetbend_compile::diff::{Diff, Party, Span, Verdict};
use sheetbend_model::state::Snapshot;
use sheetbend_model::state::traffic::written_as;
use sheetbend_model::types::{Direction, Family, ObjectKey};

use super::wire::{Difference, Differences, Group, Said};
use crate::policy::workload::workload;

/// What is equal in all that one [`Difference`] stands for, in the order in which they are listed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cause {
    opens: bool,
    direction: Direction,
    /// The end that decides, then the other; `None` = the world, whose blocks are gathered.
    ends: [Option<Group>; 2],
    before: Said,
    after: Said,
    ports: Vec<String>,
}

/// What `found` says, of the cluster `after`.
pub(super) fn differences(after: &Snapshot, found: &Diff, notes: Vec<String>) -> Differences {
    let pieces = Pieces::of(after, &found.parties);
    let mut gathered: BTreeMap<Cause, (BTreeSet<Family>, Vec<String>)> = BTreeMap::new();
    let mut pairs: BTreeMap<(usize, usize), (bool, bool, u64)> = BTreeMap::new();
    for change in &found.changes {
        let known = pairs.entry((change.source, change.destination)).or_insert((false, false, 0));
        known.0 |= change.spans.iter().any(|span| span.opens);
        known.1 |= change.spans.iter().any(|span| !span.opens);
        known.2 = known.2.max(change.pairs);
        for (alike, ports) in alike(&change.spans) {
            for (source, destination) in pieces.pairs(change.source, change.destination) {
                let ends = match alike.direction {
                    Direction::Egress => [source, destination],
                    Direction::Ingress => [destination, source],
                };
                let blocks =
                    ends.iter().filter(|end| end.kind == "world").flat_map(|end| end.members.clone());
                let blocks: Vec<String> = blocks.collect();
                let cause = Cause {
                    opens: alike.opens,
                    direction: alike.direction,
                    ends: ends.map(|end| (end.kind != "world").then(|| end.clone())),
                    before: said(&alike.before, alike.direction),
                    after: said(&alike.after, alike.direction),
                    ports: ports.clone(),
                };
                let known = gathered.entry(cause).or_default();
                known.0.extend(&change.families);
                known.1.extend(blocks);
            }
        }
    }
    let of = |opens: bool| {
        let pairs = pairs.values().filter(|(open, close, _)| if opens { *open } else { *close });
        pairs.map(|(_, _, count)| count).sum()
    };
    let (opens, closes) = (of(true), of(false));
    let changes =
        gathered.into_iter().map(|(cause, (families, blocks))| difference(cause, &families, &blocks));
    Differences { changes: changes.collect(), opens, closes, notes }
}

fn difference(cause: Cause, families: &BTreeSet<Family>, blocks: &[String]) -> Difference {
    let world = Group { kind: "world", name: None, members: blocks.to_vec(), whole: blocks.len() };
    let [own, other] = cause.ends.map(|end| end.unwrap_or_else(|| world.clone()));
    let (source, destination) = match cause.direction {
        Direction::Egress => (own, other),
        Direction::Ingress => (other, own),
    };
    Difference {
        effect: if cause.opens { "opens" } else { "closes" },
        source,
        destination,
        ports: cause.ports,
        families: families.iter().map(ToString::to_string).collect(),
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

/// Parties, in groups that people have a name for.
struct Pieces(Vec<Vec<Group>>);

impl Pieces {
    fn of(cluster: &Snapshot, parties: &[Party]) -> Self {
        let mut whole: BTreeMap<String, usize> = BTreeMap::new();
        for pod in cluster.pods.values().filter(|pod| pod.is_peer()) {
            *whole.entry(workload(pod)).or_default() += 1;
        }
        let name = |key: &ObjectKey| cluster.pods.get(key).map(|pod| workload(pod));
        let of_party = |party: &Party| match party {
            Party::Pods(pods) => {
                let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for key in pods {
                    by_name.entry(name(key).unwrap_or_default()).or_default().push(key.to_string());
                }
                let group = |(name, members): (String, Vec<String>)| Group {
                    kind: "workload",
                    whole: whole.get(&name).copied().unwrap_or_default(),
                    name: Some(name),
                    members,
                };
                by_name.into_iter().map(group).collect()
            }
            Party::Nodes(nodes) => {
                let members: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                vec![Group { kind: "nodes", name: None, members, whole: cluster.nodes.len() }]
            }
            Party::World(blocks) => {
                let members: Vec<String> = blocks.iter().map(ToString::to_string).collect();
                vec![Group { kind: "world", name: None, whole: members.len(), members }]
            }
        };
        Self(parties.iter().map(of_party).collect())
    }

    /// Senders and receivers of two parties. A pod alone is none to itself.
    fn pairs(&self, source: usize, destination: usize) -> impl Iterator<Item = (&Group, &Group)> {
        let of = |index: usize| self.0.get(index).map_or(&[][..], Vec::as_slice);
        let pairs = of(source).iter().flat_map(move |from| of(destination).iter().map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to || from.kind != "workload" || from.members.len() > 1)
    }
}

fn said(verdict: &Verdict, direction: Direction) -> Said {
    let origin = verdict.ruling.as_ref().and_then(|ruling| ruling.origin.as_ref());
    let written = origin.map(|origin| written_as(&origin.policy));
    let word = if verdict.allows() { "allowed" } else { "denied" };
    let selected_by: Vec<String> = verdict.isolated_by.iter().map(ToString::to_string).collect();
    let message = match (origin, &written) {
        (Some(_), Some(("TrafficTier", name))) => format!("{word} by default of TrafficTier {name}"),
        (Some(origin), Some((kind, name))) => {
            format!("{word} by {kind} {name}, {direction}[{}]", origin.rule)
        }
        _ if verdict.allows() => format!("allowed by default: no policy decides on {direction}"),
        _ => format!(
            "denied by default: no rule of NetworkPolic{} {} allows it",
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
