//! Services: which backend a client's packet goes to.

use aya_ebpf::{
    bindings::BPF_ANY, helpers::generated::bpf_get_prandom_u32, maps::lpm_trie::Key, programs::TcContext,
};
use sheetbend_ebpf_abi::{
    AffinityKey, AffinityValue, BACKEND_DRAINING, BackendEntry, CT_IDLE_SECONDS, GROWS_SERVICE_FLOWS,
    NO_ADDR, POD_ASKS_NAMES, ROUTE_NODE_ADDRESS, ROUTE_WITHOUT_NODE_PORTS, Reason, SCOPE_INSIDE, SCOPE_NAMES,
    SERVICE_FLOW_DIRECT, SERVICE_RANGES, SERVICE_SILENT, SERVICE_THIS_NODE, ServiceEntry, ServiceFlowKey,
    ServiceFlowValue, ServiceKey, SourceKey,
};

use crate::{
    balance::{Asker, pick},
    conntrack::{self, Holder, SECOND, now},
    direct,
    forward::route,
    growth,
    maps::{AFFINITY, BACKENDS, PODS, SERVICE_FLOWS, SERVICE_FLOWS_OLD, SERVICES, SOURCES},
    outside,
    packet::{
        DIRECT, DROP, HAIRPIN, Ip, MAPPED, OUTSIDE, Packet, SCTP, SERVICE, TCP, TCP_ACK, TCP_SYN, UDP,
        hairpin, put, same, words,
    },
    rewrite::{self, End},
    stage,
};

/// How many source ports are tried. Of those drawn below, only what other moved flows hold is taken: a client that makes 50
/// connections a second to each of two endpoints finds one in thirty of them held, and all tries fail once in 10^10.
const TRIES: u32 = 8;
/// Source ports that are drawn anew, 16384 to 32767: below those that Linux gives its clients (32768 to 60999), of which a
/// busy client's connections hold many.
const FIRST_DRAWN: u16 = 0x4000;
/// Where name servers are asked (RFC 1035 §4.2).
const DNS: u16 = 53;

/// Translates a packet to a Service, and goes on with its flow.
///
/// # Errors
/// [`Reason::NoEndpoints`], [`Reason::BackendGone`].
#[inline(always)]
pub fn service(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    if packet.has_ports() {
        match names(packet).or_else(|| inside(ctx, packet)) {
            Some(entry) => translate(ctx, packet, entry)?,
            None => past(ctx, packet)?,
        }
    }
    stage::call(ctx, stage::FLOW);
    Ok(DROP)
}

/// A pod sends to an address that is no Service's. Where a flow of the pod through a Service already goes from the same
/// port to the same end, neither we nor the other end could tell the two apart: this one gets another source port, and
/// is kept as if its destination were a frontend.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::MapFull`].
#[inline(always)]
fn past(ctx: &TcContext, packet: &mut Packet) -> Result<(), Reason> {
    let key = own_key(packet);
    let now = now();
    packet.frontend = packet.dst;
    packet.frontend_port = packet.dst_port;
    packet.client_port = packet.src_port;
    let source_port = match moved(packet, &key, now) {
        Some(source_port) => source_port,
        None => {
            let opens = packet.protocol != TCP || packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            if !opens || !conntrack::is_anothers(packet, now) {
                return Ok(());
            }
            let source_port = unheld_port(packet, true, now)?;
            let value = moved_flow(source_port, 0, now);
            keep(&key, &value)?;
            source_port
        }
    };
    packet.backend = 0;
    packet.flags |= SERVICE;
    let source = packet.src;
    rewrite::replace(ctx, packet, End::Source, source, source_port)
}

/// A flow to its own destination or to a backend without a number, from another source port.
#[inline(always)]
pub fn moved_flow(source_port: u16, flags: u16, now: u64) -> ServiceFlowValue {
    ServiceFlowValue { last_seen: now, backend: 0, service: 0, source_port, flags, pad: [0; 4] }
}

/// The source port that [`past`] has given this flow, while an end holds it.
#[inline(always)]
fn moved(packet: &mut Packet, key: &ServiceFlowKey, now: u64) -> Option<u16> {
    // SAFETY: the value stays in place while the program runs; a racing writer writes whole words.
    let flow = unsafe { &mut *known(key)? };
    let source_port = packet.src_port;
    packet.src_port = flow.source_port;
    conntrack::make_key(packet);
    packet.src_port = source_port;
    if flow.backend != 0
        || !conntrack::find(packet).is_some_and(|(entry, _)| conntrack::is_held(packet, entry, now))
    {
        growth::remove(GROWS_SERVICE_FLOWS, &SERVICE_FLOWS, &SERVICE_FLOWS_OLD, key);
        return None;
    }
    if now.saturating_sub(flow.last_seen) > SECOND {
        flow.last_seen = now;
    }
    Some(flow.source_port)
}

