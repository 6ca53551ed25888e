//! Policy sets: the effective rules that pods share.

use std::fmt;
use std::sync::Arc;

use crate::state::{Priority, Tier};
use crate::types::{Direction, ObjectKey, Port, Protocol};

/// A policy in one version of its content: a changed policy is another reference, so that its rules are built
/// beside the old ones and a pod changes over by one write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// The NetworkPolicy.
    pub policy: ObjectKey,
    /// Digest of its rules' canonical text. Equal content has equal digests.
    pub digest: u64,
    /// Whether it isolates its pods for ingress.
    pub ingress: bool,
    /// Whether it isolates its pods for egress.
    pub egress: bool,
}

/// A ClusterNetworkPolicy in one version of its content. The order is that of evaluation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierRef {
    /// Its tier.
    pub tier: Tier,
    /// Its priority.
    pub priority: Priority,
    /// Its name: of two with equal priority the lesser name comes first.
    pub name: Arc<str>,
    /// Digest of its rules' canonical text.
    pub digest: u64,
    /// Whether it has ingress rules.
    pub ingress: bool,
    /// Whether it has egress rules.
    pub egress: bool,
    /// Whether it has peers by domain names.
    pub names: bool,
}

impl TierRef {
    /// Whether it has rules of `direction`.
    pub fn has(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// The policies that select a pod, sorted, with the pod's own numbers for the named ports their ingress rules use.
/// The empty set isolates nothing. Every pod with an equal set has equal verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicySet {
    /// The policies, sorted.
    pub policies: Arc<[PolicyRef]>,
    /// The ClusterNetworkPolicies, in the order of evaluation.
    pub tiers: Arc<[TierRef]>,
    /// (name, protocol, number) for each named port that an ingress rule of these uses and this pod has, sorted.
    pub named_ports: Arc<[(Arc<str>, Protocol, Port)]>,
}

impl PolicySet {
    /// Whether no policy selects the pod.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.tiers.is_empty()
    }

    /// Whether the policy table is asked at all for `direction`.
    pub fn judges(&self, direction: Direction) -> bool {
        self.isolates(direction) || self.has_tiers(direction)
    }

    /// Whether a ClusterNetworkPolicy has rules for `direction`. The table then has a row for every peer and protocol.
    pub fn has_tiers(&self, direction: Direction) -> bool {
        self.tiers.iter().any(|tier| tier.has(direction))
    }

    /// Whether any policy has peers by domain names.
    pub fn has_names(&self) -> bool {
        self.tiers.iter().any(|tier| tier.names)
    }

    /// The policies that isolate the pod in `direction`, sorted; empty = not isolated.
    pub fn isolated_by(&self, direction: Direction) -> impl Iterator<Item = &ObjectKey> {
        self.policies
            .iter()
            .filter(move |policy| match direction {
                Direction::Ingress => policy.ingress,
                Direction::Egress => policy.egress,
            })
            .map(|policy| &policy.policy)
    }

    /// Whether any policy isolates the pod in `direction`.
    pub fn isolates(&self, direction: Direction) -> bool {
        self.isolated_by(direction).next().is_some()
    }
}

impl fmt::Display for PolicySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (index, policy) in self.policies.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{}#{:08x}", policy.policy, policy.digest as u32)?;
        }
        for tier in self.tiers.iter() {
            write!(f, " {}/{}/{}#{:08x}", tier.tier, tier.priority, tier.name, tier.digest as u32)?;
        }
        for (name, protocol, port) in self.named_ports.iter() {
            write!(f, " {name}={port}/{protocol}")?;
        }
        f.write_str(")")
    }
}
