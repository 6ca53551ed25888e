//! Tells a sender that its packet ends here: RST for TCP (RFC 9293 §3.10.7.1), port unreachable for the rest; and what
//! is too big for its way how big it may be.

use aya_ebpf::{
    helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_tail},
    programs::TcContext,
};
use sheetbend_ebpf_abi::{Hook, MARK_OURS, PodEntry, Reason, TUNNEL_VNI};

use crate::{
    deliver::{self, pod},
    forward::config,
    node,
    packet::{
        DIRECT, DROP, ETHERNET, ICMP, ICMPV6, Ip, LATER_FRAGMENT, Mac, OPTIONS, Packet, REPLY, SCTP, SERVICE,
        TCP, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TRANSPORT_V4, TRANSPORT_V6, set_mark,
    },
    parse::{load, pointer},
    rewrite::{self, End},
};

/// From an INIT's ports to the end of its Initiate Tag, RFC 9260 §3.3.2.
const INIT_QUOTED: u32 = 20;
const TCP_LENGTH: usize = 20;
const HOP_LIMIT: u32 = 64;
/// Of an IPv4 header's second word, as it lies in memory.
const DO_NOT_FRAGMENT: u32 = 0x4000_u32.to_be();

/// Turns the packet into the answer and sends it back. The packet is already counted and reported.
///
/// # Errors
/// [`Reason::Malformed`] when it cannot be turned.
#[inline(always)]
pub fn refuse(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if packet.has(OPTIONS | LATER_FRAGMENT) || packet.tcp_flags & TCP_RST != 0 {
        return Ok(DROP);
    }
    // The client knows the Service, whatever the destination has become.
    let from = if packet.has(SERVICE) { packet.frontend } else { packet.dst };
    let to = packet.src;
    if packet.protocol == TCP {
        reset(ctx, packet, &from, &to)?;
    } else {
        unreachable(ctx, packet, &from, &to)?;
    }
    send_back(ctx, packet)
}

/// Tells the client of a node port how big its packet may be on the way to the backend's node: ICMP type 3 code 4
/// (RFC 1191 §4), ICMPv6 type 2 (RFC 4443 §3.2). The packet is already counted and reported.
///
/// # Errors
/// [`Reason::Malformed`] when it cannot be turned.
#[inline(always)]
pub fn too_big(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let mtu = config()?.pod_mtu;
    if packet.has(OPTIONS | REPLY) || !packet.has(SERVICE) || packet.largest - ETHERNET as u32 <= mtu {
        return Ok(DROP);
    }
    let mut head = [0_u32; 2];
    load(ctx.skb.skb, ETHERNET as u32, &mut head)?;
    if !packet.is_v6() && head[1] & DO_NOT_FRAGMENT == 0 {
        return Ok(DROP); // Its sender leaves fragments to routers, and knows no answer.
    }
    // What is quoted is what the client sent.
    let (client, client_port) = (packet.src, packet.client_port);
    let (frontend, frontend_port) = (packet.frontend, packet.frontend_port);
    if !packet.has(DIRECT) {
        rewrite::replace(ctx, packet, End::Destination, frontend, frontend_port)?;
        rewrite::replace(ctx, packet, End::Source, client, client_port)?;
    }
    if packet.is_v6() {
        quote::<12>(ctx, packet, &frontend, &client, [0x02, mtu.to_be()])?;
    } else {
        quote::<7>(ctx, packet, &frontend, &client, [0x0403, mtu.to_be()])?;
    }
    send_back(ctx, packet)
}

