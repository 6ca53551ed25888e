//! Which addresses of a node lead to node ports, read literally.

use std::net::IpAddr;

use sheetbend_model::state::{NodePortAddresses, Snapshot};
use sheetbend_model::types::{Family, NodeName};

/// Whether `addr`, one of the addresses of `node` or of its stack, leads to node ports.
pub fn serves_node_ports(
    snapshot: &Snapshot,
    addresses: &NodePortAddresses,
    node: &NodeName,
    addr: IpAddr,
) -> bool {
    let addr = addr.to_canonical();
    match addresses {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary => {
            let own = snapshot.nodes.get(node).map(|node| node.addresses.as_slice()).unwrap_or_default();
            let mut of_family = Vec::new();
            for own in own {
                if Family::of(own.to_canonical()) == Family::of(addr) {
                    of_family.push(own.to_canonical());
                }
            }
            of_family.first() == Some(&addr)
        }
        NodePortAddresses::Within(blocks) => {
            let is_named = blocks.iter().any(|block| block.addr().is_ipv4() == addr.is_ipv4());
            !is_named || blocks.iter().any(|block| block.contains(&addr))
        }
    }
}
