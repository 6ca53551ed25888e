//! Established flows go around the tunnel device: their packets get and lose the outer headers of VXLAN (RFC 7348) here.
//!
//! Once a second a flow's packet goes through the device, which looks up route and neighbour, asks the node's firewall
//! and its IPsec policies, and knows the path's MTU. [`learn`] sees it leave by the uplink, and keeps in the flow's entry
//! where it went, its source port and its length. What is not longer goes the same way without the device for the rest
//! of the second, and only packets of a flow that leaves in plain are taken in here, by [`arrive`]. Everything else is
//! the device's: what is segmented later, unless TCP over IPv4, fragments, options, ICMP, what nobody has judged.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_DEC, BPF_F_ADJ_ROOM_DECAP_L3_IPV4,
        BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{bpf_csum_level, bpf_redirect, bpf_skb_adjust_room},
    programs::TcContext,
};
use sheetbend_ebpf_abi::{
    CtEntry, MARK_LEARN, MARK_OURS, NodeConfig, PodEntry, Reason, RouteEntry, TUNNEL_VNI,
};

use crate::{
    conntrack,
    deliver::{self, is_simple, pod},
    forward::config,
    hook,
    next_hop::{self, Path},
    node,
    packet::{ETHERNET, Mac, PASS, Packet, TCP, TRANSPORT_V4, TRANSPORT_V6, UDP, same, set_mark, words},
    parse::{self, Frame, parse, pointer, read},
    refuse::fold,
    uplink::node_address,
};

/// Headers of UDP and VXLAN, and the inner Ethernet header.
const UDP_VXLAN_ETHERNET: usize = 8 + 8 + ETHERNET;
/// All that stands between the outer Ethernet header and the inner packet, over IPv4.
const OVER_V4: usize = 20 + UDP_VXLAN_ETHERNET;
/// The same over IPv6.
const OVER_V6: usize = 40 + UDP_VXLAN_ETHERNET;

/// First word of the VXLAN header: a network identifier follows (RFC 7348 §5).
const VXLAN_FLAGS: u32 = 0x0800_0000_u32.to_be();
/// Second word.
const VXLAN_VNI: u32 = (TUNNEL_VNI << 8).to_be();

const ETHERTYPE_V4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_V6: u16 = 0x86dd_u16.to_be();

/// What the device has: `node::set_tunnel`.
const HOP_LIMIT: u32 = 64;
const DONT_FRAGMENT: u32 = 0x4000;

/// ECN (RFC 3168 §5): capable, the first kind; and congestion experienced.
const ECT_0: u32 = 2;
const CE: u32 = 3;

#[inline(always)]
fn ethertype(v6: bool) -> u16 {
    if v6 { ETHERTYPE_V6 } else { ETHERTYPE_V4 }
}

/// Sends the packet of an established flow to the node of `route`.
///
/// # Errors
/// Those of [`node::send`].
#[inline(always)]
pub fn send(
    ctx: &TcContext,
    packet: &Packet,
    config: &NodeConfig,
    route: &RouteEntry,
    entry: &CtEntry,
) -> Result<i32, Reason> {
    let via = words(&route.via);
    let over_v4 = node::is_v4(&via);
    let room = if over_v4 { OVER_V4 } else { OVER_V6 } as u32;
    let Some(path) = next_hop::path(entry, packet.largest + room) else {
        let sent = node::send(ctx, packet, config, route);
        set_mark(ctx, MARK_LEARN);
        return sent;
    };
    if over_v4 {
        if fits_v4(ctx, packet) && make_room(ctx.skb.skb, OVER_V4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4) {
            return wrap_v4(ctx, packet, config, route, &path);
        }
    } else if fits_v6(ctx, packet)? && make_room(ctx.skb.skb, OVER_V6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6) {
        return wrap_v6(ctx, packet, config, route, &path);
    }
    node::send(ctx, packet, config, route)
}

#[inline(always)]
fn is_segmented(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid for the program's whole run.
    unsafe { (*ctx.skb.skb).gso_size != 0 }
}

/// Whether the outer headers may be IPv4's: a sum of 0 is right for each segment (RFC 7348 §5), and every device that
/// segments tunnelled TCP fills in the lengths.
#[inline(always)]
fn fits_v4(ctx: &TcContext, packet: &Packet) -> bool {
    let total = packet.len + (OVER_V4 - ETHERNET) as u32;
    match packet.protocol {
        TCP => total <= 0xffff,
        UDP => !is_segmented(ctx),
        _ => false,
    }
}

