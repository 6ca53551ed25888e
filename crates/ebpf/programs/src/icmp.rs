//! ICMP errors (RFC 792, RFC 4443 §3): found by the packet they quote, translated back inside and outside, and passed as
//! part of that packet's flow. The quoted transport checksum is translated too, where the quotation reaches it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use sheetbend_ebpf_abi::{
    CT_HAIRPIN, CT_MASQUERADED, CT_OUTSIDE, CT_SERVICE, CtEntry, Hook, Reason, SERVICE_FLOW_DIRECT,
};

use crate::{
    conntrack,
    deliver::{self, pod, to_stack},
    direct,
    forward::{config, route},
    hook, link, outside,
    packet::{
        DIRECT, DROP, ICMP, ICMPV6, Ip, MAPPED, OUTSIDE, OWN, PASS, Packet, SCTP, TCP, UDP, is_hairpin, same,
        words,
    },
    parse::load,
    refuse::fold,
    rewrite::{self, End, difference},
    service, snat, stage,
    uplink::{check_origin, node_address},
};

/// The quoted packet.
struct Quoted {
    src: Ip,
    dst: Ip,
    src_port: u16,
    dst_port: u16,
    /// Offset of its IP header in the frame.
    header: u32,
    /// Offset of its transport header in the frame.
    transport: u32,
    /// Offset of its transport checksum in the frame; 0 = none, or cut off.
    checksum: u32,
    protocol: u8,
}

/// Goes on with an ICMP error at any hook: to the uplink it leaves; elsewhere what a translation of ours has put into
/// the quoted packet is undone first.
///
/// # Errors
/// The reasons of the hook for an error about an untracked packet.
#[inline(always)]
pub fn error(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let hook = packet.hook;
    let Some(mut quoted) = quoted(ctx, packet) else { return untracked(ctx, packet) };
    if hook == Hook::ToUplink as u32 {
        return leave(ctx, packet, &mut quoted);
    }
    let is_direct = packet.has(DIRECT);
    let is_for_receiver = hook == Hook::FromTunnel as u32 && (packet.to == 0 || is_direct);
    if (hook == Hook::FromUplink as u32 || is_for_receiver)
        && let Some(verdict) = receiver(ctx, packet, &mut quoted)?
    {
        return Ok(verdict);
    }
    stage::call(ctx, stage::ICMP_FLOW);
    Ok(DROP)
}

/// Finds the pod that an error by the uplink or the tunnel is for, and puts its own ends into it. A verdict: there is none.
#[inline(always)]
fn receiver(ctx: &TcContext, packet: &mut Packet, quoted: &mut Quoted) -> Result<Option<i32>, Reason> {
    let config = config()?;
    let by_tunnel = packet.hook == Hook::FromTunnel as u32;
    let is_direct = packet.has(DIRECT);
    let is_own = !is_direct && same(&packet.dst, &node_address(packet, config));
    if is_own && undo_masquerade(ctx, packet, quoted)? {
        return Ok(None);
    }
    if !by_tunnel
        && !is_own
        && let Some(ifindex) = deliver::local(packet.network, &packet.dst)
    {
        packet.to = ifindex;
        return Ok(if check_origin(ctx, packet, config)? { None } else { Some(to_stack(ctx)) });
    }
    // An external address leads to it, if not the node's own.
    if (is_direct || is_own || !by_tunnel) && undo_service(ctx, packet, quoted)? {
        return Ok(None);
    }
    if is_direct {
        return Err(Reason::NotDirect);
    }
    if by_tunnel { hook::without_pod(ctx, packet).map(Some) } else { Ok(Some(PASS)) }
}

