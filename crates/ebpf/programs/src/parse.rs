//! Headers of a packet → [`Packet`]. The only place, beside `rewrite`, `icmp` and `refuse`, that knows the two families.

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use sheetbend_ebpf_abi::Reason;

use crate::packet::{
    ECHO, ECHO_REQUEST, ETHERNET, FIRST_FRAGMENT, ICMP, ICMP_ERROR, ICMPV6, LATER_FRAGMENT, MAPPED, OPTIONS,
    Packet, SCTP, TCP, TCP_ACK, TCP_RST, TCP_SYN, TRANSPORT_V4, TRANSPORT_V6, UDP,
};

/// Chunk types, RFC 9260 §3.2.
const SCTP_INIT: u8 = 1;
const SCTP_INIT_ACK: u8 = 2;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// What the frame carries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// IPv4 or IPv6, parsed.
    Ip,
    /// ARP.
    Arp,
    /// Neither.
    Other,
}

const ETHERTYPE_IPV4: u32 = 0x0800_u16.to_be() as u32;
const ETHERTYPE_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const ETHERTYPE_ARP: u32 = 0x0806_u16.to_be() as u32;

/// Most IPv6 extension headers that we walk over.
const MAX_EXTENSIONS: usize = 6;

/// The first `len` bytes of the frame.
#[inline(always)]
pub fn pointer(ctx: &TcContext, len: usize) -> Result<*mut u8, Reason> {
    let data = ctx.data();
    if data + len <= ctx.data_end() {
        return Ok(data as *mut u8);
    }
    if ctx.pull_data(len as u32).is_err() {
        return Err(Reason::Malformed);
    }
    let data = ctx.data();
    if data + len <= ctx.data_end() { Ok(data as *mut u8) } else { Err(Reason::Malformed) }
}

/// Reads a value of the packet in network order.
///
/// # Safety
/// `offset + size_of::<T>()` bytes after `data` were checked.
#[inline(always)]
pub unsafe fn read<T: Copy>(data: *const u8, offset: usize) -> T {
    // SAFETY: checked by the caller. Packet fields may be unaligned, which the kernel allows on every machine that has
    // efficient unaligned access; the wide load is what keeps the program short.
    unsafe { core::ptr::read(data.add(offset).cast::<T>()) }
}

/// Loads `N` words from any place of the packet into `to`.
#[inline(always)]
pub fn load<const N: usize>(skb: *mut __sk_buff, offset: u32, to: &mut [u32; N]) -> Result<(), Reason> {
    // SAFETY: `to` has the length that is named.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset, core::ptr::from_mut(to).cast(), (N * 4) as u32) }
            != 0;
    if failed { Err(Reason::Malformed) } else { Ok(()) }
}

/// Parses the frame.
///
/// # Errors
/// [`Reason::Malformed`] when the headers are cut short or contradict each other.
#[inline(always)]
pub fn parse(ctx: &TcContext, packet: &mut Packet) -> Result<Frame, Reason> {
    // SAFETY: the context is valid for the program's whole run.
    let (protocol, tagged) = unsafe { ((*ctx.skb.skb).protocol, (*ctx.skb.skb).vlan_present) };
    if tagged != 0 {
        return Ok(Frame::Other);
    }
    match protocol {
        ETHERTYPE_IPV4 => ipv4::<0>(ctx, packet)?,
        ETHERTYPE_IPV6 => ipv6::<0>(ctx, packet)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        _ => return Ok(Frame::Other),
    }
    note_segment(ctx, packet);
    Ok(Frame::Ip)
}

/// Parses the frame that lies `AT` bytes behind the front; offsets count from the front. Extension headers are not
/// walked over.
///
/// # Errors
/// As [`parse`].
#[inline(always)]
pub fn inner<const AT: usize>(ctx: &TcContext, packet: &mut Packet) -> Result<Frame, Reason> {
    let data = pointer(ctx, AT + ETHERNET)?;
    // SAFETY: checked on the line above.
    match unsafe { read::<u16>(data, AT + 12) } as u32 {
        ETHERTYPE_IPV4 => ipv4::<AT>(ctx, packet)?,
        ETHERTYPE_IPV6 => ipv6::<AT>(ctx, packet)?,
        _ => return Ok(Frame::Other),
    }
    note_segment(ctx, packet);
    Ok(Frame::Ip)
}

