//! Freeing what flows left behind: closed and idle entries, flows of pods that went, and numbers nothing means any more.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Map, PerCpuHashMap};
use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::{CtEntry, CtKey, ServiceFlowKey, SnatKey, SymbolKind};
use sheetbend_model::types::AddrKey;

use super::connections::{Live, is_closed};
use super::error::BpfError;
use super::kernel::{Flows, Kernel};
use super::loader;
use super::plain::{Lpm, Plain};
use super::rows;
use super::table::Table;

const SECOND: u64 = 1_000_000_000;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: [u8; 2] = [1, 58];

/// A closed flow is kept so long for late packets (Linux: nf_conntrack_tcp_timeout_close).
const CLOSED: u64 = 10 * SECOND;
/// One that ended without RST stays while an end may hold it, so that no other gets its ports, if there is room.
const TIME_WAIT: u64 = abi::TIME_WAIT_SECONDS * SECOND;
/// TCP seen both ways: above the 2 h 4 min that RFC 5382 §5 REQ-5 asks for.
const TCP_ESTABLISHED: u64 = 6 * 3_600 * SECOND;
/// TCP without an answer (Linux: nf_conntrack_tcp_timeout_syn_sent; RFC 5382 §5 REQ-5 asks for 4 min only once open).
const TCP_HALF_OPEN: u64 = 120 * SECOND;
/// An SCTP association with an answer: the programs begin it anew after that silence. Heartbeats keep it.
const SCTP_BOTH_WAYS: u64 = abi::CT_IDLE_SECONDS * SECOND;
/// One without: two INITs are at most RTO.Max, 60 s, apart (RFC 9260 §16).
const SCTP_HALF_OPEN: u64 = 120 * SECOND;
/// UDP seen both ways: above the 2 min that RFC 4787 §4.3 REQ-5 asks for (Linux: nf_conntrack_udp_timeout_stream).
const UDP_BOTH_WAYS: u64 = 180 * SECOND;
/// ICMP queries (RFC 5508 §3.2 REQ-2), and UDP without an answer.
const ONE_WAY: u64 = 60 * SECOND;
/// Other protocols (Linux: nf_conntrack_generic_timeout).
const OTHER: u64 = 600 * SECOND;
/// What belongs to a flow but has lost its entry in `CT` goes when it has been idle so long.
const ORPHAN: u64 = 120 * SECOND;
/// TCP flows of a pod or backend that went stay so long, so that the other end is told by RST. Shorter than the rest
/// of a released address (`ipam.reuse_delay`, 30 s).
const TELL: u64 = 25 * SECOND;

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Map name → entries that are left.
    pub flows: BTreeMap<&'static str, u64>,
    /// Map name → entries freed.
    pub freed: BTreeMap<&'static str, u64>,
    /// Numbers that may be given again.
    pub released: u64,
    /// Backends whose count of live flows was wrong.
    pub recounted: u64,
}

/// What a sweep knows of the node when it begins.
struct View {
    now: u64,
    ranges: Vec<Lpm<abi::PrefixKey>>,
    local: BTreeSet<AddrKey>,
}

impl View {
    /// Whether the address was a pod's of this node and is no more.
    fn is_gone(&self, address: &AddrKey) -> bool {
        !self.local.contains(address) && {
            let host = Lpm { len: abi::PrefixKey::FULL, data: prefix_data(address) };
            self.ranges.iter().any(|range| rows::encloses(range, &host))
        }
    }
}

fn prefix_data(address: &AddrKey) -> abi::PrefixKey {
    abi::PrefixKey { network: address.network.0.to_be_bytes(), addr: rows::addr(address.addr) }
}

