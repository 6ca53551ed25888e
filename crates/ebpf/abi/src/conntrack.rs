//! Flows: connection tracking, Service flows, SNAT, fragments.

use crate::Addr;

/// Key of LRU hashes `CT` (seen both ways) and `CT_NEW` (half open): the flow behind Service translation and before
/// SNAT, its two ends in byte order (address, then port), so that both directions have one key. For ICMP echo both
/// ports are the identifier; for protocols without ports both are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtKey {
    /// Network number.
    pub network: u32,
    /// The lesser end's address.
    pub low: Addr,
    /// The greater end's address.
    pub high: Addr,
    /// The lesser end's port.
    pub low_port: u16,
    /// The greater end's port.
    pub high_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// `CtEntry::flags`: the flow was begun by the `high` end.
pub const CT_INITIATOR_IS_HIGH: u32 = 1;
/// `CtEntry::flags`: packets went both ways; of TCP, the initiator has confirmed the answer. Such flows are in `CT`.
pub const CT_REPLIED: u32 = 2;
/// `CtEntry::flags`: the initiator has sent FIN.
pub const CT_FIN_INITIATOR: u32 = 4;
/// `CtEntry::flags`: the responder has sent FIN.
pub const CT_FIN_RESPONDER: u32 = 8;
/// `CtEntry::flags`: one end has sent RST.
pub const CT_RST: u32 = 16;
/// `CtEntry::flags`: the initiator used a Service; replies get `frontend` as their source.
pub const CT_SERVICE: u32 = 32;
/// `CtEntry::flags`: the initiator reached itself; its source is the hairpin address.
pub const CT_HAIRPIN: u32 = 64;
/// `CtEntry::flags`: leaves with a node address and `nat_port` as its source.
pub const CT_MASQUERADED: u32 = 128;
/// `CtEntry::flags`: begun by this node's own stack, which always reaches its pods; so do the replies.
pub const CT_FROM_NODE: u32 = 256;
/// `CtEntry::flags`: the initiator is elsewhere and used a Service of this node; replies get `frontend` as their source
/// before they leave the node.
pub const CT_OUTSIDE: u32 = 512;
/// `CtEntry::flags`: the responder answers the initiator past this node. [`CT_REPLIED`] then says that the initiator went on,
/// and its FIN counts for both ends.
pub const CT_DIRECT: u32 = 1024;
/// `CtEntry::flags`: the responder has answered a half-open TCP flow. Whoever sends SYNs under addresses of others gets
/// no further: only the initiator's next packet makes it a flow of `CT`.
pub const CT_ANSWERED: u32 = 2_048;

/// A flow that is not TCP begins anew after this silence, seconds, even when no sweep has freed it. An SCTP association's
/// heartbeats come more often: each 30 s and at most an RTO of 60 s with its jitter (RFC 9260 §8.3, §16).
pub const CT_IDLE_SECONDS: u64 = 180;

/// The end of a TCP connection that closes first remembers it so long, seconds, and refuses another connection's SYN
/// between the same addresses and ports (RFC 9293, section 3.6.1). Linux: 60 s (TCP_TIMEWAIT_LEN), and up to 4.1 s more by
/// which its timer wheel lets such a timer be late (HZ=1000); and `last_seen` may be a second too old.
pub const TIME_WAIT_SECONDS: u64 = 66;

