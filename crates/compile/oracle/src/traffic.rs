//! TrafficPolicies of both kinds, read literally: tier by tier, policy by policy, rule by rule.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::traffic::{self, Peer, Policy, Rule, Stage};
use sheetbend_model::state::{Action, Pod, Priority, Snapshot, Tier, TierPlace};
use sheetbend_model::types::Direction;

use crate::Flow;
use crate::policy::{block_matches, port_matches};
use crate::tiers::{ByTier, Said, is_among, is_named};

/// The other end: the pod, if it is one with an address of its own, and the address.
type Other<'a> = (Option<&'a Arc<Pod>>, IpAddr);

/// Asks the tiers of `stage`, by order and name. Before NetworkPolicies, policies whose tier nobody knows come first, and
/// at the end those without a tier, then those of the pod's namespace.
pub(crate) fn ask(
    snapshot: &Snapshot,
    stage: Stage,
    direction: Direction,
    subject: &Pod,
    peer: Other<'_>,
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> Said {
    let mut policies: Vec<(Tier, Priority, Arc<str>, &Policy)> = Vec::new();
    for policy in snapshot.traffic_policies.values() {
        let tier = tier_of(snapshot, policy);
        let is_before = tier.is_before_network_policies();
        if is_before == (stage == Stage::BeforeNetworkPolicies) && selects(snapshot, policy, subject) {
            policies.push((tier, policy.order, policy.called(), policy));
        }
    }
    policies.sort_by(|a, b| (&a.0, a.1, &a.2).cmp(&(&b.0, b.1, &b.2)));
    for of_tier in policies.chunk_by(|a, b| a.0 == b.0) {
        let matching = of_tier.iter().find_map(|(tier, _, called, policy)| {
            let mut rules = (0u32..).zip(policy.rules(direction));
            rules.find_map(|(index, rule)| {
                let action = matches(snapshot, tier, rule, peer, destination, flow)?;
                Some((action, ByTier { tier: tier.clone(), policy: called.clone(), rule: index }))
            })
        });
        match matching {
            Some((Action::Pass, _)) => {}
            Some((action, by)) => return Said::Decided(action, by),
            None => {
                if let Some(by) = denied_at_the_end(snapshot, of_tier, direction) {
                    return Said::Decided(Action::Deny, by);
                }
            }
        }
    }
    Said::Nothing
}

/// The default of a tier, said by the policy of least name that has rules for the direction.
fn denied_at_the_end(
    snapshot: &Snapshot,
    of_tier: &[(Tier, Priority, Arc<str>, &Policy)],
    direction: Direction,
) -> Option<ByTier> {
    let with_rules = of_tier.iter().filter(|(.., policy)| !policy.rules(direction).is_empty());
    let (tier, _, _, policy) = with_rules.min_by_key(|(.., policy)| policy.key.name.clone())?;
    let own = known_tier(snapshot, policy)?;
    let policy = traffic::default_of(&own.name, &policy.key.name);
    own.denies.then(|| ByTier { tier: tier.clone(), policy, rule: 0 })
}

fn known_tier<'a>(snapshot: &'a Snapshot, policy: &Policy) -> Option<&'a Arc<traffic::Tier>> {
    snapshot.traffic_tiers.get(policy.tier.as_ref()?).filter(|tier| tier.fault.is_none())
}

fn tier_of(snapshot: &Snapshot, policy: &Policy) -> Tier {
    if !policy.key.namespace.is_empty() {
        return Tier::Own;
    }
    if policy.fault.is_some() {
        return Tier::Before(TierPlace::default());
    }
    match (&policy.tier, known_tier(snapshot, policy)) {
        (None, _) => Tier::Unnamed,
        (Some(_), None) => Tier::Before(TierPlace::default()),
        (Some(_), Some(tier)) => {
            let place = TierPlace { order: tier.order, name: tier.name.clone() };
            match tier.stage {
                Stage::BeforeNetworkPolicies => Tier::Before(place),
                Stage::AfterNetworkPolicies => Tier::After(place),
            }
        }
    }
}

fn selects(snapshot: &Snapshot, policy: &Policy, pod: &Pod) -> bool {
    if policy.key.namespace.is_empty() {
        return is_among(snapshot, &policy.subject, pod);
    }
    let subject = &policy.subject;
    pod.key.namespace == policy.key.namespace && subject.pods.matches(&pod.labels) && subject.has_account(pod)
}

/// What a rule does with the flow, if it matches.
fn matches(
    snapshot: &Snapshot,
    tier: &Tier,
    rule: &Rule,
    peer: Other<'_>,
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> Option<Action> {
    // It is not known which addresses the rule is for.
    if rule.peers.iter().flatten().any(|peer| is_unknown(snapshot, peer)) {
        return (rule.action != Action::Accept).then_some(Action::Deny);
    }
    let ports = rule.ports.is_empty() || rule.ports.iter().any(|port| port_matches(port, destination, flow));
    let one = |own: &Peer| peer_matches(snapshot, own, ports, peer, flow);
    if !rule.peers.as_ref().map_or(ports, |peers| peers.iter().any(one)) {
        return None;
    }
    let place_is_unknown = *tier == Tier::Before(TierPlace::default());
    match rule.action {
        Action::Accept if place_is_unknown => None,
        Action::Pass if place_is_unknown => Some(Action::Deny),
        action @ (Action::Accept | Action::Deny | Action::Pass) => Some(action),
    }
}

fn is_unknown(snapshot: &Snapshot, peer: &Peer) -> bool {
    match peer {
        Peer::NetworkSet(name) => snapshot.network_sets.get(name).is_none_or(|set| set.fault.is_some()),
        Peer::NetworkSets(selector) => {
            snapshot.network_sets.values().any(|set| selector.matches(&set.labels) && set.fault.is_some())
        }
        Peer::Pods(_) | Peer::Network(_) | Peer::Service(_) | Peer::Domain(_) => false,
    }
}

/// `ports`: whether the rule's ports match. A Service has its own.
fn peer_matches(
    snapshot: &Snapshot,
    own: &Peer,
    ports: bool,
    (pod, addr): Other<'_>,
    flow: &Flow<'_>,
) -> bool {
    let addr = addr.to_canonical();
    let has = |set: &traffic::NetworkSet| set.networks.iter().any(|network| network.contains(&addr));
    match own {
        Peer::Pods(pods) => ports && pod.is_some_and(|pod| is_among(snapshot, pods, pod)),
        Peer::Network(block) => ports && block_matches(block, addr),
        Peer::Domain(pattern) => ports && is_named(snapshot, pattern, addr),
        Peer::NetworkSet(name) => ports && snapshot.network_sets.get(name).is_some_and(|set| has(set)),
        Peer::NetworkSets(selector) => {
            let mut sets = snapshot.network_sets.values();
            ports && sets.any(|set| selector.matches(&set.labels) && has(set))
        }
        Peer::Service(key) => snapshot.endpoint_slices.values().any(|slice| {
            slice.key.namespace == key.namespace
                && slice.service.as_ref() == Some(&key.name)
                && slice.endpoints.iter().any(|of| of.address.is_some_and(|own| own.to_canonical() == addr))
                && slice.ports.iter().any(|port| {
                    flow.protocol.protocol() == Some(port.protocol)
                        && port.port.is_some_and(|number| number.get() == flow.port)
                })
        }),
    }
}
