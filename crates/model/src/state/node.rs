//! Nodes and namespaces.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::types::{Family, Labels, NodeName};

/// A Node (core/v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` of type InternalIP, in the order given.
    pub addresses: Vec<IpAddr>,
    /// `status.addresses` of the other types, as far as they are IP addresses: only policies look at them.
    pub other_addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: the ranges its pods' addresses come from.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether it is being deleted, or its taints say that a cluster autoscaler will: load balancers shall begin no more
    /// connections through it (KEP-3836).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

impl Node {
    /// The node's first address of `family`.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    /// Its zone, where it has the label [`ZONE`].
    pub fn zone(&self) -> Option<&str> {
        self.labels.get(ZONE).map(|zone| &**zone)
    }
}

/// The label with a node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A Namespace (core/v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`, `kubernetes.io/metadata.name` included.
    pub labels: Labels,
    /// Annotation [`ENFORCEMENT`](super::ENFORCEMENT) [`AUDIT`](super::AUDIT): what policies deny its pods passes, and is told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
}
