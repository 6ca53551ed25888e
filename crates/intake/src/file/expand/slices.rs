//! EndpointSlices of a Service with a selector (the endpointslice controller, `k8s.io/endpointslice`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sheetbend_model::types::Family;

use super::hints::{self, Zones};
use super::{MANAGED_BY, SLICE_CONTROLLER};
use crate::convert;

/// Most endpoints in one slice (`--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;

/// The slices of `service` for `pods`, which may be all pods of the cluster: those of its namespace that its selector
/// matches, that have an address and have not ended. One family after the other; pods that resolve a named target
/// port to different numbers are in different slices. `nodes` tell their zones. Empty for a Service without selector,
/// whose slices others make.
pub fn build_endpoint_slices<'a>(
    service: &Service,
    pods: impl IntoIterator<Item = &'a Pod>,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> Vec<EndpointSlice> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let selector = spec.selector.iter().flatten().collect::<Vec<_>>();
    if selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
    let mut members: Vec<&Pod> = pods
        .into_iter()
        .filter(|pod| pod.metadata.namespace.as_deref().unwrap_or("default") == namespace)
        .filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(*key)) == Some(*value))
        })
        .filter(|pod| !convert::pod_phase(pod.status.as_ref()).is_terminal())
        .collect();
    members.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let zones = hints::zones(nodes);
    let slices = |family| family_slices(service, spec, family, &members, &zones);
    families(spec).into_iter().flat_map(slices).collect()
}

/// `ipFamilies`, or what the cluster addresses tell, or IPv4.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    let written = spec.ip_families.iter().flatten();
    let mut families: Vec<Family> =
        written.map(|word| if word == "IPv6" { Family::IPv6 } else { Family::IPv4 }).collect();
    if families.is_empty() {
        families = convert::cluster_ips(spec).into_iter().map(Family::of).collect();
    }
    if families.is_empty() {
        families.push(Family::IPv4);
    }
    families
}

/// Name, number, protocol.
type PortKey = (String, i32, String);

fn family_slices(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
    pods: &[&Pod],
    zones: &Zones<'_>,
) -> Vec<EndpointSlice> {
    let mut by_ports: BTreeMap<Vec<PortKey>, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for pod in pods {
        let Some(address) = convert::pod_addresses(pod.status.as_ref()).get(family) else { continue };
        let ports: Vec<EndpointPort> =
            spec.ports.iter().flatten().filter_map(|port| endpoint_port(port, pod)).collect();
        let key = ports
            .iter()
            .map(|port| {
                let (name, protocol) = (port.name.clone(), port.protocol.clone());
                (name.unwrap_or_default(), port.port.unwrap_or_default(), protocol.unwrap_or_default())
            })
            .collect();
        let group = by_ports.entry(key).or_insert_with(|| (ports, Vec::new()));
        let mut endpoint = endpoint(service, spec, pod, address);
        hints::write(spec, zones, &mut endpoint);
        group.1.push(endpoint);
    }
    let mut slices = Vec::new();
    for (ports, endpoints) in by_ports.into_values() {
        for chunk in endpoints.chunks(MAX_ENDPOINTS) {
            slices.push(EndpointSlice {
                metadata: metadata(service, spec, family, slices.len()),
                address_type: family.to_string(),
                endpoints: chunk.to_vec(),
                ports: Some(ports.clone()),
            });
        }
    }
    slices
}

/// A Service port's number on `pod`; `None` when its target is a name that the pod does not have.
fn endpoint_port(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let number = match &port.target_port {
        None | Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let protocol = convert::protocol_of(port.protocol.as_deref());
            let ports = convert::container_ports(pod.spec.as_ref()?);
            let found = ports
                .into_iter()
                .find(|port| port.name.as_deref() == Some(name.as_str()) && port.protocol == protocol)?;
            i32::from(found.port.get())
        }
    };
    Some(EndpointPort {
        app_protocol: port.app_protocol.clone(),
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(convert::protocol_of(port.protocol.as_deref()).to_string()),
    })
}

fn endpoint(service: &Service, spec: &ServiceSpec, pod: &Pod, address: IpAddr) -> Endpoint {
    let serving = convert::pod_ready(pod.status.as_ref());
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = spec.publish_not_ready_addresses.unwrap_or_default() || (serving && !terminating);
    let pod_spec = pod.spec.as_ref();
    let in_service =
        pod_spec.is_some_and(|pod| pod.subdomain.is_some() && pod.subdomain == service.metadata.name);
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pod_spec.and_then(|pod| pod.hostname.clone()).filter(|_| in_service),
        node_name: pod_spec.and_then(|pod| pod.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// `<service>-<family>-<number>`; the controller's names end in a random word instead.
fn metadata(service: &Service, spec: &ServiceSpec, family: Family, number: usize) -> ObjectMeta {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), SLICE_CONTROLLER.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(format!("{name}-{}-{number}", family.to_string().to_lowercase())),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}
