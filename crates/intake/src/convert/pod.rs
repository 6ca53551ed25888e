//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use sheetbend_model::state::{ContainerPort, DEFAULT_ACCOUNT, Pod, PodPhase};
use sheetbend_model::types::{NetworkId, NodeName, ObjectKey, PodIps, Port};

use super::protocol_of;

pub(super) fn pod(pod: &core::Pod, key: ObjectKey) -> Pod {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
    let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
    Pod {
        key,
        uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
        labels: Arc::new(super::labels(pod.metadata.labels.as_ref())),
        service_account: account.unwrap_or(DEFAULT_ACCOUNT).into(),
        node: node.map(NodeName::new),
        network: NetworkId::default(),
        addresses: known_addresses(pod),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        phase: phase(status),
        ready: ready(status),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        ports: spec.map(container_ports).unwrap_or_default().into(),
    }
}

/// What the kubelet says, or before it says anything, what ADD wrote beside the pod.
fn known_addresses(pod: &core::Pod) -> PodIps {
    let addresses = addresses(pod.status.as_ref());
    if !addresses.is_empty() {
        return addresses;
    }
    let published = pod.metadata.annotations.as_ref().and_then(|all| all.get(crate::kube::POD_IPS));
    one_per_family(published.into_iter().flat_map(|text| text.split(',')).map(str::trim))
}

/// `status.podIPs`, or `podIP` where only that is written; the first of each family.
pub(crate) fn addresses(status: Option<&core::PodStatus>) -> PodIps {
    let Some(status) = status else { return PodIps::default() };
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let one = status.pod_ip.as_deref().filter(|_| all.is_empty());
    one_per_family(all.iter().map(|address| address.ip.as_str()).chain(one))
}

fn one_per_family<'a>(texts: impl Iterator<Item = &'a str>) -> PodIps {
    texts.filter_map(|text| text.parse().ok()).map(|addr: IpAddr| addr.to_canonical()).collect()
}

pub(crate) fn phase(status: Option<&core::PodStatus>) -> PodPhase {
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        Some(_) | None => PodPhase::Pending,
    }
}

/// Condition Ready.
pub(crate) fn ready(status: Option<&core::PodStatus>) -> bool {
    status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// The ports of all containers that run as long as the pod: init containers only where they are sidecars
/// (`restartPolicy: Always`, KEP-753), as the endpoint controllers look them up.
pub(crate) fn container_ports(spec: &core::PodSpec) -> Vec<ContainerPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(ContainerPort {
                name: port.name.as_deref().filter(|name| !name.is_empty()).map(Arc::from),
                port: Port::try_from(port.container_port).ok()?,
                protocol: protocol_of(port.protocol.as_deref()),
                host_port: port.host_port.and_then(|number| Port::try_from(number).ok()),
                host_ip: port.host_ip.as_ref().and_then(|text| text.parse().ok()),
            })
        })
        .collect()
}
