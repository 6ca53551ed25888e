//! ClusterNetworkPolicies. What is not understood fails closed, as the API's comments on peers say: an Accept matches
//! nothing, a Deny or Pass denies everything.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, LabelSelector, PodsByLabels, PolicyPort,
    PortMatch, Priority, Tier,
};
use sheetbend_model::types::{Direction, DomainPattern, Port, PortRange, Protocol};

use crate::resources;
use crate::resources::{DestinationPort, NamespacedPod, NetworkPolicyPeer, ProtocolMatch, TransportMatch};

/// Why a rule is not understood.
pub(super) type Fault = String;

pub(super) fn policy(policy: &resources::ClusterNetworkPolicy) -> ClusterNetworkPolicy {
    let spec = policy.spec.clone().unwrap_or_default();
    let tier = match spec.tier.as_str() {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        _ => None,
    };
    let priority = spec.priority.and_then(Priority::new);
    let subject = spec.subject.unwrap_or_default();
    let subject = pods(subject.namespaces.as_ref(), subject.pods.as_ref());
    let fault = match (&tier, priority, &subject) {
        (None, ..) => Some("spec.tier is neither Admin nor Baseline".to_owned()),
        (_, None, _) => Some("spec.priority is not from 0 to 1000".to_owned()),
        (.., Err(fault)) => Some(format!("spec.subject: {fault}")),
        _ => None,
    };
    let rules = |direction, rules: Option<Vec<resources::Rule>>| -> Vec<ClusterRule> {
        let rules = (0u32..).zip(rules.into_iter().flatten());
        let rules = rules.map(|(index, one)| rule(direction, index, &one));
        rules.map(|rule| if fault.is_some() { doubtful(rule) } else { rule }).collect()
    };
    ClusterNetworkPolicy {
        name: policy.metadata.name.as_deref().unwrap_or_default().into(),
        // Before all others and for every pod, where it is not known for whom and when.
        tier: tier.unwrap_or(Tier::Admin),
        priority: priority.unwrap_or_default(),
        subject: subject.unwrap_or_default(),
        ingress: rules(Direction::Ingress, spec.ingress),
        egress: rules(Direction::Egress, spec.egress),
        fault: fault.map(|fault| {
            format!("{fault}: the policy stands before all others, for every pod, and only its denials count")
                .into()
        }),
    }
}

/// A rule of a policy of which it is not known for whom and when it holds: it can only take away.
fn doubtful(rule: ClusterRule) -> ClusterRule {
    match rule.action {
        Action::Accept => ClusterRule { peers: Some(Vec::new()), ..rule },
        Action::Pass | Action::Deny => ClusterRule { action: Action::Deny, ..rule },
    }
}

fn rule(direction: Direction, index: u32, rule: &resources::Rule) -> ClusterRule {
    let name: Arc<str> = rule.name.as_deref().unwrap_or_default().into();
    let action = match rule.action.as_str() {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        _ => None,
    };
    let understood = match action {
        Some(action) => parts(direction, action, rule).map(|(peers, ports)| (action, peers, ports)),
        None => Err("action is none of Accept, Deny and Pass".to_owned()),
    };
    match understood {
        Ok((action, peers, ports)) => {
            ClusterRule { index, name, action, peers: Some(peers), ports, log: false, fault: None }
        }
        Err(fault) => ClusterRule::closed(index, name, action, &fault),
    }
}

type Parts = (Vec<ClusterPeer>, Vec<PolicyPort>);

fn parts(direction: Direction, action: Action, rule: &resources::Rule) -> Result<Parts, Fault> {
    let (written, field, other) = match direction {
        Direction::Ingress => (&rule.from, "from", &rule.to),
        Direction::Egress => (&rule.to, "to", &rule.from),
    };
    let written = written.as_deref().unwrap_or_default();
    if written.is_empty() || other.is_some() {
        return Err(format!("it must have {field}, with at least one peer, and nothing else in its place"));
    }
    let (mut peers, mut only_pods) = (Vec::new(), true);
    for peer in written {
        only_pods &= peer.networks.is_none() && peer.nodes.is_none() && peer.domain_names.is_none();
        peers.extend(self::peers(direction, action, peer)?);
    }
    let mut ports = Vec::new();
    for protocol in rule.protocols.iter().flatten() {
        if protocol.destination_named_port.is_some() && !only_pods {
            return Err("networks, nodes and domainNames have no named ports".to_owned());
        }
        ports.extend(self::ports(protocol)?);
    }
    if rule.protocols.is_some() && ports.is_empty() {
        return Err("protocols is an empty list".to_owned());
    }
    Ok((peers, ports))
}

