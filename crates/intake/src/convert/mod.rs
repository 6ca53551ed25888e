//! Kubernetes objects → the trimmed types of `sheetbend_model::state`, with the API's defaults.
//!
//! Total: what an API server would refuse was refused before; what slips through nevertheless is left out, and a
//! policy's rule that cannot be understood allows nothing.

mod cluster_network_policy;
pub(crate) mod load_balancer;
mod network_policy;
mod pod;
mod service;
mod traffic;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde::{Deserialize, Serialize};
use sheetbend_model::state::{
    self, AUDIT, ClusterNetworkPolicy, ENFORCEMENT, EndpointSlice, L2Announcement, LabelSelector,
    LoadBalancerPool, Namespace, NetworkPolicy, Node, Operator, Pod, Requirement, STAGED, Service,
    ServiceCidr, Sharing, Snapshot, Staged, Tenant,
};
use sheetbend_model::types::{Labels, NodeName, ObjectKey, Protocol, Uid};

use crate::file::{Kind, Object, ObjectId};

/// The label that names a Namespace (KEP-2161).
pub(crate) const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// One object as a Snapshot holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Part {
    Node(Arc<Node>),
    Namespace(Arc<Namespace>),
    Pod(Arc<Pod>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    NetworkPolicy(Arc<NetworkPolicy>),
    ServiceCidr(Arc<ServiceCidr>),
    ClusterNetworkPolicy(Arc<ClusterNetworkPolicy>),
    TrafficTier(Arc<state::traffic::Tier>),
    NetworkSet(Arc<state::traffic::NetworkSet>),
    TrafficPolicy(Arc<state::traffic::Policy>),
    Tenant(Arc<Tenant>),
    LoadBalancerPool(Arc<LoadBalancerPool>),
    L2Announcement(Arc<L2Announcement>),
    /// A policy that is not enforced: one of the variants for policies.
    Staged(Box<Part>),
}

impl Part {
    /// What a Snapshot holds of `object`; `None` for workloads and for EndpointSlices of names.
    pub(crate) fn of(object: &Object) -> Option<Self> {
        let part = Self::as_enforced(object)?;
        Some(if is_staged(object) { Part::Staged(Box::new(part)) } else { part })
    }

    fn as_enforced(object: &Object) -> Option<Self> {
        Some(match object {
            Object::Namespace(namespace) => Part::Namespace(Arc::new(self::namespace(namespace))),
            Object::Node(node) => Part::Node(Arc::new(self::node(node))),
            Object::Pod(pod) => Part::Pod(Arc::new(pod::pod(pod, object.id().key()))),
            Object::Service(service) => Part::Service(Arc::new(service::service(service, object.id().key()))),
            Object::EndpointSlice(slice) => {
                Part::EndpointSlice(Arc::new(service::endpoint_slice(slice, object.id().key())?))
            }
            Object::NetworkPolicy(policy) => {
                Part::NetworkPolicy(Arc::new(network_policy::network_policy(policy, object.id().key())))
            }
            Object::ServiceCIDR(object) => Part::ServiceCidr(Arc::new(service::service_cidr(object))),
            Object::ClusterNetworkPolicy(policy) => {
                Part::ClusterNetworkPolicy(Arc::new(cluster_network_policy::policy(policy)))
            }
            Object::TrafficTier(tier) => Part::TrafficTier(Arc::new(traffic::tier(tier))),
            Object::NetworkSet(set) => Part::NetworkSet(Arc::new(traffic::network_set(set))),
            Object::ClusterTrafficPolicy(policy) => {
                Part::TrafficPolicy(Arc::new(traffic::policy(policy.spec.as_ref(), object.id().key())))
            }
            Object::TrafficPolicy(policy) => {
                Part::TrafficPolicy(Arc::new(traffic::policy(policy.spec.as_ref(), object.id().key())))
            }
            Object::Tenant(tenant) => Part::Tenant(Arc::new(self::tenant(tenant))),
            Object::LoadBalancerPool(pool) => Part::LoadBalancerPool(Arc::new(load_balancer::pool(pool))),
            Object::L2Announcement(object) => {
                Part::L2Announcement(Arc::new(load_balancer::announcement(object)))
            }
            Object::Deployment(_)
            | Object::StatefulSet(_)
            | Object::DaemonSet(_)
            | Object::ReplicaSet(_)
            | Object::Job(_) => return None,
        })
    }