/// Goes on with an ICMP error that names the ends of a flow.
///
/// # Errors
/// The reasons of the hook for an error about an untracked packet.
#[inline(always)]
pub fn tracked(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let Some(mut quoted) = quoted(ctx, packet) else { return untracked(ctx, packet) };
    let Some((entry, from_initiator)) = flow(packet, &quoted) else { return untracked(ctx, packet) };
    if packet.has(OUTSIDE) {
        return to_client(ctx, packet, &mut quoted, entry, from_initiator);
    }
    if packet.hook == Hook::FromPod as u32 {
        let sender = pod(packet.from)?;
        let own = if packet.is_v6() { words(&sender.ipv6) } else { words(&sender.ipv4) };
        if !same(&quoted.dst, &own) {
            return untracked(ctx, packet);
        }
        let to = if is_hairpin(&packet.dst) {
            Some(packet.from)
        } else {
            deliver::local(packet.network, &packet.dst)
        };
        match to {
            Some(ifindex) => packet.to = ifindex,
            None => return Ok(to_stack(ctx)),
        }
    }
    arrive(ctx, packet, &mut quoted, entry, from_initiator)
}

/// An error about a packet that no flow has: it is judged as traffic without ports.
#[inline(always)]
fn untracked(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let hook = packet.hook;
    if packet.has(DIRECT) {
        return Err(Reason::NotDirect);
    }
    if hook == Hook::FromPod as u32 {
        link::check_source(packet, pod(packet.from)?)?;
        stage::call(ctx, stage::SERVICE);
        return Ok(DROP);
    }
    if hook == Hook::FromUplink as u32 {
        stage::call(ctx, stage::WORLD);
        return Ok(DROP);
    }
    if hook == Hook::ToUplink as u32 {
        if deliver::local(packet.network, &packet.src).is_some()
            && route(packet.network, &packet.dst).is_none()
        {
            stage::call(ctx, stage::SNAT);
            return Ok(DROP);
        }
        return Ok(PASS);
    }
    if packet.has(OWN) {
        return Ok(PASS);
    }
    if packet.to == 0 {
        return hook::without_pod(ctx, packet);
    }
    stage::call(ctx, stage::DELIVER);
    Ok(DROP)
}

/// Delivers the error to the pod at `packet.to`, in the words of that pod: it knows the Service, not the backend.
#[inline(always)]
fn arrive(
    ctx: &TcContext,
    packet: &mut Packet,
    quoted: &mut Quoted,
    entry: &CtEntry,
    from_initiator: bool,
) -> Result<i32, Reason> {
    let target = pod(packet.to)?;
    let (mut source, mut source_port) = (quoted.src, quoted.src_port);
    if from_initiator && entry.flags & CT_SERVICE != 0 {
        let (frontend, port) = (words(&entry.frontend), entry.frontend_port);
        if same(&packet.src, &quoted.dst) {
            rewrite::replace(ctx, packet, End::Source, frontend, 0)?;
        }
        replace_quoted(ctx, packet, quoted, End::Destination, frontend, port)?;
        source_port = entry.client_port;
    }
    if from_initiator && entry.flags & CT_HAIRPIN != 0 {
        source = if packet.is_v6() { words(&target.ipv6) } else { words(&target.ipv4) };
        if is_hairpin(&packet.dst) {
            rewrite::replace(ctx, packet, End::Destination, source, 0)?;
        }
    }
    if source_port != quoted.src_port || !same(&source, &quoted.src) {
        replace_quoted(ctx, packet, quoted, End::Source, source, source_port)?;
    }
    if packet.hook == Hook::ToPod as u32 {
        return Ok(PASS);
    }
    if packet.ttl <= 1 {
        return Ok(DROP);
    }
    deliver::redirect(ctx, packet, target)
}

/// An error about a reply to a masqueraded flow goes out: the remote end knows the node's address only.
#[inline(always)]
fn leave(ctx: &TcContext, packet: &mut Packet, quoted: &mut Quoted) -> Result<i32, Reason> {
    let Some((entry, from_initiator)) = flow(packet, quoted) else { return untracked(ctx, packet) };
    if from_initiator && entry.flags & CT_OUTSIDE != 0 {
        to_frontend(ctx, packet, quoted, entry)?;
        return Ok(PASS);
    }
    if from_initiator || entry.flags & CT_MASQUERADED == 0 {
        return Ok(PASS);
    }
    let node = node_address(packet, config()?);
    let port = entry.nat_port;
    if deliver::local(packet.network, &packet.src).is_some() {
        rewrite::replace(ctx, packet, End::Source, node, 0)?;
    }
    replace_quoted(ctx, packet, quoted, End::Destination, node, port)?;
    Ok(PASS)
}

