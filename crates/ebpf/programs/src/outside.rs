//! Services of this node for clients elsewhere: node ports, external addresses, host ports.
//!
//! The node that a packet comes to chooses the backend. One on this node sees the client; towards one on another node
//! the packet takes this node's address and a port of `nat.ports`, so that the answers come back here, or goes as it came
//! (`direct`). Conntrack keeps
//! the flow as (client, backend) with [`CT_OUTSIDE`], and answers get the frontend as their source when they leave.

use aya_ebpf::{helpers::generated::bpf_redirect_neigh, programs::TcContext};
use sheetbend_ebpf_abi::{
    Addr, CT_OUTSIDE, CtEntry, Hook, MARK_OURS, NodeConfig, ROUTE_LOCAL, ROUTE_NODE, ROUTE_NODE_ADDRESS,
    Reason, RouteEntry, SCOPE_INSIDE, SCOPE_OUTSIDE, SERVICE_APART, SERVICE_OUTSIDE, SERVICE_THIS_NODE,
    ServiceEntry, WITHOUT_NODE, WITHOUT_ROUTER, vtep_mac,
};

use crate::{
    conntrack::{self, Ends},
    deliver::{self, is_simple, pod, to_stack},
    event,
    forward::{config, route},
    hook,
    maps::CONFIG,
    node,
    packet::{
        DIRECT, DROP, FIRST_FRAGMENT, ICMP_ERROR, LATER_FRAGMENT, OUTSIDE, PASS, Packet, REPLY, TRANSPORT_V4,
        TRANSPORT_V6, UDP, put, same, set_mark, words,
    },
    parse::pointer,
    rewrite::{self, End},
    service::{self, any_address},
    snat, stage, unserved,
    uplink::{check_origin, node_address},
};

/// Whether the destination is this node itself: its address on the uplink, or its router address.
#[inline(always)]
pub fn is_own(ctx: &TcContext, packet: &Packet) -> bool {
    is_own_with(ctx, packet, 0)
}

/// Whether the destination is this node itself, at an address that leads to `entry`, which is one of every address.
#[inline(always)]
pub fn serves(ctx: &TcContext, packet: &Packet, entry: &ServiceEntry) -> bool {
    let without = CONFIG.get(0).map_or(0, |config| without_node_ports(config, entry));
    is_own_with(ctx, packet, without)
}

/// Which of this node's addresses do not lead to `entry` (`WITHOUT_*`). A host port chooses its addresses itself.
#[inline(always)]
pub fn without_node_ports(config: &NodeConfig, entry: &ServiceEntry) -> u16 {
    if is_host_port(entry) { 0 } else { config.flags }
}

#[inline(always)]
pub fn is_host_port(entry: &ServiceEntry) -> bool {
    entry.flags & (SERVICE_THIS_NODE | SERVICE_APART) == SERVICE_THIS_NODE
}

/// As [`is_own`], `without` some of the addresses.
#[inline(always)]
fn is_own_with(ctx: &TcContext, packet: &Packet, without: u16) -> bool {
    let without = without >> packet.v6;
    if CONFIG.get(0).is_some_and(|config| same(&packet.dst, &node_address(packet, config))) {
        return without & WITHOUT_NODE == 0;
    }
    if without & WITHOUT_ROUTER != 0 {
        return false;
    }
    // Elsewhere the routing table says the same of its own addresses and of those that it knows no way to.
    let kind = route(packet.network, &packet.dst).map_or(0, |route| route.kind);
    kind == ROUTE_LOCAL && node::is_own_address(ctx, packet)
}

/// What a client elsewhere finds at the packet's destination.
#[inline(always)]
pub fn entry(ctx: &TcContext, packet: &Packet) -> Option<&'static ServiceEntry> {
    if !packet.has_ports() {
        return None;
    }
    let (network, port, protocol) = (packet.network, packet.dst_port, packet.protocol);
    let any = any_address(!packet.is_v6());
    let (addr, inside) = match service::find(network, &packet.dst, port, protocol, SCOPE_INSIDE) {
        Some(inside) => (packet.dst, inside),
        None => (any, service::find(network, &any, port, protocol, SCOPE_INSIDE)?),
    };
    if inside.flags & SERVICE_OUTSIDE == 0 || same(&addr, &any) && !serves(ctx, packet, inside) {
        return None;
    }
    if inside.flags & SERVICE_APART == 0 {
        return Some(inside);
    }
    service::find(network, &addr, port, protocol, SCOPE_OUTSIDE)
}

