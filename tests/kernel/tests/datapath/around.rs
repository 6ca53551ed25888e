//! Established flows between nodes go around the tunnel device: what is on the wire is what the device would send, and
//! nothing gets in that way that does not get in through the device.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use serde_json::Value;
use sheetbend_ebpf_abi::TUNNEL_PORT;
use sheetbend_kernel_tests::program::frame::Body;

use crate::lab::{ECHO, Lab, Place, round_trip};
use crate::tunnel::{NODE_1, NODE_2, through_the_tunnel};

/// What this file tests, in `vxlan` only.
pub(crate) const TESTS: &[crate::Test] = &[
    ("established_flows_go_around_the_tunnel_device", around),
    ("streams_are_whole_around_the_tunnel_device", streams),
    ("around_the_tunnel_device_the_outer_headers_are_the_same", headers),
    ("around_the_tunnel_device_is_no_way_around_its_checks", spoofed),
];

const CONNECT: Duration = Duration::from_secs(3);
/// Round trips of one attempt.
const ROUND_TRIPS: u64 = 2_000;
/// The agents' own packets and a busy machine may spoil one attempt.
const ATTEMPTS: usize = 10;

/// Packets that a node's device has received and sent.
fn packets(node: &Place, device: &str) -> Result<(u64, u64)> {
    let links: Value = serde_json::from_str(&node.ip(&format!("-j -s link show dev {device}"))?)?;
    let count = |way: &str| links[0]["stats64"][way]["packets"].as_u64().context("a count");
    Ok((count("rx")?, count("tx")?))
}

/// What the tunnel device and the uplink of a node have received and sent meanwhile.
fn during(node: &Place, act: impl FnOnce() -> Result<()>) -> Result<[(u64, u64); 2]> {
    let all = || Ok::<_, anyhow::Error>([packets(node, "sb-vxlan")?, packets(node, "eth0")?]);
    let before = all()?;
    act()?;
    let after = all()?;
    Ok([0, 1].map(|at| (after[at].0 - before[at].0, after[at].1 - before[at].1)))
}

/// Nine of ten packets each way do not meet the device, over both protocols.
fn around(lab: &Lab) -> Result<()> {
    let (node, client) = (lab.place("node-1")?, lab.pod("client")?);
    for (from, to) in client.addresses()?.into_iter().zip(lab.pod("far")?.addresses()?) {
        let to = SocketAddr::new(to, ECHO);
        let mut stream = client.connect(to, CONNECT)?;
        let mostly = |what: &str, ask: &mut dyn FnMut(u64) -> Result<()>| -> Result<()> {
            let mut seen = Vec::new();
            for _ in 0..ATTEMPTS {
                let [tunnel, uplink] = during(&node, || (0..ROUND_TRIPS).try_for_each(&mut *ask))?;
                let wire = uplink.0 >= ROUND_TRIPS && uplink.1 >= ROUND_TRIPS;
                if wire && tunnel.0 < ROUND_TRIPS / 10 && tunnel.1 < ROUND_TRIPS / 10 {
                    return Ok(());
                }
                seen.push((tunnel, uplink));
            }
            bail!("{what} to {to}: (received, sent) by the device and by the uplink: {seen:?}")
        };
        mostly("TCP", &mut |number| round_trip(&mut stream, number))?;
        let socket = client.udp(from, to)?;
        mostly("UDP", &mut |number| {
            let sent = number.to_be_bytes();
            let mut answer = [0; 8];
            socket.send(&sent)?;
            socket.recv(&mut answer).with_context(|| format!("datagram {number} to {to}"))?;
            ensure!(answer == sent, "another answer than what was sent");
            Ok(())
        })?;
    }
    Ok(())
}

/// Many bytes there and back at once: the last one that arrived tells that each did.
fn bulk(stream: &TcpStream, size: usize) -> Result<()> {
    let sent: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    let (mut writer, mut reader) = (stream, stream);
    thread::scope(|scope| {
        let sender = scope.spawn(|| writer.write_all(&sent));
        let mut answer = vec![0; size];
        reader.read_exact(&mut answer)?;
        sender.join().map_err(|_| anyhow!("the sender died"))??;
        ensure!(answer == sent, "other bytes came back");
        Ok(())
    })
}

/// Segments of a stream are right, whoever segments them; over IPv4 most of what is sent does not meet the device.
fn streams(lab: &Lab) -> Result<()> {
    const SIZE: usize = 24 << 20;
    let (node, client) = (lab.place("node-1")?, lab.pod("client")?);
    for ip in lab.pod("far")?.addresses()? {
        let stream = client.connect(SocketAddr::new(ip, ECHO), CONNECT)?;
        let mut seen = Vec::new();
        for _ in 0..ATTEMPTS {
            let [tunnel, uplink] =
                during(&node, || bulk(&stream, SIZE).with_context(|| format!("stream to {ip}")))?;
            seen.push((tunnel, uplink));
            if ip.is_ipv6() || uplink.1 > 100 && tunnel.1 * 4 < uplink.1 {
                seen.clear();
                break;
            }
        }
        ensure!(seen.is_empty(), "{ip}: (received, sent) by the device and by the uplink: {seen:?}");
    }
    Ok(())
}