/// Gives an error about a masqueraded packet the pod as its destination, inside and outside.
#[inline(always)]
fn undo_masquerade(ctx: &TcContext, packet: &mut Packet, quoted: &mut Quoted) -> Result<bool, Reason> {
    if !same(&quoted.src, &packet.dst) {
        return Ok(false);
    }
    let outer = packet.protocol;
    packet.protocol = quoted.protocol;
    let key = snat::key(packet, &quoted.dst, quoted.dst_port, &quoted.src, quoted.src_port);
    packet.protocol = outer;
    // SAFETY: copied at once; a racing writer writes whole words.
    let Some(value) = snat::find(&key).map(|value| unsafe { *value }) else { return Ok(false) };
    let ip = words(&value.addr);
    packet.network = value.network;
    match deliver::local(packet.network, &ip) {
        Some(ifindex) => packet.to = ifindex,
        None => packet.flags |= OUTSIDE,
    }
    rewrite::replace(ctx, packet, End::Destination, ip, 0)?;
    replace_quoted(ctx, packet, quoted, End::Source, ip, value.port)?;
    Ok(true)
}

/// Gives an error about an answer of a pod to a client elsewhere that pod as its destination, inside and outside: the
/// client and the routers on its side know the frontend only. Where another node's pod answers the client itself, the
/// error goes there as it came.
#[inline(always)]
fn undo_service(ctx: &TcContext, packet: &mut Packet, quoted: &mut Quoted) -> Result<bool, Reason> {
    if !same(&quoted.src, &packet.dst) {
        return Ok(false);
    }
    let (client, frontend) = ((&quoted.dst, quoted.dst_port), (&quoted.src, quoted.src_port));
    let key = service::flow_key(packet.network, quoted.protocol, client, frontend);
    let flow = service::known(&key);
    packet.client_port = quoted.dst_port;
    if packet.has(DIRECT) {
        // SAFETY: read at once; a racing writer writes whole words.
        if let Some(flow) = flow.map(|flow| unsafe { &*flow })
            && direct::is_moved(flow)
        {
            packet.client_port = flow.source_port;
        }
    } else {
        // SAFETY: as above.
        let Some(flow) = flow.map(|flow| unsafe { &*flow }) else { return Ok(false) };
        let is_direct = flow.flags & SERVICE_FLOW_DIRECT != 0;
        packet.client_port = flow.source_port;
        let Some(backend) = service::backend(flow.backend) else { return Ok(false) };
        packet.chosen = words(&backend.addr);
        packet.chosen_port = backend.port;
        match deliver::local(packet.network, &packet.chosen) {
            Some(ifindex) => packet.to = ifindex,
            None if is_direct => {
                packet.dst = packet.chosen;
                packet.dst_port = packet.chosen_port;
                stage::call(ctx, stage::SEND_DIRECT);
                return Err(Reason::NotReady);
            }
            None => return Ok(false),
        }
    }
    let (ip, port, source_port) = (packet.chosen, packet.chosen_port, packet.client_port);
    rewrite::replace(ctx, packet, End::Destination, ip, 0)?;
    replace_quoted(ctx, packet, quoted, End::Source, ip, port)?;
    if source_port != quoted.dst_port {
        let ip = quoted.dst;
        replace_quoted(ctx, packet, quoted, End::Destination, ip, source_port)?;
    }
    Ok(true)
}

/// An error about a client's packet to a backend on another node goes back to the client.
#[inline(always)]
fn to_client(
    ctx: &TcContext,
    packet: &mut Packet,
    quoted: &mut Quoted,
    entry: &CtEntry,
    from_initiator: bool,
) -> Result<i32, Reason> {
    if !from_initiator || entry.flags & CT_OUTSIDE == 0 || packet.ttl <= 1 {
        return Ok(DROP);
    }
    to_frontend(ctx, packet, quoted, entry)?;
    outside::by_routes(ctx, packet, config()?)
}

