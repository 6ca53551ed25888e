//! Pods.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Family, Labels, NetworkId, NodeName, ObjectKey, PodIps, Port, Protocol, Uid};

/// `status.phase` of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Accepted, not all containers running.
    #[default]
    Pending,
    /// Bound to a node and running.
    Running,
    /// All containers ended well; its address may be another pod's by now.
    Succeeded,
    /// All containers ended, one badly; its address may be another pod's by now.
    Failed,
    /// Its node cannot be reached.
    Unknown,
}

impl PodPhase {
    /// Whether the pod has ended: it is in no class and no backend list (`contract.md`).
    pub fn is_terminal(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// A container port (Pod `spec.containers[*].ports[*]`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerPort {
    /// The name that Services and policies may use for it.
    pub name: Option<Arc<str>>,
    /// The number.
    pub port: Port,
    /// The protocol.
    pub protocol: Protocol,
    /// `hostPort`: the port of the pod's node that leads here.
    pub host_port: Option<Port>,
    /// `hostIP`: the only address of the node with that port; `None` for any. `0.0.0.0` and `::` are any of their
    /// family.
    pub host_ip: Option<IpAddr>,
}

/// A Pod (core/v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `namespace/name`.
    pub key: ObjectKey,
    /// `metadata.uid`; empty where a file gave none.
    pub uid: Uid,
    /// `metadata.labels`.
    pub labels: Arc<Labels>,
    /// `spec.serviceAccountName`; `default` where that is absent.
    pub service_account: Arc<str>,
    /// `spec.nodeName`.
    pub node: Option<NodeName>,
    /// The network its addresses belong to.
    pub network: NetworkId,
    /// `status.podIPs`.
    pub addresses: PodIps,
    /// `spec.hostNetwork`: the pod is its node, no selector matches it.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: PodPhase,
    /// Condition Ready.
    pub ready: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// Every container's ports.
    pub ports: Arc<[ContainerPort]>,
}

/// The ServiceAccount of pods that name none.
pub const DEFAULT_ACCOUNT: &str = "default";

impl Pod {
    /// Whether selectors and backend lists may see this pod: it has its own addresses and has not ended.
    pub fn is_peer(&self) -> bool {
        !self.host_network && !self.phase.is_terminal()
    }

    /// The pod's address of `family`.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.get(family)
    }

    /// The numbers that a named port has on this pod, ascending.
    pub fn named_ports(&self, name: &str, protocol: Protocol) -> Vec<Port> {
        let mut ports: Vec<Port> = self
            .ports
            .iter()
            .filter(|port| port.protocol == protocol && port.name.as_deref() == Some(name))
            .map(|port| port.port)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}
