//! Connection tracking: one entry per flow, for both directions and for both ends when they are on this node.
//!
//! Half-open flows live in `CT_NEW` and move to `CT` with the first reply, those of TCP with the end of their handshake:
//! a flood of SYNs displaces none that is open. `last_seen` is written at most once a second.

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_coarse_ns};
use sheetbend_ebpf_abi::{
    CT_ANSWERED, CT_DIRECT, CT_FIN_INITIATOR, CT_FIN_RESPONDER, CT_FROM_NODE, CT_HAIRPIN, CT_IDLE_SECONDS,
    CT_INITIATOR_IS_HIGH, CT_OUTSIDE, CT_REPLIED, CT_RST, CT_SERVICE, CtEntry, GROWS_CT, NO_ADDR, Reason,
    TIME_WAIT_SECONDS,
};

use crate::{
    balance, growth,
    maps::{CT, CT_NEW, CT_OLD},
    next_hop,
    packet::{
        DIRECT, ECHO, ECHO_REQUEST, HAIRPIN, Ip, NEW, OUTSIDE, Packet, REPLY, SERVICE, SYN_OR_END, TCP,
        TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, is_hairpin, put, same, words,
    },
    policy::{self, RECEIVER, SENDER},
};

/// A second in ns.
pub const SECOND: u64 = 1_000_000_000;

/// ns of CLOCK_MONOTONIC, as fine as the timer tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no argument, no effect.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether end (`a`, `a_port`) is the lesser of two, in byte order.
#[inline(always)]
fn is_less(a: &Ip, a_port: u16, b: &Ip, b_port: u16) -> bool {
    for index in 0..4 {
        if a[index] != b[index] {
            return u32::from_be(a[index]) < u32::from_be(b[index]);
        }
    }
    a_port < b_port
}

/// Writes the flow's key into `packet.key`.
#[inline(always)]
pub fn make_key(packet: &mut Packet) {
    let key = &mut packet.key;
    key.network = packet.network;
    key.protocol = packet.protocol;
    key.pad = [0; 3];
    if is_less(&packet.src, packet.src_port, &packet.dst, packet.dst_port) {
        put(&mut key.low, &packet.src);
        put(&mut key.high, &packet.dst);
        key.low_port = packet.src_port;
        key.high_port = packet.dst_port;
    } else {
        put(&mut key.low, &packet.dst);
        put(&mut key.high, &packet.src);
        key.low_port = packet.dst_port;
        key.high_port = packet.src_port;
    }
}

/// Whether the packet, whose key is made, comes from the flow's initiator.
#[inline(always)]
pub fn is_from_initiator(packet: &Packet, entry: &CtEntry) -> bool {
    let source_is_high =
        same(&packet.src, &words(&packet.key.high)) && packet.src_port == packet.key.high_port;
    source_is_high == (entry.flags & CT_INITIATOR_IS_HIGH != 0)
}

/// The entry of `packet.key`, and whether it is half open.
#[inline(always)]
pub fn find(packet: &Packet) -> Option<(&'static mut CtEntry, bool)> {
    if let Some(entry) = find_replied(packet) {
        return Some((entry, false));
    }
    // SAFETY: the value stays in place while the program runs; a racing writer writes whole words.
    CT_NEW.get_ptr_mut(&packet.key).map(|entry| (unsafe { &mut *entry }, true))
}

/// The entry of `packet.key` if packets went both ways.
#[inline(always)]
pub fn find_replied(packet: &Packet) -> Option<&'static mut CtEntry> {
    // SAFETY: as above.
    growth::find(GROWS_CT, &CT, &CT_OLD, &packet.key).map(|entry| unsafe { &mut *entry })
}

/// Who has the packet's key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, or the flow to this frontend.
    Nobody,
    /// Another flow that is over: an end of it may be in TIME-WAIT.
    Ended,
    /// Another flow that goes on.
    Live,
}

