//! The uplink: pods of other nodes by their routes, the world, and replies to masqueraded flows.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS},
    programs::TcContext,
};
use sheetbend_ebpf_abi::{
    MARK_LEARN, MODE_HOST_GW, MODE_VXLAN, NodeConfig, ROUTE_LOCAL, ROUTE_NODE, ROUTE_UNOWNED, Reason,
};

use crate::{
    conntrack,
    deliver::{self, is_simple, pod, to_stack},
    forward::{config, route},
    hook, link, next_hop, node, outside,
    packet::{
        DROP, ETHERNET, FIRST_FRAGMENT, ICMP_ERROR, Ip, LATER_FRAGMENT, Mac, PASS, Packet, UDP, is_hairpin,
        mark, same, words,
    },
    parse::{Frame, parse, pointer},
    snat, stage, unserved,
};

/// This node's address on the uplink, of the packet's family.
#[inline(always)]
pub fn node_address(packet: &Packet, config: &NodeConfig) -> Ip {
    if packet.is_v6() { words(&config.node_ipv6) } else { words(&config.node_ipv4) }
}

/// A packet arrives at the uplink. What is not for a pod passes untouched.
///
/// # Errors
/// Every reason why a packet may not reach the pod.
#[inline(always)]
pub fn from_uplink(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    // SAFETY: the context is valid for the program's whole run. 0 = PACKET_HOST: others are not for this node.
    if unsafe { (*ctx.skb.skb).pkt_type } != 0 {
        return Ok(PASS);
    }
    // A malformed packet is the stack's: it may be for the node itself.
    if !matches!(parse(ctx, packet), Ok(Frame::Ip)) || link::is_link_duty(packet) {
        return Ok(PASS);
    }
    let config = config()?;
    let to_node = same(&packet.dst, &node_address(packet, config));
    if to_node && packet.protocol == UDP && packet.dst_port == config.tunnel_port {
        if config.mode == MODE_VXLAN {
            stage::call(ctx, stage::UNWRAP);
        }
        return Ok(PASS);
    }
    if packet.has(ICMP_ERROR) {
        stage::call(ctx, stage::ICMP_ERROR);
        return Ok(DROP);
    }
    if packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        stage::call(ctx, stage::FRAGMENT);
        return Ok(DROP);
    }
    if !to_node {
        match deliver::local(packet.network, &packet.dst) {
            Some(ifindex) => packet.to = ifindex,
            None => {
                let kind = route(packet.network, &packet.dst).map_or(0, |route| route.kind);
                if kind != ROUTE_LOCAL && outside::entry(ctx, packet).is_none() {
                    unserved::check(packet.network, &packet.dst, kind)?;
                    return Ok(PASS);
                }
            }
        }
    }
    if !to_node
        && config.mode == MODE_HOST_GW
        && let Some(outcome) = established(ctx, packet)
    {
        return outcome;
    }
    stage::call(ctx, stage::WORLD);
    Ok(DROP)
}

/// The fast path of an established flow with another node's pod, whose link is known; as `forward::established`.
#[inline(always)]
fn established(ctx: &TcContext, packet: &mut Packet) -> Option<Result<i32, Reason>> {
    let known = conntrack::established(packet)?;
    if !known.is_fresh || known.receiver_epoch != known.epoch || packet.to == 0 {
        return None;
    }
    match next_hop::is_sender(ctx, known.entry) {
        Ok(true) => {}
        Ok(false) => return None,
        Err(reason) => return Some(Err(reason)),
    }
    let target = pod(packet.to).ok()?;
    if !is_simple(packet, target.mtu) {
        return None;
    }
    conntrack::note_translation(packet, known.entry, known.from_initiator);
    if let Err(reason) = deliver::translate_back(ctx, packet, target) {
        return Some(Err(reason));
    }
    Some(deliver::redirect(ctx, packet, target))
}

/// The same, once the ports are known, for what may be for a pod.
///
/// # Errors
/// Every reason why a packet may not reach the pod.
#[inline(always)]
pub fn receive(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    if same(&packet.dst, &node_address(packet, config)) {
        if snat::translate_back(ctx, packet, config)? {
            if packet.to != 0 {
                return deliver::deliver(ctx, packet);
            }
            stage::call(ctx, stage::ANSWER);
            return Ok(DROP);
        }
        stage::call(ctx, stage::OUTSIDE);
        return Ok(DROP);
    }
    if packet.to == 0 {
        packet.to = deliver::local(packet.network, &packet.dst).unwrap_or(0);
    }
    if packet.to == 0 {
        return match route(packet.network, &packet.dst) {
            Some(route) if route.kind == ROUTE_LOCAL => hook::without_pod(ctx, packet),
            _ => {
                stage::call(ctx, stage::OUTSIDE);
                Ok(DROP)
            }
        };
    }
    if !check_origin(ctx, packet, config)? {
        return Ok(to_stack(ctx));
    }
    deliver::deliver(ctx, packet)
}

/// Whether a source may come in by the uplink. `false`: nobody knows yet, the stack may deliver.
///
/// # Errors
/// [`Reason::TunnelSpoofed`].
#[inline(always)]
pub fn check_origin(ctx: &TcContext, packet: &mut Packet, config: &NodeConfig) -> Result<bool, Reason> {
    let kind = route(packet.network, &packet.src).map_or(0, |route| route.kind);
    // The hairpin source, which stands for a pod that reaches itself, is made on the pod's own node only.
    if kind == ROUTE_LOCAL || kind == ROUTE_UNOWNED || is_hairpin(&packet.src) {
        return Err(Reason::TunnelSpoofed);
    }
    if kind != ROUTE_NODE {
        return Ok(true);
    }
    if config.mode == MODE_VXLAN {
        return Err(Reason::TunnelSpoofed);
    }
    let found = node::look_up(ctx, &packet.dst, &packet.src);
    if found.outcome == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        // The first packet of that node: our answer resolves the neighbour.
        return Ok(false);
    }
    let known = found.outcome == BPF_FIB_LKUP_RET_SUCCESS as i64
        || found.outcome == BPF_FIB_LKUP_RET_FRAG_NEEDED as i64;
    // SAFETY: the 14 bytes are checked.
    let sender = unsafe { Mac::read(pointer(ctx, ETHERNET)?, 6) };
    if !known || found.mac != sender {
        return Err(Reason::TunnelSpoofed);
    }
    packet.link = sender;
    next_hop::note_own(found.own);
    Ok(true)
}

/// A packet leaves by the uplink. A pod's packet to the world gets the node's address.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::Unreachable`].
#[inline(always)]
pub fn to_uplink(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if mark(ctx) == MARK_LEARN {
        stage::call(ctx, stage::LEARN);
        return Ok(PASS);
    }
    if !matches!(parse(ctx, packet), Ok(Frame::Ip)) || link::is_link_duty(packet) {
        return Ok(PASS);
    }
    if packet.has(ICMP_ERROR) {
        stage::call(ctx, stage::ICMP_ERROR);
        return Ok(DROP);
    }
    let Some(ifindex) = deliver::local(packet.network, &packet.src) else {
        return outside::restore_own(ctx, packet);
    };
    packet.from = ifindex;
    if let Some(route) = route(packet.network, &packet.dst) {
        return if route.kind == ROUTE_UNOWNED {
            Err(Reason::Unreachable)
        } else {
            outside::restore_found(ctx, packet)
        };
    }
    if packet.has(FIRST_FRAGMENT | LATER_FRAGMENT) {
        stage::call(ctx, stage::FRAGMENT);
        return Ok(DROP);
    }
    snat::masquerade(ctx, packet)
}
