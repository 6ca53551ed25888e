//! The next hop of an established flow with another node's pod in host-gw mode: its Ethernet address, kept in the
//! flow's entry, spares each packet the look-up of a route and of a neighbour.
//!
//! It is kept for a second; then `conntrack::touch` forgets it. The next packet to that node goes by
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
