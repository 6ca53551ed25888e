//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2).

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{LabelSelector, PolicyPort};
use crate::types::Direction;

/// A ClusterNetworkPolicy. It is cluster-scoped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// `spec.tier`.
    pub tier: Tier,
    /// `spec.priority`: the lower, the earlier in its tier.
    pub priority: Priority,
    /// `spec.subject`: the pods that it applies to.
    pub subject: PodsByLabels,
    /// `spec.ingress`, in the order of evaluation. Empty: ingress is not affected.
    pub ingress: Vec<ClusterRule>,
    /// `spec.egress`, in the order of evaluation. Empty: egress is not affected.
    pub egress: Vec<ClusterRule>,
    /// Why the policy as a whole is not followed as written, if so.
    pub fault: Option<Arc<str>>,
}

impl ClusterNetworkPolicy {
    /// The rules of one direction.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// When a policy is evaluated. NetworkPolicies stand between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before NetworkPolicies, which cannot override it.
    Admin,
    /// After them, for pods that no NetworkPolicy isolates.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Admin => "Admin",
            Tier::Baseline => "Baseline",
        })
    }
}

/// Place of a policy in its tier, 0..=1000; 0 comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Priority(u16);

impl Priority {
    /// The last place.
    pub const MAX: u16 = 1_000;

    /// `number` as a priority; `None` above 1000 or below 0.
    pub fn new(number: i32) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| *number <= Self::MAX).map(Self)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Pods by their namespace's labels and their own. hostNetwork pods are never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodsByLabels {
    /// `namespaces`, or `pods.namespaceSelector`.
    pub namespaces: LabelSelector,
    /// `pods.podSelector`; empty where only `namespaces` is given.
    pub pods: LabelSelector,
}

/// One ingress or egress rule: the action for any of `peers` on any of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRule {
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// `action`.
    pub action: Action,
    /// `from` or `to`; `None` = every peer, which only a rule that fails closed has. An empty list matches nothing.
    pub peers: Option<Vec<ClusterPeer>>,
    /// `protocols`. Empty means every IP protocol and port.
    pub ports: Vec<PolicyPort>,
    /// Why the rule is not followed as written, if so: it fails closed.
    pub fault: Option<Arc<str>>,
}

/// What becomes of what a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// It may pass; nothing else is asked.
    Accept,
    /// It is dropped; nothing else is asked.
    Deny,
    /// The rest of this tier is skipped.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        })
    }
}

/// A peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClusterPeer {
    /// `namespaces` or `pods`.
    Pods(PodsByLabels),
    /// `nodes`: the addresses of nodes with these labels. Egress only.
    Nodes(LabelSelector),
    /// An element of `networks`, host bits cleared. Egress only.
    Network(IpNet),
}
