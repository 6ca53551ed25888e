//! ClusterTrafficPolicy, TrafficPolicy, TrafficTier and NetworkSet (sheetbend.dev/v1alpha1).

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Action, IpBlock, LabelSelector, PodsByLabels, PolicyPort, Priority};
use crate::types::{Direction, DomainPattern, Labels, ObjectKey};

/// The last `order` of a policy, and that of one that gives none.
pub const LAST_ORDER: u16 = 10_000;

const CLUSTER: &str = "ClusterTrafficPolicy/";
const NAMESPACED: &str = "/TrafficPolicy/";
const TIER: &str = "TrafficTier/";

/// A TrafficTier. It is cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tier {
    /// Its name.
    pub name: Arc<str>,
    /// `spec.order`: the lower, the earlier among those of its stage.
    pub order: u32,
    /// `spec.stage`.
    pub stage: Stage,
    /// `spec.defaultAction` is Deny: what no rule of the tier matches is denied for pods that one of its policies
    /// selects, in the directions that it has rules for.
    pub denies: bool,
    /// Why it is not followed as written, if so. It counts as absent.
    pub fault: Option<Arc<str>>,
}

/// On which side of NetworkPolicies a tier stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// Behind ClusterNetworkPolicies of tier Admin; NetworkPolicies cannot override it.
    BeforeNetworkPolicies,
    /// Behind ClusterNetworkPolicies of tier Baseline, for pods that no NetworkPolicy isolates.
    AfterNetworkPolicies,
}

/// A NetworkSet. It is cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSet {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`, by which rules choose it.
    pub labels: Labels,
    /// `spec.networks`, host bits cleared, sorted and without duplicates.
    pub networks: Arc<[IpNet]>,
    /// Why some of what is written is not among them, if so.
    pub fault: Option<Arc<str>>,
}

/// A ClusterTrafficPolicy, or a TrafficPolicy of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `namespace/name`; a ClusterTrafficPolicy has no namespace.
    pub key: ObjectKey,
    /// `spec.tier`: the name of a TrafficTier. A TrafficPolicy has none.
    pub tier: Option<Arc<str>>,
    /// `spec.order`: the lower, the earlier in its tier; of equal ones the lesser name comes first.
    pub order: Priority,
    /// The pods that it applies to. Those of a TrafficPolicy are of its namespace, whatever this says of namespaces.
    pub subject: PodsByLabels,
    /// `spec.ingress`, in the order of evaluation. Empty: ingress is not affected.
    pub ingress: Vec<Rule>,
    /// `spec.egress`, in the order of evaluation. Empty: egress is not affected.
    pub egress: Vec<Rule>,
    /// Why the policy as a whole is not followed as written, if so.
    pub fault: Option<Arc<str>>,
}

impl Policy {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// What a drop and `policy why` call it: `ClusterTrafficPolicy/name` or `namespace/TrafficPolicy/name`. No name in
    /// the API has a slash.
    pub fn called(&self) -> Arc<str> {
        let ObjectKey { namespace, name } = &self.key;
        if namespace.is_empty() {
            format!("{CLUSTER}{name}").into()
        } else {
            format!("{namespace}{NAMESPACED}{name}").into()
        }
    }
}

/// What the default of `tier` is called where `policy` brings a pod into the tier: `TrafficTier/tier/policy`.
pub fn default_of(tier: &str, policy: &str) -> Arc<str> {
    format!("{TIER}{tier}/{policy}").into()
}

/// The kind and object that the user wrote, of a policy as a drop names it.
pub fn written_as(policy: &ObjectKey) -> (&'static str, ObjectKey) {
    let name = &policy.name;
    if !policy.namespace.is_empty() {
        ("NetworkPolicy", policy.clone())
    } else if let Some(name) = name.strip_prefix(CLUSTER) {
        ("ClusterTrafficPolicy", ObjectKey::cluster_scoped(name))
    } else if let Some((namespace, name)) = name.split_once(NAMESPACED) {
        ("TrafficPolicy", ObjectKey::new(namespace, name))
    } else if let Some(tier) = name.strip_prefix(TIER) {
        ("TrafficTier", ObjectKey::cluster_scoped(tier.split('/').next().unwrap_or(tier)))
    } else {
        ("ClusterNetworkPolicy", policy.clone())
    }
}

/// One ingress or egress rule: the action for any of `peers` on any of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// `action`.
    pub action: Action,
    /// `from` or `to`; `None` = every peer. An empty list matches nothing.
    pub peers: Option<Vec<Peer>>,
    /// `protocols`. Empty means every IP protocol and port.
    pub ports: Vec<PolicyPort>,
    /// `log`: what it decides is written into the agent's log. It is no rule that passes.
    pub log: bool,
    /// Why the rule is not followed as written, if so: it fails closed.
    pub fault: Option<Arc<str>>,
}

/// A peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// `pods`: by labels and ServiceAccounts.
    Pods(PodsByLabels),
    /// An element of `networks`, with its exceptions.
    Network(IpBlock),
    /// `networkSets.name`: the addresses of one NetworkSet, which must be there.
    NetworkSet(Arc<str>),
    /// `networkSets.selector`: those of every NetworkSet with these labels.
    NetworkSets(LabelSelector),
    /// `service`: each endpoint of a Service at the ports that the Service has there. Egress only, in rules without
    /// ports.
    Service(ObjectKey),
    /// An element of `domainNames`: the addresses of names that the node's pods have asked for. Egress only, in rules that
    /// Accept.
    Domain(DomainPattern),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn what_a_drop_names_is_found_again() {
        let policy = |key| Policy {
            key,
            tier: None,
            order: Priority::default(),
            subject: PodsByLabels::default(),
            ingress: Vec::new(),
            egress: Vec::new(),
            fault: None,
        };
        for (key, kind, called) in [
            (ObjectKey::cluster_scoped("red"), "ClusterTrafficPolicy", "ClusterTrafficPolicy/red"),
            (ObjectKey::new("shop", "red"), "TrafficPolicy", "shop/TrafficPolicy/red"),
        ] {
            let name = policy(key.clone()).called();
            assert_eq!(&*name, called);
            assert_eq!(written_as(&ObjectKey::cluster_scoped(name)), (kind, key));
        }
        let of = |key| written_as(&key).0;
        assert_eq!(of(ObjectKey::new("shop", "red")), "NetworkPolicy");
        assert_eq!(of(ObjectKey::cluster_scoped("red")), "ClusterNetworkPolicy");
        let default = ObjectKey::cluster_scoped(default_of("security", "red"));
        assert_eq!(written_as(&default), ("TrafficTier", ObjectKey::cluster_scoped("security")));
    }
}
