//! Replaces addresses and ports, with all checksums that cover them (RFC 1624).
//!
//! The kernel's own functions are used for transport checksums, because a packet from a local socket may carry only a
//! part of it (CHECKSUM_PARTIAL), and one from a network card a sum over all of it (CHECKSUM_COMPLETE).

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{
        bpf_csum_diff,
        generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    },
    programs::TcContext,
};
use sheetbend_ebpf_abi::Reason;

use crate::packet::{ECHO, ETHERNET, ICMP, ICMPV6, Ip, LATER_FRAGMENT, Packet, TCP, UDP, same};

/// Which end of the packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

/// `BPF_F_IPV6`: the address is not compensated by a header checksum. Kernels before 6.16 and their stable branches do
/// not know it.
const BPF_F_IPV6: u64 = 1 << 7;

/// Puts `ip` and `port` (host order; ICMP echo: the identifier) in place of one end of the packet.
///
/// # Errors
/// [`Reason::Malformed`] when the packet cannot be written.
#[inline(always)]
pub fn replace(ctx: &TcContext, packet: &mut Packet, end: End, ip: Ip, port: u16) -> Result<(), Reason> {
    let skb = ctx.skb.skb;
    let source = end == End::Source;
    let (old_ip, old_port) =
        if source { (packet.src, packet.src_port) } else { (packet.dst, packet.dst_port) };
    let checksum = checksum_offset(packet);
    if !same(&old_ip, &ip) {
        if packet.is_v6() {
            let at = ETHERNET as u32 + if source { 8 } else { 24 };
            address_v6(skb, at, checksum, packet.protocol, &old_ip, &ip)?;
        } else {
            let at = ETHERNET as u32 + if source { 12 } else { 16 };
            address_v4(skb, at, checksum, packet.protocol, old_ip[3], ip[3])?;
        }
    }
    if old_port != port && !packet.has(LATER_FRAGMENT) {
        port_at(skb, packet, checksum, source, old_port, port)?;
    }
    if source {
        (packet.src, packet.src_port) = (ip, port);
    } else {
        (packet.dst, packet.dst_port) = (ip, port);
    }
    Ok(())
}

/// Where the transport checksum lies, 0 without one. SCTP's CRC32c covers no address; its ports stay as they are.
#[inline(always)]
fn checksum_offset(packet: &Packet) -> u32 {
    if packet.has(LATER_FRAGMENT) {
        return 0;
    }
    let inside = match packet.protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 if packet.is_v6() => 2,
        ICMP if !packet.is_v6() => 2,
        _ => return 0,
    };
    packet.transport as u32 + inside
}

/// A UDP checksum of 0 means none (RFC 768), so it is kept, and never comes out of a sum.
#[inline(always)]
fn udp_flag(protocol: u8) -> u64 {
    if protocol == UDP { BPF_F_MARK_MANGLED_0 as u64 } else { 0 }
}

#[inline(always)]
fn address_v4(
    skb: *mut __sk_buff,
    at: u32,
    checksum: u32,
    protocol: u8,
    old: u32,
    new: u32,
) -> Result<(), Reason> {
    let header = ETHERNET as u32 + 10;
    // SAFETY: plain values and a local of the named size.
    let failed = unsafe {
        let mut failed = bpf_l3_csum_replace(skb, header, old as u64, new as u64, 4);
        // ICMP over IPv4 has no pseudo header.
        if checksum != 0 && protocol != ICMP {
            let flags = 4 | BPF_F_PSEUDO_HDR as u64 | udp_flag(protocol);
            failed |= bpf_l4_csum_replace(skb, checksum, old as u64, new as u64, flags);
        }
        failed | bpf_skb_store_bytes(skb, at, core::ptr::from_ref(&new).cast_mut().cast(), 4, 0)
    };
    if failed != 0 { Err(Reason::Malformed) } else { Ok(()) }
}

#[inline(always)]
fn address_v6(
    skb: *mut __sk_buff,
    at: u32,
    checksum: u32,
    protocol: u8,
    old: &Ip,
    new: &Ip,
) -> Result<(), Reason> {
    let (old, new) = (*old, *new);
    // SAFETY: locals of the named sizes.
    let failed = unsafe {
        let mut failed = 0;
        if checksum != 0 {
            let diff = difference(&old, &new);
            let flags = BPF_F_PSEUDO_HDR as u64 | udp_flag(protocol);
            failed = bpf_l4_csum_replace(skb, checksum, 0, diff, flags | BPF_F_IPV6);
            if failed != 0 {
                failed = bpf_l4_csum_replace(skb, checksum, 0, diff, flags);
            }
        }
        failed | bpf_skb_store_bytes(skb, at, new.as_ptr().cast_mut().cast(), 16, 0)
    };
    if failed != 0 { Err(Reason::Malformed) } else { Ok(()) }
}

/// What a ones' complement sum changes by when `old` becomes `new`.
#[inline(always)]
pub fn difference(old: &Ip, new: &Ip) -> u64 {
    // SAFETY: references to values of the named size.
    unsafe { bpf_csum_diff(old.as_ptr().cast_mut(), 16, new.as_ptr().cast_mut(), 16, 0) as u64 }
}

/// Puts `packet.client_port` in place of the destination port. Not 0: the packet cannot be written.
///
/// A function of its own, since it is rare: the verifier would walk an inlined one on every path.
#[inline(never)]
pub fn destination_port(skb: *mut __sk_buff, packet: &mut Packet) -> i32 {
    let (old, new) = (packet.dst_port, packet.client_port);
    packet.dst_port = new;
    if old == new || packet.has(LATER_FRAGMENT) {
        return 0;
    }
    let checksum = checksum_offset(packet);
    port_at(skb, packet, checksum, false, old, new).is_err() as i32
}

#[inline(always)]
fn port_at(
    skb: *mut __sk_buff,
    packet: &Packet,
    checksum: u32,
    source: bool,
    old: u16,
    new: u16,
) -> Result<(), Reason> {
    let inside = match packet.protocol {
        TCP | UDP => {
            if source {
                0
            } else {
                2
            }
        }
        _ if packet.has(ECHO) => 4,
        _ => return Ok(()),
    };
    let at = packet.transport as u32 + inside;
    let (old, new) = (old.to_be(), new.to_be());
    // SAFETY: plain values and a local of the named size.
    let failed = unsafe {
        let failed =
            bpf_l4_csum_replace(skb, checksum, old as u64, new as u64, 2 | udp_flag(packet.protocol));
        failed | bpf_skb_store_bytes(skb, at, core::ptr::from_ref(&new).cast_mut().cast(), 2, 0)
    };
    if failed != 0 { Err(Reason::Malformed) } else { Ok(()) }
}
