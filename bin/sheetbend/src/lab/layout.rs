//! The lab's fixed names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_model::types::Family;

/// Ranges of the world, outside the cluster (RFC 5737 TEST-NET-3 and TEST-NET-2, RFC 3849).
pub(crate) const WORLD_RANGES: [&str; 3] = ["203.0.113.0/24", "198.51.100.0/24", "2001:db8::/48"];

/// The world's default gateway addresses: what every node sends to when it knows no better.
pub(crate) const WORLD_GATEWAYS: [&str; 2] = ["172.30.0.1", "fd00:30::1"];

/// MTU of the link between the nodes, bytes.
pub(crate) const FABRIC_MTU: u32 = 1500;

/// The world's ranges, parsed.
pub(crate) fn world_ranges() -> Vec<IpNet> {
    WORLD_RANGES.iter().filter_map(|range| range.parse().ok()).collect()
}

/// One address of each world range, for cells that no policy's block asks for.
pub(crate) fn world_hosts() -> Vec<IpAddr> {
    vec![
        Ipv4Addr::new(203, 0, 113, 10).into(),
        Ipv4Addr::new(198, 51, 100, 10).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
    ]
}

/// Underlay address of node `index` (from 1).
pub(crate) fn node_address(index: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => Ipv4Addr::new(172, 30, 0, 10 + index).into(),
        Family::IPv6 => Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, 0x10 + u16::from(index)).into(),
    }
}

/// Pod ranges of node `index` (from 1), one per family.
pub(crate) fn pod_cidrs(index: u8) -> Vec<IpNet> {
    let ipv4 = Ipv4Net::new(Ipv4Addr::new(10, 244, index, 0), 24).map(IpNet::V4);
    let ipv6 =
        Ipv6Net::new(Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(index), 0, 0, 0, 0), 64).map(IpNet::V6);
    [ipv4, ipv6].into_iter().flatten().collect()
}

/// Underlay addresses of node `index`, one per family.
pub(crate) fn node_addresses(index: u8) -> Vec<IpAddr> {
    Family::ALL.into_iter().map(|family| node_address(index, family)).collect()
}

/// Name of node `index` (from 1).
pub(crate) fn node_name(index: u8) -> String {
    format!("node-{index}")
}

/// Where ClusterIPs come from, one block per family.
pub(crate) fn service_cidrs() -> Vec<IpNet> {
    ["10.96.0.0/16", "fd00:10:96::/112"].iter().filter_map(|block| block.parse().ok()).collect()
}

/// Where pods ask for names: the address that `kube-dns` has by custom, one per family.
pub(crate) fn dns_addresses() -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 96, 0, 10).into(), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa).into()]
}

/// Where pods and processes of a node ask its own name server (`dns.nodeLocal`), one address per family.
pub(crate) fn node_local_dns() -> [IpAddr; 2] {
    [Ipv4Addr::new(169, 254, 20, 10).into(), Ipv6Addr::new(0xfd5b, 0x646e, 0x73, 0, 0, 0, 0, 0xa).into()]
}

/// Name of the namespace of a node, of `world` or of `fabric`.
pub(crate) fn node_netns(lab: &str, node: &str) -> String {
    format!("sb-{lab}-{node}")
}

/// Name of a pod's namespace. A file name has at most 255 bytes; a longer one is cut and gets the uid's start.
pub(crate) fn pod_netns(lab: &str, namespace: &str, pod: &str, uid: &str) -> String {
    let name = format!("sb-{lab}-{namespace}-{pod}");
    if name.len() <= 255 { name } else { unique_netns(&name, uid) }
}

/// The same for a pod whose plain name is another pod's (`a-b/c` and `a/b-c`).
pub(crate) fn unique_netns(name: &str, uid: &str) -> String {
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    let kept: String = name.chars().take(240).collect();
    format!("{kept}-{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_pod_names_stay_file_names_and_distinct() {
        let long = "p".repeat(253);
        let first = pod_netns("default", "shop", &long, "aaaaaaaa-1");
        let second = pod_netns("default", "shop", &long, "bbbbbbbb-1");
        assert!(first.len() <= 255 && second.len() <= 255);
        assert_ne!(first, second);
        assert_eq!(pod_netns("default", "shop", "web-0", "x"), "sb-default-shop-web-0");
    }

    #[test]
    fn nodes_do_not_share_addresses_or_ranges() {
        let mut seen = std::collections::BTreeSet::new();
        for index in 1..=32 {
            for family in Family::ALL {
                assert!(seen.insert(node_address(index, family)));
                assert!(!WORLD_GATEWAYS.contains(&node_address(index, family).to_string().as_str()));
            }
            assert_eq!(pod_cidrs(index).len(), 2);
        }
    }
}