impl Kernel {
    /// Looks through all flows once and frees what is over. Call it every 10 s or so: it costs about 0.2 µs a flow.
    pub fn sweep(&mut self) -> Result<Sweep, BpfError> {
        self.begin();
        self.retire_due()?;
        loader::remove_stale(&self.pins)?;
        let view = self.view()?;
        let mut gone = self.gone.take().unwrap_or_default();
        // An address is only known to have no flows left when a sweep found none.
        let mut seen = BTreeSet::new();
        let mut sweep = Sweep::default();
        let mut live = self.begin_count()?;
        let half_open = self.sweep_ct(&view, &mut gone, &mut seen, &mut live, false)?;
        let both_ways = self.sweep_ct(&view, &mut gone, &mut seen, &mut live, true)?;
        sweep.recounted = self.end_count(live)?;
        let service_flows = self.sweep_service_flows(&view, &mut gone, &mut seen)?;
        let snat = self.sweep_snat(&view, &mut gone, &mut seen)?;
        for (table, (left, freed)) in
            [("CT_NEW", half_open), ("CT", both_ways), ("SERVICE_FLOWS", service_flows), ("SNAT", snat)]
        {
            sweep.flows.insert(table, left);
            sweep.freed.insert(table, freed);
        }
        gone.retain(|address, since| seen.contains(address) || *since >= view.now);
        self.gone = Some(gone);
        self.sweep_affinity()?;
        self.sweep_counters()?;
        sweep.released = self.release_numbers(view.now)?;
        self.tables.take_counts();
        Ok(sweep)
    }

    fn view(&self) -> Result<View, BpfError> {
        let local = self.tables.local.all()?.into_iter().map(|(key, _)| rows::class_key_back(&key)).collect();
        let ranges = self.routes.iter().filter(|(_, route)| route.kind == abi::ROUTE_LOCAL);
        let ranges = ranges.map(|(block, _)| rows::prefix_key(block)).collect();
        Ok(View { now: self.numbers.now, ranges, local })
    }

    /// Returns (entries left, entries freed).
    fn sweep_ct(
        &self,
        view: &View,
        gone: &mut BTreeMap<AddrKey, u64>,
        seen: &mut BTreeSet<AddrKey>,
        live: &mut Live,
        both_ways: bool,
    ) -> Result<(u64, u64), BpfError> {
        let table = if both_ways { &self.flows.ct } else { &self.flows.ct_new };
        let (mut left, mut freed) = (0, 0);
        let mut over = Vec::new();
        let time_wait = if table.estimate()? * 2 < table.limit().into() { TIME_WAIT } else { CLOSED };
        table.for_each(|key, entry| {
            let mut has_lost_end = self.is_backend_over(entry.backend, key.protocol, view.now);
            for end in ends(&key) {
                if view.is_gone(&end) {
                    let since = *gone.entry(end).or_insert(view.now);
                    seen.insert(end);
                    has_lost_end |= key.protocol != TCP || since + TELL <= view.now;
                }
            }
            if has_lost_end || is_over(&key, &entry, view.now, time_wait) {
                over.push((key, entry, has_lost_end));
            } else {
                left += 1;
                live.note(&entry);
            }
        })?;
        for (key, entry, has_lost_end) in over {
            // A packet may have come since: then it is another flow, or the same one anew.
            let now = table.get(&key)?;
            if !has_lost_end && now.is_none_or(|now| now.last_seen != entry.last_seen) {
                left += 1;
                now.iter().for_each(|now| live.note(now));
                continue;
            }
            freed += u64::from(table.delete(&key)?);
            self.free_companions(&key, &entry)?;
        }
        Ok((left, freed))
    }

    /// Frees the Service flow and the SNAT port of a flow.
    fn free_companions(&self, key: &CtKey, entry: &CtEntry) -> Result<(), BpfError> {
        let ((initiator, port), (responder, responder_port)) = by_initiator(key, entry);
        if entry.flags & abi::CT_SERVICE != 0 {
            let client = if entry.flags & abi::CT_HAIRPIN != 0 { responder } else { initiator };
            let service_flow = ServiceFlowKey {
                network: key.network,
                client,
                frontend: entry.frontend,
                client_port: if entry.client_port == 0 { port } else { entry.client_port },
                frontend_port: entry.frontend_port,
                protocol: key.protocol,
                pad: [0; 3],
            };
            // The client's next connection from that port may have another backend.
            let now = self.flows.service_flows.get(&service_flow)?;
            if now.is_some_and(|now| now.backend == entry.backend && now.source_port == port) {
                self.flows.service_flows.delete(&service_flow)?;
            }
        }
        if entry.flags & abi::CT_MASQUERADED != 0 {
            let node = if abi::is_ipv4(&responder) { self.config.node_ipv4 } else { self.config.node_ipv6 };
            let remote_port = if ICMP.contains(&key.protocol) { 0 } else { responder_port };
            self.flows.snat.delete(&SnatKey {
                remote: responder,
                node,
                remote_port,
                nat_port: entry.nat_port,
                protocol: key.protocol,
                pad: [0; 3],
            })?;
        }
        Ok(())
    }