/// A source port from which nobody holds a flow to the packet's destination: its own unless `is_own_held`, else a drawn
/// one. Where no try is free, one whose flow is over does: its end may be in TIME-WAIT and answer a second later, or not,
/// and without a port no packet goes at all. SCTP has its own or none.
///
/// # Errors
/// [`Reason::SnatExhausted`].
#[inline(always)]
pub fn unheld_port(packet: &mut Packet, is_own_held: bool, now: u64) -> Result<u16, Reason> {
    let own = packet.src_port;
    let mut found = Err(Reason::SnatExhausted);
    for attempt in 0..TRIES {
        if is_own_held || attempt != 0 {
            if packet.protocol == SCTP {
                break; // Its port cannot be written.
            }
            // SAFETY: no argument, no effect.
            packet.src_port = FIRST_DRAWN | (unsafe { bpf_get_prandom_u32() }) as u16 & (FIRST_DRAWN - 1);
        }
        match conntrack::holder(packet, now) {
            Holder::Nobody => {
                found = Ok(packet.src_port);
                break;
            }
            Holder::Ended if packet.protocol == TCP => found = Ok(packet.src_port),
            Holder::Ended | Holder::Live => {}
        }
    }
    packet.src_port = own;
    found
}

/// The flow with this key.
#[inline(always)]
pub fn known(key: &ServiceFlowKey) -> Option<*mut ServiceFlowValue> {
    growth::find(GROWS_SERVICE_FLOWS, &SERVICE_FLOWS, &SERVICE_FLOWS_OLD, key)
}

/// Remembers a flow.
///
/// # Errors
/// [`Reason::MapFull`].
#[inline(always)]
pub fn keep(key: &ServiceFlowKey, value: &ServiceFlowValue) -> Result<(), Reason> {
    growth::put(GROWS_SERVICE_FLOWS, &SERVICE_FLOWS, &SERVICE_FLOWS_OLD, key, value)
        .map_err(|_| Reason::MapFull)
}

/// The key of a client's flow to what it believes to be the other end.
#[inline(always)]
pub fn flow_key(network: u32, protocol: u8, client: (&Ip, u16), frontend: (&Ip, u16)) -> ServiceFlowKey {
    let mut key = ServiceFlowKey {
        network,
        client: NO_ADDR,
        frontend: NO_ADDR,
        client_port: client.1,
        frontend_port: frontend.1,
        protocol,
        pad: [0; 3],
    };
    put(&mut key.client, client.0);
    put(&mut key.frontend, frontend.0);
    key
}

/// The same of a packet that the client sends.
#[inline(always)]
pub fn own_key(packet: &Packet) -> ServiceFlowKey {
    let (client, frontend) = ((&packet.src, packet.src_port), (&packet.dst, packet.dst_port));
    flow_key(packet.network, packet.protocol, client, frontend)
}

/// The entry of a frontend.
#[inline(always)]
pub fn find(network: u32, addr: &Ip, port: u16, protocol: u8, scope: u8) -> Option<&'static ServiceEntry> {
    let mut key = ServiceKey { network, addr: NO_ADDR, port, protocol, scope };
    put(&mut key.addr, addr);
    // SAFETY: not preallocated, so that the value is whole until the program ends.
    unsafe { SERVICES.get(&key) }
}

/// What stands for every address of the node: `::ffff:0.0.0.0` or `::`.
#[inline(always)]
pub fn any_address(v4: bool) -> Ip {
    [0, 0, if v4 { MAPPED } else { 0 }, 0]
}

/// Where a pod asks that has policies by domain names: the node's name server, whomever the pod means, for it tells the
/// agent of its answers before they leave.
#[inline(always)]
fn names(packet: &Packet) -> Option<&'static ServiceEntry> {
    let asks = packet.dst_port == DNS && (packet.protocol == UDP || packet.protocol == TCP);
    // SAFETY: the value is read at once; a racing writer writes whole words.
    if !asks || unsafe { PODS.get(&packet.from) }.is_none_or(|pod| pod.flags & POD_ASKS_NAMES == 0) {
        return None;
    }
    find(packet.network, &any_address(!packet.is_v6()), DNS, packet.protocol, SCOPE_NAMES)
}

