//! The user's objects of a lab (`objects/`, swapped whole by rename), and what controllers make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeAddress, Pod};
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
pub(crate) use sheetbend_intake::file::Manifests;
use sheetbend_intake::file::{
    self, Assigned, Expanded, Kind, ManifestError, Notice, Object, ObjectId, build_endpoint_slices, expand,
};
use sheetbend_model::plan::Condition;
use sheetbend_model::state::NetworkConfig;
use sheetbend_model::types::{NodeName, ObjectKey, Protocol};

use super::failure::{Failure, MANIFEST, Outcome, USAGE};
use super::launch::LabRequest;
use super::layout;
use super::state::LabDir;

/// The expanded objects of a lab, without what the kubelet writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    /// Pods, each with a node.
    pub(crate) pods: BTreeMap<ObjectKey, Object>,
    /// Everything else that is served as it is.
    pub(crate) others: Vec<Object>,
    /// What was assumed.
    pub(crate) notices: Vec<Notice>,
}

impl Cluster {
    /// What the agents will say is wrong with objects: handled, and not refused.
    pub(crate) fn conditions(&self) -> Vec<String> {
        let snapshot = file::snapshot(self.others.iter().chain(self.pods.values()));
        let node = NodeName::new(layout::node_name(1));
        let compiled = sheetbend_compile::compile(&snapshot, &node, &NetworkConfig::default());
        let text =
            |condition: &Condition| format!("{} {}: {}", condition.kind, condition.object, condition.message);
        compiled.conditions.iter().map(text).collect()
    }

    /// Every (protocol, port) that some pod, policy or Service names: what the world serves.
    pub(crate) fn served_ports(&self) -> Vec<(Protocol, u16)> {
        let snapshot = file::snapshot(self.others.iter().chain(self.pods.values()));
        super::matrix::named_ports(&sheetbend_compile::resolved(&snapshot))
    }
}

/// Reads manifests; all problems at once, nothing in part.
pub(crate) fn read(paths: &[PathBuf]) -> Outcome<Manifests> {
    file::read(paths).map_err(|errors| refuse(&errors))
}

/// Reads what is in the lab's `objects/`.
pub(crate) fn stored(dir: &LabDir) -> Outcome<Manifests> {
    let path = dir.join("objects");
    let empty = fs::read_dir(&path)?.next().is_none();
    if empty { Ok(Manifests::default()) } else { read(&[path]) }
}

/// Expands what is in `objects/`; what the served cluster has been given stays.
pub(crate) fn load(dir: &LabDir, request: &LabRequest) -> Outcome<Cluster> {
    build(&stored(dir)?, dir, request)
}

/// Expands `manifests` for the lab in `dir`.
pub(crate) fn build(manifests: &Manifests, dir: &LabDir, request: &LabRequest) -> Outcome<Cluster> {
    let served = match fs::exists(dir.cluster())? {
        true => read(&[dir.cluster()])?,
        false => Manifests::default(),
    };
    let served = || served.objects.values().map(|manifest| &*manifest.object);
    let assigned = Assigned::of(served());
    let cluster = file::Cluster {
        nodes: (1..=request.nodes).map(|index| NodeName::new(layout::node_name(index))).collect(),
        service_cidrs: layout::service_cidrs(),
        keep_addresses: request.keep_addresses,
    };
    let expanded = expand(manifests, &cluster, &assigned).map_err(|errors| refuse(&errors))?;
    let mut cluster = split(expanded, request);
    if !cluster.others.iter().any(|object| object.kind() == Kind::ServiceCIDR) {
        cluster.others.push(service_cidr());
    }
    cluster.notices.extend(super::balancer::give(&mut cluster.others, served()));
    Ok(cluster)
}

fn split(expanded: Expanded, request: &LabRequest) -> Cluster {
    let mut cluster = Cluster { notices: expanded.notices, ..Cluster::default() };
    let indexes: BTreeMap<String, u8> =
        (1..=request.nodes).map(|index| (layout::node_name(index), index)).collect();
    for (id, mut object) in expanded.objects {
        match &mut object {
            Object::Pod(_) => {
                cluster.pods.insert(id.key(), object);
                continue;
            }
            Object::Node(node) => {
                if let Some(index) = indexes.get(&*id.name) {
                    fill_node(node, *index, request.cidrs_of(*index));
                }
            }
            Object::Namespace(_)
            | Object::Deployment(_)
            | Object::StatefulSet(_)
            | Object::DaemonSet(_)
            | Object::ReplicaSet(_)
            | Object::Job(_)
            | Object::Service(_)
            | Object::EndpointSlice(_)
            | Object::NetworkPolicy(_)
            | Object::ServiceCIDR(_)
            | Object::ClusterNetworkPolicy(_)
            | Object::Tenant(_)
            | Object::TrafficTier(_)
            | Object::NetworkSet(_)
            | Object::ClusterTrafficPolicy(_)
            | Object::TrafficPolicy(_)
            | Object::LoadBalancerPool(_)
            | Object::L2Announcement(_) => {}
        }
        cluster.others.push(object);
    }
    cluster
}

