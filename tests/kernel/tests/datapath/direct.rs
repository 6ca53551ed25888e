//! Direct server return (`services.mode: dsr`) of real agents: the world asks node-1, and a pod of node-2 answers it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use sheetbend_ebpf_abi::{DIRECT_VNI, TUNNEL_PORT, direct_macs, mapped};
use sheetbend_kernel_tests::program::frame::{Body, Frame, read_packet};
use sheetbend_kernel_tests::raw::Raw;

use crate::lab::{ANSWER, Lab, Place, round_trip};
use crate::published::{Ask, CONNECT, ask_tcp, ask_udp};
use crate::restart::{datagrams, requests};
use crate::tunnel::{NODE_1, NODE_2};

/// What this file tests, in `vxlan` only.
pub(crate) const TESTS: &[crate::Test] = &[
    ("direct_answers_keep_the_clients_address", clients_address),
    ("direct_answers_go_past_the_node_that_was_asked", past_the_first_node),
    ("direct_flows_outlive_agents_and_changes_of_mode", outlive),
    ("a_client_port_to_several_frontends_of_a_directly_answering_pod", several_frontends),
    ("icmp_errors_of_directly_answered_flows_find_their_way", icmp_errors),
    ("policy_judges_the_client_of_a_direct_answer", policy),
    ("what_is_passed_on_is_no_way_around", no_way_around),
];

/// Node ports of pod `far`, which is on node-2: who answers, echo twice, a closed port; and of pod `walled`.
const WHO: u16 = 30_083;
const ECHO: u16 = 30_084;
const AGAIN: u16 = 30_085;
const CLOSED: u16 = 30_086;
const WALLED: u16 = 30_087;
/// Node port with pods on both nodes, and the port of theirs.
const EVERYWHERE: u16 = 30_080;
const TARGET: u16 = 8080;

/// Addresses of the world.
const WORLD: [&str; 2] = ["203.0.113.77", "2001:db8::77"];

/// Both agents with `services.mode: dsr`, until dropped.
struct Direct<'a>(&'a Lab);

impl<'a> Direct<'a> {
    fn begin(lab: &'a Lab) -> Result<Self> {
        let direct = Self(lab);
        direct.set("dsr")?;
        Ok(direct)
    }

    fn set(&self, mode: &str) -> Result<()> {
        for node in ["node-1", "node-2"] {
            self.0.configure(node, "services", &format!("services:\n  mode: {mode}\n"))?;
            self.0.sheetbend(&["lab", "node", node, "stop"])?;
            self.0.sheetbend(&["lab", "node", node, "start"])?;
        }
        Ok(())
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.set("snat") {
            eprintln!("{error:#}");
        }
    }
}

/// `[IPv4, IPv6]`.
fn both(texts: [&str; 2]) -> Result<[IpAddr; 2]> {
    Ok([texts[0].parse()?, texts[1].parse()?])
}

fn clients_address(lab: &Lab) -> Result<()> {
    let _direct = Direct::begin(lab)?;
    let world = lab.place("world")?;
    for node in both(NODE_1)?.into_iter().chain(both(NODE_2)?) {
        for ask in [ask_tcp as Ask, ask_udp] {
            for _ in 0..4 {
                let answer = ask(&world, SocketAddr::new(node, WHO))?;
                ensure!(answer.pod == "test/far" && answer.client == answer.own, "by {node}: {answer:?}");
            }
        }
        // Of several endpoints, whichever answers.
        for _ in 0..8 {
            let answer = ask_tcp(&world, SocketAddr::new(node, EVERYWHERE))?;
            ensure!(answer.client == answer.own, "by {node}: {answer:?}");
        }
    }
    // Pods keep their way.
    let client = lab.pod("client")?;
    for node in both(NODE_1)? {
        let answer = ask_tcp(&client, SocketAddr::new(node, WHO))?;
        ensure!(answer.client == answer.own, "{answer:?}");
    }
    Ok(())
}

