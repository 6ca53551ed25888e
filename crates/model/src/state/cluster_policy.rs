//! ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), whose form all ordered policies take before they are compiled.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{IpBlock, LabelSelector, Pod, PolicyPort, traffic};
use crate::types::{Direction, DomainPattern, Labels, ObjectKey};

/// A ClusterNetworkPolicy, which is cluster-scoped; or a policy of another kind whose rules have an order, in its form:
/// then `tier` is another than Admin and Baseline, and `name` what [`traffic::Policy::called`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNetworkPolicy {
    /// Its name, unique among all in this form.
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

    /// What a drop names, and `policy why`.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::cluster_scoped(self.name.clone())
    }

    /// The kind and object that the user wrote.
    pub fn written_as(&self) -> (&'static str, ObjectKey) {
        traffic::written_as(&self.key())
    }
}

/// When a policy is evaluated, in this order. NetworkPolicies stand between `Own` and `Baseline`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before all else, which cannot override it.
    Admin,
    /// A TrafficTier of stage BeforeNetworkPolicies.
    Before(TierPlace),
    /// ClusterTrafficPolicies that name no tier.
    Unnamed,
    /// TrafficPolicies of namespaces.
    Own,
    /// After NetworkPolicies, for pods that none of them isolates.
    Baseline,
    /// A TrafficTier of stage AfterNetworkPolicies, for those pods too.
    After(TierPlace),
}

/// Where a TrafficTier stands among those of its stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TierPlace {
    /// `spec.order`: the lower, the earlier.
    pub order: u32,
    /// Its name: of two with equal order the lesser name comes first. Empty: where policies stand whose tier is not known.
    pub name: Arc<str>,
}

impl Tier {
    /// Whether NetworkPolicies come after it.
    pub fn is_before_network_policies(&self) -> bool {
        *self < Tier::Baseline
    }

    /// Whether it is one of ClusterNetworkPolicies, in which the order of equal priorities is open.
    pub fn is_standard(&self) -> bool {
        matches!(self, Tier::Admin | Tier::Baseline)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tier::Admin => f.write_str("Admin"),
            Tier::Unnamed => f.write_str("(none)"),
            Tier::Own => f.write_str("(namespace)"),
            Tier::Baseline => f.write_str("Baseline"),
            Tier::Before(place) | Tier::After(place) if place.name.is_empty() => f.write_str("(unknown)"),
            Tier::Before(place) | Tier::After(place) => f.write_str(&place.name),
        }
    }
}

/// Place of a policy in its tier; 0 comes first. 0..=1000 for a ClusterNetworkPolicy, `order` for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Priority(u16);

impl Priority {
    /// The last place.
    pub const MAX: u16 = 1_000;

    /// `number` as a priority; `None` above 1000 or below 0.
    pub fn new(number: i32) -> Option<Self> {
        u16::try_from(number).ok().filter(|number| *number <= Self::MAX).map(Self)
    }

    /// The place of what a tier does at its end.
    pub const END: Self = Self(u16::MAX);

    /// The place of `order`, at most [`traffic::LAST_ORDER`].
    pub fn of_order(order: u16) -> Self {
        Self(order.min(traffic::LAST_ORDER))
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
    /// Names of ServiceAccounts of which the pod has one, sorted; empty = any.
    pub accounts: Vec<Arc<str>>,
}

impl PodsByLabels {
    /// Whether `pod`, of a namespace with `labels`, is among them. Whether it has an address of its own is not asked.
    pub fn matches(&self, pod: &Pod, labels: &Labels) -> bool {
        self.pods.matches(&pod.labels) && self.has_account(pod) && self.namespaces.matches(labels)
    }

    /// Whether `pod` has one of the ServiceAccounts.
    pub fn has_account(&self, pod: &Pod) -> bool {
        self.accounts.is_empty() || self.accounts.contains(&pod.service_account)
    }
}

/// One ingress or egress rule: the action for any of `peers` on any of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRule {
    /// Index of the rule as written, in `spec.ingress` or `spec.egress`, from 0. Several that follow one another may have
    /// the same: together they are that rule.
    pub index: u32,
    /// `name`; may be empty.
    pub name: Arc<str>,
    /// `action`.
    pub action: Action,
    /// `from` or `to`; `None` = every peer, which only a rule that fails closed has. An empty list matches nothing.
    pub peers: Option<Vec<ClusterPeer>>,
    /// `protocols`. Empty means every IP protocol and port.
    pub ports: Vec<PolicyPort>,
    /// Whether what it decides is written into the agent's log; of other kinds of policies.
    pub log: bool,
    /// Why the rule is not followed as written, if so: it fails closed.
    pub fault: Option<Arc<str>>,
}

impl ClusterRule {
    /// A rule that is not followed as written: an Accept matches nothing, all else denies everything.
    pub fn closed(index: u32, name: Arc<str>, action: Option<Action>, fault: &str) -> Self {
        let (action, peers, effect) = match action {
            Some(Action::Accept) => (Action::Accept, Some(Vec::new()), "it accepts nothing"),
            Some(Action::Deny | Action::Pass) | None => (Action::Deny, None, "it denies everything"),
        };
        let fault = Some(format!("{fault}; {effect}").into());
        Self { index, name, action, peers, ports: Vec::new(), log: false, fault }
    }
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
    /// An element of `domainNames`: the addresses of names that the node's pods have asked for. Egress only, in rules that
    /// Accept.
    Domain(DomainPattern),
    /// A block with exceptions; of other kinds of policies.
    Block(IpBlock),
    /// Many blocks at once; of other kinds of policies.
    Blocks(Blocks),
}

/// The addresses of NetworkSets, or of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Blocks {
    /// What they are, for people: `network sets team=red`, `Service shop/web`.
    pub of: Arc<str>,
    /// The blocks, host bits cleared, sorted and without duplicates.
    pub cidrs: Arc<[IpNet]>,
}
