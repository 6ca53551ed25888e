//! Services as the kernel knows them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::state::Algorithm;
use crate::types::{NetworkId, ObjectKey, Port, Protocol};

/// What a client connects to: (network, address, protocol, port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The network.
    pub network: NetworkId,
    /// A cluster address.
    pub addr: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The Service port.
    pub port: Port,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}/{}", self.port, self.protocol),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}/{}", self.port, self.protocol),
        }
    }
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
    pub pod_uid: Arc<str>,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            IpAddr::V4(addr) => write!(f, "{addr}:{}", self.port),
            IpAddr::V6(addr) => write!(f, "[{addr}]:{}", self.port),
        }
    }
}

/// One frontend's Service port: who it is and which backends new flows choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The Service.
    pub service: ObjectKey,
    /// The Service port's name, empty for the only one.
    pub port_name: Arc<str>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Session affinity by client address, seconds; `None` = off.
    pub affinity_timeout: Option<u32>,
    /// New flows choose among these, sorted. Empty = refused with RST or ICMP.
    pub backends: Arc<[Backend]>,
    /// Still serving their established flows, sorted; not chosen for new ones.
    pub draining: Arc<[Backend]>,
}
