//! What happened: plain structs that logs, metrics, flow records and tests all come from.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Direction, ObjectKey};

/// A packet was dropped or refused, or a flow was let through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PacketEvent {
    /// When, ns of CLOCK_MONOTONIC.
    pub time: u64,
    /// The node.
    pub node: Arc<str>,
    /// What became of the packet.
    pub verdict: PacketVerdict,
    /// Stable name of the reason (`docs/user/reasons.md`).
    pub reason: Arc<str>,
    /// Stable name of the hook.
    pub hook: Arc<str>,
    /// Source address and port, in the flow's original direction. Port 0 where the protocol has none.
    pub source: EventEnd,
    /// Destination address and port, behind Service translation.
    pub destination: EventEnd,
    /// The Service address the client used.
    pub frontend: Option<EventEnd>,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6` or the IANA number.
    pub protocol: Arc<str>,
    /// Who decided, when policy did.
    pub decided_by: Option<DecidedBy>,
    /// Length with the link header, bytes.
    pub length: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketVerdict {
    /// It went on.
    Forwarded,
    /// It went on; the policy of a pod in audit would have dropped it.
    Audited,
    /// It ended, silently.
    Dropped,
    /// It ended, and the sender was told.
    Refused,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEnd {
    /// The address.
    pub address: IpAddr,
    /// The port, 0 where there is none.
    pub port: u16,
    /// `namespace/name` of the pod or Service that had the address then.
    pub name: Option<Arc<str>>,
}

/// Which policy decided, in the form of the matrix (`contract.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecidedBy {
    /// The policy whose rule decided, or the first that isolates the pod.
    pub policy: ObjectKey,
    /// Which of the pod's directions.
    pub direction: Direction,
    /// Index of the rule that decided; `None` = default deny.
    pub rule: Option<u32>,
    /// The policies that isolate the pod in this direction.
    pub selected_by: Vec<ObjectKey>,
}
