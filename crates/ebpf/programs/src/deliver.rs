//! The one way to a local pod.

use aya_ebpf::{
    helpers::{
        bpf_csum_update, bpf_redirect_peer,
        generated::{bpf_redirect, bpf_skb_change_type},
    },
    programs::TcContext,
};
use sheetbend_ebpf_abi::{
    ClassKey, HOST_MAC, Hook, MARK_FORWARDED, MARK_OURS, POD_READY, POD_SHAPED, PodEntry, Reason,
};

use crate::{
    conntrack::{self, Ends},
    event,
    maps::{LOCAL, PODS},
    packet::{
        ETHERNET, HAIRPIN, Ip, Mac, OPTIONS, PASS, Packet, REPLY, SERVICE, TRANSPORT_V4, TRANSPORT_V6, put,
        set_mark, words,
    },
    parse::pointer,
    rewrite::{self, End},
};

/// The pod behind an interface, if its policy is in place.
///
/// # Errors
/// [`Reason::NotReady`].
#[inline(always)]
pub fn pod(ifindex: u32) -> Result<&'static PodEntry, Reason> {
    // SAFETY: the memory stays a row of this map; `policy::judge` reads anew what has to be right.
    match unsafe { PODS.get(&ifindex) } {
        Some(pod) if pod.flags & POD_READY != 0 => Ok(pod),
        _ => Err(Reason::NotReady),
    }
}

/// Whether the policy of the pod behind an interface is in place.
///
/// # Errors
/// [`Reason::NotReady`].
#[inline(always)]
pub fn ready(ifindex: u32) -> Result<(), Reason> {
    // SAFETY: a plain value, copied at once.
    let flags = unsafe { PODS.get(&ifindex) }.map_or(0, |pod| pod.flags);
    if flags & POD_READY != 0 { Ok(()) } else { Err(Reason::NotReady) }
}

/// Interface index of the local pod with this address.
#[inline(always)]
pub fn local(network: u32, ip: &Ip) -> Option<u32> {
    let mut key = ClassKey { network, addr: [0; 16] };
    put(&mut key.addr, ip);
    // SAFETY: not preallocated; copied at once.
    unsafe { LOCAL.get(&key).copied() }
}

/// Whether the fast path may deliver it: everything else needs the node's own stack, which makes the ICMP.
#[inline(always)]
pub fn is_simple(packet: &Packet, mtu: u32) -> bool {
    packet.ttl > 1 && !packet.has(OPTIONS) && packet.largest - ETHERNET as u32 <= mtu
}

/// Hands the packet to the node's own stack, and says that the node did not make it.
#[inline(always)]
pub fn to_stack(ctx: &TcContext) -> i32 {
    set_mark(ctx, MARK_FORWARDED);
    // The tunnel device has one Ethernet address, but a VTEP of each family: the stack would not take the other's.
    // SAFETY: plain values; 0 is PACKET_HOST.
    let _ = unsafe { bpf_skb_change_type(ctx.skb.skb, 0) };
    PASS
}

/// Delivers a packet from outside the node, or from the stack's slow path, to the pod at `packet.to`: ingress policy,
/// conntrack, translation, MACs, redirect. At `to_pod` the packet is already on its way: no MACs and no redirect.
///
/// # Errors
/// The reasons of policy and translation.
#[inline(always)]
pub fn deliver(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let target = pod(packet.to)?;
    let direct = packet.hook == Hook::ToPod as u32;
    if !direct && !is_simple(packet, target.mtu) {
        // `to_pod` judges it.
        return Ok(to_stack(ctx));
    }
    conntrack::track(packet, Ends::Receiver)?;
    event::forwarded(packet, Reason::Forwarded);
    translate_back(ctx, packet, target)?;
    if direct { Ok(PASS) } else { redirect(ctx, packet, target) }
}

/// Gives a reply the source and the port that the client knows, and a hairpin reply the pod's own destination.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn translate_back(ctx: &TcContext, packet: &mut Packet, target: &PodEntry) -> Result<(), Reason> {
    if !packet.has(REPLY) || packet.flags & (SERVICE | HAIRPIN) == 0 {
        return Ok(());
    }
    if packet.has(SERVICE) {
        let (ip, port) = (packet.frontend, packet.frontend_port);
        rewrite::replace(ctx, packet, End::Source, ip, port)?;
        if rewrite::destination_port(ctx.skb.skb, packet) != 0 {
            return Err(Reason::Malformed);
        }
    }
    if packet.has(HAIRPIN) {
        let (ip, port) =
            (if packet.is_v6() { words(&target.ipv6) } else { words(&target.ipv4) }, packet.dst_port);
        rewrite::replace(ctx, packet, End::Destination, ip, port)?;
    }
    Ok(())
}

/// One hop less, the pod's Ethernet address, and into its namespace.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn redirect(ctx: &TcContext, packet: &Packet, target: &PodEntry) -> Result<i32, Reason> {
    hop(ctx, packet, pod_mac(target), HOST)?;
    if target.flags & POD_SHAPED != 0 {
        // The queue is on our end; `to_pod` has nothing more to say.
        set_mark(ctx, MARK_OURS);
        // SAFETY: plain values.
        return Ok(unsafe { bpf_redirect(packet.to, 0) } as i32);
    }
    // SAFETY: plain values.
    Ok(unsafe { bpf_redirect_peer(packet.to, 0) } as i32)
}

/// [`HOST_MAC`] in words.
pub const HOST: Mac = Mac::new(&HOST_MAC);

/// Ethernet address of the pod's end.
#[inline(always)]
pub fn pod_mac(pod: &PodEntry) -> Mac {
    // SAFETY: `mac` lies on a 4-byte boundary of the entry.
    unsafe { Mac::read(pod.mac.as_ptr(), 0) }
}

/// Takes one from the hop limit and writes both Ethernet addresses.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn hop(ctx: &TcContext, packet: &Packet, to: Mac, from: Mac) -> Result<(), Reason> {
    let data = pointer(ctx, if packet.is_v6() { TRANSPORT_V6 } else { TRANSPORT_V4 })?;
    // SAFETY: the bytes up to the transport header were checked.
    unsafe {
        to.write(data, 0);
        from.write(data, 6);
    }
    one_hop_less(ctx, packet, data);
    Ok(())
}

/// Hop limit − 1, with what depends on it. `data` was checked up to the transport header.
#[inline(always)]
pub fn one_hop_less(ctx: &TcContext, packet: &Packet, data: *mut u8) {
    if packet.is_v6() {
        // SAFETY: checked by the caller.
        unsafe { data.add(21).write(packet.ttl - 1) };
        if packet.from == 0 {
            // A sum over the whole packet by the network card (CHECKSUM_COMPLETE) covers the hop limit, the second
            // byte of its word. For other packets the call fails and does nothing.
            // SAFETY: plain values.
            let _ = unsafe { bpf_csum_update(ctx.skb.skb, !(1_u16.to_be() as u32)) };
        }
        return;
    }
    // SAFETY: checked by the caller.
    unsafe {
        data.add(22).write(packet.ttl - 1);
        // RFC 1624 §3 for the word (TTL, protocol).
        let sum = data.add(24).cast::<u16>().read() as u32 + 0x0100_u16.to_be() as u32;
        data.add(24).cast::<u16>().write((sum + (sum >= 0xffff) as u32) as u16);
    }
}
