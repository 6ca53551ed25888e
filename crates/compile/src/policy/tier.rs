//! One ClusterNetworkPolicy, or a policy of another kind in its form, ready to be used by the sets of the pods that it selects.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use sheetbend_model::plan::{Condition, Origin, TierRef};
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, IpBlock, Pod, PodsByLabels, Snapshot,
};
use sheetbend_model::types::{Direction, ObjectKey};

use super::document::{DocumentRule, Uses, canonical_block, canonical_selector, fnv, port_text};
use super::faults::unusable_peer;
use super::matcher::NamespaceLabels;
use super::terms::{NamespaceMatch, TermKey, TermTable, block_text, blocks_text};

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A policy with its peers as terms.
#[derive(Debug)]
pub(crate) struct TierDocument {
    pub(crate) reference: TierRef,
    /// Rules of both directions, in (direction, index) order.
    pub(crate) rules: Vec<(Action, DocumentRule)>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) source: Arc<ClusterNetworkPolicy>,
    pub(crate) uses: Uses,
}

impl TierDocument {
    /// Takes `source`'s terms into force.
    pub(crate) fn new(source: &Arc<ClusterNetworkPolicy>, terms: &mut TermTable) -> Self {
        let mut document = Self {
            reference: TierRef {
                tier: source.tier.clone(),
                priority: source.priority,
                name: source.name.clone(),
                digest: fnv(canonical(source).as_bytes()),
                ingress: !source.ingress.is_empty(),
                egress: !source.egress.is_empty(),
                names: peers(source).any(|peer| matches!(peer, ClusterPeer::Domain(_))),
            },
            rules: Vec::new(),
            conditions: Vec::new(),
            source: source.clone(),
            uses: Uses::default(),
        };
        let whole = source.fault.iter().map(|fault| condition(source, "FailsClosed", fault.to_string()));
        document.conditions.extend(whole);
        for direction in DIRECTIONS {
            for rule in source.rules(direction) {
                let compiled = document.rule(direction, rule, terms);
                document.rules.push((rule.action, compiled));
            }
        }
        document.uses.settle();
        document
    }

    fn rule(&mut self, direction: Direction, rule: &ClusterRule, terms: &mut TermTable) -> DocumentRule {
        if let Some(fault) = &rule.fault {
            let named = if rule.name.is_empty() { String::new() } else { format!(" ({})", rule.name) };
            let text = format!("spec.{direction}[{}]{named} fails closed: {fault}", rule.index);
            self.conditions.push(condition(&self.source, "FailsClosed", text));
        }
        let peers = rule.peers.as_ref().map(|peers| {
            let mut found: Vec<u32> =
                peers.iter().map(|peer| self.uses.term(peer_term(peer), terms)).collect();
            found.sort_unstable();
            found.dedup();
            found
        });
        let unusable = rule.peers.iter().flatten().flat_map(unusable_peer);
        self.conditions.extend(unusable.map(|text| condition(&self.source, "UnusableBlock", text)));
        let ports = self.uses.ports(direction, &rule.ports, terms);
        let origin = Origin { policy: self.source.key(), direction, rule: rule.index };
        DocumentRule { origin, peers, ports }
    }
}

/// Every peer that `policy` names.
fn peers(policy: &ClusterNetworkPolicy) -> impl Iterator<Item = &ClusterPeer> {
    policy.ingress.iter().chain(&policy.egress).flat_map(|rule| rule.peers.iter().flatten())
}

/// Whether `policy` applies to `pod`. One without rules affects nothing.
pub(crate) fn applies(policy: &ClusterNetworkPolicy, pod: &Pod, labels: &NamespaceLabels<'_>) -> bool {
    let has_rules = !(policy.ingress.is_empty() && policy.egress.is_empty());
    has_rules && policy.subject.matches(pod, labels.get())
}

/// The names of the policies that apply to `pod`, sorted.
pub(crate) fn selecting(snapshot: &Snapshot, pod: &Pod) -> Vec<Arc<str>> {
    if snapshot.cluster_policies.is_empty() {
        return Vec::new();
    }
    let labels = NamespaceLabels::of(snapshot, &pod.key.namespace);
    let applying = snapshot.cluster_policies.iter().filter(|(_, policy)| applies(policy, pod, &labels));
    applying.map(|(name, _)| name.clone()).collect()
}