    fn sweep_service_flows(
        &self,
        view: &View,
        gone: &mut BTreeMap<AddrKey, u64>,
        seen: &mut BTreeSet<AddrKey>,
    ) -> Result<(u64, u64), BpfError> {
        let table = &self.flows.service_flows;
        let (mut left, mut freed) = (0, 0);
        let mut over = Vec::new();
        let mut idle = Vec::new();
        table.for_each(|key, value| {
            let client = address(key.network, key.client);
            if view.is_gone(&client) {
                gone.entry(client).or_insert(view.now);
                seen.insert(client);
                over.push(key);
            } else if self.is_backend_over(value.backend, key.protocol, view.now) {
                over.push(key);
            } else if value.last_seen + ORPHAN <= view.now {
                idle.push((key, value));
            } else {
                left += 1;
            }
        })?;
        for (key, value) in idle {
            let end = match value.backend {
                // Which pod it goes to is not said; it goes with its flow, or when that would be over.
                0 if value.flags & abi::SERVICE_FLOW_DIRECT != 0 => {
                    let limit = if key.protocol == TCP { TCP_ESTABLISHED } else { UDP_BOTH_WAYS };
                    if value.last_seen + limit <= view.now {
                        over.push(key)
                    } else {
                        left += 1
                    }
                    continue;
                }
                // To the frontend itself, from another port.
                0 => Some((key.frontend, key.frontend_port)),
                number => self.tables.backends.get(&number)?.map(|backend| (backend.addr, backend.port)),
            };
            let client = (key.client, value.source_port);
            let hairpin = if abi::is_ipv4(&key.client) { abi::HAIRPIN_IPV4 } else { abi::HAIRPIN_IPV6 };
            let is_tracked = match end {
                Some(end) => {
                    self.is_tracked(&ct_key(key.network, client, end, key.protocol))?
                        || self.is_tracked(&ct_key(
                            key.network,
                            (hairpin, value.source_port),
                            end,
                            key.protocol,
                        ))?
                }
                None => false,
            };
            if is_tracked { left += 1 } else { over.push(key) }
        }
        for key in over {
            freed += u64::from(table.delete(&key)?);
        }
        Ok((left, freed))
    }

    fn sweep_snat(
        &self,
        view: &View,
        gone: &mut BTreeMap<AddrKey, u64>,
        seen: &mut BTreeSet<AddrKey>,
    ) -> Result<(u64, u64), BpfError> {
        let table = &self.flows.snat;
        let (mut left, mut freed) = (0, 0);
        let mut over = Vec::new();
        let mut idle = Vec::new();
        table.for_each(|key, value| {
            let pod = address(value.network, value.addr);
            if view.is_gone(&pod) {
                let since = *gone.entry(pod).or_insert(view.now);
                seen.insert(pod);
                if key.protocol != TCP || since + TELL <= view.now {
                    over.push(key);
                    return;
                }
            }
            if value.last_seen + CLOSED <= view.now { idle.push((key, value)) } else { left += 1 }
        })?;
        for (key, value) in idle {
            let remote_port = if ICMP.contains(&key.protocol) { value.port } else { key.remote_port };
            let pod = (value.addr, value.port);
            let flow = ct_key(value.network, pod, (key.remote, remote_port), key.protocol);
            if self.is_tracked(&flow)? { left += 1 } else { over.push(key) }
        }
        for key in over {
            freed += u64::from(table.delete(&key)?);
        }
        Ok((left, freed))
    }

    fn is_tracked(&self, key: &CtKey) -> Result<bool, BpfError> {
        Ok(self.flows.ct.get(key)?.is_some() || self.flows.ct_new.get(key)?.is_some())
    }