/// Whether they may be IPv6's, which want a sum (RFC 8200 §8.1). It is made without reading the packet: the inner sum,
/// filled in already or by the network card, makes the words it covers a known sum. Segments would want one each, a
/// datagram may have none, and bytes behind the inner packet or the datagram are in none.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
fn fits_v6(ctx: &TcContext, packet: &Packet) -> Result<bool, Reason> {
    if is_segmented(ctx) {
        Ok(false)
    } else if packet.is_v6() {
        has_whole_sum::<TRANSPORT_V6>(ctx, packet)
    } else {
        has_whole_sum::<TRANSPORT_V4>(ctx, packet)
    }
}

#[inline(always)]
fn has_whole_sum<const TRANSPORT: usize>(ctx: &TcContext, packet: &Packet) -> Result<bool, Reason> {
    let data = pointer(ctx, TRANSPORT + 8)?;
    let is_v6 = TRANSPORT == TRANSPORT_V6;
    // SAFETY: checked above.
    let (length, datagram, sum) = unsafe {
        let length = read::<u16>(data, if is_v6 { 18 } else { 16 });
        (u16::from_be(length) as u32, read::<u16>(data, TRANSPORT + 4), read::<u16>(data, TRANSPORT + 6))
    };
    let end = length + if is_v6 { TRANSPORT_V6 } else { ETHERNET } as u32;
    Ok(end == packet.len
        && match packet.protocol {
            TCP => true,
            UDP => sum != 0 && u16::from_be(datagram) as u32 + TRANSPORT as u32 == end,
            _ => false,
        })
}

