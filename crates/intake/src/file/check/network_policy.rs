//! NetworkPolicy (networking/v1 `ValidateNetworkPolicySpec`).

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Check, names, selector};
use crate::file::field::Field;

pub(super) fn check(check: &mut Check<'_>, policy: &NetworkPolicy) {
    let spec_field = Field::Root.key("spec");
    let Some(spec) = &policy.spec else {
        return check
            .missing(&spec_field, "write podSelector: {} in it to select every pod of the namespace");
    };
    if let Some(pods) = &spec.pod_selector {
        selector::check(check, &spec_field.key("podSelector"), pods);
    }
    let types = spec_field.key("policyTypes");
    for (index, word) in spec.policy_types.iter().flatten().enumerate() {
        check.word(&types.index(index), Some(word), &["Ingress", "Egress"]);
    }
    let ingress = spec_field.key("ingress");
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = ingress.index(index);
        peers(check, &field.key("from"), rule.from.as_deref());
        ports(check, &field.key("ports"), rule.ports.as_deref());
    }
    let egress = spec_field.key("egress");
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = egress.index(index);
        peers(check, &field.key("to"), rule.to.as_deref());
        ports(check, &field.key("ports"), rule.ports.as_deref());
    }
}

fn peers(check: &mut Check<'_>, field: &Field<'_>, peers: Option<&[NetworkPolicyPeer]>) {
    for (index, peer) in peers.into_iter().flatten().enumerate() {
        let field = field.index(index);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => check.conflict(
                &field,
                "ipBlock stands beside a podSelector or namespaceSelector",
                "make them two elements of the list",
            ),
            Some(block) => ip_block(check, &field.key("ipBlock"), block),
            None if !selects => check.conflict(
                &field,
                "an empty peer",
                "write podSelector, namespaceSelector or ipBlock; to allow every peer leave the list out",
            ),
            None => {}
        }
        if let Some(pods) = &peer.pod_selector {
            selector::check(check, &field.key("podSelector"), pods);
        }
        if let Some(namespaces) = &peer.namespace_selector {
            selector::check(check, &field.key("namespaceSelector"), namespaces);
        }
    }
}

fn ip_block(check: &mut Check<'_>, field: &Field<'_>, block: &IPBlock) {
    let cidr_field = field.key("cidr");
    if block.cidr.is_empty() {
        return check.missing(&cidr_field, "write a block such as 10.0.0.0/8");
    }
    let cidr = check.block(&cidr_field, &block.cidr);
    let except_field = field.key("except");
    for (index, text) in block.except.iter().flatten().enumerate() {
        let field = except_field.index(index);
        let Some(except) = check.block(&field, text) else { continue };
        let Some(cidr) = cidr else { continue };
        if !cidr.contains(&except) || cidr.prefix_len() >= except.prefix_len() {
            check.invalid(&field, text, format!("is no smaller part of {cidr}"), "write a block inside cidr");
        }
    }
}

fn ports(check: &mut Check<'_>, field: &Field<'_>, ports: Option<&[NetworkPolicyPort]>) {
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let field = field.index(index);
        check.protocol(&field.key("protocol"), port.protocol.as_deref());
        let (port_field, end_field) = (field.key("port"), field.key("endPort"));
        match &port.port {
            Some(IntOrString::Int(number)) => {
                check.port(&port_field, *number);
                if let Some(end) = port.end_port {
                    check.port(&end_field, end);
                    if end < *number {
                        let fix = format!("write a number from {number} to 65535");
                        check.invalid(&end_field, end, format!("is below port {number}"), fix);
                    }
                }
            }
            Some(IntOrString::String(name)) => {
                check.form(&port_field, name, names::port_name);
                if port.end_port.is_some() {
                    check.conflict(
                        &end_field,
                        format!("endPort stands beside the named port {name:?}"),
                        "a range needs a number as its port",
                    );
                }
            }
            None if port.end_port.is_some() => {
                check.conflict(&end_field, "endPort without port", "write the range's first port as port");
            }
            None => {}
        }
    }
}
