//! IP fragments: the first one has the ports, and the later ones find them by the datagram's identification.
//!
//! A later fragment that overtakes its first is dropped, except towards the node itself, whose stack reassembles.

use aya_ebpf::{bindings::BPF_ANY, programs::TcContext};
use sheetbend_ebpf_abi::{FragmentKey, FragmentValue, Hook, NO_ADDR, Reason};

use crate::{
    forward::config,
    maps::FRAGMENTS,
    packet::{DIRECT, DROP, FIRST_FRAGMENT, PASS, Packet, put, same},
    stage,
    uplink::node_address,
};

/// Remembers or finds the ports, and goes on where the hook would.
///
/// # Errors
/// [`Reason::FragmentUnknown`].
#[inline(always)]
pub fn fragment(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Reason> {
    let mut key = FragmentKey {
        network: packet.network,
        id: packet.fragment_id,
        src: NO_ADDR,
        dst: NO_ADDR,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    put(&mut key.src, &packet.src);
    put(&mut key.dst, &packet.dst);
    if packet.has(FIRST_FRAGMENT) {
        let value = FragmentValue { src_port: packet.src_port, dst_port: packet.dst_port };
        FRAGMENTS.insert(&key, &value, BPF_ANY as u64).map_err(|_| Reason::MapFull)?;
    } else {
        // SAFETY: one word, copied at once.
        match unsafe { FRAGMENTS.get(&key) } {
            Some(value) => {
                packet.src_port = value.src_port;
                packet.dst_port = value.dst_port;
            }
            None => {
                let to_node = packet.hook == Hook::FromUplink as u32
                    && same(&packet.dst, &node_address(packet, config()?));
                return if to_node { Ok(PASS) } else { Err(Reason::FragmentUnknown) };
            }
        }
    }
    let slot = if packet.hook == Hook::FromPod as u32 {
        stage::SERVICE
    } else if packet.hook == Hook::FromUplink as u32 {
        stage::WORLD
    } else if packet.hook == Hook::ToUplink as u32 {
        stage::SNAT
    } else if packet.has(DIRECT) {
        stage::SERVE_DIRECT
    } else {
        stage::DELIVER
    };
    stage::call(ctx, slot);
    Ok(DROP)
}
