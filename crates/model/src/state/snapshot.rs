//! The cluster at one moment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::{
    Attachment, AttachmentId, ClusterNetworkPolicy, EndpointSlice, L2Announcement, LoadBalancerPool,
    Namespace, NetworkPolicy, Node, Pod, Service, ServiceCidr, Staged, Tenant, traffic,
};
use crate::types::{NodeName, ObjectKey};

/// The cluster at one moment, as far as networking needs it. Cloning is O(1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Node name → Node.
    pub nodes: OrdMap<NodeName, Arc<Node>>,
    /// Namespace name → Namespace.
    pub namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    /// Pod key → Pod, on every node.
    pub pods: OrdMap<ObjectKey, Arc<Pod>>,
    /// Service key → Service.
    pub services: OrdMap<ObjectKey, Arc<Service>>,
    /// ServiceCIDR name → ServiceCIDR.
    pub service_cidrs: OrdMap<Arc<str>, Arc<ServiceCidr>>,
    /// EndpointSlice key → EndpointSlice.
    pub endpoint_slices: OrdMap<ObjectKey, Arc<EndpointSlice>>,
    /// NetworkPolicy key → NetworkPolicy.
    pub policies: OrdMap<ObjectKey, Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicy name → ClusterNetworkPolicy.
    pub cluster_policies: OrdMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// ClusterTrafficPolicies, without a namespace, and TrafficPolicies, by key.
    pub traffic_policies: OrdMap<ObjectKey, Arc<traffic::Policy>>,
    /// TrafficTier name → TrafficTier.
    pub traffic_tiers: OrdMap<Arc<str>, Arc<traffic::Tier>>,
    /// NetworkSet name → NetworkSet.
    pub network_sets: OrdMap<Arc<str>, Arc<traffic::NetworkSet>>,
    /// Policies that are not enforced: none of them is among those above.
    pub staged: Staged,
    /// Tenant name → Tenant.
    pub tenants: OrdMap<Arc<str>, Arc<Tenant>>,
    /// LoadBalancerPool name → LoadBalancerPool.
    pub load_balancer_pools: OrdMap<Arc<str>, Arc<LoadBalancerPool>>,
    /// L2Announcement name → L2Announcement.
    pub l2_announcements: OrdMap<Arc<str>, Arc<L2Announcement>>,
    /// Domain name, in lower case and without a dot at its end → the addresses that it has, as the name server of *this* node
    /// said to pods of it. Only names that some policy in force here asks for, and no empty sets.
    pub learnt_names: OrdMap<Arc<str>, Arc<BTreeSet<IpAddr>>>,
    /// The namespaces of all pods are in audit, whatever they say: `policy.audit` of *this* node.
    pub audit: bool,
    /// What CNI has attached on *this* node.
    pub attachments: OrdMap<AttachmentId, Arc<Attachment>>,
}

impl Snapshot {
    /// Whether pods of `namespace` are in audit: what policies deny them passes, and is told.
    pub fn audits(&self, namespace: &str) -> bool {
        self.audit || self.namespaces.get(namespace).is_some_and(|namespace| namespace.audit)
    }

    /// The cluster as it would be with its staged policies enforced.
    pub fn with_staged(&self) -> Self {
        let Staged { policies, cluster_policies, traffic_policies } = &self.staged;
        Self {
            policies: policies.clone().union(self.policies.clone()),
            cluster_policies: cluster_policies.clone().union(self.cluster_policies.clone()),
            traffic_policies: traffic_policies.clone().union(self.traffic_policies.clone()),
            staged: Staged::default(),
            ..self.clone()
        }
    }
}
