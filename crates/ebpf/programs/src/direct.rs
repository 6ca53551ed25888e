//! Direct server return: a client's packet to a Service goes to the backend's node as the client sent it, and that node
//! answers the client itself, under the frontend.
//!
//! The node that the packet comes to chooses the backend and names it by the Ethernet addresses inside VXLAN, under a
//! network identifier of its own ([`sheetbend_ebpf_abi::direct_macs`]). The backend's node finds the frontend in the packet
//! itself, so that every packet says all that is needed, and needs no state but its own conntrack. From there on the flow
//! is as if the client had come to that node (`outside`).

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use sheetbend_ebpf_abi::{
    BackendEntry, DIRECT_VNI, Hook, MARK_OURS, ROUTE_NO_MASQUERADE, ROUTE_NODE, ROUTE_NODE_ADDRESS,
    ROUTE_TAKES_DIRECT, Reason, SCOPE_INSIDE, SENDS_DIRECT, SERVICE_FLOW_DIRECT, SERVICE_OUTSIDE,
    ServiceFlowValue,
};

use crate::{
    conntrack::{self, Holder, SECOND, now},
    deliver::{self, is_simple},
    forward::{config, route},
    maps::{CONFIG, POD_RANGE},
    node, outside,
    packet::{
        DIRECT, DROP, ETHERNET, FIRST_FRAGMENT, ICMP_ERROR, Ip, LATER_FRAGMENT, MAPPED, Mac, OUTSIDE, Packet,
        SERVICE, is_hairpin, same, set_mark, words,
    },
    parse::{Frame, parse, pointer},
    rewrite::{self, End},
    service::{self, any_address},
    stage,
};

/// First byte of the destination and of the source inside VXLAN.
const TO: u32 = 0x0a;
const FROM: u32 = 0x0e;

/// Whether a client's new flow goes to `backend` as it comes. The backend must be another node's pod that the Ethernet
/// addresses can name; the client must be outside of the cluster, and have come by the uplink.
#[inline(always)]
pub fn takes(packet: &Packet, backend: &BackendEntry) -> bool {
    if packet.hook != Hook::FromUplink as u32
        || CONFIG.get(0).is_none_or(|config| config.flags & SENDS_DIRECT == 0)
    {
        return false;
    }
    let is_named = route(packet.network, &words(&backend.addr))
        .is_some_and(|route| route.kind == ROUTE_NODE && route.flags & ROUTE_TAKES_DIRECT != 0);
    is_named && is_outside(packet.network, &packet.src)
}

/// Whether an address is no pod's, no node's and no Service's.
#[inline(always)]
fn is_outside(network: u32, ip: &Ip) -> bool {
    route(network, ip).is_none_or(|route| route.kind == ROUTE_NO_MASQUERADE) && !is_hairpin(ip)
}

/// Sends a packet as it came to the node of the backend that `packet.dst` and `packet.dst_port` name.
///
/// # Errors
/// [`Reason::BackendGone`] when no node has it, those of [`node::set_tunnel`].
#[inline(always)]
pub fn send(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    let node = route(packet.network, &packet.dst).filter(|route| route.kind == ROUTE_NODE);
    // Of others the size was looked at before their flow began; about an ICMP error nobody is told (RFC 1122 §3.2.2).
    if packet.has(ICMP_ERROR) && (node.is_none() || !is_simple(packet, config.pod_mtu)) {
        return Ok(DROP);
    }
    let Some(node) = node.filter(|_| config.tunnel_ifindex != 0) else { return Err(Reason::BackendGone) };
    let (high, low) = (u32::from_be(packet.dst[2]), u32::from_be(packet.dst[3]));
    let to = Mac((TO << 24 | high >> 8).to_be(), ((high << 8 | low >> 24) as u16).to_be());
    let from = Mac((FROM << 24 | low & 0x00ff_ffff).to_be(), packet.dst_port.to_be());
    deliver::hop(ctx, packet, to, from)?;
    node::set_tunnel(ctx, &words(&node.via), DIRECT_VNI)?;
    set_mark(ctx, MARK_OURS);
    // SAFETY: plain values.
    Ok(unsafe { bpf_redirect(config.tunnel_ifindex, 0) } as i32)
}

