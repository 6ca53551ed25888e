//! Sums of the kernel's counters.

use std::collections::BTreeMap;

use sheetbend_ebpf_abi::{CounterKey, Reason};

/// Packets and bytes of one (pod interface, hook, reason), summed over CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// What was counted.
    pub key: CounterKey,
    /// Packets.
    pub packets: u64,
    /// Bytes with the link header.
    pub bytes: u64,
}

/// Packets by stable name of the reason, over all pods and hooks.
pub fn by_reason(counts: impl IntoIterator<Item = Count>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for count in counts {
        let name = Reason::from_number(count.key.reason).map_or("unknown", Reason::name);
        *sums.entry(name).or_default() += count.packets;
    }
    sums
}
