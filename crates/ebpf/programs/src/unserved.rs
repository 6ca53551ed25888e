//! Packets to addresses of Services that no frontend takes.

use sheetbend_ebpf_abi::{ADDRESS_OURS, ClassKey, NO_ADDR, ROUTE_SERVICE, Reason};

use crate::{
    maps::SERVICE_ADDRESSES,
    packet::{Ip, put},
};

/// What becomes of a packet to `ip`, which has no frontend at the packet's port and whose route has this `kind` (0 = none).
/// Somebody else may serve the address: then, and elsewhere, the packet goes on.
///
/// # Errors
/// [`Reason::NoServicePort`], [`Reason::NoSuchService`].
#[inline(always)]
pub fn check(network: u32, ip: &Ip, kind: u32) -> Result<(), Reason> {
    if kind != 0 && kind != ROUTE_SERVICE {
        return Ok(());
    }
    let mut key = ClassKey { network, addr: NO_ADDR };
    put(&mut key.addr, ip);
    // SAFETY: one word, copied at once.
    match unsafe { SERVICE_ADDRESSES.get(&key) }.copied() {
        Some(ADDRESS_OURS) => Err(Reason::NoServicePort),
        None if kind == ROUTE_SERVICE => Err(Reason::NoSuchService),
        _ => Ok(()),
    }
}
