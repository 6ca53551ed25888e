//! What a sender learns of a packet that did not arrive: ICMP errors between nodes, path MTU discovery, RST.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use crate::lab::{ANSWER, ECHO, Lab, Place, round_trip};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("icmp_errors_come_back_from_another_node", icmp_errors),
    ("path_mtu_is_discovered_between_nodes", path_mtu),
    ("flows_of_a_removed_pod_are_reset", removed_pod),
];

/// A port that nobody listens on.
const CLOSED: u16 = 7999;
const CONNECT: Duration = Duration::from_secs(3);

/// A closed port of a pod on the other node, and a hop limit that ends on that node.
fn icmp_errors(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    for (from, to) in client.addresses()?.into_iter().zip(lab.pod("far")?.addresses()?) {
        let cases = [(CLOSED, 64, ErrorKind::ConnectionRefused), (ECHO, 2, ErrorKind::HostUnreachable)];
        for (port, hops, expected) in cases {
            let socket = client.udp(from, SocketAddr::new(to, port))?;
            if to.is_ipv4() {
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv4Ttl, &hops)?;
            } else {
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
                setsockopt(&socket, sockopt::Ipv6Ttl, &hops)?;
            }
            socket.send(b"?")?;
            let Err(error) = socket.recv(&mut [0; 8]) else { bail!("{to} port {port} answered") };
            ensure!(error.kind() == expected, "{to} port {port} hops {hops}: {error}");
        }
    }
    Ok(())
}

/// The name of the node's device with `address`.
fn uplink(node: &Place, address: &str) -> Result<String> {
    let links: Value = serde_json::from_str(&node.ip("-j addr show")?)?;
    let has = |link: &Value| {
        link["addr_info"].as_array().is_some_and(|infos| infos.iter().any(|info| info["local"] == address))
    };
    let link = links.as_array().and_then(|links| links.iter().find(|link| has(link)));
    Ok(link.context("a device with the node's address")?["ifname"].as_str().context("a name")?.to_owned())
}

/// Bytes there and back, some segments at a time, so that the sender's segmentation is at work.
fn bulk(stream: &mut TcpStream) -> Result<()> {
    let (sent, mut answer) = ([7; 12_000], [0; 12_000]);
    for _ in 0..8 {
        stream.write_all(&sent)?;
        stream.read_exact(&mut answer)?;
        ensure!(answer == sent, "other bytes came back");
    }
    Ok(())
}

/// The link between the nodes shrinks under pods that have the old MTU: the node's stack tells them, in the middle of
/// a stream. Both ends shrink, as a link has one MTU: a veth drops what is longer than its own end takes.
fn path_mtu(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let far = lab.pod("far")?.addresses()?;
    let mut nodes = Vec::new();
    for (name, address) in [("node-1", "172.30.0.11"), ("node-2", "172.30.0.12")] {
        let node = lab.place(name)?;
        let uplink = uplink(&node, address)?;
        nodes.push((name, node, uplink));
    }
    let mut streams = Vec::new();
    for ip in far {
        let mut stream = client.connect(SocketAddr::new(ip, ECHO), CONNECT)?;
        bulk(&mut stream).context("before")?;
        streams.push(stream);
    }
    let set = |mtu: u32| -> Result<()> {
        nodes
            .iter()
            .try_for_each(|(_, node, uplink)| node.ip(&format!("link set {uplink} mtu {mtu}")).map(drop))?;
        nodes.iter().try_for_each(|(name, ..)| {
            // The agent reads the uplink's MTU when it starts.
            lab.sheetbend(&["lab", "node", name, "stop"])?;
            lab.sheetbend(&["lab", "node", name, "start"])
        })
    };
    set(1400)?;
    let learnt = streams.iter_mut().zip(far).try_for_each(|(stream, ip)| {
        bulk(stream).with_context(|| format!("{ip} over the smaller link"))?;
        let route = client.ip(&format!("route get {ip}"))?;
        let mtu = route.split_once("mtu ").context(route.clone())?.1;
        let mtu: u32 = mtu.split_whitespace().next().context("a number")?.parse()?;
        ensure!((1280..=1400).contains(&mtu), "the client learnt {mtu} for {ip}");
        Ok(())
    });
    set(1500)?;
    client.ip("route flush cache")?;
    client.ip("-6 route flush cache")?;
    learnt
}

/// Waits for the end of a connection whose other end went.
fn is_reset(stream: &mut TcpStream, to: IpAddr) -> Result<()> {
    let end = Instant::now() + ANSWER;
    while Instant::now() < end {
        match round_trip(stream, 3) {
            Ok(()) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                ensure!(kind == Some(ErrorKind::ConnectionReset), "{to}: {error:#}");
                return Ok(());
            }
        }
    }
    bail!("{to} still answers")
}

/// Pods of both nodes go while a client talks to them: it is told at once.
fn removed_pod(lab: &Lab) -> Result<()> {
    let manifests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/doomed.yaml");
    let manifests = manifests.to_str().context("a path in UTF-8")?;
    lab.sheetbend(&["lab", "apply", "-f", manifests])?;
    let client = lab.pod("client")?;
    let mut streams = Vec::new();
    for name in ["doomed-near", "doomed-far"] {
        let pod = lab.pod(name)?;
        pod.serve()?;
        for ip in pod.addresses()? {
            let mut stream = client
                .connect(SocketAddr::new(ip, ECHO), CONNECT)
                .with_context(|| format!("{name} at {ip}"))?;
            round_trip(&mut stream, 1)?;
            streams.push((ip, stream));
        }
    }
    lab.sheetbend(&["lab", "delete", "-f", manifests])?;
    streams.iter_mut().try_for_each(|(ip, stream)| is_reset(stream, *ip))
}
