//! Naive twins of `compile`: what the Kubernetes objects of a Snapshot mean for one packet, by nested loops.
//!
//! **Invariant:** reads only the nouns of `model::state`, never a `Dataplane`, and imports nothing of `compile`. Where
//! the two disagree, one of them is wrong.

mod direct;
mod expect;
mod isolation;
mod names;
mod node_ports;
mod policy;
mod sctp;
mod service;
mod tiers;
mod traffic;
mod unserved;

pub use direct::is_told_by_64_bits;
pub use expect::{End, Expected, Probe, expect};
pub use names::{pointers, records};
pub use node_ports::serves_node_ports;
pub use policy::{Allowed, Decision, Flow, Judgement, networkpolicy, pod_at};
pub use sctp::{SctpFault, sctp_faults};
pub use service::{At, Candidate, Found, health_check, node_local_dns, service};
pub use tiers::ByTier;
pub use unserved::{Unserved, unserved};

use std::fmt;

use sheetbend_model::types::Protocol;

/// What a packet carries, as far as policy can tell packets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4 {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
    /// ICMP or ICMPv6 echo. It has no port, so only a rule without ports allows it.
    Icmp,
}

impl L4 {
    /// All of them, in the order in which the matrix lists them.
    pub const ALL: [L4; 4] = [L4::Tcp, L4::Udp, L4::Sctp, L4::Icmp];

    /// The protocol that Services and policies can name; `None` for ICMP.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            L4::Tcp => Some(Protocol::Tcp),
            L4::Udp => Some(Protocol::Udp),
            L4::Sctp => Some(Protocol::Sctp),
            L4::Icmp => None,
        }
    }
}

impl From<Protocol> for L4 {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => L4::Tcp,
            Protocol::Udp => L4::Udp,
            Protocol::Sctp => L4::Sctp,
        }
    }
}

impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            L4::Tcp => "TCP",
            L4::Udp => "UDP",
            L4::Sctp => "SCTP",
            L4::Icmp => "ICMP",
        })
    }
}
