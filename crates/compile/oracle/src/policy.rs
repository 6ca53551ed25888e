//! Policy of one flow, read literally: the order of all kinds, and NetworkPolicy; ClusterNetworkPolicy in
//! [`crate::tiers`], TrafficPolicies in [`crate::traffic`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::traffic::Stage;
use sheetbend_model::state::{
    Action, ISOLATION, IpBlock, LabelSelector, NetworkPolicy, Peer, Pod, PolicyPort, PolicyRule, PortMatch,
    Snapshot, Tier,
};
use sheetbend_model::types::{Direction, Labels, ObjectKey};

use crate::L4;
use crate::tiers::{self, ByTier, Said};
use crate::traffic;

/// The first packet of a flow, behind Service translation and before our SNAT.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Source address.
    pub source: IpAddr,
    /// The pod that sends; `None` = whoever has the address.
    pub source_pod: Option<&'a ObjectKey>,
    /// Destination address.
    pub destination: IpAddr,
    /// The pod that receives; `None` = whoever has the address.
    pub destination_pod: Option<&'a ObjectKey>,
    /// What it carries.
    pub protocol: L4,
    /// Destination port; not read for ICMP.
    pub port: u16,
}

/// A rule that allows a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allowed {
    /// The NetworkPolicy.
    pub policy: ObjectKey,
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub rule: u32,
}

/// What one end's policies say of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// That end is no pod with policies of its own (world, node, hostNetwork, or the pod itself at both ends).
    NotJudged,
    /// No policy isolates the pod in this direction.
    NotIsolated,
    /// These rules allow it, in (policy, rule) order; the first is the one events name.
    Allowed(Vec<Allowed>),
    /// Default deny: these policies isolate the pod and no rule of theirs allows it. Sorted.
    Denied(Vec<ObjectKey>),
    /// A rule of a ClusterNetworkPolicy or TrafficPolicy accepts it.
    Accepted(ByTier),
    /// A rule of a ClusterNetworkPolicy or TrafficPolicy denies it, or the default of a TrafficTier.
    Refused(ByTier),
}

impl Decision {
    /// Whether the flow may pass this end.
    pub fn allows(&self) -> bool {
        !matches!(self, Decision::Denied(_) | Decision::Refused(_))
    }
}

/// What both ends say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Each end allows it, or its pod is in audit.
    pub allowed: bool,
    /// Which ends deny it to a pod in audit, so that it passes them: egress, ingress.
    pub audited: [bool; 2],
    /// The source pod's egress.
    pub egress: Decision,
    /// The destination pod's ingress.
    pub ingress: Decision,
}

/// The live pod with an address of its own that has `addr`. Of several (one is about to go), one that is not
/// terminating, then the least key.
pub fn pod_at(snapshot: &Snapshot, addr: IpAddr) -> Option<&Arc<Pod>> {
    let addr = addr.to_canonical();
    snapshot
        .pods
        .values()
        .filter(|pod| pod.is_peer() && pod.addresses.iter().any(|own| own.to_canonical() == addr))
        .min_by_key(|pod| (pod.terminating, pod.key.clone()))
}

/// Judges `flow` by every policy of the Snapshot. A pod always reaches itself. That a node always reaches its own pods
/// is not decided here: the caller knows who made the packet ([`crate::expect()`]).
pub fn networkpolicy(snapshot: &Snapshot, flow: &Flow<'_>) -> Judgement {
    let source = end(snapshot, flow.source_pod, flow.source);
    let destination = end(snapshot, flow.destination_pod, flow.destination);
    if let (Some(source), Some(destination)) = (source, destination)
        && source.key == destination.key
    {
        let (egress, ingress) = (Decision::NotJudged, Decision::NotJudged);
        return Judgement { allowed: true, audited: [false; 2], egress, ingress };
    }
    let egress =
        judge(snapshot, Direction::Egress, source, (destination, flow.destination), destination, flow);
    let ingress = judge(snapshot, Direction::Ingress, destination, (source, flow.source), destination, flow);
    let audited = [(&egress, source), (&ingress, destination)]
        .map(|(decision, pod)| !decision.allows() && pod.is_some_and(|pod| is_in_audit(snapshot, pod)));
    let allowed = (egress.allows() || audited[0]) && (ingress.allows() || audited[1]);
    Judgement { allowed, audited, egress, ingress }
}

/// All pods are, or all of its namespace.
fn is_in_audit(snapshot: &Snapshot, pod: &Pod) -> bool {
    let mut namespaces = snapshot.namespaces.values();
    snapshot.audit || namespaces.any(|namespace| namespace.audit && namespace.name == pod.key.namespace)
}

fn end<'a>(snapshot: &'a Snapshot, pod: Option<&ObjectKey>, addr: IpAddr) -> Option<&'a Arc<Pod>> {
    match pod {
        Some(key) => snapshot.pods.get(key).filter(|pod| pod.is_peer()),
        None => pod_at(snapshot, addr),
    }
}