#[inline(always)]
fn reset(ctx: &TcContext, packet: &mut Packet, from: &Ip, to: &Ip) -> Result<(), Reason> {
    let mut old = [0_u32; 5];
    load(ctx.skb.skb, packet.transport as u32, &mut old)?;
    let data_offset = ((old[3] & 0xf0) >> 4) * 4;
    let payload = packet.len.wrapping_sub(packet.transport as u32).wrapping_sub(data_offset);
    let mut consumed = payload;
    if packet.tcp_flags & TCP_SYN != 0 {
        consumed = consumed.wrapping_add(1);
    }
    if packet.tcp_flags & TCP_FIN != 0 {
        consumed = consumed.wrapping_add(1);
    }
    let port = if packet.has(SERVICE) { packet.frontend_port } else { packet.dst_port };
    let client_port =
        if packet.has(SERVICE) && !packet.has(REPLY) { packet.client_port } else { packet.src_port };
    let ports = port.to_be() as u32 | (client_port.to_be() as u32) << 16;
    let (sequence, acknowledgement, flags) = if packet.tcp_flags & TCP_ACK != 0 {
        (old[2], 0, TCP_RST)
    } else {
        (0, u32::from_be(old[1]).wrapping_add(consumed).to_be(), TCP_RST | TCP_ACK)
    };
    let control = 0x50 | (flags as u32) << 8;
    let words = [ports, sequence, acknowledgement, control];
    let mut sum = pseudo(from, to, packet.is_v6(), TCP, TCP_LENGTH as u32);
    for word in words {
        sum += word as u64;
    }
    let data = begin(ctx, packet, from, to, TCP, TCP_LENGTH)?;
    // SAFETY: `begin` checked the whole frame.
    unsafe {
        for (index, word) in words.into_iter().enumerate() {
            data.add(4 * index).cast::<u32>().write(word);
        }
        data.add(16).cast::<u32>().write(fold(sum) as u32);
    }
    Ok(())
}

/// ICMP type 3 code 3 (RFC 792), ICMPv6 type 1 code 4 (RFC 4443 §3.1). It quotes the IP header and 8 bytes behind it; of an
/// SCTP INIT 20, for only by its Initiate Tag does the sender know it again (RFC 9260 §10, ICMP6).
#[inline(always)]
fn unreachable(ctx: &TcContext, packet: &mut Packet, from: &Ip, to: &Ip) -> Result<(), Reason> {
    let is_init = packet.protocol == SCTP && packet.tcp_flags == TCP_SYN;
    let is_whole = packet.len >= packet.transport as u32 + INIT_QUOTED;
    match (packet.is_v6(), is_init && is_whole) {
        (false, false) => quote::<7>(ctx, packet, from, to, [0x0303, 0]),
        (false, true) => quote::<10>(ctx, packet, from, to, [0x0303, 0]),
        (true, false) => quote::<12>(ctx, packet, from, to, [0x0401, 0]),
        (true, true) => quote::<15>(ctx, packet, from, to, [0x0401, 0]),
    }
}

/// An ICMP error with the first `N` words of the packet. `head`: type in the lowest byte, code above it; and the word behind
/// the checksum, in network order.
#[inline(always)]
fn quote<const N: usize>(
    ctx: &TcContext,
    packet: &mut Packet,
    from: &Ip,
    to: &Ip,
    head: [u32; 2],
) -> Result<(), Reason> {
    let mut quoted = [0_u32; N];
    load(ctx.skb.skb, ETHERNET as u32, &mut quoted)?;
    packet.header[..N].copy_from_slice(&quoted);
    let length = 8 + 4 * N;
    let protocol = if packet.is_v6() { ICMPV6 } else { ICMP };
    let mut sum = head[0] as u64 + head[1] as u64;
    if packet.is_v6() {
        sum += pseudo(from, to, true, ICMPV6, length as u32);
    }
    for word in quoted {
        sum += word as u64;
    }
    let data = begin(ctx, packet, from, to, protocol, length)?;
    // SAFETY: `begin` checked the whole frame.
    unsafe {
        data.cast::<u32>().write(head[0] | (fold(sum) as u32) << 16);
        data.add(4).cast::<u32>().write(head[1]);
        for index in 0..N {
            data.add(8 + 4 * index).cast::<u32>().write(packet.header[index]);
        }
    }
    Ok(())
}