/// Bytes that a node's uplink has received and sent.
fn carried(node: &Place) -> Result<[u64; 2]> {
    let links: Value = serde_json::from_str(&node.ip("-s -j link show dev eth0")?)?;
    let bytes = |way: &str| links[0]["stats64"][way]["bytes"].as_u64().context("bytes of the uplink");
    Ok([bytes("rx")?, bytes("tx")?])
}

/// A long stream there and back, in segments that the sender's device joins: the first node carries one direction.
fn past_the_first_node(lab: &Lab) -> Result<()> {
    const ROUNDS: usize = 400;
    let _direct = Direct::begin(lab)?;
    let (world, first, second) = (lab.place("world")?, lab.place("node-1")?, lab.place("node-2")?);
    for node in both(NODE_1)? {
        let mut stream = world.connect(SocketAddr::new(node, ECHO), CONNECT)?;
        let before = [carried(&first)?, carried(&second)?];
        let (sent, mut answer) = ([7; 12_000], [0; 12_000]);
        for _ in 0..ROUNDS {
            stream.write_all(&sent)?;
            stream.read_exact(&mut answer)?;
            ensure!(answer == sent, "other bytes came back");
        }
        let after = [carried(&first)?, carried(&second)?];
        let grown = |node: usize, way: usize| after[node][way] - before[node][way];
        let payload = (ROUNDS * sent.len()) as u64;
        for (what, bytes) in [
            ("node-1 receives from the world", grown(0, 0)),
            ("node-1 sends to node-2", grown(0, 1)),
            ("node-2 receives from node-1", grown(1, 0)),
            ("node-2 sends to the world", grown(1, 1)),
        ] {
            ensure!(bytes > payload && bytes < payload * 3 / 2, "{what}: {bytes} bytes of {payload}");
        }
    }
    Ok(())
}

/// Streams and datagrams while agents are restarted and killed, and while the mode changes both ways.
fn outlive(lab: &Lab) -> Result<()> {
    let world = lab.place("world")?;
    let end = Arc::new(AtomicBool::new(false));
    let (mut flows, mut streams) = (Vec::new(), Vec::new());
    let mut more = |what: &'static str| -> Result<()> {
        for (node, own) in both(NODE_1)?.into_iter().zip(both(WORLD)?) {
            let to = SocketAddr::new(node, ECHO);
            let (socket, ended) = (world.udp(own, to)?, Arc::clone(&end));
            flows.push((what, node, thread::spawn(move || datagrams(socket, ended))));
            for _ in 0..4 {
                streams.push((what, requests(&world, to, Arc::clone(&end))?));
            }
        }
        Ok(())
    };
    more("begun with snat")?;
    let dropped = lab.drops()?;
    let direct = Direct::begin(lab)?;
    more("begun with dsr")?;
    for node in ["node-1", "node-2"] {
        for action in ["stop", "start", "kill", "start"] {
            lab.sheetbend(&["lab", "node", node, action])?;
            thread::sleep(Duration::from_millis(200));
        }
    }
    drop(direct);
    thread::sleep(Duration::from_millis(500));
    end.store(true, Ordering::Relaxed);
    for (what, node, flow) in flows {
        let (sent, lost) = flow.join().map_err(|_| anyhow!("a sender died"))??;
        let (first, last) = (lost.first(), lost.last());
        ensure!(lost.is_empty(), "{what}, by {node}: {} of {sent} lost, {first:?} to {last:?}", lost.len());
        ensure!(sent > 100, "{what}, by {node}: only {sent} datagrams");
    }
    for (what, stream) in streams {
        let asked = stream.join().map_err(|_| anyhow!("a stream died"))?.context(what)?;
        ensure!(asked > 20, "{what}: only {asked} requests");
    }
    let now = lab.drops()?;
    ensure!(now == dropped, "packets were dropped: {dropped} → {now}");
    Ok(())
}

