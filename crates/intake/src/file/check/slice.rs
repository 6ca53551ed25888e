//! EndpointSlice (discovery/v1 `ValidateEndpointSlice`).

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use sheetbend_model::types::Family;

use super::{Check, names};
use crate::file::field::Field;

pub(super) fn check(check: &mut Check<'_>, slice: &EndpointSlice) {
    let type_field = Field::Root.key("addressType");
    let family = match slice.address_type.as_str() {
        "" => return check.missing(&type_field, "write IPv4 or IPv6"),
        "IPv4" => Some(Family::IPv4),
        "IPv6" => Some(Family::IPv6),
        other => {
            check.word(&type_field, Some(other), &["IPv4", "IPv6", "FQDN"]);
            None
        }
    };
    let endpoints = Field::Root.key("endpoints");
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let field = endpoints.index(index);
        let addresses = field.key("addresses");
        if endpoint.addresses.is_empty() {
            check.missing(&addresses, "an endpoint has at least one address");
        }
        for (index, text) in endpoint.addresses.iter().enumerate() {
            if let Some(family) = family {
                address(check, &addresses.index(index), text, family);
            }
        }
        if let Some(name) = endpoint.node_name.as_deref() {
            check.form(&field.key("nodeName"), name, names::dns_subdomain);
        }
    }
    ports(check, slice);
}

fn address(check: &mut Check<'_>, field: &Field<'_>, text: &str, family: Family) {
    let Some(address) = check.address(field, text) else { return };
    if Family::of(address) != family {
        let why = format!("is not {family}, the slice's addressType");
        check.invalid(field, text, why, "make a slice per family");
    } else if address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || is_link_local(address)
    {
        check.invalid(
            field,
            text,
            "is unspecified, loopback, link-local or multicast",
            "an endpoint has an address that every node can reach",
        );
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn ports(check: &mut Check<'_>, slice: &EndpointSlice) {
    let ports = Field::Root.key("ports");
    let mut seen = Vec::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let field = ports.index(index);
        let name_field = field.key("name");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            check.form(&name_field, name, names::dns_label);
        }
        check.unique(&name_field, name, name, &mut seen);
        check.protocol(&field.key("protocol"), port.protocol.as_deref());
        if let Some(number) = port.port {
            check.port(&field.key("port"), number);
        }
    }
}
