//! Ways of packets that pods take: to the world and back, in pieces, to themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{ANSWER, Both, ECHO, Lab, round_trip};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("masquerade_to_the_world", masquerade_to_the_world),
    ("world_reaches_pods", world_reaches_pods),
    ("the_router_address_is_the_source_towards_remote_pods", router_address),
    ("fragments_are_answered", fragments_are_answered),
    ("a_pod_reaches_itself_through_its_service", a_pod_reaches_itself_through_its_service),
];

const CONNECT: Duration = Duration::from_secs(3);

/// The world sees the node's address, never the pod's.
fn masquerade_to_the_world(lab: &Lab) -> Result<()> {
    let world: Both = ["203.0.113.10".parse()?, "2001:db8::10".parse()?];
    let node: Both = ["172.30.0.11".parse()?, "fd00:30::11".parse()?];
    for (port, (to, expected)) in (7100..).zip(world.into_iter().zip(node)) {
        let peers = lab.place("world")?.accept_one(port)?;
        let client = lab.pod("client")?;
        let mut stream =
            client.connect(SocketAddr::new(to, port), CONNECT).with_context(|| to.to_string())?;
        round_trip(&mut stream, 1)?;
        let seen = peers.recv_timeout(ANSWER)?.ip().to_canonical();
        ensure!(seen == expected, "the world saw {seen}, not the node's {expected}");
    }
    Ok(())
}

/// From outside to a pod's address: on both nodes, in both families.
fn world_reaches_pods(lab: &Lab) -> Result<()> {
    let world = lab.place("world")?;
    for pod in ["near", "far"] {
        for ip in lab.pod(pod)?.addresses()? {
            let mut stream = world
                .connect(SocketAddr::new(ip, ECHO), CONNECT)
                .with_context(|| format!("world to {ip}"))?;
            round_trip(&mut stream, 2)?;
        }
    }
    Ok(())
}

/// A node has an address of its own pod range for pods of other nodes: their answers find the way back in every mode.
fn router_address(lab: &Lab) -> Result<()> {
    let router: Both = ["10.244.1.1".parse()?, "fd00:10:244:1::1".parse()?];
    let far = lab.pod("far")?;
    for (port, (to, expected)) in (7200..).zip(far.addresses()?.into_iter().zip(router)) {
        let peers = far.accept_one(port)?;
        let mut stream = lab
            .place("node-1")?
            .connect(SocketAddr::new(to, port), CONNECT)
            .with_context(|| format!("node-1 to {to}"))?;
        round_trip(&mut stream, 1)?;
        let seen = peers.recv_timeout(ANSWER)?.ip().to_canonical();
        ensure!(seen == expected, "{to} saw {seen}, not node-1's router address {expected}");
    }
    Ok(())
}

/// Datagrams of 4,000 bytes arrive in pieces, and so do their echoes: same node, other node, Service.
fn fragments_are_answered(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let own = client.addresses()?;
    let service: Both = ["10.96.0.50".parse()?, "fd00:10:96::50".parse()?];
    for (addresses, port) in
        [(lab.pod("near")?.addresses()?, ECHO), (lab.pod("far")?.addresses()?, ECHO), (service, 80)]
    {
        for (from, to) in own.into_iter().zip(addresses) {
            let socket = client.udp(from, SocketAddr::new(to, port))?;
            let sent: Vec<u8> = (0..4000_u32).map(|byte| byte.to_be_bytes()[3]).collect();
            let mut answer = vec![0; 8192];
            socket.send(&sent)?;
            let size = socket.recv(&mut answer).with_context(|| format!("4,000 bytes to {to}"))?;
            ensure!(answer[..size] == sent, "{to} answered {size} other bytes");
        }
    }
    Ok(())
}

/// Hairpin: the Service's only endpoint is who asks.
fn a_pod_reaches_itself_through_its_service(lab: &Lab) -> Result<()> {
    let near = lab.pod("near")?;
    let service: [IpAddr; 2] = ["10.96.0.51".parse()?, "fd00:10:96::51".parse()?];
    for ip in service {
        let mut stream =
            near.connect(SocketAddr::new(ip, 80), CONNECT).with_context(|| format!("hairpin by {ip}"))?;
        round_trip(&mut stream, 4)?;
    }
    Ok(())
}
