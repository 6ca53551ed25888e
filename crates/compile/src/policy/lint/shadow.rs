//! Rules that rules before them leave nothing to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use sheetbend_model::state::{ClusterNetworkPolicy, ClusterPeer, ClusterRule, Snapshot, Tier};
use sheetbend_model::types::Direction;

use super::{Code, DIRECTIONS, Finding, cover, finding};
use crate::policy::why::rules_of;

/// Rules of a tier that can never decide: whatever they match, a rule before them has matched, in the same policy or in
/// one of lesser priority that selects all its pods too. Accept, Deny and Pass all end a tier for what they match.
pub(super) fn shadowed(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let tiers: BTreeSet<&Tier> = snapshot.cluster_policies.values().map(|policy| &policy.tier).collect();
    for tier in tiers {
        let policies = snapshot.cluster_policies.values().filter(|policy| policy.tier == *tier);
        let mut policies: Vec<&Arc<ClusterNetworkPolicy>> = policies.collect();
        policies.sort_by_key(|policy| (policy.priority, &policy.name));
        for direction in DIRECTIONS {
            for policy in &policies {
                for rule in policy.rules(direction) {
                    let index = rule.index;
                    // A part of a rule is none of the user's.
                    if policy.rules(direction).iter().filter(|other| other.index == index).count() > 1 {
                        continue;
                    }
                    let before = before(&policies, policy, direction, index);
                    let Some(by) = covering(&before, rule) else { continue };
                    let does = if by.len() == 1 {
                        "matches all that it matches, and comes"
                    } else {
                        "match all that it matches, and come"
                    };
                    let text = format!(
                        "never decides: {} {does} before it in tier {tier}; remove it, or move it up",
                        by.join(" and ")
                    );
                    let key = policy.key();
                    findings.push(finding(&key, Code::ShadowedRule, (direction, index), text));
                }
            }
        }
    }
}

/// Rules that are certainly asked before rule `index` of `policy`, with their names. Which of two policies of equal
/// priority comes first is not certain.
fn before<'a>(
    policies: &[&'a Arc<ClusterNetworkPolicy>],
    policy: &'a ClusterNetworkPolicy,
    direction: Direction,
    index: u32,
) -> Vec<(String, &'a ClusterRule)> {
    let earlier = policies
        .iter()
        .filter(|other| other.priority < policy.priority && cover::pods(&other.subject, &policy.subject));
    let earlier = earlier.flat_map(|other| {
        let rules = other.rules(direction).iter();
        rules.map(|rule| (format!("{} {direction}[{}]", other.name, rule.index), rule))
    });
    let own = policy.rules(direction).iter().take_while(|own| own.index < index);
    earlier.chain(own.map(|rule| (format!("{direction}[{}]", rule.index), rule))).collect()
}

/// The rules of `before` that together match all that `rule` matches.
fn covering(before: &[(String, &ClusterRule)], rule: &ClusterRule) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let peers: Vec<Option<&ClusterPeer>> = match &rule.peers {
        None => vec![None],
        // It matches nobody: another finding.
        Some(peers) if peers.is_empty() => return None,
        Some(peers) => peers.iter().map(Some).collect(),
    };
    for peer in peers {
        let covers = |of: &&(String, &ClusterRule)| match (&of.1.peers, peer) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(general), Some(special)) => general.iter().any(|own| cover::cluster_peer(own, special)),
        };
        let covering: Vec<&(String, &ClusterRule)> = before.iter().filter(covers).collect();
        let ports: Vec<_> = covering.iter().map(|(_, rule)| rule.ports.as_slice()).collect();
        if !cover::ports(&ports, &rule.ports) {
            return None;
        }
        // One that is enough is all that needs to be named.
        let alone = covering.iter().find(|(_, own)| cover::ports(&[&own.ports], &rule.ports));
        let named = alone.map(|one| vec![*one]).unwrap_or(covering);
        for (name, _) in named {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    (!names.is_empty()).then_some(names)
}

/// Rules of a NetworkPolicy that allow nothing which rules before them in the same policy do not allow.
pub(super) fn redundant(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.policies.values() {
        for direction in DIRECTIONS {
            let rules = rules_of(policy, direction).unwrap_or_default();
            for (index, rule) in (0u32..).zip(rules) {
                let before = rules.iter().take(index as usize);
                let everybody = before.clone().filter(|own| own.peers.is_empty());
                let everybody: Vec<_> = everybody.map(|own| own.ports.as_slice()).collect();
                let covered = if rule.peers.is_empty() {
                    cover::ports(&everybody, &rule.ports)
                } else {
                    rule.peers.iter().all(|peer| {
                        let covers = |own: &&sheetbend_model::state::PolicyRule| {
                            own.peers.is_empty() || own.peers.iter().any(|own| cover::peer(own, peer))
                        };
                        let ports: Vec<_> =
                            before.clone().filter(covers).map(|own| own.ports.as_slice()).collect();
                        cover::ports(&ports, &rule.ports)
                    })
                };
                if covered {
                    let text =
                        "allows nothing that the rules before it in this policy do not allow; remove it";
                    findings.push(finding(&policy.key, Code::RedundantRule, (direction, index), text));
                }
            }
        }
    }
}
