//! Pods on veth pairs that the kernel routes between, without netfilter.

use std::net::IpAddr;

use crate::netns::Netns;

/// A pod behind `node`, with addresses `10.<net>.<node number>.<number>` and `fd<net>:<node number>::<number>`.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
}

/// Makes a pod joined to `node` by a veth pair with a route of each family.
pub(crate) fn pod(node: &Netns, net: u8, node_number: u8, number: u8, mtu: u32) -> anyhow::Result<Pod> {
    let netns = Netns::create(&format!("{}-p{number}", node.name()))?;
    let (v4, v6) = (format!("10.{net}.{node_number}.{number}"), format!("fd{net}:{node_number}::{number}"));
    let veth = format!("pod{number}");
    node.ip(&format!("link add {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", netns.name()))?;
    node.ip(&format!(
        "addr add 169.254.1.1/32 dev {veth} scope link\naddr add fe80::1/64 dev {veth} nodad\nlink set {veth} up"
    ))?;
    netns.ip(&format!(
        "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nlink set eth0 up\n\
         route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0"
    ))?;
    node.ip(&format!("route add {v4} dev {veth}\nroute add {v6} dev {veth}"))?;
    Ok(Pod { netns, addresses: [v4.parse()?, v6.parse()?] })
}
