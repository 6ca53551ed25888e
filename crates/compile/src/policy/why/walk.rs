//! One end's policies in the order of evaluation, with what each rule makes of a packet.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::plan::{Origin, Ruling};
use sheetbend_model::state::{Action, ClusterNetworkPolicy, NetworkPolicy, Pod, PolicyRule, Snapshot};
use sheetbend_model::types::{Direction, Protocol};

use super::miss::{self, Miss, distance};
use super::{Consulted, Effect, Nearest, Policy, Step};
use crate::changes::in_namespace;
use crate::policy::matcher::NamespaceLabels;
use crate::policy::tier;

/// One direction of a packet, seen from the pod that is judged.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) direction: Direction,
    pub(super) peer: Option<&'a Pod>,
    pub(super) peer_addr: IpAddr,
    /// The receiving pod, whose port names count.
    pub(super) destination: Option<&'a Pod>,
    pub(super) protocol: Option<Protocol>,
    pub(super) port: u16,
}

/// What the policies were found to say.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) consulted: Vec<Consulted<'a>>,
    /// Whether it may pass.
    allows: bool,
    /// The rules that say so: one of a tier, or any of the NetworkPolicies'; none where the default holds.
    deciding: Vec<Origin>,
}

impl<'a> Walk<'a> {
    /// Asks the policies of `subject`.
    pub(super) fn new(subject: &'a Pod, asked: &Asked<'a>) -> Self {
        let mut walk = Self { consulted: Vec::new(), allows: true, deciding: Vec::new() };
        let labels = NamespaceLabels::of(asked.snapshot, &subject.key.namespace);
        let policies = asked.snapshot.cluster_policies.values();
        let mut policies: Vec<&Arc<ClusterNetworkPolicy>> = policies
            .filter(|policy| !policy.rules(asked.direction).is_empty())
            .filter(|policy| tier::applies(policy, subject, &labels))
            .collect();
        policies.sort_by_key(|policy| (&policy.tier, policy.priority, &policy.name));
        let before = policies.partition_point(|policy| policy.tier.is_before_network_policies());
        let (before, after) = policies.split_at(before);
        let mut decided = false;
        for of_tier in before.chunk_by(|a, b| a.tier == b.tier) {
            decided |= walk.tier(of_tier, asked, decided);
        }
        decided |= walk.network_policies(subject, asked, decided);
        for of_tier in after.chunk_by(|a, b| a.tier == b.tier) {
            decided |= walk.tier(of_tier, asked, decided);
        }
        walk
    }

    /// Whether the tables say the same.
    pub(super) fn agrees(&self, ruling: &Ruling) -> bool {
        ruling.allows == self.allows
            && match &ruling.origin {
                Some(origin) => self.deciding.contains(origin),
                None => self.deciding.is_empty(),
            }
    }

    /// Marks the rule that the tables name. Of NetworkPolicies several may allow the same, and one is named.
    pub(super) fn name(&mut self, origin: &Origin) {
        for consulted in &mut self.consulted {
            if consulted.policy.key() != origin.policy {
                continue;
            }
            let rule = consulted.rules.iter_mut().find(|step| step.rule == origin.rule);
            if let Some(step) = rule.filter(|step| step.effect == Effect::Matches) {
                step.effect = Effect::Decides;
            }
        }
    }

    /// The rule that would let the packet pass and is nearest to a match.
    pub(super) fn nearest(&self) -> Option<Nearest> {
        let mut nearest: Option<(u32, Nearest)> = None;
        for (policy, consulted) in self.consulted.iter().enumerate() {
            for (rule, step) in consulted.rules.iter().enumerate() {
                let Effect::Missed(misses) = &step.effect else { continue };
                if step.action != Action::Accept {
                    continue;
                }
                let far = distance(misses);
                if nearest.is_none_or(|(least, _)| far < least) {
                    nearest = Some((far, Nearest { policy, rule }));
                }
            }
        }
        nearest.map(|(_, nearest)| nearest)
    }

    /// Asks the policies of one tier, in order, or only names them where all is `decided`. Whether it is then.
    fn tier(&mut self, policies: &[&'a Arc<ClusterNetworkPolicy>], asked: &Asked<'a>, decided: bool) -> bool {
        let (mut found, mut over) = (false, decided);
        for policy in policies {
            let mut rules = Vec::new();
            for rule in policy.rules(asked.direction) {
                let mut effect = Effect::NotAsked;
                if !over {
                    let misses = {
                        let mut misses = miss::of_cluster_peers(asked, rule.peers.as_deref());
                        misses.extend(miss::of_ports(asked, &rule.ports));
                        misses
                    };
                    effect = match (misses.is_empty(), rule.action) {
                        (false, _) => Effect::Missed(misses),
                        (true, Action::Pass) => Effect::Passes,
                        (true, Action::Accept | Action::Deny) => Effect::Decides,
                    };
                }
                match effect {
                    Effect::Passes => over = true,
                    Effect::Decides => {
                        (over, found) = (true, true);
                        self.allows = rule.action == Action::Accept;
                        let (policy, direction) = (policy.key(), asked.direction);
                        self.deciding.push(Origin { policy, direction, rule: rule.index });
                    }
                    Effect::Matches | Effect::Missed(_) | Effect::NotAsked => {}
                }
                rules.push(Step { rule: rule.index, name: &rule.name, action: rule.action, effect });
            }
            self.consulted.push(Consulted { policy: Policy::Cluster(policy), rules });
        }
        found
    }

    /// The same of the NetworkPolicies, of which every rule is asked. Whether one isolates the pod.
    fn network_policies(&mut self, subject: &'a Pod, asked: &Asked<'a>, decided: bool) -> bool {
        let policies = in_namespace(&asked.snapshot.policies, &subject.key.namespace);
        let mut isolated = false;
        for (_, policy) in policies.filter(|(_, policy)| policy.pod_selector.matches(&subject.labels)) {
            let Some(rules) = rules_of(policy, asked.direction) else { continue };
            isolated = true;
            let mut steps = Vec::new();
            for (index, rule) in (0u32..).zip(rules) {
                let misses = network_misses(asked, policy, rule);
                let effect = match (decided, misses.is_empty()) {
                    (true, _) => Effect::NotAsked,
                    (false, true) => Effect::Matches,
                    (false, false) => Effect::Missed(misses),
                };
                if effect == Effect::Matches {
                    let policy = policy.key.clone();
                    self.deciding.push(Origin { policy, direction: asked.direction, rule: index });
                }
                steps.push(Step { rule: index, name: "", action: Action::Accept, effect });
            }
            self.consulted.push(Consulted { policy: Policy::Network(policy), rules: steps });
        }
        if isolated && !decided {
            self.allows = !self.deciding.is_empty();
        }
        isolated
    }
}

/// The rules of one direction; `None` where the policy does not isolate it.
pub(crate) fn rules_of(policy: &NetworkPolicy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

fn network_misses(asked: &Asked<'_>, policy: &NetworkPolicy, rule: &PolicyRule) -> Vec<Miss> {
    let mut misses = miss::of_peers(asked, &policy.key.namespace, &rule.peers);
    misses.extend(miss::of_ports(asked, &rule.ports));
    misses
}
