//! Recorded flows, as agents tell them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sheetbend_model::types::Protocol;

/// Flows of one key that an agent recorded: an element of the document `/flows`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedFlow {
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address, behind Service translation.
    pub(crate) destination: IpAddr,
    /// IANA protocol number.
    pub(crate) protocol: u8,
    /// Destination port; 0 for ICMP.
    pub(crate) port: u16,
    /// A policy denied them; else they passed.
    pub(crate) denied: bool,
    /// How many there are.
    pub(crate) flows: u64,
}

impl RecordedFlow {
    /// The protocol that policies know; `None` = ICMP, or another without ports.
    pub(crate) fn carried(&self) -> Option<Protocol> {
        match self.protocol {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }
}