#[inline(always)]
fn note_segment(ctx: &TcContext, packet: &mut Packet) {
    // SAFETY: the context is valid for the program's whole run.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    if segment != 0 {
        packet.largest = packet.payload as u32 + segment;
    }
}

/// RFC 791 §3.1.
#[inline(always)]
fn ipv4<const AT: usize>(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let data = pointer(ctx, AT + TRANSPORT_V4)?;
    // SAFETY: the 34 bytes were checked.
    let (first, total, id, fragment, ttl, protocol, src, dst) = unsafe {
        (
            read::<u8>(data, AT + 14),
            u16::from_be(read::<u16>(data, AT + 16)) as u32,
            u16::from_be(read::<u16>(data, AT + 18)),
            u16::from_be(read::<u16>(data, AT + 20)),
            read::<u8>(data, AT + 22),
            read::<u8>(data, AT + 23),
            read::<u32>(data, AT + 26),
            read::<u32>(data, AT + 30),
        )
    };
    let header = ((first & 0x0f) as u32) * 4;
    // A segment of more than 64 KiB (BIG TCP) carries length 0.
    let fits =
        total >= header && total + (AT + ETHERNET) as u32 <= packet.len || total == 0 && packet.len > 0xffff;
    if first >> 4 != 4 || header < 20 || !fits {
        return Err(Reason::Malformed);
    }
    packet.v6 = 0;
    packet.ttl = ttl;
    packet.protocol = protocol;
    packet.src = [0, 0, MAPPED, src];
    packet.dst = [0, 0, MAPPED, dst];
    packet.transport = ((AT + ETHERNET) as u32 + header) as u16;
    if header != 20 {
        packet.flags |= OPTIONS;
    }
    if fragment & 0x3fff != 0 {
        packet.fragment_id = id as u32;
        if fragment & 0x1fff != 0 {
            packet.flags |= LATER_FRAGMENT;
            return Ok(());
        }
        packet.flags |= FIRST_FRAGMENT;
    }
    if header == 20 {
        transport(ctx, packet, AT + TRANSPORT_V4, true)
    } else {
        transport(ctx, packet, packet.transport as usize, false)
    }
}

/// RFC 8200 §3.
#[inline(always)]
fn ipv6<const AT: usize>(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let data = pointer(ctx, AT + TRANSPORT_V6)?;
    // SAFETY: the 54 bytes were checked.
    let (first, payload, next, ttl) = unsafe {
        (
            read::<u8>(data, AT + 14),
            u16::from_be(read::<u16>(data, AT + 18)) as u32,
            read::<u8>(data, AT + 20),
            read::<u8>(data, AT + 21),
        )
    };
    let fits = payload + (AT + TRANSPORT_V6) as u32 <= packet.len;
    if first >> 4 != 6 || !fits {
        return Err(Reason::Malformed);
    }
    packet.v6 = 1;
    packet.ttl = ttl;
    packet.protocol = next;
    // SAFETY: the 54 bytes were checked.
    unsafe {
        packet.src = [read(data, AT + 22), read(data, AT + 26), read(data, AT + 30), read(data, AT + 34)];
        packet.dst = [read(data, AT + 38), read(data, AT + 42), read(data, AT + 46), read(data, AT + 50)];
    }
    // IPv4-mapped addresses must not appear on the wire (RFC 4942 §2.2); here they would pass for IPv4.
    if is_mapped(&packet.src) || is_mapped(&packet.dst) {
        return Err(Reason::Malformed);
    }
    packet.transport = (AT + TRANSPORT_V6) as u16;
    if matches!(next, TCP | UDP | ICMPV6 | SCTP) {
        return transport(ctx, packet, AT + TRANSPORT_V6, true);
    }
    if AT != 0 {
        packet.flags |= OPTIONS;
        return Ok(());
    }
    extensions(ctx, packet)?;
    if packet.has(LATER_FRAGMENT) {
        return Ok(());
    }
    transport(ctx, packet, packet.transport as usize, false)
}

#[inline(always)]
fn is_mapped(ip: &[u32; 4]) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