    /// What makes it unique.
    pub(crate) fn id(&self) -> ObjectId {
        let (kind, key) = match self {
            Part::Staged(policy) => return policy.id(),
            Part::Node(node) => (Kind::Node, ObjectKey::cluster_scoped(Arc::clone(&node.name.0))),
            Part::Namespace(namespace) => {
                (Kind::Namespace, ObjectKey::cluster_scoped(Arc::clone(&namespace.name)))
            }
            Part::Pod(pod) => (Kind::Pod, pod.key.clone()),
            Part::Service(service) => (Kind::Service, service.key.clone()),
            Part::EndpointSlice(slice) => (Kind::EndpointSlice, slice.key.clone()),
            Part::NetworkPolicy(policy) => (Kind::NetworkPolicy, policy.key.clone()),
            Part::ClusterNetworkPolicy(policy) => {
                (Kind::ClusterNetworkPolicy, ObjectKey::cluster_scoped(Arc::clone(&policy.name)))
            }
            Part::TrafficTier(tier) => (Kind::TrafficTier, ObjectKey::cluster_scoped(Arc::clone(&tier.name))),
            Part::NetworkSet(set) => (Kind::NetworkSet, ObjectKey::cluster_scoped(Arc::clone(&set.name))),
            Part::TrafficPolicy(policy) if policy.key.namespace.is_empty() => {
                (Kind::ClusterTrafficPolicy, policy.key.clone())
            }
            Part::TrafficPolicy(policy) => (Kind::TrafficPolicy, policy.key.clone()),
            Part::Tenant(tenant) => (Kind::Tenant, ObjectKey::cluster_scoped(Arc::clone(&tenant.name))),
            Part::LoadBalancerPool(pool) => {
                (Kind::LoadBalancerPool, ObjectKey::cluster_scoped(Arc::clone(&pool.name)))
            }
            Part::L2Announcement(object) => {
                (Kind::L2Announcement, ObjectKey::cluster_scoped(Arc::clone(&object.name)))
            }
            Part::ServiceCidr(cidr) => (Kind::ServiceCIDR, ObjectKey::cluster_scoped(Arc::clone(&cidr.name))),
        };
        ObjectId { kind, namespace: key.namespace, name: key.name }
    }

    /// Lets it use what other objects have too, where it is nobody else's yet.
    pub(crate) fn share(&mut self, sharing: &mut Sharing) {
        match self {
            Part::Pod(pod) => Arc::get_mut(pod).into_iter().for_each(|pod| sharing.pod(pod)),
            Part::Service(service) => {
                Arc::get_mut(service).into_iter().for_each(|service| sharing.service(service));
            }
            Part::EndpointSlice(slice) => {
                Arc::get_mut(slice).into_iter().for_each(|slice| sharing.endpoint_slice(slice));
            }
            Part::Node(_)
            | Part::Namespace(_)
            | Part::NetworkPolicy(_)
            | Part::ServiceCidr(_)
            | Part::ClusterNetworkPolicy(_)
            | Part::TrafficTier(_)
            | Part::NetworkSet(_)
            | Part::TrafficPolicy(_)
            | Part::Tenant(_)
            | Part::LoadBalancerPool(_)
            | Part::L2Announcement(_)
            | Part::Staged(_) => {}
        }
    }

    /// Whether `snapshot` has it, just so.
    pub(crate) fn is_in(&self, snapshot: &Snapshot) -> bool {
        match self {
            Part::Node(node) => snapshot.nodes.get(&node.name) == Some(node),
            Part::Namespace(namespace) => snapshot.namespaces.get(&namespace.name) == Some(namespace),
            Part::Pod(pod) => snapshot.pods.get(&pod.key) == Some(pod),
            Part::Service(service) => snapshot.services.get(&service.key) == Some(service),
            Part::EndpointSlice(slice) => snapshot.endpoint_slices.get(&slice.key) == Some(slice),
            Part::NetworkPolicy(policy) => snapshot.policies.get(&policy.key) == Some(policy),
            Part::ServiceCidr(object) => snapshot.service_cidrs.get(&object.name) == Some(object),
            Part::ClusterNetworkPolicy(policy) => snapshot.cluster_policies.get(&policy.name) == Some(policy),
            Part::TrafficTier(tier) => snapshot.traffic_tiers.get(&tier.name) == Some(tier),
            Part::NetworkSet(set) => snapshot.network_sets.get(&set.name) == Some(set),
            Part::TrafficPolicy(policy) => snapshot.traffic_policies.get(&policy.key) == Some(policy),
            Part::Tenant(tenant) => snapshot.tenants.get(&tenant.name) == Some(tenant),
            Part::LoadBalancerPool(pool) => snapshot.load_balancer_pools.get(&pool.name) == Some(pool),
            Part::L2Announcement(object) => snapshot.l2_announcements.get(&object.name) == Some(object),
            Part::Staged(policy) => policy.is_in(&apart(&snapshot.staged)),
        }
    }