fn peers(direction: Direction, action: Action, peer: &NetworkPolicyPeer) -> Result<Vec<ClusterPeer>, Fault> {
    let NetworkPolicyPeer { namespaces, pods, nodes, networks, domain_names } = peer;
    let is_egress = direction == Direction::Egress;
    if let (Some(names), None, None, None, None, true) =
        (domain_names, namespaces, pods, nodes, networks, is_egress)
    {
        return Ok(domains(action, names)?.into_iter().map(ClusterPeer::Domain).collect());
    }
    if domain_names.is_some() {
        return Err("domainNames stand beside another kind, or in an ingress rule".to_owned());
    }
    match (namespaces, pods, nodes, networks) {
        (Some(_), None, None, None) | (None, Some(_), None, None) => {
            Ok(vec![ClusterPeer::Pods(self::pods(namespaces.as_ref(), pods.as_ref())?)])
        }
        (None, None, Some(nodes), None) if is_egress => Ok(vec![ClusterPeer::Nodes(selector(nodes)?)]),
        (None, None, None, Some(networks)) if is_egress && !networks.is_empty() => networks
            .iter()
            .map(|text| {
                let network =
                    super::block(text).ok_or_else(|| format!("network {text:?} is no CIDR block"))?;
                Ok(ClusterPeer::Network(network))
            })
            .collect(),
        _ => Err("a peer is not exactly one of the kinds that are known".to_owned()),
    }
}

/// Which addresses a name has is never known in full: only what a name allows can be said, not what it denies.
pub(super) fn domains(action: Action, names: &[String]) -> Result<Vec<DomainPattern>, Fault> {
    if action != Action::Accept {
        return Err(format!("domainNames are for rules that Accept, and this is {action}"));
    }
    if names.is_empty() {
        return Err("domainNames is an empty list".to_owned());
    }
    let parsed =
        |text: &String| DomainPattern::new(text).ok_or_else(|| format!("{text:?} is no domain name"));
    names.iter().map(parsed).collect()
}

fn pods(
    namespaces: Option<&meta::LabelSelector>,
    pods: Option<&NamespacedPod>,
) -> Result<PodsByLabels, Fault> {
    match (namespaces, pods) {
        (Some(namespaces), None) => {
            Ok(PodsByLabels { namespaces: selector(namespaces)?, ..PodsByLabels::default() })
        }
        (None, Some(pods)) => Ok(PodsByLabels {
            namespaces: selector(&pods.namespace_selector)?,
            pods: selector(&pods.pod_selector)?,
            accounts: Vec::new(),
        }),
        _ => Err("it is not exactly one of namespaces and pods".to_owned()),
    }
}

/// The resource's schema lets expressions pass that mean nothing. What they select is not known, and not nothing: a Deny
/// must not be lost.
pub(super) fn selector(written: &meta::LabelSelector) -> Result<LabelSelector, Fault> {
    for expression in written.match_expressions.iter().flatten() {
        let has_values = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        let is_understood = match expression.operator.as_str() {
            "In" | "NotIn" => has_values,
            "Exists" | "DoesNotExist" => !has_values,
            _ => false,
        };
        if !is_understood {
            return Err(format!(
                "a selector's expression on {} is not In or NotIn with values, or Exists or DoesNotExist without",
                expression.key
            ));
        }
    }
    Ok(super::selector(written))
}

fn ports(written: &ProtocolMatch) -> Result<Vec<PolicyPort>, Fault> {
    let ProtocolMatch { tcp, udp, sctp, destination_named_port } = written;
    match (tcp, udp, sctp, destination_named_port) {
        (Some(tcp), None, None, None) => Ok(vec![port(Protocol::Tcp, tcp)?]),
        (None, Some(udp), None, None) => Ok(vec![port(Protocol::Udp, udp)?]),
        (None, None, Some(sctp), None) => Ok(vec![port(Protocol::Sctp, sctp)?]),
        (None, None, None, Some(name)) if !name.is_empty() => {
            let named = |protocol| PolicyPort { protocol, port: PortMatch::Named(name.as_str().into()) };
            Ok(Protocol::ALL.map(named).to_vec())
        }
        _ => Err("an element of protocols is not exactly one of tcp, udp, sctp and destinationNamedPort"
            .to_owned()),
    }
}

pub(super) fn port(protocol: Protocol, written: &TransportMatch) -> Result<PolicyPort, Fault> {
    let Some(DestinationPort { number, range }) = &written.destination_port else {
        return Err(format!("{protocol} says nothing of the destination port"));
    };
    let range = match (number, range) {
        (Some(number), None) => Port::try_from(*number).ok().map(PortRange::single),
        (None, Some(range)) => {
            let ends = Port::try_from(range.start).ok().zip(Port::try_from(range.end).ok());
            ends.and_then(|(first, last)| PortRange::new(first, last))
        }
        _ => None,
    };
    let range = range.ok_or_else(|| format!("the destinationPort of {protocol} is no port and no range"))?;
    Ok(PolicyPort { protocol, port: PortMatch::Range(range) })
}

#[cfg(test)]
mod tests;
