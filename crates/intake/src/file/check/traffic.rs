//! ClusterTrafficPolicy, TrafficPolicy, TrafficTier and NetworkSet: what their schemas say.

use ipnet::IpNet;
use sheetbend_model::state::traffic::LAST_ORDER;
use sheetbend_model::types::Port;

use super::cluster_network_policy::domains;
use super::{Check, names, selector};
use crate::convert::{ICMP, NODES};
use crate::file::Problem;
use crate::file::field::Field;
use crate::resources::{
    DestinationPort, NetworkSet, ServiceReference, TrafficPeer, TrafficPods, TrafficPolicySpec,
    TrafficProtocol, TrafficRule, TrafficSubject, TrafficTier, TransportMatch,
};

/// Most rules, peers, protocols and names of one list.
const MOST: usize = 100;
/// Most networks of a NetworkSet.
const MOST_NETWORKS: usize = 10_000;
/// Longest name of a rule, characters.
const RULE_NAME: usize = 100;

pub(super) fn tier(check: &mut Check<'_>, tier: &TrafficTier) {
    let field = Field::Root.key("spec");
    let Some(spec) = &tier.spec else {
        return check.missing(&field, "write order, stage and defaultAction in it");
    };
    let order_field = field.key("order");
    match spec.order {
        None => check.missing(&order_field, "write a number from 0 to 10000; 0 comes first"),
        written => order(check, &order_field, written),
    }
    for (name, word, known) in [
        ("stage", &spec.stage, ["BeforeNetworkPolicies", "AfterNetworkPolicies"]),
        ("defaultAction", &spec.default_action, ["Deny", "Pass"]),
    ] {
        let field = field.key(name);
        match word.as_str() {
            "" => check.missing(&field, &format!("write {} or {}", known[0], known[1])),
            word => check.word(&field, Some(word), &known),
        }
    }
}

fn order(check: &mut Check<'_>, field: &Field<'_>, written: Option<i32>) {
    let range = 0..=i32::from(LAST_ORDER);
    if let Some(number) = written.filter(|number| !range.contains(number)) {
        check.invalid(
            field,
            number,
            "is no order",
            format!("write a number from 0 to {LAST_ORDER}; 0 comes first"),
        );
    }
}

pub(super) fn network_set(check: &mut Check<'_>, set: &NetworkSet) {
    let spec = Field::Root.key("spec");
    let field = spec.key("networks");
    let networks = set.spec.as_ref().map(|spec| spec.networks.as_slice()).unwrap_or_default();
    at_most(check, &field, networks.len(), MOST_NETWORKS, "spread them over several sets");
    for (index, text) in networks.iter().enumerate() {
        check.block(&field.index(index), text);
    }
}

fn at_most(check: &mut Check<'_>, field: &Field<'_>, count: usize, most: usize, fix: &str) {
    if count > most {
        check.conflict(field, format!("{count} elements, {most} are allowed"), fix);
    }
}

/// `namespaced`: whether it is a TrafficPolicy.
pub(super) fn policy(check: &mut Check<'_>, spec: Option<&TrafficPolicySpec>, namespaced: bool) {
    let field = Field::Root.key("spec");
    let Some(spec) = spec else { return check.missing(&field, "write rules in it: ingress, egress or both") };
    let tier = field.key("tier");
    match spec.tier.as_deref() {
        Some(_) if namespaced => check.conflict(
            &tier,
            "a TrafficPolicy stands in no tier: it comes behind all tiers before NetworkPolicies",
            "remove it, or write a ClusterTrafficPolicy",
        ),
        Some(name) => check.form(&tier, name, names::dns_subdomain),
        None => {}
    }
    order(check, &field.key("order"), spec.order);
    if let Some(subject) = &spec.subject {
        self::subject(check, &field.key("subject"), subject, namespaced);
    }
    for (name, is_egress, rules) in [("ingress", false, &spec.ingress), ("egress", true, &spec.egress)] {
        let field = field.key(name);
        let rules = rules.as_deref().unwrap_or_default();
        at_most(check, &field, rules.len(), MOST, "spread them over several policies");
        for (index, one) in rules.iter().enumerate() {
            rule(check, &field.index(index), one, is_egress, namespaced);
        }
    }
}

fn subject(check: &mut Check<'_>, field: &Field<'_>, subject: &TrafficSubject, namespaced: bool) {
    let TrafficSubject { namespace_selector, pod_selector, service_accounts, nodes } = subject;
    if let Some(written) = namespace_selector {
        let field = field.key("namespaceSelector");
        if namespaced {
            let why = "a TrafficPolicy is for pods of its own namespace";
            check.conflict(&field, why, "remove it, or write a ClusterTrafficPolicy");
        }
        selector::check(check, &field, written);
    }
    if let Some(written) = pod_selector {
        selector::check(check, &field.key("podSelector"), written);
    }
    accounts(check, &field.key("serviceAccounts"), service_accounts.as_deref());
    if nodes.is_some() {
        let field = field.key("nodes");
        check.error(&field, Problem::NotBuilt { field: field.to_string(), fix: NODES.to_owned() });
    }
}

