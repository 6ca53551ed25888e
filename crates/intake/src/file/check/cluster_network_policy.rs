//! ClusterNetworkPolicy: what its schema says (sigs.k8s.io/network-policy-api v0.2.0).

use sheetbend_model::state::Priority;
use sheetbend_model::types::DomainPattern;

use super::traffic::destination_port;
use super::{Check, names, selector};
use crate::file::field::Field;
use crate::resources::{
    ClusterNetworkPolicy, NamespacedPod, NetworkPolicyPeer, ProtocolMatch, Rule, TransportMatch,
};

/// Most rules, peers, protocols and networks of one list.
const MOST: usize = 25;
/// Longest name of a rule, characters.
const RULE_NAME: usize = 100;

pub(super) fn check(check: &mut Check<'_>, policy: &ClusterNetworkPolicy) {
    let field = Field::Root.key("spec");
    let Some(spec) = &policy.spec else {
        return check.missing(&field, "write tier, priority, subject and rules in it");
    };
    let tier = field.key("tier");
    match spec.tier.as_str() {
        "" => check.missing(&tier, "write Admin or Baseline"),
        word => check.word(&tier, Some(word), &["Admin", "Baseline"]),
    }
    let (priority, fix) =
        (field.key("priority"), format!("write a number from 0 to {}; 0 comes first", Priority::MAX));
    match spec.priority {
        None => check.missing(&priority, &fix),
        Some(number) if Priority::new(number).is_none() => {
            check.invalid(&priority, number, "is no priority", fix);
        }
        Some(_) => {}
    }
    let subject_field = field.key("subject");
    match &spec.subject {
        None => check.missing(&subject_field, "write namespaces: {} in it to select every pod"),
        Some(subject) => {
            if subject.namespaces.is_some() == subject.pods.is_some() {
                let why = "a subject is either namespaces or pods";
                check.conflict(&subject_field, why, "write exactly one; namespaces: {} selects every pod");
            }
            if let Some(namespaces) = &subject.namespaces {
                selector::check(check, &subject_field.key("namespaces"), namespaces);
            }
            if let Some(selected) = &subject.pods {
                pods(check, &subject_field.key("pods"), selected);
            }
        }
    }
    rules(check, &field.key("ingress"), spec.ingress.as_deref().unwrap_or_default(), false);
    rules(check, &field.key("egress"), spec.egress.as_deref().unwrap_or_default(), true);
}

fn at_most(check: &mut Check<'_>, field: &Field<'_>, count: usize) {
    if count > MOST {
        check.conflict(
            field,
            format!("{count} elements, {MOST} are allowed"),
            "spread them over several policies",
        );
    }
}

fn pods(check: &mut Check<'_>, field: &Field<'_>, pods: &NamespacedPod) {
    selector::check(check, &field.key("namespaceSelector"), &pods.namespace_selector);
    selector::check(check, &field.key("podSelector"), &pods.pod_selector);
}

fn rules(check: &mut Check<'_>, field: &Field<'_>, rules: &[Rule], is_egress: bool) {
    at_most(check, field, rules.len());
    for (index, rule) in rules.iter().enumerate() {
        self::rule(check, &field.index(index), rule, is_egress);
    }
}

fn rule(check: &mut Check<'_>, field: &Field<'_>, rule: &Rule, is_egress: bool) {
    let name = rule.name.as_deref().unwrap_or_default();
    if name.chars().count() > RULE_NAME {
        check.invalid(&field.key("name"), name, "is too long", format!("use at most {RULE_NAME} characters"));
    }
    let action = field.key("action");
    match rule.action.as_str() {
        "" => check.missing(&action, "write Accept, Deny or Pass"),
        word => check.word(&action, Some(word), &["Accept", "Deny", "Pass"]),
    }
    let (own, other) = if is_egress { ("to", "from") } else { ("from", "to") };
    let (peers, misplaced) = if is_egress { (&rule.to, &rule.from) } else { (&rule.from, &rule.to) };
    if misplaced.is_some() {
        let direction = if is_egress { "egress" } else { "ingress" };
        check.conflict(
            &field.key(other),
            format!("an {direction} rule has no {other}"),
            format!("write {own}"),
        );
    }
    let peers_field = field.key(own);
    let peers = peers.as_deref().unwrap_or_default();
    if peers.is_empty() {
        check.missing(&peers_field, "write at least one peer; namespaces: {} is every pod");
    }
    at_most(check, &peers_field, peers.len());
    for (index, one) in peers.iter().enumerate() {
        peer(check, &peers_field.index(index), one, is_egress, &rule.action);
    }
    let protocols_field = field.key("protocols");
    let only_pods = peers
        .iter()
        .all(|peer| peer.networks.is_none() && peer.nodes.is_none() && peer.domain_names.is_none());
    if let Some(protocols) = &rule.protocols {
        if protocols.is_empty() {
            check.missing(&protocols_field, "write at least one, or leave the list out for every protocol");
        }
        at_most(check, &protocols_field, protocols.len());
        for (index, one) in protocols.iter().enumerate() {
            let field = protocols_field.index(index);
            protocol(check, &field, one);
            if one.destination_named_port.is_some() && !only_pods {
                let why = "networks, nodes and domainNames have no named ports";
                check.conflict(
                    &field.key("destinationNamedPort"),
                    why,
                    "write the number with tcp, udp or sctp",
                );
            }
        }
    }
}