/// Every frame in a namespace, as sent to taps.
fn tap(place: &Place) -> Result<File> {
    place.run(|| {
        let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        setsockopt(&tap, sockopt::RcvBufForce, &(16 << 20))?;
        setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::new(0, 300_000))?;
        Ok(File::from(tap))
    })
}

/// An outer frame of the flow from `inner`'s first to its second end: (what all have in common, IPv4 identification).
fn outer(frame: &[u8], inner: (SocketAddr, SocketAddr)) -> Option<(Vec<u8>, Option<u16>)> {
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let (udp, common) = match word(12)? {
        // All but lengths, identification and sums.
        0x0800 if frame.get(23) == Some(&17) => (34, [0..16, 20..24, 26..38, 40..64]),
        0x86dd if frame.get(20) == Some(&17) => (54, [0..18, 20..58, 62..84, 84..84]),
        _ => return None,
    };
    if word(udp + 2)? != TUNNEL_PORT {
        return None;
    }
    let ip = udp + 16 + 14;
    let (ends, ports) = if inner.0.is_ipv4() { (ip + 12, ip + 20) } else { (ip + 8, ip + 40) };
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let addresses = [octets(inner.0.ip()), octets(inner.1.ip())].concat();
    if frame.get(ends..ends + addresses.len())? != addresses
        || (word(ports)?, word(ports + 2)?) != (inner.0.port(), inner.1.port())
    {
        return None;
    }
    let mut same = Vec::new();
    for range in common {
        same.extend(frame.get(range)?);
    }
    Some((same, if udp == 34 { word(18) } else { None }))
}

/// The uplink's taps see each packet, and cannot tell the device's from ours but by the IPv4 identification.
fn headers(lab: &Lab) -> Result<()> {
    let (node, client) = (lab.place("node-1")?, lab.pod("client")?);
    for (from, to) in client.addresses()?.into_iter().zip(lab.pod("far")?.addresses()?) {
        let mut tap = tap(&node)?;
        let socket = client.udp(from, SocketAddr::new(to, ECHO))?;
        let ends = (socket.local_addr()?, socket.peer_addr()?);
        let sent = 100;
        for number in 0..sent {
            socket.send(&[number; 64])?;
            socket.recv(&mut [0; 64]).with_context(|| format!("datagram {number} to {to}"))?;
        }
        let (mut frame, mut kinds, mut ids, mut seen) = ([0; 2048], BTreeSet::new(), Vec::new(), 0);
        while let Ok(size) = tap.read(&mut frame) {
            if let Some((kind, id)) = outer(&frame[..size], ends) {
                kinds.insert(kind);
                ids.extend(id);
                seen += 1;
            }
        }
        ensure!(seen == usize::from(sent), "{seen} of {sent} frames to {to} were seen on the uplink");
        ensure!(kinds.len() == 1, "frames of one flow to {to} differ: {kinds:02x?}");
        if to.is_ipv4() {
            let ours = ids.iter().filter(|id| **id == 0).count();
            ensure!(ours > 0 && ours < ids.len(), "{ours} of {} frames went around the device", ids.len());
        }
    }
    Ok(())
}

/// A flow that goes around the device: a packet of it that its node did not send is dropped as through the device.
fn spoofed(lab: &Lab) -> Result<()> {
    let (client, node) = (lab.pod("client")?, lab.place("node-2")?);
    let owns = [NODE_2, NODE_1].map(|node| node.map(str::parse::<IpAddr>));
    for (family, (from, to)) in client.addresses()?.into_iter().zip(lab.pod("far")?.addresses()?).enumerate()
    {
        let socket = client.udp(from, SocketAddr::new(to, ECHO))?;
        // The outer header of the other family: the pod is behind the node's address of its own.
        let [own, other] = owns.clone().map(|addresses| addresses[1 - family].clone());
        let tunnel = node.udp(own?, SocketAddr::new(other?, TUNNEL_PORT))?;
        let body = Body::Udp(ECHO, socket.local_addr()?.port(), vec![6; 8]);
        let packet = through_the_tunnel(to, from, body)?;
        let reason = lab.drop_reason(to, from, || {
            for _ in 0..20 {
                socket.send(b"?")?;
                let mut answer = [0; 8];
                let size = socket.recv(&mut answer).with_context(|| format!("{to} does not answer"))?;
                ensure!(answer[..size] == *b"?", "what was not sent by {to} has arrived");
            }
            tunnel.send(&packet)?;
            Ok(())
        })?;
        ensure!(reason == "tunnel_spoofed", "{to}: the reason is {reason}");
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        ensure!(socket.recv(&mut [0; 8]).is_err(), "what was not sent by {to} has arrived");
    }
    Ok(())
}
