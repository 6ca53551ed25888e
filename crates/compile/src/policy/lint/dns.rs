//! Pods that may send something, but not ask for names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Pod, PolicyPort, Snapshot};
use sheetbend_model::types::{Direction, Family, Labels, ObjectKey, Port, Protocol};

use super::{Code, Finding, finding};
use crate::changes::in_namespace;
use crate::policy::tier;
use crate::policy::why::{End, Explainer, Flow, rules_of};
use crate::service::explain;

/// Where clusters have their DNS, by custom.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");

/// Pods whose egress allows something, while no endpoint of the cluster's DNS can be asked by UDP. Where the DNS is not
/// known, only pods that may send no UDP at all. A pod that may send nothing needs no names.
pub(super) fn unreachable(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let servers = servers(snapshot);
    // Pods with equal labels have equal policies.
    let mut alike: BTreeMap<(&Arc<str>, &Labels), Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods.values().filter(|pod| pod.is_peer()) {
        alike.entry((&pod.key.namespace, &*pod.labels)).or_default().push(pod);
    }
    let first: Vec<&Arc<Pod>> = alike.values().filter_map(|pods| pods.first().copied()).collect();
    let asking = first.iter().filter(|pod| Isolation::of(snapshot, pod).is_some());
    let explainer = (!servers.is_empty()).then(|| Explainer::new(snapshot, asking.map(|pod| &pod.key)));
    let mut found: BTreeMap<ObjectKey, (usize, ObjectKey, String)> = BTreeMap::new();
    for pods in alike.values() {
        let Some(pod) = pods.first() else { continue };
        let Some(isolation) = Isolation::of(snapshot, pod) else { continue };
        if !isolation.allows_something {
            continue;
        }
        let what = match &explainer {
            Some(explainer) => {
                if servers.iter().any(|server| can_ask(explainer, pod, server)) {
                    continue;
                }
                let (namespace, name) = SERVICE;
                format!("none of the endpoints of Service {namespace}/{name} by UDP")
            }
            None if isolation.allows_udp || isolation.has_tiers => continue,
            None => "nobody by UDP".to_owned(),
        };
        let entry = found.entry(isolation.policy).or_insert_with(|| (0, pod.key.clone(), what));
        entry.0 += pods.len();
    }
    for (policy, (count, example, what)) in found {
        let others = match count {
            1 => String::new(),
            2 => " and 1 other pod".to_owned(),
            count => format!(" and {} other pods", count - 1),
        };
        let port = servers.first().map_or(53, |server| server.port.get());
        let text = format!(
            "{example}{others} may send, but to {what}, so that names do not resolve; allow egress to the cluster's DNS, \
             UDP and TCP port {port}"
        );
        findings.push(finding(&policy, Code::NoDns, None, text));
    }
}

/// What NetworkPolicies say of a pod's egress.
struct Isolation {
    /// The first that isolates it.
    policy: ObjectKey,
    allows_something: bool,
    allows_udp: bool,
    /// ClusterNetworkPolicies have a say too.
    has_tiers: bool,
}

impl Isolation {
    fn of(snapshot: &Snapshot, pod: &Pod) -> Option<Self> {
        let policies = in_namespace(&snapshot.policies, &pod.key.namespace);
        let selecting = policies.filter(|(_, policy)| policy.pod_selector.matches(&pod.labels));
        let mut isolation: Option<Self> = None;
        for (key, policy) in selecting {
            let Some(rules) = rules_of(policy, Direction::Egress) else { continue };
            let isolation = isolation.get_or_insert_with(|| Self {
                policy: key.clone(),
                allows_something: false,
                allows_udp: false,
                has_tiers: tier::selecting(snapshot, pod)
                    .iter()
                    .filter_map(|name| snapshot.cluster_policies.get(name))
                    .any(|policy| !policy.egress.is_empty()),
            });
            isolation.allows_something |= !rules.is_empty();
            let udp = |port: &PolicyPort| port.protocol == Protocol::Udp;
            isolation.allows_udp |=
                rules.iter().any(|rule| rule.ports.is_empty() || rule.ports.iter().any(udp));
        }
        isolation
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
                addr: of.endpoint.addresses.first()?.to_canonical(),
                port: of.port?,
                pod: of.endpoint.pod.as_ref().map(|(key, _)| key.clone()),
            })
        })
        .collect()
}

/// Whether the pod's egress lets it ask; a pod without an address of the family cannot, and is not told of.
fn can_ask(explainer: &Explainer, pod: &Pod, server: &Server) -> bool {
    let Some(addr) = pod.address(Family::of(server.addr)) else { return pod.addresses.is_empty() };
    let flow = Flow {
        source: End { addr, pod: Some(&pod.key), node: None },
        destination: End { addr: server.addr, pod: server.pod.as_ref(), node: None },
        protocol: Some(Protocol::Udp),
        port: server.port.get(),
    };
    explainer.explain(&flow).egress.outcome.allows()
}
