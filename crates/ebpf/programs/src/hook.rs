//! The six hooks. Each parses, sorts out what is not ours, and goes the shortest way to `forward` or `deliver`.

use aya_ebpf::programs::TcContext;
use sheetbend_ebpf_abi::{
    MARK_FORWARDED, MARK_OURS, ROUTE_LOCAL, ROUTE_NODE, ROUTE_NODE_ADDRESS, Reason, TUNNEL_VNI,
};

use crate::{
    conntrack::{self, Ends},
    deliver::{self, pod, to_stack},
    event,
    forward::{self, route},
    link, node,
    packet::{
        DROP, FIRST_FRAGMENT, ICMP_ERROR, LATER_FRAGMENT, OWN, PASS, Packet, TCP, mark, same, set_mark, words,
    },
    parse::{Frame, parse},
    stage,
};

/// A pod sends.
///
/// # Errors
/// Every reason why a pod's packet may not go on.
#[inline(always)]
pub fn from_pod(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    packet.from = ifindex(ctx);
    match parse(ctx, packet)? {
        Frame::Arp => return Ok(PASS),
        Frame::Other => return Err(Reason::UnsupportedProtocol),
        Frame::Ip => {}
    }
    if link::is_link_duty(packet) {
        return Ok(PASS);
    }
    let sender = pod(packet.from)?;
    packet.network = sender.network;
    link::check_mac(ctx, sender)?;
    if packet.has(ICMP_ERROR) {
        stage::call(ctx, stage::ICMP_ERROR);
        return Ok(DROP);
    }
    link::check_source(packet, sender)?;
    if packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        stage::call(ctx, stage::FRAGMENT);
        return Ok(DROP);
    }
    if let Some(outcome) = forward::established(ctx, packet) {
        return outcome;
    }
    stage::call(ctx, stage::SERVICE);
    Ok(DROP)
}

/// The node's stack sends to a pod: its own packets, and those that other hooks handed to it.
///
/// # Errors
/// Every reason why a packet may not reach the pod.
#[inline(always)]
pub fn to_pod(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    packet.to = ifindex(ctx);
    if parse(ctx, packet)? != Frame::Ip || link::is_link_duty(packet) {
        return Ok(PASS);
    }
    let target = pod(packet.to)?;
    packet.network = target.network;
    // SAFETY: the context is valid for the program's whole run.
    let entered = unsafe { (*ctx.skb.skb).ingress_ifindex };
    if mark(ctx) != MARK_FORWARDED && entered == 0 {
        packet.flags |= OWN;
    }
    if let Some(slot) = detour(packet) {
        stage::call(ctx, slot);
        return Ok(DROP);
    }
    receive(ctx, packet)
}

/// The last part of `to_pod`, `from_uplink` and `from_tunnel`: `packet.to` is known.
///
/// # Errors
/// Every reason why a packet may not reach the pod.
#[inline(always)]
pub fn receive(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if !packet.has(OWN) {
        return deliver::deliver(ctx, packet);
    }
    let target = pod(packet.to)?;
    let own = if packet.is_v6() { words(&target.ipv6) } else { words(&target.ipv4) };
    if !same(&packet.dst, &own) {
        return Ok(PASS); // Multicast of the node.
    }
    conntrack::track(packet, Ends::FromNode)?;
    event::forwarded(packet, Reason::FromNode);
    deliver::translate_back(ctx, packet, target)?;
    Ok(PASS)
}

/// The stage that a special packet has to visit first.
#[inline(always)]
fn detour(packet: &Packet) -> Option<u32> {
    if packet.has(ICMP_ERROR) {
        Some(stage::ICMP_ERROR)
    } else if packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        Some(stage::FRAGMENT)
    } else {
        None
    }
}

/// Another node's pod sends through the tunnel.
///
/// # Errors
/// Every reason why a packet may not reach the pod.
#[inline(always)]
pub fn from_tunnel(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if node::read_tunnel(ctx, packet)? {
        stage::call(ctx, stage::TAKE_DIRECT);
        return Ok(DROP);
    }
    match parse(ctx, packet)? {
        Frame::Ip => {}
        Frame::Arp | Frame::Other => return Err(Reason::UnsupportedProtocol),
    }
    if !is_owned(packet) {
        return Err(Reason::TunnelSpoofed);
    }
    let Some(ifindex) = deliver::local(packet.network, &packet.dst) else {
        stage::call(ctx, stage::OUTSIDE);
        return Ok(DROP);
    };
    packet.to = ifindex;
    if let Some(slot) = detour(packet) {
        stage::call(ctx, slot);
        return Ok(DROP);
    }
    deliver::deliver(ctx, packet)
}

/// Whether the node that sent it owns the source inside: as its pod, its router address, or one of its own addresses.
#[inline(always)]
pub fn is_owned(packet: &Packet) -> bool {
    match route(packet.network, &packet.src) {
        Some(owner) if owner.kind == ROUTE_NODE => same(&words(&owner.via), &packet.outer),
        Some(owner) if owner.kind == ROUTE_NODE_ADDRESS => {
            same(&packet.src, &packet.outer) || same(&words(&owner.via), &packet.outer)
        }
        _ => false,
    }
}

/// A destination of this node that is no pod: the node's own address, or a pod that is gone.
///
/// # Errors
/// [`Reason::PodGone`], [`Reason::NoSuchPod`], [`Reason::Unreachable`].
#[inline(always)]
pub fn without_pod(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if node::is_own_address(ctx, packet) {
        return Ok(to_stack(ctx));
    }
    conntrack::make_key(packet);
    if packet.protocol == TCP && conntrack::find(packet).is_some() {
        return Err(Reason::PodGone);
    }
    match route(packet.network, &packet.dst) {
        Some(route) if route.kind == ROUTE_LOCAL => Err(Reason::NoSuchPod),
        _ => Err(Reason::Unreachable),
    }
}

/// The node's stack sends to another node's pod: tells the tunnel device which node.
///
/// # Errors
/// [`Reason::Unreachable`].
#[inline(always)]
pub fn to_tunnel(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    match parse(ctx, packet)? {
        Frame::Ip if !link::is_link_duty(packet) => {}
        Frame::Ip | Frame::Arp | Frame::Other => return Ok(DROP), // The tunnel has no link layer of its own.
    }
    match route(packet.network, &packet.dst) {
        Some(route) if route.kind == ROUTE_NODE => {
            node::set_tunnel(ctx, &words(&route.via), TUNNEL_VNI)?;
            set_mark(ctx, MARK_OURS);
            Ok(PASS)
        }
        _ => Err(Reason::Unreachable),
    }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the program's whole run.
    unsafe { (*ctx.skb.skb).ifindex }
}
