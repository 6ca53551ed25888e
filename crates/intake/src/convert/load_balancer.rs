//! LoadBalancerPools, L2Announcements, and what they need to know of Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use sheetbend_model::state::{AddressRange, Exposure, L2Announcement, LabelSelector, LoadBalancerPool};
use sheetbend_model::types::Family;

use crate::resources;
use crate::resources::AddressBlock;

/// Addresses that a Service asks for: `192.0.2.10,2001:db8::10`.
pub(crate) const REQUESTED: &str = "sheetbend.dev/load-balancer-ips";

/// Services of one namespace with the same value may have one address.
pub(crate) const SHARING_KEY: &str = "sheetbend.dev/sharing-key";

/// Condition type of Services that have addresses from a LoadBalancerPool.
pub(crate) const ADDRESSES_ASSIGNED: &str = "sheetbend.dev/AddressesAssigned";

/// `metadata.creationTimestamp` in a form that sorts as time.
fn created(metadata: &meta::ObjectMeta) -> Arc<str> {
    metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default().into()
}

/// A pool; blocks that are no blocks are left out.
pub(super) fn pool(pool: &resources::LoadBalancerPool) -> LoadBalancerPool {
    let spec = pool.spec.clone().unwrap_or_default();
    let whole = spec.allow_first_last.unwrap_or_default();
    LoadBalancerPool {
        name: pool.metadata.name.as_deref().unwrap_or_default().into(),
        created: created(&pool.metadata),
        ranges: spec.blocks.iter().filter_map(|block| range(block, whole)).collect(),
        service_selector: selector(spec.service_selector.as_ref()),
        namespace_selector: selector(spec.namespace_selector.as_ref()),
        disabled: spec.disabled.unwrap_or_default(),
    }
}

pub(super) fn announcement(announcement: &resources::L2Announcement) -> L2Announcement {
    let spec = announcement.spec.clone().unwrap_or_default();
    L2Announcement {
        name: announcement.metadata.name.as_deref().unwrap_or_default().into(),
        service_selector: selector(spec.service_selector.as_ref()),
        node_selector: selector(spec.node_selector.as_ref()),
        interfaces: spec.interfaces.iter().flatten().map(|name| name.as_str().into()).collect(),
        load_balancer_ips: spec.load_balancer_ips.unwrap_or(true),
        external_ips: spec.external_ips.unwrap_or_default(),
    }
}

/// An absent selector matches everything, as an empty one.
fn selector(written: Option<&meta::LabelSelector>) -> LabelSelector {
    written.map(super::selector).unwrap_or_default()
}

/// Of a `cidr` that is a subnet, the first address stands for the subnet (IPv4) or any of its routers (RFC 4291,
/// section 2.6.1), and the last is IPv4's broadcast: they are left out unless `whole`. Blocks of one or two addresses
/// are no subnets.
fn range(block: &AddressBlock, whole: bool) -> Option<AddressRange> {
    if let Some(text) = &block.cidr {
        let block: IpNet = text.parse().ok()?;
        let (first, last) = (block.network(), block.broadcast());
        if whole || block.max_prefix_len() - block.prefix_len() <= 1 {
            return AddressRange::new(first, last).ok();
        }
        return AddressRange::new(step(first, 1), step(last, -1)).ok();
    }
    AddressRange::new(block.start.as_ref()?.parse().ok()?, block.end.as_ref()?.parse().ok()?).ok()
}

fn step(addr: IpAddr, by: i8) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => Ipv4Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into())).into(),
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into())).into(),
    }
}

/// `None` for Services that nobody outside reaches by an address of their own.
pub(super) fn exposure(service: &core::Service) -> Option<Exposure> {
    let spec = service.spec.as_ref()?;
    let status = service.status.as_ref();
    let mut conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default().iter();
    let is_managed = conditions.any(|one| one.type_ == ADDRESSES_ASSIGNED && one.status == "True");
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    if !is_balanced && !is_managed && spec.external_ips.as_ref().is_none_or(Vec::is_empty) {
        return None;
    }
    let annotation = |key: &str| service.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let request = annotation(REQUESTED).or(spec.load_balancer_ip.as_deref()).unwrap_or_default();
    let requested = addresses(request);
    let ingress =
        status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    Some(Exposure {
        created: created(&service.metadata),
        labels: super::labels(service.metadata.labels.as_ref()),
        class: spec.load_balancer_class.as_deref().map(Arc::from),
        families: families(spec),
        second_is_optional: spec.ip_family_policy.as_deref() == Some("PreferDualStack"),
        malformed_request: requested.is_none().then(|| request.into()),
        requested: requested.unwrap_or_default(),
        sharing_key: annotation(SHARING_KEY).filter(|key| !key.is_empty()).map(Arc::from),
        given: ingress
            .iter()
            .filter_map(|one| one.ip.as_ref()?.parse::<IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect(),
        has_host_names: ingress.iter().any(|one| one.ip.is_none()),
        is_managed,
    })
}

/// A comma-separated list; `None` when it is none. Nothing at all is an empty list.
fn addresses(text: &str) -> Option<Vec<IpAddr>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|part| part.trim().parse::<IpAddr>().ok().map(|addr| addr.to_canonical())).collect()
}

/// `spec.ipFamilies`, which the API server always writes; the families of the cluster addresses where a file has none.
fn families(spec: &core::ServiceSpec) -> Vec<Family> {
    let written = spec.ip_families.iter().flatten().filter_map(|word| match word.as_str() {
        "IPv4" => Some(Family::IPv4),
        "IPv6" => Some(Family::IPv6),
        _ => None,
    });
    let mut families: Vec<Family> = Vec::with_capacity(2);
    for family in written.chain(super::cluster_ips(spec).into_iter().map(Family::of)) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}
