//! Which part of the cluster's pool a Node gets. Pure: Nodes in, ranges for those that have none out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_model::state::Node;
use sheetbend_model::types::{Family, NodeName};

/// A block to cut up, and the prefix length of each part: not shorter than the block's, at most 16 bits longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePool {
    /// The whole.
    pub block: IpNet,
    /// Prefix length of a part.
    pub node_prefix: u8,
}

/// Why a Node gets no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Node {node} has no podCIDRs and the cluster's pools of {family} addresses are used up; add a block to ipam.clusterPool, or remove Nodes that are gone"
)]
pub struct PoolExhausted {
    /// The Node.
    pub node: NodeName,
    /// The family that has nothing left.
    pub family: Family,
}

/// Ranges for each Node that has none, one of each family that `pools` has, in the order of `pools`. Nodes are served
/// in name order, each gets the lowest part that no Node's range overlaps; a Node gets all families or nothing.
pub fn assign<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    pools: &[NodePool],
) -> (BTreeMap<NodeName, Vec<IpNet>>, Vec<PoolExhausted>) {
    let (mut used, mut wanting) = (Used::default(), BTreeMap::new());
    for node in nodes {
        node.pod_cidrs.iter().for_each(|block| used.add(*block));
        if node.pod_cidrs.is_empty() {
            wanting.insert(node.name.clone(), ());
        }
    }
    let mut families: Vec<Family> = Vec::new();
    for pool in pools {
        let family = Family::of(pool.block.addr());
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let (mut assigned, mut exhausted) = (BTreeMap::new(), Vec::new());
    for node in wanting.into_keys() {
        let parts: Result<Vec<IpNet>, Family> =
            families.iter().map(|family| lowest(pools, *family, &used).ok_or(*family)).collect();
        match parts {
            Ok(parts) if parts.is_empty() => {}
            Ok(parts) => {
                parts.iter().for_each(|part| used.add(*part));
                assigned.insert(node, parts);
            }
            Err(family) => exhausted.push(PoolExhausted { node, family }),
        }
    }
    (assigned, exhausted)
}

fn lowest(pools: &[NodePool], family: Family, used: &Used) -> Option<IpNet> {
    let pools = pools.iter().filter(|pool| Family::of(pool.block.addr()) == family);
    pools.flat_map(parts).find(|part| used.is_free(*part))
}

/// The parts of a pool, ascending.
fn parts(pool: &NodePool) -> impl Iterator<Item = IpNet> {
    let NodePool { block, node_prefix } = *pool;
    let count = 1_u32 << node_prefix.saturating_sub(block.prefix_len()).min(16);
    (0..count).filter_map(move |index| part(block, node_prefix, index))
}

fn part(block: IpNet, prefix: u8, index: u32) -> Option<IpNet> {
    match block {
        IpNet::V4(block) => {
            let offset = index.checked_shl(32_u32.checked_sub(prefix.into())?)?;
            let first = u32::from(block.network()).checked_add(offset)?;
            Ipv4Net::new(first.into(), prefix).ok().map(IpNet::V4)
        }
        IpNet::V6(block) => {
            let offset = u128::from(index).checked_shl(128_u32.checked_sub(prefix.into())?)?;
            let first = u128::from(block.network()).checked_add(offset)?;
            Ipv6Net::new(first.into(), prefix).ok().map(IpNet::V6)
        }
    }
}

/// Ranges by their first address; they may be nested, so each is stored with its last.
#[derive(Default)]
struct Used(BTreeMap<IpAddr, IpAddr>);

impl Used {
    fn add(&mut self, block: IpNet) {
        let last = self.0.entry(block.network()).or_insert(block.broadcast());
        *last = (*last).max(block.broadcast());
    }

    /// Aligned ranges overlap only where one holds the other.
    fn is_free(&self, part: IpNet) -> bool {
        let inside = self.0.range(part.network()..=part.broadcast()).next().is_some();
        let around = |prefix: u8| {
            IpNet::new(part.network(), prefix)
                .is_ok_and(|block| self.0.get(&block.network()).is_some_and(|last| *last >= part.broadcast()))
        };
        !inside && !(0..part.prefix_len()).any(around)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn pool(block: &str, node_prefix: u8) -> NodePool {
        NodePool { block: block.parse().unwrap(), node_prefix }
    }

    fn node(name: &str, cidrs: &[&str]) -> Node {
        Node {
            name: NodeName::new(name),
            labels: Default::default(),
            addresses: Vec::new(),
            leaving: false,
            other_addresses: Vec::new(),
            pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_node_without_ranges_gets_the_lowest_free_of_each_family() {
        let nodes = [
            node("a", &["10.244.0.0/24", "fd00:10:244::/64"]),
            node("b", &[]),
            node("c", &["10.244.2.0/23"]),
            node("d", &[]),
        ];
        let (assigned, exhausted) =
            assign(&nodes, &[pool("10.244.0.0/16", 24), pool("fd00:10:244::/56", 64)]);
        let text = |name: &str| format!("{:?}", assigned[&NodeName::new(name)]);
        assert_eq!(text("b"), "[10.244.1.0/24, fd00:10:244:1::/64]");
        assert_eq!(text("d"), "[10.244.4.0/24, fd00:10:244:2::/64]");
        assert_eq!((assigned.len(), exhausted.len()), (2, 0));
    }

    #[test]
    fn what_is_left_over_is_named_and_nobody_gets_half() {
        let nodes = [node("a", &[]), node("b", &[]), node("c", &[])];
        let pools = [pool("fd00::/48", 64), pool("10.0.0.0/24", 24), pool("10.9.0.0/24", 24)];
        let (assigned, exhausted) = assign(&nodes, &pools);
        assert_eq!(assigned.len(), 2, "the second block of a family goes on where the first ends");
        assert_eq!(exhausted, [PoolExhausted { node: NodeName::new("c"), family: Family::IPv4 }]);
        assert!(exhausted[0].to_string().contains("add a block to ipam.clusterPool"));
    }

    proptest! {
        #[test]
        fn no_two_nodes_overlap(taken in proptest::collection::vec((0..64_u8, 20..=28_u8), 0..12), new in 1..40_usize) {
            let mut nodes: Vec<Node> = Vec::new();
            for (index, (third, prefix)) in taken.into_iter().enumerate() {
                let block = IpNet::new(IpAddr::from([10, 244, third, 0]), prefix).unwrap().trunc();
                nodes.push(node(&format!("old-{index}"), &[&block.to_string()]));
            }
            let old = nodes.clone();
            nodes.extend((0..new).map(|index| node(&format!("new-{index}"), &[])));
            let (assigned, exhausted) = assign(&nodes, &[pool("10.244.0.0/18", 24)]);
            prop_assert_eq!(assigned.len() + exhausted.len(), new);
            let given: Vec<IpNet> = assigned.values().flatten().copied().collect();
            let overlap = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
            for (index, block) in given.iter().enumerate() {
                prop_assert!(!given[..index].iter().any(|other| overlap(block, other)));
                prop_assert!(!old.iter().flat_map(|node| &node.pod_cidrs).any(|other| overlap(block, other)));
            }
            // The slow twin: exhausted only when every part overlaps something.
            if !exhausted.is_empty() {
                let all: Vec<IpNet> = given.iter().copied().chain(old.iter().flat_map(|node| node.pod_cidrs.clone())).collect();
                for third in 0..64_u8 {
                    let part = IpNet::new(IpAddr::from([10, 244, third, 0]), 24).unwrap();
                    prop_assert!(all.iter().any(|other| overlap(&part, other)));
                }
            }
        }
    }
}
