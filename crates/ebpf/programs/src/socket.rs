//! Sockets of processes: a call that names a Service gets a backend in its place, and the process sees the Service in
//! return. It saves the translation of every packet; what pods send by sockets that are not under the cgroup is translated
//! on its way.
//!
//! A program here says 1 (go on) or 0 (refuse).

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    programs::{SockAddrContext, SockContext},
};
use sheetbend_ebpf_abi::{
    ALGORITHM_LEAST_CONNECTIONS, BackendEntry, NO_ADDR, ROUTE_LOCAL, ROUTE_NODE_ADDRESS,
    ROUTE_WITHOUT_NODE_PORTS, Reason, SCOPE_INSIDE, SERVICE_RANGES, SERVICE_THIS_NODE, SOCKET_BACKEND,
    SOCKET_COUNTED, SOCKET_FRONTEND, ServiceEntry, SocketKey, SocketValue, WITHOUT_LOOPBACK, WITHOUT_NODE,
    WITHOUT_ROUTER,
};

use crate::{
    balance::{self, Asker},
    conntrack::now,
    deliver,
    forward::route,
    maps::{CONFIG, SOCKETS},
    outside,
    packet::{Ip, MAPPED, TCP, UDP, put, same, words},
    service::{any_address, backend, choose, find},
    unserved,
};

const GO_ON: i32 = 1;
const REFUSE: i32 = 0;
/// `ECONNREFUSED` of errno.h, as the stack says of a closed port.
const CONNECTION_REFUSED: i32 = 111;
/// ::1.
const LOOPBACK_V6: Ip = [0, 0, 0, 1_u32.to_be()];

/// The address that the call names.
struct Named {
    ip: Ip,
    /// Host order.
    port: u16,
    protocol: u8,
}

#[inline(always)]
fn named(ctx: &SockAddrContext, v6: bool) -> Named {
    let addr: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is valid for the program's whole run; the verifier knows which fields there are.
    unsafe {
        let ip = if v6 {
            let words = &raw const (*addr).user_ip6;
            let word = |index: usize| words.cast::<u32>().add(index).read_volatile();
            [word(0), word(1), word(2), word(3)]
        } else {
            [0, 0, MAPPED, (&raw const (*addr).user_ip4).read_volatile()]
        };
        Named { ip, port: u16::from_be((*addr).user_port as u16), protocol: (*addr).protocol as u8 }
    }
}

/// Puts another address into the call. An IPv4 address goes into an IPv6 socket mapped, as it came.
#[inline(always)]
fn replace(ctx: &SockAddrContext, v6: bool, ip: &Ip, port: u16) {
    let addr = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        if v6 {
            let words = (&raw mut (*addr).user_ip6).cast::<u32>();
            words.write_volatile(ip[0]);
            words.add(1).write_volatile(ip[1]);
            words.add(2).write_volatile(ip[2]);
            words.add(3).write_volatile(ip[3]);
        } else {
            (&raw mut (*addr).user_ip4).write_volatile(ip[3]);
        }
        (&raw mut (*addr).user_port).write_volatile(port.to_be() as u32);
    }
}

#[inline(always)]
fn is_v4(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid for the program's whole run.
    unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) }
}

/// The cookie of the socket's network namespace.
#[inline(always)]
fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid for the program's whole run.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// The Service that the address leads to: by its own address, or by a node's.
#[inline(always)]
fn service(ctx: &SockAddrContext, named: &Named) -> Option<&'static ServiceEntry> {
    // The kernel asks no program where an SCTP socket connects: the packets are translated.
    if !matches!(named.protocol, TCP | UDP) {
        return None;
    }
    if let Some(entry) = find(0, &named.ip, named.port, named.protocol, SCOPE_INSIDE) {
        // A pod's source address is judged on its packet; the node itself is always admitted.
        let only_node = is_loopback(&named.ip) || entry.flags & SERVICE_RANGES != 0;
        return (!only_node || is_node(ctx)).then_some(entry);
    }
    let any = any_address(is_v4(&named.ip));
    let entry = find(0, &any, named.port, named.protocol, SCOPE_INSIDE)?;
    is_named(ctx, named, entry).then_some(entry)
}

