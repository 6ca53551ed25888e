//! Which pods another node can be told by the last 64 bits of their address.

use std::net::IpAddr;

use sheetbend_model::state::Snapshot;
use sheetbend_model::types::NodeName;

/// Whether `node`, that has the pod at `addr`, finds it by the last 64 bits: it puts the first 64 of its first IPv6 range
/// before them. IPv4 addresses have but 32.
pub fn is_told_by_64_bits(cluster: &Snapshot, node: &NodeName, addr: IpAddr) -> bool {
    let IpAddr::V6(addr) = addr else { return true };
    let Some(node) = cluster.nodes.get(node) else { return false };
    for range in &node.pod_cidrs {
        if let IpAddr::V6(network) = range.network() {
            return range.contains(&IpAddr::V6(addr))
                && range.prefix_len() >= 64
                && network.octets()[..8] == addr.octets()[..8];
        }
    }
    false
}
