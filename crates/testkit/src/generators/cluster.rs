//! Random clusters, and random sequences of what happens to them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use sheetbend_model::state::{
    self, Attachment, AttachmentId, ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node,
    Service, ServiceCidr, Snapshot, Tenant, ZONE,
};
use sheetbend_model::types::{Family, Mac, NetworkId, NodeName, ObjectKey};

use super::objects::{RandomPod, labels, namespace, namespace_with, pod, pods, policies, policy, tenant};
use super::pools::{
    CLUSTER_POLICIES, DOMAIN_NAMES, NAMESPACES, NETWORK_SETS, NODES, PODS, POLICIES, SERVICES, TENANTS,
    TRAFFIC_POLICIES, TRAFFIC_TIERS, ZONES, external_address, named_addresses, node_address, pod_key,
    pod_range, policy_key, service_key, text, tier_name, traffic_key,
};
use super::services::{endpoint_slice, service, service_cidr, service_cidr_name};
use super::tiers::{cluster_policies, cluster_policy};
use super::traffic::{Traffic, network_set, traffic, traffic_policy, traffic_tier};

/// Something that happens to a cluster.
#[derive(Clone, Debug)]
pub enum Event {
    /// A pod comes or changes, with its attachment.
    Pod(Box<RandomPod>),
    /// A Pod object goes; its attachment stays for now.
    PodGone(u8),
    /// CNI DEL of a pod.
    Detached(u8),
    /// A policy comes or changes.
    Policy(NetworkPolicy),
    /// A policy goes.
    PolicyGone(u8),
    /// A ClusterNetworkPolicy comes or changes.
    ClusterPolicy(ClusterNetworkPolicy),
    /// A ClusterNetworkPolicy goes.
    ClusterPolicyGone(u8),
    /// A TrafficPolicy of either kind comes or changes.
    TrafficPolicy(state::traffic::Policy),
    /// A TrafficPolicy goes.
    TrafficPolicyGone(u8),
    /// A TrafficTier comes or changes.
    TrafficTier(state::traffic::Tier),
    /// A TrafficTier goes.
    TrafficTierGone(usize),
    /// A NetworkSet comes or changes.
    NetworkSet(state::traffic::NetworkSet),
    /// A NetworkSet goes.
    NetworkSetGone(usize),
    /// A namespace comes or changes.
    Namespace(Namespace),
    /// A namespace's object goes.
    NamespaceGone(usize),
    /// All pods are in audit, or no more.
    Audit(bool),
    /// A Tenant comes or changes.
    Tenant(Tenant),
    /// A Tenant goes.
    TenantGone(usize),
    /// A Service comes or changes.
    Service(Service),
    /// A Service goes.
    ServiceGone(u8),
    /// A ServiceCIDR comes or changes.
    ServiceCidr(ServiceCidr),
    /// A ServiceCIDR goes.
    ServiceCidrGone(u8),
    /// A slice comes or changes.
    Slice(EndpointSlice),
    /// A slice goes.
    SliceGone(u8, u8),
    /// A node comes or changes.
    Node(Node),
    /// A node goes.
    NodeGone(usize),
    /// A domain name has these addresses now, or none any more.
    Learnt(usize, BTreeSet<IpAddr>),
}