/// The Service that a pod's packet is for: by its own address, or by a node's. Another node's address means the same as
/// long as the Service has the same backends there.
#[inline(always)]
fn inside(ctx: &TcContext, packet: &Packet) -> Option<&'static ServiceEntry> {
    let (network, port, protocol) = (packet.network, packet.dst_port, packet.protocol);
    if let Some(entry) = find(network, &packet.dst, port, protocol, SCOPE_INSIDE) {
        return Some(entry);
    }
    let entry = find(network, &any_address(!packet.is_v6()), port, protocol, SCOPE_INSIDE)?;
    if entry.flags & SERVICE_THIS_NODE == 0
        && let Some(route) = route(network, &packet.dst)
        && route.kind == ROUTE_NODE_ADDRESS
    {
        return (route.flags & ROUTE_WITHOUT_NODE_PORTS == 0).then_some(entry);
    }
    outside::serves(ctx, packet, entry).then_some(entry)
}

/// Sends the packet to a backend of `entry`.
///
/// # Errors
/// [`Reason::NoEndpoints`], [`Reason::NoLocalEndpoints`], [`Reason::BackendGone`], [`Reason::SnatExhausted`],
/// [`Reason::SourceRange`].
#[inline(always)]
pub fn translate(ctx: &TcContext, packet: &mut Packet, entry: &ServiceEntry) -> Result<(), Reason> {
    packet.frontend = packet.dst;
    packet.frontend_port = packet.dst_port;
    packet.client_port = packet.src_port;
    packet.flags |= SERVICE;
    let key = own_key(packet);
    let now = now();
    let kept = kept(packet, &key, entry, now)?;
    let (number, backend, source_port, is_direct) = match kept {
        Some(found) => found,
        None => {
            admit(entry, &packet.src)?;
            let asker = Asker {
                network: packet.network,
                client: &packet.src,
                client_port: packet.src_port,
                port: packet.dst_port,
                protocol: packet.protocol,
            };
            let (number, backend) = choose(entry, &asker, now)?;
            if packet.protocol == SCTP && backend.port != packet.dst_port {
                return Err(Reason::NoEndpoints);
            }
            let source_port = free_port(packet, backend, now)?;
            let is_direct = packet.has(OUTSIDE) && direct::takes(packet, backend);
            let value = ServiceFlowValue {
                last_seen: now,
                backend: number,
                service: entry.service,
                source_port,
                flags: if is_direct { SERVICE_FLOW_DIRECT } else { 0 },
                pad: [0; 4],
            };
            keep(&key, &value)?;
            (number, backend, source_port, is_direct)
        }
    };
    packet.backend = number;
    let (ip, port) = (words(&backend.addr), backend.port);
    if is_direct {
        // Its flow is known by these ends; the packet itself goes on as it came.
        packet.flags |= DIRECT;
        packet.src_port = source_port;
        packet.dst = ip;
        packet.dst_port = port;
        return Ok(());
    }
    let mut source = packet.src;
    if same(&ip, &packet.src) && !packet.has(OUTSIDE) {
        // The pod itself: it would drop a packet from its own address.
        source = hairpin(packet.is_v6());
        packet.flags |= HAIRPIN;
    }
    if packet.has(HAIRPIN) || source_port != packet.src_port {
        rewrite::replace(ctx, packet, End::Source, source, source_port)?;
    }
    rewrite::replace(ctx, packet, End::Destination, ip, port)
}

/// Whether `client` may use the Service.
///
/// # Errors
/// [`Reason::SourceRange`].
#[inline(always)]
fn admit(entry: &ServiceEntry, client: &Ip) -> Result<(), Reason> {
    if entry.flags & SERVICE_RANGES == 0 {
        return Ok(());
    }
    let mut data = SourceKey { service: entry.service.to_be_bytes(), client: NO_ADDR };
    put(&mut data.client, client);
    let key = Key::new(8 * size_of::<SourceKey>() as u32, data);
    // SAFETY: not preallocated, so that the value is whole until the program ends.
    SOURCES.get(&key).map(drop).ok_or(Reason::SourceRange)
}

/// The source port towards the backend: the client's own, or another when one of its other flows, through another
/// Service or to the pod itself, already goes from there to the same backend.
///
/// # Errors
/// [`Reason::SnatExhausted`].
#[inline(always)]
fn free_port(packet: &mut Packet, backend: &BackendEntry, now: u64) -> Result<u16, Reason> {
    let (src, dst, dst_port) = (packet.src, packet.dst, packet.dst_port);
    packet.dst = words(&backend.addr);
    packet.dst_port = backend.port;
    if same(&packet.dst, &src) && !packet.has(OUTSIDE) {
        packet.src = hairpin(packet.is_v6());
    }
    let found = unheld_port(packet, false, now);
    (packet.src, packet.dst, packet.dst_port) = (src, dst, dst_port);
    found
}

