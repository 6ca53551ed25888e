//! Links, addresses, routes, neighbours, sysctls: what `docs/design/dataplane.md` calls the stack routes.
//!
//! Synchronous; every function opens the sockets it needs, so callers may run in parallel. Nothing here decides:
//! callers say what shall be, these functions read back, compare and change what differs.

pub mod announce;
mod attach;
mod check;
mod connection;
mod error;
mod filters;
mod foreign;
mod messages;
mod namespace;
pub mod node;
mod read_back;
mod shaping;
mod sockets;
mod sysctl;

pub use attach::{AttachSpec, Attached, activate, attach, detach, host_ifname, pod_mac};
pub use check::{CheckFailure, check};
pub use error::NetlinkError;
pub use filters::{PodPrograms, filtered_devices, remove_filters, replace_filters};
pub use foreign::{Chain, ForeignDrop, foreign_drops, packet_filter_chains};
pub use read_back::{PodLink, pod_links};
pub use sockets::end_udp_sockets;

/// Route protocol number (`rtm_protocol`, also `IFA_PROTO` of addresses) by which everything of ours is known.
pub const PROTOCOL: u8 = 91;

/// Next hop of the pods' IPv4 default route. No device has it: the pod's neighbour entry is permanent.
pub const GATEWAY_IPV4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
/// Next hop of the pods' IPv6 default route: an address of the veth's end on the node.
pub const GATEWAY_IPV6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