/// An address without a frontend. Whether a Service may have it is judged here for processes of the node only: a pod's
/// packets say it themselves.
#[inline(always)]
fn unserved(ctx: &SockAddrContext, named: &Named) -> i32 {
    if !is_node(ctx) {
        return GO_ON;
    }
    let kind = route(0, &named.ip).map_or(0, |route| route.kind);
    match unserved::check(0, &named.ip, kind) {
        Ok(()) => GO_ON,
        Err(reason) => refuse(reason),
    }
}

/// Whether the address is one of this node, or of another where the Service means the same there.
#[inline(always)]
fn is_named(ctx: &SockAddrContext, named: &Named, entry: &ServiceEntry) -> bool {
    let Some(config) = CONFIG.get(0) else { return false };
    let without = outside::without_node_ports(config, entry) >> !is_v4(&named.ip) as u16;
    if is_loopback(&named.ip) {
        return without & WITHOUT_LOOPBACK == 0 && is_node(ctx);
    }
    if same(&named.ip, &words(&config.node_ipv4)) || same(&named.ip, &words(&config.node_ipv6)) {
        return without & WITHOUT_NODE == 0;
    }
    match route(0, &named.ip) {
        Some(route) if route.kind == ROUTE_NODE_ADDRESS => {
            entry.flags & SERVICE_THIS_NODE == 0 && route.flags & ROUTE_WITHOUT_NODE_PORTS == 0
        }
        // The node's router address, as long as no pod has it.
        Some(route) if route.kind == ROUTE_LOCAL => {
            without & WITHOUT_ROUTER == 0 && is_node(ctx) && deliver::local(0, &named.ip).is_none()
        }
        _ => false,
    }
}

/// 127.0.0.0/8 or ::1.
#[inline(always)]
fn is_loopback(ip: &Ip) -> bool {
    is_v4(ip) && u32::from_be(ip[3]) >> 24 == 127 || same(ip, &LOOPBACK_V6)
}

/// Whether the socket is in the node's own network namespace: a pod's loopback is its own.
#[inline(always)]
fn is_node(ctx: &SockAddrContext) -> bool {
    let Some(config) = CONFIG.get(0) else { return false };
    let known = u64::from_ne_bytes(config.netns);
    known != 0 && netns(ctx) == known
}

/// Whom session affinity remembers: the network namespace, since the source address is not yet chosen.
#[inline(always)]
fn client(ctx: &SockAddrContext) -> Ip {
    let cookie = netns(ctx);
    [0xff00_0000_u32.to_be(), 0, cookie as u32, (cookie >> 32) as u32]
}

/// A backend for what the socket begins. Its port is not yet chosen either: the cookie stands for it.
#[inline(always)]
fn choose_for(
    ctx: &SockAddrContext,
    named: &Named,
    entry: &ServiceEntry,
) -> Result<(u32, &'static BackendEntry), Reason> {
    let asker = Asker {
        network: 0,
        client: &client(ctx),
        client_port: cookie(ctx) as u16,
        port: named.port,
        protocol: named.protocol,
    };
    let chosen = choose(entry, &asker, now())?;
    if entry.algorithm == ALGORITHM_LEAST_CONNECTIONS {
        count(cookie(ctx), chosen.0);
    }
    Ok(chosen)
}

/// The socket is a live flow to this backend, and to no earlier one. Its packets do not say whose Service they are for.
#[inline(always)]
fn count(cookie: u64, number: u32) {
    let key = key(cookie, &[0; 4], 0, 0, SOCKET_COUNTED);
    // SAFETY: copied at once; a racing writer writes whole words.
    if let Some(earlier) = unsafe { SOCKETS.get(&key) }.map(|value| value.backend) {
        balance::ended(earlier);
    }
    let value = SocketValue { frontend: NO_ADDR, service: 0, backend: number, port: 0, pad: [0; 6] };
    if SOCKETS.insert(&key, &value, BPF_ANY as u64).is_ok() {
        balance::opened(number);
    }
}

/// A socket is closed for good.
#[inline(always)]
pub fn release(ctx: &SockContext) -> i32 {
    // SAFETY: the context is valid for the program's whole run.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
    let key = key(cookie, &[0; 4], 0, 0, SOCKET_COUNTED);
    // SAFETY: copied at once; a racing writer writes whole words.
    if let Some(backend) = unsafe { SOCKETS.get(&key) }.map(|value| value.backend) {
        let _ = SOCKETS.remove(&key);
        balance::ended(backend);
    }
    GO_ON
}

