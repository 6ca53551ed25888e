//! ClusterTrafficPolicies and TrafficPolicies, brought into the form of ClusterNetworkPolicies: tiers, NetworkSets and
//! Services are looked up, and what is not known fails closed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use sheetbend_model::plan::Condition;
use sheetbend_model::state::traffic::{self, NetworkSet, Peer, Policy, Rule, Stage};
use sheetbend_model::state::{
    Action, Blocks, ClusterNetworkPolicy, ClusterPeer, ClusterRule, EndpointSlice, LabelSelector, PolicyPort,
    PortMatch, Priority, Snapshot, Tier, TierPlace,
};
use sheetbend_model::types::{Direction, ObjectKey, Port, Protocol};

use super::faults::unusable_networks;
use crate::changes::in_namespace;

/// The label that names a Namespace (KEP-2161).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

type Policies = OrdMap<ObjectKey, Arc<Policy>>;
type Ordered = OrdMap<Arc<str>, Arc<ClusterNetworkPolicy>>;

/// `cluster` with its TrafficPolicies among the ClusterNetworkPolicies.
pub(crate) fn with_traffic(cluster: &Snapshot) -> Snapshot {
    TrafficPolicies::default().follow(cluster)
}

/// Follows TrafficPolicies of both kinds.
#[derive(Debug, Default)]
pub(crate) struct TrafficPolicies {
    /// The form of each, and of the defaults of tiers.
    forms: BTreeMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// Those of users and these; empty where there are none of these.
    ordered: Ordered,
    /// What they were made of.
    users: Ordered,
    policies: Policies,
    tiers: OrdMap<Arc<str>, Arc<traffic::Tier>>,
    sets: OrdMap<Arc<str>, Arc<NetworkSet>>,
    /// Read only where some rule names a Service.
    slices: OrdMap<ObjectKey, Arc<EndpointSlice>>,
    names_services: bool,
}

impl TrafficPolicies {
    /// `next` with them. Where nothing of theirs changed it costs nothing; else, what there is of them.
    pub(crate) fn follow(&mut self, next: &Snapshot) -> Snapshot {
        if next.traffic_policies.is_empty() {
            *self = Self::default();
            return next.clone();
        }
        let same_policies = self.policies.ptr_eq(&next.traffic_policies);
        let same = same_policies
            && self.tiers.ptr_eq(&next.traffic_tiers)
            && self.sets.ptr_eq(&next.network_sets)
            && (!self.names_services || self.slices.ptr_eq(&next.endpoint_slices));
        if !same {
            self.take(next);
        }
        if !same || !self.users.ptr_eq(&next.cluster_policies) {
            self.users = next.cluster_policies.clone();
            self.ordered = next.cluster_policies.clone();
            self.ordered.extend(self.forms.iter().map(|(name, form)| (name.clone(), form.clone())));
        }
        Snapshot { cluster_policies: self.ordered.clone(), ..next.clone() }
    }

    fn take(&mut self, next: &Snapshot) {
        self.policies = next.traffic_policies.clone();
        self.tiers = next.traffic_tiers.clone();
        self.sets = next.network_sets.clone();
        let policies = || next.traffic_policies.values();
        let peers = policies().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
        let mut peers = peers.flat_map(|rule| rule.peers.iter().flatten());
        self.names_services = peers.any(|peer| matches!(peer, Peer::Service(_)));
        self.slices = if self.names_services { next.endpoint_slices.clone() } else { OrdMap::new() };
        let mut forms = BTreeMap::new();
        for form in policies().flat_map(|policy| forms_of(next, policy)) {
            // The same content keeps the same Arc, so that it is not compiled anew.
            let known = self.forms.get(&form.name).filter(|known| ***known == form);
            let form = known.cloned().unwrap_or_else(|| Arc::new(form));
            forms.insert(form.name.clone(), form);
        }
        self.forms = forms;
    }
}

/// What is wrong with TrafficPolicies by what other objects are, or are not, there: on whichever node.
#[derive(Debug, Default)]
pub struct TrafficFaults(TrafficPolicies);

impl TrafficFaults {
    /// A Condition for each tier and NetworkSet that a policy of `snapshot` names in vain, reason `NotFound`, and for each
    /// network that no address matches, reason `UnusableBlock`.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<Condition> {
        self.0.follow(snapshot);
        self.0.forms.values().flat_map(|form| faults(&self.0.policies, form)).collect()
    }
}

