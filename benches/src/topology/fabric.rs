//! Two nodes joined by one veth pair, and the ways to carry pods' packets between them.

use std::net::IpAddr;

use super::routed::{self, Pod};
use crate::contest::Way;
use crate::netns::Netns;
use crate::traffic::Responder;

/// The name of sockets on the nodes themselves.
pub(crate) const NODE_TO_NODE: &str = "node to node";
/// The name of the kernel's routing between pods of two nodes.
pub(crate) const ROUTED: &str = "kernel-routed pods";
/// The name of the kernel's routing between pods of one node.
pub(crate) const ROUTED_HERE: &str = "kernel routing without netfilter";
/// The name of pods over a bare VXLAN device.
pub(crate) const VXLAN: &str = "pods over a bare VXLAN device";

/// Bytes that VXLAN over IPv4 takes of the MTU (RFC 7348 §5).
const VXLAN_OVERHEAD: u32 = 50;
const MTU: u32 = 1500;

/// Two nodes with addresses `192.168.<net>.1` and .2, `fd77:<net>::1` and ::2, on device `up0`.
pub(crate) struct Fabric {
    pub(crate) nodes: [Netns; 2],
    pub(crate) addresses: [[IpAddr; 2]; 2],
}

/// Joins two new nodes.
pub(crate) fn fabric(name: &str, net: u8) -> anyhow::Result<Fabric> {
    let nodes = [Netns::create(&format!("sbb-{name}-n1"))?, Netns::create(&format!("sbb-{name}-n2"))?];
    nodes[0].ip(&format!("link add up0 type veth peer name up0 netns {}", nodes[1].name()))?;
    for (netns, last) in nodes.iter().zip([1, 2]) {
        netns.forward()?;
        netns.ip(&format!(
            "addr add 192.168.{net}.{last}/24 dev up0\naddr add fd77:{net}::{last}/64 dev up0 nodad\nlink set up0 up"
        ))?;
    }
    let address = |last: u8| -> anyhow::Result<[IpAddr; 2]> {
        Ok([format!("192.168.{net}.{last}").parse()?, format!("fd77:{net}::{last}").parse()?])
    };
    Ok(Fabric { addresses: [address(1)?, address(2)?], nodes })
}

/// Sockets on the nodes.
pub(crate) fn node_to_node(name: &str, net: u8) -> anyhow::Result<Way> {
    let Fabric { nodes: [client, server], addresses: [_, servers] } = fabric(name, net)?;
    for address in servers {
        Responder::start(&server, address)?;
    }
    Ok(Way { name: NODE_TO_NODE, client, servers })
}

/// Pods that the kernel routes, as a host-gw backend without netfilter does.
pub(crate) fn routed() -> anyhow::Result<Way> {
    let fabric = fabric("routed", 72)?;
    let pods = pods(&fabric, 82, MTU)?;
    for (index, netns) in fabric.nodes.iter().enumerate() {
        let (other, [v4, v6]) = (2 - index, fabric.addresses[1 - index]);
        netns.ip(&format!("route add 10.82.{other}.0/24 via {v4}\nroute add fd82:{other}::/64 via {v6}"))?;
    }
    way(ROUTED, pods)
}

/// Pods over a VXLAN device with fixed neighbours, as flannel sets it up (one route, one neighbour and one forwarding
/// entry per node).
pub(crate) fn vxlan() -> anyhow::Result<Way> {
    let fabric = fabric("vxlan", 73)?;
    let pods = pods(&fabric, 83, MTU - VXLAN_OVERHEAD)?;
    for (index, netns) in fabric.nodes.iter().enumerate() {
        let (own, other) = (index + 1, 2 - index);
        let (local, remote) = (fabric.addresses[index][0], fabric.addresses[1 - index][0]);
        netns.ip(&format!(
            "link add flannel.1 address 0a:00:00:00:00:0{own} mtu {} type vxlan id 1 dstport 8472 local {local} \
             dev up0 nolearning\n\
             addr add 10.83.{own}.0/32 dev flannel.1\naddr add fd83:{own}::/128 dev flannel.1 nodad\n\
             link set flannel.1 up\n\
             neigh add 10.83.{other}.0 lladdr 0a:00:00:00:00:0{other} dev flannel.1 nud permanent\n\
             neigh add fd83:{other}:: lladdr 0a:00:00:00:00:0{other} dev flannel.1 nud permanent\n\
             route add 10.83.{other}.0/24 via 10.83.{other}.0 dev flannel.1 onlink\n\
             route add fd83:{other}::/64 via fd83:{other}:: dev flannel.1 onlink",
            MTU - VXLAN_OVERHEAD
        ))?;
        crate::netns::run(std::process::Command::new("bridge").args([
            "-n",
            netns.name(),
            "fdb",
            "append",
            &format!("0a:00:00:00:00:0{other}"),
            "dev",
            "flannel.1",
            "dst",
            &remote.to_string(),
        ]))?;
    }
    way(VXLAN, pods)
}

fn pods(fabric: &Fabric, net: u8, mtu: u32) -> anyhow::Result<[Pod; 2]> {
    Ok([routed::pod(&fabric.nodes[0], net, 1, 11, mtu)?, routed::pod(&fabric.nodes[1], net, 2, 12, mtu)?])
}

fn way(name: &'static str, [client, server]: [Pod; 2]) -> anyhow::Result<Way> {
    for address in server.addresses {
        Responder::start(&server.netns, address)?;
    }
    Ok(Way { name, client: client.netns, servers: server.addresses })
}

/// Two pods of one node that the kernel routes between.
pub(crate) fn routed_on_one_node() -> anyhow::Result<Way> {
    let node = Netns::create("sbb-routed1")?;
    node.forward()?;
    way(ROUTED_HERE, [routed::pod(&node, 84, 1, 11, MTU)?, routed::pod(&node, 84, 1, 12, MTU)?])
}