/// `connect`.
#[inline(always)]
pub fn connect(ctx: &SockAddrContext, v6: bool) -> i32 {
    let named = named(ctx, v6);
    let Some(entry) = service(ctx, &named) else { return unserved(ctx, &named) };
    match choose_for(ctx, &named, entry) {
        Ok((number, chosen)) => {
            let (ip, port) = (words(&chosen.addr), chosen.port);
            remember(ctx, &named, entry, number, (&ip, port), false);
            replace(ctx, v6, &ip, port);
            GO_ON
        }
        Err(reason) => refuse(reason),
    }
}

/// `sendto` and the like on a socket that is not connected: the datagrams to one Service keep their backend.
#[inline(always)]
pub fn send(ctx: &SockAddrContext, v6: bool) -> i32 {
    let named = named(ctx, v6);
    let Some(entry) = service(ctx, &named) else { return unserved(ctx, &named) };
    let key = key(cookie(ctx), &named.ip, named.port, named.protocol, SOCKET_FRONTEND);
    // SAFETY: copied at once; a racing writer writes whole words.
    let kept = unsafe { SOCKETS.get(&key) }.filter(|kept| kept.service == entry.service);
    if let Some(kept) = kept.map(|kept| kept.backend)
        && let Some(found) = backend(kept)
    {
        replace(ctx, v6, &words(&found.addr), found.port);
        return GO_ON;
    }
    match choose_for(ctx, &named, entry) {
        Ok((number, chosen)) => {
            let (ip, port) = (words(&chosen.addr), chosen.port);
            remember(ctx, &named, entry, number, (&ip, port), true);
            replace(ctx, v6, &ip, port);
            GO_ON
        }
        Err(reason) => refuse(reason),
    }
}

/// `recvfrom` and `getpeername`: a backend is called by the name that the process used.
#[inline(always)]
pub fn peer(ctx: &SockAddrContext, v6: bool) -> i32 {
    let named = named(ctx, v6);
    let key = key(cookie(ctx), &named.ip, named.port, named.protocol, SOCKET_BACKEND);
    // SAFETY: copied at once; a racing writer writes whole words.
    if let Some(asked) = unsafe { SOCKETS.get(&key) } {
        let (ip, port) = (words(&asked.frontend), asked.port);
        replace(ctx, v6, &ip, port);
    }
    GO_ON
}

#[inline(always)]
fn refuse(reason: Reason) -> i32 {
    if matches!(reason, Reason::NoEndpoints | Reason::NoServicePort) {
        // SAFETY: a plain value. Without it the process sees EPERM, as for a packet that a firewall drops.
        let _ = unsafe { bpf_set_retval(-CONNECTION_REFUSED) };
    }
    REFUSE
}

#[inline(always)]
fn key(cookie: u64, ip: &Ip, port: u16, protocol: u8, kind: u8) -> SocketKey {
    let mut key = SocketKey { cookie, addr: NO_ADDR, port, protocol, kind, pad: [0; 4] };
    put(&mut key.addr, ip);
    key
}

/// Keeps what the process asked for and what it got. A full table forgets the oldest.
#[inline(always)]
fn remember(
    ctx: &SockAddrContext,
    named: &Named,
    entry: &ServiceEntry,
    number: u32,
    (ip, port): (&Ip, u16),
    both: bool,
) {
    let mut value = SocketValue {
        frontend: NO_ADDR,
        service: entry.service,
        backend: number,
        port: named.port,
        pad: [0; 6],
    };
    put(&mut value.frontend, &named.ip);
    let cookie = cookie(ctx);
    let by_backend = key(cookie, ip, port, named.protocol, SOCKET_BACKEND);
    let _ = SOCKETS.insert(&by_backend, &value, BPF_ANY as u64);
    if both {
        let by_frontend = key(cookie, &named.ip, named.port, named.protocol, SOCKET_FRONTEND);
        let _ = SOCKETS.insert(&by_frontend, &value, BPF_ANY as u64);
    }
}