/// A packet from elsewhere whose destination is no pod of this node; or a pod's to a node's address in vxlan mode.
///
/// # Errors
/// Those of Services, of policy and of [`hook::without_pod`].
#[inline(always)]
pub fn outside(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    if packet.hook == Hook::FromPod as u32 {
        return to_node(ctx, packet, config);
    }
    let by_tunnel = packet.hook == Hook::FromTunnel as u32;
    if by_tunnel && is_special(ctx, packet) {
        return hook::without_pod(ctx, packet);
    }
    if by_tunnel
        && same(&packet.dst, &node_address(packet, config))
        && snat::translate_back(ctx, packet, config)?
    {
        stage::call(ctx, stage::ANSWER);
        return Ok(DROP);
    }
    let Some(entry) = entry(ctx, packet) else {
        if !same(&packet.dst, &node_address(packet, config)) {
            let kind = route(packet.network, &packet.dst).map_or(0, |route| route.kind);
            unserved::check(packet.network, &packet.dst, kind)?;
        }
        return if by_tunnel { hook::without_pod(ctx, packet) } else { Ok(PASS) };
    };
    if !by_tunnel && !check_origin(ctx, packet, config)? {
        return Err(Reason::TunnelSpoofed);
    }
    packet.flags |= OUTSIDE;
    service::translate(ctx, packet, entry)?;
    stage::call(ctx, stage::ARRIVE);
    Ok(DROP)
}

/// The same packet, once its destination is a backend.
///
/// # Errors
/// Those of policy, [`Reason::TooBig`].
#[inline(always)]
pub fn arrive(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    match deliver::local(packet.network, &packet.dst) {
        Some(ifindex) if !packet.has(DIRECT) => to_pod(ctx, packet, ifindex),
        _ => elsewhere(ctx, packet, config()?),
    }
}

/// ICMP errors visit their own stage; the node's stack puts fragments together.
#[inline(always)]
fn is_special(ctx: &TcContext, packet: &Packet) -> bool {
    if packet.has(ICMP_ERROR) {
        stage::call(ctx, stage::ICMP_ERROR);
    }
    packet.has(FIRST_FRAGMENT | LATER_FRAGMENT)
}

/// To a backend on this node, which sees the client.
#[inline(always)]
fn to_pod(ctx: &TcContext, packet: &mut Packet, ifindex: u32) -> Result<i32, Reason> {
    packet.to = ifindex;
    let target = pod(ifindex)?;
    // Before a detour over the stack: `to_pod` does not know the frontend.
    conntrack::track(packet, Ends::Receiver)?;
    event::forwarded(packet, Reason::Forwarded);
    if !is_simple(packet, target.mtu) {
        return Ok(to_stack(ctx));
    }
    deliver::redirect(ctx, packet, target)
}

/// To a backend that is no pod of this node, under this node's address or the client's.
#[inline(always)]
fn elsewhere(ctx: &TcContext, packet: &mut Packet, config: &NodeConfig) -> Result<i32, Reason> {
    conntrack::track(packet, Ends::Transit)?;
    if is_own(ctx, packet) {
        // A process of this node listens there; `restore_own` translates its answers.
        event::forwarded(packet, Reason::ToStack);
        return Ok(PASS);
    }
    if !is_simple(packet, config.pod_mtu) {
        conntrack::forget(packet);
        return Err(Reason::TooBig);
    }
    event::forwarded(packet, Reason::ToNode);
    stage::call(ctx, if packet.has(DIRECT) { stage::SEND_DIRECT } else { stage::DEPART });
    Ok(DROP)
}

/// The same packet, once its flow is tracked.
///
/// # Errors
/// [`Reason::SnatExhausted`].
#[inline(always)]
pub fn depart(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    snat::masquerade(ctx, packet)?;
    match route(packet.network, &packet.dst) {
        Some(route) if route.kind == ROUTE_NODE => node::send(ctx, packet, config, route),
        _ => by_routes(ctx, packet, config),
    }
}

