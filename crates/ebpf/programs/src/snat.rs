//! Masquerade: a pod's flow to the world leaves with the node's address and a port of `nat.ports`.

use aya_ebpf::programs::TcContext;
use sheetbend_ebpf_abi::{CT_MASQUERADED, GROWS_SNAT, NO_ADDR, NodeConfig, Reason, SnatKey, SnatValue};

use crate::{
    conntrack::{self, SECOND, now},
    deliver,
    forward::config,
    growth,
    maps::{SNAT, SNAT_OLD},
    outside,
    packet::{ICMP, ICMPV6, Ip, PASS, Packet, SCTP, TCP, UDP, put, same, words},
    rewrite::{self, End},
    uplink::node_address,
};

/// How many ports are tried before the flow is refused.
const TRIES: u32 = 32;

/// Gives a pod's packet to the world the node's address. Replies to flows from outside stay as they are.
///
/// # Errors
/// [`Reason::SnatExhausted`].
#[inline(always)]
pub fn masquerade(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let config = config()?;
    let node = node_address(packet, config);
    if same(&node, &[0; 4]) {
        return Ok(PASS);
    }
    conntrack::make_key(packet);
    let mut kept = None;
    if let Some((entry, _)) = conntrack::find(packet) {
        if !conntrack::is_from_initiator(packet, entry) {
            return outside::restore(ctx, packet, entry);
        }
        if entry.flags & CT_MASQUERADED != 0 {
            kept = Some(entry.nat_port);
        }
    }
    let port = match kept {
        Some(port) if claim(packet, &node, port) => port,
        _ => {
            let port = allocate(packet, &node, config)?;
            note(packet, port);
            port
        }
    };
    rewrite::replace(ctx, packet, End::Source, node, port)?;
    Ok(PASS)
}

/// Keeps the port in the flow's entry. That is looked up again: kept over the tries, each table that it may lie in would
/// have the verifier walk all of them.
#[inline(always)]
fn note(packet: &Packet, port: u16) {
    if let Some((entry, _)) = conntrack::find(packet) {
        entry.flags |= CT_MASQUERADED;
        entry.nat_port = port;
    }
}

/// A port that no other flow to this remote end uses.
#[inline(always)]
fn allocate(packet: &mut Packet, node: &Ip, config: &NodeConfig) -> Result<u16, Reason> {
    // The port of other protocols cannot be rewritten: the flow keeps it, or another pod has it.
    if !matches!(packet.protocol, TCP | UDP | ICMP | ICMPV6) {
        let port = packet.src_port;
        return if claim(packet, node, port) { Ok(port) } else { Err(Reason::SnatExhausted) };
    }
    let count = config.nat_port_count as u32;
    if count == 0 {
        return Err(Reason::SnatExhausted);
    }
    let hash = hash(packet);
    let step = hash >> 16 | 1;
    let mut offset = hash % count;
    for _ in 0..TRIES {
        let port = config.nat_port_first.wrapping_add(offset as u16);
        if claim(packet, node, port) {
            return Ok(port);
        }
        offset = (offset + step) % count;
    }
    Err(Reason::SnatExhausted)
}

/// Whether the port is this flow's, now or already.
#[inline(always)]
fn claim(packet: &Packet, node: &Ip, port: u16) -> bool {
    let key = key(packet, &packet.dst, packet.dst_port, node, port);
    let now = now();
    if let Some(value) = find(&key) {
        // SAFETY: the value stays in place while the program runs; a racing writer writes whole words.
        let value = unsafe { &mut *value };
        let ours = value.network == packet.network
            && value.port == packet.src_port
            && same(&words(&value.addr), &packet.src);
        if ours && now.saturating_sub(value.last_seen) > SECOND {
            value.last_seen = now;
        }
        return ours;
    }
    let mut value =
        SnatValue { last_seen: now, network: packet.network, port: packet.src_port, pad: 0, addr: NO_ADDR };
    put(&mut value.addr, &packet.src);
    growth::claim(GROWS_SNAT, &SNAT, &SNAT_OLD, &key, &value)
}

/// Whose flow that is.
#[inline(always)]
pub fn find(key: &SnatKey) -> Option<*mut SnatValue> {
    growth::find(GROWS_SNAT, &SNAT, &SNAT_OLD, key)
}

/// Key of a flow by its remote end. ICMP has no remote port.
#[inline(always)]
pub fn key(packet: &Packet, remote: &Ip, remote_port: u16, node: &Ip, port: u16) -> SnatKey {
    let has_port = matches!(packet.protocol, TCP | UDP | SCTP);
    let mut key = SnatKey {
        remote: NO_ADDR,
        node: NO_ADDR,
        remote_port: if has_port { remote_port } else { 0 },
        nat_port: port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    put_unaligned(&mut key, remote, node);
    key
}

/// `SnatKey` begins with its addresses and is aligned to 2; on the stack it lies on an 8-byte boundary all the same.
#[inline(always)]
fn put_unaligned(key: &mut SnatKey, remote: &Ip, node: &Ip) {
    for index in 0..4 {
        let at = 4 * index;
        key.remote[at..at + 4].copy_from_slice(&remote[index].to_ne_bytes());
        key.node[at..at + 4].copy_from_slice(&node[index].to_ne_bytes());
    }
}

/// Spreads flows over the ports (the finalizer of MurmurHash3).
#[inline(always)]
fn hash(packet: &Packet) -> u32 {
    let mut hash = packet.src[3]
        ^ packet.dst[3].rotate_left(7)
        ^ packet.src[0].rotate_left(11)
        ^ packet.dst[0].rotate_left(17)
        ^ (packet.src_port as u32) << 16
        ^ packet.dst_port as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// Gives a reply to a masqueraded flow its own destination, and `packet.to`, which is 0 where that is no pod of this
/// node. `false`: it is the node's own.
///
/// # Errors
/// [`Reason::Malformed`].
#[inline(always)]
pub fn translate_back(ctx: &TcContext, packet: &mut Packet, config: &NodeConfig) -> Result<bool, Reason> {
    let fixed = !matches!(packet.protocol, TCP | UDP | ICMP | ICMPV6);
    if !fixed && packet.dst_port.wrapping_sub(config.nat_port_first) >= config.nat_port_count {
        return Ok(false);
    }
    let key = key(packet, &packet.src, packet.src_port, &packet.dst, packet.dst_port);
    let Some(value) = find(&key) else { return Ok(false) };
    // SAFETY: as above.
    let value = unsafe { &mut *value };
    let now = now();
    if now.saturating_sub(value.last_seen) > SECOND {
        value.last_seen = now;
    }
    packet.network = value.network;
    let (ip, port) = (words(&value.addr), value.port);
    rewrite::replace(ctx, packet, End::Destination, ip, port)?;
    if matches!(packet.protocol, ICMP | ICMPV6) {
        packet.src_port = port;
    }
    packet.to = deliver::local(packet.network, &ip).unwrap_or(0);
    Ok(true)
}
