//! `services.nodePortAddresses` of real agents: node ports at the chosen node's addresses only.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::lab::{Both, Lab};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] =
    &[("node_ports_are_served_at_chosen_addresses_only", node_ports_are_served_at_chosen_addresses_only)];

/// A node port with endpoints on both nodes, and a host port of a pod of node-2.
const NODE_PORT: u16 = 30_080;
const HOST_PORT: u16 = 30_090;
const CONNECT: Duration = Duration::from_secs(3);

fn node_ports_are_served_at_chosen_addresses_only(lab: &Lab) -> Result<()> {
    let chosen: Both = ["172.30.0.11".parse()?, "fd00:30::11".parse()?];
    let other: Both = ["172.30.0.12".parse()?, "fd00:30::12".parse()?];
    for place in [lab.place("world")?, lab.pod("client")?, lab.pod("far")?] {
        for (chosen, other) in chosen.into_iter().zip(other) {
            place.connect(SocketAddr::new(chosen, NODE_PORT), CONNECT)?;
            let to = SocketAddr::new(other, NODE_PORT);
            let Err(error) = place.connect(to, CONNECT) else { bail!("{to} leads to the node port") };
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            ensure!(kind == Some(ErrorKind::ConnectionRefused), "the node itself says no: {to}: {error:#}");
            // A host port is not concerned.
            place.connect(SocketAddr::new(other, HOST_PORT), CONNECT)?;
        }
    }
    Ok(())
}
