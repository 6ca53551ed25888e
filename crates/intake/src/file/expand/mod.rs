//! What Kubernetes' controllers and scheduler would make of manifests, for a cluster that has none of them (the lab):
//! namespaces, pods of workloads, nodes for pods, addresses for Services, EndpointSlices. Pure.

mod cluster_ip;
mod hints;
mod owners;
mod schedule;
mod slices;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sheetbend_model::types::{NodeName, ObjectKey};

use super::clash;
use super::error::{ManifestError, Notice, Place};
use super::manifests::Manifests;
use super::object::{Kind, Object, ObjectId};
use crate::convert::{self, NAMESPACE_NAME_LABEL};

pub use slices::build_endpoint_slices;

/// Marks EndpointSlices that the controller makes from a Service's selector; they are made anew here.
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] for that controller.
pub(super) const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// The cluster that manifests are expanded for.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its nodes, in order. At least one.
    pub nodes: Vec<NodeName>,
    /// Where Service addresses come from: at most one block per family, the cluster's first family first.
    pub service_cidrs: Vec<IpNet>,
    /// Keep `status.podIPs` of given Pods, so that they get the same addresses again.
    pub keep_addresses: bool,
}

/// What earlier expansions decided and later ones keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Service → its cluster addresses.
    pub cluster_ips: BTreeMap<ObjectKey, Vec<IpAddr>>,
    /// Pod → its node.
    pub nodes: BTreeMap<ObjectKey, NodeName>,
}

impl Assigned {
    /// What `objects`, which came out of [`expand`], have been given.
    pub fn of<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Self {
        let mut assigned = Self::default();
        for object in objects {
            let key = object.id().key();
            if let Object::Pod(pod) = object
                && let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())
            {
                assigned.nodes.insert(key, NodeName::new(node));
            } else if let Object::Service(service) = object {
                let addresses = service.spec.as_ref().map(convert::cluster_ips).unwrap_or_default();
                assigned.cluster_ips.insert(key, addresses);
            }
        }
        assigned
    }
}

/// Expanded manifests.
#[derive(Clone, Debug, Default)]
pub struct Expanded {
    /// Namespaces, the cluster's Nodes (without addresses), Pods (with `spec.nodeName`, without status), Services (with
    /// addresses), NetworkPolicies, and the EndpointSlices that no controller makes. Workloads are gone.
    pub objects: BTreeMap<ObjectId, Object>,
    /// What was assumed.
    pub notices: Vec<Notice>,
}

/// Expands `manifests` for `cluster`; what `assigned` says stays as it is.
///
/// # Errors
/// Services whose addresses cannot be had.
pub fn expand(
    manifests: &Manifests,
    cluster: &Cluster,
    assigned: &Assigned,
) -> Result<Expanded, Vec<ManifestError>> {
    // Manifests may have been put together after they were read.
    let clashes = clash::cluster_ips(&manifests.objects);
    if !clashes.is_empty() {
        return Err(clashes);
    }
    let mut expanded = Expanded { notices: manifests.notices.clone(), ..Expanded::default() };
    let mut pods = Vec::new();
    for (id, manifest) in &manifests.objects {
        match &*manifest.object {
            Object::Pod(pod) => pods.push(Wanted::given(pod, manifest.place.clone(), cluster.keep_addresses)),
            Object::EndpointSlice(slice) if is_managed(&slice.metadata) => {}
            Object::Namespace(_)
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
            | Object::L2Announcement(_) => {
                expanded.objects.insert(id.clone(), trimmed(&manifest.object));
            }
            Object::Node(_)
            | Object::Service(_)
            | Object::Deployment(_)
            | Object::StatefulSet(_)
            | Object::DaemonSet(_)
            | Object::ReplicaSet(_)
            | Object::Job(_) => {}
        }
    }
    let nodes = schedule::nodes(manifests, cluster);
    pods.extend(workload::pods(manifests, &nodes, &mut expanded.notices));
    workload::unique_names(&mut pods, &mut expanded.notices);
    let pods = schedule::place(pods, &nodes, assigned, &mut expanded.notices);
    expanded.objects.extend(pods.into_iter().map(with_id));
    expanded.objects.extend(nodes.into_objects().into_iter().map(with_id));
    let services = cluster_ip::services(manifests, cluster, assigned)?;
    expanded.objects.extend(services.into_iter().map(with_id));
    namespaces(&mut expanded);
    Ok(expanded)
}

fn with_id(object: impl Into<Object>) -> (ObjectId, Object) {
    let object = object.into();
    (object.id(), object)
}

fn is_managed(metadata: &ObjectMeta) -> bool {
    metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|by| by == SLICE_CONTROLLER)
}

/// A copy without what an API server alone writes.
fn trimmed(object: &Object) -> Object {
    let mut object = object.clone();
    trim(object.metadata_mut());
    object
}

fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.resource_version = None;
    metadata.creation_timestamp = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    metadata.generation = None;
    metadata.self_link = None;
}

/// A Pod that shall be, not yet on a node.
struct Wanted {
    pod: Pod,
    /// Where it, or its workload, was written.
    place: Place,
    /// Kind of the workload that it was made of.
    made_by: Option<Kind>,
    /// The node of a DaemonSet's pod.
    pinned: Option<NodeName>,
}

impl Wanted {
    fn given(pod: &Pod, place: Place, keep_addresses: bool) -> Self {
        let mut pod = pod.clone();
        trim(&mut pod.metadata);
        let status = pod.status.take().filter(|_| keep_addresses);
        pod.status = status.map(|status| PodStatus {
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            ..PodStatus::default()
        });
        Self { pod, place, made_by: None, pinned: None }
    }

    fn key(&self) -> ObjectKey {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        ObjectKey::new(namespace, self.pod.metadata.name.as_deref().unwrap_or_default())
    }
}

/// Makes the namespaces that are used and not written, and gives all of them the label that names them.
fn namespaces(expanded: &mut Expanded) {
    let used: BTreeSet<Arc<str>> = expanded
        .objects
        .keys()
        .filter(|id| id.kind.is_namespaced())
        .map(|id| Arc::clone(&id.namespace))
        .collect();
    let mut made = Vec::new();
    for name in used {
        let id = ObjectId::new(Kind::Namespace, "", &name);
        expanded.objects.entry(id).or_insert_with(|| {
            // Every cluster has this one.
            if &*name != "default" {
                made.push(name.to_string());
            }
            let metadata = ObjectMeta { name: Some(name.to_string()), ..ObjectMeta::default() };
            Namespace { metadata, ..Namespace::default() }.into()
        });
    }
    for object in expanded.objects.values_mut().filter(|object| object.kind() == Kind::Namespace) {
        let metadata = object.metadata_mut();
        let name = metadata.name.clone().unwrap_or_default();
        metadata.labels.get_or_insert_default().insert(NAMESPACE_NAME_LABEL.to_owned(), name);
    }
    if !made.is_empty() {
        let text =
            format!("namespaces used and not written, made without further labels: {}", made.join(", "));
        expanded.notices.push(Notice { place: None, text });
    }
}

impl schedule::Nodes {
    fn into_objects(self) -> Vec<Node> {
        self.labels
            .into_iter()
            .map(|(name, labels)| Node {
                metadata: ObjectMeta {
                    name: Some(name.to_string()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                },
                ..Node::default()
            })
            .collect()
    }
}