/// Opens `room` bytes behind the Ethernet header. `false`: nothing has changed.
#[inline(always)]
fn make_room(skb: *mut __sk_buff, room: usize, family: u32) -> bool {
    let flags =
        (BPF_F_ADJ_ROOM_FIXED_GSO | family | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH)
            as u64
            | (ETHERNET as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    // SAFETY: plain values.
    unsafe { bpf_skb_adjust_room(skb, room as i32, BPF_ADJ_ROOM_MAC, flags) == 0 }
}

/// Writes the outer Ethernet header, and the inner one `room` bytes behind it.
///
/// # Safety
/// `room` and 14 bytes after `data` were checked.
#[inline(always)]
unsafe fn write_ethernet(data: *mut u8, room: usize, packet: &Packet, route: &RouteEntry, path: &Path) {
    // SAFETY: checked by the caller; `mac` lies on a 4-byte boundary of the entry.
    unsafe {
        path.to.write(data, 0);
        path.own.write(data, 6);
        data.add(12).cast::<u16>().write(ethertype(room == OVER_V6));
        Mac::read(route.mac.as_ptr(), 0).write(data, room);
        deliver::HOST.write(data, room + 6);
        data.add(room + 12).cast::<u16>().write(ethertype(packet.is_v6()));
    }
}

/// Writes the headers of UDP and VXLAN at `offset`.
///
/// # Safety
/// `offset + 16` bytes after `data` were checked.
#[inline(always)]
unsafe fn write_udp(data: *mut u8, offset: usize, ports: u32, length_and_sum: u32) {
    // SAFETY: checked by the caller.
    unsafe {
        data.add(offset).cast::<u32>().write(ports.to_be());
        data.add(offset + 4).cast::<u32>().write(length_and_sum.to_be());
        data.add(offset + 8).cast::<u32>().write(VXLAN_FLAGS);
        data.add(offset + 12).cast::<u32>().write(VXLAN_VNI);
    }
}

/// ECN of the outer header: the inner one's, but not that a router has marked it (RFC 3168 §9.1.1, as the device).
///
/// # Safety
/// `inner + 2` bytes after `data` were checked.
#[inline(always)]
unsafe fn ecn(data: *const u8, inner: usize, v6: bool) -> u32 {
    // SAFETY: checked by the caller.
    let byte = unsafe { read::<u8>(data, inner + 1) } as u32;
    let inner = (if v6 { byte >> 4 } else { byte }) & CE;
    if inner == CE { ECT_0 } else { inner }
}

/// Out of the uplink, as a packet that has been judged.
#[inline(always)]
fn leave(ctx: &TcContext, config: &NodeConfig) -> i32 {
    set_mark(ctx, MARK_OURS);
    // SAFETY: plain values.
    (unsafe { bpf_redirect(config.uplink_ifindex, 0) }) as i32
}

#[inline(always)]
fn wrap_v4(
    ctx: &TcContext,
    packet: &Packet,
    config: &NodeConfig,
    route: &RouteEntry,
    path: &Path,
) -> Result<i32, Reason> {
    const INNER: usize = OVER_V4 + ETHERNET;
    let data = pointer(ctx, OVER_V4 + TRANSPORT_V4)?;
    let total = packet.len + (OVER_V4 - ETHERNET) as u32;
    let (from, to) = (words(&config.node_ipv4)[3], words(&route.via)[3]);
    // SAFETY: the bytes up to the inner transport header of IPv4, which are fewer than IPv6's, were checked.
    unsafe {
        let tos = ecn(data, INNER, packet.is_v6());
        let words = [
            (0x4500_0000 | tos << 16 | total).to_be(),
            DONT_FRAGMENT.to_be(),
            (HOP_LIMIT << 24 | (UDP as u32) << 16).to_be(),
            from,
            to,
        ];
        let mut sum = 0;
        for (index, word) in words.iter().enumerate() {
            sum += *word as u64;
            data.add(ETHERNET + 4 * index).cast::<u32>().write(*word);
        }
        data.add(ETHERNET + 10).cast::<u16>().write(fold(sum));
        let ports = (path.port as u32) << 16 | config.tunnel_port as u32;
        write_udp(data, TRANSPORT_V4, ports, (total - 20) << 16);
        write_ethernet(data, OVER_V4, packet, route, path);
        deliver::one_hop_less(ctx, packet, data.add(OVER_V4));
    }
    Ok(leave(ctx, config))
}

#[inline(always)]
fn wrap_v6(
    ctx: &TcContext,
    packet: &Packet,
    config: &NodeConfig,
    route: &RouteEntry,
    path: &Path,
) -> Result<i32, Reason> {
    const INNER: usize = OVER_V6 + ETHERNET;
    let data = pointer(ctx, OVER_V6 + TRANSPORT_V4)?;
    let length = packet.len + UDP_VXLAN_ETHERNET as u32 - ETHERNET as u32;
    let ports = (path.port as u32) << 16 | config.tunnel_port as u32;
    let (from, to) = (words(&config.node_ipv6), words(&route.via));
    // SAFETY: the bytes up to the inner transport header of IPv4, which are fewer than IPv6's, were checked.
    unsafe {
        let tos = ecn(data, INNER, packet.is_v6());
        write_ethernet(data, OVER_V6, packet, route, path);
        deliver::one_hop_less(ctx, packet, data.add(OVER_V6));
        let mut sum = inner_sum(data, INNER, packet);
        let words = [
            (0x6000_0000 | tos << 20).to_be(),
            (length << 16 | (UDP as u32) << 8 | HOP_LIMIT).to_be(),
            from[0],
            from[1],
            from[2],
            from[3],
            to[0],
            to[1],
            to[2],
            to[3],
        ];
        for (index, word) in words.iter().enumerate() {
            if index > 1 {
                sum += *word as u64;
            }
            data.add(ETHERNET + 4 * index).cast::<u32>().write(*word);
        }
        // The pseudo header's protocol and length, and the UDP header's length.
        sum += (UDP as u32).to_be() as u64 + (2 * length).to_be() as u64;
        sum += ports.to_be() as u64 + VXLAN_FLAGS as u64 + VXLAN_VNI as u64;
        for offset in [OVER_V6, OVER_V6 + 4, OVER_V6 + 8] {
            sum += read::<u32>(data, offset) as u64;
        }
        sum += read::<u16>(data, OVER_V6 + 12) as u64;
        let sum = u16::from_be(fold(sum)) as u32;
        write_udp(data, TRANSPORT_V6, ports, length << 16 | if sum == 0 { 0xffff } else { sum });
    }
    Ok(leave(ctx, config))
}

/// Sum of the inner packet, from its IP header on. What the inner TCP or UDP sum covers adds up to minus the pseudo
/// header, and an IPv4 header adds up to 0 (RFC 1071); minus a word is its complement.
///
/// # Safety
/// `inner + 20` bytes after `data` were checked.
#[inline(always)]
unsafe fn inner_sum(data: *const u8, inner: usize, packet: &Packet) -> u64 {
    if packet.is_v6() {
        // Addresses and length are in the header and in the pseudo header.
        // SAFETY: checked by the caller.
        let (first, next_and_limit) = unsafe { (read::<u32>(data, inner), read::<u16>(data, inner + 6)) };
        return first as u64 + next_and_limit as u64 + !(packet.protocol as u32).to_be() as u64;
    }
    let length = packet.len - TRANSPORT_V4 as u32;
    !packet.src[3] as u64
        + !packet.dst[3] as u64
        + !(packet.protocol as u32).to_be() as u64
        + !length.to_be() as u64
}

/// Reads the headers inside those of VXLAN, whose outer IP header is parsed: afterwards `packet` is the inner packet,
/// as if it lay at the front, but for `largest`. Returns the length of what is before it, 0 = the device must look.
#[inline(always)]
fn read_inner(ctx: &TcContext, packet: &mut Packet) -> usize {
    packet.outer = packet.src;
    if packet.is_v6() { read_inner_at::<OVER_V6>(ctx, packet) } else { read_inner_at::<OVER_V4>(ctx, packet) }
}

#[inline(always)]
fn read_inner_at<const ROOM: usize>(ctx: &TcContext, packet: &mut Packet) -> usize {
    let udp = ROOM - UDP_VXLAN_ETHERNET + ETHERNET;
    let Ok(data) = pointer(ctx, udp + 16) else { return 0 };
    // SAFETY: checked on the line above.
    let (length, flags, vni) =
        unsafe { (read::<u16>(data, udp + 4), read::<u32>(data, udp + 8), read::<u32>(data, udp + 12)) };
    if packet.flags != 0
        || u16::from_be(length) as u32 + udp as u32 != packet.len && !is_segmented(ctx)
        || flags != VXLAN_FLAGS
        || vni != VXLAN_VNI
        || !matches!(parse::inner::<ROOM>(ctx, packet), Ok(Frame::Ip))
        || packet.flags != 0
        || !matches!(packet.protocol, TCP | UDP)
    {
        return 0;
    }
    packet.transport -= ROOM as u16;
    packet.payload -= ROOM as u16;
    packet.len -= ROOM as u32;
    ROOM
}

/// A packet of an established flow that went through the device leaves by the uplink: its outer headers are kept.
///
/// # Errors
/// None.
#[inline(always)]
pub fn learn(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    set_mark(ctx, MARK_OURS);
    let _ = note(ctx, packet);
    Ok(PASS)
}

#[inline(always)]
fn note(ctx: &TcContext, packet: &mut Packet) -> Option<()> {
    if !matches!(parse(ctx, packet), Ok(Frame::Ip)) {
        return None;
    }
    let config = config().ok()?;
    let is_tunnel = packet.protocol == UDP && packet.dst_port == config.tunnel_port;
    if !is_tunnel || !same(&packet.src, &node_address(packet, config)) {
        return None;
    }
    let port = packet.src_port;
    if read_inner(ctx, packet) == 0 {
        return None;
    }
    conntrack::make_key(packet);
    let entry = conntrack::find_replied(packet)?;
    let data = pointer(ctx, ETHERNET).ok()?;
    // SAFETY: the 14 bytes were checked.
    let (to, own) = unsafe { (Mac::read(data, 0), Mac::read(data, 6)) };
    next_hop::note_own(own);
    next_hop::note_path(entry, to, port, packet.largest);
    Some(())
}

/// A packet for this node's tunnel port came by the uplink. One of an established flow goes to its pod from here.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn arrive(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    unwrap(ctx, packet).unwrap_or(Ok(PASS))
}