fn accounts(check: &mut Check<'_>, field: &Field<'_>, written: Option<&[String]>) {
    let Some(written) = written else { return };
    if written.is_empty() {
        check.missing(field, "write at least one name, or leave the list out for every ServiceAccount");
    }
    at_most(check, field, written.len(), MOST, "spread them over several rules");
    for (index, name) in written.iter().enumerate() {
        check.form(&field.index(index), name, names::dns_subdomain);
    }
}

fn rule(check: &mut Check<'_>, field: &Field<'_>, rule: &TrafficRule, is_egress: bool, namespaced: bool) {
    let name = rule.name.as_deref().unwrap_or_default();
    if name.chars().count() > RULE_NAME {
        check.invalid(&field.key("name"), name, "is too long", format!("use at most {RULE_NAME} characters"));
    }
    let action = field.key("action");
    match rule.action.as_str() {
        "" => check.missing(&action, "write Accept, Deny or Pass"),
        word => check.word(&action, Some(word), &["Accept", "Deny", "Pass"]),
    }
    if rule.log == Some(true) && rule.action == "Pass" {
        let why = "a rule that passes decides nothing that could be logged";
        check.conflict(&field.key("log"), why, "remove it, or write Accept or Deny");
    }
    let (own, other) = if is_egress { ("to", "from") } else { ("from", "to") };
    let (peers, misplaced) = if is_egress { (&rule.to, &rule.from) } else { (&rule.from, &rule.to) };
    if misplaced.is_some() {
        let direction = if is_egress { "egress" } else { "ingress" };
        let why = format!("an {direction} rule has no {other}");
        check.conflict(&field.key(other), why, format!("write {own}"));
    }
    let peers_field = field.key(own);
    if peers.as_ref().is_some_and(Vec::is_empty) {
        check.missing(&peers_field, "write at least one peer, or leave the list out for everybody");
    }
    let peers = peers.as_deref().unwrap_or_default();
    at_most(
        check,
        &peers_field,
        peers.len(),
        MOST,
        "put addresses into a NetworkSet, or write several rules",
    );
    for (index, one) in peers.iter().enumerate() {
        peer(check, &peers_field.index(index), one, (is_egress, namespaced), &rule.action);
    }
    let protocols_field = field.key("protocols");
    let Some(protocols) = &rule.protocols else { return };
    if protocols.is_empty() {
        check.missing(&protocols_field, "write at least one, or leave the list out for every protocol");
    }
    at_most(check, &protocols_field, protocols.len(), MOST, "write ranges, or several rules");
    if peers.iter().any(|peer| peer.service.is_some()) {
        check.conflict(&protocols_field, "a service has its own ports", "remove protocols");
    }
    let only_pods = peers.iter().all(|peer| peer.pods.is_some());
    for (index, one) in protocols.iter().enumerate() {
        let field = protocols_field.index(index);
        protocol(check, &field, one);
        if one.destination_named_port.is_some() && is_egress && !only_pods {
            let why = "networks, networkSets and domainNames have no named ports";
            let fix = "write the number with tcp, udp or sctp";
            check.conflict(&field.key("destinationNamedPort"), why, fix);
        }
    }
}

fn peer(
    check: &mut Check<'_>,
    field: &Field<'_>,
    peer: &TrafficPeer,
    (is_egress, namespaced): (bool, bool),
    action: &str,
) {
    let TrafficPeer { pods: selected, networks, network_sets, service, domain_names } = peer;
    let set = [
        selected.is_some(),
        networks.is_some(),
        network_sets.is_some(),
        service.is_some(),
        domain_names.is_some(),
    ];
    let count = set.iter().filter(|set| **set).count();
    if count != 1 {
        let known = if is_egress {
            "pods, networks, networkSets, service and domainNames"
        } else {
            "pods, networks and networkSets"
        };
        let why = format!("{count} kinds of peer in one element");
        check.conflict(field, why, format!("write exactly one of {known}"));
    }
    if let Some(selected) = selected {
        pods(check, &field.key("pods"), selected);
    }
    if let Some(networks) = networks {
        let field = field.key("networks");
        if networks.is_empty() {
            check.missing(&field, "write at least one block such as {cidr: 10.0.0.0/8}");
        }
        at_most(check, &field, networks.len(), MOST, "put them into a NetworkSet");
        for (index, network) in networks.iter().enumerate() {
            let field = field.index(index);
            let cidr = check.block(&field.key("cidr"), &network.cidr);
            let except = field.key("except");
            for (index, text) in network.except.iter().flatten().enumerate() {
                self::except(check, &except.index(index), cidr, text);
            }
        }
    }
    if let Some(sets) = network_sets {
        let field = field.key("networkSets");
        let names_field = field.key("names");
        if sets.names.is_some() == sets.selector.is_some() {
            check.conflict(
                &field,
                "sets are chosen by names or by a selector",
                "write exactly one of the two",
            );
        }
        if sets.names.as_ref().is_some_and(Vec::is_empty) {
            check.missing(&names_field, "write at least one name");
        }
        for (index, name) in sets.names.iter().flatten().enumerate() {
            check.form(&names_field.index(index), name, names::dns_subdomain);
        }
        if let Some(written) = &sets.selector {
            selector::check(check, &field.key("selector"), written);
        }
    }
    if let Some(reference) = service {
        self::service(check, &field.key("service"), reference, is_egress, namespaced);
    }
    if let Some(names) = domain_names {
        let field = field.key("domainNames");
        if is_egress {
            at_most(check, &field, names.len(), MOST, "write several peers");
            domains(check, &field, names, action);
        } else {
            let why = "a domain name is a destination, and an ingress rule has sources";
            check.conflict(&field, why, "write pods or networks");
        }
    }
}

