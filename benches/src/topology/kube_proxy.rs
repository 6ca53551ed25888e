//! The peer's Services: kube-proxy's nftables rules, on a node of the bridge plugin.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bridge::Node;
use crate::contest::Way;
use crate::netns::Netns;
use crate::traffic::{Responder, port};

/// Pod to pod address on the peer.
pub(crate) const DIRECT: &str = "bridge plugin";
/// Through a ClusterIP on the peer.
pub(crate) const SERVICE: &str = "bridge plugin + kube-proxy nftables";

const SKELETON: &str = include_str!("../../peer/kube-proxy.nft");

/// A node of the peer with one client, one server, and Services in front of the server.
pub(crate) struct Peer {
    client: Netns,
    servers: [IpAddr; 2],
}

impl Peer {
    /// Builds it with the tools' ports behind Service 0, and `services` Services in all.
    pub(crate) fn build(name: &str, net: u8, services: u32) -> anyhow::Result<Self> {
        let node = Node::create(&format!("sbb-{name}"), net)?;
        let client = Netns::create(&format!("sbb-{name}-c"))?;
        let server = Netns::create(&format!("sbb-{name}-s"))?;
        node.add(&client)?;
        let servers = node.add(&server)?;
        // Replies between pods of one bridge must pass conntrack, else the client sees the backend's address.
        node.netns.sysctl("bridge/bridge-nf-call-iptables", "1")?;
        node.netns.sysctl("bridge/bridge-nf-call-ip6tables", "1")?;
        for address in servers {
            Responder::start(&server, address)?;
            node.netns.nft(&rules(address, services))?;
        }
        Ok(Self { client, servers })
    }

    /// By pod address.
    pub(crate) fn direct(&self) -> Way {
        Way { name: DIRECT, client: self.client.clone(), servers: self.servers }
    }

    /// By ClusterIP.
    pub(crate) fn service(&self) -> Way {
        Way {
            name: SERVICE,
            client: self.client.clone(),
            servers: [cluster_ip(false, 0), cluster_ip(true, 0)],
        }
    }
}

/// ClusterIP of Service `index`, out of 10.96.0.0/12 and fd96::/108.
pub(crate) fn cluster_ip(v6: bool, index: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(0xfd96u128 << 112 | u128::from(index + 1)).into()
    } else {
        Ipv4Addr::from_bits((10 << 24 | 96 << 16) + index + 1).into()
    }
}

/// Rules with `services` Services that all lead to the tools' ports of `server`. Service 0 has all ports; the others
/// have the one of new connections.
pub(crate) fn rules(server: IpAddr, services: u32) -> String {
    let v6 = server.is_ipv6();
    let (family, address) = if v6 { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
    let mut text = SKELETON.replace("FAMILY", family).replace("ADDRESS", address);
    let _infallible = writeln!(text, "table {family} kube-proxy {{");
    let (mut elements, mut addresses) = (Vec::new(), Vec::new());
    let target = if v6 { format!("[{server}]") } else { server.to_string() };
    for index in 0..services {
        let cluster_ip = cluster_ip(v6, index);
        for (protocol, port) in port::ALL {
            if index != 0 && port != port::TCP_CONNECT {
                continue;
            }
            let name = format!("{index}-{protocol}-{port}");
            let _infallible = write!(
                text,
                "chain endpoint-{name} {{ {family} saddr {server} jump mark-for-masquerade\n\
                 meta l4proto {protocol} dnat to {target}:{port}\n}}\n\
                 chain service-{name} {{ numgen random mod 1 vmap {{ 0 : goto endpoint-{name} }}\n}}\n"
            );
            elements.push(format!("{cluster_ip} . {protocol} . {port} : goto service-{name}"));
        }
        addresses.push(cluster_ip.to_string());
    }
    text.push_str("}\n");
    let _infallible =
        writeln!(text, "add element {family} kube-proxy cluster-ips {{ {} }}", addresses.join(", "));
    let _infallible =
        writeln!(text, "add element {family} kube-proxy service-ips {{ {} }}", elements.join(", "));
    text
}
