//! Services and EndpointSlices.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sheetbend_model::state::{
    Algorithm, Endpoint, EndpointPort, EndpointSlice, Hints, Service, ServiceCidr, ServicePort, ServiceType,
    TargetPort, TrafficPolicy, Weights,
};
use sheetbend_model::types::{Family, NodeName, ObjectKey, Port};

use super::{block, protocol_of};

/// Labels of Services that kube-proxy, and so we, leave to somebody else (core/v1, KEP-2447).
const OTHER_PROXY: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// How a Service chooses its backends: the name of an [`Algorithm`].
pub(crate) const LOAD_BALANCING: &str = "sheetbend.dev/load-balancing";

/// Source ranges as they were written before the field `loadBalancerSourceRanges`.
pub(crate) const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// How much of the new flows each endpoint gets, on an EndpointSlice or its Service: see [`Weights`].
const WEIGHTS: &str = "sheetbend.dev/weights";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where absent: three hours (core/v1 defaults).
const AFFINITY_TIMEOUT: u32 = 10_800;

pub(super) fn service(service: &core::Service, key: ObjectKey) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let service_type = match spec.type_.as_deref() {
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(_) | None => ServiceType::ClusterIP,
    };
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(LOAD_BALANCING));
    let known = annotation.map(|name| Algorithm::ALL.into_iter().find(|known| known.name() == name));
    let (algorithm, unknown_algorithm) = match known {
        None => (Algorithm::default(), None),
        Some(Some(algorithm)) => (algorithm, None),
        Some(None) => (Algorithm::default(), annotation.map(|text| text.as_str().into())),
    };
    Service {
        key,
        service_type,
        cluster_ips: if service_type == ServiceType::ExternalName { Vec::new() } else { cluster_ips(&spec) },
        external_name: external_name(service_type, &spec),
        external_ips: spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect(),
        ingress_ips: ingress_ips(service.status.as_ref()),
        source_ranges: source_ranges(service, &spec).filter(|_| service_type == ServiceType::LoadBalancer),
        internal_policy: traffic_policy(spec.internal_traffic_policy.as_deref()),
        external_policy: traffic_policy(spec.external_traffic_policy.as_deref()),
        health_check_node_port: spec.health_check_node_port.and_then(|number| Port::try_from(number).ok()),
        proxied_elsewhere: service
            .metadata
            .labels
            .iter()
            .flatten()
            .any(|(key, _)| OTHER_PROXY.contains(&key.as_str())),
        ports: spec.ports.iter().flatten().filter_map(service_port).collect(),
        selector: super::labels(spec.selector.as_ref()),
        affinity_timeout: affinity(&spec),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or_default(),
        algorithm,
        unknown_algorithm,
        exposure: super::load_balancer::exposure(service).map(Arc::new),
        weights: weights(&service.metadata),
    }
}

fn weights(metadata: &ObjectMeta) -> Weights {
    let annotation = metadata.annotations.as_ref().and_then(|all| all.get(WEIGHTS));
    annotation.map(|text| Weights::read(text)).unwrap_or_default()
}

/// `clusterIPs`, or `clusterIP` where only that is written; empty for `None` (headless).
pub(crate) fn cluster_ips(spec: &core::ServiceSpec) -> Vec<std::net::IpAddr> {
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    let one = spec.cluster_ip.as_ref().filter(|_| all.is_empty());
    all.iter().chain(one).filter_map(|text| text.parse().ok()).collect()
}

/// A dot at the end says what is so anyway: the name is absolute.
fn external_name(service_type: ServiceType, spec: &core::ServiceSpec) -> Option<Arc<str>> {
    let name = spec.external_name.as_deref().filter(|_| service_type == ServiceType::ExternalName)?;
    let name = name.trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_ascii_lowercase().into())
}

/// Addresses of the load balancer whose packets arrive with that destination: ipMode VIP, the default (KEP-1860).
fn ingress_ips(status: Option<&core::ServiceStatus>) -> Vec<std::net::IpAddr> {
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref()?.parse().ok())
        .collect()
}

/// Ranges that are written are in force: one that is no range admits nobody.
fn source_ranges(service: &core::Service, spec: &core::ServiceSpec) -> Option<Arc<[IpNet]>> {
    let ranges = source_range_texts(service, spec);
    let ranges = (!ranges.is_empty()).then_some(ranges)?;
    Some(ranges.iter().filter_map(|text| super::block(text)).collect())
}

/// `loadBalancerSourceRanges`, else those of the annotation that was before it.
pub(crate) fn source_range_texts(service: &core::Service, spec: &core::ServiceSpec) -> Vec<String> {
    let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    let annotation = annotation.map(|text| text.split(',')).into_iter().flatten();
    let texts: Vec<&str> =
        if written.is_empty() { annotation.collect() } else { written.iter().map(String::as_str).collect() };
    texts.into_iter().map(str::trim).filter(|text| !text.is_empty()).map(ToOwned::to_owned).collect()
}

fn traffic_policy(word: Option<&str>) -> TrafficPolicy {
    if word == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_TIMEOUT);
    (spec.session_affinity.as_deref() == Some("ClientIP")).then_some(seconds)
}

fn service_port(port: &core::ServicePort) -> Option<ServicePort> {
    let number = Port::try_from(port.port).ok()?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(Port::try_from(*target).ok()?),
        Some(IntOrString::String(name)) => TargetPort::Name(name.as_str().into()),
    };
    Some(ServicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol_of(port.protocol.as_deref()),
        port: number,
        node_port: port.node_port.and_then(|number| Port::try_from(number).ok()),
        target,
    })
}

/// `None` for slices of DNS names (addressType FQDN).
pub(super) fn endpoint_slice(slice: &discovery::EndpointSlice, key: ObjectKey) -> Option<EndpointSlice> {
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::IPv4,
        "IPv6" => Family::IPv6,
        _ => return None,
    };
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
    let endpoints = slice.endpoints.iter().map(|each| endpoint(each, &key.namespace)).collect();
    Some(EndpointSlice {
        service: service.filter(|name| !name.is_empty()).map(|name| name.as_str().into()),
        family,
        ports: slice.ports.iter().flatten().map(endpoint_port).collect(),
        endpoints,
        weights: weights(&slice.metadata),
        key,
    })
}

fn endpoint_port(port: &discovery::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.as_deref().unwrap_or_default().into(),
        protocol: protocol_of(port.protocol.as_deref()),
        port: port.port.and_then(|number| Port::try_from(number).ok()),
    }
}

fn endpoint(endpoint: &discovery::Endpoint, namespace: &Arc<str>) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    Endpoint {
        address: endpoint.addresses.iter().find_map(|text| text.parse().ok()),
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        hostname: endpoint.hostname.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
        node: endpoint.node_name.as_deref().map(NodeName::new),
        pod: super::pod_reference(endpoint.target_ref.as_ref(), namespace),
        hints: endpoint.hints.as_ref().and_then(hints).map(Arc::new),
    }
}

/// What cannot be read of it is left out.
pub(super) fn service_cidr(service_cidr: &networking::ServiceCIDR) -> ServiceCidr {
    let cidrs = service_cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    ServiceCidr {
        name: service_cidr.metadata.name.as_deref().unwrap_or_default().into(),
        cidrs: cidrs.iter().filter_map(|text| block(text)).collect(),
    }
}

fn hints(hints: &discovery::EndpointHints) -> Option<Hints> {
    let hints = Hints {
        zones: hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect(),
        nodes: hints.for_nodes.iter().flatten().map(|node| NodeName::new(node.name.as_str())).collect(),
    };
    (hints != Hints::default()).then_some(hints)
}
