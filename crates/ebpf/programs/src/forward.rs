//! Where a pod's packet goes.

use aya_ebpf::programs::TcContext;
use sheetbend_ebpf_abi::{
    CT_SERVICE, MODE_VXLAN, NodeConfig, ROUTE_LOCAL, ROUTE_NO_MASQUERADE, ROUTE_NODE, ROUTE_NODE_ADDRESS,
    ROUTE_SERVICE, ROUTE_UNOWNED, Reason, RouteEntry,
};

use crate::{
    conntrack::{self, Ends},
    deliver::{self, is_simple, pod, ready, to_stack},
    event,
    maps::{CONFIG, ROUTES},
    next_hop, node, outside,
    packet::{
        DROP, FIRST_FRAGMENT, Ip, LATER_FRAGMENT, NEW, OUTSIDE, Packet, REPLY, SYN_OR_END, TCP, UDP,
        is_hairpin,
    },
    policy::PrefixWords,
    stage, tunnel, unserved,
};

/// What the whole node shares.
///
/// # Errors
/// [`Reason::NotReady`] before the agent has written it.
#[inline(always)]
pub fn config() -> Result<&'static NodeConfig, Reason> {
    CONFIG.get(0).ok_or(Reason::NotReady)
}

/// Longest route of an address; none = the world. (A row of kind 0 keeps a short IPv6 range off mapped IPv4 addresses.)
#[inline(always)]
pub fn route(network: u32, ip: &Ip) -> Option<&'static RouteEntry> {
    ROUTES.get(PrefixWords::whole(network, ip).key()).filter(|route| route.kind != 0)
}

/// Interface index of the pod on this node that the packet is for: the sender itself for hairpin replies.
#[inline(always)]
fn receiver(packet: &Packet) -> Option<u32> {
    if is_hairpin(&packet.dst) { Some(packet.from) } else { deliver::local(packet.network, &packet.dst) }
}

/// The fast path of an established flow without a Service in this direction: three or four look-ups, no tail call.
/// `None`: something is new or special, and the stages must look.
#[inline(always)]
pub fn established(ctx: &TcContext, packet: &mut Packet) -> Option<Result<i32, Reason>> {
    let known = conntrack::established(packet)?;
    if known.sender_epoch != known.epoch {
        return None;
    }
    if known.from_initiator && known.entry.flags & CT_SERVICE != 0 {
        return None; // What goes through a Service is not yet translated here: this is another flow with its key.
    }
    let config = CONFIG.get(0)?;
    let tunnelled = config.mode == MODE_VXLAN;
    if !tunnelled
        && known.entry.link != 0
        && is_simple(packet, config.pod_mtu)
        && let Some(outcome) = next_hop::send(ctx, packet, config, known.entry)
    {
        return Some(outcome);
    }
    // A flow that has a path goes to another node.
    if !(tunnelled && next_hop::has_path(known.entry))
        && let Some(ifindex) = receiver(packet)
    {
        let target = pod(ifindex).ok()?;
        if known.receiver_epoch != known.epoch || !is_simple(packet, target.mtu) {
            return None;
        }
        packet.to = ifindex;
        conntrack::note_translation(packet, known.entry, known.from_initiator);
        if let Err(reason) = deliver::translate_back(ctx, packet, target) {
            return Some(Err(reason));
        }
        return Some(deliver::redirect(ctx, packet, target));
    }
    let route = route(packet.network, &packet.dst)?;
    if route.kind != ROUTE_NODE || !is_simple(packet, config.pod_mtu) {
        return None;
    }
    if tunnelled {
        return Some(tunnel::send(ctx, packet, config, route, known.entry));
    }
    next_hop::ask(known.entry);
    Some(node::send(ctx, packet, config, route))
}

/// Judges the packet by conntrack and the sender's policy, and the receiver's when that is on this node; sends it there.
///
/// # Errors
/// Every reason why a pod's packet may not go on.
#[inline(always)]
pub fn forward(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    ready(packet.from)?;
    if let Some(ifindex) = receiver(packet) {
        packet.to = ifindex;
        return to_pod(ctx, packet, ifindex);
    }
    let config = config()?;
    let route = route(packet.network, &packet.dst);
    let kind = route.map_or(0, |route| route.kind);
    if packet.protocol == UDP && packet.dst_port == config.tunnel_port && kind == ROUTE_NODE_ADDRESS {
        return Err(Reason::TunnelPort);
    }
    if kind == ROUTE_LOCAL {
        return without_pod(ctx, packet);
    }
    conntrack::track(packet, Ends::Sender)?;
    match (kind, route) {
        (ROUTE_UNOWNED, _) => {
            conntrack::forget(packet);
            Err(Reason::Unreachable)
        }
        (ROUTE_NODE, Some(route)) => {
            if !is_simple(packet, config.pod_mtu) {
                event::forwarded(packet, Reason::ToStack);
                return Ok(to_stack(ctx));
            }
            event::forwarded(packet, Reason::ToNode);
            if packet.has(OUTSIDE) {
                outside::name_frontend(ctx, packet)?;
            } else if config.mode == MODE_VXLAN
                && !packet.has(NEW | FIRST_FRAGMENT | LATER_FRAGMENT)
                && packet.tcp_flags & SYN_OR_END == 0
                && let Some(entry) = conntrack::find_replied(packet)
            {
                return tunnel::send(ctx, packet, config, route, entry);
            }
            node::send(ctx, packet, config, route)
        }
        (ROUTE_NODE_ADDRESS, _)
            if config.mode == MODE_VXLAN && is_simple(packet, config.pod_mtu) && !packet.has(OUTSIDE) =>
        {
            stage::call(ctx, stage::OUTSIDE);
            Ok(DROP)
        }
        (ROUTE_NODE_ADDRESS | ROUTE_NO_MASQUERADE, _) => {
            event::forwarded(packet, Reason::ToStack);
            Ok(to_stack(ctx))
        }
        _ => {
            // An established flow to the world is not asked again.
            if !packet.has(REPLY) && (kind == ROUTE_SERVICE || packet.has(NEW)) {
                unserved::check(packet.network, &packet.dst, kind)
                    .inspect_err(|_| conntrack::forget(packet))?;
            }
            event::forwarded(packet, Reason::ToWorld);
            Ok(to_stack(ctx))
        }
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext, packet: &mut Packet, ifindex: u32) -> Result<i32, Reason> {
    let target = pod(ifindex).inspect_err(|_| packet.from = ifindex)?;
    if !is_simple(packet, target.mtu) && packet.from != ifindex {
        // `to_pod` asks the receiver's policy.
        conntrack::track(packet, Ends::Sender)?;
        event::forwarded(packet, Reason::ToStack);
        return Ok(to_stack(ctx));
    }
    conntrack::track(packet, Ends::Both)?;
    event::forwarded(packet, Reason::Forwarded);
    deliver::translate_back(ctx, packet, target)?;
    deliver::redirect(ctx, packet, target)
}

/// A destination in this node's range that is no pod: the node's router address, or a pod that is gone.
#[inline(always)]
fn without_pod(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if node::is_own_address(ctx, packet) {
        conntrack::track(packet, Ends::Sender)?;
        event::forwarded(packet, Reason::ToStack);
        return Ok(to_stack(ctx));
    }
    conntrack::make_key(packet);
    if packet.protocol == TCP && conntrack::find(packet).is_some() {
        return Err(Reason::PodGone);
    }
    conntrack::track(packet, Ends::Sender)?;
    conntrack::forget(packet);
    Err(Reason::NoSuchPod)
}