impl Event {
    /// `snapshot` after this.
    pub fn apply(&self, snapshot: &mut Snapshot) {
        match self {
            Event::Pod(random) => put_pod(snapshot, random),
            Event::PodGone(index) => drop(snapshot.pods.remove(&pod_key(*index))),
            Event::Detached(index) => drop(snapshot.attachments.remove(&attachment_id(*index))),
            Event::Policy(policy) => {
                snapshot.policies.insert(policy.key.clone(), Arc::new(policy.clone()));
            }
            Event::PolicyGone(index) => drop(snapshot.policies.remove(&policy_key(*index))),
            Event::ClusterPolicy(policy) => {
                snapshot.cluster_policies.insert(policy.name.clone(), Arc::new(policy.clone()));
            }
            Event::ClusterPolicyGone(index) => drop(snapshot.cluster_policies.remove(&tier_name(*index))),
            Event::TrafficPolicy(policy) => {
                snapshot.traffic_policies.insert(policy.key.clone(), Arc::new(policy.clone()));
            }
            Event::TrafficPolicyGone(index) => drop(snapshot.traffic_policies.remove(&traffic_key(*index))),
            Event::TrafficTier(tier) => {
                snapshot.traffic_tiers.insert(tier.name.clone(), Arc::new(tier.clone()));
            }
            Event::TrafficTierGone(index) => drop(snapshot.traffic_tiers.remove(TRAFFIC_TIERS[*index])),
            Event::NetworkSet(set) => {
                snapshot.network_sets.insert(set.name.clone(), Arc::new(set.clone()));
            }
            Event::NetworkSetGone(index) => drop(snapshot.network_sets.remove(NETWORK_SETS[*index])),
            Event::Namespace(namespace) => {
                snapshot.namespaces.insert(namespace.name.clone(), Arc::new(namespace.clone()));
            }
            Event::NamespaceGone(index) => drop(snapshot.namespaces.remove(NAMESPACES[*index])),
            Event::Audit(audit) => snapshot.audit = *audit,
            Event::Tenant(tenant) => {
                snapshot.tenants.insert(tenant.name.clone(), Arc::new(tenant.clone()));
            }
            Event::TenantGone(index) => drop(snapshot.tenants.remove(TENANTS[*index])),
            Event::Service(service) => {
                snapshot.services.insert(service.key.clone(), Arc::new(service.clone()));
            }
            Event::ServiceGone(index) => drop(snapshot.services.remove(&service_key(*index))),
            Event::ServiceCidr(service_cidr) => {
                snapshot.service_cidrs.insert(service_cidr.name.clone(), Arc::new(service_cidr.clone()));
            }
            Event::ServiceCidrGone(index) => drop(snapshot.service_cidrs.remove(&service_cidr_name(*index))),
            Event::Slice(slice) => {
                snapshot.endpoint_slices.insert(slice.key.clone(), Arc::new(slice.clone()));
            }
            Event::SliceGone(index, number) => {
                let service = service_key(*index);
                let key = ObjectKey::new(service.namespace, format!("{}-{number}", service.name));
                snapshot.endpoint_slices.remove(&key);
            }
            Event::Node(node) => drop(snapshot.nodes.insert(node.name.clone(), Arc::new(node.clone()))),
            Event::Learnt(index, addresses) if addresses.is_empty() => {
                drop(snapshot.learnt_names.remove(DOMAIN_NAMES[*index]));
            }
            Event::Learnt(index, addresses) => {
                snapshot.learnt_names.insert(text(DOMAIN_NAMES[*index]), Arc::new(addresses.clone()));
            }
            Event::NodeGone(index) => drop(snapshot.nodes.remove(&NodeName::new(NODES[*index]))),
        }
    }
}

fn put_pod(snapshot: &mut Snapshot, random: &RandomPod) {
    let id = attachment_id(random.index);
    match &random.attached {
        Some(addresses) => {
            let attachment = Attachment {
                id: id.clone(),
                pod: Some(random.pod.key.clone()),
                pod_uid: Some(random.pod.uid.clone()),
                netns: format!("/run/netns/pod-{}", random.index).into(),
                network: NetworkId::default(),
                addresses: addresses.clone(),
                host_ifname: format!("sb{}", random.index).into(),
                host_ifindex: 100 + u32::from(random.index),
                host_mac: Mac([0x0a, 0x5b, 0, 0, 0, 1]),
                pod_mac: Mac([0x0a, 0x5b, 0, 0, 1, random.index]),
                mtu: 1450,
                bandwidth: Default::default(),
            };
            snapshot.attachments.insert(id, Arc::new(attachment));
        }
        None => drop(snapshot.attachments.remove(&id)),
    }
    snapshot.pods.insert(random.pod.key.clone(), Arc::new(random.pod.clone()));
}

fn attachment_id(index: u8) -> AttachmentId {
    AttachmentId { container_id: format!("container-{index}").into(), ifname: text("eth0") }
}

/// A node of the pool; now and then without an address of one family, or with its neighbour's range.
pub fn node(index: usize) -> impl Strategy<Value = Node> {
    let families = prop_oneof![
        6 => Just(vec![Family::IPv4, Family::IPv6]),
        1 => Just(vec![Family::IPv4]),
        1 => Just(vec![Family::IPv6]),
    ];
    let zone = prop::option::weighted(0.8, prop::sample::select(&ZONES[..]));
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.3));
    (families, flags, zone, labels()).prop_map(move |(families, (clash, outside), zone, mut labels)| {
        let place = if clash { (index + 1) % NODES.len() } else { index };
        Node {
            name: NodeName::new(NODES[index]),
            labels: {
                labels.extend(zone.map(|zone| (text(ZONE), text(zone))));
                labels
            },
            leaving: false,
            addresses: families.iter().map(|family| node_address(index, *family)).collect(),
            other_addresses: outside.then(|| external_address(index)).into_iter().collect(),
            pod_cidrs: Family::ALL
                .iter()
                .filter_map(|family| pod_range(place, *family))
                .collect::<Vec<IpNet>>(),
        }
    })
}

