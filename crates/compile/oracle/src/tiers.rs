//! ClusterNetworkPolicy, read literally: tier by tier, rule by rule.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, Pod, PodsByLabels, Snapshot, Tier,
};
use sheetbend_model::types::{Direction, DomainPattern};

use crate::Flow;
use crate::policy::{namespace_labels, port_matches};

/// The rule of a ClusterNetworkPolicy, or of a TrafficPolicy of either kind, that decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByTier {
    /// The tier.
    pub tier: Tier,
    /// The policy, as a drop names it.
    pub policy: Arc<str>,
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub rule: u32,
}

/// What one tier says of a flow.
pub(crate) enum Said {
    /// Accept or Deny.
    Decided(Action, ByTier),
    /// Pass, or no rule matches.
    Nothing,
}

/// Asks `tier`: its policies for `subject` by priority, equal ones by name, their rules in order; the first that
/// matches counts.
pub(crate) fn ask(
    snapshot: &Snapshot,
    tier: &Tier,
    direction: Direction,
    subject: &Pod,
    peer: (Option<&Arc<Pod>>, IpAddr),
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> Said {
    let mut policies: Vec<&Arc<ClusterNetworkPolicy>> = snapshot
        .cluster_policies
        .values()
        .filter(|policy| policy.tier == *tier && is_among(snapshot, &policy.subject, subject))
        .collect();
    policies.sort_by_key(|policy| (policy.priority, policy.name.clone()));
    for policy in policies {
        for (index, rule) in (0u32..).zip(policy.rules(direction)) {
            if !rule_matches(snapshot, rule, peer, destination, flow) {
                continue;
            }
            let by = ByTier { tier: tier.clone(), policy: policy.name.clone(), rule: index };
            return match rule.action {
                Action::Pass => Said::Nothing,
                action @ (Action::Accept | Action::Deny) => Said::Decided(action, by),
            };
        }
    }
    Said::Nothing
}

pub(crate) fn is_among(snapshot: &Snapshot, pods: &PodsByLabels, pod: &Pod) -> bool {
    pods.namespaces.matches(&namespace_labels(snapshot, &pod.key.namespace))
        && pods.pods.matches(&pod.labels)
        && (pods.accounts.is_empty() || pods.accounts.contains(&pod.service_account))
}

/// Whether a learnt name that `pattern` is for has the address.
pub(crate) fn is_named(snapshot: &Snapshot, pattern: &DomainPattern, addr: IpAddr) -> bool {
    let mut names = snapshot.learnt_names.iter().filter(|(name, _)| pattern.matches(name));
    names.any(|(_, addresses)| addresses.iter().any(|own| own.to_canonical() == addr.to_canonical()))
}

fn rule_matches(
    snapshot: &Snapshot,
    rule: &ClusterRule,
    (pod, addr): (Option<&Arc<Pod>>, IpAddr),
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> bool {
    let peers = rule.peers.as_ref().is_none_or(|peers| {
        peers.iter().any(|peer| match peer {
            ClusterPeer::Pods(pods) => pod.is_some_and(|pod| is_among(snapshot, pods, pod)),
            ClusterPeer::Nodes(selector) => snapshot
                .nodes
                .values()
                .filter(|node| selector.matches(&node.labels))
                .flat_map(|node| node.addresses.iter().chain(&node.other_addresses))
                .any(|own| own.to_canonical() == addr.to_canonical()),
            ClusterPeer::Network(network) => network.contains(&addr.to_canonical()),
            ClusterPeer::Domain(pattern) => is_named(snapshot, pattern, addr),
            // No ClusterNetworkPolicy has these.
            ClusterPeer::Block(_) | ClusterPeer::Blocks(_) => false,
        })
    });
    peers && (rule.ports.is_empty() || rule.ports.iter().any(|port| port_matches(port, destination, flow)))
}
