//! Which backend a new flow gets, and how many live flows each has.

use core::arch::asm;

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_get_prandom_u32};
use sheetbend_ebpf_abi::{
    ALGORITHM_LEAST_CONNECTIONS, ALGORITHM_MAGLEV, ALGORITHM_ROUND_ROBIN, BackendEntry, LEAST_OF,
    SLOT_BACKEND, SLOT_WEIGHT_SHIFT, ServiceEntry, flow_hash,
};

use crate::{
    maps::{CONNECTIONS, ROUND_ROBIN, SLOTS},
    packet::Ip,
    service::backend,
};

/// How many slots are tried when one names a backend that is just being removed.
const TRIES: u32 = 4;

/// Who opens a flow to a Service.
pub struct Asker<'a> {
    pub network: u32,
    /// What session affinity remembers.
    pub client: &'a Ip,
    pub client_port: u16,
    /// Of the Service.
    pub port: u16,
    pub protocol: u8,
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no argument, no effect.
    unsafe { bpf_get_prandom_u32() }
}

/// The algorithm's choice over `SLOTS[first_slot .. first_slot + count]`.
#[inline(always)]
pub fn pick(entry: &ServiceEntry, asker: &Asker<'_>) -> Option<(u32, &'static BackendEntry)> {
    let count = entry.count;
    if count == 0 {
        return None;
    }
    let mut offset = match entry.algorithm {
        ALGORITHM_ROUND_ROBIN => next_in_turn(entry.service, count),
        ALGORITHM_LEAST_CONNECTIONS => least(entry.first_slot, count),
        ALGORITHM_MAGLEV => by_hash(asker) % count,
        _ => random() % count,
    };
    for _ in 0..TRIES {
        if let Some(slot) = slot(entry.first_slot + offset) {
            let number = slot & SLOT_BACKEND;
            if let Some(found) = backend(number) {
                return Some((number, found));
            }
        }
        offset = (offset + 1) % count;
    }
    None
}

#[inline(always)]
fn slot(number: u32) -> Option<u32> {
    // SAFETY: not preallocated; copied at once.
    unsafe { SLOTS.get(&number) }.copied()
}

/// Each CPU goes through the slots in turn.
#[inline(always)]
fn next_in_turn(service: u32, count: u32) -> u32 {
    if let Some(next) = ROUND_ROBIN.get_ptr_mut(service) {
        // SAFETY: a per-CPU value.
        let offset = unsafe { *next } % count;
        // SAFETY: as above.
        unsafe { *next = offset + 1 };
        return offset;
    }
    let _ = ROUND_ROBIN.insert(service, 1, BPF_ANY as u64);
    0
}

#[inline(always)]
fn by_hash(asker: &Asker<'_>) -> u32 {
    let [a, b, c, d] = *asker.client;
    let client = [u32::from_be(a), u32::from_be(b), u32::from_be(c), u32::from_be(d)];
    flow_hash(client, asker.client_port, asker.port, asker.protocol)
}

/// The slot with the fewest live flows for its weight. The scan begins anywhere, so that equal ones take turns, and ends
/// where a slot is just being removed.
///
/// There are few branches, since the verifier walks each.
#[inline(never)]
fn least(first_slot: u32, count: u32) -> u32 {
    if count == 0 {
        return 0;
    }
    let mut offset = random() % count;
    let mut best = offset as u64;
    let Some((mut fewest, mut of_weight)) = load(first_slot + offset) else { return offset };
    let is_exact = count <= LEAST_OF;
    for step in 1..LEAST_OF {
        if step >= count || !is_exact && step > 1 {
            break;
        }
        // Of more than can be compared, another one.
        let ahead = if is_exact { 1 } else { 1 + random() % (count - 1) };
        offset = (offset + ahead) % count;
        let Some((flows, weight)) = load(first_slot + offset) else { break };
        // All ones where it has fewer.
        let fewer = signs((flows * of_weight).wrapping_sub(fewest * weight));
        best ^= (best ^ offset as u64) & fewer;
        fewest ^= (fewest ^ flows) & fewer;
        of_weight ^= (of_weight ^ weight) & fewer;
    }
    best as u32
}

/// Live flows, below 2^32, and weight of a slot's backend.
#[inline(always)]
fn load(number: u32) -> Option<(u64, u64)> {
    let slot = slot(number)?;
    let flows = *CONNECTIONS.get(slot & SLOT_BACKEND)?;
    // A flow may end that was not counted: below 0 is 0.
    let flows = flows & !signs(flows) & u32::MAX as u64;
    Some((flows, 1 + (slot >> SLOT_WEIGHT_SHIFT) as u64))
}

/// All ones where `number` is below 0, else 0. The compiler shall not see it: it would make branches of it.
#[inline(always)]
fn signs(number: u64) -> u64 {
    let mut signs = number as i64 >> 63;
    // SAFETY: no instruction.
    unsafe { asm!("/* {signs} */", signs = inout(reg) signs, options(pure, nomem, nostack)) };
    signs as u64
}

/// One more flow of this node to a backend is live.
#[inline(always)]
pub fn opened(backend: u32) {
    add(backend, 1);
}

/// One less is.
#[inline(always)]
pub fn ended(backend: u32) {
    add(backend, u64::MAX);
}

#[inline(always)]
fn add(backend: u32, change: u64) {
    if backend == 0 {
        return;
    }
    if let Some(count) = CONNECTIONS.get_ptr_mut(backend) {
        // Rust has no atomic addition for this target.
        // SAFETY: an aligned value of an array, which stays; the instruction is atomic (RFC 9669 §5.3).
        unsafe {
            asm!("lock *(u64 *)({count} + 0) += {change}", count = in(reg) count, change = in(reg) change)
        };
    }
}