/// Another node has passed a packet on. It says who the client is, so no address of the cluster may be; and only nodes
/// may say so.
///
/// # Errors
/// [`Reason::TunnelSpoofed`], [`Reason::NotDirect`], [`Reason::UnsupportedProtocol`].
#[inline(always)]
pub fn take(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if parse(ctx, packet)? != Frame::Ip {
        return Err(Reason::UnsupportedProtocol);
    }
    let sender = route(packet.network, &packet.outer).map_or(0, |route| route.kind);
    if sender != ROUTE_NODE_ADDRESS || !is_outside(packet.network, &packet.src) {
        return Err(Reason::TunnelSpoofed);
    }
    let data = pointer(ctx, ETHERNET)?;
    // SAFETY: the 14 bytes were checked.
    let (to, from) = unsafe { (Mac::read(data, 0), Mac::read(data, 6)) };
    let (to_first, to_last) = (u32::from_be(to.0), u16::from_be(to.1) as u32);
    let from_first = u32::from_be(from.0);
    if to_first >> 24 != TO || from_first >> 24 != FROM {
        return Err(Reason::NotDirect);
    }
    let high = (to_first << 8 | to_last >> 8).to_be();
    let low = (to_last << 24 | from_first & 0x00ff_ffff).to_be();
    let mut chosen = [0, 0, high, low];
    if packet.is_v6() {
        let Some(range) = POD_RANGE.get(0) else { return Err(Reason::NotReady) };
        (chosen[0], chosen[1]) = (range[0], range[1]);
    } else if high != MAPPED {
        return Err(Reason::NotDirect);
    }
    packet.chosen = chosen;
    packet.chosen_port = u16::from_be(from.1);
    packet.to = deliver::local(packet.network, &chosen).ok_or(Reason::NotDirect)?;
    packet.flags |= DIRECT;
    let slot = if packet.has(ICMP_ERROR) {
        stage::ICMP_ERROR
    } else if packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        stage::FRAGMENT
    } else {
        stage::SERVE_DIRECT
    };
    stage::call(ctx, slot);
    Ok(DROP)
}

/// The same packet, once its ports are known: to the pod, as from a client of this node's.
///
/// # Errors
/// [`Reason::NotDirect`], those of [`source_port_towards`].
#[inline(always)]
pub fn serve(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if !is_served(packet) {
        return Err(Reason::NotDirect);
    }
    packet.frontend = packet.dst;
    packet.frontend_port = packet.dst_port;
    packet.client_port = packet.src_port;
    packet.flags = packet.flags & !DIRECT | SERVICE | OUTSIDE;
    let source_port = source_port_towards(packet)?;
    if source_port != packet.src_port {
        let source = packet.src;
        rewrite::replace(ctx, packet, End::Source, source, source_port)?;
    }
    let (ip, port) = (packet.chosen, packet.chosen_port);
    rewrite::replace(ctx, packet, End::Destination, ip, port)?;
    stage::call(ctx, stage::ARRIVE);
    Ok(DROP)
}

/// Whether the destination is a Service's at an external address, or at another node's.
#[inline(always)]
fn is_served(packet: &Packet) -> bool {
    if !packet.has_ports() {
        return false;
    }
    let (network, port, protocol) = (packet.network, packet.dst_port, packet.protocol);
    let exact = service::find(network, &packet.dst, port, protocol, SCOPE_INSIDE);
    let entry = exact.or_else(|| {
        let kind = route(network, &packet.dst).map_or(0, |route| route.kind);
        let any = any_address(!packet.is_v6());
        if kind == ROUTE_NODE_ADDRESS {
            service::find(network, &any, port, protocol, SCOPE_INSIDE)
        } else {
            None
        }
    });
    entry.is_some_and(|entry| entry.flags & SERVICE_OUTSIDE != 0 && !outside::is_host_port(entry))
}

/// The source port towards the backend: the client's own, or another when one of its flows through another frontend
/// already goes from there. Each of them must be told from the others where its answers leave.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::MapFull`].
#[inline(always)]
fn source_port_towards(packet: &mut Packet) -> Result<u16, Reason> {
    let key = service::own_key(packet);
    let now = now();
    let (dst, dst_port, own) = (packet.dst, packet.dst_port, packet.src_port);
    (packet.dst, packet.dst_port) = (packet.chosen, packet.chosen_port);
    let found = if conntrack::is_its_own(packet) { Ok(own) } else { moved_port(packet, &key, now) };
    (packet.dst, packet.dst_port) = (dst, dst_port);
    found
}

#[inline(always)]
fn moved_port(
    packet: &mut Packet,
    key: &sheetbend_ebpf_abi::ServiceFlowKey,
    now: u64,
) -> Result<u16, Reason> {
    let own = packet.src_port;
    if let Some(flow) = service::known(key) {
        // SAFETY: the value stays in place while the program runs; a racing writer writes whole words.
        let flow = unsafe { &mut *flow };
        if is_moved(flow) {
            let port = flow.source_port;
            packet.src_port = port;
            let is_free = conntrack::holder(packet, now) == Holder::Nobody;
            packet.src_port = own;
            if is_free {
                if now.saturating_sub(flow.last_seen) > SECOND {
                    flow.last_seen = now;
                }
                return Ok(port);
            }
        }
    }
    let port = service::unheld_port(packet, false, now)?;
    if port != own {
        service::keep(key, &service::moved_flow(port, SERVICE_FLOW_DIRECT, now))?;
    }
    Ok(port)
}

/// Whether such a flow was given another source port here.
#[inline(always)]
pub fn is_moved(flow: &ServiceFlowValue) -> bool {
    flow.backend == 0 && flow.flags & SERVICE_FLOW_DIRECT != 0
}
