//! Counts of live flows for each backend, made right: the kernel's programs count as flows come and end, and do not see one
//! that a full table lost or a sweep freed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::{CtEntry, SymbolKind};

use super::error::BpfError;
use super::kernel::Kernel;
use super::rows;
use super::sweep::by_initiator;
use super::table::Table;

/// Reads the counts of live flows beside the thread that owns the [`Kernel`].
pub struct LiveConnections {
    pub(super) backends: Table<u32, abi::BackendEntry>,
    pub(super) connections: Table<u32, u64>,
}

impl LiveConnections {
    /// (address, IANA protocol number, port) → live flows of this node to it, where there are any.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self) -> Result<BTreeMap<(IpAddr, u8, u16), u64>, BpfError> {
        let mut backends = BTreeMap::new();
        self.backends.for_each(|number, entry| {
            backends.insert(number, (rows::addr_back(entry.addr), entry.protocol, entry.port));
        })?;
        let end = backends.keys().next_back().map_or(0, |last| *last as usize + 1);
        let mut live = BTreeMap::new();
        self.connections.for_range(0, end, |number, count| {
            // Below 0 where some were not counted.
            if let Some(backend) = backends.get(&number).filter(|_| count.cast_signed() > 0) {
                *live.entry(*backend).or_default() += count;
            }
        })?;
        Ok(live)
    }
}

impl std::fmt::Debug for LiveConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveConnections").finish_non_exhaustive()
    }
}

/// So many backends' counts are made right in one walk, the next ones' in the next: their tables are large, and mistakes rare.
const TURN: usize = 65_536;

/// What a walk over all flows finds.
pub(super) struct Live {
    /// Number of the first backend whose turn it is.
    first: u32,
    /// What was counted for each of them when the walk began.
    before: Vec<u64>,
    /// Backend number → live flows that the walk met.
    met: BTreeMap<u32, u64>,
}

impl Live {
    /// A flow is there, and stays.
    pub(super) fn note(&mut self, entry: &CtEntry) {
        if !is_closed(entry) {
            self.add(entry.backend);
        }
    }

    fn add(&mut self, backend: u32) {
        if backend.checked_sub(self.first).is_some_and(|at| (at as usize) < self.before.len()) && backend != 0
        {
            *self.met.entry(backend).or_default() += 1;
        }
    }
}

/// RST, or FIN both ways.
pub(super) fn is_closed(entry: &CtEntry) -> bool {
    let both = abi::CT_FIN_INITIATOR | abi::CT_FIN_RESPONDER;
    entry.flags & abi::CT_RST != 0 || entry.flags & both == both
}

/// What the count shall be: it was `before`, then a walk met `met` flows, and it is `now`. While the walk went on flows came
/// and ended, and it met some of them; so a number between the two counts is no mistake.
fn corrected(before: u64, met: u64, now: u64) -> u64 {
    let [before, met, now] = [before, met, now].map(u64::cast_signed);
    let mistake = met - met.clamp(before.min(now), before.max(now));
    (now + mistake).cast_unsigned()
}

impl Kernel {
    /// Which of `addresses` some flow goes to that was answered and has not ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn in_use(&self, addresses: &BTreeSet<IpAddr>) -> Result<BTreeSet<IpAddr>, BpfError> {
        let mut found = BTreeSet::new();
        self.flows.ct.for_each(|key, entry| {
            let (_, (responder, _)) = by_initiator(&key, &entry);
            let addr = rows::addr_back(responder);
            if !is_closed(&entry) && addresses.contains(&addr) {
                found.insert(addr);
            }
        })?;
        Ok(found)
    }

    /// Before a walk over all flows.
    pub(super) fn begin_count(&mut self) -> Result<Live, BpfError> {
        let end = self.numbers.end(SymbolKind::Backend);
        let is_many = end as usize > TURN;
        let first = if is_many && self.count_next < end { self.count_next } else { 0 };
        let mut before = vec![0; TURN.min((end - first) as usize)];
        self.count_next = first + before.len() as u32;
        self.flows.connections.for_range(first, before.len(), |backend, count| {
            if let Some(slot) = before.get_mut((backend - first) as usize) {
                *slot = count;
            }
        })?;
        Ok(Live { first, before, met: BTreeMap::new() })
    }

    /// After it. Returns how many counts were wrong.
    pub(super) fn end_count(&self, mut live: Live) -> Result<u64, BpfError> {
        self.flows.sockets.for_each(|key, value| {
            if key.kind == abi::SOCKET_COUNTED {
                live.add(value.backend);
            }
        })?;
        let mut wrong = 0;
        for (backend, before) in (live.first..).zip(&live.before) {
            let met = live.met.get(&backend).copied().unwrap_or(0);
            if met == *before {
                continue;
            }
            let now = self.flows.connections.get(&backend)?.unwrap_or(0);
            let count = corrected(*before, met, now);
            if count != now {
                self.flows.connections.put(&backend, &count)?;
                wrong += 1;
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::corrected;

    #[test]
    fn only_what_no_flow_explains_is_a_mistake() {
        assert_eq!(corrected(5, 3, 5), 3, "two were lost");
        assert_eq!(corrected(u64::MAX, 1, u64::MAX), 1, "below 0");
        assert_eq!(corrected(5, 6, 8), 8, "three came meanwhile");
        assert_eq!(corrected(8, 6, 5), 5, "three ended meanwhile");
        assert_eq!(corrected(5, 3, 8), 6, "three came, two were lost");
        assert_eq!(corrected(8, 10, 5), 7, "three ended, two were not counted");
    }
}