/// Walks over extension headers (RFC 8200 §4).
#[inline(always)]
fn extensions(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let mut offset = TRANSPORT_V6 as u32;
    let mut next = packet.protocol;
    let mut words = [0_u32; 2];
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                load(ctx.skb.skb, offset, &mut words)?;
                packet.flags |= OPTIONS;
                next = words[0] as u8;
                offset += (((words[0] >> 8) & 0xff) + 1) * 8;
            }
            // Authentication, RFC 4302 §2.2.
            51 => {
                load(ctx.skb.skb, offset, &mut words)?;
                packet.flags |= OPTIONS;
                next = words[0] as u8;
                offset += (((words[0] >> 8) & 0xff) + 2) * 4;
            }
            44 => {
                load(ctx.skb.skb, offset, &mut words)?;
                next = words[0] as u8;
                offset += 8;
                let fragment = u16::from_be((words[0] >> 16) as u16);
                packet.fragment_id = u32::from_be(words[1]);
                if fragment & 0xfff8 != 0 {
                    packet.flags |= LATER_FRAGMENT;
                    break;
                }
                // An atomic fragment (RFC 6946) is whole.
                packet.flags |= if fragment & 1 != 0 { FIRST_FRAGMENT } else { OPTIONS };
            }
            _ => break,
        }
    }
    packet.protocol = next;
    packet.transport = offset as u16;
    Ok(())
}

/// Ports, flags and ICMP fields. `fixed`: `offset` is a constant, and the header is read in place.
#[inline(always)]
fn transport(ctx: &TcContext, packet: &mut Packet, offset: usize, fixed: bool) -> Result<(), Reason> {
    match packet.protocol {
        TCP => {
            let words = header::<5>(ctx, offset, fixed)?;
            ports(packet, words[0]);
            packet.tcp_flags = (words[3] >> 8) as u8;
            packet.payload = packet.transport + ((words[3] & 0xf0) >> 2) as u16;
        }
        UDP => {
            ports(packet, header::<2>(ctx, offset, fixed)?[0]);
            packet.payload = packet.transport + 8;
        }
        SCTP => {
            // The common header, and the first chunk's: a packet without a chunk says nothing (RFC 9260 §3).
            let words = header::<4>(ctx, offset, fixed)?;
            ports(packet, words[0]);
            packet.tcp_flags = chunk_flags(words[3] as u8);
            packet.payload = packet.transport + 12;
        }
        ICMP if packet.v6 == 0 => icmp(packet, header::<2>(ctx, offset, fixed)?),
        ICMPV6 if packet.v6 != 0 => icmp(packet, header::<2>(ctx, offset, fixed)?),
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn header<const N: usize>(ctx: &TcContext, offset: usize, fixed: bool) -> Result<[u32; N], Reason> {
    let mut words = [0; N];
    if !fixed {
        load(ctx.skb.skb, offset as u32, &mut words)?;
        return Ok(words);
    }
    let data = pointer(ctx, offset + 4 * N)?;
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: checked on the line above.
        *word = unsafe { read(data, offset + 4 * index) };
    }
    Ok(words)
}

#[inline(always)]
fn ports(packet: &mut Packet, word: u32) {
    packet.src_port = u16::from_be(word as u16);
    packet.dst_port = u16::from_be((word >> 16) as u16);
}

/// What a chunk of this type (RFC 9260 §3.2) does to its association, in TCP's words. Whoever gets an ABORT or a
/// SHUTDOWN COMPLETE forgets the association at once (§9.1, §9.2), and there is no TIME-WAIT: both are an RST. An ABORT
/// behind other control chunks (§6.10) is not seen; that flow ends by silence.
#[inline(always)]
fn chunk_flags(kind: u8) -> u8 {
    match kind {
        SCTP_INIT => TCP_SYN,
        SCTP_INIT_ACK => TCP_SYN | TCP_ACK,
        SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => TCP_RST,
        _ => TCP_ACK,
    }
}

/// RFC 792 and RFC 4443 share the first 8 bytes.
#[inline(always)]
fn icmp(packet: &mut Packet, words: [u32; 2]) {
    let kind = words[0] as u8;
    packet.icmp_type = kind;
    packet.icmp_code = (words[0] >> 8) as u8;
    let (request, reply, error) = if packet.v6 != 0 {
        (kind == 128, kind == 129, kind >= 1 && kind <= 4)
    } else {
        (kind == 8, kind == 0, matches!(kind, 3 | 4 | 11 | 12))
    };
    if error {
        packet.flags |= ICMP_ERROR;
    }
    if request || reply {
        packet.flags |= if request { ECHO | ECHO_REQUEST } else { ECHO };
        packet.src_port = u16::from_be(words[1] as u16);
        packet.dst_port = packet.src_port;
    }
}
