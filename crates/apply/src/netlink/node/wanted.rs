//! What the node shall have, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_ebpf_abi::{NO_ADDR, mapped, vtep_mac};
use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::state::NetworkMode;
use sheetbend_model::types::Mac;

use super::super::messages::StackRoute;
use super::NodeSpec;

/// Outer headers over IPv4: Ethernet inside 14, VXLAN 8, UDP 8, IPv4 20 bytes (RFC 7348 §5).
const VXLAN_OVER_IPV4: u32 = 50;
/// The same with the IPv6 header of 40 bytes.
const VXLAN_OVER_IPV6: u32 = 70;

/// Addresses, neighbours of the tunnel device, routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// On lo.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Next hop in the tunnel → the tunnel device there.
    pub(super) neighbours: BTreeMap<IpAddr, Mac>,
    /// Destination → route.
    pub(super) routes: BTreeMap<IpNet, StackRoute>,
    /// What is not wanted stays.
    pub(super) keeps: bool,
}

/// The largest packet that pods may send, bytes.
pub fn pod_mtu(spec: &NodeSpec<'_>, uplink_mtu: u32) -> u32 {
    if spec.overlay.mode == NetworkMode::HostGw {
        return uplink_mtu;
    }
    let over_ipv6 = spec.routes.values().any(|route| matches!(route, Route::Node { via: IpAddr::V6(_), .. }));
    let no_ipv4 = !spec.overlay.node_addresses.iter().any(IpAddr::is_ipv4);
    uplink_mtu.saturating_sub(if over_ipv6 || no_ipv4 { VXLAN_OVER_IPV6 } else { VXLAN_OVER_IPV4 })
}

fn mac_of_vtep(vtep: IpAddr) -> Mac {
    Mac(vtep_mac(&match vtep {
        IpAddr::V4(addr) => mapped(addr.octets()),
        IpAddr::V6(addr) => addr.octets(),
    }))
}

/// Ethernet address of this node's tunnel device. Other nodes compute it from the address by which they reach this
/// one: its IPv4 address, where it has one.
pub(super) fn tunnel_mac(overlay: &Overlay) -> Mac {
    let addresses = &overlay.node_addresses;
    let vtep = addresses.iter().find(|addr| addr.is_ipv4()).or(addresses.first());
    vtep.map_or(Mac(vtep_mac(&NO_ADDR)), |vtep| mac_of_vtep(*vtep))
}

impl Wanted {
    pub(super) fn of(spec: &NodeSpec<'_>, uplink: u32, tunnel: Option<u32>) -> Self {
        let router = |block: &IpNet| {
            spec.overlay
                .router_addresses
                .iter()
                .copied()
                .find(|addr| addr.is_ipv4() == matches!(block, IpNet::V4(_)))
        };
        let mut wanted = Self {
            addresses: spec.overlay.router_addresses.iter().copied().collect(),
            keeps: spec.keeps,
            ..Self::default()
        };
        for (key, route) in spec.routes {
            let block = key.block;
            let route = match (route, tunnel) {
                (Route::Local | Route::Unowned, _) => StackRoute::unreachable(block),
                (Route::Node { via, .. }, Some(tunnel)) => {
                    // The next hop only has to be an address that no pod has: that of the range itself.
                    let next_hop = block.network();
                    wanted.neighbours.insert(next_hop, mac_of_vtep(*via));
                    StackRoute {
                        onlink: true,
                        source: router(&block),
                        ..StackRoute::via(block, tunnel, next_hop)
                    }
                }
                (Route::Node { via, .. }, None) => {
                    StackRoute { source: router(&block), ..StackRoute::via(block, uplink, *via) }
                }
                (Route::NodeAddress { .. } | Route::NoMasquerade | Route::Service, _) => continue,
            };
            wanted.routes.insert(block, route);
        }
        for block in &spec.overlay.pod_cidrs {
            wanted.routes.entry(block.trunc()).or_insert_with(|| StackRoute::unreachable(block.trunc()));
        }
        wanted
    }
}