/// An error about a client's packet names the frontend, which is all that the client knows.
#[inline(always)]
fn to_frontend(
    ctx: &TcContext,
    packet: &mut Packet,
    quoted: &mut Quoted,
    entry: &CtEntry,
) -> Result<(), Reason> {
    let (frontend, port) = (words(&entry.frontend), entry.frontend_port);
    if same(&packet.src, &quoted.dst) {
        rewrite::replace(ctx, packet, End::Source, frontend, 0)?;
    }
    replace_quoted(ctx, packet, quoted, End::Destination, frontend, port)?;
    if entry.client_port != quoted.src_port {
        let (ip, port) = (quoted.src, entry.client_port);
        replace_quoted(ctx, packet, quoted, End::Source, ip, port)?;
    }
    Ok(())
}

/// The quoted packet's flow, and whether its initiator sent that packet.
#[inline(always)]
fn flow(packet: &mut Packet, quoted: &Quoted) -> Option<(&'static mut CtEntry, bool)> {
    let outer = (packet.src, packet.dst, packet.src_port, packet.dst_port, packet.protocol);
    (packet.src, packet.dst) = (quoted.src, quoted.dst);
    (packet.src_port, packet.dst_port) = (quoted.src_port, quoted.dst_port);
    packet.protocol = quoted.protocol;
    conntrack::make_key(packet);
    let found =
        conntrack::find(packet).map(|(entry, _)| (conntrack::is_from_initiator(packet, entry), entry));
    (packet.src, packet.dst, packet.src_port, packet.dst_port, packet.protocol) = outer;
    found.map(|(from_initiator, entry)| (entry, from_initiator))
}

/// Reads the quoted headers; none when they are cut short or of a later fragment.
#[inline(always)]
fn quoted(ctx: &TcContext, packet: &mut Packet) -> Option<Quoted> {
    let skb = ctx.skb.skb;
    let header = packet.transport as u32 + 8;
    let mut ip = [0_u32; 5];
    load(skb, header, &mut ip).ok()?;
    let mut found;
    if packet.is_v6() {
        let mut rest = [0_u32; 5];
        load(skb, header + 20, &mut rest).ok()?;
        found = Quoted {
            src: [ip[2], ip[3], ip[4], rest[0]],
            dst: [rest[1], rest[2], rest[3], rest[4]],
            src_port: 0,
            dst_port: 0,
            header,
            transport: header + 40,
            checksum: 0,
            protocol: (ip[1] >> 16) as u8,
        };
        if found.protocol == 44 {
            let mut fragment = [0_u32; 2];
            load(skb, found.transport, &mut fragment).ok()?;
            if u16::from_be((fragment[0] >> 16) as u16) & 0xfff8 != 0 {
                return None;
            }
            found.protocol = fragment[0] as u8;
            found.transport += 8;
        }
    } else {
        if u16::from_be((ip[1] >> 16) as u16) & 0x1fff != 0 {
            return None;
        }
        found = Quoted {
            src: [0, 0, MAPPED, ip[3]],
            dst: [0, 0, MAPPED, ip[4]],
            src_port: 0,
            dst_port: 0,
            header,
            transport: header + (ip[0] & 0x0f) * 4,
            checksum: 0,
            protocol: (ip[2] >> 8) as u8,
        };
    }
    let mut transport = [0_u32; 2];
    load(skb, found.transport, &mut transport).ok()?;
    match found.protocol {
        TCP | UDP | SCTP => {
            found.checksum = match found.protocol {
                UDP => found.transport + 6,
                TCP if found.transport + 18 <= packet.len => found.transport + 16,
                _ => 0,
            };
            found.src_port = u16::from_be(transport[0] as u16);
            found.dst_port = u16::from_be((transport[0] >> 16) as u16);
        }
        ICMP | ICMPV6 => {
            let kind = transport[0] as u8;
            if !matches!((found.protocol, kind), (ICMP, 0 | 8) | (ICMPV6, 128 | 129)) {
                return None; // No errors about errors.
            }
            found.checksum = found.transport + 2;
            found.src_port = u16::from_be(transport[1] as u16);
            found.dst_port = found.src_port;
        }
        _ => {}
    }
    Some(found)
}

