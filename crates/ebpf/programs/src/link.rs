//! What a pod may always send on its own link, and that it sends under its own addresses only.

use aya_ebpf::programs::TcContext;
use sheetbend_ebpf_abi::{PodEntry, Reason};

use crate::{
    deliver,
    packet::{ETHERNET, ICMPV6, Mac, Packet, same, words},
    parse::pointer,
};

/// Neighbour discovery (RFC 4861 §4, hop limit 255 by §6.1 and §7.1) and multicast listener discovery (RFC 2710 §3,
/// RFC 3810 §5) between the pod and its link. The destination must be of the link, or this would be a way around policy.
#[inline(always)]
pub fn is_link_duty(packet: &Packet) -> bool {
    if !packet.is_v6() || packet.protocol != ICMPV6 {
        return false;
    }
    let discovery = packet.icmp_type >= 133 && packet.icmp_type <= 137 && packet.ttl == 255;
    let listener = packet.icmp_type >= 130 && packet.icmp_type <= 132 || packet.icmp_type == 143;
    let first = u32::from_be(packet.dst[0]);
    // ff02::/16 and fe80::/10.
    (discovery || listener) && (first >> 16 == 0xff02 || first >> 22 == 0xfe80 >> 6)
}

/// The Ethernet source is the pod's own.
///
/// # Errors
/// [`Reason::SourceSpoofed`].
#[inline(always)]
pub fn check_mac(ctx: &TcContext, pod: &PodEntry) -> Result<(), Reason> {
    let data = pointer(ctx, ETHERNET)?;
    // SAFETY: the 14 bytes were checked.
    let sender = unsafe { Mac::read(data, 6) };
    if sender == deliver::pod_mac(pod) { Ok(()) } else { Err(Reason::SourceSpoofed) }
}

/// The IP source is the pod's own.
///
/// # Errors
/// [`Reason::SourceSpoofed`].
#[inline(always)]
pub fn check_source(packet: &Packet, pod: &PodEntry) -> Result<(), Reason> {
    let own = if packet.is_v6() { words(&pod.ipv6) } else { words(&pod.ipv4) };
    if same(&packet.src, &own) { Ok(()) } else { Err(Reason::SourceSpoofed) }
}