fn pods(check: &mut Check<'_>, field: &Field<'_>, pods: &TrafficPods) {
    if let Some(written) = &pods.namespace_selector {
        selector::check(check, &field.key("namespaceSelector"), written);
    }
    if let Some(written) = &pods.pod_selector {
        selector::check(check, &field.key("podSelector"), written);
    }
    accounts(check, &field.key("serviceAccounts"), pods.service_accounts.as_deref());
}

fn except(check: &mut Check<'_>, field: &Field<'_>, cidr: Option<IpNet>, text: &str) {
    let (Some(cidr), Some(except)) = (cidr, check.block(field, text)) else { return };
    let (cidr, except) = (cidr.trunc(), except.trunc());
    if !cidr.contains(&except) || cidr == except {
        check.invalid(field, text, format!("is no part of {cidr}"), "write a smaller block inside it");
    }
}

fn service(
    check: &mut Check<'_>,
    field: &Field<'_>,
    reference: &ServiceReference,
    is_egress: bool,
    namespaced: bool,
) {
    if !is_egress {
        let why = "a Service is a destination, and an ingress rule has sources";
        check.conflict(field, why, "write pods or networks");
    }
    let name = field.key("name");
    match reference.name.as_str() {
        "" => check.missing(&name, "write the Service's name"),
        text => check.form(&name, text, names::dns_1035_label),
    }
    let namespace = field.key("namespace");
    match reference.namespace.as_deref() {
        Some(text) => check.form(&namespace, text, names::dns_label),
        None if namespaced => {}
        None => check.missing(&namespace, "write the Service's namespace"),
    }
}

fn protocol(check: &mut Check<'_>, field: &Field<'_>, protocol: &TrafficProtocol) {
    let TrafficProtocol { tcp, udp, sctp, destination_named_port, icmp } = protocol;
    if icmp.is_some() {
        let field = field.key("icmp");
        check.error(&field, Problem::NotBuilt { field: field.to_string(), fix: ICMP.to_owned() });
    }
    let given = [("tcp", tcp), ("udp", udp), ("sctp", sctp)].map(|(key, given)| (key, given.as_ref()));
    let count = given.iter().filter(|(_, given)| given.is_some()).count();
    if count + usize::from(destination_named_port.is_some()) + usize::from(icmp.is_some()) != 1 {
        let fix = "write exactly one of tcp, udp, sctp and destinationNamedPort";
        check.conflict(field, "an element is one protocol or one named port", fix);
    }
    for (key, transport) in given {
        if let Some(TransportMatch { destination_port: Some(port) }) = transport {
            let of = field.key(key);
            destination_port(check, &of.key("destinationPort"), port);
        }
    }
    if let Some(name) = destination_named_port {
        check.form(&field.key("destinationNamedPort"), name, names::port_name);
    }
}

/// One that is written; absent is every port.
pub(super) fn destination_port(check: &mut Check<'_>, field: &Field<'_>, port: &DestinationPort) {
    let DestinationPort { number, range } = port;
    if number.is_some() == range.is_some() {
        let fix = "write number: 80, or range: {start: 8000, end: 8100}";
        check.conflict(field, "a destinationPort is either a number or a range", fix);
    }
    if let Some(number) = number {
        check.port(&field.key("number"), *number);
    }
    if let Some(range) = range {
        let field = field.key("range");
        let (start, end) = (field.key("start"), field.key("end"));
        check.port(&start, range.start);
        check.port(&end, range.end);
        let are_ports = Port::try_from(range.start).is_ok() && Port::try_from(range.end).is_ok();
        if are_ports && range.end <= range.start {
            let fix = format!("write a number above {}, or number instead of range", range.start);
            check.invalid(&end, range.end, format!("is not above start {}", range.start), fix);
        }
    }
}