/// Whether a flow that an end holds has the packet's key, but is not the flow to this frontend.
#[inline(always)]
pub fn holder(packet: &mut Packet, now: u64) -> Holder {
    make_key(packet);
    let Some((entry, _)) = find(packet) else { return Holder::Nobody };
    if is_to_frontend(packet, entry) || !is_held(packet, entry, now) {
        Holder::Nobody
    } else if is_closed(entry) {
        Holder::Ended
    } else {
        Holder::Live
    }
}

/// Whether the entry is of the client's flow to the packet's frontend.
#[inline(always)]
fn is_to_frontend(packet: &Packet, entry: &CtEntry) -> bool {
    entry.flags & CT_SERVICE != 0
        && entry.client_port == packet.client_port
        && entry.frontend_port == packet.frontend_port
        && same(&words(&entry.frontend), &packet.frontend)
}

/// Whether the client's flow to the packet's frontend is tracked under this packet's ends.
#[inline(always)]
pub fn is_its_own(packet: &mut Packet) -> bool {
    make_key(packet);
    find(packet).is_some_and(|(entry, _)| is_to_frontend(packet, entry))
}

/// Whether a flow of the packet's sender through a Service, translated, has the key of this packet, which is not.
#[inline(always)]
pub fn is_anothers(packet: &mut Packet, now: u64) -> bool {
    make_key(packet);
    let Some((entry, _)) = find(packet) else { return false };
    entry.flags & CT_SERVICE != 0 && is_from_initiator(packet, entry) && is_held(packet, entry, now)
}

/// Whether the flow is neither over nor forgotten by its ends.
#[inline(always)]
pub fn goes_on(packet: &Packet, entry: &CtEntry, now: u64) -> bool {
    !is_closed(entry) && !is_idle(packet, entry, now)
}

/// Whether the flow goes on, or one of its ends may be in TIME-WAIT.
#[inline(always)]
pub fn is_held(packet: &Packet, entry: &CtEntry, now: u64) -> bool {
    if is_closed(entry) {
        let waits = now.saturating_sub(entry.last_seen) <= TIME_WAIT_SECONDS * SECOND;
        return waits && entry.flags & CT_RST == 0;
    }
    !is_idle(packet, entry, now)
}

/// Whether the flow is over: RST, an SCTP association's end, or FIN both ways.
#[inline(always)]
pub fn is_closed(entry: &CtEntry) -> bool {
    let both = CT_FIN_INITIATOR | CT_FIN_RESPONDER;
    entry.flags & CT_RST != 0 || entry.flags & both == both
}

/// Whether this packet begins a new flow under the key of an old one.
#[inline(always)]
fn begins_anew(packet: &Packet, entry: &CtEntry, from_initiator: bool, now: u64) -> bool {
    let opens = packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    if opens && is_closed(entry) {
        return true;
    }
    if packet.protocol == TCP {
        return opens && !from_initiator;
    }
    // An SCTP INIT of the responder is of the same association: it collides, or restarts (RFC 9260 §5.2).
    // The responder's own echo request is no reply.
    packet.has(ECHO_REQUEST) && !from_initiator || is_idle(packet, entry, now)
}

/// Whether the flow, which has no end of its own, was silent for too long.
#[inline(always)]
pub fn is_idle(packet: &Packet, entry: &CtEntry, now: u64) -> bool {
    packet.protocol != TCP && now.saturating_sub(entry.last_seen) > CT_IDLE_SECONDS * SECOND
}

/// Notes in `packet` what the entry says about translation of this packet.
#[inline(always)]
pub fn note_translation(packet: &mut Packet, entry: &CtEntry, from_initiator: bool) {
    if entry.flags & CT_HAIRPIN != 0 {
        packet.flags |= HAIRPIN;
    }
    if from_initiator {
        return;
    }
    packet.flags |= REPLY;
    if entry.flags & CT_OUTSIDE != 0 {
        packet.flags |= OUTSIDE;
    }
    packet.client_port = packet.dst_port;
    if entry.flags & CT_SERVICE != 0 {
        packet.flags |= SERVICE;
        packet.frontend = words(&entry.frontend);
        packet.frontend_port = entry.frontend_port;
        packet.client_port = entry.client_port;
    }
}

