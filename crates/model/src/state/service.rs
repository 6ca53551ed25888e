//! Services and EndpointSlices.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Family, Labels, NodeName, ObjectKey, Port, Protocol};

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached by its cluster addresses.
    #[default]
    ClusterIP,
    /// As ClusterIP here; node ports come later.
    NodePort,
    /// As ClusterIP here; load balancer addresses come later.
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
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Random => "random",
            Algorithm::RoundRobin => "round-robin",
        })
    }
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
    /// Its addresses, all of the slice's family. Consumers use the first (discovery/v1).
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`, true where absent. Always true with publishNotReadyAddresses.
    pub ready: bool,
    /// `conditions.serving`, the value of ready where absent.
    pub serving: bool,
    /// `conditions.terminating`, false where absent.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<NodeName>,
    /// `targetRef` to a Pod: its key and uid.
    pub pod: Option<(ObjectKey, Arc<str>)>,
}
