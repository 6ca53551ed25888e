//! Services as the kernel knows them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::state::Algorithm;
use crate::types::{NetworkId, ObjectKey, Port, Protocol, Uid};

/// Which clients a frontend is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Pods and processes of this node. Clients elsewhere too, where [`Reach`] lets them.
    #[default]
    Inside,
    /// Clients elsewhere, where they have other backends than those inside ([`Reach::Apart`]).
    Outside,
    /// Pods of this node that have policies by domain names ([`LocalPod::asks_names`](super::LocalPod)), whichever name
    /// server they mean: the address is the unspecified one of its family.
    Names,
}

/// What a client connects to: (network, address, protocol, port, scope).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The network.
    pub network: NetworkId,
    /// A cluster, load balancer or external address; a node's own one of a host port; or the unspecified address
    /// (`0.0.0.0`, `::`), which stands for every address of the node.
    pub addr: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service port, node port or host port.
    pub port: Port,
    /// For whom.
    pub scope: Scope,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}/{}", self.port, self.protocol)?,
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}/{}", self.port, self.protocol)?,
        }
        match self.scope {
            Scope::Inside => Ok(()),
            Scope::Outside => f.write_str(" from outside"),
            Scope::Names => f.write_str(" for names of policies"),
        }
    }
}

/// Who serves the address of a Service inside the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressHolder {
    /// We do: where it has no frontend, nobody has.
    Us,
    /// Somebody else (label `service.kubernetes.io/service-proxy-name`): its packets go on.
    Others,
}

impl fmt::Display for AddressHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressHolder::Us => "ours",
            AddressHolder::Others => "somebody else's",
        })
    }
}

/// From where a frontend is reached, and what it means at another node's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// Pods and processes of this node only: a cluster address.
    #[default]
    Inside,
    /// Clients elsewhere too, and at every node's address it means the same: node ports, external addresses.
    EveryNode,
    /// Clients elsewhere too, but each node has its own: host ports.
    ThisNode,
    /// As [`Reach::ThisNode`], and clients elsewhere have their own frontend, [`Scope::Outside`]:
    /// externalTrafficPolicy Local.
    Apart,
}

/// Where a Service's packets go. Two pods that had the same address one after the other are two backends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The network.
    pub network: NetworkId,
    /// The endpoint's address.
    pub addr: IpAddr,
    /// The endpoint's protocol.
    pub protocol: Protocol,
    /// The endpoint's port.
    pub port: Port,
    /// The Pod's uid, empty for an endpoint that is no Pod.
    pub pod_uid: Uid,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}", self.port),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}", self.port),
        }
    }
}

/// What a health check node port answers (core/v1, `healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Whose port it is.
    pub service: ObjectKey,
    /// Its ready endpoints on this node.
    pub endpoints: u32,
}

/// One frontend's Service port: who it is and which backends new flows choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The Service; of a host port the Pod.
    pub service: ObjectKey,
    /// The Service port's name, empty for the only one.
    pub port_name: Arc<str>,
    /// From where it is reached.
    pub reach: Reach,
    /// Endpoints exist, but a traffic policy Local leaves none: a packet is dropped, not refused, as the API's other
    /// implementations do.
    pub only_remote: bool,
    /// Clients it admits to new flows, of the frontend's family; `None` = all. The node's own processes are always
    /// admitted.
    pub sources: Option<Arc<[IpNet]>>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Session affinity by client address, seconds; `None` = off.
    pub affinity_timeout: Option<u32>,
    /// New flows choose among these, sorted. Empty = refused with RST or ICMP.
    pub backends: Arc<[Backend]>,
    /// The weight of each backend, 1..=100; empty = all have the same.
    pub weights: Arc<[u8]>,
    /// Still serving their established flows, sorted; not chosen for new ones.
    pub draining: Arc<[Backend]>,
}
