//! What a pod's policy set says about a peer.

use aya_ebpf::maps::lpm_trie::Key;
use sheetbend_ebpf_abi::{
    ClassKey, DIRECTION_EGRESS, DIRECTION_INGRESS, FLOW_STAGE_EGRESS, FLOW_STAGE_INGRESS,
    POD_ISOLATED_EGRESS, POD_ISOLATED_INGRESS, PodEntry, PrefixKey, Reason, RuleKey, RuleValue,
    VERDICT_ALLOW,
};

use crate::{
    maps::{BLOCKS, CLASSES, POLICY_EPOCH, RULES},
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
/// responder's; `port` is the flow's destination port.
///
/// # Errors
/// [`Reason::PolicyDenied`].
#[inline(always)]
pub fn judge(
    packet: &mut Packet,
    end: usize,
    pod: &PodEntry,
    ifindex: u32,
    egress: bool,
    peer: Ip,
    port: u16,
) -> Result<(), Reason> {
    let isolated = if egress { POD_ISOLATED_EGRESS } else { POD_ISOLATED_INGRESS };
    if pod.flags & isolated == 0 {
        return Ok(());
    }
    let (stage, direction) =
        if egress { (FLOW_STAGE_EGRESS, DIRECTION_EGRESS) } else { (FLOW_STAGE_INGRESS, DIRECTION_INGRESS) };
    let class = class_of(packet.network, &peer);
    let judged = &mut packet.judged[end];
    judged.stage = stage as u32;
    judged.ifindex = ifindex;
    judged.set = pod.set;
    judged.class = class;
    judged.origin = 0;
    let mut rule = None;
    if class != 0 {
        rule = find(packet.protocol, pod.set, class, direction, port);
    }
    if rule.is_none() {
        rule = find(packet.protocol, pod.set, 0, direction, port);
    }
    if let Some(rule) = rule {
        packet.judged[end].origin = rule.origin;
        if rule.verdict == VERDICT_ALLOW {
            return Ok(());
        }
    }
    packet.denied = end as u32;
    Err(Reason::PolicyDenied)
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
    // SAFETY: not preallocated, so that the value is whole; it is copied at once.
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
