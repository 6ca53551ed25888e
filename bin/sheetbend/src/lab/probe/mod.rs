//! Probes: one packet exchange each, from a socket in the source's namespace.

mod drops;
mod engine;
mod exchange;

use std::net::{IpAddr, SocketAddr};

use sheetbend_model::events::PacketEvent;

pub(crate) use drops::{DropWatch, Feed};
pub(crate) use engine::{Job, Limits, run};

use super::serve::Answer;

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Speech {
    /// Connect, send a line, read a line.
    Tcp,
    /// Send a datagram, receive one.
    Udp,
    /// Echo request, echo reply.
    Echo,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// The address to send from.
    pub(crate) from: IpAddr,
    /// Where to. The port of an echo is 0.
    pub(crate) to: SocketAddr,
    /// The endpoints behind `to`, where that is a Service: a node that drops the flow there knows only them.
    pub(crate) behind: Vec<SocketAddr>,
    /// What it speaks.
    pub(crate) speech: Speech,
}

/// What the source saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// An answer; an echo reply carries none.
    Answer(Option<Answer>),
    /// RST or an ICMP error, as the socket named it.
    Refused(String),
    /// Nothing in time.
    Nothing,
    /// The probe could not be sent.
    Failed(String),
}

/// A probe's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// What the source saw.
    pub(crate) seen: Seen,
    /// The drop or refusal of this very flow that a node reported.
    pub(crate) event: Option<PacketEvent>,
}

#[cfg(test)]
mod tests;