/// Takes back an entry that `track` made for a packet that cannot go on after all.
#[inline(always)]
pub fn forget(packet: &Packet) {
    if !packet.has(NEW) {
        return;
    }
    if let Some(entry) = CT_NEW.get_ptr_mut(&packet.key) {
        // SAFETY: the value stays in place while the program runs.
        note_end(unsafe { &*entry });
        let _ = CT_NEW.remove(&packet.key);
    }
}

/// Marks the entry as used.
#[inline(always)]
pub fn touch(entry: &mut CtEntry, now: u64) {
    if now.saturating_sub(entry.last_seen) > SECOND {
        entry.last_seen = now;
        next_hop::forget(entry);
    }
}

/// An entry of a flow that goes on as before.
pub struct Known {
    pub entry: &'static mut CtEntry,
    pub from_initiator: bool,
    /// The policy epoch in force.
    pub epoch: u32,
    /// Under which the sending end was allowed.
    pub sender_epoch: u32,
    /// Under which the receiving end was allowed.
    pub receiver_epoch: u32,
    /// Whether the entry was used less than a second ago; else it is now.
    pub is_fresh: bool,
}

/// The entry of a packet that neither begins nor ends anything: for the fast paths.
#[inline(always)]
pub fn established(packet: &mut Packet) -> Option<Known> {
    if packet.tcp_flags & SYN_OR_END != 0 || packet.has(ECHO) {
        return None;
    }
    make_key(packet);
    let entry = find_replied(packet)?;
    let from_initiator = is_from_initiator(packet, entry);
    if !from_initiator && entry.flags & CT_OUTSIDE != 0 {
        return None; // It leaves under the frontend.
    }
    let (sender_epoch, receiver_epoch) = if from_initiator {
        (entry.egress_epoch, entry.ingress_epoch)
    } else {
        (entry.ingress_epoch, entry.egress_epoch)
    };
    let now = now();
    if is_idle(packet, entry, now) {
        return None;
    }
    let is_fresh = now.saturating_sub(entry.last_seen) <= SECOND;
    touch(entry, now);
    Some(Known { entry, from_initiator, epoch: policy::epoch(), sender_epoch, receiver_epoch, is_fresh })
}

/// Whose policies `track` asks.
#[derive(Clone, Copy)]
pub enum Ends {
    /// The sending pod's, [`Packet::from`].
    Sender,
    /// The receiving pod's, [`Packet::to`].
    Receiver,
    /// Both: they are on this node.
    Both,
    /// None: the node's own stack sends.
    FromNode,
    /// None: it goes through this node, or to the node itself.
    Transit,
}