/// Judges one direction of `subject` with `peer`; named ports are those of `destination`.
fn judge(
    snapshot: &Snapshot,
    direction: Direction,
    subject: Option<&Arc<Pod>>,
    peer: (Option<&Arc<Pod>>, IpAddr),
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> Decision {
    let Some(subject) = subject else { return Decision::NotJudged };
    let standard = |tier| tiers::ask(snapshot, tier, direction, subject, peer, destination, flow);
    let traffic = |stage| traffic::ask(snapshot, stage, direction, subject, peer, destination, flow);
    if let Said::Decided(action, by) = standard(&Tier::Admin) {
        return decided(action, by);
    }
    if let Said::Decided(action, by) = traffic(Stage::BeforeNetworkPolicies) {
        return decided(action, by);
    }
    let isolation = isolation(snapshot, direction, subject, peer, destination, flow);
    if isolation != Decision::NotIsolated {
        return isolation;
    }
    if let Said::Decided(action, by) = standard(&Tier::Baseline) {
        return decided(action, by);
    }
    match traffic(Stage::AfterNetworkPolicies) {
        Said::Decided(action, by) => decided(action, by),
        Said::Nothing => isolation,
    }
}

fn decided(action: Action, by: ByTier) -> Decision {
    if action == Action::Accept { Decision::Accepted(by) } else { Decision::Refused(by) }
}

/// What the NetworkPolicies alone say.
fn isolation(
    snapshot: &Snapshot,
    direction: Direction,
    subject: &Pod,
    peer: (Option<&Arc<Pod>>, IpAddr),
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> Decision {
    let (mut isolating, mut allowing) = (Vec::new(), Vec::new());
    for policy in snapshot.policies.values() {
        if policy.key.namespace != subject.key.namespace || !policy.pod_selector.matches(&subject.labels) {
            continue;
        }
        let Some(rules) = rules(policy, direction) else { continue };
        isolating.push(policy.key.clone());
        for (index, rule) in (0u32..).zip(rules) {
            if rule_allows(snapshot, policy, rule, peer, destination, flow) {
                allowing.push(Allowed { policy: policy.key.clone(), rule: index });
            }
        }
    }
    if let Some(rules) = crate::isolation::allowing(snapshot, direction, subject, peer, flow) {
        let key = ObjectKey::new(subject.key.namespace.clone(), ISOLATION);
        allowing.extend(rules.into_iter().map(|rule| Allowed { policy: key.clone(), rule }));
        isolating.push(key);
    }
    allowing.sort_unstable();
    allowing.dedup();
    isolating.sort_unstable();
    isolating.dedup();
    match (isolating.is_empty(), allowing.is_empty()) {
        (true, _) => Decision::NotIsolated,
        (false, true) => Decision::Denied(isolating),
        (false, false) => Decision::Allowed(allowing),
    }
}

fn rules(policy: &NetworkPolicy, direction: Direction) -> Option<&[PolicyRule]> {
    match direction {
        Direction::Ingress => policy.ingress.as_deref(),
        Direction::Egress => policy.egress.as_deref(),
    }
}

fn rule_allows(
    snapshot: &Snapshot,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
    (pod, addr): (Option<&Arc<Pod>>, IpAddr),
    destination: Option<&Arc<Pod>>,
    flow: &Flow<'_>,
) -> bool {
    let peers = rule.peers.is_empty()
        || rule.peers.iter().any(|peer| match peer {
            Peer::Block(block) => block_matches(block, addr),
            Peer::Pods { namespaces, pods } => pod.is_some_and(|pod| {
                namespace_matches(snapshot, policy, namespaces.as_ref(), pod)
                    && pods.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
            }),
        });
    let ports = rule.ports.is_empty() || rule.ports.iter().any(|port| port_matches(port, destination, flow));
    peers && ports
}

fn namespace_matches(
    snapshot: &Snapshot,
    policy: &NetworkPolicy,
    selector: Option<&LabelSelector>,
    pod: &Pod,
) -> bool {
    match selector {
        None => pod.key.namespace == policy.key.namespace,
        Some(selector) => selector.matches(&namespace_labels(snapshot, &pod.key.namespace)),
    }
}

/// A Namespace's labels. One whose object is not in the Snapshot (a directory of manifests may leave it out) has the
/// label that every Namespace has.
pub(crate) fn namespace_labels(snapshot: &Snapshot, namespace: &Arc<str>) -> Labels {
    match snapshot.namespaces.get(namespace) {
        Some(known) => known.labels.clone(),
        None => BTreeMap::from([(Arc::from("kubernetes.io/metadata.name"), namespace.clone())]),
    }
}

pub(crate) fn block_matches(block: &IpBlock, addr: IpAddr) -> bool {
    let addr = addr.to_canonical();
    block.cidr.contains(&addr) && !block.except.iter().any(|except| except.contains(&addr))
}

pub(crate) fn port_matches(port: &PolicyPort, destination: Option<&Arc<Pod>>, flow: &Flow<'_>) -> bool {
    if flow.protocol.protocol() != Some(port.protocol) {
        return false;
    }
    match &port.port {
        PortMatch::All => true,
        PortMatch::Range(range) => (range.first().get()..=range.last().get()).contains(&flow.port),
        PortMatch::Named(name) => destination.is_some_and(|pod| {
            pod.named_ports(name, port.protocol).iter().any(|number| number.get() == flow.port)
        }),
    }
}