/// From one port, two node ports of node-1 and one of node-2 lead to one port of one pod: each answers for itself.
fn several_frontends(lab: &Lab) -> Result<()> {
    let _direct = Direct::begin(lab)?;
    let world = lab.place("world")?;
    for family in 0..2 {
        let (first, second): (IpAddr, IpAddr) = (NODE_1[family].parse()?, NODE_2[family].parse()?);
        let own: IpAddr = WORLD[family].parse()?;
        let socket = world.run(|| Ok(UdpSocket::bind((own, 0))?))?;
        socket.set_read_timeout(Some(CONNECT))?;
        let frontends = [(first, ECHO), (first, AGAIN), (second, ECHO)].map(SocketAddr::from);
        for number in 0..12_u8 {
            for (index, to) in frontends.iter().enumerate() {
                socket.send_to(&[number, index as u8], to)?;
                let mut buffer = [0; 2];
                let (_, from) = socket.recv_from(&mut buffer).with_context(|| format!("from {to}"))?;
                ensure!(from == *to && buffer == [number, index as u8], "{from} answers for {to}");
            }
        }
        let port = socket.local_addr()?.port();
        let streams = frontends.map(|to| world.connect_from((own, port).into(), to));
        for (number, stream) in streams.into_iter().enumerate() {
            round_trip(&mut stream?, number as u64).with_context(|| frontends[number].to_string())?;
        }
    }
    Ok(())
}

/// Of the pod, about the client's datagram; and of a router on the client's side, about the answer.
fn icmp_errors(lab: &Lab) -> Result<()> {
    const MTU: u16 = 1300;
    let _direct = Direct::begin(lab)?;
    let (world, far) = (lab.place("world")?, lab.pod("far")?);
    for (node, own) in both(NODE_1)?.into_iter().zip(both(WORLD)?) {
        let socket = world.udp(own, SocketAddr::new(node, CLOSED))?;
        if own.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        socket.send(b"?")?;
        let Err(error) = socket.recv(&mut [0; 8]) else { bail!("{node} answered at a closed port") };
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{node}: {error}");

        let socket = world.udp(own, SocketAddr::new(node, ECHO))?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 8])?;
        let answer = Body::Udp(ECHO, socket.local_addr()?.port(), vec![0; 1400]);
        let quoted = Frame::new([0; 6], [0; 6], node, own, answer).packet();
        // RFC 1191 §4, RFC 4443 §3.2.
        let (kind, code) = if own.is_ipv4() { (3, 4) } else { (2, 0) };
        let router = world.run(|| Raw::icmp(own))?;
        let end = Instant::now() + ANSWER;
        loop {
            router.send_error(node, (kind, code), MTU, &quoted)?;
            thread::sleep(Duration::from_millis(50));
            let route = far.ip(&format!("route get {own}"))?;
            if route.contains(&format!("mtu {MTU}")) {
                break;
            }
            ensure!(Instant::now() < end, "the pod was not told: {route}");
        }
    }
    far.ip("route flush cache")?;
    far.ip("-6 route flush cache")?;
    Ok(())
}

fn policy(lab: &Lab) -> Result<()> {
    let _direct = Direct::begin(lab)?;
    let world = lab.place("world")?;
    let walled = lab.pod("walled")?.addresses()?;
    for ((node, own), pod) in both(NODE_1)?.into_iter().zip(both(WORLD)?).zip(walled) {
        let reason = lab.drop_reason(own, pod, || {
            let to = SocketAddr::new(node, WALLED);
            let refused = world.connect_from((own, 0).into(), to);
            ensure!(refused.is_err(), "{to} is walled");
            Ok(())
        })?;
        ensure!(reason == "policy_denied", "the reason is {reason}");
    }
    Ok(())
}

/// A packet inside VXLAN that node-1 shall take for one that another node passes on to `backend`.
fn passed_on(from: IpAddr, to: IpAddr, backend: (IpAddr, u16), body: Body) -> Vec<u8> {
    passed_on_frame(Frame::new([0; 6], [0; 6], from, to, body), backend)
}

fn passed_on_frame(frame: Frame, backend: (IpAddr, u16)) -> Vec<u8> {
    let vni = DIRECT_VNI.to_be_bytes();
    let mut bytes = vec![0x08, 0, 0, 0, vni[1], vni[2], vni[3], 0];
    let address = match backend.0 {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    };
    let [to, from] = direct_macs(&address, backend.1);
    bytes.extend(Frame { to, from, ..frame }.bytes());
    bytes
}

