//! What the plugin `sheetbend-cni` and the agent say to each other: one [`Request`], one [`Response`], each a JSON
//! text that ends with its side of the stream.

mod error;
mod frame;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use error::{CniError, code};
pub use frame::{MAX_BYTES, read, write};

/// Where the agent listens, unless the network configuration says otherwise (`socket`).
pub const DEFAULT_SOCKET: &str = "/run/sheetbend/cni.sock";
/// The agent's run directory, unless the network configuration says otherwise (`runDir`).
pub const DEFAULT_RUN_DIR: &str = "/run/sheetbend";
/// Directory below the run directory with one file per DEL that no agent has seen yet: a [`Request`] as JSON.
pub const DELETIONS: &str = "cni-deletions";

/// What a runtime asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "UPPERCASE")]
pub enum Request {
    /// Attach an interface.
    Add(Add),
    /// Remove an attachment. Removing what is not there succeeds.
    Del(AttachmentRef),
    /// Is the attachment as ADD left it?
    Check(Check),
    /// Remove every attachment that is not named.
    Gc(Gc),
    /// Can ADD be served?
    Status,
}

/// (CNI_CONTAINERID, CNI_IFNAME): the key of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentRef {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME, 1 to 15 bytes.
    pub ifname: String,
}

/// The parameters of ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// The attachment.
    pub attachment: AttachmentRef,
    /// CNI_NETNS: path of the network namespace.
    pub netns: String,
    /// K8S_POD_NAMESPACE and K8S_POD_NAME, when the runtime passed both.
    pub pod: Option<PodRef>,
    /// K8S_POD_UID.
    pub pod_uid: Option<String>,
    /// Addresses that the pod shall have (`args.cni.ips`, CNI conventions), at most one per family. A family that is
    /// not named gets the next free one.
    #[serde(default)]
    pub requested: Vec<IpAddr>,
    /// `runtimeConfig.bandwidth`.
    #[serde(default, skip_serializing_if = "Bandwidth::is_absent")]
    pub bandwidth: Bandwidth,
}

/// `runtimeConfig.bandwidth` (CNI conventions). A rate of 0, or none, is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bandwidth {
    /// To the pod, bits a second.
    pub ingress_rate: u64,
    /// To the pod, bits that may go at once after a pause.
    pub ingress_burst: u64,
    /// From the pod, bits a second.
    pub egress_rate: u64,
    /// From the pod, bits that may go at once after a pause.
    pub egress_burst: u64,
}

impl Bandwidth {
    /// Whether nothing is given.
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }
}

/// A pod, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
}

/// The parameters of CHECK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The attachment.
    pub attachment: AttachmentRef,
    /// CNI_NETNS.
    pub netns: String,
    /// Addresses that `prevResult` gives to the pod's interface.
    pub addresses: BTreeSet<IpAddr>,
    /// Ethernet address that `prevResult` gives to the pod's interface, lower case, joined by colons.
    pub mac: Option<String>,
}

/// The parameters of GC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gc {
    /// `cni.dev/valid-attachments`: all others go.
    pub valid: BTreeSet<AttachmentRef>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// ADD is done and the pod's policy is in place.
    Added(Added),
    /// The command is done.
    Done,
    /// It is not.
    Error(CniError),
}

/// What ADD made. The plugin writes it in the version of the specification that the runtime speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Added {
    /// The veth's end on the node.
    pub host: Interface,
    /// The veth's end in the pod.
    pub pod: Interface,
    /// The pod's addresses, at most one per family; each a whole address (/32 or /128).
    pub addresses: Vec<PodAddress>,
}

/// One end of a veth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address, lower case, joined by colons.
    pub mac: String,
    /// Maximum transmission unit, bytes.
    pub mtu: u32,
}

/// An address and the gateway of the default route of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAddress {
    /// The pod's address.
    pub address: IpAddr,
    /// Next hop of the default route.
    pub gateway: IpAddr,
}
