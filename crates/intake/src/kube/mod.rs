//! The Kubernetes API server: watches that survive its absence, objects trimmed as they arrive.

mod client;
mod closed;
mod follow;
mod standing;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use client::{Access, AccessError, client};
/// The client that [`client()`] makes, for whoever writes to the API server.
pub use kube::Client;
pub use standing::{ACCEPTED, Standing};
pub use watch::{Reading, Waiting, Watched, watch, watch_controlled, watch_names};

/// Condition type of Services that have addresses from a LoadBalancerPool: only those are taken back.
pub const ADDRESSES_ASSIGNED: &str = crate::convert::load_balancer::ADDRESSES_ASSIGNED;

/// Pod annotation with the addresses that ADD gave, comma-separated: read while `status.podIPs` is empty, so that
/// other nodes know a pod before the kubelet's status tells of it.
pub const POD_IPS: &str = "sheetbend.dev/pod-ips";