/// What the API server makes of its own ranges (KEP-1880).
pub(crate) fn service_cidr() -> Object {
    let mut object = ServiceCIDR::default();
    object.metadata.name = Some("kubernetes".to_owned());
    let cidrs = layout::service_cidrs().iter().map(ToString::to_string).collect();
    object.spec = Some(ServiceCIDRSpec { cidrs: Some(cidrs) });
    object.into()
}

/// What the kubelet and the node controller write.
fn fill_node(node: &mut Node, index: u8, cidrs: &[IpNet]) {
    let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    let spec = node.spec.get_or_insert_default();
    spec.pod_cidr = cidrs.first().cloned();
    spec.pod_cidrs = Some(cidrs);
    let addresses = layout::node_addresses(index).into_iter();
    let addresses =
        addresses.map(|addr| NodeAddress { address: addr.to_string(), type_: "InternalIP".to_owned() });
    node.status.get_or_insert_default().addresses = Some(addresses.collect());
}

/// Ranges of each lab node's pods: the lab's own, or, to keep addresses, those of the manifests' Nodes in name order.
pub(crate) fn pod_cidrs(manifests: &Manifests, nodes: u8, keep_addresses: bool) -> Outcome<Vec<Vec<IpNet>>> {
    let mut ranges: Vec<Vec<IpNet>> = (1..=nodes).map(layout::pod_cidrs).collect();
    let given = manifests.objects.values().filter(|_| keep_addresses).filter_map(|manifest| {
        let Object::Node(node) = &*manifest.object else { return None };
        Some(node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()))
    });
    // By name already: the map's keys are ordered by kind, then name.
    let given: Vec<Option<Vec<String>>> = given.collect();
    if given.len() > usize::from(nodes) {
        let count = given.len();
        return Err(Failure::new(
            USAGE,
            format!(
                "--keep-addresses needs a lab node for each of the {count} Nodes in the manifests; add --nodes {count}"
            ),
        ));
    }
    for (range, given) in ranges.iter_mut().zip(given) {
        let given: Vec<IpNet> = given.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect();
        if !given.is_empty() {
            *range = given;
        }
    }
    Ok(ranges)
}

/// The EndpointSlices of the cluster's Services for `pods`, which have their status.
pub(crate) fn endpoint_slices(cluster: &Cluster, pods: &BTreeMap<ObjectKey, Object>) -> Vec<Object> {
    let pods: Vec<&Pod> = pods
        .values()
        .filter_map(|object| if let Object::Pod(pod) = object { Some(&**pod) } else { None })
        .collect();
    let nodes: Vec<&Node> = cluster
        .others
        .iter()
        .filter_map(|object| if let Object::Node(node) = object { Some(&**node) } else { None })
        .collect();
    let mut slices = Vec::new();
    for object in &cluster.others {
        if let Object::Service(service) = object {
            let built = build_endpoint_slices(service, pods.iter().copied(), nodes.iter().copied());
            slices.extend(built.into_iter().map(Object::from));
        }
    }
    slices
}

/// Makes `manifests` the lab's `objects/`, whole or not at all.
pub(crate) fn store(dir: &LabDir, manifests: &Manifests) -> anyhow::Result<()> {
    let root = dir.join("objects.d");
    fs::create_dir_all(&root)?;
    let generations =
        fs::read_dir(&root)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let last: u64 = generations.max().unwrap_or(0);
    let next = root.join((last + 1).to_string());
    fs::create_dir(&next)?;
    for manifest in manifests.objects.values() {
        file::write_object(&next, &manifest.object)?;
    }
    let draft = root.join(".link");
    let _ = fs::remove_file(&draft);
    symlink(&next, &draft)?;
    fs::rename(&draft, dir.join("objects"))?;
    if last > 0 {
        fs::remove_dir_all(root.join(last.to_string()))?;
    }
    Ok(())
}

/// `old` with the objects of `new` in it, which replace those of the same name.
pub(crate) fn merged(old: Manifests, new: &Manifests) -> Manifests {
    let mut merged = old;
    merged.objects.extend(new.objects.iter().map(|(id, manifest)| (id.clone(), manifest.clone())));
    merged
}

/// `old` without the objects that `new` names; those it did not have.
pub(crate) fn without(mut old: Manifests, new: &Manifests) -> (Manifests, BTreeSet<ObjectId>) {
    let absent = new.objects.keys().filter(|id| old.objects.remove(id).is_none()).cloned().collect();
    (old, absent)
}

/// What a user should know about manifests that are right: skipped kinds, assumptions.
pub(crate) fn remarks(manifests: &Manifests, notices: &[Notice]) -> Vec<String> {
    let mut remarks: Vec<String> = manifests.skipped.iter().map(ToString::to_string).collect();
    for notice in notices {
        let text = notice.to_string();
        if !remarks.contains(&text) {
            remarks.push(text);
        }
    }
    remarks
}

fn refuse(errors: &[ManifestError]) -> Failure {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Failure::new(
        MANIFEST,
        format!("nothing was applied; {} to correct:\n{}", count(lines.len()), lines.join("\n")),
    )
}

fn count(problems: usize) -> String {
    if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") }
}
