//! What can go wrong at the eBPF border.

use std::io;
use std::path::PathBuf;

/// Why the kernel's tables are not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// No bpffs there.
    #[error("{path} is no bpffs: pins would not outlive the agent; mount one with `mount -t bpf bpf {path}`")]
    NoBpffs {
        /// Where it should be.
        path: PathBuf,
    },
    /// The object could not be read.
    #[error("eBPF object {path}: {source}; unset SHEETBEND_EBPF_OBJECT to use the built-in one")]
    ObjectFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The object is none of ours.
    #[error("eBPF object: {reason}; rebuild it with `cargo xtask ebpf`")]
    Object {
        /// What is wrong.
        reason: String,
    },
    /// A pinned map has another layout than this version's.
    #[error(
        "pinned map {name} ({path}): {what} is {have}, this version wants {want}; a map of another layout or limit \
         cannot be used. Put the limit back, or drain the node and remove {path}"
    )]
    Layout {
        /// The map.
        name: String,
        /// Its pin.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What is pinned.
        have: u64,
        /// What we want.
        want: u64,
    },
    /// Loading maps or programs failed; for a program the text has the verifier's last words.
    #[error("loading {what}: {reason}; needs kernel 6.6 or newer, CAP_BPF and CAP_NET_ADMIN")]
    Load {
        /// The map or program.
        what: String,
        /// Why.
        reason: String,
    },
    /// The filters of a pod's device could not be read, replaced or removed.
    #[error("filters of pods' devices: {0}")]
    Filters(#[from] crate::netlink::NetlinkError),
    /// A pin could not be made, opened or removed.
    #[error("pin {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be put on a device.
    #[error(
        "{hook} on interface {ifindex}: {source}; does the interface exist in the agent's network namespace?"
    )]
    Attach {
        /// The hook's name.
        hook: &'static str,
        /// The device.
        ifindex: u32,
        /// Why.
        source: io::Error,
    },
    /// `node.cgroup` is no directory of cgroup v2.
    #[error(
        "node.cgroup {path} is no directory of a cgroup v2 file system; name the one that holds all processes of this \
         node, as /sys/fs/cgroup"
    )]
    NoCgroup {
        /// What was configured.
        path: PathBuf,
    },
    /// Another instance's programs are there.
    #[error(
        "node.cgroup {path} has another instance's program {program}: each call would be translated twice; stop that \
         agent, or give each its own directory"
    )]
    CgroupClaimed {
        /// What was configured.
        path: PathBuf,
        /// The kernel's id of the program.
        program: u32,
    },
    /// A program could not be put on the cgroup.
    #[error("node.cgroup {path}: {source}; needs CAP_NET_ADMIN and CAP_BPF over that directory")]
    Cgroup {
        /// The directory, or the pin of a link to it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A table is full.
    #[error(
        "table {table} holds its limit of {limit} entries; raise limits.{table} in the agent's configuration (a node's \
         tables keep their size until its pins are removed), or use fewer {content}"
    )]
    TableFull {
        /// The map.
        table: &'static str,
        /// Its limit.
        limit: u32,
        /// What the entries come from.
        content: &'static str,
    },
    /// What ClusterNetworkPolicies say of a pod does not fit.
    #[error(
        "pod {pod} is shut: rows of its ClusterNetworkPolicies are missing, and without them it would be open; the other \
         failures of this run say which table is full. Raise limits.RULES, or use fewer rules, peers and ports"
    )]
    PodShut {
        /// The pod.
        pod: String,
    },
    /// A read or write of a table failed otherwise.
    #[error("table {table}: {action}: {source}")]
    Table {
        /// The map.
        table: &'static str,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The caller knows no Ethernet address and MTU of the attachment.
    #[error(
        "container {container_id} has no attachment on this node: its MAC and MTU are unknown; it stays closed"
    )]
    UnknownAttachment {
        /// CNI_CONTAINERID.
        container_id: String,
    },
    /// `run` before the first `sync`.
    #[error("a plan before the first full sync: what the kernel holds is not known yet; call sync first")]
    NotSynced,
}
