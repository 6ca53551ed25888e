//! What policies say in vain or cannot mean: findings with stable codes. Only what is certain is found.

mod cover;
mod dns;
mod names;
mod ports;
mod reach;
mod shadow;

use std::fmt;

use sheetbend_model::state::{ClusterPeer, ISOLATION, NetworkPolicy, Peer, Snapshot, traffic};
use sheetbend_model::types::{Direction, ObjectKey};

use super::faults::{unusable_blocks, unusable_peer};
use super::resolved;

/// Both directions, in the order in which findings list them.
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What is wrong. Each has a section in `docs/user/policy-lint.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// A policy that selects no pod.
    SelectsNothing,
    /// A rule of a ClusterNetworkPolicy that can never decide: rules before it in its tier cover it.
    ShadowedRule,
    /// A rule of a NetworkPolicy that rules before it cover.
    RedundantRule,
    /// A named port that no pod has on which the rule would look for it.
    NoSuchPort,
    /// A block inside a node's range of pod addresses.
    BlockOfPods,
    /// Two ClusterNetworkPolicies of one tier and priority that select a common pod.
    OverlappingPriority,
    /// Pods that may send something, but not ask for names.
    NoDns,
    /// A block that no address matches.
    UnusableBlock,
    /// A rule or policy that is not understood and fails closed.
    FailsClosed,
    /// A peer that no pod matches now.
    PeerMatchesNothing,
    /// A domain name that shares an address with one that the rule is not for.
    SharedAddress,
    /// A policy that is staged, and so not enforced.
    Staged,
}

impl Code {
    /// All of them, in order.
    pub const ALL: [Code; 12] = [
        Code::SelectsNothing,
        Code::ShadowedRule,
        Code::RedundantRule,
        Code::NoSuchPort,
        Code::BlockOfPods,
        Code::OverlappingPriority,
        Code::NoDns,
        Code::UnusableBlock,
        Code::FailsClosed,
        Code::PeerMatchesNothing,
        Code::SharedAddress,
        Code::Staged,
    ];

    /// `SBP001`: never given to something else.
    pub fn id(self) -> &'static str {
        match self {
            Code::SelectsNothing => "SBP001",
            Code::ShadowedRule => "SBP002",
            Code::RedundantRule => "SBP003",
            Code::NoSuchPort => "SBP004",
            Code::BlockOfPods => "SBP005",
            Code::OverlappingPriority => "SBP006",
            Code::NoDns => "SBP007",
            Code::UnusableBlock => "SBP008",
            Code::FailsClosed => "SBP009",
            Code::PeerMatchesNothing => "SBP010",
            Code::SharedAddress => "SBP011",
            Code::Staged => "SBP012",
        }
    }

    /// The same as a word.
    pub fn name(self) -> &'static str {
        match self {
            Code::SelectsNothing => "selects-nothing",
            Code::ShadowedRule => "shadowed-rule",
            Code::RedundantRule => "redundant-rule",
            Code::NoSuchPort => "no-such-port",
            Code::BlockOfPods => "block-of-pods",
            Code::OverlappingPriority => "overlapping-priority",
            Code::NoDns => "no-dns",
            Code::UnusableBlock => "unusable-block",
            Code::FailsClosed => "fails-closed",
            Code::PeerMatchesNothing => "peer-matches-nothing",
            Code::SharedAddress => "shared-address",
            Code::Staged => "staged",
        }
    }

    /// How bad it is.
    pub fn level(self) -> Level {
        match self {
            Code::RedundantRule | Code::PeerMatchesNothing | Code::Staged => Level::Info,
            Code::SelectsNothing
            | Code::ShadowedRule
            | Code::NoSuchPort
            | Code::BlockOfPods
            | Code::OverlappingPriority
            | Code::NoDns
            | Code::SharedAddress => Level::Warning,
            Code::UnusableBlock | Code::FailsClosed => Level::Error,
        }
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of no harm; may be meant.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Cannot be what was meant.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        })
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The policy, as a drop names it ([`traffic::written_as`]).
    pub policy: ObjectKey,
    /// What is wrong.
    pub code: Code,
    /// The rule, where it is one's: index in `spec.ingress` or `spec.egress`, from 0.
    pub rule: Option<(Direction, u32)>,
    /// What, why, how to fix.
    pub message: String,
}

/// Everything that is found in `snapshot`, sorted by policy. What labels of Namespaces stand for is known, and has no
/// findings of its own.
pub fn lint(snapshot: &Snapshot) -> Vec<Finding> {
    let snapshot = &resolved(snapshot);
    let mut findings = Vec::new();
    reach::selects_nothing(snapshot, &mut findings);
    reach::peers(snapshot, &mut findings);
    reach::overlapping_priorities(snapshot, &mut findings);
    shadow::shadowed(snapshot, &mut findings);
    shadow::redundant(snapshot, &mut findings);
    ports::named_ports(snapshot, &mut findings);
    dns::unreachable(snapshot, &mut findings);
    names::shared(snapshot, &mut findings);
    blocks(snapshot, &mut findings);
    faults(snapshot, &mut findings);
    staged(snapshot, &mut findings);
    findings.retain(|finding| &*finding.policy.name != ISOLATION);
    // What a tier does at its end is nobody's rule.
    findings.retain(|finding| traffic::written_as(&finding.policy).0 != "TrafficTier");
    findings.sort();
    findings.dedup();
    findings
}

fn finding(
    policy: &ObjectKey,
    code: Code,
    rule: impl Into<Option<(Direction, u32)>>,
    message: impl Into<String>,
) -> Finding {
    Finding { policy: policy.clone(), code, rule: rule.into(), message: message.into() }
}

/// Rules with their direction and index.
fn rules<'a>(
    policy: &'a NetworkPolicy,
) -> impl Iterator<Item = ((Direction, u32), &'a sheetbend_model::state::PolicyRule)> {
    let of = |direction, rules: &'a Option<Vec<_>>| {
        (0u32..).zip(rules.iter().flatten()).map(move |(index, rule)| ((direction, index), rule))
    };
    of(Direction::Ingress, &policy.ingress).chain(of(Direction::Egress, &policy.egress))
}

/// Blocks inside a node's pod range: which pods they mean changes with every pod.
fn blocks(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let inside = |block: &ipnet::IpNet| {
        snapshot.nodes.values().find_map(|node| {
            let range = node.pod_cidrs.iter().find(|range| range.contains(block))?;
            Some(format!(
                "{block} is inside {range}, the pod addresses of node {}; pods get new addresses when they are \
                 made anew, so use podSelector and namespaceSelector",
                node.name
            ))
        })
    };
    for policy in snapshot.policies.values() {
        for (at, rule) in rules(policy) {
            let blocks = rule.peers.iter().filter_map(|peer| match peer {
                Peer::Block(block) => inside(&block.cidr),
                Peer::Pods { .. } => None,
            });
            findings.extend(blocks.map(|text| finding(&policy.key, Code::BlockOfPods, at, text)));
        }
    }
    for policy in snapshot.cluster_policies.values() {
        let key = policy.key();
        for direction in DIRECTIONS {
            for rule in policy.rules(direction) {
                let networks = rule.peers.iter().flatten().filter_map(|peer| match peer {
                    ClusterPeer::Network(network) => inside(network),
                    ClusterPeer::Block(block) => inside(&block.cidr),
                    // A set may be for others too, and endpoints are what they are.
                    ClusterPeer::Pods(_)
                    | ClusterPeer::Nodes(_)
                    | ClusterPeer::Domain(_)
                    | ClusterPeer::Blocks(_) => None,
                });
                let at = (direction, rule.index);
                findings.extend(networks.map(|text| finding(&key, Code::BlockOfPods, at, text)));
            }
        }
    }
}

/// Nothing else is said of them: they do nothing now.
fn staged(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let text = "it is staged: it is not enforced; `sheetbend policy diff --staged` says what it would change";
    findings.extend(snapshot.staged.keys().map(|key| finding(&key, Code::Staged, None, text)));
}

/// What the API takes and we cannot follow as written.
fn faults(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.policies.values() {
        let unusable = unusable_blocks(policy);
        findings.extend(
            unusable.iter().map(|of| finding(&policy.key, Code::UnusableBlock, None, of.message.to_string())),
        );
    }
    for policy in snapshot.cluster_policies.values() {
        let key = policy.key();
        let whole = policy.fault.iter();
        findings.extend(whole.map(|fault| finding(&key, Code::FailsClosed, None, fault.to_string())));
        for direction in DIRECTIONS {
            for rule in policy.rules(direction) {
                let at = (direction, rule.index);
                if let Some(fault) = &rule.fault {
                    let text = format!("the rule fails closed: {fault}");
                    findings.push(finding(&key, Code::FailsClosed, at, text));
                }
                let unusable = rule.peers.iter().flatten().flat_map(unusable_peer);
                findings.extend(unusable.map(|text| finding(&key, Code::UnusableBlock, at, text)));
            }
        }
    }
}