/// Also without the mode: what others pass on is always taken.
fn no_way_around(lab: &Lab) -> Result<()> {
    let (node, world) = (lab.place("node-2")?, lab.place("world")?);
    let tunnel = node.udp(NODE_2[0].parse()?, SocketAddr::new(NODE_1[0].parse()?, TUNNEL_PORT))?;
    let stranger = world.udp("172.30.0.1".parse()?, SocketAddr::new(NODE_1[0].parse()?, TUNNEL_PORT))?;
    let (near, client) = (lab.pod("near")?.addresses()?, lab.pod("client")?.addresses()?);
    let far = lab.pod("far")?.addresses()?;
    for family in 0..2 {
        let (own, second): (IpAddr, IpAddr) = (WORLD[family].parse()?, NODE_2[family].parse()?);
        let good = (near[family], TARGET);
        let body = |port: u16, to: u16| Body::Udp(port, to, b"who".to_vec());
        // As the world, at the other node's node port: answered from here.
        let asks = world.udp(own, SocketAddr::new(second, EVERYWHERE))?;
        asks.set_read_timeout(Some(Duration::from_millis(500)))?;
        let packet = passed_on(own, second, good, body(asks.local_addr()?.port(), EVERYWHERE));
        let end = Instant::now() + ANSWER;
        loop {
            tunnel.send(&packet)?;
            if asks.recv(&mut [0; 2048]).is_ok() {
                break;
            }
            ensure!(Instant::now() < end, "{own} gets no answer");
        }
        // The same in two fragments, which the pod puts together.
        let own_port = asks.local_addr()?.port();
        let whole = Frame::new([0; 6], [0; 6], own, second, body(own_port, EVERYWHERE));
        let datagram = read_packet(&whole.packet())?.transport;
        while asks.recv(&mut [0; 2048]).is_ok() {}
        for (offset, more) in [(0, true), (8, false)] {
            let part = if more { &datagram[..8] } else { &datagram[8..] };
            let body = Body::Raw(17, part.to_vec());
            let mut frame = Frame::new([0; 6], [0; 6], own, second, body);
            frame.fragment = Some((77, offset, more));
            tunnel.send(&passed_on_frame(frame, good))?;
        }
        asks.recv(&mut [0; 2048]).context("an answer to two fragments")?;
        let first: IpAddr = NODE_1[family].parse()?;
        let nobody: IpAddr = ["10.99.99.99", "fd00::dead:beef"][family].parse()?;
        let hairpin: IpAddr = ["169.254.42.1", "fd5b:6861:6972::1"][family].parse()?;
        for (what, socket, from, to, port, backend, expected) in [
            ("a pod there", &tunnel, far[family], second, EVERYWHERE, good, "tunnel_spoofed"),
            ("a pod here", &tunnel, client[family], second, EVERYWHERE, good, "tunnel_spoofed"),
            ("that node", &tunnel, second, second, EVERYWHERE, good, "tunnel_spoofed"),
            ("this node", &tunnel, first, second, EVERYWHERE, good, "tunnel_spoofed"),
            ("the pod itself", &tunnel, hairpin, second, EVERYWHERE, good, "tunnel_spoofed"),
            ("by no node", &stranger, own, second, EVERYWHERE, good, "tunnel_spoofed"),
            ("to no Service", &tunnel, own, second, 30_099, good, "not_direct"),
            ("past the Service", &tunnel, own, near[family], TARGET, good, "not_direct"),
            ("to no pod", &tunnel, own, second, EVERYWHERE, (nobody, TARGET), "not_direct"),
        ] {
            let packet = passed_on(from, to, backend, body(4000, port));
            let reason = lab.drop_reason(from, to, || Ok(socket.send(&packet).map(drop)?))?;
            ensure!(reason == expected, "{what}: the reason is {reason}");
        }
    }
    Ok(())
}