/// A Condition for each policy that shares its place with another one that selects the same pod: the API leaves open
/// which of the two comes first. It names one other; there may be more. `stacks`: the policies of each pod, in order.
pub(crate) fn overlaps<'a, S>(stacks: impl Iterator<Item = S>) -> Vec<Condition>
where
    S: Iterator<Item = &'a TierRef> + Clone,
{
    let mut shared: BTreeMap<&'a TierRef, &'a TierRef> = BTreeMap::new();
    let mut note = |of: &'a TierRef, other: &'a TierRef| {
        let least = shared.entry(of).or_insert(other);
        *least = (*least).min(other);
    };
    for stack in stacks {
        for direction in DIRECTIONS {
            let mut first: Option<&TierRef> = None;
            for tier in stack.clone().filter(|tier| tier.has(direction) && tier.tier.is_standard()) {
                match first {
                    Some(known) if (&known.tier, known.priority) == (&tier.tier, tier.priority) => {
                        note(tier, known);
                        note(known, tier);
                    }
                    _ => first = Some(tier),
                }
            }
        }
    }
    let text = |of: &TierRef, other: &TierRef| {
        format!(
            "priority {} of tier {} is also that of {}, which selects a pod that this one selects; give each its own. \
             Until then the lesser name comes first",
            of.priority, of.tier, other.name
        )
    };
    shared
        .into_iter()
        .map(|(of, other)| Condition {
            kind: "ClusterNetworkPolicy",
            object: ObjectKey::cluster_scoped(of.name.clone()),
            reason: "OverlappingPriority",
            message: text(of, other).into(),
        })
        .collect()
}

fn condition(policy: &ClusterNetworkPolicy, reason: &'static str, message: String) -> Condition {
    let (kind, object) = policy.written_as();
    Condition { kind, object, reason, message: message.into() }
}

fn peer_term(peer: &ClusterPeer) -> TermKey {
    match peer {
        ClusterPeer::Pods(PodsByLabels { namespaces, pods, accounts }) => {
            let namespaces = NamespaceMatch::Labels(canonical_selector(namespaces));
            TermKey::Selector(namespaces, canonical_selector(pods), accounts.clone())
        }
        ClusterPeer::Nodes(selector) => TermKey::Nodes(canonical_selector(selector)),
        ClusterPeer::Network(network) => {
            TermKey::Block(IpBlock { cidr: network.trunc(), except: Vec::new() })
        }
        ClusterPeer::Domain(pattern) => TermKey::Domain(pattern.clone()),
        ClusterPeer::Block(block) => TermKey::Block(canonical_block(block)),
        ClusterPeer::Blocks(blocks) => TermKey::Blocks(blocks.cidrs.clone()),
    }
}

/// The rules as text. Two policies with equal text have equal rules.
fn canonical(policy: &ClusterNetworkPolicy) -> String {
    let mut text = String::new();
    for direction in DIRECTIONS {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{direction}");
        for rule in policy.rules(direction) {
            let _ = write!(text, "{} {}", rule.index, rule.action);
            match &rule.peers {
                None => text.push_str(" every peer;"),
                Some(peers) => {
                    for peer in peers {
                        let _ = match peer {
                            ClusterPeer::Pods(PodsByLabels { namespaces, pods, accounts }) => write!(
                                text,
                                " pods {} of {} in {};",
                                canonical_selector(pods),
                                accounts.join("|"),
                                canonical_selector(namespaces)
                            ),
                            ClusterPeer::Nodes(selector) => {
                                write!(text, " nodes {};", canonical_selector(selector))
                            }
                            ClusterPeer::Network(network) => write!(text, " network {};", network.trunc()),
                            ClusterPeer::Domain(pattern) => write!(text, " domain {pattern};"),
                            ClusterPeer::Block(block) => {
                                write!(text, " block {};", block_text(&canonical_block(block)))
                            }
                            ClusterPeer::Blocks(blocks) => write!(text, " {};", blocks_text(&blocks.cidrs)),
                        };
                    }
                }
            }
            for port in &rule.ports {
                port_text(&mut text, port);
            }
            text.push('\n');
        }
    }
    text
}
