//! Established flows around the tunnel device: the same bytes on the wire as by the device, and nothing comes in that the
//! device's hook would not let in.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use sheetbend_ebpf_abi::{
    ALGORITHM_RANDOM, HOST_MAC, Hook, MARK_LEARN, MARK_OURS, MODE_HOST_GW, NodeConfig, POD_READY, ROUTE_NODE,
    Reason, RouteEntry, TUNNEL_PORT, TUNNEL_VNI, vtep_mac,
};

use super::Case;
use super::frame::{ACK, Body, FIN, Frame, SYN, read, sum};
use super::node::{
    CLIENT, CLIENT_MAC, DROP, Family, Node, OTHER_MAC, Outcome, PASS, REDIRECT, UPLINK, UPLINK_MAC, addr,
    config,
};

pub(super) const CASES: &[(&str, Case)] = &[
    ("an_established_flow_goes_around_the_tunnel_device", around),
    ("a_services_flow_goes_around_the_tunnel_device", service),
    ("what_the_tunnel_device_must_see_goes_through_it", through),
    ("an_established_flow_comes_in_around_the_tunnel_device", arrives),
    ("no_packet_comes_in_around_the_tunnel_device_unchecked", refused),
];

/// The nodes' addresses under the tunnel.
struct Underlay {
    own: IpAddr,
    other: IpAddr,
    /// Bytes before the inner frame.
    room: usize,
}

/// IPv4 and IPv6 under the tunnel.
fn underlays() -> Result<[Underlay; 2]> {
    let of = |family: Family, room| -> Result<Underlay> {
        Ok(Underlay { own: family.node()?, other: family.of("192.0.2.2", "2001:db8:1::2")?, room })
    };
    Ok([of(Family::V4, 50)?, of(Family::V6, 70)?])
}

impl Underlay {
    /// The other node's pods are behind this VTEP, and one flow with them, from port 4000 to 80, goes both ways.
    fn establish(&self, node: &mut Node) -> Result<()> {
        let via = addr(self.other);
        let route = RouteEntry { kind: ROUTE_NODE, mac: vtep_mac(&via), flags: 0, via };
        node.tables.route(addr("10.1.2.0".parse()?), 96 + 24, route)?;
        node.tables.route(addr("fd00:2::".parse()?), 64, route)?;
        node.tables.clear_flows()?;
        // Its first packets come in by the other mode: a test run has no tunnel key.
        node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
        let (client, remote) = (node.family.client()?, node.family.remote()?);
        let both_ways = [
            (Body::Tcp(4000, 80, SYN, vec![]), Body::Tcp(80, 4000, SYN | ACK, vec![])),
            (Body::Udp(4000, 80, vec![]), Body::Udp(80, 4000, vec![])),
        ];
        for (there, back) in both_ways {
            ensure!(node.client_sends(remote, there)?.verdict == REDIRECT);
            let back = Frame::new(OTHER_MAC, UPLINK_MAC, remote, client, back);
            ensure!(node.run(Hook::FromUplink, UPLINK, &back.bytes())?.verdict == REDIRECT);
        }
        node.tables.config(config())
    }

    /// The frame as the device makes it (RFC 7348 §5), here with `port` as its source.
    fn outer(&self, inner: &[u8], port: u16, away: bool) -> Vec<u8> {
        let vni = TUNNEL_VNI.to_be_bytes();
        let mut bytes = vec![0x08, 0, 0, 0, vni[1], vni[2], vni[3], 0];
        bytes.extend(inner);
        let (from, to, src, dst) = if away {
            (UPLINK_MAC, OTHER_MAC, self.own, self.other)
        } else {
            (OTHER_MAC, UPLINK_MAC, self.other, self.own)
        };
        let mut frame = Frame::new(from, to, src, dst, Body::Udp(port, TUNNEL_PORT, bytes)).bytes();
        if src.is_ipv4() {
            frame[40..42].fill(0);
            if away {
                set_ipv4_byte(&mut frame, 20, 0x40);
            }
        }
        frame
    }

    /// The device sends the packet that `from_pod` gave it, and the uplink's hook learns.
    fn learn(&self, node: &mut Node, sent: &Outcome, port: u16) -> Result<()> {
        ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_LEARN), "not by the device: {sent:?}");
        ensure!(read(&sent.bytes)?.to == vtep_mac(&addr(self.other)), "{sent:?}");
        let outer = self.outer(&sent.bytes, port, true);
        let left = node.run_with(Hook::ToUplink, UPLINK, &outer, MARK_LEARN, 0)?;
        ensure!((left.verdict, left.mark, &left.bytes) == (PASS, MARK_OURS, &outer), "{left:?}");
        Ok(())
    }
}