    /// Every object of `snapshot`, by kind and name.
    pub(crate) fn all(snapshot: &Snapshot) -> impl Iterator<Item = Part> + '_ {
        let nodes = snapshot.nodes.values().cloned().map(Part::Node);
        let namespaces = snapshot.namespaces.values().cloned().map(Part::Namespace);
        let pods = snapshot.pods.values().cloned().map(Part::Pod);
        let services = snapshot.services.values().cloned().map(Part::Service);
        let slices = snapshot.endpoint_slices.values().cloned().map(Part::EndpointSlice);
        let policies = snapshot.policies.values().cloned().map(Part::NetworkPolicy);
        let ranges = snapshot.service_cidrs.values().cloned().map(Part::ServiceCidr);
        let tiers = snapshot.cluster_policies.values().cloned().map(Part::ClusterNetworkPolicy);
        let traffic_tiers = snapshot.traffic_tiers.values().cloned().map(Part::TrafficTier);
        let sets = snapshot.network_sets.values().cloned().map(Part::NetworkSet);
        let traffic = snapshot.traffic_policies.values().cloned().map(Part::TrafficPolicy);
        let traffic = traffic_tiers.chain(sets).chain(traffic);
        let tenants = snapshot.tenants.values().cloned().map(Part::Tenant);
        let pools = snapshot.load_balancer_pools.values().cloned().map(Part::LoadBalancerPool);
        let announcements = snapshot.l2_announcements.values().cloned().map(Part::L2Announcement);
        let staged = &snapshot.staged;
        let policies =
            policies.chain(staged.policies.values().cloned().map(Part::NetworkPolicy).map(Part::staged));
        let of_cluster = staged.cluster_policies.values().cloned().map(Part::ClusterNetworkPolicy);
        let tiers = tiers.chain(of_cluster.map(Part::staged));
        let of_traffic = staged.traffic_policies.values().cloned().map(Part::TrafficPolicy);
        let traffic = traffic.chain(of_traffic.map(Part::staged));
        let cluster = nodes.chain(namespaces).chain(pods).chain(services).chain(slices).chain(policies);
        cluster.chain(ranges).chain(tiers).chain(traffic).chain(tenants).chain(pools).chain(announcements)
    }

    fn staged(self) -> Self {
        Part::Staged(Box::new(self))
    }

    /// Puts it into `snapshot`, in the place of what had its name.
    pub(crate) fn insert(self, snapshot: &mut Snapshot) {
        // A policy is staged or enforced, never both.
        let is_policy = matches!(
            self,
            Part::NetworkPolicy(_) | Part::ClusterNetworkPolicy(_) | Part::TrafficPolicy(_) | Part::Staged(_)
        );
        if is_policy {
            self.remove(snapshot);
        }
        match self {
            Part::Staged(policy) => {
                let mut apart = apart(&snapshot.staged);
                policy.insert(&mut apart);
                let Snapshot { policies, cluster_policies, traffic_policies, .. } = apart;
                snapshot.staged = Staged { policies, cluster_policies, traffic_policies };
            }
            Part::Node(node) => drop(snapshot.nodes.insert(node.name.clone(), node)),
            Part::Namespace(namespace) => {
                drop(snapshot.namespaces.insert(Arc::clone(&namespace.name), namespace));
            }
            Part::Pod(pod) => drop(snapshot.pods.insert(pod.key.clone(), pod)),
            Part::Service(service) => drop(snapshot.services.insert(service.key.clone(), service)),
            Part::EndpointSlice(slice) => drop(snapshot.endpoint_slices.insert(slice.key.clone(), slice)),
            Part::NetworkPolicy(policy) => drop(snapshot.policies.insert(policy.key.clone(), policy)),
            Part::ServiceCidr(object) => {
                drop(snapshot.service_cidrs.insert(Arc::clone(&object.name), object));
            }
            Part::ClusterNetworkPolicy(policy) => {
                drop(snapshot.cluster_policies.insert(Arc::clone(&policy.name), policy));
            }
            Part::TrafficTier(tier) => {
                drop(snapshot.traffic_tiers.insert(Arc::clone(&tier.name), tier));
            }
            Part::NetworkSet(set) => drop(snapshot.network_sets.insert(Arc::clone(&set.name), set)),
            Part::TrafficPolicy(policy) => {
                drop(snapshot.traffic_policies.insert(policy.key.clone(), policy));
            }
            Part::Tenant(tenant) => drop(snapshot.tenants.insert(Arc::clone(&tenant.name), tenant)),
            Part::LoadBalancerPool(pool) => {
                drop(snapshot.load_balancer_pools.insert(Arc::clone(&pool.name), pool));
            }
            Part::L2Announcement(object) => {
                drop(snapshot.l2_announcements.insert(Arc::clone(&object.name), object));
            }
        }
    }

    /// Takes what has its kind and name out of `snapshot`.
    pub(crate) fn remove(&self, snapshot: &mut Snapshot) {
        match self {
            Part::Staged(policy) => policy.remove(snapshot),
            Part::Node(node) => drop(snapshot.nodes.remove(&node.name)),
            Part::Namespace(namespace) => drop(snapshot.namespaces.remove(&namespace.name)),
            Part::Pod(pod) => drop(snapshot.pods.remove(&pod.key)),
            Part::Service(service) => drop(snapshot.services.remove(&service.key)),
            Part::EndpointSlice(slice) => drop(snapshot.endpoint_slices.remove(&slice.key)),
            Part::NetworkPolicy(policy) => {
                snapshot.policies.remove(&policy.key);
                snapshot.staged.policies.remove(&policy.key);
            }
            Part::ServiceCidr(object) => drop(snapshot.service_cidrs.remove(&object.name)),
            Part::ClusterNetworkPolicy(policy) => {
                snapshot.cluster_policies.remove(&policy.name);
                snapshot.staged.cluster_policies.remove(&policy.name);
            }
            Part::TrafficTier(tier) => drop(snapshot.traffic_tiers.remove(&tier.name)),
            Part::NetworkSet(set) => drop(snapshot.network_sets.remove(&set.name)),
            Part::TrafficPolicy(policy) => {
                snapshot.traffic_policies.remove(&policy.key);
                snapshot.staged.traffic_policies.remove(&policy.key);
            }
            Part::Tenant(tenant) => drop(snapshot.tenants.remove(&tenant.name)),
            Part::LoadBalancerPool(pool) => drop(snapshot.load_balancer_pools.remove(&pool.name)),
            Part::L2Announcement(object) => drop(snapshot.l2_announcements.remove(&object.name)),
        }
    }
}

