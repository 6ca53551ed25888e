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
/// `ServiceKey::scope`: the name servers that pods with [`POD_ASKS_NAMES`](crate::POD_ASKS_NAMES) are led to, at the
/// address that stands for all of its family.
pub const SCOPE_NAMES: u8 = 2;

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

/// Value of `SERVICE_ADDRESSES`: the frontends in `SERVICES` are all that the address has.
pub const ADDRESS_OURS: u32 = 1;
/// Value of `SERVICE_ADDRESSES`: somebody else serves the address.
pub const ADDRESS_ELSEWHERE: u32 = 2;

/// Key of LPM `SOURCES`: clients that a Service admits. The value says nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// `ServiceEntry::service`, network order; always whole.
    pub service: [u8; 4],
    /// The client's address; a prefix of it.
    pub client: Addr,
}

/// `ServiceEntry::algorithm`: any slot.
pub const ALGORITHM_RANDOM: u8 = 0;
/// `ServiceEntry::algorithm`: one slot after the other, per CPU.
pub const ALGORITHM_ROUND_ROBIN: u8 = 1;
/// `ServiceEntry::algorithm`: the slot whose backend has the fewest flows in `CONNECTIONS`, for its weight.
pub const ALGORITHM_LEAST_CONNECTIONS: u8 = 2;
/// `ServiceEntry::algorithm`: the slot at [`flow_hash`], modulo their number.
pub const ALGORITHM_MAGLEV: u8 = 3;

/// Least connections compares all slots up to this number; of more it draws two.
pub const LEAST_OF: u32 = 32;

/// Value of hash `SLOTS`: the bits that are the backend number.
pub const SLOT_BACKEND: u32 = 0x00ff_ffff;
/// Value of hash `SLOTS`: where the backend's weight for least connections begins, less one.
pub const SLOT_WEIGHT_SHIFT: u32 = 24;

/// Hash of a flow to a Service, for [`ALGORITHM_MAGLEV`]: alike on every node and in every version. `client` is its address as
/// four words in host order. The Service's address does not count: a load balancer may send the flow to another node's.
#[inline(always)]
pub const fn flow_hash(client: [u32; 4], client_port: u16, port: u16, protocol: u8) -> u32 {
    // Multiply and fold, as fxhash and wyhash do; the primes are those of xxHash.
    const PRIME: u64 = 0x9e37_79b1_85eb_ca87;
    let mut hash: u64 = 0xc2b2_ae3d_27d4_eb4f ^ protocol as u64;
    let mut index = 0;
    while index < 4 {
        hash = (hash ^ client[index] as u64).wrapping_mul(PRIME);
        hash ^= hash >> 32;
        index += 1;
    }
    hash = (hash ^ ((client_port as u64) << 16 | port as u64)).wrapping_mul(PRIME);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(PRIME);
    (hash >> 32) as u32
}

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

/// Value of hash `BACKENDS`, key: `u32` backend number. (Hash `SLOTS`: `u32` slot → [`SLOT_BACKEND`] and weight. Array
/// `CONNECTIONS`: backend number → `u64` live flows of this node to it, below 0 in two's complement where some were not counted.)
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

/// `SocketKey::kind`: without an end; the value says for which backend the socket counts in `CONNECTIONS`.
pub const SOCKET_COUNTED: u8 = 3;

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
