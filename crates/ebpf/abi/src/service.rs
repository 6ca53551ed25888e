//! Services, counters and symbols.

use crate::Addr;

/// Key of hash `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// Network number.
    pub network: u32,
    /// Frontend address; `::ffff:0.0.0.0` and `::` stand for every address of the node.
    pub addr: Addr,
    /// Frontend port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// `SCOPE_*`.
    pub scope: u8,
}

/// `ServiceKey::scope`: pods and processes of this node; clients elsewhere with [`SERVICE_OUTSIDE`].
pub const SCOPE_INSIDE: u8 = 0;
/// `ServiceKey::scope`: clients elsewhere, where the entry inside has [`SERVICE_APART`].
pub const SCOPE_OUTSIDE: u8 = 1;

/// `ServiceEntry::flags`: clients elsewhere may use it.
pub const SERVICE_OUTSIDE: u8 = 1;
/// `ServiceEntry::flags`: at another node's address it is that node's matter.
pub const SERVICE_THIS_NODE: u8 = 2;
/// `ServiceEntry::flags`: clients elsewhere have the entry of [`SCOPE_OUTSIDE`].
pub const SERVICE_APART: u8 = 4;
/// `ServiceEntry::flags`: without a slot, packets are dropped and not refused.
pub const SERVICE_SILENT: u8 = 8;

/// `ServiceEntry::flags`: new flows only from clients in `SOURCES`.
pub const SERVICE_RANGES: u8 = 16;

/// Key of LPM `SOURCES`: clients that a Service admits. The value says nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// `ServiceEntry::service`, network order; always whole.
    pub service: [u8; 4],
    /// The client's address; a prefix of it.
    pub client: Addr,
}

/// `ServiceEntry::algorithm`.
pub const ALGORITHM_RANDOM: u8 = 0;
/// `ServiceEntry::algorithm`.
pub const ALGORITHM_ROUND_ROBIN: u8 = 1;

/// Value of hash `SERVICES`. Its backends are `SLOTS[first_slot .. first_slot + count]`; a change of backends writes
/// another range and then this one value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Number of the Service port; stable while it exists.
    pub service: u32,
    /// First slot.
    pub first_slot: u32,
    /// Number of slots. 0 = refuse with RST or ICMP.
    pub count: u32,
    /// Session affinity by client address, seconds; 0 = off.
    pub affinity_seconds: u32,
    /// `ALGORITHM_*`.
    pub algorithm: u8,
    /// `SERVICE_*`.
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// `BackendEntry::flags`: serves what it has, is in no slot.
pub const BACKEND_DRAINING: u8 = 1;

/// Value of hash `BACKENDS`, key: `u32` backend number. (Hash `SLOTS`: `u32` slot → `u32` backend number.)
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Network number.
    pub network: u32,
    /// Address.
    pub addr: Addr,
    /// Port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// `BACKEND_*`.
    pub flags: u8,
}

/// Key of LRU hash `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityKey {
    /// Number of the Service port.
    pub service: u32,
    /// Network number of the client.
    pub network: u32,
    /// Client address. For a process's socket, which has none yet when it asks: `ff00::` and the cookie of its network
    /// namespace in the last 8 bytes, native order; nobody sends from a multicast address.
    pub client: Addr,
}

/// `SocketKey::kind`: by backend; the value says what the process asked for.
pub const SOCKET_BACKEND: u8 = 1;
/// `SocketKey::kind`: by Service address; the value says which backend its datagrams go to.
pub const SOCKET_FRONTEND: u8 = 2;

/// Key of LRU hash `SOCKETS`: a process's socket and one end of its way to a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    /// The socket's cookie, unique while the kernel runs.
    pub cookie: u64,
    /// The end's address.
    pub addr: Addr,
    /// The end's port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// `SOCKET_*`.
    pub kind: u8,
    /// Zero.
    pub pad: [u8; 4],
}

/// Value of LRU hash `SOCKETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketValue {
    /// The Service address.
    pub frontend: Addr,
    /// Number of the Service port.
    pub service: u32,
    /// Backend number.
    pub backend: u32,
    /// The Service port.
    pub port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

/// Value of LRU hash `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// When it was last used, ns of CLOCK_MONOTONIC.
    pub last_used: u64,
    /// Backend number.
    pub backend: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of per-CPU hash `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterKey {
    /// Interface index of the pod's veth that the packet came from or was meant for; 0 where there is none.
    pub ifindex: u32,
    /// [`crate::Hook`].
    pub hook: u16,
    /// [`crate::Reason`].
    pub reason: u16,
}

/// Value of per-CPU hash `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CounterValue {
    /// Packets.
    pub packets: u64,
    /// Bytes with the link header.
    pub bytes: u64,
}

/// What a number in `SYMBOLS` numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SymbolKind {
    /// Peer classes.
    Class = 1,
    /// Policy sets.
    PolicySet = 2,
    /// Rule origins.
    Origin = 3,
    /// Service ports.
    Service = 4,
    /// Backends.
    Backend = 5,
}

/// Key of hash `SYMBOLS`: which content a number stands for, as 16 bytes of its SHA-256. Only user space reads it: a
/// restarted agent finds its numbers again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolKey {
    /// [`SymbolKind`].
    pub kind: u32,
    /// The number.
    pub number: u32,
}