/// A cluster of nothing but the staged policies, as if they were enforced.
fn apart(staged: &Staged) -> Snapshot {
    Snapshot {
        policies: staged.policies.clone(),
        cluster_policies: staged.cluster_policies.clone(),
        traffic_policies: staged.traffic_policies.clone(),
        ..Snapshot::default()
    }
}

/// What a policy or Namespace says of itself with [`ENFORCEMENT`]; `None` for other kinds of objects.
pub(crate) fn enforcement(object: &Object) -> Option<&str> {
    let has_it = object.kind() == Kind::Namespace || is_policy(object.kind());
    let annotations = object.metadata().annotations.as_ref().filter(|_| has_it)?;
    annotations.get(ENFORCEMENT).map(String::as_str)
}

fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy | Kind::ClusterNetworkPolicy | Kind::ClusterTrafficPolicy | Kind::TrafficPolicy
    )
}

fn is_staged(object: &Object) -> bool {
    is_policy(object.kind()) && enforcement(object) == Some(STAGED)
}

/// The Snapshot of `objects`. `status` counts: a Pod without `status.podIPs` has no address. Attachments are empty.
pub fn snapshot<'a>(objects: impl IntoIterator<Item = &'a Object>) -> Snapshot {
    applied(&Snapshot::default(), objects)
}

/// `cluster` with `objects`, each in the place of what has its kind and name.
pub fn applied<'a>(cluster: &Snapshot, objects: impl IntoIterator<Item = &'a Object>) -> Snapshot {
    let mut snapshot = cluster.clone();
    for part in objects.into_iter().filter_map(Part::of) {
        part.insert(&mut snapshot);
    }
    snapshot
}

