//! What can go wrong at the kernel's border.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why links, addresses or routes could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused one request.
    #[error("cannot {what}: {source}{}", if hint.is_empty() { String::new() } else { format!(" ({hint})") })]
    Refused {
        /// What was asked for, with names.
        what: String,
        /// The kernel's errno.
        source: io::Error,
        /// The kernel's own words (extended acknowledgement), or empty.
        hint: String,
    },
    /// The socket failed, not the request.
    #[error("netlink socket failed: {0}; the agent needs CAP_NET_ADMIN")]
    Socket(#[from] io::Error),
    /// The kernel's answer cannot be read.
    #[error("cannot read the kernel's netlink answer: {0}")]
    Decode(String),
    /// The pod's network namespace cannot be entered.
    #[error("cannot enter network namespace {path}: {source}; is the pod's sandbox still there?", path = path.display())]
    Namespace {
        /// CNI_NETNS.
        path: PathBuf,
        /// The kernel's errno.
        source: io::Error,
    },
    /// CNI_NETNS is the node's own.
    #[error("network namespace {path} is the node's own; a pod there is hostNetwork and needs no interface", path = path.display())]
    NodeNamespace {
        /// CNI_NETNS.
        path: PathBuf,
    },
    /// A link that must be there is not.
    #[error("there is no link {name}")]
    NoLink {
        /// Its name.
        name: String,
    },
    /// No link has the node's address.
    #[error(
        "no link of this node has address {0}; is the Node's InternalIP right, and this the node it belongs to?"
    )]
    NoUplink(IpAddr),
    /// A kernel setting cannot be read or written.
    #[error("cannot set {path} to {value}: {source}; is /proc/sys writable here?", path = path.display())]
    Sysctl {
        /// Below /proc/sys.
        path: PathBuf,
        /// The value wanted.
        value: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl NetlinkError {
    /// The kernel's errno, where it refused a request.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Socket(_)
            | Self::Decode(_)
            | Self::Namespace { .. }
            | Self::NodeNamespace { .. }
            | Self::NoLink { .. }
            | Self::NoUplink(_)
            | Self::Sysctl { .. } => None,
        }
    }
}