/// Puts `ip` and `port` in place of one end of the quoted packet, and mends its checksums and the ICMP checksum.
#[inline(always)]
fn replace_quoted(
    ctx: &TcContext,
    packet: &Packet,
    quoted: &mut Quoted,
    end: End,
    ip: Ip,
    port: u16,
) -> Result<(), Reason> {
    let skb = ctx.skb.skb;
    let source = end == End::Source;
    let checksum = packet.transport as u32 + 2;
    let (old_ip, old_port) =
        if source { (quoted.src, quoted.src_port) } else { (quoted.dst, quoted.dst_port) };
    let inside = match quoted.protocol {
        ICMP | ICMPV6 => 4,
        _ if source => 0,
        _ => 2,
    };
    let ports = (old_port as u32) << 16 | port as u32;
    let offsets = checksum << 16 | quoted.checksum & 0xffff;
    let mut failed = mend_quoted(skb, offsets, quoted.protocol, difference(&old_ip, &ip), ports);
    let new = ip;
    // SAFETY: plain values and locals of the named sizes.
    failed |= unsafe {
        if packet.is_v6() {
            let at = quoted.header + if source { 8 } else { 24 };
            bpf_l4_csum_replace(skb, checksum, 0, difference(&old_ip, &new), 0)
                | bpf_skb_store_bytes(skb, at, new.as_ptr().cast(), 16, 0)
        } else {
            // The quoted header's checksum makes up for the address: the ICMP checksum stays.
            let at = quoted.header + if source { 12 } else { 16 };
            bpf_l3_csum_replace(skb, quoted.header + 10, old_ip[3] as u64, new[3] as u64, 4)
                | bpf_skb_store_bytes(skb, at, core::ptr::from_ref(&new[3]).cast(), 4, 0)
        }
    };
    if old_port != port {
        let (old, new) = (old_port.to_be(), port.to_be());
        // SAFETY: as above.
        failed |= unsafe {
            bpf_l4_csum_replace(skb, checksum, old as u64, new as u64, 2)
                | bpf_skb_store_bytes(skb, quoted.transport + inside, core::ptr::from_ref(&new).cast(), 2, 0)
        };
    }
    if source {
        (quoted.src, quoted.src_port) = (ip, port);
    } else {
        (quoted.dst, quoted.dst_port) = (ip, port);
    }
    if failed != 0 { Err(Reason::Malformed) } else { Ok(()) }
}

/// Mends the quoted transport checksum (RFC 1624) where addresses change by `addresses`, and the port in the upper half
/// of `ports` becomes the one in the lower; mends the ICMP checksum for that. `offsets`: of the ICMP checksum in the
/// upper half, of the quoted one in the lower, 0 = none. Not 0: it failed.
///
/// A function of its own: copies of it in one program are too much for the verifier.
#[inline(never)]
fn mend_quoted(skb: *mut __sk_buff, offsets: u32, protocol: u8, addresses: u64, ports: u32) -> i64 {
    let (outer, checksum) = (offsets >> 16, offsets & 0xffff);
    if checksum == 0 {
        return 0;
    }
    let mut old = 0_u16;
    // SAFETY: a local of the named size.
    let failed = unsafe { bpf_skb_load_bytes(skb.cast(), checksum, core::ptr::from_mut(&mut old).cast(), 2) };
    // RFC 768: 0 means none.
    if failed != 0 || protocol == UDP && old == 0 {
        return failed;
    }
    // ICMP over IPv4 has no pseudo header.
    let addresses = if protocol == ICMP { 0 } else { addresses };
    let (old_port, port) = (((ports >> 16) as u16).to_be(), (ports as u16).to_be());
    let sum = (!old) as u64 + addresses + (!old_port) as u64 + port as u64;
    let mut new = fold(sum);
    if protocol == UDP && new == 0 {
        new = 0xffff;
    }
    // SAFETY: as above.
    unsafe {
        bpf_l4_csum_replace(skb, outer, old as u64, new as u64, 2)
            | bpf_skb_store_bytes(skb, checksum, core::ptr::from_ref(&new).cast(), 2, 0)
    }
}