/// The backend that this flow already has.
///
/// # Errors
/// [`Reason::BackendGone`] for TCP; a datagram may go elsewhere.
#[inline(always)]
fn kept(
    packet: &mut Packet,
    key: &ServiceFlowKey,
    entry: &ServiceEntry,
    now: u64,
) -> Result<Option<(u32, &'static BackendEntry, u16, bool)>, Reason> {
    let Some(flow) = known(key) else { return Ok(None) };
    // SAFETY: the value stays in place while the program runs; a racing writer writes whole words.
    let flow = unsafe { &mut *flow };
    if flow.service != entry.service {
        return Ok(None);
    }
    let opens = packet.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    let idle = packet.protocol != TCP && now.saturating_sub(flow.last_seen) > CT_IDLE_SECONDS * SECOND;
    if idle {
        return Ok(None);
    }
    let number = flow.backend;
    let Some(backend) = backend(number) else {
        return if packet.protocol == TCP && !opens { Err(Reason::BackendGone) } else { Ok(None) };
    };
    let source_port = flow.source_port;
    if opens && !is_live(packet, backend, source_port) {
        return Ok(None);
    }
    if now.saturating_sub(flow.last_seen) > SECOND {
        flow.last_seen = now;
    }
    let is_direct = flow.flags & SERVICE_FLOW_DIRECT != 0;
    Ok(Some((number, backend, source_port, is_direct)))
}

/// Whether the flow to this backend is tracked and not over: a SYN is then a repetition, not a new connection.
#[inline(always)]
fn is_live(packet: &mut Packet, backend: &BackendEntry, source_port: u16) -> bool {
    let (src, dst, src_port, dst_port) = (packet.src, packet.dst, packet.src_port, packet.dst_port);
    packet.dst = words(&backend.addr);
    packet.dst_port = backend.port;
    packet.src_port = source_port;
    if same(&packet.dst, &src) && !packet.has(OUTSIDE) {
        packet.src = hairpin(packet.is_v6());
    }
    conntrack::make_key(packet);
    (packet.src, packet.dst, packet.src_port, packet.dst_port) = (src, dst, src_port, dst_port);
    conntrack::find(packet).is_some_and(|(entry, _)| !conntrack::is_closed(entry))
}

#[inline(always)]
pub fn backend(number: u32) -> Option<&'static BackendEntry> {
    // SAFETY: not preallocated, so that the value is whole until the program ends.
    unsafe { BACKENDS.get(&number) }
}

/// A backend for a new flow: the client's own, by affinity, or the algorithm's.
///
/// # Errors
/// [`Reason::NoEndpoints`], [`Reason::NoLocalEndpoints`].
#[inline(always)]
pub fn choose(
    entry: &ServiceEntry,
    asker: &Asker<'_>,
    now: u64,
) -> Result<(u32, &'static BackendEntry), Reason> {
    if entry.count == 0 {
        let silent = entry.flags & SERVICE_SILENT != 0;
        return Err(if silent { Reason::NoLocalEndpoints } else { Reason::NoEndpoints });
    }
    if entry.affinity_seconds == 0 {
        return pick(entry, asker).ok_or(Reason::NoEndpoints);
    }
    let mut key = AffinityKey { service: entry.service, network: asker.network, client: NO_ADDR };
    put(&mut key.client, asker.client);
    // SAFETY: the value is read at once; a racing writer writes whole words.
    let last = unsafe { AFFINITY.get(&key) }.map(|value| (value.last_used, value.backend));
    let remembered = match last {
        Some((used, number)) if now.saturating_sub(used) < entry.affinity_seconds as u64 * SECOND => {
            match backend(number) {
                Some(found) if found.flags & BACKEND_DRAINING == 0 => Some((number, found)),
                _ => None,
            }
        }
        _ => None,
    };
    let found = match remembered {
        Some(found) => found,
        None => pick(entry, asker).ok_or(Reason::NoEndpoints)?,
    };
    let value = AffinityValue { last_used: now, backend: found.0, pad: 0 };
    AFFINITY.insert(&key, &value, BPF_ANY as u64).map_err(|_| Reason::MapFull)?;
    Ok(found)
}