/// Domain names of a rule with `action`.
pub(super) fn domains(check: &mut Check<'_>, field: &Field<'_>, names: &[String], action: &str) {
    if action == "Deny" || action == "Pass" {
        let why = "which addresses a name has is never known in full, so that it can only be accepted";
        check.conflict(field, why, "write action: Accept, and deny networks in a rule behind it");
    }
    if names.is_empty() {
        check.missing(field, "write at least one name such as example.com or '*.example.com'");
    }
    for (index, name) in names.iter().enumerate() {
        if DomainPattern::new(name).is_none() {
            let fix = "write a name such as example.com, or '*.example.com' for all below it";
            check.invalid(&field.index(index), name, "is no domain name", fix);
        }
    }
}

fn peer(check: &mut Check<'_>, field: &Field<'_>, peer: &NetworkPolicyPeer, is_egress: bool, action: &str) {
    let NetworkPolicyPeer { namespaces, pods: selected, nodes, networks, domain_names } = peer;
    let set = [
        namespaces.is_some(),
        selected.is_some(),
        nodes.is_some(),
        networks.is_some(),
        domain_names.is_some(),
    ];
    let count = set.iter().filter(|set| **set).count();
    let known =
        if is_egress { "namespaces, pods, nodes, networks and domainNames" } else { "namespaces and pods" };
    if count != 1 {
        check.conflict(
            field,
            format!("{count} kinds of peer in one element"),
            format!("write exactly one of {known}"),
        );
    }
    if let Some(namespaces) = namespaces {
        selector::check(check, &field.key("namespaces"), namespaces);
    }
    if let Some(selected) = selected {
        pods(check, &field.key("pods"), selected);
    }
    for (name, given) in [
        ("nodes", nodes.is_some()),
        ("networks", networks.is_some()),
        ("domainNames", domain_names.is_some()),
    ] {
        if given && !is_egress {
            check.conflict(
                &field.key(name),
                "an ingress rule has peers by label only",
                format!("use {known}"),
            );
        }
    }
    if let Some(nodes) = nodes {
        selector::check(check, &field.key("nodes"), nodes);
    }
    if let Some(networks) = networks {
        let field = field.key("networks");
        if networks.is_empty() {
            check.missing(&field, "write at least one block such as 10.0.0.0/8");
        }
        at_most(check, &field, networks.len());
        for (index, text) in networks.iter().enumerate() {
            check.block(&field.index(index), text);
        }
    }
    if let Some(names) = domain_names.as_ref().filter(|_| is_egress) {
        let field = field.key("domainNames");
        at_most(check, &field, names.len());
        domains(check, &field, names, action);
    }
}

fn protocol(check: &mut Check<'_>, field: &Field<'_>, protocol: &ProtocolMatch) {
    let ProtocolMatch { tcp, udp, sctp, destination_named_port } = protocol;
    let given = [("tcp", tcp), ("udp", udp), ("sctp", sctp)].map(|(key, given)| (key, given.as_ref()));
    let count = given.iter().filter(|(_, given)| given.is_some()).count();
    if count + usize::from(destination_named_port.is_some()) != 1 {
        let fix = "write exactly one of tcp, udp, sctp and destinationNamedPort";
        check.conflict(field, "an element is one protocol or one named port", fix);
    }
    for (key, transport) in given {
        if let Some(transport) = transport {
            self::transport(check, &field.key(key), transport);
        }
    }
    if let Some(name) = destination_named_port {
        check.form(&field.key("destinationNamedPort"), name, names::port_name);
    }
}

fn transport(check: &mut Check<'_>, field: &Field<'_>, transport: &TransportMatch) {
    let field = field.key("destinationPort");
    let fix = "write number: 80, or range: {start: 8000, end: 8100}";
    let Some(port) = &transport.destination_port else {
        return check.missing(&field, fix);
    };
    destination_port(check, &field, port);
}
