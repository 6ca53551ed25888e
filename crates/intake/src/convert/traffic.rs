//! TrafficPolicies of both kinds, TrafficTiers and NetworkSets. What is not understood fails closed: an Accept matches
//! nothing, a Deny or Pass denies everything.

use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::state::traffic::{LAST_ORDER, NetworkSet, Peer, Policy, Rule, Stage, Tier};
use sheetbend_model::state::{
    Action, ClusterRule, IpBlock, LabelSelector, PodsByLabels, PolicyPort, PortMatch, Priority,
};
use sheetbend_model::types::{Direction, ObjectKey, Protocol};

use super::cluster_network_policy::{Fault, domains, port, selector};
use super::{NAMESPACE_NAME_LABEL, block, labels};
use crate::resources::{
    self, ServiceReference, TrafficNetwork, TrafficPeer, TrafficPods, TrafficProtocol, TrafficRule,
    TrafficSubject, TransportMatch,
};

/// Said of protocols that are not built yet.
pub(crate) const ICMP: &str =
    "ICMP by type is not built yet; a rule without protocols is for every IP protocol, ICMP too";
/// Said of subjects that are not built yet.
pub(crate) const NODES: &str = "policy for nodes themselves is not built yet; the policy holds for pods only, and for none that it does not select";

pub(super) fn tier(tier: &resources::TrafficTier) -> Tier {
    let spec = tier.spec.clone().unwrap_or_default();
    let stage = match spec.stage.as_str() {
        "BeforeNetworkPolicies" => Some(Stage::BeforeNetworkPolicies),
        "AfterNetworkPolicies" => Some(Stage::AfterNetworkPolicies),
        _ => None,
    };
    let default = match spec.default_action.as_str() {
        "Deny" => Some(true),
        "Pass" => Some(false),
        _ => None,
    };
    let order = spec.order.and_then(order);
    let fault = match (stage, default, order) {
        (None, ..) => Some("spec.stage is neither BeforeNetworkPolicies nor AfterNetworkPolicies"),
        (_, None, _) => Some("spec.defaultAction is neither Deny nor Pass"),
        (.., None) => Some("spec.order is not from 0 to 10000"),
        _ => None,
    };
    Tier {
        name: tier.metadata.name.as_deref().unwrap_or_default().into(),
        order: order.unwrap_or_default().into(),
        stage: stage.unwrap_or(Stage::BeforeNetworkPolicies),
        denies: default.unwrap_or(true),
        fault: fault.map(Arc::from),
    }
}

pub(super) fn network_set(set: &resources::NetworkSet) -> NetworkSet {
    let written = set.spec.as_ref().map(|spec| spec.networks.as_slice()).unwrap_or_default();
    let mut networks: Vec<IpNet> = written.iter().filter_map(|text| block(text)).collect();
    let fault = written.iter().find(|text| block(text).is_none());
    networks.sort_unstable();
    networks.dedup();
    NetworkSet {
        name: set.metadata.name.as_deref().unwrap_or_default().into(),
        labels: labels(set.metadata.labels.as_ref()),
        networks: networks.into(),
        fault: fault.map(|text| format!("network {text:?} is no CIDR block").into()),
    }
}

/// `key`: without a namespace where it is a ClusterTrafficPolicy.
pub(super) fn policy(spec: Option<&resources::TrafficPolicySpec>, key: ObjectKey) -> Policy {
    let spec = spec.cloned().unwrap_or_default();
    let namespace = Some(&key.namespace).filter(|namespace| !namespace.is_empty());
    let written = spec.order.unwrap_or_else(|| LAST_ORDER.into());
    let subject = subject(namespace, &spec.subject.unwrap_or_default());
    let fault = match (&subject, order(written), &spec.tier) {
        (Err(fault), ..) => Some(format!("spec.subject: {fault}")),
        (_, None, _) => Some("spec.order is not from 0 to 10000".to_owned()),
        (.., Some(_)) if namespace.is_some() => Some("spec.tier: a TrafficPolicy has none".to_owned()),
        _ => None,
    };
    let rules = |direction, rules: Option<Vec<TrafficRule>>| -> Vec<Rule> {
        let rules = rules.into_iter().flatten().map(|one| rule(direction, namespace, &one));
        rules.map(|rule| if fault.is_some() { doubtful(rule) } else { rule }).collect()
    };
    Policy {
        tier: spec.tier.as_deref().map(Arc::from),
        order: if fault.is_some() {
            Priority::default()
        } else {
            Priority::of_order(order(written).unwrap_or_default())
        },
        // For every pod, where it is not known for whom.
        subject: subject.unwrap_or_default().unwrap_or_else(nobody),
        ingress: rules(Direction::Ingress, spec.ingress),
        egress: rules(Direction::Egress, spec.egress),
        fault: fault.map(|fault| {
            let place = match namespace {
                Some(namespace) => format!("all others of namespace {namespace}"),
                None => "all other tiers".to_owned(),
            };
            format!("{fault}: the policy stands before {place}, and only its denials count").into()
        }),
        key,
    }
}

