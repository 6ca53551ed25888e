//! The tables of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{AddressHolder, Class, Frontend, PolicySet, ServiceEntry};
use crate::state::{AttachmentId, NetworkMode};
use crate::types::{AddrKey, BlockKey, Direction, NodeName, ObjectKey, PortPrefix, Protocol};

/// Everything one node's kernel shall hold. Built by `compile`, carried out by `apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataplane {
    /// Attachment → the pod behind it. Every attachment of the Snapshot has an entry.
    pub pods: BTreeMap<AttachmentId, LocalPod>,
    /// Exact address → class, for every address whose class differs from what `blocks` says of it. A pod's address
    /// that matches less than its enclosing block has its own (perhaps empty) class here.
    pub classes: BTreeMap<AddrKey, Class>,
    /// Block → class of addresses for which it is the longest match; the terms of enclosing blocks are folded in.
    pub blocks: BTreeMap<BlockKey, Class>,
    /// (set, direction, class, protocol, ports) → what becomes of it. What is not here is denied, if the set judges
    /// the direction.
    pub rules: BTreeMap<RuleKey, Ruling>,
    /// Frontend → Service.
    pub services: BTreeMap<Frontend, ServiceEntry>,
    /// Address of a Service inside the cluster → whose matter it is where no frontend takes a packet.
    pub service_addresses: BTreeMap<AddrKey, AddressHolder>,
    /// Pod range → where it is, and other ranges the node must tell apart.
    pub routes: BTreeMap<BlockKey, Route>,
    /// This node's own part in the overlay or the routed network.
    pub overlay: Overlay,
    /// What was wrong with the user's objects; handled fail-closed.
    pub conditions: BTreeSet<Condition>,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The pod, when the attachment named one.
    pub pod: Option<ObjectKey>,
    /// Its addresses, at most one per family.
    pub addresses: Vec<AddrKey>,
    /// Interface index of the veth's end on the node.
    pub host_ifindex: u32,
    /// What may pass.
    pub posture: Posture,
    /// A policy of it has peers by domain names: it asks this node's name server, whichever it means.
    pub asks_names: bool,
    /// What its policies deny passes, and is told.
    pub audited: bool,
}

impl LocalPod {
    /// Whether the same packets of it pass as of `other`, as long as their sets' rows stay.
    pub fn judges_as(&self, other: &Self) -> bool {
        self.posture == other.posture && self.audited == other.audited
    }
}

/// What the policy says of a pod as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Posture {
    /// Nothing is known of the pod yet: all is dropped (reason `not_ready`).
    Closed,
    /// Judged by this set; the empty set lets everything pass.
    Judged(PolicySet),
}

/// Key of the policy table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// The pod's set.
    pub set: PolicySet,
    /// Seen from the pod.
    pub direction: Direction,
    /// The peer's class; `None` = every peer.
    pub class: Option<Class>,
    /// `None` = every IP protocol (then `ports` is [`PortPrefix::ALL`]).
    pub protocol: Option<Protocol>,
    /// Destination ports.
    pub ports: PortPrefix,
}

impl fmt::Display for RuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.set, self.direction)?;
        match &self.class {
            Some(class) => write!(f, "{class} ")?,
            None => f.write_str("any ")?,
        }
        match self.protocol {
            Some(protocol) => write!(f, "{}/{protocol}", self.ports),
            None => f.write_str("all"),
        }
    }
}

/// What a row of the policy table says. The row of the peer's class with the longest prefix is final; only where there
/// is none, the rows for every peer are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ruling {
    /// Whether it may pass.
    pub allows: bool,
    /// The rule that says so; `None` = no rule does, and the default holds.
    pub origin: Option<Origin>,
}

impl Ruling {
    /// `origin` lets it pass.
    pub fn allow(origin: Origin) -> Self {
        Self { allows: true, origin: Some(origin) }
    }

    /// `origin` drops it.
    pub fn deny(origin: Origin) -> Self {
        Self { allows: false, origin: Some(origin) }
    }

    /// No rule matches.
    pub fn default(allows: bool) -> Self {
        Self { allows, origin: None }
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allows { "allow by " } else { "deny by " })?;
        match &self.origin {
            Some(origin) => origin.fmt(f),
            None => f.write_str("default"),
        }
    }
}

/// Which rule of which policy decided. Where several NetworkPolicies allow the same, the least in (policy, rule) order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The NetworkPolicy, or the ClusterNetworkPolicy, which has no namespace.
    pub policy: ObjectKey,
    /// Its direction.
    pub direction: Direction,
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub rule: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.rule)
    }
}

/// Where the addresses of a range are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Pods of this node.
    Local,
    /// Pods of another node, reached at its address of the underlay (host-gw: next hop, vxlan: VTEP). `family` of
    /// the underlay address may differ from the range's only in vxlan mode.
    Node {
        /// The node.
        node: NodeName,
        /// Its underlay address.
        via: IpAddr,
        /// Whether clients' packets may go there as they came (`services.mode: dsr`): IPv4, or the node's first IPv6 range
        /// of at most 64 bits, of which the pods' addresses are told by the last 64.
        direct: bool,
    },
    /// A pod range of the cluster that no node owns now: unreachable, and never masqueraded towards.
    Unowned,
    /// A node's own address: never masqueraded towards.
    NodeAddress {
        /// The node.
        node: NodeName,
        /// The node's address of the other family: its VTEP where the tunnel is not of this one.
        other: Option<IpAddr>,
        /// Whether it leads to node ports (`services.nodePortAddresses`).
        node_ports: bool,
    },
    /// Outside the cluster, but sees pod addresses unchanged (`network.nonMasqueradeCIDRs`).
    NoMasquerade,
    /// A range of which Services get their addresses: what no frontend takes goes nowhere.
    Service,
}

/// This node's own part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// How packets reach other nodes.
    pub mode: NetworkMode,
    /// This node's underlay addresses, at most one per family: masquerade sources, VTEPs.
    pub node_addresses: Vec<IpAddr>,
    /// The router address of each family: the first usable address of the first pod range of that family.
    pub router_addresses: Vec<IpAddr>,
    /// This node's pod ranges.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether clients' new flows go to other nodes' pods as they came (`services.mode: dsr`).
    pub direct: bool,
    /// Which of its node and router addresses and of [`LOOPBACK`] do not lead to node ports.
    pub without_node_ports: Vec<IpAddr>,
}

/// Stand for all loopback addresses of their family.
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Something wrong with an object of the user's, handled fail-closed and named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Kind of the object, as `Service`.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectKey,
    /// CamelCase reason, as Kubernetes writes them.
    pub reason: &'static str,
    /// What, why, how to fix.
    pub message: Arc<str>,
}
