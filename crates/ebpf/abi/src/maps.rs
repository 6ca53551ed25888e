//! Names and limits of the maps.

/// Version of every layout in this crate. Pins lie in a directory named by it; programs N read layouts N and N − 1.
pub const LAYOUT_VERSION: u32 = 3;

/// Map names, as pinned.
pub mod names {
    /// Array of 1: [`crate::NodeConfig`].
    pub const CONFIG: &str = "CONFIG";
    /// Array of 1: [`crate::Addr`], this node's first IPv6 pod range; its first 64 bits count.
    pub const POD_RANGE: &str = "POD_RANGE";
    /// Array of 1: `u32`, raised when verdicts may have changed; never 0.
    pub const POLICY_EPOCH: &str = "POLICY_EPOCH";
    /// Hash: `u32` ifindex → [`crate::PodEntry`].
    pub const PODS: &str = "PODS";
    /// Hash: [`crate::ClassKey`] → `u32` ifindex.
    pub const LOCAL: &str = "LOCAL";
    /// Hash: [`crate::ClassKey`] → `u32` class.
    pub const CLASSES: &str = "CLASSES";
    /// LPM: [`crate::PrefixKey`] → `u32` class.
    pub const BLOCKS: &str = "BLOCKS";
    /// LPM: [`crate::RuleKey`] → [`crate::RuleValue`].
    pub const RULES: &str = "RULES";
    /// LPM: [`crate::PrefixKey`] → [`crate::RouteEntry`].
    pub const ROUTES: &str = "ROUTES";
    /// Hash: [`crate::ServiceKey`] → [`crate::ServiceEntry`].
    pub const SERVICES: &str = "SERVICES";
    /// Hash: [`crate::ClassKey`] → `u32`, [`crate::ADDRESS_OURS`] or [`crate::ADDRESS_ELSEWHERE`].
    pub const SERVICE_ADDRESSES: &str = "SERVICE_ADDRESSES";
    /// LPM: [`crate::SourceKey`] → `u32`, always 1.
    pub const SOURCES: &str = "SOURCES";
    /// Hash: `u32` slot → `u32` backend and weight ([`crate::SLOT_BACKEND`]).
    pub const SLOTS: &str = "SLOTS";
    /// Hash: `u32` backend → [`crate::BackendEntry`].
    pub const BACKENDS: &str = "BACKENDS";
    /// Array: `u32` backend → `u64` live flows of this node to it.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// LRU hash: [`crate::AffinityKey`] → [`crate::AffinityValue`].
    pub const AFFINITY: &str = "AFFINITY";
    /// LRU hash: [`crate::SocketKey`] → [`crate::SocketValue`].
    pub const SOCKETS: &str = "SOCKETS";
    /// LRU per-CPU hash: `u32` Service → `u32` next slot offset.
    pub const ROUND_ROBIN: &str = "ROUND_ROBIN";
    /// LRU hash: [`crate::CtKey`] → [`crate::CtEntry`], flows seen both ways.
    pub const CT: &str = "CT";
    /// LRU hash: [`crate::CtKey`] → [`crate::CtEntry`], half open.
    pub const CT_NEW: &str = "CT_NEW";
    /// LRU hash: [`crate::ServiceFlowKey`] → [`crate::ServiceFlowValue`].
    pub const SERVICE_FLOWS: &str = "SERVICE_FLOWS";
    /// LRU hash: [`crate::SnatKey`] → [`crate::SnatValue`].
    pub const SNAT: &str = "SNAT";
    /// Array of 1: `u32`, [`crate::WRITES_OLD`] and the like.
    pub const GROWTH: &str = "GROWTH";
    /// LRU hash: [`crate::FragmentKey`] → [`crate::FragmentValue`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Per-CPU hash: [`crate::CounterKey`] → [`crate::CounterValue`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Hash, user space only: [`crate::SymbolKey`] → 16 bytes.
    pub const SYMBOLS: &str = "SYMBOLS";
    /// Program array: stage → program. Pinned per program version.
    pub const STAGES: &str = "STAGES";
}

/// Names of the programs that [`names::STAGES`] calls; the position is the slot.
pub const STAGE_PROGRAMS: [&str; 19] = [
    "stage_service",
    "stage_flow",
    "stage_deliver",
    "stage_icmp_error",
    "stage_refuse",
    "stage_snat",
    "stage_world",
    "stage_fragment",
    "stage_outside",
    "stage_answer",
    "stage_arrive",
    "stage_depart",
    "stage_icmp_flow",
    "stage_learn",
    "stage_unwrap",
    "stage_too_big",
    "stage_send_direct",
    "stage_take_direct",
    "stage_serve_direct",
];

/// Names of the programs at a cgroup, in the order of their attach types (`enum bpf_attach_type`).
pub const SOCKET_PROGRAMS: [(&str, u32); 9] = [
    ("sock_connect4", 10),
    ("sock_connect6", 11),
    ("sock_sendmsg4", 14),
    ("sock_sendmsg6", 15),
    ("sock_recvmsg4", 19),
    ("sock_recvmsg6", 20),
    ("sock_getpeername4", 29),
    ("sock_getpeername6", 30),
    ("sock_release", 34),
];

/// Documented limits: entries each map may hold.
pub mod limits {
    /// Pods on one node.
    pub const PODS: u32 = 4_096;
    /// Exact addresses with a class.
    pub const CLASSES: u32 = 262_144;
    /// CIDR blocks in force.
    pub const BLOCKS: u32 = 65_536;
    /// Rules.
    pub const RULES: u32 = 1_048_576;
    /// Pod ranges and node addresses.
    pub const ROUTES: u32 = 65_536;
    /// Frontends.
    pub const SERVICES: u32 = 262_144;
    /// Addresses of Services inside the cluster.
    pub const SERVICE_ADDRESSES: u32 = 262_144;
    /// Ranges of clients that Services admit.
    pub const SOURCES: u32 = 65_536;
    /// Slots, old and new ranges together.
    pub const SLOTS: u32 = 1_048_576;
    /// Backends, and counts of live flows.
    pub const BACKENDS: u32 = 1_048_576;
    /// Clients remembered for session affinity.
    pub const AFFINITY: u32 = 65_536;
    /// Sockets of processes that use Services.
    pub const SOCKETS: u32 = 65_536;
    /// Round-robin Services.
    pub const ROUND_ROBIN: u32 = 65_536;
    /// Flows seen both ways, before the table grows.
    pub const CT: u32 = 262_144;
    /// Half-open flows.
    pub const CT_NEW: u32 = 32_768;
    /// Service flows, before the table grows.
    pub const SERVICE_FLOWS: u32 = 262_144;
    /// Masqueraded flows, before the table grows.
    pub const SNAT: u32 = 131_072;
    /// Fragmented datagrams under way.
    pub const FRAGMENTS: u32 = 8_192;
    /// (pod, hook, reason) counters.
    pub const COUNTERS: u32 = 65_536;
    /// Symbols.
    pub const SYMBOLS: u32 = 4_194_304;
    /// Ring buffer, bytes.
    pub const EVENTS_BYTES: u32 = 1 << 20;
}
