//! Resources that a cluster has by CustomResourceDefinitions: our own (sheetbend.dev/v1alpha1, in deploy/kubernetes/base),
//! and those of others (`cluster_network_policy`).

mod cluster_network_policy;
mod traffic;

pub use cluster_network_policy::{
    ClusterNetworkPolicy, ClusterNetworkPolicySpec, DestinationPort, NamespacedPod, NetworkPolicyPeer,
    PolicyPortRange, ProtocolMatch, Rule, Subject, TransportMatch,
};

pub use traffic::{
    ClusterTrafficPolicy, NetworkSet, NetworkSetSpec, NetworkSets, ServiceReference, TrafficNetwork,
    TrafficPeer, TrafficPods, TrafficPolicy, TrafficPolicySpec, TrafficProtocol, TrafficRule, TrafficSubject,
    TrafficTier, TrafficTierSpec,
};

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

/// Their API group.
pub const GROUP: &str = "sheetbend.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of them.
pub const API_VERSION: &str = "sheetbend.dev/v1alpha1";

macro_rules! resource {
    ($(#[$doc:meta])* $kind:ident, $spec:ident, $group:expr, $version:expr, $plural:literal) => {
        resource! { $(#[$doc])* $kind, $spec, $group, $version, $plural, kube::core::ClusterResourceScope }
    };
    ($(#[$doc:meta])* $kind:ident, $spec:ident, $group:expr, $version:expr, $plural:literal, $scope:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $kind {
            /// Group and version.
            #[serde(default)]
            pub api_version: String,
            /// The kind's name.
            #[serde(default)]
            pub kind: String,
            /// Standard metadata.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// What is wanted.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub spec: Option<$spec>,
            /// What became of it; read as it is.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub status: Option<serde_json::Value>,
        }

        impl Default for $kind {
            fn default() -> Self {
                Self {
                    api_version: format!("{}/{}", $group, $version),
                    kind: stringify!($kind).to_owned(),
                    metadata: ObjectMeta::default(),
                    spec: None,
                    status: None,
                }
            }
        }

        impl kube::Resource for $kind {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

use resource;

resource! {
    /// Addresses for Services of type LoadBalancer.
    LoadBalancerPool, LoadBalancerPoolSpec, GROUP, VERSION, "loadbalancerpools"
}
resource! {
    /// For which addresses of Services nodes answer ARP and neighbour discovery.
    L2Announcement, L2AnnouncementSpec, GROUP, VERSION, "l2announcements"
}

resource! {
    /// Namespaces whose pods reach one another and nobody else.
    Tenant, TenantSpec, GROUP, VERSION, "tenants"
}

/// `spec` of a Tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Its Namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// `spec` of a LoadBalancerPool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPoolSpec {
    /// Its addresses.
    #[serde(default)]
    pub blocks: Vec<AddressBlock>,
    /// Services that may have them; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Namespaces whose Services may have them; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// No new addresses; those given stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether the first and last addresses of a `cidr` are given too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_first_last: Option<bool>,
}

/// A CIDR block, or the addresses from `start` to `end`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressBlock {
    /// As `192.0.2.0/26`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// The lowest address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The highest address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// `spec` of an L2Announcement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct L2AnnouncementSpec {
    /// Services whose addresses are announced; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Nodes that may announce; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Names of the nodes' interfaces; absent for their uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Vec<String>>,
    /// Announce load balancer addresses; true where absent.
    #[serde(default, rename = "loadBalancerIPs", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ips: Option<bool>,
    /// Announce `spec.externalIPs`; false where absent.
    #[serde(default, rename = "externalIPs", skip_serializing_if = "Option::is_none")]
    pub external_ips: Option<bool>,
}
