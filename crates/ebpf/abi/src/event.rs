//! What a program tells user space.

use crate::Addr;

/// Kind of an [`Event`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped or refused.
    Drop = 1,
    /// The first packet of a flow was let through, or an established one was judged anew.
    Flow = 2,
}

/// Where a packet was seen.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// TCX ingress of a pod's veth on the node.
    FromPod = 1,
    /// TCX egress of a pod's veth on the node: the node's own stack sends to the pod.
    ToPod = 2,
    /// TCX ingress of the uplink.
    FromUplink = 3,
    /// TCX egress of the uplink.
    ToUplink = 4,
    /// TCX ingress of the tunnel device.
    FromTunnel = 5,
    /// TCX egress of the tunnel device.
    ToTunnel = 6,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Hook; 6] =
        [Hook::FromPod, Hook::ToPod, Hook::FromUplink, Hook::ToUplink, Hook::FromTunnel, Hook::ToTunnel];

    /// The hook's stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::FromPod => "from_pod",
            Hook::ToPod => "to_pod",
            Hook::FromUplink => "from_uplink",
            Hook::ToUplink => "to_uplink",
            Hook::FromTunnel => "from_tunnel",
            Hook::ToTunnel => "to_tunnel",
        }
    }
}

/// `Event::stage`: the egress policy of the source pod decided.
pub const FLOW_STAGE_EGRESS: u8 = 1;
/// `Event::stage`: the ingress policy of the destination pod decided.
pub const FLOW_STAGE_INGRESS: u8 = 2;

/// Record of ring buffer `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// ns of CLOCK_MONOTONIC.
    pub time: u64,
    /// Interface index of the pod whose policy decided, or at whose veth the packet was; 0 = none.
    pub ifindex: u32,
    /// Network number.
    pub network: u32,
    /// Policy set that judged, 0 = none.
    pub set: u32,
    /// Class of the peer, 0 = none.
    pub class: u32,
    /// Origin number of the rule that decided, 0 = none (default deny, or no policy).
    pub origin: u32,
    /// Length with the link header, bytes.
    pub len: u32,
    /// Source, in the flow's original direction, behind Service translation.
    pub src: Addr,
    /// Destination, in the flow's original direction, behind Service translation.
    pub dst: Addr,
    /// The Service address the client used, or [`crate::NO_ADDR`].
    pub frontend: Addr,
    /// Source port; ICMP: identifier.
    pub src_port: u16,
    /// Destination port; ICMP: type × 256 + code.
    pub dst_port: u16,
    /// Service port the client used.
    pub frontend_port: u16,
    /// [`crate::Reason`].
    pub reason: u16,
    /// [`EventKind`].
    pub kind: u8,
    /// [`Hook`].
    pub hook: u8,
    /// `FLOW_STAGE_*`, 0 where no policy was asked.
    pub stage: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 4],
}