fn faults(policies: &Policies, form: &ClusterNetworkPolicy) -> Vec<Condition> {
    let (kind, object) = form.written_as();
    // What a tier does at its end is nobody's policy.
    let Some(policy) = policies.get(&object).filter(|policy| policy.called() == form.name) else {
        return Vec::new();
    };
    let not_found = |message: String| Condition {
        kind,
        object: object.clone(),
        reason: "NotFound",
        message: message.into(),
    };
    let of_place = form.fault.iter().filter(|_| policy.fault.is_none());
    let mut found: Vec<Condition> = of_place.map(|fault| not_found(fault.to_string())).collect();
    for direction in [Direction::Ingress, Direction::Egress] {
        for rule in form.rules(direction) {
            let written = policy.rules(direction).get(rule.index as usize);
            let is_new = written.is_some_and(|written| written.fault.is_none());
            if let Some(fault) = rule.fault.as_ref().filter(|_| is_new) {
                found.push(not_found(format!("spec.{direction}[{}] fails closed: {fault}", rule.index)));
            }
        }
    }
    found.extend(unusable_networks(form));
    found
}

/// The form of `policy`, and what its tier does at its end.
fn forms_of(snapshot: &Snapshot, policy: &Policy) -> Vec<ClusterNetworkPolicy> {
    let (tier, missing) = place(snapshot, policy);
    let rules = |direction| -> Vec<ClusterRule> {
        let rules = (0u32..).zip(policy.rules(direction));
        let rules = rules.flat_map(|(index, rule)| rules_of(snapshot, index, rule));
        rules.map(|rule| if missing.is_some() { doubtful(rule) } else { rule }).collect()
    };
    let mut subject = policy.subject.clone();
    if !policy.key.namespace.is_empty() {
        let own = [(NAMESPACE_NAME.into(), policy.key.namespace.clone())].into();
        subject.namespaces = LabelSelector { match_labels: own, match_expressions: Vec::new() };
    }
    let form = ClusterNetworkPolicy {
        name: policy.called(),
        tier,
        priority: policy.order,
        subject,
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
        fault: policy.fault.clone().or(missing),
    };
    let default = policy.tier.as_ref().filter(|_| form.fault.is_none());
    let default = default.and_then(|name| snapshot.traffic_tiers.get(name)).filter(|tier| tier.denies);
    let default = default.map(|tier| at_the_end(&tier.name, policy, &form));
    std::iter::once(form).chain(default).collect()
}

/// Denies what is left for pods that `policy` brings into a tier, in the directions that it has rules for.
fn at_the_end(tier: &str, policy: &Policy, form: &ClusterNetworkPolicy) -> ClusterNetworkPolicy {
    let deny = ClusterRule {
        index: 0,
        name: "".into(),
        action: Action::Deny,
        peers: None,
        ports: Vec::new(),
        log: false,
        fault: None,
    };
    let like = |rules: &[ClusterRule]| if rules.is_empty() { Vec::new() } else { vec![deny.clone()] };
    ClusterNetworkPolicy {
        name: traffic::default_of(tier, &policy.key.name),
        tier: form.tier.clone(),
        priority: Priority::END,
        subject: form.subject.clone(),
        ingress: like(&form.ingress),
        egress: like(&form.egress),
        fault: None,
    }
}

/// Where `policy` stands; and what is wrong, if it names a tier that is not there.
fn place(snapshot: &Snapshot, policy: &Policy) -> (Tier, Option<Arc<str>>) {
    let first = || Tier::Before(TierPlace::default());
    if !policy.key.namespace.is_empty() {
        return (Tier::Own, None);
    }
    if policy.fault.is_some() {
        return (first(), None);
    }
    let Some(name) = &policy.tier else { return (Tier::Unnamed, None) };
    let Some(tier) = snapshot.traffic_tiers.get(name).filter(|tier| tier.fault.is_none()) else {
        let text = format!(
            "spec.tier: there is no TrafficTier {name} that can be understood: the policy stands before all other tiers, \
             and only its denials count"
        );
        return (first(), Some(text.into()));
    };
    let place = TierPlace { order: tier.order, name: tier.name.clone() };
    let tier = match tier.stage {
        Stage::BeforeNetworkPolicies => Tier::Before(place),
        Stage::AfterNetworkPolicies => Tier::After(place),
    };
    (tier, None)
}