/// Finds the flow, judges each end that was not judged under the epoch in force, and keeps the outcome. Sets
/// [`REPLY`], [`NEW`], and with them what translation the packet needs.
///
/// # Errors
/// [`Reason::PolicyDenied`], [`Reason::MapFull`].
#[inline(always)]
pub fn track(packet: &mut Packet, ends: Ends) -> Result<(), Reason> {
    let now = now();
    let epoch = policy::epoch();
    make_key(packet);
    let mut flow = find(packet);
    let mut from_initiator = true;
    if let Some((entry, _)) = &flow {
        from_initiator = is_from_initiator(packet, entry);
        if begins_anew(packet, entry, from_initiator, now) {
            note_end(entry);
            // The old entry would be found before the new, half-open one.
            growth::remove(GROWS_CT, &CT, &CT_OLD, &packet.key);
            flow = None;
            from_initiator = true;
        }
    }
    let Some((entry, half_open)) = flow else {
        return begin(packet, ends, epoch, now);
    };
    note_translation(packet, entry, from_initiator);
    if matches!(ends, Ends::FromNode) {
        note_node(entry, from_initiator, epoch);
    } else if entry.flags & CT_FROM_NODE == 0 {
        let (egress, ingress) = (entry.egress_epoch == epoch, entry.ingress_epoch == epoch);
        judge(packet, ends, from_initiator, egress, ingress)?;
        if packet.has(NEW) {
            note_epochs(entry, ends, from_initiator, epoch);
        }
    }
    if packet.tcp_flags & (TCP_FIN | TCP_RST) != 0 {
        let was_closed = is_closed(entry);
        note_close(packet.tcp_flags, entry, from_initiator);
        if !was_closed && is_closed(entry) {
            balance::ended(entry.backend);
        }
    }
    if from_initiator && packet.has(SERVICE) && !same(&packet.frontend, &words(&entry.frontend)) {
        note_end(entry);
        note_service(packet, entry);
        note_begin(entry);
    }
    touch(entry, now);
    next_hop::keep(packet, entry);
    if half_open {
        if opens_now(packet, entry, from_initiator) {
            return promote(packet, entry);
        }
        if !from_initiator {
            entry.flags |= CT_ANSWERED;
        }
    }
    Ok(())
}

/// Whether this packet of a half-open flow ends its handshake, or goes on with a flow whose answers go past this node.
#[inline(always)]
fn opens_now(packet: &Packet, entry: &CtEntry, from_initiator: bool) -> bool {
    if packet.protocol != TCP {
        return !from_initiator || entry.flags & CT_DIRECT != 0;
    }
    let is_answered = entry.flags & (CT_ANSWERED | CT_DIRECT) != 0;
    from_initiator && is_answered && packet.tcp_flags & (TCP_SYN | TCP_RST) == 0
}

/// Asks the policies that have not said yes under this epoch.
#[inline(always)]
fn judge(
    packet: &mut Packet,
    ends: Ends,
    from_initiator: bool,
    egress: bool,
    ingress: bool,
) -> Result<(), Reason> {
    // A pod always reaches itself.
    if packet.has(HAIRPIN) {
        return Ok(());
    }
    let port = if from_initiator { packet.dst_port } else { packet.src_port };
    let (sender_done, receiver_done) = if from_initiator { (egress, ingress) } else { (ingress, egress) };
    let (sender, receiver) = match ends {
        Ends::Sender => (true, false),
        Ends::Receiver => (false, true),
        Ends::Both => (true, true),
        Ends::FromNode | Ends::Transit => (false, false),
    };
    if sender && !sender_done {
        packet.flags |= NEW;
        let (ifindex, peer) = (packet.from, packet.dst);
        policy::judge(packet, SENDER, ifindex, from_initiator, peer, port)?;
    }
    if receiver && !receiver_done {
        packet.flags |= NEW;
        let (ifindex, peer) = (packet.to, packet.src);
        policy::judge(packet, RECEIVER, ifindex, !from_initiator, peer, port)?;
    }
    Ok(())
}

