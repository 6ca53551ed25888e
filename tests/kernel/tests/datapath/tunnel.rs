//! What comes through the tunnel is from the node that sent it, or it is dropped.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sheetbend_ebpf_abi::{TUNNEL_PORT, TUNNEL_VNI, mapped, vtep_mac};
use sheetbend_kernel_tests::program::frame::{Body, Frame};

use crate::lab::{ANSWER, Both, ECHO, Lab};

/// What this file tests, in `vxlan` only.
pub(crate) const TESTS: &[crate::Test] = &[("the_tunnel_is_no_way_around", no_way_around)];

/// The nodes' addresses; the tunnel's outer packets are IPv4.
pub(crate) const NODE_1: [&str; 2] = ["172.30.0.11", "fd00:30::11"];
pub(crate) const NODE_2: [&str; 2] = ["172.30.0.12", "fd00:30::12"];
const WORLD: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

/// A packet inside VXLAN (RFC 7348) to a pod of the first node.
pub(crate) fn through_the_tunnel(from: IpAddr, to: IpAddr, body: Body) -> Result<Vec<u8>> {
    let vni = TUNNEL_VNI.to_be_bytes();
    let mut bytes = vec![0x08, 0, 0, 0, vni[1], vni[2], vni[3], 0];
    let device = vtep_mac(&mapped(NODE_1[0].parse::<Ipv4Addr>()?.octets()));
    bytes.extend(Frame::new([2, 0, 0, 0, 0, 9], device, from, to, body).bytes());
    Ok(bytes)
}

/// The other node may send as itself, in either family, and as nobody else.
fn no_way_around(lab: &Lab) -> Result<()> {
    let (node, near) = (lab.place("node-2")?, lab.pod("near")?.addresses()?);
    let client: Both = lab.pod("client")?.addresses()?;
    let tunnel = node.udp(NODE_2[0].parse()?, SocketAddr::new(NODE_1[0].parse()?, TUNNEL_PORT))?;
    for (family, to) in near.into_iter().enumerate() {
        let own = node.udp(NODE_2[family].parse()?, SocketAddr::new(to, ECHO))?;
        own.set_read_timeout(Some(Duration::from_millis(200)))?;
        let body = |from: u16| Body::Udp(from, ECHO, vec![7; 8]);
        let packet = through_the_tunnel(NODE_2[family].parse()?, to, body(own.local_addr()?.port()))?;
        let end = Instant::now() + ANSWER;
        loop {
            tunnel.send(&packet)?;
            if own.recv(&mut [0; 8]).is_ok() {
                break;
            }
            if Instant::now() > end {
                bail!("the node's own address, {}, is not heard by {to}", own.local_addr()?);
            }
        }
        for stranger in [NODE_1[family].parse()?, client[family], WORLD[family].parse()?] {
            let packet = through_the_tunnel(stranger, to, body(4000))?;
            let reason = lab.drop_reason(stranger, to, || {
                tunnel.send(&packet)?;
                Ok(())
            })?;
            ensure!(reason == "tunnel_spoofed", "as {stranger}: the reason is {reason}");
        }
    }
    Ok(())
}
