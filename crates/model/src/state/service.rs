//! Services and EndpointSlices.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Exposure, Weights};
use crate::types::{Family, Labels, NodeName, ObjectKey, Port, Protocol, Uid};

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached by its cluster addresses.
    #[default]
    ClusterIP,
    /// As ClusterIP, and by its node ports at every address of every node.
    NodePort,
    /// As NodePort, and by the addresses that a load balancer gave it.
    LoadBalancer,
    /// A DNS name only.
    ExternalName,
}

/// How a backend is chosen (annotation `sheetbend.dev/load-balancing`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Uniform, independent per flow.
    #[default]
    Random,
    /// In turn, per CPU.
    RoundRobin,
    /// The one with the fewest live flows of this node; above 32 the better of two that are drawn.
    LeastConnections,
    /// By the client's address and port, alike on every node; few flows move when backends change.
    Maglev,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::Maglev];

    /// Its name in the annotation.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Random => "random",
            Algorithm::RoundRobin => "round-robin",
            Algorithm::LeastConnections => "least-connections",
            Algorithm::Maglev => "maglev",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `spec.internalTrafficPolicy` or `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Endpoints of every node.
    #[default]
    Cluster,
    /// Endpoints of the node that the packet came to.
    Local,
}

/// A Service (core/v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub key: ObjectKey,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalName` of an ExternalName Service: a domain name, without a dot at its end.
    pub external_name: Option<Arc<str>>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with ipMode VIP (KEP-1860): packets arrive with that destination.
    pub ingress_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges` of a LoadBalancer: which clients its load balancer addresses admit; `None` = all.
    pub source_ranges: Option<Arc<[IpNet]>>,
    /// `spec.internalTrafficPolicy`: of the cluster addresses.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`: of node ports, external and load balancer addresses, for clients elsewhere.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`: where each node tells load balancers whether it has endpoints.
    pub health_check_node_port: Option<Port>,
    /// Labels `service.kubernetes.io/service-proxy-name` or `…/headless`: its addresses are somebody else's to serve.
    pub proxied_elsewhere: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; empty when somebody else makes the EndpointSlices.
    pub selector: Labels,
    /// `sessionAffinity: ClientIP` with its timeout in seconds (1..=86400), or `None`.
    pub affinity_timeout: Option<u32>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// The text of an unknown `sheetbend.dev/load-balancing` value; the default is used and a Condition names it.
    pub unknown_algorithm: Option<Arc<str>>,
    /// Of Services of type LoadBalancer, those with externalIPs, and those that still have what a pool gave them.
    pub exposure: Option<Arc<Exposure>>,
    /// What the Service itself says of its endpoints' weights; an EndpointSlice's own words come first.
    pub weights: Weights,
}

impl Service {
    /// A ClusterIP Service without addresses, ports and endpoints, as the API's defaults have it.
    pub fn new(key: ObjectKey) -> Self {
        Self {
            key,
            service_type: ServiceType::ClusterIP,
            cluster_ips: Vec::new(),
            external_name: None,
            external_ips: Vec::new(),
            ingress_ips: Vec::new(),
            source_ranges: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            proxied_elsewhere: false,
            ports: Vec::new(),
            selector: Labels::new(),
            affinity_timeout: None,
            publish_not_ready: false,
            algorithm: Algorithm::default(),
            unknown_algorithm: None,
            exposure: None,
            weights: Weights::default(),
        }
    }
}

/// A ServiceCIDR (networking.k8s.io/v1, KEP-1880): ranges of which Services get cluster addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Its name.
    pub name: Arc<str>,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where the Service has one port only.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the cluster address.
    pub port: Port,
    /// The port on every node's addresses; `None` where the Service has none.
    pub node_port: Option<Port>,
    /// `targetPort`, as whoever builds EndpointSlices resolves it.
    pub target: TargetPort,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number on every pod.
    Number(Port),
    /// A container port's name, which may have another number on each pod.
    Name(Arc<str>),
}

/// An EndpointSlice (discovery.k8s.io/v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// `namespace/name`.
    pub key: ObjectKey,
    /// Label `kubernetes.io/service-name`; `None` when it belongs to no Service.
    pub service: Option<Arc<str>>,
    /// `addressType` IPv4 or IPv6. (FQDN slices are for headless Services and not kept.)
    pub family: Family,
    /// `ports`.
    pub ports: Vec<EndpointPort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// How much of the new flows each endpoint gets.
    pub weights: Weights,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Matches the Service port of the same name; empty for the unnamed one.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The number; `None` means every port and is not usable by a Service.
    pub port: Option<Port>,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The first of its `addresses`, which are all of the slice's family: consumers use the first (discovery/v1). `None`
    /// where none is an address.
    pub address: Option<IpAddr>,
    /// `conditions.ready`, true where absent. Always true with publishNotReadyAddresses.
    pub ready: bool,
    /// `conditions.serving`, the value of ready where absent.
    pub serving: bool,
    /// `conditions.terminating`, false where absent.
    pub terminating: bool,
    /// `hostname`: a label that the endpoint's name in the Service's domain begins with.
    pub hostname: Option<Arc<str>>,
    /// `nodeName`.
    pub node: Option<NodeName>,
    /// `targetRef` to a Pod: its key and uid.
    pub pod: Option<(ObjectKey, Uid)>,
    /// `hints`: whose clients it is meant for; `None` = everybody's.
    pub hints: Option<Arc<Hints>>,
}

/// `hints` of an endpoint (discovery/v1 EndpointHints, KEP-2433 and KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`: values of the node label [`ZONE`](super::ZONE).
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<NodeName>,
}
