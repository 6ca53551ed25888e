//! To other nodes and back: the tunnel and the routes of the host.

use aya_ebpf::{
    bindings::{
        BPF_F_DONT_FRAGMENT, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, BPF_FIB_LKUP_RET_NOT_FWDED,
        bpf_fib_lookup, bpf_redir_neigh, bpf_tunnel_key,
    },
    helpers::generated::{
        bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_skb_get_tunnel_key,
        bpf_skb_set_tunnel_key,
    },
    programs::TcContext,
};
use sheetbend_ebpf_abi::{DIRECT_VNI, MARK_OURS, MODE_VXLAN, NodeConfig, Reason, RouteEntry, TUNNEL_VNI};

use crate::{
    deliver,
    packet::{Ip, MAPPED, Mac, Packet, TRANSPORT_V4, TRANSPORT_V6, set_mark, words},
    parse::pointer,
};

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[inline(always)]
pub fn is_v4(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

/// Sends a judged packet to the node of `route`: into the tunnel, or to the next hop.
///
/// # Errors
/// [`Reason::Malformed`] when the packet cannot be written, [`Reason::NotReady`] when the tunnel key cannot be set.
#[inline(always)]
pub fn send(
    ctx: &TcContext,
    packet: &Packet,
    config: &NodeConfig,
    route: &RouteEntry,
) -> Result<i32, Reason> {
    set_mark(ctx, MARK_OURS);
    let via = words(&route.via);
    if config.mode == MODE_VXLAN {
        // SAFETY: `mac` lies on a 4-byte boundary of the entry.
        let mac = unsafe { Mac::read(route.mac.as_ptr(), 0) };
        deliver::hop(ctx, packet, mac, deliver::HOST)?;
        set_tunnel(ctx, &via, TUNNEL_VNI)?;
        // SAFETY: plain values.
        return Ok(unsafe { bpf_redirect(config.tunnel_ifindex, 0) } as i32);
    }
    let data = pointer(ctx, if packet.is_v6() { TRANSPORT_V6 } else { TRANSPORT_V4 })?;
    deliver::one_hop_less(ctx, packet, data);
    Ok(to_neighbour(config.uplink_ifindex, &via))
}

/// Out of `ifindex` to the neighbour with address `via`.
#[inline(always)]
pub fn to_neighbour(ifindex: u32, via: &Ip) -> i32 {
    // SAFETY: plain data, all zero is a value of it.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if is_v4(via) {
        next.nh_family = AF_INET;
        next.__bindgen_anon_1.ipv4_nh = via[3];
    } else {
        next.nh_family = AF_INET6;
        next.__bindgen_anon_1.ipv6_nh = *via;
    }
    // SAFETY: a local of the named size.
    (unsafe { bpf_redirect_neigh(ifindex, &mut next, size_of::<bpf_redir_neigh>() as i32, 0) }) as i32
}

/// Sets the tunnel key towards the VTEP `via` with network identifier `vni` (RFC 7348).
///
/// # Errors
/// [`Reason::NotReady`] when the kernel refuses it.
#[inline(always)]
pub fn set_tunnel(ctx: &TcContext, via: &Ip, vni: u32) -> Result<(), Reason> {
    // SAFETY: plain data, all zero is a value of it.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = 64;
    let mut flags = 0;
    if is_v4(via) {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(via[3]);
        // A zero UDP checksum should be sent over IPv4 (§5), and the outer packet is not to be fragmented (§4.3).
        flags |= BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT;
    } else {
        key.__bindgen_anon_1.remote_ipv6 = *via;
        flags |= BPF_F_TUNINFO_IPV6;
    }
    // SAFETY: a local of the named size.
    let failed = unsafe {
        bpf_skb_set_tunnel_key(ctx.skb.skb, &mut key, size_of::<bpf_tunnel_key>() as u32, flags as u64)
    };
    if failed != 0 { Err(Reason::NotReady) } else { Ok(()) }
}

/// Reads the outer source of a packet from the tunnel device into `packet.outer`. Whether another node passed it on as its
/// client sent it ([`DIRECT_VNI`]).
///
/// # Errors
/// [`Reason::UnknownVni`], also without a key.
#[inline(always)]
pub fn read_tunnel(ctx: &TcContext, packet: &mut Packet) -> Result<bool, Reason> {
    // SAFETY: plain data, all zero is a value of it.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    let size = size_of::<bpf_tunnel_key>() as u32;
    // SAFETY: a local of the named size. The first call succeeds only for the outer family it names.
    unsafe {
        if bpf_skb_get_tunnel_key(ctx.skb.skb, &mut key, size, 0) == 0 {
            packet.outer = [0, 0, MAPPED, key.__bindgen_anon_1.remote_ipv4.to_be()];
        } else if bpf_skb_get_tunnel_key(ctx.skb.skb, &mut key, size, BPF_F_TUNINFO_IPV6 as u64) == 0 {
            packet.outer = key.__bindgen_anon_1.remote_ipv6;
        } else {
            return Err(Reason::UnknownVni);
        }
    }
    match key.tunnel_id {
        TUNNEL_VNI => Ok(false),
        DIRECT_VNI => Ok(true),
        _ => Err(Reason::UnknownVni),
    }
}

/// What the node's routing table says of an address.
pub struct Lookup {
    /// `BPF_FIB_LKUP_RET_*`, or a negative error.
    pub outcome: i64,
    /// The next hop's Ethernet address.
    pub mac: Mac,
    /// That of the device towards it.
    pub own: Mac,
}

/// Looks up the route towards `ip`, as for a packet that came in by the hook's device.
#[inline(always)]
pub fn look_up(ctx: &TcContext, from: &Ip, ip: &Ip) -> Lookup {
    // SAFETY: plain data, all zero is a value of it.
    let mut query: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    // SAFETY: the context is valid for the program's whole run.
    query.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if is_v4(ip) {
        query.family = AF_INET as u8;
        query.__bindgen_anon_3.ipv4_src = from[3];
        query.__bindgen_anon_4.ipv4_dst = ip[3];
    } else {
        query.family = AF_INET6 as u8;
        query.__bindgen_anon_3.ipv6_src = *from;
        query.__bindgen_anon_4.ipv6_dst = *ip;
    }
    // SAFETY: a local of the named size.
    unsafe {
        let size = size_of::<bpf_fib_lookup>() as i32;
        let outcome = fib_lookup(ctx.skb.skb.cast(), &mut query, size, 0);
        Lookup { outcome, mac: Mac::new(&query.dmac), own: Mac::new(&query.smac) }
    }
}

/// Whether the destination is an address of this node itself.
#[inline(always)]
pub fn is_own_address(ctx: &TcContext, packet: &Packet) -> bool {
    look_up(ctx, &packet.src, &packet.dst).outcome == BPF_FIB_LKUP_RET_NOT_FWDED as i64
}