/// `cluster` without the object `id`; `None` where it has none.
pub fn deleted(cluster: &Snapshot, id: &ObjectId) -> Option<Snapshot> {
    let part = Part::all(cluster).find(|part| part.id() == *id)?;
    let mut snapshot = cluster.clone();
    part.remove(&mut snapshot);
    Some(snapshot)
}

/// Labels with shared keys and values.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> Labels {
    labels.into_iter().flatten().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// A selector, sorted. An unknown operator was refused before.
pub(crate) fn selector(selector: &meta::LabelSelector) -> LabelSelector {
    let mut match_expressions: Vec<Requirement> =
        selector.match_expressions.iter().flatten().map(requirement).collect();
    match_expressions.sort_unstable();
    LabelSelector { match_labels: labels(selector.match_labels.as_ref()).into(), match_expressions }
}

fn requirement(requirement: &meta::LabelSelectorRequirement) -> Requirement {
    let mut values: Vec<Arc<str>> =
        requirement.values.iter().flatten().map(|value| value.as_str().into()).collect();
    values.sort_unstable();
    let operator = match requirement.operator.as_str() {
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        // `In` without values matches nothing.
        _ => Operator::In,
    };
    Requirement { key: requirement.key.as_str().into(), operator, values }
}

fn namespace(namespace: &core::Namespace) -> Namespace {
    let name: Arc<str> = namespace.metadata.name.as_deref().unwrap_or_default().into();
    let mut labels = labels(namespace.metadata.labels.as_ref());
    labels.insert(NAMESPACE_NAME_LABEL.into(), Arc::clone(&name));
    let annotations = namespace.metadata.annotations.as_ref();
    let enforcement = annotations.and_then(|annotations| annotations.get(ENFORCEMENT));
    Namespace { name, labels, audit: enforcement.is_some_and(|value| value == AUDIT) }
}

fn tenant(tenant: &crate::resources::Tenant) -> Tenant {
    let spec = tenant.spec.clone().unwrap_or_default();
    Tenant {
        name: tenant.metadata.name.as_deref().unwrap_or_default().into(),
        namespaces: selector(&spec.namespace_selector.unwrap_or_default()),
    }
}

/// The taint of a Node that the cluster autoscaler will delete.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

fn node(node: &core::Node) -> Node {
    let of_type = |internal: bool| {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses = addresses.filter(|address| (address.type_ == "InternalIP") == internal);
        addresses.filter_map(|address| address.address.parse().ok()).collect()
    };
    let spec = node.spec.as_ref();
    let blocks = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref()).filter(|_| blocks.is_empty());
    let mut taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    Node {
        name: NodeName::new(node.metadata.name.as_deref().unwrap_or_default()),
        labels: labels(node.metadata.labels.as_ref()),
        addresses: of_type(true),
        other_addresses: of_type(false),
        pod_cidrs: blocks.iter().chain(one).filter_map(|text| block(text)).collect(),
        leaving: node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == LEAVING),
    }
}

/// The protocol of a field whose absence means TCP. Unknown words were refused before.
pub(crate) fn protocol_of(value: Option<&str>) -> Protocol {
    match value {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) | None => Protocol::Tcp,
    }
}

/// A CIDR block, host bits cleared.
fn block(text: &str) -> Option<IpNet> {
    text.parse().ok().map(|block: IpNet| block.trunc())
}

/// The Pod that an endpoint stands for.
fn pod_reference(
    reference: Option<&core::ObjectReference>,
    namespace: &Arc<str>,
) -> Option<(ObjectKey, Uid)> {
    let reference = reference.filter(|reference| reference.kind.as_deref() == Some("Pod"))?;
    let namespace = reference.namespace.as_deref().map_or_else(|| Arc::clone(namespace), Arc::from);
    let key = ObjectKey { namespace, name: reference.name.as_deref()?.into() };
    Some((key, reference.uid.as_deref().unwrap_or_default().into()))
}

pub(crate) use pod::{addresses as pod_addresses, container_ports, phase as pod_phase, ready as pod_ready};
pub(crate) use service::{SOURCE_RANGES, cluster_ips, source_range_texts};
pub(crate) use traffic::{ICMP, NODES};