    /// Whether a flow's backend went, and its client has had time to be told.
    fn is_backend_over(&self, backend: u32, protocol: u8, now: u64) -> bool {
        if backend == 0 || self.numbers.is_held(SymbolKind::Backend, backend) {
            return false;
        }
        let since = self.numbers.rests_since(SymbolKind::Backend, backend);
        since.is_none_or(|since| protocol != TCP || since + TELL <= now)
    }

    /// Clients forget a backend or Service that went.
    fn sweep_affinity(&self) -> Result<(), BpfError> {
        let mut over = Vec::new();
        self.flows.affinity.for_each(|key, value| {
            let is_held = self.numbers.is_held(SymbolKind::Service, key.service)
                && self.numbers.is_held(SymbolKind::Backend, value.backend);
            if !is_held {
                over.push(key);
            }
        })?;
        over.iter().try_for_each(|key| self.flows.affinity.delete(key).map(drop))
    }

    /// Counters of devices that are no pods any more.
    fn sweep_counters(&self) -> Result<(), BpfError> {
        let error = |error: aya::maps::MapError| BpfError::Load {
            what: "COUNTERS".into(),
            reason: error.to_string(),
        };
        let map = Map::PerCpuHashMap(self.counters()?);
        let mut counters: PerCpuHashMap<_, [u8; size_of::<abi::CounterKey>()], [u64; 2]> =
            PerCpuHashMap::try_from(map).map_err(error)?;
        let mut over = Vec::new();
        for key in counters.keys() {
            let key = key.map_err(error)?;
            let [a, b, c, d, ..] = key;
            let ifindex = u32::from_ne_bytes([a, b, c, d]);
            if ifindex != 0 && self.tables.pods.get(&ifindex)?.is_none() {
                over.push(key);
            }
        }
        for key in over {
            // Another walker may have deleted it.
            let _ = counters.remove(&key);
        }
        Ok(())
    }

    /// Frees the numbers that have rested since before this sweep began.
    fn release_numbers(&mut self, began: u64) -> Result<u64, BpfError> {
        let released = self.numbers.release(began, |kind, since| match kind {
            // Flows that name it are kept so long to tell their clients.
            SymbolKind::Backend => since + TELL > began,
            SymbolKind::Class | SymbolKind::PolicySet | SymbolKind::Origin | SymbolKind::Service => false,
        })?;
        if released.is_empty() {
            return Ok(0);
        }
        let mut names = (*self.names).clone();
        for (kind, number) in &released {
            match kind {
                SymbolKind::Class => drop(names.classes.remove(number)),
                SymbolKind::PolicySet => drop(names.sets.remove(number)),
                SymbolKind::Origin => drop(names.origins.remove(number)),
                SymbolKind::Service => drop(self.flows.round_robin.delete(number)?),
                SymbolKind::Backend => {}
            }
        }
        if names != *self.names {
            self.names = names.into();
        }
        Ok(released.len() as u64)
    }

    /// Flows of this address may be left over.
    pub(super) fn note_gone(&mut self, address: &AddrKey) {
        let now = self.numbers.now;
        if let Some(gone) = &mut self.gone {
            gone.insert(*address, now);
        }
    }

    /// Forgets every flow of an address that is another pod's from now on.
    pub(super) fn forget_flows_of(&mut self, address: &AddrKey) -> Result<(), BpfError> {
        if self.gone.as_ref().is_some_and(|gone| !gone.contains_key(address)) {
            return Ok(());
        }
        let addr = rows::addr(address.addr);
        let network = address.network.0;
        let Flows { ct, ct_new, service_flows, snat, .. } = &self.flows;
        let is_its = |key: &CtKey| key.network == network && (key.low == addr || key.high == addr);
        delete_where(ct, |key, _| is_its(key))?;
        delete_where(ct_new, |key, _| is_its(key))?;
        delete_where(service_flows, |key, _| key.network == network && key.client == addr)?;
        delete_where(snat, |_, value| value.network == network && value.addr == addr)?;
        if let Some(gone) = &mut self.gone {
            gone.remove(address);
        }
        Ok(())
    }
}

/// Deletes the entries that are over.
pub(super) fn delete_where<K: Plain, V: Plain>(
    table: &Table<K, V>,
    is_over: impl Fn(&K, &V) -> bool,
) -> Result<(), BpfError> {
    let mut over = Vec::new();
    table.for_each(|key, value| {
        if is_over(&key, &value) {
            over.push(key);
        }
    })?;
    over.iter().try_for_each(|key| table.delete(key).map(drop))
}

