//! Service (core/v1 `ValidateService`).

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sheetbend_model::state::LOAD_BALANCER_CLASS;
use sheetbend_model::types::Family;

use super::{Check, names, selector};
use crate::convert::{SOURCE_RANGES, protocol_of, source_range_texts};
use crate::file::field::Field;

const TYPES: [&str; 4] = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];

pub(super) fn check(check: &mut Check<'_>, service: &Service) {
    let field = Field::Root.key("spec");
    let Some(spec) = &service.spec else { return check.missing(&field, "write ports in it") };
    check.word(&field.key("type"), spec.type_.as_deref(), &TYPES);
    let external = spec.type_.as_deref() == Some("ExternalName");
    if external && spec.external_name.as_deref().unwrap_or_default().is_empty() {
        check.missing(&field.key("externalName"), "write the DNS name that the Service stands for");
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && !external {
        check.missing(&field.key("ports"), "a Service with an address has at least one port");
    }
    all_ports(check, &field.key("ports"), ports);
    selector::map(check, &field.key("selector"), spec.selector.as_ref());
    affinity(check, &field, spec);
    addresses(check, &field, spec);
    families(check, &field, spec);
    check.word(
        &field.key("internalTrafficPolicy"),
        spec.internal_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    check.word(
        &field.key("externalTrafficPolicy"),
        spec.external_traffic_policy.as_deref(),
        &["Cluster", "Local"],
    );
    check.word(
        &field.key("trafficDistribution"),
        spec.traffic_distribution.as_deref(),
        &["PreferSameZone", "PreferSameNode", "PreferClose"],
    );
    outside(check, &field, spec);
    source_ranges(check, &field, service, spec);
}

fn all_ports(check: &mut Check<'_>, field: &Field<'_>, ports: &[ServicePort]) {
    let (mut named, mut numbered) = (Vec::new(), Vec::new());
    for (index, port) in ports.iter().enumerate() {
        let field = field.index(index);
        let (name_field, port_field) = (field.key("name"), field.key("port"));
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => check.missing(&name_field, "each of several ports needs a name"),
            "" => {}
            name => {
                check.form(&name_field, name, names::dns_label);
                check.unique(&name_field, name, name, &mut named);
            }
        }
        check.protocol(&field.key("protocol"), port.protocol.as_deref());
        check.port(&port_field, port.port);
        let protocol = protocol_of(port.protocol.as_deref());
        if port.port != 0 {
            check.unique(
                &port_field,
                format!("{}/{protocol}", port.port),
                (port.port, protocol),
                &mut numbered,
            );
        }
        let target = field.key("targetPort");
        match &port.target_port {
            // 0 is what the API's default for an absent targetPort replaces.
            Some(IntOrString::Int(0)) | None => {}
            Some(IntOrString::Int(number)) => check.port(&target, *number),
            Some(IntOrString::String(name)) => check.form(&target, name, names::port_name),
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            check.port(&field.key("nodePort"), number);
        }
    }
}

fn affinity(check: &mut Check<'_>, field: &Field<'_>, spec: &ServiceSpec) {
    check.word(&field.key("sessionAffinity"), spec.session_affinity.as_deref(), &["None", "ClientIP"]);
    let config = field.key("sessionAffinityConfig");
    let client_ip = config.key("clientIP");
    let timeout =
        spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let Some(seconds) = timeout else { return };
    if !(1..=86_400).contains(&seconds) {
        let why = "is no affinity timeout in seconds";
        check.invalid(
            &client_ip.key("timeoutSeconds"),
            seconds,
            why,
            "write a number from 1 to 86400 (a day)",
        );
    }
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        check.conflict(
            &config,
            "stands without sessionAffinity: ClientIP",
            "set sessionAffinity, or remove it",
        );
    }
}

fn addresses(check: &mut Check<'_>, field: &Field<'_>, spec: &ServiceSpec) {
    let (one_field, all_field) = (field.key("clusterIP"), field.key("clusterIPs"));
    let one = spec.cluster_ip.as_deref().unwrap_or_default();
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    if !matches!(one, "" | "None") {
        check.address(&one_field, one);
    }
    if let Some(first) = all.first()
        && first != one
    {
        let why = format!("clusterIPs[0] is {first}, clusterIP is {one:?}");
        check.conflict(&all_field, why, "write the same address in both, or leave clusterIPs out");
    }
    let mut families = Vec::new();
    for (index, text) in all.iter().enumerate() {
        let field = all_field.index(index);
        if text == "None" && all.len() == 1 {
            continue;
        }
        // The first was checked as clusterIP.
        let address = if index == 0 { text.parse().ok() } else { check.address(&field, text) };
        if let Some(address) = address {
            check.one_per_family(&field, text, address, &mut families);
        }
    }
}

fn families(check: &mut Check<'_>, field: &Field<'_>, spec: &ServiceSpec) {
    let (list_field, policy_field) = (field.key("ipFamilies"), field.key("ipFamilyPolicy"));
    let policy = spec.ip_family_policy.as_deref();
    check.word(&policy_field, policy, &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    let list = spec.ip_families.as_deref().unwrap_or_default();
    let mut seen = Vec::new();
    for (index, word) in list.iter().enumerate() {
        let field = list_field.index(index);
        check.word(&field, Some(word), &["IPv4", "IPv6"]);
        check.unique(&field, word, word.as_str(), &mut seen);
    }
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    let single = matches!(policy, None | Some("SingleStack"));
    if single && list.len() > 1 {
        let why = "two families need ipFamilyPolicy PreferDualStack or RequireDualStack";
        check.conflict(&list_field, why, "set ipFamilyPolicy, or keep one family");
    }
    if single && addresses.len() > 1 {
        let why = "two addresses need ipFamilyPolicy PreferDualStack or RequireDualStack";
        check.conflict(&field.key("clusterIPs"), why, "set ipFamilyPolicy, or keep one address");
    }
    let given = addresses.first().map(String::as_str).or(spec.cluster_ip.as_deref());
    let given = given.into_iter().chain(addresses.iter().skip(1).map(String::as_str));
    for (index, (text, word)) in given.zip(list).enumerate() {
        let Ok(address) = text.parse() else { continue };
        let family = Family::of(address);
        if family.to_string() != *word {
            let why = format!("is not the family of address {text}");
            check.invalid(&list_field.index(index), word, why, format!("write {family}"));
        }
    }
}

fn source_ranges(check: &mut Check<'_>, field: &Field<'_>, service: &Service, spec: &ServiceSpec) {
    let list = field.key("loadBalancerSourceRanges");
    let annotations = Field::Root.key("metadata");
    let annotations = annotations.key("annotations");
    let annotation = annotations.key(SOURCE_RANGES);
    let is_field = spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty());
    for (index, text) in source_range_texts(service, spec).iter().enumerate() {
        let item = list.index(index);
        check.block(if is_field { &item } else { &annotation }, text);
    }
}

/// Addresses from which clients elsewhere reach the Service.
fn outside(check: &mut Check<'_>, field: &Field<'_>, spec: &ServiceSpec) {
    let list = field.key("externalIPs");
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        check.address(&list.index(index), text);
    }
    if let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) {
        check.port(&field.key("healthCheckNodePort"), number);
    }
    if let Some(class) = spec.load_balancer_class.as_deref().filter(|class| *class != LOAD_BALANCER_CLASS) {
        let effect = format!("{class} is another implementation; LoadBalancerPools give it no addresses");
        check.not_built(&field.key("loadBalancerClass"), &effect);
    }
}