#[inline(always)]
fn unwrap(ctx: &TcContext, packet: &mut Packet) -> Option<Result<i32, Reason>> {
    if is_segmented(ctx) || is_marked(ctx, packet) {
        return None;
    }
    let room = read_inner(ctx, packet);
    if room == 0 || !hook::is_owned(packet) {
        return None;
    }
    packet.largest = packet.len;
    packet.to = deliver::local(packet.network, &packet.dst)?;
    let known = conntrack::established(packet)?;
    if known.receiver_epoch != known.epoch || !next_hop::has_path(known.entry) {
        return None;
    }
    let target = pod(packet.to).ok()?;
    if !is_simple(packet, target.mtu) || !take_room(ctx.skb.skb, room, packet.is_v6()) {
        return None;
    }
    conntrack::note_translation(packet, known.entry, known.from_initiator);
    Some(deliver_unwrapped(ctx, packet, target))
}

#[inline(always)]
fn deliver_unwrapped(ctx: &TcContext, packet: &mut Packet, target: &PodEntry) -> Result<i32, Reason> {
    let data = pointer(ctx, ETHERNET)?;
    // SAFETY: the 14 bytes were checked.
    unsafe { data.add(12).cast::<u16>().write(ethertype(packet.is_v6())) };
    deliver::translate_back(ctx, packet, target)?;
    deliver::redirect(ctx, packet, target)
}

/// Whether a router has marked the outer header, which the inner one then takes over (RFC 6040 §4.2).
#[inline(always)]
fn is_marked(ctx: &TcContext, packet: &Packet) -> bool {
    let Ok(data) = pointer(ctx, ETHERNET + 2) else { return true };
    // SAFETY: the 16 bytes were checked.
    let byte = unsafe { read::<u8>(data, ETHERNET + 1) } as u32;
    (if packet.is_v6() { byte >> 4 } else { byte }) & CE == CE
}

/// Takes `room` bytes behind the Ethernet header away. `false`: nothing has changed.
#[inline(always)]
fn take_room(skb: *mut __sk_buff, room: usize, inner_is_v6: bool) -> bool {
    let family = if inner_is_v6 { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 };
    // One sum less that the network card has found right: the outer one.
    let flags = (family | BPF_F_ADJ_ROOM_NO_CSUM_RESET) as u64;
    // SAFETY: plain values.
    unsafe {
        if bpf_skb_adjust_room(skb, -(room as i32), BPF_ADJ_ROOM_MAC, flags) != 0 {
            return false;
        }
        let _ = bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC as u64);
    }
    true
}
