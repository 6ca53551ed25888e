//! What the cluster is: one immutable [`Snapshot`] of the objects that networking needs, trimmed to what it needs.
//!
//! Objects are shared (`Arc`) and the maps are persistent, so that a new Snapshot after one change costs one path
//! of one tree, and two Snapshots are compared by what they do not share.

mod attachment;
mod cluster_policy;
mod config;
mod load_balancer;
mod node;
mod pod;
mod policy;
mod selector;
mod service;
mod sharing;
mod snapshot;
mod staged;
mod tenant;
pub mod traffic;
mod weights;

pub use attachment::{Attachment, AttachmentId, Bandwidth, Rate};
pub use cluster_policy::{
    Action, Blocks, ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodsByLabels, Priority, Tier, TierPlace,
};
pub use config::{
    NetworkConfig, NetworkMode, NetworkModeError, NodeLocalDns, NodePortAddresses, ServiceMode,
    ServiceModeError,
};
pub use load_balancer::{
    AddressRange, AddressRangeError, Exposure, L2Announcement, LOAD_BALANCER_CLASS, LoadBalancerPool,
};
pub use node::{Namespace, Node, ZONE};
pub use pod::{ContainerPort, DEFAULT_ACCOUNT, Pod, PodPhase};
pub use policy::{IpBlock, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch};
pub use selector::{LabelSelector, MatchLabels, Operator, Requirement};
pub use service::{
    Algorithm, Endpoint, EndpointPort, EndpointSlice, Hints, Service, ServiceCidr, ServicePort, ServiceType,
    TargetPort, TrafficPolicy,
};
pub use sharing::Sharing;
pub use snapshot::Snapshot;
pub use staged::{AUDIT, ENFORCED, ENFORCEMENT, STAGED, Staged};
pub use tenant::{ISOLATION, TENANT, Tenant};
pub use weights::Weights;
