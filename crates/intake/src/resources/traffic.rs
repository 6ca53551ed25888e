//! ClusterTrafficPolicy, TrafficPolicy, TrafficTier and NetworkSet (sheetbend.dev/v1alpha1).
//!
//! As with ClusterNetworkPolicies, words are texts and every choice is optional: what an object of a newer version means is
//! decided in `convert`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{GROUP, TransportMatch, VERSION, resource};

resource! {
    /// Rules with an order, for pods of the whole cluster.
    ClusterTrafficPolicy, TrafficPolicySpec, GROUP, VERSION, "clustertrafficpolicies"
}
resource! {
    /// Rules with an order, for pods of its namespace.
    TrafficPolicy, TrafficPolicySpec, GROUP, VERSION, "trafficpolicies", kube::core::NamespaceResourceScope
}
resource! {
    /// Where ClusterTrafficPolicies stand, and what becomes of what none of them matches.
    TrafficTier, TrafficTierSpec, GROUP, VERSION, "traffictiers"
}
resource! {
    /// CIDR blocks under one name.
    NetworkSet, NetworkSetSpec, GROUP, VERSION, "networksets"
}

/// `spec` of a TrafficTier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTierSpec {
    /// 0..=10000; the lower, the earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<i32>,
    /// `BeforeNetworkPolicies` or `AfterNetworkPolicies`.
    #[serde(default)]
    pub stage: String,
    /// `Deny` or `Pass`.
    #[serde(default)]
    pub default_action: String,
}

/// `spec` of a NetworkSet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSetSpec {
    /// CIDR blocks, at most 10,000.
    #[serde(default)]
    pub networks: Vec<String>,
}

/// `spec` of a ClusterTrafficPolicy or TrafficPolicy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// Name of a TrafficTier; not of a TrafficPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// 0..=10000; the lower, the earlier in its tier. Absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<i32>,
    /// The pods that it applies to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<TrafficSubject>,
    /// Rules towards them, at most 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<TrafficRule>>,
    /// Rules from them, at most 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<TrafficRule>>,
}

/// Whom a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSubject {
    /// Labels of namespaces; not of a TrafficPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Names of ServiceAccounts of which a pod has one; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<Vec<String>>,
    /// Nodes themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
}

/// A rule of either direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficRule {
    /// For people; at most 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    #[serde(default)]
    pub action: String,
    /// Sources, of an ingress rule; absent for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<TrafficPeer>>,
    /// Destinations, of an egress rule; absent for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<TrafficPeer>>,
    /// Absent for every protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<TrafficProtocol>>,
    /// Write what it decides into the agent's log; not of a rule that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<bool>,
}

/// Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPeer {
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<TrafficPods>,
    /// CIDR blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<TrafficNetwork>>,
    /// NetworkSets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_sets: Option<NetworkSets>,
    /// The endpoints of a Service, of an egress rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceReference>,
    /// Domain names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<Vec<String>>,
}

/// Pods by labels and ServiceAccounts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPods {
    /// Labels of namespaces. Absent: every namespace, or in a TrafficPolicy its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Labels of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Names of ServiceAccounts of which a pod has one; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<Vec<String>>,
}

/// A CIDR block with exceptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficNetwork {
    /// As `10.0.0.0/8`.
    #[serde(default)]
    pub cidr: String,
    /// Blocks inside it that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

/// Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSets {
    /// These, which must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// All with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReference {
    /// Its namespace. Absent in a TrafficPolicy: the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// Exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficProtocol {
    /// TCP; every port where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TransportMatch>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<TransportMatch>,
    /// SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<TransportMatch>,
    /// The container port with this name, whatever its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
    /// ICMP by type and code; not built yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<serde_json::Value>,
}
