//! The next hop of an established flow with another node's pod: its Ethernet address, kept in the flow's entry, spares
//! each packet the look-up of a route and of a neighbour; in vxlan mode ([`Path`]) the whole tunnel device.
//!
//! In host-gw mode it is kept for a second; then `conntrack::touch` forgets it. The next packet to that node goes by
//! `bpf_redirect_neigh`, so that the kernel goes on looking after its neighbour, and leaves [`ASKED`]. Only then does a
//! packet from there, checked in full by `uplink::check_origin`, fill the address in again. A packet from another
//! address than the one kept is checked in full too.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use sheetbend_ebpf_abi::{CtEntry, MARK_OURS, NodeConfig, Reason};

use crate::{
    deliver,
    maps::UPLINK,
    packet::{ETHERNET, Mac, Packet, set_mark},
    parse::pointer,
};

/// `CtEntry::link`: the kernel has sent to the neighbour. No sender has this group address (IEEE 802-2014 §8.2.2).
const ASKED: u32 = 1_u32.to_le();

/// The address that is kept, if there is one.
#[inline(always)]
pub fn kept(entry: &CtEntry) -> Option<Mac> {
    let link = entry.link;
    if link == 0 || link == ASKED { None } else { Some(Mac(link, entry.link_end)) }
}

/// Whether the packet comes from the address that is kept.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn is_sender(ctx: &TcContext, entry: &CtEntry) -> Result<bool, Reason> {
    let Some(kept) = kept(entry) else { return Ok(false) };
    // SAFETY: the 14 bytes are checked.
    Ok(kept == unsafe { Mac::read(pointer(ctx, ETHERNET)?, 6) })
}

/// The kernel sends to the neighbour: its answer may be kept.
#[inline(always)]
pub fn ask(entry: &mut CtEntry) {
    if entry.link == 0 {
        entry.link = ASKED;
    }
}

/// Keeps the address that `uplink::check_origin` has checked; without one, asks anew.
#[inline(always)]
pub fn keep(packet: &Packet, entry: &mut CtEntry) {
    let Mac(first, last) = packet.link;
    if entry.link == ASKED {
        entry.link_end = last;
        // SAFETY: a plain store behind the other half, which nobody reads before.
        unsafe { core::ptr::from_mut(&mut entry.link).write_volatile(first) };
    }
}

/// Asks anew.
#[inline(always)]
pub fn forget(entry: &mut CtEntry) {
    entry.link = 0;
}

/// Sends the packet of an established flow to the next hop that is kept. `None`: that or the uplink's own address is
/// not known.
#[inline(always)]
pub fn send(
    ctx: &TcContext,
    packet: &Packet,
    config: &NodeConfig,
    entry: &CtEntry,
) -> Option<Result<i32, Reason>> {
    let to = kept(entry)?;
    let own = *UPLINK.get(0)?;
    if own.0 == 0 {
        return None;
    }
    if let Err(reason) = deliver::hop(ctx, packet, to, own) {
        return Some(Err(reason));
    }
    set_mark(ctx, MARK_OURS);
    // SAFETY: plain values.
    Some(Ok(unsafe { bpf_redirect(config.uplink_ifindex, 0) } as i32))
}

/// How the tunnel device sends the packets of a flow.
pub struct Path {
    /// Ethernet address of the next hop.
    pub to: Mac,
    /// That of the uplink.
    pub own: Mac,
    /// Outer source port, host order.
    pub port: u16,
}

/// The way of a frame with `len` bytes, outer headers included; of GSO, each segment. `None`: the device has not shown
/// it for such a length.
#[inline(always)]
pub fn path(entry: &CtEntry, len: u32) -> Option<Path> {
    let to = kept(entry)?;
    let own = *UPLINK.get(0)?;
    if own.0 == 0 || entry.tunnel_port == 0 || len > entry.tunnel_len as u32 {
        return None;
    }
    Some(Path { to, own, port: entry.tunnel_port })
}

/// Whether the device has shown a way: the flow leaves in plain.
#[inline(always)]
pub fn has_path(entry: &CtEntry) -> bool {
    kept(entry).is_some() && entry.tunnel_port != 0
}

/// Keeps the way that the device has chosen for a frame of `len` bytes.
#[inline(always)]
pub fn note_path(entry: &mut CtEntry, to: Mac, port: u16, len: u32) {
    let len = if len > 0xffff { 0xffff } else { len as u16 };
    let is_same = kept(entry).is_some_and(|kept| kept == to) && entry.tunnel_port == port;
    if is_same && len <= entry.tunnel_len {
        return;
    }
    entry.tunnel_len = len;
    entry.tunnel_port = port;
    entry.link_end = to.1;
    // SAFETY: a plain store behind the others, which nobody reads before.
    unsafe { core::ptr::from_mut(&mut entry.link).write_volatile(to.0) };
}

/// Remembers the uplink's own address.
#[inline(always)]
pub fn note_own(own: Mac) {
    if let Some(place) = UPLINK.get_ptr_mut(0) {
        // SAFETY: a value of the map; what differs is written, which happens once.
        unsafe {
            if *place != own {
                *place = own;
            }
        }
    }
}
