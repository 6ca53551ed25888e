//! What a CNI ADD left on this node.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Mac, NetworkId, ObjectKey, Uid};

/// (container, interface): what CNI calls an attachment (CNI 1.1.0, "Attachment").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttachmentId {
    /// CNI_CONTAINERID.
    pub container_id: Arc<str>,
    /// CNI_IFNAME, the name inside the pod.
    pub ifname: Arc<str>,
}

/// One pod interface on this node. Kept as a file until DEL (`design.md` §4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Who asked for it.
    pub id: AttachmentId,
    /// The pod it belongs to (K8S_POD_NAMESPACE/K8S_POD_NAME), or `None` for a container outside Kubernetes.
    pub pod: Option<ObjectKey>,
    /// K8S_POD_UID, when the runtime passed it.
    pub pod_uid: Option<Uid>,
    /// CNI_NETNS.
    pub netns: Arc<str>,
    /// The network the pod's addresses belong to.
    pub network: NetworkId,
    /// At most one address per family.
    pub addresses: Vec<IpAddr>,
    /// Name of the veth's end on the node.
    pub host_ifname: Arc<str>,
    /// Interface index of the veth's end on the node.
    pub host_ifindex: u32,
    /// Ethernet address of the veth's end on the node.
    pub host_mac: Mac,
    /// Ethernet address of the veth's end in the pod.
    pub pod_mac: Mac,
    /// Maximum transmission unit of the veth, bytes.
    pub mtu: u32,
    /// What the pod may receive and send.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// Limits of a pod's traffic (CNI conventions, capability `bandwidth`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// To the pod; `None` = no limit.
    pub ingress: Option<Rate>,
    /// From the pod; `None` = no limit.
    pub egress: Option<Rate>,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits a second, with Ethernet headers; not 0.
    pub bits: u64,
    /// How many bits may go at once after a pause.
    pub burst_bits: u64,
}