/// An answer to a flow of [`elsewhere`], whose destination is the client again.
///
/// # Errors
/// [`Reason::NoSuchPod`] when there is no such flow, [`Reason::TooBig`].
#[inline(always)]
pub fn answer(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    conntrack::make_key(packet);
    let is_known = conntrack::find(packet).is_some_and(|(entry, _)| entry.flags & CT_OUTSIDE != 0);
    if !is_known {
        return Err(Reason::NoSuchPod);
    }
    conntrack::track(packet, Ends::Transit)?;
    if !packet.has(REPLY) || !packet.has(OUTSIDE) {
        return Err(Reason::NoSuchPod);
    }
    name_frontend(ctx, packet)?;
    if !is_simple(packet, config.uplink_mtu) {
        return Err(Reason::TooBig);
    }
    match route(packet.network, &packet.dst) {
        Some(route) if route.kind == ROUTE_NODE => node::send(ctx, packet, config, route),
        _ => by_routes(ctx, packet, config),
    }
}

/// Out of the uplink, as the node's own routes say.
#[inline(always)]
pub fn by_routes(ctx: &TcContext, packet: &Packet, config: &NodeConfig) -> Result<i32, Reason> {
    set_mark(ctx, MARK_OURS);
    let data = pointer(ctx, if packet.is_v6() { TRANSPORT_V6 } else { TRANSPORT_V4 })?;
    deliver::one_hop_less(ctx, packet, data);
    // SAFETY: no parameters: the kernel looks the destination up.
    Ok(unsafe { bpf_redirect_neigh(config.uplink_ifindex, core::ptr::null_mut(), 0, 0) } as i32)
}

/// A pod's packet to a node's own address. To another's it goes through the tunnel, whose outer source says whose pod
/// it is.
#[inline(always)]
fn to_node(ctx: &TcContext, packet: &mut Packet, config: &NodeConfig) -> Result<i32, Reason> {
    if is_own(ctx, packet) {
        event::forwarded(packet, Reason::ToStack);
        return Ok(to_stack(ctx));
    }
    event::forwarded(packet, Reason::ToNode);
    let mut via: Addr = [0; 16];
    put(&mut via, &packet.dst);
    let route = RouteEntry { kind: ROUTE_NODE_ADDRESS, mac: vtep_mac(&via), flags: 0, via };
    node::send(ctx, packet, config, &route)
}

/// Gives an answer the ends that the client knows: the frontend, and the client's own port.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn name_frontend(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let (ip, port) = (packet.frontend, packet.frontend_port);
    rewrite::replace(ctx, packet, End::Source, ip, port)?;
    if rewrite::destination_port(ctx.skb.skb, packet) != 0 {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// Gives an answer that leaves the frontend as its source. `entry` is its flow's.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn restore(ctx: &TcContext, packet: &mut Packet, entry: &CtEntry) -> Result<i32, Reason> {
    if entry.flags & CT_OUTSIDE != 0 {
        packet.frontend = words(&entry.frontend);
        packet.frontend_port = entry.frontend_port;
        packet.client_port = entry.client_port;
        name_frontend(ctx, packet)?;
    }
    Ok(PASS)
}

/// The same for an answer of a pod to another node.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn restore_found(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    conntrack::make_key(packet);
    match conntrack::find(packet) {
        Some((entry, _)) if !conntrack::is_from_initiator(packet, entry) => restore(ctx, packet, entry),
        _ => Ok(PASS),
    }
}

/// The same for an answer of a process of this node.
///
/// # Errors
/// [`Reason::Malformed`], [`Reason::MapFull`].
#[inline(always)]
pub fn restore_own(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if !packet.has_ports() || packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        return Ok(PASS);
    }
    let config = config()?;
    let is_tunnel = packet.protocol == UDP && packet.dst_port == config.tunnel_port;
    if is_tunnel || !same(&packet.src, &node_address(packet, config)) {
        return Ok(PASS);
    }
    conntrack::make_key(packet);
    let is_ours = conntrack::find(packet).is_some_and(|(entry, _)| {
        entry.flags & CT_OUTSIDE != 0 && !conntrack::is_from_initiator(packet, entry)
    });
    if !is_ours {
        return Ok(PASS);
    }
    conntrack::track(packet, Ends::Transit)?;
    name_frontend(ctx, packet)?;
    Ok(PASS)
}