/// What a domain name of the pool has.
fn learnt(index: usize) -> impl Strategy<Value = Event> {
    let addresses = prop::sample::subsequence(named_addresses(), 0..=7);
    addresses.prop_map(move |addresses| Event::Learnt(index, addresses.into_iter().collect()))
}

/// One event.
pub fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..PODS).prop_flat_map(pod).prop_map(|pod| Event::Pod(Box::new(pod))),
        2 => (0..PODS).prop_map(Event::PodGone),
        2 => (0..PODS).prop_map(Event::Detached),
        6 => (0..POLICIES).prop_flat_map(policy).prop_map(Event::Policy),
        2 => (0..POLICIES).prop_map(Event::PolicyGone),
        5 => (0..CLUSTER_POLICIES).prop_flat_map(cluster_policy).prop_map(Event::ClusterPolicy),
        2 => (0..CLUSTER_POLICIES).prop_map(Event::ClusterPolicyGone),
        4 => (0..TRAFFIC_POLICIES).prop_flat_map(traffic_policy).prop_map(Event::TrafficPolicy),
        2 => (0..TRAFFIC_POLICIES).prop_map(Event::TrafficPolicyGone),
        1 => (0..TRAFFIC_TIERS.len()).prop_flat_map(traffic_tier).prop_map(Event::TrafficTier),
        1 => (0..TRAFFIC_TIERS.len()).prop_map(Event::TrafficTierGone),
        2 => (0..NETWORK_SETS.len()).prop_flat_map(network_set).prop_map(Event::NetworkSet),
        1 => (0..NETWORK_SETS.len()).prop_map(Event::NetworkSetGone),
        2 => (0..NAMESPACES.len()).prop_flat_map(namespace).prop_map(Event::Namespace),
        1 => (0..NAMESPACES.len()).prop_map(Event::NamespaceGone),
        1 => prop::bool::weighted(0.3).prop_map(Event::Audit),
        1 => (0..TENANTS.len()).prop_flat_map(tenant).prop_map(Event::Tenant),
        1 => (0..TENANTS.len()).prop_map(Event::TenantGone),
        2 => (0..SERVICES).prop_flat_map(service).prop_map(Event::Service),
        1 => (0..SERVICES).prop_map(Event::ServiceGone),
        1 => (0..2u8).prop_flat_map(service_cidr).prop_map(Event::ServiceCidr),
        1 => (0..2u8).prop_map(Event::ServiceCidrGone),
        3 => (0..SERVICES, 0..4u8).prop_flat_map(|(index, number)| endpoint_slice(index, number))
            .prop_map(Event::Slice),
        1 => (0..SERVICES, 0..4u8).prop_map(|(index, number)| Event::SliceGone(index, number)),
        5 => (0..DOMAIN_NAMES.len()).prop_flat_map(learnt),
        1 => (0..NODES.len()).prop_flat_map(node).prop_map(Event::Node),
        1 => (0..NODES.len()).prop_map(Event::NodeGone),
    ]
}

/// A cluster: all nodes, most namespaces, some of everything else.
pub fn cluster() -> impl Strategy<Value = Snapshot> {
    let count = prop_oneof![1 => Just(0), 6 => 3..=POLICIES];
    let tiers = prop_oneof![3 => Just(0), 1 => 1..=CLUSTER_POLICIES];
    let traffic_count = prop_oneof![3 => Just(0), 1 => 1..=TRAFFIC_POLICIES];
    cluster_with(policies(count), cluster_policies(tiers), traffic(traffic_count), namespaces(0.1))
}

/// A cluster with TrafficPolicies, and few policies of other kinds.
pub fn traffic_cluster() -> impl Strategy<Value = Snapshot> {
    let count = prop_oneof![1 => Just(0), 2 => 1..=4u8];
    let tiers = prop_oneof![2 => Just(0), 1 => 1..=2u8];
    cluster_with(policies(count), cluster_policies(tiers), traffic(3..=TRAFFIC_POLICIES), namespaces(0.05))
}

