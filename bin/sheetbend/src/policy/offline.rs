//! The cluster that manifests describe, as a lab would stand it up, without a lab.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, Pod, PodCondition, PodIP, PodStatus};
use sheetbend_intake::file::{
    self, Assigned, Cluster, Expanded, Kind, ManifestError, Manifests, Object, ObjectId,
    build_endpoint_slices, expand,
};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{NodeName, ObjectKey};
use sheetbend_shell::exit;

use crate::ask::Failure;
use crate::lab::{layout, service_cidr};

/// Nodes where the manifests name none: as many as a lab has.
const NODES: u8 = 2;

/// What manifests describe, and what was assumed.
pub(super) struct Offline {
    pub(super) snapshot: Snapshot,
    pub(super) notes: Vec<String>,
    pub(super) places: Places,
}

/// Kind and policy → file and line.
pub(super) type Places = BTreeMap<(&'static str, ObjectKey), String>;

/// Reads manifests and does what controllers, the scheduler and CNI would: workloads become pods on nodes, pods get
/// addresses and are ready. Addresses that a dump names are kept.
pub(super) fn read(paths: &[PathBuf]) -> Result<Offline, Failure> {
    let manifests = file::read(paths).map_err(|errors| refuse(&errors))?;
    let names = node_names(&manifests);
    let cluster = Cluster { nodes: names, service_cidrs: layout::service_cidrs(), keep_addresses: true };
    let mut expanded =
        expand(&manifests, &cluster, &Assigned::default()).map_err(|errors| refuse(&errors))?;
    let ranges = fill_nodes(&manifests, &mut expanded);
    let assumed = fill_pods(&mut expanded, &ranges);
    let mut objects: Vec<Object> = expanded.objects.into_values().collect();
    let slices = endpoint_slices(&objects);
    objects.extend(slices);
    if !objects.iter().any(|object| object.kind() == Kind::ServiceCIDR) {
        objects.push(service_cidr());
    }
    let skipped = manifests.skipped.iter().map(ToString::to_string);
    let mut notes: Vec<String> = skipped.chain(expanded.notices.iter().map(ToString::to_string)).collect();
    if assumed > 0 {
        notes.push(format!(
            "{assumed} pods have no address in the files and were given some of {}",
            ranges.values().flatten().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    let snapshot = file::snapshot(&objects);
    let policies = manifests.objects.iter().filter(|(id, _)| is_policy(id));
    let places = policies.map(|(id, manifest)| ((id.kind.name(), id.key()), manifest.place.to_string()));
    let places = places.collect();
    Ok(Offline { snapshot, notes, places })
}

fn is_policy(id: &ObjectId) -> bool {
    matches!(
        id.kind,
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy | Kind::ClusterTrafficPolicy | Kind::TrafficPolicy
    )
}

pub(super) fn refuse(errors: &[ManifestError]) -> Failure {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    (exit::BAD_INPUT, format!("the manifests are wrong:\n{}", lines.join("\n")))
}

/// The nodes that the manifests name, or those of a lab.
fn node_names(manifests: &Manifests) -> Vec<NodeName> {
    let mut names = BTreeSet::new();
    for manifest in manifests.objects.values() {
        if let Object::Node(node) = &*manifest.object {
            names.extend(node.metadata.name.clone());
        } else if let Object::Pod(pod) = &*manifest.object {
            names.extend(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()));
        }
    }
    names.remove("");
    if names.is_empty() {
        names.extend((1..=NODES).map(layout::node_name));
    }
    names.into_iter().map(NodeName::new).collect()
}

/// Gives nodes the ranges and addresses of their manifests, else those of a lab's nodes. Returns the ranges.
fn fill_nodes(manifests: &Manifests, expanded: &mut Expanded) -> BTreeMap<String, Vec<IpNet>> {
    let mut ranges = BTreeMap::new();
    let mut index = 0usize;
    for object in expanded.objects.values_mut() {
        let Object::Node(node) = object else { continue };
        index += 1;
        let given = manifests.objects.values().find_map(|manifest| {
            let Object::Node(given) = &*manifest.object else { return None };
            (given.metadata.name == node.metadata.name).then_some(given)
        });
        let cidrs = fill_node(node, given.map(AsRef::as_ref), u8::try_from(index).ok());
        ranges.insert(node.metadata.name.clone().unwrap_or_default(), cidrs);
    }
    ranges
}

fn fill_node(node: &mut Node, given: Option<&Node>, index: Option<u8>) -> Vec<IpNet> {
    let spec = given.and_then(|given| given.spec.as_ref());
    let texts = spec.and_then(|spec| spec.pod_cidrs.clone().or_else(|| Some(vec![spec.pod_cidr.clone()?])));
    let cidrs: Vec<IpNet> = texts.iter().flatten().filter_map(|text| text.parse().ok()).collect();
    let cidrs = if cidrs.is_empty() { index.map(layout::pod_cidrs).unwrap_or_default() } else { cidrs };
    let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    node.spec =
        Some(NodeSpec { pod_cidr: texts.first().cloned(), pod_cidrs: Some(texts), ..NodeSpec::default() });
    let addresses = given.and_then(|given| given.status.as_ref()?.addresses.clone());
    let addresses = addresses.filter(|addresses| !addresses.is_empty()).unwrap_or_else(|| {
        let own = index.map(layout::node_addresses).unwrap_or_default().into_iter();
        let internal =
            |addr: IpAddr| NodeAddress { address: addr.to_string(), type_: "InternalIP".to_owned() };
        own.map(internal).collect()
    });
    node.status.get_or_insert_default().addresses = Some(addresses);
    cidrs
}

/// Makes pods run, with an address of each range of their node where they have none. Returns how many had none.
fn fill_pods(expanded: &mut Expanded, ranges: &BTreeMap<String, Vec<IpNet>>) -> usize {
    let pods = || expanded.objects.values().filter_map(as_pod);
    let mut taken: BTreeSet<IpAddr> = pods().flat_map(addresses_of).collect();
    let mut assumed = 0;
    for object in expanded.objects.values_mut() {
        let Object::Pod(pod) = object else { continue };
        let mut addresses = addresses_of(pod);
        let spec = pod.spec.as_ref();
        let is_host = spec.and_then(|spec| spec.host_network).unwrap_or_default();
        let node = spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if addresses.is_empty() && !is_host {
            // The first host address of a range is its node's.
            let free = |cidr: &IpNet| {
                let mut hosts = cidr.hosts().filter(|addr| *addr != cidr.network()).skip(1);
                hosts.find(|addr| !taken.contains(addr))
            };
            addresses = ranges.get(&node).into_iter().flatten().filter_map(free).collect();
            taken.extend(&addresses);
            assumed += 1;
        }
        let unready = pod.metadata.annotations.iter().flatten();
        let unready =
            unready.into_iter().any(|(key, value)| key == "sheetbend.dev/lab-ready" && value == "false");
        pod.status = Some(PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: addresses.first().map(ToString::to_string),
            pod_ips: Some(addresses.iter().map(|addr| PodIP { ip: addr.to_string() }).collect()),
            conditions: Some(vec![PodCondition {
                type_: "Ready".to_owned(),
                status: if unready { "False" } else { "True" }.to_owned(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        });
    }
    assumed
}

fn as_pod(object: &Object) -> Option<&Pod> {
    if let Object::Pod(pod) = object { Some(pod) } else { None }
}

fn addresses_of(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let several = status.and_then(|status| status.pod_ips.as_ref());
    let several = several.into_iter().flatten().map(|own| own.ip.as_str());
    let first = status.and_then(|status| status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for addr in several.chain(first).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&addr) {
            addresses.push(addr);
        }
    }
    addresses
}

/// What the endpointslice controller would make.
fn endpoint_slices(objects: &[Object]) -> Vec<Object> {
    let pods: Vec<&Pod> = objects.iter().filter_map(as_pod).collect();
    let nodes: Vec<&Node> = objects
        .iter()
        .filter_map(|object| if let Object::Node(node) = object { Some(&**node) } else { None })
        .collect();
    let mut slices: Vec<Object> = Vec::new();
    let known: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
    for object in objects {
        let Object::Service(service) = object else { continue };
        let built = build_endpoint_slices(service, pods.iter().copied(), nodes.iter().copied());
        slices.extend(built.into_iter().map(Object::from).filter(|slice| !known.contains(&slice.id())));
    }
    slices
}