/// A rule of a policy of which it is not known when it holds: it can only take away.
fn doubtful(rule: ClusterRule) -> ClusterRule {
    match rule.action {
        Action::Accept => ClusterRule { peers: Some(Vec::new()), ..rule },
        Action::Pass | Action::Deny => ClusterRule { action: Action::Deny, ..rule },
    }
}

/// The rules that together are `rule`: a Service's endpoints need not all have the same ports.
fn rules_of(snapshot: &Snapshot, index: u32, rule: &Rule) -> Vec<ClusterRule> {
    let with = |peers, ports| ClusterRule {
        index,
        name: rule.name.clone(),
        action: rule.action,
        peers,
        ports,
        log: rule.log,
        fault: rule.fault.clone(),
    };
    let Some(peers) = &rule.peers else { return vec![with(None, rule.ports.clone())] };
    let (mut plain, mut of_services) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Peer::Pods(pods) => plain.push(ClusterPeer::Pods(pods.clone())),
            Peer::Domain(pattern) => plain.push(ClusterPeer::Domain(pattern.clone())),
            Peer::Network(block) => plain.push(ClusterPeer::Block(block.clone())),
            Peer::NetworkSet(name) => match snapshot.network_sets.get(name) {
                Some(set) if set.fault.is_none() => {
                    plain.push(blocks_of(&format!("NetworkSet {name}"), [set]))
                }
                Some(_) => return vec![unreadable(index, rule, name)],
                None => {
                    let fault = format!("there is no NetworkSet {name}");
                    return vec![ClusterRule::closed(index, rule.name.clone(), Some(rule.action), &fault)];
                }
            },
            Peer::NetworkSets(selector) => {
                let sets = || snapshot.network_sets.values().filter(|set| selector.matches(&set.labels));
                if let Some(set) = sets().find(|set| set.fault.is_some()) {
                    return vec![unreadable(index, rule, &set.name)];
                }
                plain.push(blocks_of(&format!("NetworkSets {selector}"), sets()));
            }
            Peer::Service(key) => of_services.extend(endpoints(snapshot, key)),
        }
    }
    let mut rules = Vec::new();
    if !plain.is_empty() || of_services.is_empty() {
        rules.push(with(Some(plain), rule.ports.clone()));
    }
    rules.extend(of_services.into_iter().map(|(peer, port)| with(Some(vec![peer]), vec![port])));
    rules
}

fn unreadable(index: u32, rule: &Rule, set: &str) -> ClusterRule {
    let fault = format!("NetworkSet {set} has what is no CIDR block");
    ClusterRule::closed(index, rule.name.clone(), Some(rule.action), &fault)
}

fn blocks_of<'a>(of: &str, sets: impl IntoIterator<Item = &'a Arc<NetworkSet>>) -> ClusterPeer {
    let all: BTreeSet<IpNet> = sets.into_iter().flat_map(|set| set.networks.iter().copied()).collect();
    ClusterPeer::Blocks(Blocks { of: of.into(), cidrs: all.into_iter().collect() })
}

/// The endpoints of a Service that have a port, ready or not, for each of its ports.
fn endpoints(snapshot: &Snapshot, service: &ObjectKey) -> Vec<(ClusterPeer, PolicyPort)> {
    let mut by_port: BTreeMap<(Protocol, Port), BTreeSet<IpNet>> = BTreeMap::new();
    for (_, slice) in in_namespace(&snapshot.endpoint_slices, &service.namespace) {
        if slice.service.as_ref() != Some(&service.name) {
            continue;
        }
        let addresses = slice.endpoints.iter().filter_map(|endpoint| endpoint.address);
        let addresses: Vec<IpNet> = addresses.map(|addr| IpNet::from(addr.to_canonical())).collect();
        for port in &slice.ports {
            if let Some(number) = port.port {
                by_port.entry((port.protocol, number)).or_default().extend(&addresses);
            }
        }
    }
    let of: Arc<str> = format!("Service {service}").into();
    let by_port = by_port.into_iter().filter(|(_, addresses)| !addresses.is_empty());
    let peer = |cidrs: BTreeSet<IpNet>| {
        ClusterPeer::Blocks(Blocks { of: of.clone(), cidrs: cidrs.into_iter().collect() })
    };
    by_port
        .map(|((protocol, number), cidrs)| {
            (peer(cidrs), PolicyPort { protocol, port: PortMatch::number(number) })
        })
        .collect()
}
