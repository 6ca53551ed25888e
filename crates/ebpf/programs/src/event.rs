//! Counters and events, and the one place where a [`Reason`] becomes a verdict.
//!
//! Dropped and refused packets are counted one by one. Forwarded packets are counted when they begin a flow or have it
//! judged anew: an established packet costs no counter.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    programs::TcContext,
};
use sheetbend_ebpf_abi::{CounterKey, CounterValue, Event, EventKind, MARK_FORWARDED, Reason, Verdict};

use crate::{
    conntrack::now,
    maps::{COUNTERS, EVENTS},
    packet::{DROP, ICMP, ICMPV6, Ip, Judgement, NEW, PASS, Packet, REPLY, SERVICE, put, set_mark},
    policy::{RECEIVER, SENDER},
    stage,
};

/// Turns the outcome of a hook into its verdict.
#[inline(always)]
pub fn conclude(ctx: &TcContext, packet: &mut Packet, outcome: Result<i32, Reason>) -> i32 {
    match outcome {
        Ok(verdict) => verdict,
        Err(reason) => refuse(ctx, packet, reason),
    }
}

#[inline(always)]
fn refuse(ctx: &TcContext, packet: &mut Packet, reason: Reason) -> i32 {
    let denied = packet.denied;
    let judgement = if denied < 2 { packet.judged[denied as usize & 1] } else { nobody(packet) };
    count(packet, judgement.ifindex, reason);
    report(packet, EventKind::Drop, reason, &judgement);
    match reason {
        // The node's own stack has an unreachable route for these and tells the sender.
        Reason::NoSuchPod | Reason::Unreachable => {
            set_mark(ctx, MARK_FORWARDED);
            PASS
        }
        _ => match reason.verdict() {
            Verdict::Forward => PASS,
            Verdict::Drop => DROP,
            Verdict::Refuse => {
                let is_too_big = matches!(reason, Reason::TooBig);
                stage::call(ctx, if is_too_big { stage::TOO_BIG } else { stage::REFUSE });
                DROP
            }
        },
    }
}

/// Tells that the packet goes on, if that is news. The judgements of both ends become an event each.
#[inline(always)]
pub fn forwarded(packet: &mut Packet, reason: Reason) {
    if !packet.has(NEW) {
        return;
    }
    let other = nobody(packet);
    count(packet, other.ifindex, reason);
    let (sender, receiver) = (packet.judged[SENDER], packet.judged[RECEIVER]);
    if sender.stage == 0 && receiver.stage == 0 {
        report(packet, EventKind::Flow, reason, &other);
        return;
    }
    if sender.stage != 0 {
        judged(packet, reason, &sender);
    }
    if receiver.stage != 0 {
        judged(packet, reason, &receiver);
    }
}

/// One end's policy let it pass, or would not have but for the audit: that counts beside what became of the packet.
#[inline(always)]
fn judged(packet: &Packet, reason: Reason, judgement: &Judgement) {
    report(packet, EventKind::Flow, reason, judgement);
    if judgement.audited != 0 {
        count(packet, judgement.ifindex, Reason::PolicyAudited);
    }
}

/// No policy decided: the pod at whose veth the packet is.
#[inline(always)]
fn nobody(packet: &Packet) -> Judgement {
    let ifindex = if packet.from != 0 { packet.from } else { packet.to };
    Judgement { stage: 0, ifindex, set: 0, class: 0, origin: 0, audited: 0 }
}

#[inline(always)]
pub fn count(packet: &Packet, ifindex: u32, reason: Reason) {
    let key = CounterKey { ifindex, hook: packet.hook as u16, reason: reason as u16 };
    if let Some(value) = COUNTERS.get_ptr_mut(&key) {
        // SAFETY: a per-CPU value.
        unsafe {
            (*value).packets += 1;
            (*value).bytes += packet.len as u64;
        }
        return;
    }
    let first = CounterValue { packets: 1, bytes: packet.len as u64 };
    let _ = COUNTERS.insert(&key, &first, BPF_NOEXIST as u64);
}

/// Writes one event, in the flow's original direction. A full ring loses it: the counter remains.
#[inline(always)]
pub fn report(packet: &Packet, kind: EventKind, reason: Reason, judgement: &Judgement) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return };
    let reply = packet.has(REPLY);
    let (src, dst) = if reply { (&packet.dst, &packet.src) } else { (&packet.src, &packet.dst) };
    let (src_port, mut dst_port) =
        if reply { (packet.dst_port, packet.src_port) } else { (packet.src_port, packet.dst_port) };
    if is_icmp(packet) {
        dst_port = (packet.icmp_type as u16) << 8 | packet.icmp_code as u16;
    }
    let service = packet.has(SERVICE);
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved record has the size of an `Event`, and every field is written.
    unsafe {
        (*event).time = now();
        (*event).ifindex = judgement.ifindex;
        (*event).network = packet.network;
        (*event).set = judgement.set;
        (*event).class = judgement.class;
        (*event).origin = judgement.origin;
        (*event).len = packet.len;
        put(&mut (*event).src, src);
        put(&mut (*event).dst, dst);
        let frontend: Ip = if service { packet.frontend } else { [0; 4] };
        put(&mut (*event).frontend, &frontend);
        (*event).src_port = src_port;
        // Written over, since a choice before would double the verifier's paths.
        if service {
            (*event).src_port = packet.client_port;
        }
        (*event).dst_port = dst_port;
        (*event).frontend_port = if service { packet.frontend_port } else { 0 };
        // By arithmetic, since a branch would double the verifier's paths.
        let told = reason as u32;
        (*event).reason = (told ^ ((told ^ Reason::PolicyAudited as u32) * judgement.audited)) as u16;
        (*event).kind = kind as u8;
        (*event).hook = packet.hook as u8;
        (*event).stage = judgement.stage as u8;
        (*event).protocol = packet.protocol;
        (*event).pad = [0; 4];
    }
    // Waking the reader for each new flow would cost the flow more than its policy: it looks by itself every few ms.
    let flags = if matches!(kind, EventKind::Flow) { BPF_RB_NO_WAKEUP as u64 } else { 0 };
    entry.submit(flags);
}

#[inline(always)]
fn is_icmp(packet: &Packet) -> bool {
    if packet.is_v6() { packet.protocol == ICMPV6 } else { packet.protocol == ICMP }
}