/// Cuts or grows the frame and writes its IP header; gives the place of the `length` bytes behind it.
#[inline(always)]
fn begin(
    ctx: &TcContext,
    packet: &Packet,
    from: &Ip,
    to: &Ip,
    protocol: u8,
    length: usize,
) -> Result<*mut u8, Reason> {
    let header = if packet.is_v6() { TRANSPORT_V6 } else { TRANSPORT_V4 };
    // SAFETY: plain values.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb, (header + length) as u32, 0) } != 0 {
        return Err(Reason::Malformed);
    }
    if packet.is_v6() {
        let data = pointer(ctx, TRANSPORT_V6 + length)?;
        let limits = (length as u16).to_be() as u32 | (protocol as u32) << 16 | HOP_LIMIT << 24;
        // SAFETY: checked on the line above.
        unsafe {
            data.add(14).cast::<u32>().write(0x60);
            data.add(18).cast::<u32>().write(limits);
            for index in 0..4 {
                data.add(22 + 4 * index).cast::<u32>().write(from[index]);
                data.add(38 + 4 * index).cast::<u32>().write(to[index]);
            }
            return Ok(data.add(TRANSPORT_V6));
        }
    }
    let data = pointer(ctx, TRANSPORT_V4 + length)?;
    let first = 0x45 | ((20 + length) as u16).to_be() as u32 * 0x1_0000;
    let fragment = 0x40 << 16; // Identification 0, do not fragment.
    let limits = HOP_LIMIT | (protocol as u32) << 8;
    let sum = first as u64 + fragment as u64 + limits as u64 + from[3] as u64 + to[3] as u64;
    // SAFETY: checked above.
    unsafe {
        data.add(14).cast::<u32>().write(first);
        data.add(18).cast::<u32>().write(fragment);
        data.add(22).cast::<u32>().write(limits | (fold(sum) as u32) << 16);
        data.add(26).cast::<u32>().write(from[3]);
        data.add(30).cast::<u32>().write(to[3]);
        Ok(data.add(TRANSPORT_V4))
    }
}

/// Sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1); none for ICMP over IPv4.
#[inline(always)]
fn pseudo(from: &Ip, to: &Ip, v6: bool, protocol: u8, length: u32) -> u64 {
    let mut sum = length.to_be() as u64 + (protocol as u32).to_be() as u64;
    if v6 {
        for index in 0..4 {
            sum += from[index] as u64 + to[index] as u64;
        }
    } else {
        sum += from[3] as u64 + to[3] as u64;
    }
    sum
}

/// Ones' complement of the sum of words in network order, as 16 bits in network order (RFC 1071).
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// Back to where the packet came from.
#[inline(always)]
fn send_back(ctx: &TcContext, packet: &Packet) -> Result<i32, Reason> {
    set_mark(ctx, MARK_OURS);
    // SAFETY: the context is valid for the program's whole run.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if packet.hook == Hook::FromPod as u32 {
        // SAFETY: the sender, whose policy may since have gone: then nothing goes to it either.
        write_macs(ctx, pod(ifindex)?)?;
        // SAFETY: plain values.
        return Ok(unsafe { bpf_redirect_peer(ifindex, 0) } as i32);
    }
    if packet.hook == Hook::FromTunnel as u32 {
        node::set_tunnel(ctx, &packet.outer, TUNNEL_VNI)?;
    } else if packet.hook != Hook::FromUplink as u32 {
        return Ok(DROP);
    }
    swap_macs(ctx)?;
    // SAFETY: plain values.
    Ok(unsafe { bpf_redirect(ifindex, 0) } as i32)
}

#[inline(always)]
fn write_macs(ctx: &TcContext, target: &PodEntry) -> Result<(), Reason> {
    let data = pointer(ctx, ETHERNET)?;
    // SAFETY: the 14 bytes were checked.
    unsafe {
        deliver::pod_mac(target).write(data, 0);
        deliver::HOST.write(data, 6);
    }
    Ok(())
}

#[inline(always)]
fn swap_macs(ctx: &TcContext) -> Result<(), Reason> {
    let data = pointer(ctx, ETHERNET)?;
    // SAFETY: the 14 bytes were checked.
    unsafe {
        let (to, from) = (Mac::read(data, 0), Mac::read(data, 6));
        from.write(data, 0);
        to.write(data, 6);
    }
    Ok(())
}
