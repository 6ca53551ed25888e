//! Named ports that exist nowhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use sheetbend_model::state::{ClusterPeer, Pod, PolicyPort, PortMatch, Snapshot};
use sheetbend_model::types::{Direction, Protocol};

use super::reach::{among, peer_pods, selected};
use super::{Code, DIRECTIONS, Finding, finding, rules};

/// Rules with a port name that no pod has on which they would look for it: the selected pods for ingress, the peers for
/// egress. Without any such pod there is nothing to say here.
pub(super) fn named_ports(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.policies.values() {
        for (at, rule) in rules(policy) {
            if names(&rule.ports).is_empty() {
                continue;
            }
            let pods: Vec<&Arc<Pod>> = match at.0 {
                Direction::Ingress => selected(snapshot, policy).collect(),
                Direction::Egress if rule.peers.iter().all(is_pods) && !rule.peers.is_empty() => {
                    rule.peers.iter().flat_map(|peer| peer_pods(snapshot, policy, peer)).collect()
                }
                // A block may hold any pod.
                Direction::Egress => everybody(snapshot),
            };
            let absent = absent(&rule.ports, &pods, at.0);
            findings.extend(absent.map(|text| finding(&policy.key, Code::NoSuchPort, at, text)));
        }
    }
    for policy in snapshot.cluster_policies.values() {
        let key = policy.key();
        for direction in DIRECTIONS {
            for rule in policy.rules(direction) {
                if names(&rule.ports).is_empty() {
                    continue;
                }
                let peers = rule.peers.iter().flatten();
                let only_pods = peers.clone().all(|peer| matches!(peer, ClusterPeer::Pods(_)));
                let pods: Vec<&Arc<Pod>> = match direction {
                    Direction::Ingress => among(snapshot, &policy.subject).collect(),
                    Direction::Egress if only_pods && rule.peers.is_some() => peers
                        .flat_map(|peer| match peer {
                            ClusterPeer::Pods(by) => among(snapshot, by).collect(),
                            ClusterPeer::Nodes(_)
                            | ClusterPeer::Network(_)
                            | ClusterPeer::Domain(_)
                            | ClusterPeer::Block(_)
                            | ClusterPeer::Blocks(_) => Vec::new(),
                        })
                        .collect(),
                    Direction::Egress => everybody(snapshot),
                };
                let absent = absent(&rule.ports, &pods, direction);
                let at = (direction, rule.index);
                findings.extend(absent.map(|text| finding(&key, Code::NoSuchPort, at, text)));
            }
        }
    }
}

fn is_pods(peer: &sheetbend_model::state::Peer) -> bool {
    matches!(peer, sheetbend_model::state::Peer::Pods { .. })
}

fn everybody(snapshot: &Snapshot) -> Vec<&Arc<Pod>> {
    snapshot.pods.values().filter(|pod| pod.is_peer()).collect()
}

/// Port name → protocols that the rule asks for.
fn names(ports: &[PolicyPort]) -> BTreeMap<&Arc<str>, Vec<Protocol>> {
    let mut names: BTreeMap<&Arc<str>, Vec<Protocol>> = BTreeMap::new();
    for port in ports {
        if let PortMatch::Named(name) = &port.port {
            names.entry(name).or_default().push(port.protocol);
        }
    }
    names
}

fn absent<'a>(
    ports: &'a [PolicyPort],
    pods: &'a [&'a Arc<Pod>],
    direction: Direction,
) -> impl Iterator<Item = String> + 'a {
    let whose = match direction {
        Direction::Ingress => "selects",
        Direction::Egress => "is for",
    };
    let names = if pods.is_empty() { BTreeMap::new() } else { names(ports) };
    names.into_iter().filter_map(move |(name, protocols)| {
        let has = |protocol: Protocol| pods.iter().any(|pod| !pod.named_ports(name, protocol).is_empty());
        if protocols.iter().any(|protocol| has(*protocol)) {
            return None;
        }
        let asked = protocols.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        let other = Protocol::ALL.into_iter().find(|protocol| has(*protocol));
        let hint = match other {
            Some(other) => format!("; it exists for {other}: write protocol: {other}"),
            None => "; compare the names in containers[].ports, or write the number".to_owned(),
        };
        Some(format!("no pod that it {whose} has a {asked} port named {name}{hint}"))
    })
}
