//! What the data path must not let through, and how the sender learns of it.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{ANSWER, Both, ECHO, Lab, Place, round_trip};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("no_endpoints_are_refused_at_once", no_endpoints_are_refused_at_once),
    ("pods_may_not_send_to_the_tunnel_port", pods_may_not_send_to_the_tunnel_port),
    ("a_wrong_source_address_is_dropped", a_wrong_source_address_is_dropped),
    ("a_wrong_source_mac_is_dropped", a_wrong_source_mac_is_dropped),
    ("snat_ports_run_out", snat_ports_run_out),
];

/// The address of nobody, in each family.
const STRANGER: [&str; 2] = ["10.99.9.9", "fd00:99::9"];

/// TCP gets a RST and UDP an ICMP error, not silence.
fn no_endpoints_are_refused_at_once(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let service: Both = ["10.96.0.52".parse()?, "fd00:10:96::52".parse()?];
    for (from, to) in client.addresses()?.into_iter().zip(service) {
        let to = SocketAddr::new(to, 80);
        let began = Instant::now();
        let Err(error) = client.connect(to, Duration::from_secs(3)) else { bail!("{to} has an endpoint") };
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        ensure!(kind == Some(ErrorKind::ConnectionRefused), "TCP to {to}: {error:#}");
        let socket = client.udp(from, to)?;
        socket.send(b"?")?;
        let Err(error) = socket.recv(&mut [0; 8]) else { bail!("{to} answered") };
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "UDP to {to}: {error}");
        ensure!(began.elapsed() < Duration::from_secs(1), "refused after {:?}", began.elapsed());
    }
    Ok(())
}

/// A pod that could send to the tunnel's port could write any inner packet.
fn pods_may_not_send_to_the_tunnel_port(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let node: Both = ["172.30.0.12".parse()?, "fd00:30::12".parse()?];
    for (from, to) in client.addresses()?.into_iter().zip(node) {
        let reason = lab.drop_reason(from, to, || {
            // The answer may be an error: that is how a refusal is learnt.
            let _ = client.udp(from, SocketAddr::new(to, 4789))?.send(b"?");
            Ok(())
        })?;
        ensure!(reason == "tunnel_port", "{to}: the reason is {reason}");
    }
    Ok(())
}

/// The spoofer is heard as itself before, and after.
fn is_heard(spoofer: &Place, near: Both) -> Result<()> {
    for ip in near {
        let to = SocketAddr::new(ip, ECHO);
        let mut stream = spoofer.connect(to, Duration::from_secs(3)).context("as itself")?;
        round_trip(&mut stream, 5)?;
    }
    Ok(())
}

fn spoofed(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<()> {
    let spoofer = lab.pod("spoofer")?;
    let reason = lab.drop_reason(from, to, || {
        spoofer.udp(from, SocketAddr::new(to, ECHO))?.send(b"?")?;
        Ok(())
    })?;
    ensure!(reason == "source_spoofed", "from {from}: the reason is {reason}");
    Ok(())
}

/// From an address that is not the pod's.
fn a_wrong_source_address_is_dropped(lab: &Lab) -> Result<()> {
    let (spoofer, near) = (lab.pod("spoofer")?, lab.pod("near")?.addresses()?);
    is_heard(&spoofer, near)?;
    for (stranger, to) in STRANGER.into_iter().zip(near) {
        let nodad = if to.is_ipv6() { "/128 dev eth0 nodad" } else { "/32 dev eth0" };
        spoofer.ip(&format!("addr add {stranger}{nodad}"))?;
        let outcome = spoofed(lab, stranger.parse()?, to);
        spoofer.ip(&format!("addr del {stranger}{}", nodad.trim_end_matches(" nodad")))?;
        outcome?;
    }
    is_heard(&spoofer, near)
}

/// From the pod's own address, but another interface's MAC.
fn a_wrong_source_mac_is_dropped(lab: &Lab) -> Result<()> {
    let (spoofer, near) = (lab.pod("spoofer")?, lab.pod("near")?.addresses()?);
    is_heard(&spoofer, near)?;
    let link: Value = serde_json::from_str(&spoofer.ip("-j link show dev eth0")?)?;
    let own = link[0]["address"].as_str().context("a MAC")?;
    let neighbours: Value = serde_json::from_str(&spoofer.ip("-j neigh show dev eth0")?)?;
    let change = |mac: &str| -> Result<()> {
        spoofer.ip(&format!("link set dev eth0 address {mac}"))?;
        // A link that changes its address forgets its neighbours.
        for neighbour in neighbours.as_array().into_iter().flatten() {
            if let (Some(ip), Some(mac)) = (neighbour["dst"].as_str(), neighbour["lladdr"].as_str()) {
                spoofer.ip(&format!("neigh replace {ip} lladdr {mac} dev eth0 nud permanent"))?;
            }
        }
        Ok(())
    };
    change("02:00:00:00:99:99")?;
    let outcome =
        spoofer.addresses()?.into_iter().zip(near).try_for_each(|(from, to)| spoofed(lab, from, to));
    change(own)?;
    outcome?;
    is_heard(&spoofer, near)
}

/// The world's kernel says so many refusals a second and no more, and has just said thousands.
fn is_refused(socket: &UdpSocket) -> Result<bool> {
    let end = Instant::now() + ANSWER;
    while Instant::now() < end {
        socket.send(b"?")?;
        match socket.recv(&mut [0; 8]) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
            Ok(_) => bail!("somebody answered"),
        }
    }
    Ok(false)
}

/// More flows to one remote end than `nat.ports` has ports.
fn snat_ports_run_out(lab: &Lab) -> Result<()> {
    const PORTS: std::ops::Range<u16> = 10_000..60_000;
    const AT_ONCE: u16 = 5_000;
    let client = lab.pod("client")?;
    let world: Both = ["203.0.113.11".parse()?, "2001:db8::11".parse()?];
    for (from, to) in client.addresses()?.into_iter().zip(world) {
        let next = Cell::new(PORTS.start);
        let reason = lab.drop_reason(from, to, || {
            let ports = next.get()..next.get().saturating_add(AT_ONCE).min(PORTS.end);
            next.set(ports.end);
            client.run(|| {
                for port in ports {
                    // Somebody else may have the port, and the world refuses what it gets.
                    if let Ok(socket) = UdpSocket::bind((from, port)) {
                        let _ = socket.send_to(b"?", (to, 9));
                    }
                }
                Ok(())
            })
        })?;
        ensure!(reason == "snat_exhausted", "{to}: the reason is {reason}");
        let used = u32::from(next.get() - PORTS.start);
        ensure!(used > 10_000, "exhausted after {used} of 20,000 ports");
        let socket = client.udp(from, SocketAddr::new(to, 10))?;
        ensure!(is_refused(&socket)?, "another remote end is not reached");
    }
    Ok(())
}
