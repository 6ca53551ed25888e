//! Addresses of Services that nobody serves, from pods and from the world, with real sockets.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::lab::{Both, Lab, Place};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("an_address_that_no_service_has_is_dropped", an_address_that_no_service_has_is_dropped),
    ("a_port_that_a_service_does_not_have_is_refused", a_port_that_a_service_does_not_have_is_refused),
    ("the_world_is_dropped_and_refused_as_pods_are", the_world_is_dropped_and_refused_as_pods_are),
];

/// In the lab's ranges, of no Service.
const FREE: [&str; 2] = ["10.96.99.99", "fd00:10:96::9999"];
/// Of the Service `servers`, which has port 80.
const HELD: [&str; 2] = ["10.96.0.50", "fd00:10:96::50"];
/// A port that it does not have.
const WRONG: u16 = 81;

fn both(texts: [&str; 2]) -> Result<Both> {
    Ok([texts[0].parse()?, texts[1].parse()?])
}

fn is_dropped(lab: &Lab, place: &Place, (from, to): (IpAddr, IpAddr)) -> Result<()> {
    let reason = lab.drop_reason(from, to, || {
        place.udp(from, SocketAddr::new(to, 80))?.send(b"?")?;
        Ok(())
    })?;
    ensure!(reason == "no_such_service", "{from} to {to}: the reason is {reason}");
    Ok(())
}

fn is_refused(place: &Place, (from, to): (IpAddr, SocketAddr)) -> Result<()> {
    let began = Instant::now();
    let Err(error) = place.connect(to, Duration::from_secs(3)) else { bail!("{to} answers") };
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "TCP to {to}: {error:#}");
    let socket = place.udp(from, to)?;
    socket.send(b"?")?;
    let Err(error) = socket.recv(&mut [0; 8]) else { bail!("{to} answered") };
    ensure!(error.kind() == ErrorKind::ConnectionRefused, "UDP to {to}: {error}");
    ensure!(began.elapsed() < Duration::from_secs(1), "refused after {:?}", began.elapsed());
    Ok(())
}

fn an_address_that_no_service_has_is_dropped(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    let ends = client.addresses()?.into_iter().zip(both(FREE)?);
    ends.into_iter().try_for_each(|ends| is_dropped(lab, &client, ends))
}

fn a_port_that_a_service_does_not_have_is_refused(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    for (from, to) in client.addresses()?.into_iter().zip(both(HELD)?) {
        is_refused(&client, (from, SocketAddr::new(to, WRONG)))?;
        let reason = lab.drop_reason(from, to, || {
            // The answer is the refusal.
            let _ = client.udp(from, SocketAddr::new(to, WRONG))?.send(b"?");
            Ok(())
        })?;
        ensure!(reason == "no_service_port", "{to}: the reason is {reason}");
    }
    Ok(())
}

/// A router of the world takes a node for the way to Services.
fn the_world_is_dropped_and_refused_as_pods_are(lab: &Lab) -> Result<()> {
    let world = lab.place("world")?;
    let routes = ["10.96.0.0/16 via 172.30.0.11", "fd00:10:96::/112 via fd00:30::11"];
    routes.iter().try_for_each(|route| world.ip(&format!("route add {route}")).map(drop))?;
    let sources = both(["172.30.0.1", "fd00:30::1"])?;
    let outcome =
        sources.into_iter().zip(both(FREE)?).zip(both(HELD)?).try_for_each(|((from, free), held)| {
            is_dropped(lab, &world, (from, free))?;
            is_refused(&world, (from, SocketAddr::new(held, WRONG)))?;
            // A cluster address is for the cluster, also by a port that it has.
            is_refused(&world, (from, SocketAddr::new(held, 80)))
        });
    routes.iter().try_for_each(|route| world.ip(&format!("route del {route}")).map(drop))?;
    outcome
}
