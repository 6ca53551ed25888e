//! Services, counters and symbols.

use crate::Addr;

/// Key of hash `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceKey {
    /// Network number.
    pub network: u32,
    /// Frontend address.
    pub addr: Addr,
    /// Frontend port.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// 0 = cluster-wide; room for node-local scopes of later Services.
    pub scope: u8,
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
    /// Zero.
    pub pad: [u8; 3],
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
    /// Client address.
    pub client: Addr,
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
