//! Pods that may send something, but not ask for names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Pod, PolicyPort, Snapshot};
use sheetbend_model::types::{Direction, Family, Labels, ObjectKey, Port, Protocol};

use super::{Code, Finding, finding};
use crate::changes::in_namespace;
use crate::policy::tier;
use crate::policy::why::{End, Explainer, Flow, Outcome, rules_of};
use crate::service::explain;

/// Where clusters have their DNS, by custom.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Pods that may send something, while no endpoint of the cluster's DNS can be asked by UDP. Where the DNS is not known,
/// only pods that may send no UDP at all. A pod that may send nothing needs no names.
pub(super) fn unreachable(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let servers = servers(snapshot);
    // Pods with equal labels have equal policies.
    let mut alike: BTreeMap<(&Arc<str>, &Labels), Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods.values().filter(|pod| pod.is_peer()) {
        alike.entry((&pod.key.namespace, &*pod.labels)).or_default().push(pod);
    }
    alike.retain(|_, pods| pods.first().is_some_and(|pod| Egress::of(snapshot, pod).may_be_denied_names()));
    let first = alike.values().filter_map(|pods| pods.first()).map(|pod| &pod.key);
    let explainer = (!servers.is_empty()).then(|| Explainer::new(snapshot, first));
    let mut found: BTreeMap<ObjectKey, (usize, ObjectKey)> = BTreeMap::new();
    for pods in alike.values() {
        let Some(pod) = pods.first() else { continue };
        let egress = Egress::of(snapshot, pod);
        let by = match &explainer {
            Some(explainer) => denied_by(explainer, pod, &servers),
            None if egress.allows_udp || egress.has_tiers => None,
            None => Some(None),
        };
        let Some(policy) = by.and_then(|rule| rule.or(egress.isolated_by)) else { continue };
        found.entry(policy).or_insert_with(|| (0, pod.key.clone())).0 += pods.len();
    }
    let (namespace, name) = SERVICE;
    let (whom, port) = match servers.first() {
        Some(server) => (format!("none of the endpoints of Service {namespace}/{name}"), server.port.get()),
        None => ("nobody".to_owned(), 53),
    };
    for (policy, (count, example)) in found {
        let others = match count {
            1 => String::new(),
            2 => " and 1 other pod".to_owned(),
            count => format!(" and {} other pods", count - 1),
        };
        let text = format!(
            "{example}{others} may send, but to {whom} by UDP, so that names do not resolve; allow egress to the \
             cluster's DNS, UDP and TCP port {port}"
        );
        findings.push(finding(&policy, Code::NoDns, None, text));
    }
}

/// What policies say of a pod's egress, whoever the peer.
#[derive(Default)]
struct Egress {
    /// The first NetworkPolicy that isolates it.
    isolated_by: Option<ObjectKey>,
    /// A rule of these allows something.
    allows_something: bool,
    /// A rule of these allows some UDP.
    allows_udp: bool,
    /// ClusterNetworkPolicies have a say.
    has_tiers: bool,
}

impl Egress {
    fn of(snapshot: &Snapshot, pod: &Pod) -> Self {
        let selecting = tier::selecting(snapshot, pod);
        let mut tiers = selecting.iter().filter_map(|name| snapshot.cluster_policies.get(name));
        let mut egress = Self { has_tiers: tiers.any(|policy| !policy.egress.is_empty()), ..Self::default() };
        let policies = in_namespace(&snapshot.policies, &pod.key.namespace);
        for (key, policy) in policies.filter(|(_, policy)| policy.pod_selector.matches(&pod.labels)) {
            let Some(rules) = rules_of(policy, Direction::Egress) else { continue };
            egress.isolated_by.get_or_insert_with(|| key.clone());
            egress.allows_something |= !rules.is_empty();
            let udp = |port: &PolicyPort| port.protocol == Protocol::Udp;
            egress.allows_udp |= rules.iter().any(|rule| rule.ports.is_empty() || rule.ports.iter().any(udp));
        }
        egress
    }

    /// Whether it may send something, and some policy could be in the way of names.
    fn may_be_denied_names(&self) -> bool {
        if self.isolated_by.is_some() { self.allows_something } else { self.has_tiers }
    }
}

/// An endpoint of the cluster's DNS.
struct Server {
    addr: IpAddr,
    port: Port,
    pod: Option<ObjectKey>,
}

fn servers(snapshot: &Snapshot) -> Vec<Server> {
    let key = ObjectKey::new(SERVICE.0, SERVICE.1);
    let Some(node) = snapshot.nodes.keys().next() else { return Vec::new() };
    if !snapshot.services.contains_key(&key) {
        return Vec::new();
    }
    let explainer = explain::Explainer::new(snapshot, node.clone());
    let Some(explanation) = explainer.one(&key) else { return Vec::new() };
    let choices = explanation.choices.iter().filter(|choice| choice.port.protocol == Protocol::Udp);
    let endpoints = choices.flat_map(|choice| &choice.endpoints);
    endpoints
        .filter_map(|of| {
            Some(Server {
                addr: of.endpoint.address?.to_canonical(),
                port: of.port?,
                pod: of.endpoint.pod.as_ref().map(|(key, _)| key.clone()),
            })
        })
        .collect()
}

/// Whether the pod's egress lets it ask none of `servers`: then the ClusterNetworkPolicy that denies the first, if one
/// does. A server of a family that the pod does not have counts as one that it cannot ask.
fn denied_by(explainer: &Explainer, pod: &Pod, servers: &[Server]) -> Option<Option<ObjectKey>> {
    let mut first: Option<Option<ObjectKey>> = None;
    for server in servers {
        let Some(addr) = pod.address(Family::of(server.addr)) else { continue };
        let flow = Flow {
            source: End { addr, pod: Some(&pod.key), node: None },
            destination: End { addr: server.addr, pod: server.pod.as_ref(), node: None },
            protocol: Some(Protocol::Udp),
            port: server.port.get(),
        };
        let outcome = explainer.explain(&flow).egress.outcome;
        if outcome.allows() {
            return None;
        }
        let Outcome::Ruled(ruling) = outcome else { return None };
        first.get_or_insert(ruling.origin.map(|origin| origin.policy));
    }
    first
}
