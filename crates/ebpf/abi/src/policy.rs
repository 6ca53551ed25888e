//! Pods, places and policy.

use crate::Addr;

/// Key of hashes `LOCAL` (→ `u32` ifindex), `CLASSES` (→ `u32` class) and `SERVICE_ADDRESSES` (→ `u32`, `ADDRESS_*`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassKey {
    /// Network number.
    pub network: u32,
    /// The address.
    pub addr: Addr,
}

/// Data of a longest-prefix key of `BLOCKS` (→ `u32` class) and `ROUTES` (→ [`RouteEntry`]). The prefix length counts
/// the 32 bits of the network, so an IPv4 /24 has 32 + 96 + 24.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    /// Network number, big endian.
    pub network: [u8; 4],
    /// The address.
    pub addr: Addr,
}

impl PrefixKey {
    /// Number of prefix bits of a whole address.
    pub const FULL: u32 = 32 + 128;
}

/// `PodEntry::flags`: the policy is in place. Without it everything of the pod is dropped.
pub const POD_READY: u32 = 1;
/// `PodEntry::flags`: `RULES` is asked for ingress; what has no row is denied.
pub const POD_ISOLATED_INGRESS: u32 = 2;
/// `PodEntry::flags`: `RULES` is asked for egress; what has no row is denied.
pub const POD_ISOLATED_EGRESS: u32 = 4;
/// `PodEntry::flags`: what it receives passes the queue of the veth's end on the node, which limits its rate.
pub const POD_SHAPED: u32 = 8;
/// `PodEntry::flags`: what it asks at port 53, whomever, goes to `SERVICES` of [`SCOPE_NAMES`](crate::SCOPE_NAMES).
pub const POD_ASKS_NAMES: u32 = 16;
/// `PodEntry::flags`: what its policy denies passes, and is told as [`Reason::PolicyAudited`](crate::Reason::PolicyAudited).
/// Means nothing without [`POD_READY`].
pub const POD_AUDITED: u32 = 32;

/// Value of hash `PODS`, key: `u32` interface index of the veth's end on the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// Network number.
    pub network: u32,
    /// Policy set, 0 = the empty one.
    pub set: u32,
    /// `POD_*`.
    pub flags: u32,
    /// MTU of the pod's interface, bytes.
    pub mtu: u32,
    /// Its IPv4 address, or [`crate::NO_ADDR`].
    pub ipv4: Addr,
    /// Its IPv6 address, or [`crate::NO_ADDR`].
    pub ipv6: Addr,
    /// Ethernet address of the pod's end.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
}

/// `RuleKey::direction`.
pub const DIRECTION_INGRESS: u8 = 0;
/// `RuleKey::direction`.
pub const DIRECTION_EGRESS: u8 = 1;

/// Data of a longest-prefix key of `RULES` (→ [`RuleValue`]). A rule for every protocol has
/// [`RuleKey::ANY_PROTOCOL`] bits, one for a port prefix [`RuleKey::FULL`] − 16 + its length. Two look-ups decide:
/// with the peer's class, whose row is final, and only where there is none with class 0, which stands for every peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleKey {
    /// The pod's set.
    pub set: u32,
    /// The peer's class, 0 = every peer.
    pub class: u32,
    /// `DIRECTION_*`.
    pub direction: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port, big endian.
    pub port: [u8; 2],
}

impl RuleKey {
    /// Prefix bits of a rule for one port.
    pub const FULL: u32 = 96;
    /// Prefix bits of a rule for every protocol and port.
    pub const ANY_PROTOCOL: u32 = 72;
}

/// Value of `RULES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleValue {
    /// `VERDICT_*`; anything else denies.
    pub verdict: u32,
    /// Number of the rule that says so, for events; 0 = the default.
    pub origin: u32,
}

/// `RuleValue::verdict`.
pub const VERDICT_ALLOW: u32 = 1;
/// `RuleValue::verdict`.
pub const VERDICT_DENY: u32 = 2;

/// `RouteEntry::kind`: pods of this node.
pub const ROUTE_LOCAL: u32 = 1;
/// `RouteEntry::kind`: pods of the node at `via`.
pub const ROUTE_NODE: u32 = 2;
/// `RouteEntry::kind`: a pod range that no node owns.
pub const ROUTE_UNOWNED: u32 = 3;
/// `RouteEntry::kind`: a node's own address.
pub const ROUTE_NODE_ADDRESS: u32 = 4;
/// `RouteEntry::kind`: outside, never masqueraded towards.
pub const ROUTE_NO_MASQUERADE: u32 = 5;
/// `RouteEntry::kind`: a range of which Services get their addresses.
pub const ROUTE_SERVICE: u32 = 6;

/// `RouteEntry::flags` of a node's own address: it does not lead to node ports.
pub const ROUTE_WITHOUT_NODE_PORTS: u16 = 1;
/// `RouteEntry::flags` of another node's pods: [`direct_macs`](crate::direct_macs) names each of them.
pub const ROUTE_TAKES_DIRECT: u16 = 2;

/// Value of `ROUTES`. No entry = the world.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// `ROUTE_*`.
    pub kind: u32,
    /// Ethernet address of the tunnel device there ([`crate::vtep_mac`]); zero in host-gw mode.
    pub mac: [u8; 6],
    /// [`ROUTE_WITHOUT_NODE_PORTS`], [`ROUTE_TAKES_DIRECT`].
    pub flags: u16,
    /// Underlay address: VTEP or next hop; of a node's own address: the node's address of the other family.
    pub via: Addr,
}
