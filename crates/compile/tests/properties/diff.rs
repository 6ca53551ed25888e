//! What a change is said to open and close is what the objects before and after say, packet by packet.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::diff::{Change, Diff, Index, Party, Span, Verdict, diff};
use sheetbend_model::state::{Node, Snapshot};
use sheetbend_model::types::{Direction, Family, NodeName, ObjectKey, Protocol};
use sheetbend_oracle::{Allowed, Decision, Flow, L4, networkpolicy, pod_at};
use sheetbend_testkit::generators::cluster::{cluster, isolated_cluster, tiered_cluster, traffic_cluster};
use sheetbend_testkit::generators::pools;

use crate::runner;
use crate::verdicts::origin_of;

/// Those of the pool, their neighbours, and one far from all.
const PORTS: [u16; 9] = [1, 52, 53, 80, 81, 443, 8080, 9000, 65_535];

#[test]
fn what_opens_and_closes_is_what_the_objects_say() {
    let seen = RefCell::new(BTreeMap::<&str, usize>::new());
    let cluster = || prop_oneof![2 => cluster(), 1 => tiered_cluster(), 1 => traffic_cluster(), 1 => isolated_cluster()];
    runner("diff", 120)
        .run(&(cluster(), cluster()), |(before, other)| {
            let mut before = before;
            before.attachments.clear();
            // What an agent hands out for a comparison has none.
            before.learnt_names.clear();
            let after = with_policies_of(&before, &other);
            let found = diff(&before, &after, &mut |_, _| {});
            for family in Family::ALL {
                check_family(&before, &after, &found, family, &mut seen.borrow_mut())?;
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    let judged: usize = seen.values().sum();
    assert!(seen.contains_key("audited"), "no difference is of audit");
    for what in ["opens", "closes", "stays open", "stays closed"] {
        assert!(seen.get(what).copied().unwrap_or_default() * 100 >= judged, "{what} is rare");
    }
}

#[test]
fn no_change_is_no_difference() {
    runner("diff-same", 60)
        .run(&traffic_cluster(), |cluster| {
            let found = diff(&cluster, &cluster.clone(), &mut |_, _| {});
            prop_assert_eq!(found.changes, vec![]);
            Ok(())
        })
        .unwrap();
}

/// `cluster` with the policies of `other`, and the labels of its namespaces.
fn with_policies_of(cluster: &Snapshot, other: &Snapshot) -> Snapshot {
    Snapshot {
        namespaces: other.namespaces.clone(),
        policies: other.policies.clone(),
        cluster_policies: other.cluster_policies.clone(),
        traffic_policies: other.traffic_policies.clone(),
        traffic_tiers: other.traffic_tiers.clone(),
        network_sets: other.network_sets.clone(),
        tenants: other.tenants.clone(),
        ..cluster.clone()
    }
}

/// Somebody, and where a difference has them.
struct Somebody {
    addr: IpAddr,
    pod: Option<ObjectKey>,
    node: Option<NodeName>,
    party: usize,
}

fn everybody(cluster: &Snapshot, found: &Diff, family: Family) -> Vec<Somebody> {
    let mut all = Vec::new();
    for (key, pod) in cluster.pods.iter().filter(|(_, pod)| pod.is_peer()) {
        let Some(addr) = pod.address(family) else { continue };
        // An address that two pods have is one of them to the other's peers.
        let is_owner = pod_at(cluster, addr).is_some_and(|owner| owner.key == *key);
        let is_pod = |party: &Party| matches!(party, Party::Pods(pods) if pods.contains(key));
        if let Some(party) = found.parties.iter().position(is_pod).filter(|_| is_owner) {
            all.push(Somebody { addr, pod: Some(key.clone()), node: None, party });
        }
    }
    for node in cluster.nodes.values() {
        let Some(addr) = node.address(family) else { continue };
        let is_node = |party: &Party| matches!(party, Party::Nodes(nodes) if nodes.contains(&node.name));
        let party = found.parties.iter().position(is_node).unwrap();
        all.push(Somebody { addr, pod: None, node: Some(node.name.clone()), party });
    }
    for addr in pools::world().into_iter().filter(|addr| Family::of(*addr) == family) {
        let blocks = found.parties.iter().enumerate().flat_map(|(index, party)| match party {
            Party::World(blocks) => blocks.iter().map(|block| (index, *block)).collect(),
            Party::Pods(_) | Party::Nodes(_) => Vec::new(),
        });
        let around = blocks.filter(|(_, block)| block.contains(&addr));
        // Addresses of pods' ranges and of nodes are no world.
        let is_nodes = |node: &Node| {
            let mut own = node.addresses.iter().chain(&node.other_addresses);
            own.any(|own| *own == addr) || node.pod_cidrs.iter().any(|cidr| cidr.contains(&addr))
        };
        let is_outside =
            pod_at(cluster, addr).is_none() && !cluster.nodes.values().any(|node| is_nodes(node));
        if let Some((party, _)) = around.max_by_key(|(_, block)| block.prefix_len()).filter(|_| is_outside) {
            all.push(Somebody { addr, pod: None, node: None, party });
        }
    }
    all
}

fn check_family(
    before: &Snapshot,
    after: &Snapshot,
    found: &Diff,
    family: Family,
    seen: &mut BTreeMap<&str, usize>,
) -> Result<(), TestCaseError> {
    let everybody = everybody(before, found, family);
    let index = Index::new(found, after);
    let carried = Protocol::ALL.into_iter().flat_map(|protocol| PORTS.map(|port| (Some(protocol), port)));
    let carried: Vec<_> = carried.chain([(None, 0)]).collect();
    for source in &everybody {
        for destination in &everybody {
            let own_node = source.node.is_some()
                && destination.pod.as_ref().is_some_and(|pod| before.pods[pod].node == source.node);
            let is_judged = source.pod.is_some() || destination.pod.is_some();
            if !is_judged || own_node || source.pod.is_some() && source.pod == destination.pod {
                continue;
            }
            for (protocol, port) in &carried {
                let flow = Flow {
                    source: source.addr,
                    source_pod: source.pod.as_ref(),
                    destination: destination.addr,
                    destination_pod: destination.pod.as_ref(),
                    protocol: protocol.map_or(L4::Icmp, L4::from),
                    port: *port,
                };
                let (was, is) = (networkpolicy(before, &flow), networkpolicy(after, &flow));
                let what = match (was.allowed, is.allowed) {
                    (false, true) => "opens",
                    (true, false) => "closes",
                    (true, true) => "stays open",
                    (false, false) => "stays closed",
                };
                *seen.entry(what).or_default() += 1;
                let span = find(found, (source.party, destination.party), family, (*protocol, *port));
                prop_assert_eq!(index.span(source.addr, destination.addr, *protocol, *port), span);
                prop_assert_eq!(span.is_some(), was.allowed != is.allowed, "{:?} {}", flow, what);
                let Some(span) = span else { continue };
                prop_assert_eq!(span.opens, is.allowed, "{:?}", flow);
                for (verdict, judged) in [(&span.before, &was), (&span.after, &is)] {
                    let (decision, audited) = match span.direction {
                        Direction::Egress => (&judged.egress, judged.audited[0]),
                        Direction::Ingress => (&judged.ingress, judged.audited[1]),
                    };
                    prop_assert!(is_said(verdict, decision, span.direction), "{span:?}: {judged:?}");
                    prop_assert_eq!(verdict.audited, audited, "{:?}", span);
                    if audited {
                        *seen.entry("audited").or_default() += 1;
                    }
                }
                prop_assert!(span.before.allows() != span.after.allows(), "{span:?} decides nothing");
            }
        }
    }
    Ok(())
}

fn find(
    found: &Diff,
    pair: (usize, usize),
    family: Family,
    (protocol, port): (Option<Protocol>, u16),
) -> Option<&Span> {
    let of_pair =
        |change: &&Change| (change.source, change.destination) == pair && change.families.contains(&family);
    let spans = found.changes.iter().filter(of_pair).flat_map(|change| change.spans.iter());
    let mut matching =
        spans.filter(|span| span.protocol == protocol && (span.first..=span.last).contains(&port));
    let span = matching.next();
    assert!(matching.next().is_none(), "two spans for one packet");
    span
}

fn is_said(verdict: &Verdict, decision: &Decision, direction: Direction) -> bool {
    let origin = verdict.ruling.as_ref().and_then(|ruling| ruling.origin.clone());
    verdict.allows() == (decision.allows() || verdict.audited)
        && match decision {
            Decision::NotJudged => verdict.ruling.is_none(),
            Decision::NotIsolated => origin.is_none(),
            Decision::Denied(isolating) => origin.is_none() && *verdict.isolated_by == **isolating,
            Decision::Allowed(rules) => origin.is_some_and(|of| {
                of.direction == direction
                    && rules.contains(&Allowed { policy: of.policy.clone(), rule: of.rule })
            }),
            Decision::Accepted(by) | Decision::Refused(by) => origin == Some(origin_of(by, direction)),
        }
}