/// Judges the first packet of a flow and makes the entry.
#[inline(always)]
fn begin(packet: &mut Packet, ends: Ends, epoch: u32, now: u64) -> Result<(), Reason> {
    if is_hairpin(&packet.src) {
        packet.flags |= HAIRPIN;
    }
    packet.flags |= NEW;
    judge(packet, ends, true, false, false)?;
    packet.entry = CtEntry {
        last_seen: now,
        flags: 0,
        egress_epoch: 0,
        ingress_epoch: 0,
        backend: 0,
        frontend: NO_ADDR,
        frontend_port: 0,
        nat_port: 0,
        link: 0,
        link_end: 0,
        client_port: 0,
        tunnel_port: 0,
        tunnel_len: 0,
    };
    let source_is_high =
        same(&packet.src, &words(&packet.key.high)) && packet.src_port == packet.key.high_port;
    let mut flags = if source_is_high { CT_INITIATOR_IS_HIGH } else { 0 };
    if packet.has(HAIRPIN) {
        flags |= CT_HAIRPIN;
    }
    if matches!(ends, Ends::FromNode) {
        flags |= CT_FROM_NODE;
    }
    packet.entry.flags = flags;
    // SAFETY: `entry` is a field of its own; the borrow checker cannot see that the calls touch no other.
    let entry = unsafe { &mut *core::ptr::from_mut(&mut packet.entry) };
    note_epochs(entry, ends, true, epoch);
    if packet.has(SERVICE) {
        note_service(packet, entry);
    }
    if packet.tcp_flags & (TCP_FIN | TCP_RST) != 0 {
        note_close(packet.tcp_flags, entry, true);
    }
    CT_NEW.insert(&packet.key, &packet.entry, BPF_ANY as u64).map_err(|_| Reason::MapFull)?;
    note_begin(&packet.entry);
    Ok(())
}

/// A flow that is not over counts for its backend.
#[inline(always)]
fn note_begin(entry: &CtEntry) {
    if !is_closed(entry) {
        balance::opened(entry.backend);
    }
}

/// A flow goes on no more; one that was over already does not count.
#[inline(always)]
fn note_end(entry: &CtEntry) {
    if !is_closed(entry) {
        balance::ended(entry.backend);
    }
}

#[inline(always)]
fn note_epochs(entry: &mut CtEntry, ends: Ends, from_initiator: bool, epoch: u32) {
    let (sender, receiver) = match ends {
        Ends::Sender => (true, false),
        Ends::Receiver | Ends::FromNode => (false, true),
        Ends::Both => (true, true),
        Ends::Transit => (false, false),
    };
    let (egress, ingress) = if from_initiator { (sender, receiver) } else { (receiver, sender) };
    if egress {
        entry.egress_epoch = epoch;
    }
    if ingress {
        entry.ingress_epoch = epoch;
    }
}

/// The node's own stack always reaches its pods: what it sends counts as allowed now.
#[inline(always)]
fn note_node(entry: &mut CtEntry, from_initiator: bool, epoch: u32) {
    let judged = if from_initiator { &mut entry.ingress_epoch } else { &mut entry.egress_epoch };
    if *judged != epoch {
        *judged = epoch;
    }
}

#[inline(always)]
fn note_close(tcp_flags: u8, entry: &mut CtEntry, from_initiator: bool) {
    if tcp_flags & TCP_RST != 0 {
        entry.flags |= CT_RST;
    }
    if tcp_flags & TCP_FIN != 0 {
        entry.flags |= if entry.flags & CT_DIRECT != 0 {
            CT_FIN_INITIATOR | CT_FIN_RESPONDER
        } else if from_initiator {
            CT_FIN_INITIATOR
        } else {
            CT_FIN_RESPONDER
        };
    }
}

#[inline(always)]
fn note_service(packet: &Packet, entry: &mut CtEntry) {
    entry.flags |= if packet.has(OUTSIDE) { CT_SERVICE | CT_OUTSIDE } else { CT_SERVICE };
    if packet.has(DIRECT) {
        entry.flags |= CT_DIRECT;
    }
    entry.backend = packet.backend;
    put(&mut entry.frontend, &packet.frontend);
    entry.frontend_port = packet.frontend_port;
    entry.client_port = packet.client_port;
}

/// Moves a half-open flow to `CT`: packets go both ways.
#[inline(always)]
fn promote(packet: &mut Packet, entry: &mut CtEntry) -> Result<(), Reason> {
    packet.entry = *entry;
    packet.entry.flags |= CT_REPLIED;
    growth::put(GROWS_CT, &CT, &CT_OLD, &packet.key, &packet.entry).map_err(|_| Reason::MapFull)?;
    let _ = CT_NEW.remove(&packet.key);
    Ok(())
}