fn order(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|order| *order <= LAST_ORDER)
}

/// Selects no pod: a policy for nodes alone.
fn nobody() -> PodsByLabels {
    // No ServiceAccount is called so.
    PodsByLabels { accounts: vec!["".into()], ..PodsByLabels::default() }
}

/// `None`: it is for no pods.
fn subject(namespace: Option<&Arc<str>>, written: &TrafficSubject) -> Result<Option<PodsByLabels>, Fault> {
    let TrafficSubject { namespace_selector, pod_selector, service_accounts, nodes } = written;
    if namespace.is_some() && namespace_selector.is_some() {
        return Err("a TrafficPolicy is for pods of its own namespace".to_owned());
    }
    let names_pods = namespace_selector.is_some() || pod_selector.is_some() || service_accounts.is_some();
    if nodes.is_some() && !names_pods {
        return Ok(None);
    }
    let namespaces = namespace_selector.as_ref().map(selector).transpose()?.unwrap_or_default();
    let pods = pod_selector.as_ref().map(selector).transpose()?.unwrap_or_default();
    Ok(Some(PodsByLabels { namespaces, pods, accounts: accounts(service_accounts.as_deref())? }))
}

/// Absent is any; an empty list says nothing.
fn accounts(written: Option<&[String]>) -> Result<Vec<Arc<str>>, Fault> {
    let Some(written) = written else { return Ok(Vec::new()) };
    if written.is_empty() || written.iter().any(String::is_empty) {
        return Err("serviceAccounts has no name, or an empty one".to_owned());
    }
    let mut names: Vec<Arc<str>> = written.iter().map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// A rule of a policy of which it is not known for whom and when it holds: it can only take away.
fn doubtful(rule: Rule) -> Rule {
    match rule.action {
        Action::Accept => Rule { peers: Some(Vec::new()), ..rule },
        Action::Pass | Action::Deny => Rule { action: Action::Deny, ..rule },
    }
}

fn rule(direction: Direction, namespace: Option<&Arc<str>>, rule: &TrafficRule) -> Rule {
    let name: Arc<str> = rule.name.as_deref().unwrap_or_default().into();
    let action = match rule.action.as_str() {
        "Accept" => Some(Action::Accept),
        "Deny" => Some(Action::Deny),
        "Pass" => Some(Action::Pass),
        _ => None,
    };
    let log = rule.log.unwrap_or_default();
    let closed = |fault: &str| {
        let ClusterRule { name, action, peers, fault, .. } =
            ClusterRule::closed(0, Arc::clone(&name), action, fault);
        Rule { name, action, peers: peers.map(|_| Vec::new()), ports: Vec::new(), log: false, fault }
    };
    let understood = match action {
        Some(action) => {
            parts((direction, action), namespace, rule).map(|(peers, ports)| (action, peers, ports))
        }
        None => Err("action is none of Accept, Deny and Pass".to_owned()),
    };
    match understood {
        Ok((Action::Pass, ..)) if log => closed("a rule that passes decides nothing that could be logged"),
        Ok((action, peers, ports)) => Rule { name, action, peers, ports, log, fault: None },
        Err(fault) => closed(&fault),
    }
}

type Parts = (Option<Vec<Peer>>, Vec<PolicyPort>);

fn parts(
    (direction, action): (Direction, Action),
    namespace: Option<&Arc<str>>,
    rule: &TrafficRule,
) -> Result<Parts, Fault> {
    let (written, field, other) = match direction {
        Direction::Ingress => (&rule.from, "from", &rule.to),
        Direction::Egress => (&rule.to, "to", &rule.from),
    };
    if other.is_some() {
        return Err(format!("an {direction} rule has {field} and nothing else in its place"));
    }
    if written.as_ref().is_some_and(Vec::is_empty) {
        return Err(format!("{field} is an empty list; leave it out for everybody"));
    }
    let (mut peers, mut is_pods, mut has_service) = (Vec::new(), true, false);
    for peer in written.iter().flatten() {
        is_pods &= peer.pods.is_some();
        has_service |= peer.service.is_some();
        peers.extend(self::peers((direction, action), namespace, peer)?);
    }
    if has_service && rule.protocols.is_some() {
        return Err("a service has its own ports; leave out protocols".to_owned());
    }
    let mut ports = Vec::new();
    for protocol in rule.protocols.iter().flatten() {
        if protocol.destination_named_port.is_some() && !is_pods && direction == Direction::Egress {
            return Err("networks, networkSets and domainNames have no named ports".to_owned());
        }
        ports.extend(self::ports(protocol)?);
    }
    if rule.protocols.is_some() && ports.is_empty() {
        return Err("protocols is an empty list".to_owned());
    }
    Ok((written.is_some().then_some(peers), ports))
}

fn peers(
    (direction, action): (Direction, Action),
    namespace: Option<&Arc<str>>,
    peer: &TrafficPeer,
) -> Result<Vec<Peer>, Fault> {
    let TrafficPeer { pods, networks, network_sets, service, domain_names } = peer;
    match (pods, networks, network_sets, service, domain_names) {
        (Some(pods), None, None, None, None) => Ok(vec![Peer::Pods(self::pods(namespace, pods)?)]),
        (None, Some(networks), None, None, None) if !networks.is_empty() => {
            networks.iter().map(network).collect()
        }
        (None, None, None, None, Some(names)) if direction == Direction::Egress => {
            Ok(domains(action, names)?.into_iter().map(Peer::Domain).collect())
        }
        (None, None, Some(sets), None, None) => match (&sets.names, &sets.selector) {
            (Some(names), None) if !names.is_empty() => {
                Ok(names.iter().map(|name| Peer::NetworkSet(name.as_str().into())).collect())
            }
            (None, Some(written)) => Ok(vec![Peer::NetworkSets(selector(written)?)]),
            _ => Err("networkSets is not exactly one of names and selector".to_owned()),
        },
        (None, None, None, Some(written), None) if direction == Direction::Egress => {
            let ServiceReference { namespace: named, name } = written;
            let namespace = named.as_deref().map(Arc::from).or_else(|| namespace.cloned());
            let namespace = namespace.filter(|_| !name.is_empty());
            let namespace = namespace.ok_or("service has no name, or no namespace")?;
            Ok(vec![Peer::Service(ObjectKey { namespace, name: name.as_str().into() })])
        }
        _ => Err("a peer is not exactly one of the kinds that are known".to_owned()),
    }
}

fn pods(namespace: Option<&Arc<str>>, written: &TrafficPods) -> Result<PodsByLabels, Fault> {
    let namespaces = match (&written.namespace_selector, namespace) {
        (Some(written), _) => selector(written)?,
        (None, Some(own)) => LabelSelector {
            match_labels: [(NAMESPACE_NAME_LABEL.into(), Arc::clone(own))].into(),
            match_expressions: Vec::new(),
        },
        (None, None) => LabelSelector::default(),
    };
    let pods = written.pod_selector.as_ref().map(selector).transpose()?.unwrap_or_default();
    Ok(PodsByLabels { namespaces, pods, accounts: accounts(written.service_accounts.as_deref())? })
}

fn network(written: &TrafficNetwork) -> Result<Peer, Fault> {
    let parsed = |text: &String| block(text).ok_or_else(|| format!("network {text:?} is no CIDR block"));
    let cidr = parsed(&written.cidr)?;
    let mut except: Vec<IpNet> = written.except.iter().flatten().map(parsed).collect::<Result<_, _>>()?;
    if let Some(outside) = except.iter().find(|except| !cidr.contains(*except) || **except == cidr) {
        return Err(format!("except {outside} is no part of network {cidr}"));
    }
    except.sort_unstable();
    except.dedup();
    Ok(Peer::Network(IpBlock { cidr, except }))
}

fn ports(written: &TrafficProtocol) -> Result<Vec<PolicyPort>, Fault> {
    let TrafficProtocol { tcp, udp, sctp, destination_named_port, icmp } = written;
    if icmp.is_some() {
        return Err(ICMP.to_owned());
    }
    let one = |protocol, written: &TransportMatch| match &written.destination_port {
        None => Ok(vec![PolicyPort { protocol, port: PortMatch::All }]),
        Some(_) => Ok(vec![port(protocol, written)?]),
    };
    match (tcp, udp, sctp, destination_named_port) {
        (Some(tcp), None, None, None) => one(Protocol::Tcp, tcp),
        (None, Some(udp), None, None) => one(Protocol::Udp, udp),
        (None, None, Some(sctp), None) => one(Protocol::Sctp, sctp),
        (None, None, None, Some(name)) if !name.is_empty() => {
            let named = |protocol| PolicyPort { protocol, port: PortMatch::Named(name.as_str().into()) };
            Ok(Protocol::ALL.map(named).to_vec())
        }
        _ => Err("an element of protocols is not exactly one of tcp, udp, sctp and destinationNamedPort"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests;