/// Value of `CT` and `CT_NEW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtEntry {
    /// When a packet was last seen, ns of CLOCK_MONOTONIC (written at most once a second).
    pub last_seen: u64,
    /// `CT_*`.
    pub flags: u32,
    /// `policy_epoch` under which the initiator's egress was allowed, 0 = not judged on this node.
    pub egress_epoch: u32,
    /// `policy_epoch` under which the responder's ingress was allowed, 0 = not judged on this node.
    pub ingress_epoch: u32,
    /// Backend number of a Service flow, else 0.
    pub backend: u32,
    /// The Service address the initiator used, or [`crate::NO_ADDR`].
    pub frontend: Addr,
    /// The Service port the initiator used.
    pub frontend_port: u16,
    /// Source port after masquerade.
    pub nat_port: u16,
    /// The first four bytes of the next hop's Ethernet address towards the other node of this flow, as they lie in a
    /// frame. Checked once a second; 0 = not known.
    pub link: u32,
    /// Its last two bytes.
    pub link_end: u16,
    /// Of a Service flow: the port that the initiator uses. The one in the key is another when two of its flows to
    /// one backend would share a key.
    pub client_port: u16,
    /// Source port of the flow's outer packets in vxlan mode, known as long as `link` is; 0 = not known.
    pub tunnel_port: u16,
    /// Length of the flow's longest packet that the tunnel device has sent since `link` is known, with all inner and
    /// outer headers, bytes; of GSO: of a segment.
    pub tunnel_len: u16,
}

/// Key of LRU hash `SERVICE_FLOWS`: a flow as its client sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFlowKey {
    /// Network number.
    pub network: u32,
    /// Client address.
    pub client: Addr,
    /// Service address.
    pub frontend: Addr,
    /// Client port.
    pub client_port: u16,
    /// Service port.
    pub frontend_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `SERVICE_FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFlowValue {
    /// When a packet was last seen, ns of CLOCK_MONOTONIC (written at most once a second).
    pub last_seen: u64,
    /// Backend number.
    pub backend: u32,
    /// Number of the Service port.
    pub service: u32,
    /// The source port towards the backend; the client's own unless another flow of the client had that.
    pub source_port: u16,
    /// [`SERVICE_FLOW_DIRECT`].
    pub flags: u16,
    /// Zero.
    pub pad: [u8; 4],
}

/// `ServiceFlowValue::flags`: at the node where the client's packets arrive, they go to the backend's node as they came. There,
/// with backend and Service 0: a flow that took another source port towards the backend.
pub const SERVICE_FLOW_DIRECT: u16 = 1;

/// Key of LRU hash `SNAT`: a masqueraded flow as its remote end sees it. For ICMP echo `nat_port` is the identifier
/// and `remote_port` 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatKey {
    /// The remote end.
    pub remote: Addr,
    /// This node's address.
    pub node: Addr,
    /// The remote port.
    pub remote_port: u16,
    /// Our source port.
    pub nat_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `SNAT`: a pod of this node, or a client elsewhere of a node port whose backend is on another node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatValue {
    /// When a packet was last seen, ns of CLOCK_MONOTONIC (written at most once a second).
    pub last_seen: u64,
    /// Network number of the pod.
    pub network: u32,
    /// The pod's or client's port or ICMP identifier.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// The pod's or client's address.
    pub addr: Addr,
}

/// Key of LRU hash `FRAGMENTS`: a fragmented datagram (RFC 791 §3.2, RFC 8200 §4.5), as it arrives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Network number.
    pub network: u32,
    /// Identification; 16 bits for IPv4.
    pub id: u32,
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Value of `FRAGMENTS`: the ports of the first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentValue {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// `GROWING`: `CT` has `CT_OLD` beside it.
pub const GROWS_CT: u32 = 1;
/// `GROWING`: `SERVICE_FLOWS` has `SERVICE_FLOWS_OLD` beside it.
pub const GROWS_SERVICE_FLOWS: u32 = 2;
/// `GROWING`: `SNAT` has `SNAT_OLD` beside it.
pub const GROWS_SNAT: u32 = 4;

/// The value of `GROWTH`: new entries of growing tables go to the old ones, for some programs know only those.
pub const WRITES_OLD: u32 = 0;
/// The value of `GROWTH`: as [`WRITES_OLD`]; a port of SNAT must be free in both, and is taken in both.
pub const WRITES_BOTH: u32 = 1;
/// The value of `GROWTH`: new entries go to the new tables.
pub const WRITES_NEW: u32 = 2;