/// A cluster with ClusterNetworkPolicies, and few NetworkPolicies.
pub fn tiered_cluster() -> impl Strategy<Value = Snapshot> {
    let count = prop_oneof![1 => Just(0), 3 => 2..=5u8];
    cluster_with(policies(count), cluster_policies(3..=CLUSTER_POLICIES), traffic(Just(0)), namespaces(0.1))
}

/// A cluster most of whose namespaces are isolated by their labels, with few policies.
pub fn isolated_cluster() -> impl Strategy<Value = Snapshot> {
    let count = prop_oneof![2 => Just(0), 1 => 1..=3u8];
    cluster_with(policies(count), cluster_policies(Just(0)), traffic(Just(0)), namespaces(0.7))
}

fn namespaces(isolated: f64) -> Vec<impl Strategy<Value = Namespace>> {
    (0..NAMESPACES.len()).map(|index| namespace_with(index, isolated)).collect()
}

fn cluster_with(
    policies: impl Strategy<Value = Vec<NetworkPolicy>>,
    tiers: impl Strategy<Value = Vec<ClusterNetworkPolicy>>,
    traffic: impl Strategy<Value = Traffic>,
    namespaces: Vec<impl Strategy<Value = Namespace>>,
) -> impl Strategy<Value = Snapshot> {
    let nodes = (0..NODES.len()).map(node).collect::<Vec<_>>();
    let services = (0..=SERVICES).prop_flat_map(|count| (0..count).map(service).collect::<Vec<_>>());
    let slices = (0..SERVICES)
        .flat_map(|index| (0..3u8).map(move |number| endpoint_slice(index, number)))
        .collect::<Vec<_>>();
    let known = prop::collection::vec(prop::bool::weighted(0.9), NAMESPACES.len());
    let tenants = prop_oneof![3 => Just(0), 1 => 1..=TENANTS.len()];
    let tenants = tenants.prop_flat_map(|count| (0..count).map(tenant).collect::<Vec<_>>());
    let ranges = (0..=2u8).prop_flat_map(|count| (0..count).map(service_cidr).collect::<Vec<_>>());
    let names = (0..DOMAIN_NAMES.len()).map(learnt).collect::<Vec<_>>();
    let ordered = (tiers, traffic, names);
    (nodes, (namespaces, tenants), known, pods(), policies, ordered, (services, ranges), slices).prop_map(
        |(nodes, (namespaces, tenants), known, pods, policies, ordered, (services, ranges), slices)| {
            let (tiers, traffic, names) = ordered;
            let mut snapshot = Snapshot::default();
            let namespaces = namespaces.into_iter().zip(known).filter(|(_, known)| *known);
            let events = nodes
                .into_iter()
                .map(Event::Node)
                .chain(namespaces.map(|(namespace, _)| Event::Namespace(namespace)))
                .chain(tenants.into_iter().map(Event::Tenant))
                .chain(pods.into_values().map(|pod| Event::Pod(Box::new(pod))))
                .chain(policies.into_iter().map(Event::Policy))
                .chain(tiers.into_iter().map(Event::ClusterPolicy))
                .chain(traffic.tiers.into_iter().map(Event::TrafficTier))
                .chain(traffic.sets.into_iter().map(Event::NetworkSet))
                .chain(traffic.policies.into_iter().map(Event::TrafficPolicy))
                .chain(services.into_iter().map(Event::Service))
                .chain(ranges.into_iter().map(Event::ServiceCidr))
                .chain(slices.into_iter().map(Event::Slice))
                .chain(names);
            for event in events {
                event.apply(&mut snapshot);
            }
            snapshot
        },
    )
}

/// A cluster and what it is after each of up to `length` batches of events.
pub fn sequence(length: usize) -> impl Strategy<Value = Vec<Snapshot>> {
    let batch = prop_oneof![3 => Just(1usize), 1 => 2..6usize]
        .prop_flat_map(|count| prop::collection::vec(event(), count));
    (cluster(), prop::collection::vec(batch, 1..=length)).prop_map(|(first, batches)| {
        let mut states = vec![first];
        for batch in batches {
            let mut next = states.last().cloned().unwrap_or_default();
            for event in batch {
                event.apply(&mut next);
            }
            states.push(next);
        }
        states
    })
}
