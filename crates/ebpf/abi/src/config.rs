//! What the whole node shares.

use crate::{Addr, mapped};

/// `NodeConfig::mode`: RFC 7348 over a collect-metadata device.
pub const MODE_VXLAN: u32 = 1;
/// `NodeConfig::mode`: routes over the nodes' own addresses.
pub const MODE_HOST_GW: u32 = 2;

/// Ethernet address of the node's end of every pod's veth. The pod has a permanent neighbour for it.
pub const HOST_MAC: [u8; 6] = [0x0a, 0x5b, 0, 0, 0, 1];

/// Network identifier of the default network in the tunnel, 24 bits.
pub const TUNNEL_VNI: u32 = 1;
/// Network identifier of packets to Services that another node passes on as their clients sent them: the last of 24 bits, since
/// networks count from the first. Their Ethernet addresses name the backend; see [`direct_macs`].
pub const DIRECT_VNI: u32 = 0x00ff_ffff;
/// UDP port of the tunnel (RFC 7348 §8 names 4789).
pub const TUNNEL_PORT: u16 = 4789;

/// First port that our SNAT draws from (`nat.ports`).
pub const DEFAULT_NAT_PORT_FIRST: u16 = 40_000;
/// How many ports our SNAT draws from.
pub const DEFAULT_NAT_PORT_COUNT: u16 = 20_000;

/// Bits of `skb->mark` that are ours.
pub const MARK_MASK: u32 = 0x5b00_0000 | 0x000f_0000;
/// The packet entered by one of our hooks and goes through the node's stack: not made by the node itself.
pub const MARK_FORWARDED: u32 = 0x5b01_0000;
/// We made this packet (RST, ICMP) or have already judged it: every later hook lets it pass.
pub const MARK_OURS: u32 = 0x5b02_0000;
/// The same of a packet of an established flow on its way through the tunnel device: `to_uplink` reads its outer headers.
pub const MARK_LEARN: u32 = 0x5b03_0000;

/// Source that a pod sees when it reaches itself through a Service.
pub const HAIRPIN_IPV4: Addr = mapped([169, 254, 42, 1]);
/// The same for IPv6 (RFC 4193).
pub const HAIRPIN_IPV6: Addr = [0xfd, 0x5b, 0x68, 0x61, 0x69, 0x72, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// `NodeConfig::flags`: does not lead to node ports: `NodeConfig::node_ipv4`; shifted by one, `node_ipv6`.
pub const WITHOUT_NODE: u16 = 1;
/// The same of the node's router addresses.
pub const WITHOUT_ROUTER: u16 = 4;
/// The same of 127.0.0.0/8 and ::1.
pub const WITHOUT_LOOPBACK: u16 = 16;
/// `NodeConfig::flags`: new flows of clients elsewhere go to other nodes' pods as they came, and are answered from there.
pub const SENDS_DIRECT: u16 = 1 << 8;

/// The one value of map `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// [`MODE_VXLAN`] or [`MODE_HOST_GW`].
    pub mode: u32,
    /// Interface index of the uplink.
    pub uplink_ifindex: u32,
    /// Interface index of the tunnel device, 0 without one.
    pub tunnel_ifindex: u32,
    /// MTU of the uplink, bytes.
    pub uplink_mtu: u32,
    /// MTU of pods and of the tunnel device, bytes.
    pub pod_mtu: u32,
    /// First port for SNAT.
    pub nat_port_first: u16,
    /// Number of ports for SNAT, at least 1.
    pub nat_port_count: u16,
    /// UDP port of the tunnel.
    pub tunnel_port: u16,
    /// `WITHOUT_*`: which of this node's own addresses do not lead to node ports (host ports are not concerned); and
    /// [`SENDS_DIRECT`].
    pub flags: u16,
    /// This node's IPv4 address on the uplink, or [`crate::NO_ADDR`].
    pub node_ipv4: Addr,
    /// This node's IPv6 address on the uplink, or [`crate::NO_ADDR`].
    pub node_ipv6: Addr,
    /// Cookie of the node's network namespace (`SO_NETNS_COOKIE`), native order; 0 = not known. Only there does a
    /// loopback address lead to node ports.
    pub netns: [u8; 8],
}

/// Ethernet address of the tunnel device of the node whose VTEP is `vtep`: nobody needs to announce it.
pub const fn vtep_mac(vtep: &Addr) -> [u8; 6] {
    let mut hash: u32 = 0x811c_9dc5; // FNV-1a, 32 bits
    let mut index = 0;
    while index < 16 {
        hash = (hash ^ vtep[index] as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    let bytes = hash.to_be_bytes();
    [0x0a, 0x5c, bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// Ethernet addresses inside VXLAN, destination and source, of a packet to a backend with [`DIRECT_VNI`]. Both are local and
/// unicast (IEEE 802 §8.2.2), and the source is none of [`vtep_mac`], which the receiving device would drop as its own:
///
/// ```text
/// 0a | bytes 8..13 of the backend's address    0e | bytes 13..16 | port
/// ```
///
/// The bytes before are `::ffff:0:0` of IPv4 or the receiving node's own pod range.
pub const fn direct_macs(backend: &Addr, port: u16) -> [[u8; 6]; 2] {
    let a = backend;
    let port = port.to_be_bytes();
    [[0x0a, a[8], a[9], a[10], a[11], a[12]], [0x0e, a[13], a[14], a[15], port[0], port[1]]]
}
