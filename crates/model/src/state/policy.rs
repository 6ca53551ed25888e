//! NetworkPolicy (networking.k8s.io/v1).

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::LabelSelector;
use crate::types::{ObjectKey, Port, PortRange, Protocol};

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// `namespace/name`.
    pub key: ObjectKey,
    /// Which pods of the namespace it isolates.
    pub pod_selector: LabelSelector,
    /// Rules towards the pods; `None` when `policyTypes` has no Ingress. An empty list denies all.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules from the pods; `None` when `policyTypes` has no Egress. An empty list denies all.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One ingress or egress rule: any of `peers` on any of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// `from` or `to`. Empty means every peer.
    pub peers: Vec<Peer>,
    /// `ports`. Empty means every IP protocol and port.
    pub ports: Vec<PolicyPort>,
}

/// NetworkPolicyPeer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Peer {
    /// Pods by labels. `namespaces: None` means the policy's own namespace, `pods: None` means every pod.
    Pods {
        /// `namespaceSelector`.
        namespaces: Option<LabelSelector>,
        /// `podSelector`.
        pods: Option<LabelSelector>,
    },
    /// Addresses, of pods too.
    Block(IpBlock),
}

/// IPBlock: `cidr` without what lies in `except`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IpBlock {
    /// The block, host bits cleared.
    pub cidr: IpNet,
    /// Blocks inside `cidr` that do not match, sorted.
    pub except: Vec<IpNet>,
}

/// NetworkPolicyPort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyPort {
    /// `protocol`, TCP where absent.
    pub protocol: Protocol,
    /// `port` and `endPort`.
    pub port: PortMatch,
}

/// What `port` and `endPort` say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortMatch {
    /// No `port`: every port of the protocol.
    All,
    /// A number, or a range with `endPort`.
    Range(PortRange),
    /// A name, resolved on the destination pod. It matches nothing that is no pod.
    Named(Arc<str>),
}

impl PortMatch {
    /// Just `port`.
    pub fn number(port: Port) -> Self {
        PortMatch::Range(PortRange::single(port))
    }
}
