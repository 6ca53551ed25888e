//! Moving entries to the newer map while packets use them.
//!
//! Programs look in the newer map first, and keep what they found for as long as one packet takes. So an entry is copied;
//! then every packet that may have found the older one ends; then what such a packet did to the older one is done to the
//! newer one, and the older one goes.

use sheetbend_ebpf_abi::{CtEntry, ServiceFlowValue, SnatValue};

use super::super::error::BpfError;
use super::super::plain::Plain;
use super::super::sys;
use super::super::table::Table;

/// Entries that move at once: about 20 ms, most of it waiting for packets under way.
const SLICE: u32 = 2_048;

/// A value that moves.
pub(super) trait Moves: Plain {
    /// Whether it still is what was `copied`, but for when it was used last.
    fn is_copy(&self, copied: &Self) -> bool;

    /// What the newer value shall be when the older one was `copied` and then became `last`; `None`: it is right.
    fn merged(&self, copied: &Self, last: &Self) -> Option<Self>;
}

impl Moves for CtEntry {
    fn is_copy(&self, copied: &Self) -> bool {
        // Of the addresses that are kept for a second too.
        let CtEntry { last_seen, link, link_end, .. } = *copied;
        CtEntry { last_seen, link, link_end, ..*self } == *copied
    }

    fn merged(&self, copied: &Self, last: &Self) -> Option<Self> {
        if last.is_copy(copied) {
            return None;
        }
        let last_seen = self.last_seen.max(last.last_seen);
        // Packets that found the newer one can only have set flags beside what the last ones of the older one did.
        Some(CtEntry { last_seen, flags: self.flags | last.flags, ..*last })
    }
}

impl Moves for ServiceFlowValue {
    fn is_copy(&self, copied: &Self) -> bool {
        Self { last_seen: copied.last_seen, ..*self } == *copied
    }

    fn merged(&self, copied: &Self, last: &Self) -> Option<Self> {
        (!last.is_copy(copied)).then_some(*last)
    }
}

impl Moves for SnatValue {
    fn is_copy(&self, copied: &Self) -> bool {
        Self { last_seen: copied.last_seen, ..*self } == *copied
    }

    fn merged(&self, _: &Self, _: &Self) -> Option<Self> {
        None // Only the time of its last use changes in place.
    }
}

/// Moves some entries.
pub(super) fn drain<K: Plain, V: Moves>(table: &Table<K, V>) -> Result<(), BpfError> {
    let mut copies = Vec::new();
    for key in table.some_old(SLICE)? {
        // As late as can be: a packet may begin another flow under the key.
        if let Some(value) = table.get_old(&key)? {
            let is_made = table.add(&key, &value)?;
            copies.push((key, value, is_made));
        }
    }
    if copies.is_empty() {
        return Ok(());
    }
    sys::wait_for_programs();
    for (key, copied, is_made) in copies {
        match table.get_old(&key)? {
            Some(last) if is_made => {
                let new = table.get(&key)?;
                if let Some(merged) = new.and_then(|new| new.merged(&copied, &last)) {
                    table.put(&key, &merged)?;
                }
            }
            // It was there already: what programs write is newer.
            Some(_) => {}
            // A packet took it away, and may not have seen the copy.
            None if is_made && table.get(&key)?.is_some_and(|new| new.is_copy(&copied)) => {
                table.delete(&key)?;
            }
            None => {}
        }
        table.delete_old(&key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sheetbend_ebpf_abi::{CT_FIN_INITIATOR, CT_FIN_RESPONDER, CT_REPLIED};

    use super::*;

    fn entry(flags: u32, last_seen: u64) -> CtEntry {
        CtEntry { flags, last_seen, ..CtEntry::zero() }
    }

    #[test]
    fn what_a_packet_did_to_the_older_entry_is_kept() {
        let copied = entry(CT_REPLIED, 1);
        let new = entry(CT_REPLIED | CT_FIN_RESPONDER, 5);
        let last = CtEntry { egress_epoch: 3, ..entry(CT_REPLIED | CT_FIN_INITIATOR, 2) };
        let merged = new.merged(&copied, &last).expect("it changed");
        assert_eq!(merged.flags, CT_REPLIED | CT_FIN_INITIATOR | CT_FIN_RESPONDER);
        assert_eq!((merged.egress_epoch, merged.last_seen), (3, 5));
        let used = CtEntry { link: 7, ..entry(CT_REPLIED, 9) };
        assert_eq!(new.merged(&copied, &used), None, "it was only used");
    }
}
