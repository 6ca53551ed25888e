//! Whose clients an endpoint is meant for (`k8s.io/endpointslice/trafficdist`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};
use sheetbend_model::state::ZONE;

/// Node → its zone.
pub(super) type Zones<'a> = BTreeMap<&'a str, &'a str>;

pub(super) fn zones<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Zones<'a> {
    let zone = |node: &'a Node| {
        Some((node.metadata.name.as_deref()?, node.metadata.labels.as_ref()?.get(ZONE)?.as_str()))
    };
    nodes.into_iter().filter_map(zone).collect()
}

/// Writes `endpoint`'s zone, and the hints that `trafficDistribution` asks for: a ready endpoint is meant for its own
/// zone, or node (KEP-4444, KEP-3015).
pub(super) fn write(spec: &ServiceSpec, zones: &Zones<'_>, endpoint: &mut Endpoint) {
    let node = endpoint.node_name.clone();
    endpoint.zone = node.as_deref().and_then(|node| zones.get(node)).map(|zone| (*zone).to_owned());
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
    let by_node = match spec.traffic_distribution.as_deref() {
        Some("PreferSameNode") => true,
        Some("PreferSameZone" | "PreferClose") => false,
        _ => return,
    };
    if ready != Some(true) {
        return;
    }
    let hints = EndpointHints {
        for_zones: endpoint.zone.clone().map(|name| vec![ForZone { name }]),
        for_nodes: node.filter(|_| by_node).map(|name| vec![ForNode { name }]),
    };
    endpoint.hints = (hints != EndpointHints::default()).then_some(hints);
}