/// Another value for a byte of the IPv4 header of a frame.
fn set_ipv4_byte(frame: &mut [u8], at: usize, value: u8) {
    frame[at] = value;
    frame[24..26].fill(0);
    let sum = !sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Another ECN field for the IP packet in a frame.
fn set_ecn(frame: &mut [u8], ecn: u8) {
    if frame[12] == 0x08 {
        set_ipv4_byte(frame, 15, ecn);
    } else {
        frame[15] = ecn << 4;
    }
}

fn bodies(size: usize) -> [Body; 2] {
    [Body::Tcp(4000, 80, ACK, vec![3; size]), Body::Udp(4000, 80, vec![4; size])]
}

/// Byte by byte what the device would have sent, for as long and as far as the device has shown the way.
fn around(node: &mut Node) -> Result<()> {
    let (client, remote) = (node.family.client()?, node.family.remote()?);
    for underlay in underlays()? {
        underlay.establish(node)?;
        for (port, body) in (50_000..).zip(bodies(33)) {
            let first = node.client_sends(remote, body.clone())?;
            underlay.learn(node, &first, port)?;
            for ecn in 0..4 {
                let mut frame = Frame::new(CLIENT_MAC, HOST_MAC, client, remote, body.clone()).bytes();
                set_ecn(&mut frame, ecn);
                let sent = node.run(Hook::FromPod, CLIENT, &frame)?;
                ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
                let inner = &sent.bytes[underlay.room..];
                ensure!(read(inner)?.ttl == 63 && read(inner)?.from == HOST_MAC, "{inner:02x?}");
                // RFC 3168 §9.1.1: what a router has marked inside is marked as capable outside.
                let mut expected = underlay.outer(inner, port, true);
                set_ecn(&mut expected, if ecn == 3 { 2 } else { ecn });
                ensure!(sent.bytes == expected, "{:02x?}\n{expected:02x?}", sent.bytes);
            }
            ensure!(node.client_sends(remote, bodies(7)[usize::from(port) & 1].clone())?.mark == MARK_OURS);
        }
        for (port, (short, long)) in (50_000..).zip(bodies(33).into_iter().zip(bodies(34))) {
            let longer = node.client_sends(remote, long.clone())?;
            underlay.learn(node, &longer, port)?;
            for body in [short, long] {
                let sent = node.client_sends(remote, body.clone())?;
                ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
                let around = sent.bytes.len() + 1 >= longer.bytes.len() + underlay.room;
                ensure!(around, "{sent:?}");
            }
        }
        std::thread::sleep(Duration::from_millis(1100));
        for body in bodies(33) {
            ensure!(node.client_sends(remote, body)?.mark == MARK_LEARN, "the device is asked each second");
        }
    }
    ensure!(node.tables.counter(CLIENT, Hook::FromPod, Reason::ToNode)?.packets == 4, "once a flow");
    Ok(())
}

/// The client's node translates both ways.
fn service(node: &mut Node) -> Result<()> {
    let (client, remote, frontend) = (node.family.client()?, node.family.remote()?, node.family.service()?);
    node.service(17, 80, ALGORITHM_RANDOM, 0, &[(1, remote, 8080)])?;
    for underlay in underlays()? {
        underlay.establish(node)?;
        node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
        let asks = Body::Udp(4000, 80, vec![1; 33]);
        ensure!(node.client_sends(frontend, asks.clone())?.verdict == REDIRECT);
        let answers = Body::Udp(8080, 4000, vec![2; 33]);
        let back = Frame::new(OTHER_MAC, UPLINK_MAC, remote, client, answers.clone());
        ensure!(node.run(Hook::FromUplink, UPLINK, &back.bytes())?.verdict == REDIRECT);
        node.tables.config(config())?;
        let first = node.client_sends(frontend, asks.clone())?;
        underlay.learn(node, &first, 50_000)?;
        let sent = node.client_sends(frontend, asks)?;
        ensure!((sent.verdict, sent.mark) == (REDIRECT, MARK_OURS), "{sent:?}");
        ensure!(sent.bytes == underlay.outer(&first.bytes, 50_000, true), "{sent:?}");
        let inner = read(&sent.bytes[underlay.room..])?;
        ensure!((inner.dst, inner.dst_port, inner.ttl) == (remote, 8080, 63), "{inner:?}");
        let back = underlay.outer(&answer(node, &underlay, answers)?.bytes(), 1234, false);
        let arrived = node.run(Hook::FromUplink, UPLINK, &back)?;
        let seen = read(&arrived.bytes)?;
        ensure!((arrived.verdict, seen.to) == (REDIRECT, CLIENT_MAC), "{arrived:?}");
        ensure!((seen.src, seen.src_port, seen.dst) == (frontend, 80, client), "{seen:?}");
    }
    Ok(())
}

/// What is new, special, or leaves in another way than its flow.
fn through(node: &mut Node) -> Result<()> {
    let (client, remote) = (node.family.client()?, node.family.remote()?);
    for underlay in underlays()? {
        underlay.establish(node)?;
        for body in bodies(33) {
            let first = node.client_sends(remote, body)?;
            underlay.learn(node, &first, 50_000)?;
        }
        let plain = |body: Body| Frame::new(CLIENT_MAC, HOST_MAC, client, remote, body);
        let mut special = vec![
            plain(Body::Tcp(4000, 80, ACK | FIN, vec![])),
            plain(Body::Tcp(4000, 81, SYN, vec![])),
            plain(Body::Udp(4001, 80, vec![])),
            plain(Body::Echo(true, 9)),
            Frame { ttl: 1, ..plain(Body::Udp(4000, 80, vec![])) },
            Frame { fragment: Some((7, 0, true)), ..plain(Body::Udp(4000, 80, vec![1; 16])) },
            plain(Body::Udp(4000, 80, vec![1; 1451])),
        ];
        if node.family == Family::V4 {
            special.push(Frame { options: true, ..plain(Body::Udp(4000, 80, vec![])) });
        }
        for frame in special {
            let bytes = frame.bytes();
            let sent = node.run(Hook::FromPod, CLIENT, &bytes)?;
            ensure!(sent.verdict != DROP && sent.bytes.len() == bytes.len(), "{frame:?}: {sent:?}");
        }
        if underlay.own.is_ipv6() {
            // No sum covers the whole of these, so that the outer one cannot be told from the inner one.
            let mut without = plain(Body::Udp(4000, 80, vec![5; 9])).bytes();
            let sum_at = if node.family == Family::V4 { 40 } else { 60 };
            without[sum_at..sum_at + 2].fill(0);
            let trailing = [plain(Body::Tcp(4000, 80, ACK, vec![6; 9])).bytes(), vec![7; 2]].concat();
            let mut short = plain(Body::Udp(4000, 80, vec![8; 9])).bytes();
            short[sum_at - 1] -= 1;
            for bytes in [without, trailing, short] {
                let sent = node.run(Hook::FromPod, CLIENT, &bytes)?;
                ensure!((sent.verdict, sent.bytes.len()) == (REDIRECT, bytes.len()), "{sent:?}");
            }
        }
    }
    Ok(())
}

/// Packets that go both ways around the device, learnt just now.
fn learnt(node: &mut Node, underlay: &Underlay) -> Result<()> {
    underlay.establish(node)?;
    for body in bodies(33) {
        let first = node.client_sends(node.family.remote()?, body)?;
        underlay.learn(node, &first, 50_000)?;
    }
    Ok(())
}

fn answer(node: &Node, underlay: &Underlay, body: Body) -> Result<Frame> {
    let (client, remote) = (node.family.client()?, node.family.remote()?);
    Ok(Frame::new(HOST_MAC, vtep_mac(&addr(underlay.own)), remote, client, body))
}

/// The inner packet, with a hop less, from the node's end of the pod's veth.
fn arrives(node: &mut Node) -> Result<()> {
    for underlay in underlays()? {
        learnt(node, &underlay)?;
        for body in [Body::Tcp(80, 4000, ACK, vec![1; 21]), Body::Udp(80, 4000, vec![2; 1400])] {
            let inner = answer(node, &underlay, body)?;
            let outer = underlay.outer(&inner.bytes(), 1234, false);
            let arrived = node.run(Hook::FromUplink, UPLINK, &outer)?;
            let expected = Frame { ttl: 63, from: HOST_MAC, to: CLIENT_MAC, ..inner };
            ensure!((arrived.verdict, &arrived.bytes) == (REDIRECT, &expected.bytes()), "{arrived:?}");
        }
    }
    ensure!(node.tables.counter(CLIENT, Hook::FromUplink, Reason::Forwarded)?.packets == 0, "nothing is new");
    Ok(())
}

/// The device gets it as it came; its hook drops and counts what must be dropped.
fn refused(node: &mut Node) -> Result<()> {
    for underlay in underlays()? {
        learnt(node, &underlay)?;
        let good = answer(node, &underlay, Body::Udp(80, 4000, vec![2; 33]))?;
        let wrap = |frame: &Frame| underlay.outer(&frame.bytes(), 1234, false);
        let mut left = vec![
            ("another flow", wrap(&answer(node, &underlay, Body::Udp(80, 4001, vec![]))?)),
            ("an end", wrap(&answer(node, &underlay, Body::Tcp(80, 4000, ACK | FIN, vec![]))?)),
            ("ICMP", wrap(&answer(node, &underlay, Body::Echo(false, 9))?)),
            ("too many hops", wrap(&Frame { ttl: 1, ..good.clone() })),
            ("a fragment", wrap(&Frame { fragment: Some((7, 0, true)), ..good.clone() })),
            ("another pod", wrap(&Frame { src: node.family.server()?, ..good.clone() })),
            ("the world", wrap(&Frame { src: node.family.world()?, ..good.clone() })),
            ("too big", wrap(&answer(node, &underlay, Body::Udp(80, 4000, vec![2; 1451]))?)),
        ];
        if node.family == Family::V4 {
            left.push(("options", wrap(&Frame { options: true, ..good.clone() })));
        }
        let stranger = if underlay.own.is_ipv4() { "192.0.2.9" } else { "2001:db8:1::9" }.parse()?;
        let spoofed = Underlay { own: underlay.own, other: stranger, room: underlay.room };
        left.push(("another node", spoofed.outer(&good.bytes(), 1234, false)));
        let vxlan = underlay.room - 8;
        for (what, at, value) in [
            ("another network", vxlan + 6, 2),
            ("no network", vxlan, 0),
            ("another flag", vxlan, 0x0c),
            ("another outer port", vxlan - 5, 0),
            ("a length that ends too soon", vxlan - 3, 40),
            ("neither IPv4 nor IPv6", underlay.room + 13, 0x06),
        ] {
            let mut bytes = wrap(&good);
            bytes[at] = value;
            left.push((what, bytes));
        }
        let mut marked = wrap(&good);
        set_ecn(&mut marked, 3);
        left.push(("congestion", marked));
        left.push(("bytes behind it", [wrap(&good), vec![0; 2]].concat()));
        for (what, bytes) in left {
            let passed = node.run(Hook::FromUplink, UPLINK, &bytes)?;
            ensure!((passed.verdict, passed.mark) == (PASS, 0), "{what}: {passed:?}");
            ensure!(passed.bytes == bytes, "{what} was changed: {passed:?}");
        }
        let outcome = |node: &mut Node| node.run(Hook::FromUplink, UPLINK, &wrap(&good));
        ensure!(outcome(node)?.verdict == REDIRECT, "the flow goes on");
        node.tables.epoch(2)?;
        ensure!(outcome(node)?.verdict == PASS, "nobody has judged it under the policies in force");
        node.tables.epoch(1)?;
        node.pod(CLIENT, 0, 1)?;
        ensure!(outcome(node)?.verdict == PASS, "the pod is not ready");
        node.pod(CLIENT, POD_READY, 1)?;
        node.tables.config(NodeConfig { mode: MODE_HOST_GW, ..config() })?;
        ensure!(outcome(node)?.verdict == PASS, "no tunnel in this mode");
        node.tables.config(config())?;
        std::thread::sleep(Duration::from_millis(1100));
        ensure!(outcome(node)?.verdict == PASS, "nothing has left in plain for a second");
    }
    for reason in [Reason::TunnelSpoofed, Reason::Malformed, Reason::NotReady, Reason::PolicyDenied] {
        let counted = node.tables.counter(CLIENT, Hook::FromUplink, reason)?.packets;
        ensure!(counted == 0, "{} was counted {counted} times, and the device counts again", reason.name());
    }
    Ok(())
}
