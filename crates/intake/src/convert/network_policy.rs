//! NetworkPolicies.

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sheetbend_model::state::{IpBlock, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch};
use sheetbend_model::types::{ObjectKey, Port, PortRange};

use super::protocol_of;

pub(super) fn network_policy(policy: &networking::NetworkPolicy, key: ObjectKey) -> NetworkPolicy {
    let spec = policy.spec.clone().unwrap_or_default();
    let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
    let types = spec.policy_types.unwrap_or_default();
    let named = |word: &str| types.iter().any(|each| each == word);
    // Defaults of networking/v1: Ingress always, Egress where egress rules are written.
    let isolates_ingress = types.is_empty() || named("Ingress");
    let isolates_egress = if types.is_empty() { !egress.is_empty() } else { named("Egress") };
    let ingress =
        || ingress.iter().filter_map(|each| rule(each.from.as_deref(), each.ports.as_deref())).collect();
    let egress =
        || egress.iter().filter_map(|each| rule(each.to.as_deref(), each.ports.as_deref())).collect();
    NetworkPolicy {
        key,
        pod_selector: spec.pod_selector.as_ref().map(super::selector).unwrap_or_default(),
        ingress: isolates_ingress.then(ingress),
        egress: isolates_egress.then(egress),
    }
}

/// `None` where a list had elements and none is understood: an empty list would mean "all".
fn rule(
    peers: Option<&[networking::NetworkPolicyPeer]>,
    ports: Option<&[networking::NetworkPolicyPort]>,
) -> Option<PolicyRule> {
    let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
    let rule = PolicyRule {
        peers: peers.iter().filter_map(peer).collect(),
        ports: ports.iter().filter_map(port).collect(),
    };
    let understood = rule.peers.is_empty() == peers.is_empty() && rule.ports.is_empty() == ports.is_empty();
    understood.then_some(rule)
}

fn peer(peer: &networking::NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let mut except: Vec<_> =
            block.except.iter().flatten().filter_map(|text| super::block(text)).collect();
        except.sort_unstable();
        except.dedup();
        return Some(Peer::Block(IpBlock { cidr: super::block(&block.cidr)?, except }));
    }
    let namespaces = peer.namespace_selector.as_ref().map(super::selector);
    let pods = peer.pod_selector.as_ref().map(super::selector);
    (namespaces.is_some() || pods.is_some()).then_some(Peer::Pods { namespaces, pods })
}

fn port(port: &networking::NetworkPolicyPort) -> Option<PolicyPort> {
    let matched = match (&port.port, port.end_port) {
        (None, _) => PortMatch::All,
        (Some(IntOrString::String(name)), _) => PortMatch::Named(name.as_str().into()),
        (Some(IntOrString::Int(first)), None) => PortMatch::number(Port::try_from(*first).ok()?),
        (Some(IntOrString::Int(first)), Some(last)) => {
            PortMatch::Range(PortRange::new(Port::try_from(*first).ok()?, Port::try_from(last).ok()?)?)
        }
    };
    Some(PolicyPort { protocol: protocol_of(port.protocol.as_deref()), port: matched })
}