/// Whether a flow has ended or has been idle for too long.
fn is_over(key: &CtKey, entry: &CtEntry, now: u64, time_wait: u64) -> bool {
    let idle = now.saturating_sub(entry.last_seen);
    let is_answered = entry.flags & abi::CT_REPLIED != 0;
    let limit = match (key.protocol, is_answered) {
        (TCP | SCTP, _) if entry.flags & abi::CT_RST != 0 => CLOSED,
        (TCP, _) if is_closed(entry) => time_wait,
        (TCP, true) => TCP_ESTABLISHED,
        (TCP, false) => TCP_HALF_OPEN,
        (SCTP, true) => SCTP_BOTH_WAYS,
        (SCTP, false) => SCTP_HALF_OPEN,
        (UDP, true) => UDP_BOTH_WAYS,
        (UDP, false) => ONE_WAY,
        (protocol, _) if ICMP.contains(&protocol) => ONE_WAY,
        _ => OTHER,
    };
    idle >= limit
}

fn address(network: u32, addr: abi::Addr) -> AddrKey {
    rows::class_key_back(&abi::ClassKey { network, addr })
}

fn ends(key: &CtKey) -> [AddrKey; 2] {
    [address(key.network, key.low), address(key.network, key.high)]
}

type End = (abi::Addr, u16);

/// (initiator, responder) of a flow.
pub(super) fn by_initiator(key: &CtKey, entry: &CtEntry) -> (End, End) {
    let (low, high) = ((key.low, key.low_port), (key.high, key.high_port));
    if entry.flags & abi::CT_INITIATOR_IS_HIGH != 0 { (high, low) } else { (low, high) }
}

/// The key of a flow between two ends, in the order of the kernel's programs.
fn ct_key(network: u32, a: End, b: End, protocol: u8) -> CtKey {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    CtKey { network, low: low.0, high: high.0, low_port: low.1, high_port: high.1, protocol, pad: [0; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: u8, flags: u32, idle: u64) -> bool {
        let key = ct_key(0, (abi::mapped([10, 0, 0, 1]), 1), (abi::mapped([10, 0, 0, 2]), 2), protocol);
        let now = 100_000 * SECOND;
        let entry = CtEntry { last_seen: now - idle * SECOND, flags, ..CtEntry::zero() };
        is_over(&key, &entry, now, TIME_WAIT)
    }

    #[test]
    fn closed_and_idle_flows_are_over() {
        let replied = abi::CT_REPLIED;
        let both = abi::CT_FIN_INITIATOR | abi::CT_FIN_RESPONDER;
        assert!(!flow(TCP, replied, 21_599));
        assert!(flow(TCP, replied, 21_600));
        assert!(!flow(TCP, replied | abi::CT_FIN_INITIATOR, 600), "half closed lives on");
        assert!(!flow(TCP, replied | both, 65));
        assert!(flow(TCP, replied | both, 66));
        assert!(flow(TCP, abi::CT_RST, 10));
        assert!(!flow(TCP, 0, 119));
        assert!(flow(TCP, 0, 120));
        assert!(!flow(UDP, replied, 179));
        assert!(flow(UDP, replied, 180));
        assert!(flow(UDP, 0, 60));
        assert!(flow(58, replied, 60));
        assert!(!flow(SCTP, replied, 179));
        assert!(flow(SCTP, replied, 180));
        assert!(!flow(SCTP, 0, 119));
        assert!(flow(SCTP, 0, 120));
        assert!(flow(SCTP, replied | abi::CT_RST, 10));
        assert!(!flow(47, 0, 599), "of other protocols nothing is known");
    }

    #[test]
    fn both_directions_have_one_key() {
        let (a, b) = ((abi::mapped([10, 0, 0, 9]), 80), (abi::mapped([10, 0, 0, 1]), 40_000));
        assert_eq!(ct_key(0, a, b, TCP), ct_key(0, b, a, TCP));
        let same = (a.0, 79);
        assert_eq!(ct_key(0, a, same, TCP).low_port, 79);
    }
}
