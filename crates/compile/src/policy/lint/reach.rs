//! Whom policies and peers reach now.

use std::sync::Arc;

use sheetbend_model::state::{
    ClusterNetworkPolicy, ClusterPeer, NetworkPolicy, Peer, Pod, PodsByLabels, Snapshot,
};

use super::{Code, DIRECTIONS, Finding, finding, rules};
use crate::changes::in_namespace;
use crate::policy::matcher::NamespaceLabels;

/// The living pods with own addresses that a policy selects.
pub(super) fn selected<'a>(
    snapshot: &'a Snapshot,
    policy: &'a NetworkPolicy,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let pods = in_namespace(&snapshot.pods, &policy.key.namespace).map(|(_, pod)| pod);
    pods.filter(|pod| pod.is_peer() && policy.pod_selector.matches(&pod.labels))
}

/// Those of pods by labels.
pub(super) fn among<'a>(snapshot: &'a Snapshot, by: &'a PodsByLabels) -> impl Iterator<Item = &'a Arc<Pod>> {
    snapshot.pods.values().filter(|pod| {
        pod.is_peer() && by.matches(pod, NamespaceLabels::of(snapshot, &pod.key.namespace).get())
    })
}

/// Those of a peer of `policy`.
pub(super) fn peer_pods<'a>(
    snapshot: &'a Snapshot,
    policy: &'a NetworkPolicy,
    peer: &'a Peer,
) -> Box<dyn Iterator<Item = &'a Arc<Pod>> + 'a> {
    match peer {
        Peer::Block(_) => Box::new(std::iter::empty()),
        Peer::Pods { namespaces: None, pods } => {
            let own = in_namespace(&snapshot.pods, &policy.key.namespace).map(|(_, pod)| pod);
            let matches = |pod: &Pod| pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels));
            Box::new(own.filter(move |pod| pod.is_peer() && matches(pod)))
        }
        Peer::Pods { namespaces: Some(namespaces), pods } => {
            Box::new(snapshot.pods.values().filter(move |pod| {
                pod.is_peer()
                    && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
                    && namespaces.matches(NamespaceLabels::of(snapshot, &pod.key.namespace).get())
            }))
        }
    }
}

pub(super) fn selects_nothing(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.policies.values() {
        if selected(snapshot, policy).next().is_some() {
            continue;
        }
        let of = format!(
            "podSelector {} matches no pod of namespace {}",
            policy.pod_selector, policy.key.namespace
        );
        let on_host = in_namespace(&snapshot.pods, &policy.key.namespace)
            .any(|(_, pod)| pod.host_network && policy.pod_selector.matches(&pod.labels));
        let why = if on_host {
            " but hostNetwork pods, which no policy selects; they are their node"
        } else {
            "; compare the labels, or remove the policy"
        };
        findings.push(finding(&policy.key, Code::SelectsNothing, None, format!("{of}{why}")));
    }
    for policy in snapshot.cluster_policies.values() {
        let key = policy.key();
        let PodsByLabels { namespaces, pods, accounts } = &policy.subject;
        if policy.ingress.is_empty() && policy.egress.is_empty() {
            let text = "has no rules, so it affects nothing; add one, or remove the policy";
            findings.push(finding(&key, Code::SelectsNothing, None, text));
        } else if among(snapshot, &policy.subject).next().is_none() {
            let text = format!(
                "its subject, pods {pods} of namespaces {namespaces}{}, is no pod; compare the labels, or remove the policy",
                of_accounts(accounts)
            );
            findings.push(finding(&key, Code::SelectsNothing, None, text));
        }
    }
}

/// ` with ServiceAccounts a or b`, or nothing.
fn of_accounts(accounts: &[Arc<str>]) -> String {
    if accounts.is_empty() {
        return String::new();
    }
    format!(" with ServiceAccounts {}", accounts.join(" or "))
}

/// Pod peers that nobody is.
pub(super) fn peers(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.policies.values() {
        for (at, rule) in rules(policy) {
            for peer in &rule.peers {
                let Peer::Pods { namespaces, pods } = peer else { continue };
                if peer_pods(snapshot, policy, peer).next().is_some() {
                    continue;
                }
                let pods = pods.clone().unwrap_or_default();
                let of = match namespaces {
                    None => format!("of namespace {}", policy.key.namespace),
                    Some(namespaces) => format!("of namespaces {namespaces}"),
                };
                let text = format!("its peer, pods {pods} {of}, is no pod now");
                findings.push(finding(&policy.key, Code::PeerMatchesNothing, at, text));
            }
        }
    }
    for policy in snapshot.cluster_policies.values() {
        let key = policy.key();
        for direction in DIRECTIONS {
            for rule in policy.rules(direction) {
                for peer in rule.peers.iter().flatten() {
                    let text = match peer {
                        ClusterPeer::Pods(by) if among(snapshot, by).next().is_none() => {
                            format!(
                                "its peer, pods {} of namespaces {}{}, is no pod now",
                                by.pods,
                                by.namespaces,
                                of_accounts(&by.accounts)
                            )
                        }
                        ClusterPeer::Nodes(selector)
                            if !snapshot.nodes.values().any(|node| selector.matches(&node.labels)) =>
                        {
                            format!("its peer, nodes {selector}, is no node now")
                        }
                        ClusterPeer::Blocks(blocks) if blocks.cidrs.is_empty() => {
                            format!("its peer, {}, has no addresses now", blocks.of)
                        }
                        ClusterPeer::Pods(_)
                        | ClusterPeer::Nodes(_)
                        | ClusterPeer::Network(_)
                        | ClusterPeer::Domain(_)
                        | ClusterPeer::Block(_)
                        | ClusterPeer::Blocks(_) => continue,
                    };
                    findings.push(finding(&key, Code::PeerMatchesNothing, (direction, rule.index), text));
                }
            }
        }
    }
}

/// Pairs of equal tier and priority with a common pod and direction: the API leaves open which comes first.
pub(super) fn overlapping_priorities(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let policies = snapshot.cluster_policies.values().filter(|policy| policy.tier.is_standard());
    let policies: Vec<&Arc<ClusterNetworkPolicy>> = policies.collect();
    for (index, one) in policies.iter().enumerate() {
        for other in policies.iter().skip(index + 1) {
            let same_place = (&one.tier, one.priority) == (&other.tier, other.priority);
            let both = |direction| !one.rules(direction).is_empty() && !other.rules(direction).is_empty();
            if !same_place || !DIRECTIONS.into_iter().any(both) {
                continue;
            }
            let labels = |pod: &Pod| NamespaceLabels::of(snapshot, &pod.key.namespace);
            let common =
                among(snapshot, &one.subject).find(|pod| other.subject.matches(pod, labels(pod).get()));
            let Some(pod) = common else { continue };
            let text = format!(
                "priority {} of tier {} is also that of {}, and both select {}; which comes first is open, so give each \
                 its own",
                one.priority, one.tier, other.name, pod.key
            );
            let key = one.key();
            findings.push(finding(&key, Code::OverlappingPriority, None, text));
        }
    }
}
