//! What an administrator chooses for the whole cluster network.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::types::ObjectKey;

/// How a packet gets to a pod on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetworkMode {
    /// RFC 7348, one collect-metadata device.
    #[default]
    Vxlan,
    /// Routes over the nodes' own addresses; all nodes share a link.
    HostGw,
}

/// A mode that does not exist, or not yet.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkModeError {
    /// Named in the design, not built.
    #[error("network.mode {0:?} is not built yet; use vxlan or host-gw")]
    NotBuilt(String),
    /// No such mode.
    #[error("network.mode {0:?} does not exist; use vxlan or host-gw")]
    Unknown(String),
}

impl FromStr for NetworkMode {
    type Err = NetworkModeError;

    fn from_str(text: &str) -> Result<Self, NetworkModeError> {
        match text {
            "vxlan" => Ok(Self::Vxlan),
            "host-gw" => Ok(Self::HostGw),
            "bgp" | "wireguard" | "auto" | "nftables" => Err(NetworkModeError::NotBuilt(text.to_owned())),
            _ => Err(NetworkModeError::Unknown(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NetworkMode {
    type Error = NetworkModeError;

    fn try_from(text: String) -> Result<Self, NetworkModeError> {
        text.parse()
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NetworkMode::Vxlan => "vxlan",
            NetworkMode::HostGw => "host-gw",
        })
    }
}

/// The part of the configuration that `compile` reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// How packets reach other nodes.
    pub mode: NetworkMode,
    /// Every range that pods of this cluster may have, on top of the Nodes' podCIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Destinations outside the cluster that see pod addresses unchanged.
    pub non_masquerade_cidrs: Vec<IpNet>,
    /// Ranges of which Services get their addresses, on top of the cluster's ServiceCIDRs.
    pub service_cidrs: Vec<IpNet>,
    /// Which addresses of nodes lead to node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Which way answers of other nodes' pods go back to clients elsewhere.
    pub service_mode: ServiceMode,
    /// Where the clients of a node find its own DNS server.
    pub node_local_dns: NodeLocalDns,
}

/// How clients outside of the cluster reach an endpoint on another node than the one they asked (`services.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMode {
    /// Under the address of the node they asked, by which answers come back.
    #[default]
    Snat,
    /// Under their own; the endpoint's node answers them itself (direct server return).
    Dsr,
}

/// The name is none of a [`ServiceMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("services.mode {0:?} does not exist; use snat or dsr")]
pub struct ServiceModeError(String);

impl FromStr for ServiceMode {
    type Err = ServiceModeError;

    fn from_str(text: &str) -> Result<Self, ServiceModeError> {
        match text {
            "snat" => Ok(Self::Snat),
            "dsr" => Ok(Self::Dsr),
            _ => Err(ServiceModeError(text.to_owned())),
        }
    }
}

/// Which addresses of nodes lead to node ports (`services.nodePortAddresses`). Host ports choose theirs themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePortAddresses {
    /// All that a node has.
    #[default]
    All,
    /// The Node's first InternalIP of each family.
    Primary,
    /// Those in a block; in a family without a block, all.
    Within(Vec<IpNet>),
}

/// Addresses at which a node's pods and processes ask its own DNS server, or while it is not ready another node's
/// (`dns.nodeLocal`, `dns.service`). No device has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeLocalDns {
    /// At most one of each family; empty = none.
    pub addresses: Vec<IpAddr>,
    /// The Service whose endpoints are the servers; its ports are those of the addresses.
    pub service: ObjectKey,
}

impl Default for NodeLocalDns {
    fn default() -> Self {
        Self { addresses: Vec::new(), service: ObjectKey::new("kube-system", "kube-dns") }
    }
}
