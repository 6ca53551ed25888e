//! What a pod's policy set says about a peer.

use aya_ebpf::maps::lpm_trie::Key;
use sheetbend_ebpf_abi::{
    ClassKey, DIRECTION_EGRESS, DIRECTION_INGRESS, FLOW_STAGE_EGRESS, FLOW_STAGE_INGRESS, POD_AUDITED,
    POD_ISOLATED_EGRESS, POD_ISOLATED_INGRESS, POD_READY, PrefixKey, Reason, RuleKey, RuleValue,
    VERDICT_ALLOW,
};

use crate::{
    maps::{BLOCKS, CLASSES, PODS, POLICY_EPOCH, RULES},
    packet::{Ip, Packet, put},
};

/// The sending pod's place in [`Packet::judged`].
pub const SENDER: usize = 0;
/// The receiving pod's place in [`Packet::judged`].
pub const RECEIVER: usize = 1;

/// The epoch in force, never 0.
#[inline(always)]
pub fn epoch() -> u32 {
    POLICY_EPOCH.get(0).copied().unwrap_or(1)
}

/// Judges one end of a flow in the flow's original direction: `egress` asks the initiator's policy, else the
/// responder's; `port` is the flow's destination port. `ifindex` is the pod's. What the policy of a pod in audit denies
/// passes, and is marked ([`Judgement::audited`](crate::packet::Judgement::audited)).
///
/// # Errors
/// [`Reason::PolicyDenied`].
#[inline(always)]
pub fn judge(
    packet: &mut Packet,
    end: usize,
    ifindex: u32,
    egress: bool,
    peer: Ip,
    port: u16,
) -> Result<(), Reason> {
    let isolated = if egress { POD_ISOLATED_EGRESS } else { POD_ISOLATED_INGRESS };
    let (set, flags) = policy_of(ifindex);
    if flags & isolated == 0 {
        return Ok(());
    }
    let (stage, direction) =
        if egress { (FLOW_STAGE_EGRESS, DIRECTION_EGRESS) } else { (FLOW_STAGE_INGRESS, DIRECTION_INGRESS) };
    // Behind the set: a class has rows for this set until the next set was in force for a while.
    let class = class_of(packet.network, &peer);
    let judged = &mut packet.judged[end];
    judged.stage = stage as u32;
    judged.ifindex = ifindex;
    judged.set = set;
    judged.class = class;
    judged.origin = 0;
    judged.audited = 0;
    let mut rule = None;
    if class != 0 {
        rule = find(packet.protocol, set, class, direction, port);
    }
    if rule.is_none() {
        rule = find(packet.protocol, set, 0, direction, port);
    }
    if let Some(rule) = rule {
        packet.judged[end].origin = rule.origin;
        if rule.verdict == VERDICT_ALLOW {
            return Ok(());
        }
    }
    if flags & POD_AUDITED != 0 {
        packet.judged[end].audited = 1;
        return Ok(());
    }
    packet.denied = end as u32;
    Err(Reason::PolicyDenied)
}

/// A pod's policy set and flags. One that is gone, or not ready any more, has a set of no rules and is isolated.
///
/// The row is asked for here and read at once, twice: the kernel gives the memory of a replaced row to the next row that
/// is written, so that what was looked up earlier may be another pod's by now. A third time where the two differ.
#[inline(always)]
fn policy_of(ifindex: u32) -> (u32, u32) {
    let first = row_of(ifindex);
    let second = row_of(ifindex);
    let row = if first == second { first } else { row_of(ifindex) };
    let flags = (row >> 32) as u32;
    if flags & POD_READY != 0 { (row as u32, flags) } else { (0, POD_ISOLATED_EGRESS | POD_ISOLATED_INGRESS) }
}

/// Flags above the policy set; 0 where the pod is gone.
#[inline(always)]
fn row_of(ifindex: u32) -> u64 {
    // SAFETY: plain values, copied at once.
    unsafe { PODS.get(&ifindex) }.map_or(0, |pod| u64::from(pod.flags) << 32 | u64::from(pod.set))
}

/// Key of `RULES` in words, so that it is aligned.
#[repr(C)]
struct RuleWords {
    bits: u32,
    set: u32,
    class: u32,
    direction: u8,
    protocol: u8,
    port: u16,
}

/// The row that decides for peers of `class`; 0 = every peer.
#[inline(always)]
fn find(protocol: u8, set: u32, class: u32, direction: u8, port: u16) -> Option<&'static RuleValue> {
    let words = RuleWords { bits: RuleKey::FULL, set, class, direction, protocol, port: port.to_be() };
    // SAFETY: the same bytes as the key, which may lie anywhere.
    let key = unsafe { &*core::ptr::from_ref(&words).cast::<Key<RuleKey>>() };
    RULES.get(key)
}

/// Class of an address: exact, else by the longest block, else 0.
#[inline(always)]
fn class_of(network: u32, ip: &Ip) -> u32 {
    let mut key = ClassKey { network, addr: [0; 16] };
    put(&mut key.addr, ip);
    // SAFETY: a plain value, copied at once.
    if let Some(class) = unsafe { CLASSES.get(&key) } {
        return *class;
    }
    BLOCKS.get(PrefixWords::whole(network, ip).key()).copied().unwrap_or(0)
}

/// Key of `BLOCKS` and `ROUTES` in words, so that it is aligned.
#[repr(C)]
pub struct PrefixWords {
    bits: u32,
    network: u32,
    addr: Ip,
}

impl PrefixWords {
    /// A whole address.
    #[inline(always)]
    pub fn whole(network: u32, ip: &Ip) -> Self {
        Self { bits: PrefixKey::FULL, network: network.to_be(), addr: *ip }
    }

    /// The same as the map wants it.
    #[inline(always)]
    pub fn key(&self) -> &Key<PrefixKey> {
        // SAFETY: the same bytes, and the key may lie anywhere.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}
