//! What a Namespace's isolation label, and the Tenants, mean for one flow.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{EndpointSlice, Pod, Snapshot};
use sheetbend_model::types::{Direction, Protocol};

use crate::policy::{Flow, namespace_labels};

/// Index of the rule for the cluster's DNS, in egress.
const DNS: u32 = 0;

/// Which of the label's rules allow the flow; `None` where `subject`'s namespace is not isolated.
pub(crate) fn allowing(
    snapshot: &Snapshot,
    direction: Direction,
    subject: &Pod,
    (peer, addr): (Option<&Arc<Pod>>, IpAddr),
    flow: &Flow<'_>,
) -> Option<Vec<u32>> {
    let posture = posture(snapshot, subject)?;
    let mut rules = Vec::new();
    let is_dns = |pod: &Pod| {
        &*pod.key.namespace == "kube-system"
            && pod.labels.get("k8s-app").is_some_and(|app| &**app == "kube-dns")
    };
    let is_server = peer.is_some_and(|pod| is_dns(pod)) || is_on_node(snapshot, addr);
    if direction == Direction::Egress && is_server && answers(snapshot, peer.map(AsRef::as_ref), flow) {
        rules.push(DNS);
    }
    if let Some(tenant) = posture
        && peer.is_some_and(|pod| is_of(snapshot, pod, &tenant))
    {
        rules.push(if direction == Direction::Egress { 1 } else { 0 });
    }
    Some(rules)
}

/// Whether `addr` is a node's, and an endpoint of the cluster's DNS.
fn is_on_node(snapshot: &Snapshot, addr: IpAddr) -> bool {
    let mut nodes = snapshot.nodes.values();
    let is_nodes =
        nodes.any(|node| node.addresses.iter().chain(&node.other_addresses).any(|own| *own == addr));
    let mut endpoints = dns_slices(snapshot).flat_map(|slice| &slice.endpoints);
    is_nodes && endpoints.any(|endpoint| endpoint.address == Some(addr))
}

fn dns_slices(snapshot: &Snapshot) -> impl Iterator<Item = &EndpointSlice> {
    let all = snapshot.endpoint_slices.values().map(AsRef::as_ref);
    all.filter(|slice| &*slice.key.namespace == "kube-system" && slice.service.as_deref() == Some("kube-dns"))
}

/// Whether the flow goes to port 53, to one behind the DNS Service, or to the port that the pod calls dns or dns-tcp.
fn answers(snapshot: &Snapshot, pod: Option<&Pod>, flow: &Flow<'_>) -> bool {
    let (protocol, name) = match flow.protocol.protocol() {
        Some(Protocol::Udp) => (Protocol::Udp, "dns"),
        Some(Protocol::Tcp) => (Protocol::Tcp, "dns-tcp"),
        _ => return false,
    };
    let mut served = dns_slices(snapshot).flat_map(|slice| &slice.ports);
    let is_served = served
        .any(|port| port.protocol == protocol && port.port.is_some_and(|number| number.get() == flow.port));
    let is_named = |pod: &Pod| pod.named_ports(name, protocol).iter().any(|number| number.get() == flow.port);
    flow.port == 53 || is_served || pod.is_some_and(is_named)
}

/// `None`: not isolated. `Some(None)`: strict. `Some(Some(name))`: of that tenant.
fn posture(snapshot: &Snapshot, pod: &Pod) -> Option<Option<String>> {
    let labels = namespace_labels(snapshot, &pod.key.namespace);
    let text = |key: &str| labels.get(key).map(|value| value.to_string()).unwrap_or_default();
    let mut tenants: BTreeSet<String> = BTreeSet::new();
    // A namespace whose object nobody knows is of no Tenant.
    for tenant in snapshot.tenants.values().filter(|_| snapshot.namespaces.contains_key(&pod.key.namespace)) {
        if tenant.namespaces.matches(&labels) {
            tenants.insert(tenant.name.to_string());
        }
    }
    match text("sheetbend.dev/isolation").as_str() {
        "" if tenants.is_empty() => return None,
        "" | "tenant" => {}
        _ => return Some(None),
    }
    let own = text("sheetbend.dev/tenant");
    if !own.is_empty() {
        tenants.insert(own);
    }
    Some(if tenants.len() == 1 { tenants.pop_first() } else { None })
}

/// Whether the tenant called `name` may have `pod`'s namespace: by the labels, or by the Tenant.
fn is_of(snapshot: &Snapshot, pod: &Pod, name: &str) -> bool {
    let labels = namespace_labels(snapshot, &pod.key.namespace);
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|own| &**own == value);
    let by_labels = is("sheetbend.dev/isolation", "tenant") && is("sheetbend.dev/tenant", name);
    by_labels || snapshot.tenants.get(name).is_some_and(|tenant| tenant.namespaces.matches(&labels))
}
