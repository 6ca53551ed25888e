//! Packets through the committed object by BPF_PROG_TEST_RUN: verdict, bytes, counters, events and flows, each case
//! once per family.

pub mod frame;
pub mod node;
pub mod tables;

mod audit;
mod balance;
mod direct;
mod flows;
mod growth;
mod node_ports;
mod outside;
mod published;
mod sctp;
mod services;
mod sockets;
mod tunnel;
mod unserved;

use anyhow::Result;

use self::node::Node;

/// A case's body.
pub type Case = fn(&mut Node) -> Result<()>;

/// All cases by name.
pub fn cases() -> Vec<(&'static str, Case)> {
    [
        audit::CASES,
        balance::CASES,
        direct::CASES,
        flows::CASES,
        growth::CASES,
        services::CASES,
        node_ports::CASES,
        outside::CASES,
        published::CASES,
        sctp::CASES,
        sockets::CASES,
        tunnel::CASES,
        unserved::CASES,
    ]
    .concat()
}
